// Attention, from a matrix of scores in memory to tiles that never leave the cache.
//
//   out = softmax(q k^T / 8) v      q, k, v, out: heads x length x 64, float32; one softmax per query
//
// Two matrix products with a softmax between them: 4 x 64 operations and one exponential for each pair of a query and a
// key. The scores, length^2 per head, are larger than everything else together (1024: 4 MB against 0.25), so where they
// are kept decides about memory, and how exponentials are taken decides about time: a scalar one costs as much as
// hundreds of vector operations.
#include "ladder.h"

namespace {

constexpr Int kDepth = 64;        // numbers per query, key and value
constexpr float kScale = 0.125f;  // 1 / sqrt(64)
constexpr float kInfinity = INFINITY;

Int lesser(Int x, Int y) { return x < y ? x : y; }

// 1. The formula, with every intermediate result in memory, as a framework without a fused kernel does it: all scores
// of all heads are written, read and written again by the softmax, and read once more (32 MB four times). Both products
// are sums one after the other, and the second reads v down its columns.
void formula(Int heads, Int length, const float* q, const float* k, const float* v, float* out) {
  float* scores = scratch<0>(heads * length * length);
  for (Int h = 0; h < heads; ++h)
    for (Int i = 0; i < length; ++i)
      for (Int j = 0; j < length; ++j) {
        float sum = 0;
        for (Int d = 0; d < kDepth; ++d) sum += q[(h * length + i) * kDepth + d] * k[(h * length + j) * kDepth + d];
        scores[(h * length + i) * length + j] = sum * kScale;
      }
  for (Int row = 0; row < heads * length; ++row) {
    float* s = scores + row * length;
    float top = -kInfinity, total = 0;
    for (Int j = 0; j < length; ++j) top = s[j] > top ? s[j] : top;  // so that no exponential overflows
    for (Int j = 0; j < length; ++j) total += s[j] = std::exp(s[j] - top);
    for (Int j = 0; j < length; ++j) s[j] /= total;
  }
  for (Int row = 0; row < heads * length; ++row)
    for (Int d = 0; d < kDepth; ++d) {
      float sum = 0;
      for (Int j = 0; j < length; ++j) sum += scores[row * length + j] * v[(row / length * length + j) * kDepth + d];
      out[row * kDepth + d] = sum;
    }
}

// 2. One query at a time: its row of scores, 4 KB, stays in the first-level cache from the product through the softmax
// to the sum of values, and memory no longer grows with length^2. The second product runs along rows of v, so it is
// vectors, and the division happens once per output instead of once per score. The first product is still a chain.
void one_query(Int heads, Int length, const float* q, const float* k, const float* v, float* out) {
  float* s = scratch<0>(length);
  for (Int row = 0; row < heads * length; ++row) {
    const Int first = row / length * length;
    float top = -kInfinity, total = 0;
    for (Int j = 0; j < length; ++j) {
      float sum = 0;
      for (Int d = 0; d < kDepth; ++d) sum += q[row * kDepth + d] * k[(first + j) * kDepth + d];
      s[j] = sum * kScale;
      top = s[j] > top ? s[j] : top;
    }
    float sums[kDepth] = {};
    for (Int j = 0; j < length; ++j) {
      const float e = std::exp(s[j] - top);
      total += e;
      for (Int d = 0; d < kDepth; ++d) sums[d] += e * v[(first + j) * kDepth + d];
    }
    for (Int d = 0; d < kDepth; ++d) out[row * kDepth + d] = sums[d] / total;
  }
}

// The tiles of steps 3 to 6: kQueries x kKeys scores (48 KB) with a block of keys and of values (64 KB each) take a
// part of the second-level cache.
constexpr Int kQueries = 48, kKeys = 256;

// Keys as columns: block[d][key], so that a vector holds 16 neighbouring keys. In squares of 16 x 16.
void pack_keys(const float* k, Int keys, float* block) {
  for (Int j = 0; j < keys; j += kLanes)
    for (Int d = 0; d < kDepth; d += kLanes) {
      V square[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) square[i] = load(k + (j + i) * kDepth + d);
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(block + (d + i) * kKeys + j, square[i]);
    }
}

// What is carried from one block of keys to the next, per query: the largest score so far, and the sum of exponentials
// relative to it.
struct Running {
  float top, total;
};

// A row of scores becomes exponentials. When a new largest score turns up, everything summed so far was relative to the
// old one, and is corrected by a factor (Milakov and Gimelshein 2018).
void soften_scalar(Running& r, float* s, Int keys, float* sums) {
  float top = r.top;
  for (Int j = 0; j < keys; ++j) top = s[j] > top ? s[j] : top;
  const float keep = std::exp((r.top - top) * kScale);  // 0 in the first block, where the old one is -infinity
  float total = r.total * keep;
  for (Int j = 0; j < keys; ++j) total += s[j] = std::exp((s[j] - top) * kScale);
  for (Int d = 0; d < kDepth; ++d) sums[d] *= keep;
  r = {top, total};
}

// The same in vectors: exponential below, several partial sums, no branches.
void soften_vector(Running& r, float* s, Int keys, float* sums) {
  V tops = splat(r.top);
  for (Int j = 0; j < keys; j += kLanes) {
    const V x = load(s + j);
    tops = x > tops ? x : tops;
  }
  float top = tops[0];
  for (int l = 1; l < kLanes; ++l) top = tops[l] > top ? tops[l] : top;
  const V shift = splat(top * kScale);
  V total0{}, total1{};
  for (Int j = 0; j < keys; j += 2 * kLanes) {
    const V e0 = exponential(load(s + j) * kScale - shift), e1 = exponential(load(s + j + kLanes) * kScale - shift);
    store(s + j, e0);
    store(s + j + kLanes, e1);
    total0 += e0;
    total1 += e1;
  }
  const float keep = std::exp((r.top - top) * kScale);
  float total = r.total * keep;
  total0 += total1;
  for (int l = 0; l < kLanes; ++l) total += total0[l];
  for (Int d = 0; d < kDepth; d += kLanes) store(sums + d, load(sums + d) * keep);
  r = {top, total};
}

enum class Causal { no, masked, skipped };

// Queries of one head in tiles, keys in blocks: scores of 48 queries and 256 keys, their exponentials, their products
// with the values, added to the output. Nothing larger than a tile exists. kProducts chooses between plain loops (step
// 3) and register tiles over packed keys (step 4), kVector between the two softmaxes.
template <bool kProducts, bool kVector, Causal kCausal>
void head(Int length, Int first, Int last, const float* q, const float* k, const float* v, float* out) {
  float* scores = scratch<0>(kQueries * kKeys);
  float* block = scratch<1>(kDepth * kKeys);
  Running* running = reinterpret_cast<Running*>(scratch<2>(2 * length));
  for (Int i = first; i < last; ++i) running[i] = {-kInfinity, 0};
  std::memset(out + first * kDepth, 0, static_cast<std::size_t>((last - first) * kDepth) * sizeof(float));
  for (Int j0 = 0; j0 < length; j0 += kKeys) {
    const Int keys = lesser(kKeys, length - j0);
    if (kProducts) pack_keys(k + j0 * kDepth, keys, block);
    for (Int i0 = first; i0 < last; i0 += kQueries) {
      const Int queries = lesser(kQueries, last - i0);
      // The last query of the tile sees keys up to its own place: what lies behind is not computed, to whole tiles.
      Int seen = keys;
      if (kCausal == Causal::skipped)
        seen = lesser(keys, (i0 + queries - j0 + kTileColumns - 1) / kTileColumns * kTileColumns);
      if (seen <= 0) continue;
      const float* tile_q = q + i0 * kDepth;
      float* tile_out = out + i0 * kDepth;
      if (kProducts) {
        for (Int j = 0; j < seen; j += kTileColumns)
          strip<false>(queries, kDepth, tile_q, kDepth, 1, block + j, kKeys, scores + j, kKeys);
      } else {
        for (Int i = 0; i < queries; ++i)
          for (Int j = 0; j < seen; ++j) {
            float sum = 0;
            for (Int d = 0; d < kDepth; ++d) sum += tile_q[i * kDepth + d] * k[(j0 + j) * kDepth + d];
            scores[i * kKeys + j] = sum;
          }
      }
      for (Int i = 0; i < queries; ++i) {
        float* s = scores + i * kKeys;
        if (kCausal != Causal::no)
          for (Int j = i0 + i + 1 - j0 > 0 ? i0 + i + 1 - j0 : 0; j < seen; ++j) s[j] = -kInfinity;
        kVector ? soften_vector(running[i0 + i], s, seen, tile_out + i * kDepth)
                : soften_scalar(running[i0 + i], s, seen, tile_out + i * kDepth);
      }
      if (kProducts) {
        for (Int d = 0; d < kDepth; d += kTileColumns)
          strip<true>(queries, seen, scores, kKeys, 1, v + j0 * kDepth + d, kDepth, tile_out + d, kDepth);
      } else {
        for (Int i = 0; i < queries; ++i)
          for (Int j = 0; j < seen; ++j)
            for (Int d = 0; d < kDepth; ++d)
              tile_out[i * kDepth + d] += scores[i * kKeys + j] * v[(j0 + j) * kDepth + d];
      }
    }
  }
  for (Int i = first; i < last; ++i)
    for (Int d = 0; d < kDepth; ++d) out[i * kDepth + d] /= running[i].total;
}

template <bool kProducts, bool kVector, Causal kCausal>
void all_heads(Int heads, Int length, const float* q, const float* k, const float* v, float* out) {
  for (Int h = 0; h < heads; ++h) {
    const Int at = h * length * kDepth;
    head<kProducts, kVector, kCausal>(length, 0, length, q + at, k + at, v + at, out + at);
  }
}

// 3. Tiles of queries with a running softmax. A block of keys and values is read for 48 queries at once instead of for
// each, and a query need not have seen all its scores before it begins to sum: that is what makes any length fit. Alone
// it loses 10 % where the keys and values of a head (0.5 MB) are in the cache anyway, but the next steps stand on it.
constexpr auto tiles = all_heads<false, false, Causal::no>;

// 4. Both products through the register tile of gemm.cpp. For the scores the keys must be columns, so a block of them
// is transposed once for all queries; values already lie as the tile reads them. What remains is the scalar
// exponential, 3 ns each where the products of a pair take 1: Amdahl's law in one line.
constexpr auto products = all_heads<true, false, Causal::no>;

// 5. Exponentials by a polynomial, 16 at a time (exponential() in ladder.h): some twenty instructions for 16 results.
constexpr auto exponentials = all_heads<true, true, Causal::no>;

// 6. Tiles of queries are shared out: each thread takes a part of a head. Every query sees its keys in the same order
// as before, so the bits are the same for any number of threads.
template <Causal kCausal>
void shared(Int heads, Int length, const float* q, const float* k, const float* v, float* out) {
  const Int parts = (length + 255) / 256;
#pragma omp parallel for schedule(dynamic, 1)
  for (Int n = 0; n < heads * parts; ++n) {
    const Int at = n / parts * length * kDepth, part = parts - 1 - n % parts;
    head<true, true, kCausal>(length, part * length / parts, (part + 1) * length / parts, q + at, k + at, v + at,
                              out + at);
  }
}
constexpr auto threads = shared<Causal::no>;

// The causal ladder: query i sees keys 0 to i.
//
// 1. Scores of keys that a query may not see become -infinity, whose exponential is 0. Correct, and half of the work is
// for nothing.
constexpr auto masked = all_heads<true, true, Causal::masked>;

// 2. Blocks of keys behind the last query of a tile are skipped, and the block on the diagonal is cut to whole register
// tiles. 48 queries against steps of 64 keys leave a seam of about 6 % along the diagonal at length 1024; taller tiles
// leave more, lower ones use a block of keys less often.
constexpr auto skipped = all_heads<true, true, Causal::skipped>;

// 3. Threads. Parts of a head now differ in work, the last ones most, so threads take them one by one, long ones first.
constexpr auto causal_threads = shared<Causal::skipped>;

}  // namespace

extern "C" {
extern const Step steps[] = {
    STEP("formula", "all scores in memory", formula, 1),
    STEP("one query", "a row of scores at a time", one_query, 1),
    STEP("tiles", "48 queries, running softmax", tiles, 1),
    STEP("products", "packed keys, register tiles", products, 1),
    STEP("exponentials", "16 at a time, by a polynomial", exponentials, 1),
    STEP("threads", "queries shared out", threads, 0),
};
extern const int step_count = sizeof steps / sizeof *steps;

extern const Step causal_steps[] = {
    STEP("masked", "everything, then -infinity", masked, 1),
    STEP("skipped", "no blocks behind the diagonal", skipped, 1),
    STEP("threads", "parts shared out, long ones first", causal_threads, 0),
};
extern const int causal_step_count = sizeof causal_steps / sizeof *causal_steps;
}
