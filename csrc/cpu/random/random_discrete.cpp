// Draws that walk: permutations, weighted sampling, Poisson counts.
#include "cpu/first_bad.h"
#include "cpu/random/stream.h"
#include "functors/distributions.h"
#include "kernels/random.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

// Fisher and Yates.
void permutation(const RandomFill& k) {
  std::int64_t* out = static_cast<std::int64_t*>(k.out);
  for (std::int64_t i = 0; i < k.n; ++i) out[i] = i;
  std::uint64_t r[kWords / 2];
  for (std::int64_t i = 0; i + 1 < k.n; ++i) {
    const int at = static_cast<int>(i % (kWords / 2));
    if (at == 0) random_bits(k.seed, k.offset + static_cast<std::uint64_t>(i) / 2, r);
    const std::int64_t j = shuffle_partner(r[at], i, k.n);
    const std::int64_t v = out[i];
    out[i] = out[j];
    out[j] = v;
  }
}

// Moves order[root] down until no child has a smaller key.
inline __attribute__((always_inline)) void sift_down(std::int64_t* order, const double* key, std::int64_t root,
                                                     std::int64_t n) {
  const std::int64_t moved = order[root];
  for (std::int64_t child = 2 * root + 1; child < n; child = 2 * root + 1) {
    if (child + 1 < n && key[order[child + 1]] < key[order[child]]) ++child;
    if (!(key[order[child]] < key[moved])) break;
    order[root] = order[child];
    root = child;
  }
  order[root] = moved;
}

std::int64_t multinomial(const Multinomial& k) {
  FirstBad bad, short_row;
  const std::int64_t cost = k.cols + k.samples;
  parallel_for(k.rows, cost >= 4096 ? 1 : 4096 / cost + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const double* p = k.weights + row * k.cols;
      double* s = k.scratch + row * k.cols;
      std::int64_t* out = k.out + row * k.samples;
      std::int64_t positive = 0, last = 0;
      bool ok = true;
      for (std::int64_t j = 0; j < k.cols && ok; ++j) {
        ok = p[j] >= 0 && p[j] <= 0x1.fffffffffffffp1023;
        if (!ok) bad.note(row * k.cols + j);
        if (p[j] > 0) ++positive, last = j;
      }
      if (!ok) continue;
      if (positive < (k.replacement ? 1 : k.samples)) {
        short_row.note(row);
        continue;
      }
      if (k.replacement) {  // inverse of the cumulative sum
        double total = 0;
        for (std::int64_t j = 0; j < k.cols;) {
          const std::int64_t end = k.cols - j < kWeightChunk ? k.cols : j + kWeightChunk;
          double sum = 0;
          for (; j < end; ++j) s[j] = total + (sum += p[j]);
          total += sum;
        }
        for (std::int64_t i = 0; i < k.samples; ++i)
          out[i] = draw_weighted(word64(k.seed, k.offset, row * k.samples + i), s, total, last);
      } else {
        std::int64_t* order = k.order + row * k.cols;
        std::int64_t n = 0;
        for (std::int64_t j = 0; j < k.cols; ++j) {
          s[j] = race_time(word64(k.seed, k.offset, row * k.cols + j), p[j]);
          if (p[j] > 0) order[n++] = j;
        }
        for (std::int64_t i = n / 2 - 1; i >= 0; --i) sift_down(order, s, i, n);
        for (std::int64_t i = 0; i < k.samples; ++i) {
          out[i] = order[0];
          order[0] = order[--n];
          if (n > 0) sift_down(order, s, 0, n);
        }
      }
    }
  });
  if (bad.position >= 0) return bad.position;
  return short_row.position >= 0 ? -2 - short_row.position : -1;
}

template <class T>
std::int64_t poisson(const RandomFill& k) {
  const T* rate = static_cast<const T*>(k.input);
  T* out = static_cast<T*>(k.out);
  FirstBad bad;
  parallel_for(k.n, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const double r = static_cast<double>(rate[i]);
      if (!(r >= 0 && r <= 0x1p53)) {
        bad.note(i);
        out[i] = 0;
      } else {
        out[i] = static_cast<T>(draw_poisson(r, {k.seed, k.offset + static_cast<std::uint64_t>(i)}));
      }
    }
  });
  return bad.position;
}

}  // namespace

void register_random_discrete(KernelTable& t) {
  family<RandomKernels>(t).permutation = permutation;
  family<RandomKernels>(t).multinomial = multinomial;
  family<RandomKernels>(t).poisson[static_cast<int>(DType::Float32)] = poisson<float>;
  family<RandomKernels>(t).poisson[static_cast<int>(DType::Float64)] = poisson<double>;
}

}  // namespace pydlx::PYDLX_ISA
