// Draws that walk: permutations, weighted sampling, Poisson counts.
#include "cpu/first_bad.h"
#include "cpu/random/stream.h"
#include "functors/random.h"
#include "kernels/random.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

// The i-th 64-bit number of the stream.
inline __attribute__((always_inline)) std::uint64_t word64(std::uint64_t seed, std::uint64_t offset, std::int64_t i) {
  const PhiloxWords p = philox(seed, offset + static_cast<std::uint64_t>(i) / 2);
  const int j = static_cast<int>(i & 1) * 2;
  return std::uint64_t{p.w[j]} << 32 | p.w[j + 1];
}

// Fisher and Yates.
void permutation(const RandomFill& k) {
  std::int64_t* out = static_cast<std::int64_t*>(k.out);
  for (std::int64_t i = 0; i < k.n; ++i) out[i] = i;
  std::uint64_t r[kWords / 2];
  for (std::int64_t i = 0; i + 1 < k.n; ++i) {
    const int at = static_cast<int>(i % (kWords / 2));
    if (at == 0) random_bits(k.seed, k.offset + static_cast<std::uint64_t>(i) / 2, r);
    const std::int64_t j = i + static_cast<std::int64_t>(mul_high(r[at], static_cast<std::uint64_t>(k.n - i)));
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
        for (std::int64_t j = 0; j < k.cols; ++j) s[j] = total += p[j];
        for (std::int64_t i = 0; i < k.samples; ++i) {
          const double u = unit(word64(k.seed, k.offset, row * k.samples + i), 53) * total;
          std::int64_t lo = 0, hi = last;  // first j with s[j] > u; zero weights are never chosen
          while (lo < hi) {
            const std::int64_t mid = lo + (hi - lo) / 2;
            if (s[mid] > u)
              hi = mid;
            else
              lo = mid + 1;
          }
          out[i] = lo;
        }
      } else {
        // Exponential races: the order of E_j / p_j is the order of drawing without replacement (Efraimidis and
        // Spirakis 2006).
        std::int64_t* order = k.order + row * k.cols;
        std::int64_t n = 0;
        for (std::int64_t j = 0; j < k.cols; ++j) {
          s[j] = -log_positive(open_unit(word64(k.seed, k.offset, row * k.cols + j))) / p[j];
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

// A private stream of uniforms in (0, 1) for one element.
struct ElementStream {
  std::uint64_t seed, block, sub = 0;
  inline __attribute__((always_inline)) double next() {
    const PhiloxWords p = philox(seed, block, sub / 2);
    const int j = static_cast<int>(sub++ & 1) * 2;
    return open_unit(std::uint64_t{p.w[j]} << 32 | p.w[j + 1]);
  }
};

// Small rates: multiply uniforms (Knuth). Larger: transformed rejection with squeeze (Hoermann 1993, PTRS).
double poisson_one(double rate, ElementStream s) {
  if (rate == 0) return 0;
  if (rate < 10) {
    const double limit = math::exp(-rate);
    double product = s.next(), count = 0;
    while (product > limit) {
      product *= s.next();
      ++count;
    }
    return count;
  }
  const double root = math::sqrt(rate), log_rate = log_positive(rate);
  const double b = 0.931 + 2.53 * root, a = -0.059 + 0.02483 * b;
  const double inv_alpha = 1.1239 + 1.1328 / (b - 3.4), v_r = 0.9277 - 3.6224 / (b - 2);
  for (;;) {
    const double u = s.next() - 0.5, v = s.next();
    const double us = 0.5 - math::abs(u);
    const double count = __builtin_floor((2 * a / us + b) * u + rate + 0.43);
    if (us >= 0.07 && v <= v_r) return count;
    if (count < 0 || (us < 0.013 && v > us)) continue;
    if (log_positive(v) + log_positive(inv_alpha) - log_positive(a / (us * us) + b) <=
        -rate + count * log_rate - __builtin_lgamma(count + 1))
      return count;
  }
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
        out[i] = static_cast<T>(poisson_one(r, {k.seed, k.offset + static_cast<std::uint64_t>(i)}));
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
