// Blocks of short rows turned into columns: to[i * count + l] = x[l * step + i * stride] for l < count, i < n.
#pragma once
#include "cpu/isa.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <class U>
void transpose_block(U* to, const U* x, std::int64_t count, std::int64_t step, std::int64_t n, std::int64_t stride,
                     std::int64_t first = 0) {
  for (std::int64_t l = first; l < count; ++l)
    for (std::int64_t i = 0; i < n; ++i) to[i * count + l] = x[l * step + i * stride];
}

// Words in squares of four by four: a load or a store per four elements instead of one each. The first `readable`
// elements from x on may be read, whether they belong to a row or lie between two.
[[maybe_unused]] void transpose_words(std::uint32_t* to, const std::uint32_t* x, std::int64_t count, std::int64_t step,
                                      std::int64_t n, std::int64_t stride, std::int64_t readable) {
  typedef std::uint32_t Four __attribute__((vector_size(16)));
  const std::int64_t wide = (n + 3) / 4 * 4;
  std::int64_t l = 0;
  if (stride == 1 && step >= 0)
    for (; l + 4 <= count && (l + 3) * step + wide <= readable; l += 4) {
      const std::uint32_t* row = x + l * step;
      for (std::int64_t i = 0; i < n; i += 4) {
        Four a, b, c, d;
        std::memcpy(&a, row + i, sizeof a);
        std::memcpy(&b, row + i + step, sizeof b);
        std::memcpy(&c, row + i + 2 * step, sizeof c);
        std::memcpy(&d, row + i + 3 * step, sizeof d);
        const Four ac = __builtin_shufflevector(a, c, 0, 4, 1, 5), bd = __builtin_shufflevector(b, d, 0, 4, 1, 5),
                   ca = __builtin_shufflevector(a, c, 2, 6, 3, 7), db = __builtin_shufflevector(b, d, 2, 6, 3, 7);
        const Four out[4] = {__builtin_shufflevector(ac, bd, 0, 4, 1, 5), __builtin_shufflevector(ac, bd, 2, 6, 3, 7),
                             __builtin_shufflevector(ca, db, 0, 4, 1, 5), __builtin_shufflevector(ca, db, 2, 6, 3, 7)};
        std::uint32_t* column = to + i * count + l;
        if (i + 4 <= n) {
          for (int k = 0; k < 4; ++k) std::memcpy(column + k * count, &out[k], sizeof(Four));
        } else {
          for (std::int64_t k = 0; k < n - i; ++k) std::memcpy(column + k * count, &out[k], sizeof(Four));
        }
      }
    }
  transpose_block(to, x, count, step, n, stride, l);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
