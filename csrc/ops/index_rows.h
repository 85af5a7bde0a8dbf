// What the indexing ops share: preparing indices, describing the geometry of an IndexedRows kernel, and the in-place /
// out-of-place pair of every op that writes.
#pragma once
#include "autograd/node.h"
#include "kernels/indexing.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/views.h"

namespace pydlx::ops {

// The index as a contiguous int64 tensor without history; refuses floats and bools.
Tensor prepare_index(const char* op, const Tensor& x, const Tensor& index);
// IndexError unless all values lie in [low, sizes[axis]).
void check_range(const char* op, const Tensor& index, std::int64_t low, const Dims& sizes, int axis);
[[noreturn]] void range_error(const char* op, const Tensor& index, std::int64_t position, std::int64_t low,
                              const Dims& sizes, int axis);

// Axes beside the indexed one, outermost first; the last `inner` of them lie inside the indexed axis.
struct OtherAxes {
  Dims size, self, dense, index;
  int inner = 0;
  void add(std::int64_t n, std::int64_t self_stride, std::int64_t dense_stride, std::int64_t index_stride) {
    size.push_back(n);
    self.push_back(self_stride);
    dense.push_back(dense_stride);
    index.push_back(index_stride);
  }
};
// Fills the axis part of `r`: merges neighbours and picks the row.
void set_axes(IndexedRows& r, const OtherAxes& axes);

// The geometry of gather and scatter along `dim`: the dense operand and the index have the index's sizes.
IndexedRows along_axis(const Tensor& self, int dim, const Tensor& index, const Tensor& dense);
// The geometry of index_select and index_add: a 1-d index, the dense operand has self's sizes except along `dim`.
IndexedRows along_shared(const Tensor& self, int dim, const Tensor& index, const Tensor& dense);

void run_gather(const char* op, const IndexedRows& r, const Tensor& self);
void run_scatter(const char* op, const IndexedRows& r, const Tensor& self);
void run_reduce(const char* op, ScatterOp how, const IndexedRows& r, const Tensor& self);
// self <- self + dense where a kernel adds rows place by place, 16-bit floats in float32; otherwise false.
bool add_rows(const IndexedRows& r, const Tensor& self);
// 16-bit floats are accumulated in float32 and rounded once: calls f(self) with a tensor it may add to.
template <class F>
void accumulate_wide(const Tensor& self, F f) {
  if (self.dtype() != DType::Float16 && self.dtype() != DType::BFloat16) return f(self);
  const Tensor wide = to_dtype(detach(self), DType::Float32);
  f(wide);
  copy_raw(self, wide);
}

inline bool shares_memory(const Tensor& a, const Tensor& b) { return a.impl()->storage == b.impl()->storage; }

// Runs `raw(target, source)` on a copy of x or on x itself; `backward` makes the gradient formula for inputs {x,
// source}. The source reaches `raw` detached and in x's dtype, and never shares memory with the target.
template <class Raw, class MakeBackward>
Tensor write_op(const char* name, const Tensor& x, const Tensor& source, bool inplace, Raw raw, MakeBackward backward) {
  const bool wanted = is_floating(x.dtype()) && any_requires_grad(x, source);
  require_number_fits(name, "value", source, x.dtype());
  Tensor src = detach(source);
  if (src.dtype() != x.dtype()) src = to_dtype(src, x.dtype());
  common_device(name, {&x, &source});
  src = to_device(src, x.device());  // a single number may come from the CPU
  if (!inplace) {
    Tensor out = clone(detach(x));
    raw(out, src);
    if (wanted) record(name, out, {&x, &source}, backward());
    return out;
  }
  check_inplace(x, name);
  Ref<Node> node;
  if (wanted) node = make_node(name, {&x, &source}, backward());
  Tensor target = x;
  raw(target, shares_memory(src, x) ? clone(src) : src);
  bump_version(target, name);
  if (node) set_history_inplace(target, node);
  return target;
}

}  // namespace pydlx::ops
