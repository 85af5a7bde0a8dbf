// Products by four warps together (a warpgroup) with both operands in shared memory (PTX: wgmma; sm_90a).
//
// Order of instructions, as the manual demands: wgmma_fence() once the sums were touched by ordinary code, any number
// of wgmma(), wgmma_commit(), and wgmma_wait<0>() before the sums are read or the operands' memory is overwritten.
// `hold` keeps the compiler from moving ordinary code on the sums across these.
#pragma once
#include <cstdlib>
#include <cstring>

#include "cuda/runtime/mbarrier.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kWarpgroup = 128;

// ---- where operands lie ---------------------------------------------------------------------------------------------
// Panels of 64 (outer) x 64 (k) elements, 8 KiB each, as load_box writes them: lines of 128 bytes with swizzled chunks.
// along_k: lines are outer positions (the manual's K-major), otherwise positions of k (MN-major).

constexpr int kPanelSide = 64, kPanelBytes = kPanelSide * kPanelSide * 2;

// What the instruction is told about an operand: bits 0-13 the address, 16-29 and 32-45 two distances, 62-63 the
// swizzle, all but the last in units of 16 bytes. Eight lines are 1024 bytes, the second distance: the next eight outer
// positions with along_k, the next eight of k otherwise. The first distance is that of panels of 64 outer positions;
// with along_k it is not used, since eight lines follow eight lines there.
constexpr std::uint64_t operand_descriptor(std::uint32_t shared_address, bool along_k) {
  constexpr std::uint64_t kSwizzle128 = 1;
  const std::uint64_t first = along_k ? 16 : kPanelBytes, second = 1024;
  return (shared_address & 0x3ffff) >> 4 | first >> 4 << 16 | second >> 4 << 32 | kSwizzle128 << 62;
}
// The same operand that many bytes (a multiple of 16) further on. The address stays inside its field, so that only the
// lower half changes and the upper one remains a constant.
constexpr std::uint64_t advance(std::uint64_t descriptor, int bytes) {
  return descriptor >> 32 << 32 | (static_cast<std::uint32_t>(descriptor) + static_cast<std::uint32_t>(bytes >> 4));
}
// The same operand `k` elements (a multiple of 16) further along k, inside one panel.
constexpr std::uint64_t advance_k(std::uint64_t descriptor, int k, bool along_k) {
  return advance(descriptor, along_k ? k * 2 : k * kPanelSide * 2);
}

// ---- where it runs --------------------------------------------------------------------------------------------------

// Why these instructions are not used here, or null.
inline const char* no_wgmma() {
  static const char* const why = []() -> const char* {
#if !defined(PYDLX_CUDA_EMULATED) && !defined(PYDLX_CUDA_SM90A)
    return "the library has no code for sm_90a";
#endif
    const char* v = std::getenv("PYDLX_CUDA_WGMMA");
    return v && std::strcmp(v, "0") == 0 ? "PYDLX_CUDA_WGMMA is 0" : nullptr;
  }();
  if (why) return why;
  return compute_capability() / 10 == 9 ? nullptr : "the GPU's compute capability is not 9.x";
}

// ---- order ----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void wgmma_fence() {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::wgmma_fence();
#else
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wgmma_commit() {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::wgmma_commit();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// All but the newest `pending` groups are finished.
template <int pending>
__device__ __forceinline__ void wgmma_wait() {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::wgmma_wait(pending);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}
template <int count>
__device__ __forceinline__ void hold([[maybe_unused]] float (&d)[count]) {
#if !defined(PYDLX_CUDA_EMULATED)
#pragma unroll
  for (int i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// Registers of every thread of the calling warpgroup from here on: fewer for one, so that another gets more.
template <int count>
__device__ __forceinline__ void fewer_registers() {
  static_assert(count >= 24 && count <= 256 && count % 8 == 0);
#if !defined(PYDLX_CUDA_EMULATED)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
#endif
}
template <int count>
__device__ __forceinline__ void more_registers() {
  static_assert(count >= 24 && count <= 256 && count % 8 == 0);
#if !defined(PYDLX_CUDA_EMULATED)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
#endif
}

// ---- product --------------------------------------------------------------------------------------------------------

#if defined(PYDLX_CUDA_EMULATED)
template <class T>
float value_of(std::uint16_t bits) {
  T v;
  v.bits = bits;
  return static_cast<float>(v);
}
#endif

// Place of d[i] in the result of 64 rows: rows 16 w .. 16 w + 15 belong to warp w of the group.
__device__ __forceinline__ int sum_row(int i) {
  const int t = static_cast<int>(threadIdx.x) % kWarpgroup;
  return t / kWarp * 16 + t % kWarp / 4 + i / 2 % 2 * 8;
}
__device__ __forceinline__ int sum_column(int i) { return i / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2; }

// clang-format off: it changes these lines at every run
// The instruction names every register: what the text and the operands of its variants have in common.
#define PYDLX_PLACES_32                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PYDLX_PLACES_64                                                                  \
  PYDLX_PLACES_32                                                                        \
      ", "                                                                               \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PYDLX_PLACES_128                                                                             \
  PYDLX_PLACES_64                                                                                    \
      ", "                                                                                           \
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define PYDLX_SUMS_8(i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define PYDLX_SUMS_32_FROM(i) PYDLX_SUMS_8(i), PYDLX_SUMS_8(i + 8), PYDLX_SUMS_8(i + 16), PYDLX_SUMS_8(i + 24)
#define PYDLX_SUMS_32 PYDLX_SUMS_32_FROM(0)
#define PYDLX_SUMS_64 PYDLX_SUMS_32, PYDLX_SUMS_32_FROM(32)
#define PYDLX_SUMS_128 PYDLX_SUMS_64, PYDLX_SUMS_32_FROM(64), PYDLX_SUMS_32_FROM(96)
#define PYDLX_WGMMA(width, type, sums, add_place, operands, transposed, ...)                                 \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " add_place                                             \
               ", 0;\n"                                                                                      \
               "wgmma.mma_async.sync.aligned.m64" #width "k16.f32." #type "." #type " {" PYDLX_PLACES_##sums \
               "}, " operands ", add, 1, 1, " transposed ";\n}"                                              \
               : PYDLX_SUMS_##sums                                                                           \
               : __VA_ARGS__)
// clang-format on

// d = a b, or d += a b with `add`: a 64 x 16, b 16 x 2 count of 16-bit floats T. transposed: the operand's lines are
// positions of k.
template <class T, bool a_transposed, bool b_transposed, int count>
__device__ __forceinline__ void wgmma(float (&d)[count], std::uint64_t a, std::uint64_t b, bool add) {
  static_assert(count == 32 || count == 64 || count == 128);
#if defined(PYDLX_CUDA_EMULATED)
  emulator::wgmma(d, {2 * count, a, b, a_transposed, b_transposed, add, value_of<T>});
#else
#define PYDLX_OPERANDS "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(a_transposed), "n"(b_transposed)
  if constexpr (count == 32 && std::is_same_v<T, Half>)
    PYDLX_WGMMA(n64, f16, 32, "%34", "%32, %33", "%35, %36", PYDLX_OPERANDS);
  else if constexpr (count == 32)
    PYDLX_WGMMA(n64, bf16, 32, "%34", "%32, %33", "%35, %36", PYDLX_OPERANDS);
  else if constexpr (count == 64 && std::is_same_v<T, Half>)
    PYDLX_WGMMA(n128, f16, 64, "%66", "%64, %65", "%67, %68", PYDLX_OPERANDS);
  else if constexpr (count == 64)
    PYDLX_WGMMA(n128, bf16, 64, "%66", "%64, %65", "%67, %68", PYDLX_OPERANDS);
  else if constexpr (std::is_same_v<T, Half>)
    PYDLX_WGMMA(n256, f16, 128, "%130", "%128, %129", "%131, %132", PYDLX_OPERANDS);
  else
    PYDLX_WGMMA(n256, bf16, 128, "%130", "%128, %129", "%131, %132", PYDLX_OPERANDS);
#undef PYDLX_OPERANDS
#endif
}

// d += a b with a in registers, which stay as they are until the product is waited for: a thread has of its two rows
// (sum_row) columns sum_column(0) and the next one in a[0] and a[1], those eight further in a[2] and a[3].
template <class T, bool b_transposed, int count>
__device__ __forceinline__ void add_wgmma(float (&d)[count], const std::uint32_t (&a)[4], std::uint64_t b) {
  static_assert(count == 32 || count == 64 || count == 128);
#if defined(PYDLX_CUDA_EMULATED)
  emulator::wgmma(d, {2 * count, 0, b, false, b_transposed, true, value_of<T>, a});
#else
#define PYDLX_OPERANDS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1), "n"(b_transposed)
  if constexpr (count == 32 && std::is_same_v<T, Half>)
    PYDLX_WGMMA(n64, f16, 32, "%37", "{%32, %33, %34, %35}, %36", "%38", PYDLX_OPERANDS);
  else if constexpr (count == 32)
    PYDLX_WGMMA(n64, bf16, 32, "%37", "{%32, %33, %34, %35}, %36", "%38", PYDLX_OPERANDS);
  else if constexpr (count == 64 && std::is_same_v<T, Half>)
    PYDLX_WGMMA(n128, f16, 64, "%69", "{%64, %65, %66, %67}, %68", "%70", PYDLX_OPERANDS);
  else if constexpr (count == 64)
    PYDLX_WGMMA(n128, bf16, 64, "%69", "{%64, %65, %66, %67}, %68", "%70", PYDLX_OPERANDS);
  else if constexpr (std::is_same_v<T, Half>)
    PYDLX_WGMMA(n256, f16, 128, "%133", "{%128, %129, %130, %131}, %132", "%134", PYDLX_OPERANDS);
  else
    PYDLX_WGMMA(n256, bf16, 128, "%133", "{%128, %129, %130, %131}, %132", "%134", PYDLX_OPERANDS);
#undef PYDLX_OPERANDS
#endif
}
#undef PYDLX_WGMMA
#undef PYDLX_SUMS_128
#undef PYDLX_SUMS_64
#undef PYDLX_SUMS_32
#undef PYDLX_SUMS_32_FROM
#undef PYDLX_SUMS_8
#undef PYDLX_PLACES_128
#undef PYDLX_PLACES_64
#undef PYDLX_PLACES_32

// d += a b over the 64 positions of k of a panel, started.
template <class T, bool a_along_k, bool b_along_k, int count>
__device__ __forceinline__ void start_panels(float (&d)[count], std::uint64_t a, std::uint64_t b) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kPanelSide; k += 16)
    wgmma<T, !a_along_k, !b_along_k>(d, advance_k(a, k, a_along_k), advance_k(b, k, b_along_k), true);
  wgmma_commit();
}

}  // namespace
}  // namespace pydlx::cuda
