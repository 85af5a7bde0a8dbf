// Copies with conversion, transposes, and selection.
#include "cuda/pointwise/loop.cuh"
#include "cuda/pointwise/transpose.cuh"
#include "functors/convert.h"

namespace pydlx::cuda {
namespace {

// Whether an axis other than the first is dense in the input; runs the copy if so.
template <class W>
bool transposed(const Elementwise& e) {
  if (e.immediate[1] || e.ndim < 2 || e.stride[0][0] != 1 || e.stride[1][0] == 1 || e.size[0] < 8) return false;
  int dense = 0;
  for (int d = 1; d < e.ndim; ++d)
    if (e.stride[1][d] == 1 && e.size[d] >= 8) dense = d;
  if (dense == 0) return false;
  Transpose t;
  t.out = e.data[0];
  t.in = e.data[1];
  t.cols = e.size[0];
  t.rows = e.size[dense];
  t.out_row = e.stride[0][dense];
  t.in_col = e.stride[1][0];
  for (int d = 1; d < e.ndim; ++d) {
    if (d == dense) continue;
    t.size[t.ndim] = e.size[d];
    t.out_step[t.ndim] = e.stride[0][d];
    t.in_step[t.ndim] = e.stride[1][d];
    ++t.ndim;
  }
  run_transpose<W>(t);
  return true;
}

// ---- entries --------------------------------------------------------------------------------------------------------

// Equal dtypes and selection move bits: one kernel per element size.
template <class W>
void copy_same(const Elementwise& e) {
  if (!transposed<W>(e)) map<Same, W, W>(e);
}
template <class W>
void where(const Elementwise& e) {
  map<Select, W, std::uint8_t, W, W>(e);
}

template <class To, class... From>
void fill_to(PointwiseKernels& k, Types<From...>) {
  ((k.copy[idx<To>][idx<From>] = map<Convert<compute_t<To>>, To, From>), ...);
  k.copy[idx<To>][idx<To>] = copy_same<word_t<To>>;
  k.where[idx<To>] = where<word_t<To>>;
}
template <class... Ts>
void fill(PointwiseKernels& k, Types<Ts...> all) {
  (fill_to<Ts>(k, all), ...);
}

}  // namespace

void register_copy(KernelTable& t) { fill(family<PointwiseKernels>(t), AllTypes{}); }

}  // namespace pydlx::cuda
