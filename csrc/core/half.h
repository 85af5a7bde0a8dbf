// Storage-only 16-bit floats. Arithmetic happens in float; the conversions are branch-free so that compilers vectorise
// them. Everything here is forced inline: these helpers are also used by the per-instruction-set objects, which may
// export nothing. GPUs convert in one instruction.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define PYDLX_HD __host__ __device__ __forceinline__
#else
#define PYDLX_HD inline __attribute__((always_inline))
#endif

namespace pydlx {

template <class To, class From>
PYDLX_HD To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// IEEE binary16 -> binary32: shift the exponent into place, rescale, and treat inf/NaN and subnormals by selection.
PYDLX_HD float half_bits_to_float(std::uint16_t h) {
#if defined(__CUDA_ARCH__)
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
#else
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t body = static_cast<std::uint32_t>(h & 0x7fffu) << 13;
  const float scaled = bit_cast<float>(body) * 0x1p112f;
  const std::uint32_t finite = bit_cast<std::uint32_t>(scaled);
  const std::uint32_t special = body | 0x7f800000u;
  // Subnormal halves: body * 2^-24 computed exactly in float, which also works with denormals flushed.
  const float sub = static_cast<float>(static_cast<std::int32_t>(h & 0x03ffu)) * 0x1p-24f;
  const std::uint32_t e = h & 0x7c00u;
  const std::uint32_t bits = e == 0x7c00u ? special : (e == 0 ? bit_cast<std::uint32_t>(sub) : finite);
  return bit_cast<float>(bits | sign);
#endif
}

// binary32 -> binary16, round to nearest even; overflow gives inf, NaN stays NaN.
PYDLX_HD std::uint16_t float_to_half_bits(float f) {
#if defined(__CUDA_ARCH__)
  std::uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
#else
  const std::uint32_t w = bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (w >> 16) & 0x8000u;
  const std::uint32_t a = w & 0x7fffffffu;
  // Normal range: rebias and round on the 13 dropped bits.
  const std::uint32_t normal = (a - 0x38000000u + 0x0fffu + ((a >> 13) & 1u)) >> 13;
  // Subnormal range: adding 0.5 aligns the mantissa so that the hardware rounds for us.
  const std::uint32_t sub = bit_cast<std::uint32_t>(bit_cast<float>(a) + 0.5f) - 0x3f000000u;
  std::uint32_t r = a < 0x38800000u ? sub : normal;
  r = a >= 0x477ff000u ? 0x7c00u : r;
  r = a > 0x7f800000u ? 0x7e00u : r;
  return static_cast<std::uint16_t>(r | sign);
#endif
}

PYDLX_HD float bfloat16_bits_to_float(std::uint16_t h) { return bit_cast<float>(static_cast<std::uint32_t>(h) << 16); }

PYDLX_HD std::uint16_t float_to_bfloat16_bits(float f) {
#if defined(__CUDA_ARCH__)
  std::uint16_t h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
#else
  const std::uint32_t w = bit_cast<std::uint32_t>(f);
  const std::uint32_t rounded = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((w & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
#endif
}

struct Half {
  std::uint16_t bits;
  Half() = default;
  PYDLX_HD Half(float f) : bits(float_to_half_bits(f)) {}
  PYDLX_HD operator float() const { return half_bits_to_float(bits); }
};

struct BFloat16 {
  std::uint16_t bits;
  BFloat16() = default;
  PYDLX_HD BFloat16(float f) : bits(float_to_bfloat16_bits(f)) {}
  PYDLX_HD operator float() const { return bfloat16_bits_to_float(bits); }
};

}  // namespace pydlx
