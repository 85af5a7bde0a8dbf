// Instructions of the tensor cores and of asynchronous copies (sm_80 and newer), by the names of the PTX manual. Under
// the emulator each does what the manual says, lane by lane.
#pragma once
#include <cstdint>

#include "core/half.h"
#include "cuda/runtime/launch.h"
#if defined(PYDLX_CUDA_EMULATED)
#include "cuda/emulator/hopper.h"
#endif

namespace pydlx::cuda {
namespace {

constexpr int kChunk = 8;  // 16-bit elements of 16 bytes
template <class T>
inline constexpr int kChunkOf = 16 / static_cast<int>(sizeof(T));

// A panel in shared memory in chunks of 16 bytes, `width` chunks per line. Exclusive or with the line number lets eight
// neighbouring lines of one chunk column, which ldmatrix reads together, fall into different banks.
template <int width>
__device__ __forceinline__ int chunk_at(int line, int chunk) {
  if constexpr (width < 8)
    return line * width + (chunk ^ (line / (8 / width) & (width - 1)));
  else
    return line * width + (chunk ^ (line & 7));
}

// ---- cp.async -------------------------------------------------------------------------------------------------------

// 16 bytes from global to shared memory, or zeros.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::copy_async(shared, valid ? global : nullptr, 16);
#else
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#endif
}
// The same with one word, for lines that do not begin at multiples of 16 bytes.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool valid) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::copy_async(shared, valid ? global : nullptr, 4);
#else
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::copies_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// All but the newest `pending` groups have arrived.
template <int pending>
__device__ __forceinline__ void cp_async_wait() {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::copies_wait(pending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// ---- ldmatrix -------------------------------------------------------------------------------------------------------

// Four 8 x 8 matrices of 16-bit elements; lanes 8 m .. 8 m + 7 name the rows of matrix m. Register m holds of matrix m
// elements (lane / 4, 2 (lane % 4)) and the next one; of its transpose with `transposed`.
template <bool transposed>
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::exchange(kFullMask, &row, sizeof row);
  const unsigned lane = emulator::current->lane;
  for (unsigned m = 0; m < 4; ++m) {
    const auto element = [m](unsigned i, unsigned j) {
      const std::uint16_t* p;
      std::memcpy(&p, emulator::slot(8 * m + i), sizeof p);
      return std::uint32_t{p[j]};
    };
    const unsigned i = lane / 4, j = lane % 4 * 2;
    r[m] = transposed ? element(j, i) | element(j + 1, i) << 16 : element(i, j) | element(i, j + 1) << 16;
  }
#else
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#endif
}

// ---- mma ------------------------------------------------------------------------------------------------------------

// d += a b with a 16 x 16, b 16 x 8 of 16-bit floats and d 16 x 8 of float. With g = lane / 4 and t = 2 (lane % 4): a
// holds (g, t), (g + 8, t), (g, t + 8), (g + 8, t + 8), each with its right neighbour; b holds (t, g) and (t + 8, g),
// each with its lower neighbour; d holds (g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1).
template <class T>
__device__ __forceinline__ void mma_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if defined(PYDLX_CUDA_EMULATED)
  const auto value = [](std::uint32_t word, unsigned half) {
    T v;
    v.bits = static_cast<std::uint16_t>(word >> (16 * half));
    return static_cast<float>(v);
  };
  const unsigned lane = emulator::current->lane, g = lane / 4, t = lane % 4 * 2;
  float x[2][16], y[2][16];
  emulator::exchange(kFullMask, a, sizeof a);
  for (unsigned i = 0; i < 2; ++i)
    for (unsigned k = 0; k < 16; ++k) {
      std::uint32_t w[4];
      std::memcpy(w, emulator::slot(g * 4 + k % 8 / 2), sizeof w);
      x[i][k] = value(w[i + (k >= 8 ? 2 : 0)], k % 2);
    }
  emulator::exchange(kFullMask, b, sizeof b);
  for (unsigned j = 0; j < 2; ++j)
    for (unsigned k = 0; k < 16; ++k) {
      std::uint32_t w[2];
      std::memcpy(w, emulator::slot((t + j) * 4 + k % 8 / 2), sizeof w);
      y[j][k] = value(w[k >= 8], k % 2);
    }
  for (unsigned i = 0; i < 2; ++i)
    for (unsigned j = 0; j < 2; ++j)
      for (unsigned k = 0; k < 16; ++k) d[2 * i + j] += x[i][k] * y[j][k];
#else
  if constexpr (std::is_same_v<T, Half>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// ---- mma of float32 operands rounded to eleven significant bits (TF32) ----------------------------------------------

// What the units take of an operand: its leading eleven significant bits.
__device__ __forceinline__ float leading_bits(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

// d = c + a b with a 16 x 8, b 8 x 8, c and d 16 x 8; leading_bits() of a and b count. With
// g = lane / 4 and t = lane % 4: a holds (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); b holds (t, g) and (t + 4, g);
// c and d are as above.
__device__ __forceinline__ void mma_1688(float (&d)[4], const float (&a)[4], const float (&b)[2], const float (&c)[4]) {
#if defined(PYDLX_CUDA_EMULATED)
  const unsigned lane = emulator::current->lane, g = lane / 4, t = lane % 4 * 2;
  float x[2][8], y[2][8];
  emulator::exchange(kFullMask, a, sizeof a);
  for (unsigned i = 0; i < 2; ++i)
    for (unsigned k = 0; k < 8; ++k) {
      float w[4];
      std::memcpy(w, emulator::slot(g * 4 + k % 4), sizeof w);
      x[i][k] = leading_bits(w[i + (k >= 4 ? 2 : 0)]);
    }
  emulator::exchange(kFullMask, b, sizeof b);
  for (unsigned j = 0; j < 2; ++j)
    for (unsigned k = 0; k < 8; ++k) {
      float w[2];
      std::memcpy(w, emulator::slot((t + j) * 4 + k % 4), sizeof w);
      y[j][k] = leading_bits(w[k >= 4]);
    }
  // Products are exact, and the units cut what does not fit a float instead of rounding it.
  for (unsigned i = 0; i < 2; ++i)
    for (unsigned j = 0; j < 2; ++j) {
      double sum = static_cast<double>(c[2 * i + j]);
      for (unsigned k = 0; k < 8; ++k) sum += static_cast<double>(x[i][k]) * static_cast<double>(y[j][k]);
      auto cut = static_cast<float>(sum);
      if (std::isfinite(sum) && std::fabs(static_cast<double>(cut)) > std::fabs(sum)) cut = std::nextafter(cut, 0.0f);
      d[2 * i + j] = cut;
    }
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, "
      "%12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
}

}  // namespace
}  // namespace pydlx::cuda
