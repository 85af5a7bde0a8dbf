// Scans. Each line is walked in order; lines along the last axis run four side by side, others 64 neighbouring columns
// at a time. Integer sums are the same in any order, so their long lines are cut into pieces.
#include "kernels/scan.h"

#include <cstring>

#include "cpu/flags.h"
#include "cpu/vector_rows.h"
#include "functors/scan.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

constexpr std::int64_t kColumns = 64;
// A step waits for the one before it, about four cycles; four lines fill them. More would have so many streams open
// that rows a power of two apart evict each other from the first-level cache.
constexpr int kLines = 4;

// `lines` lines of n elements, `row` from one to the next; `first` is the place of the first element in the whole line.
// The states are locals while this runs, which stay in registers.
template <class O, int lines, bool exclusive, class T>
void scan_lines(typename O::State* state, const T* in, T* out, std::int64_t* index, std::int64_t n, std::int64_t row,
                std::int64_t first, bool reverse) {
  typename O::State s[lines];
  for (int l = 0; l < lines; ++l) s[l] = state[l];
  for (std::int64_t step = 0; step < n; ++step) {
    const std::int64_t i = reverse ? n - 1 - step : step;
#pragma GCC unroll 4
    for (int l = 0; l < lines; ++l) {
      const std::int64_t at = l * row + i;
      const T x = in[at];  // in and out may be the same array
      if (exclusive) out[at] = O::value(s[l]);
      O::step(s[l], x, first + i);
      if (!exclusive) out[at] = O::value(s[l]);
      if constexpr (O::indexed) index[l * n + i] = s[l].at;
    }
  }
  for (int l = 0; l < lines; ++l) state[l] = s[l];
}

// Neighbouring lines from the first to the last element. Those of 16-bit floats are converted by the block, with
// vectors.
template <class O, int lines, bool exclusive, class T>
void scan_whole_lines(const T* in, T* out, std::int64_t* index, std::int64_t n, bool reverse) {
  typename O::State s[lines];
  for (int l = 0; l < lines; ++l) s[l] = O::init();
  if constexpr (!O::indexed && sizeof(T) == 2) {
    constexpr std::int64_t kBlock = 256;
    alignas(64) float block[lines * kBlock];
    for (std::int64_t done = 0, m; done < n; done += m) {
      m = n - done < kBlock ? n - done : kBlock;
      const std::int64_t first = reverse ? n - done - m : done;
      for (int l = 0; l < lines; ++l) vmath::convert_row(in + l * n + first, block + l * kBlock, m);
      scan_lines<O, lines, exclusive>(s, block, block, nullptr, m, kBlock, first, reverse);
      for (int l = 0; l < lines; ++l) vmath::convert_row(block + l * kBlock, out + l * n + first, m);
    }
  } else {
    scan_lines<O, lines, exclusive>(s, in, out, index, n, n, 0, reverse);
  }
}

template <class O, bool exclusive, class T>
void scan_rows(const Scan& k) {
  const std::int64_t groups = (k.outer + kLines - 1) / kLines, work = k.n * kLines;
  parallel_for(groups, work >= 16384 ? 1 : 16384 / (work + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t g = begin; g < end; ++g) {
      const std::int64_t first = g * kLines, at = first * k.n;
      const T* in = static_cast<const T*>(k.in) + at;
      T* out = static_cast<T*>(k.out) + at;
      std::int64_t* index = O::indexed ? k.index + at : nullptr;
      if (k.outer - first >= kLines)
        scan_whole_lines<O, kLines, exclusive>(in, out, index, k.n, k.reverse);
      else
        for (std::int64_t l = 0; l < k.outer - first; ++l)
          scan_whole_lines<O, 1, exclusive>(in + l * k.n, out + l * k.n, O::indexed ? index + l * k.n : nullptr, k.n,
                                            k.reverse);
    }
  });
}

template <class O, class T>
void scan(const Scan& k) {
  if (k.inner == 1) return k.exclusive ? scan_rows<O, true, T>(k) : scan_rows<O, false, T>(k);
  using State = typename O::State;
  const T* in = static_cast<const T*>(k.in);
  T* out = static_cast<T*>(k.out);
  const std::int64_t blocks = (k.inner + kColumns - 1) / kColumns, width = k.inner < kColumns ? k.inner : kColumns;
  const std::int64_t work = k.n * width;
  parallel_for(k.outer * blocks, work >= 16384 ? 1 : 16384 / (work + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t c = b % blocks * kColumns, base = b / blocks * k.n * k.inner + c;
      const int w = static_cast<int>(k.inner - c < kColumns ? k.inner - c : kColumns);
      State s[kColumns];
      for (int l = 0; l < w; ++l) s[l] = O::init();
      for (std::int64_t step = 0; step < k.n; ++step) {
        const std::int64_t i = k.reverse ? k.n - 1 - step : step, at = base + i * k.inner;
        if (k.exclusive) {
          for (int l = 0; l < w; ++l) {
            const T x = in[at + l];
            out[at + l] = O::value(s[l]);
            O::step(s[l], x, i);
          }
        } else {
          for (int l = 0; l < w; ++l) {
            O::step(s[l], in[at + l], i);
            out[at + l] = O::value(s[l]);
          }
        }
        if constexpr (O::indexed)
          for (int l = 0; l < w; ++l) k.index[at + l] = s[l].at;
      }
    }
  });
}

// ---- sums of integers along the last axis
// ------------------------------------------------------------------------------------------------------------------

using IntegerSum = CumSum<std::int64_t>;
using Total = IntegerSum::State;
typedef Total Totals __attribute__((vector_size(8 * sizeof(Total))));

constexpr std::int64_t kPieces = 64, kShortestPiece = 4096;
constexpr std::int64_t kManyLines = 8;  // threads share lines instead of pieces

// Running sums of n elements, the elements in front of them adding up to `before`.
void running_sums(const std::int64_t* in, std::int64_t* out, std::int64_t n, Total before) {
  scan_lines<IntegerSum, 1, false>(&before, in, out, nullptr, n, n, 0, false);
}
void running_sums(const std::uint8_t* in, std::int64_t* out, std::int64_t n, Total before) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const std::uint64_t sums = flags::eight(in + i) * 0x0101010101010101;  // byte l: the sum of bytes 0 to l
    const Totals at = before + ((Totals{} + sums) >> Totals{0, 8, 16, 24, 32, 40, 48, 56} & 255);
    std::memcpy(out + i, &at, sizeof at);
    before += sums >> 56;
  }
  for (; i < n; ++i) out[i] = static_cast<std::int64_t>(before += in[i] != 0);
}

Total sum_of(const std::int64_t* in, std::int64_t n) {
  Total sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<Total>(in[i]);
  return sum;
}
Total sum_of(const std::uint8_t* in, std::int64_t n) { return static_cast<Total>(flags::count(in, n)); }

template <class In>
void scan_pieces(const In* in, std::int64_t* out, std::int64_t n) {
  std::int64_t length = (n + kPieces - 1) / kPieces;
  if (length < kShortestPiece) length = kShortestPiece;
  const std::int64_t pieces = (n + length - 1) / length;
  const auto size = [&](std::int64_t p) { return p + 1 < pieces ? length : n - p * length; };
  Total before[kPieces + 1] = {};
  parallel_for(pieces - 1, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) before[p + 1] = sum_of(in + p * length, length);
  });
  for (std::int64_t p = 1; p < pieces; ++p) before[p] += before[p - 1];
  parallel_for(pieces, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) running_sums(in + p * length, out + p * length, size(p), before[p]);
  });
}

template <class In>
void scan_integer_sums(const Scan& k) {
  const In* in = static_cast<const In*>(k.in);
  std::int64_t* out = static_cast<std::int64_t*>(k.out);
  if (k.outer < kManyLines && k.n > 2 * kShortestPiece) {
    for (std::int64_t l = 0; l < k.outer; ++l) scan_pieces(in + l * k.n, out + l * k.n, k.n);
  } else if constexpr (sizeof(In) == 8) {
    scan_rows<IntegerSum, false, std::int64_t>(k);
  } else {
    parallel_for(k.outer, 16384 / (k.n + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t l = begin; l < end; ++l) running_sums(in + l * k.n, out + l * k.n, k.n, 0);
    });
  }
}

template <ScanOp op, class T, class O>
void add(KernelTable& t) {
  family<ScanKernels>(t).scan[static_cast<int>(op)][static_cast<int>(DTypeOf<T>::value)] = scan<O, T>;
}
template <class T>
void add_order(KernelTable& t) {
  add<ScanOp::max, T, CumExtremum<true, T>>(t);
  add<ScanOp::min, T, CumExtremum<false, T>>(t);
}
template <class T>
void add_float(KernelTable& t) {
  using C = compute_t<T>;
  add<ScanOp::sum, T, CumSum<C>>(t);
  add<ScanOp::prod, T, CumProd<C>>(t);
  add<ScanOp::logsumexp, T, LogCumSumExp<C>>(t);
  add_order<T>(t);
}

}  // namespace

void register_scan(KernelTable& t) {
  add<ScanOp::prod, std::int64_t, CumProd<std::int64_t>>(t);
  add_order<std::uint8_t>(t);
  add_order<std::int8_t>(t);
  add_order<std::int16_t>(t);
  add_order<std::int32_t>(t);
  add_order<std::int64_t>(t);
  add_float<Half>(t);
  add_float<BFloat16>(t);
  add_float<float>(t);
  add_float<double>(t);
  ScanFn* sums = family<ScanKernels>(t).scan[static_cast<int>(ScanOp::sum)];
  sums[static_cast<int>(DType::Int64)] = [](const Scan& k) {
    k.inner > 1 || k.reverse || k.exclusive ? scan<IntegerSum, std::int64_t>(k) : scan_integer_sums<std::int64_t>(k);
  };
  sums[static_cast<int>(DType::Bool)] = scan_integer_sums<std::uint8_t>;
  constexpr ScanOp ordered[] = {ScanOp::max, ScanOp::min};
  for (const ScanOp op : ordered) {  // a bool is a byte holding 0 or 1
    ScanFn* row = family<ScanKernels>(t).scan[static_cast<int>(op)];
    row[static_cast<int>(DType::Bool)] = row[static_cast<int>(DType::UInt8)];
  }
}

}  // namespace pydlx::PYDLX_ISA
