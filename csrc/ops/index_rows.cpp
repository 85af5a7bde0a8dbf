#include "ops/index_rows.h"

#include "kernels/indexing.h"

namespace pydlx::ops {

Tensor prepare_index(const char* op, const Tensor& x, const Tensor& index) {
  require(is_integral(index.dtype()), op, "index", ErrorKind::DType, "expected an integer tensor, got ", index.dtype(),
          is_floating(index.dtype()) ? "; convert it with .long()" : "");
  require(index.device() == x.device(), op, "index", ErrorKind::Device, "expected ", x.device(),
          " like the input, got ", index.device(), "; move it with .to()");
  return contiguous(to_dtype(detach(index), DType::Int64));
}

void range_error(const char* op, const Tensor& index, std::int64_t position, std::int64_t low, const Dims& sizes,
                 int axis) {
  const auto value = item(select(reshape(index, {-1}), 0, position)).to_int();
  fail(op, "index", ErrorKind::Index, "expected indices in [", low, ", ", sizes[axis] - 1, "] for axis ", axis,
       " of shape ", sizes, ", got ", value, " at position ", position);
}

void check_range(const char* op, const Tensor& index, std::int64_t low, const Dims& sizes, int axis) {
  if (index.numel() == 0) return;
  const auto fn =
      kernel_or_fail(kernels<IndexingKernels>(index.device()).check_index, op, index.device(), DType::Int64);
  const std::int64_t wrong = fn(index.data_as<std::int64_t>(), index.numel(), low, sizes[axis]);
  if (wrong >= 0) range_error(op, index, wrong, low, sizes, axis);
}

void set_axes(IndexedRows& r, const OtherAxes& axes) {
  r.ndim = 0;
  r.slices = 1;
  const int n = axes.size.ndim();
  bool fresh = true;  // the next axis may not merge into the one before
  bool row_taken = false;
  for (int i = n - 1; i >= 0; --i) {
    if (i == n - axes.inner - 1) fresh = true;
    if (axes.size[i] == 1) continue;
    const std::int64_t size = axes.size[i], s = axes.self[i], d = axes.dense[i], x = axes.index[i];
    r.slices *= size;
    if (!fresh) {
      const int k = r.ndim - 1;
      if (s == r.self_stride[k] * r.size[k] && d == r.dense_stride[k] * r.size[k] &&
          x == r.index_stride[k] * r.size[k]) {
        r.size[k] *= size;
        continue;
      }
    }
    r.size[r.ndim] = size;
    r.self_stride[r.ndim] = s;
    r.dense_stride[r.ndim] = d;
    r.index_stride[r.ndim] = x;
    ++r.ndim;
    if (fresh) row_taken |= i >= n - axes.inner;
    fresh = false;
  }
  // The row is the innermost axis inside the indexed one; with a single index any axis will do.
  if (r.ndim > 0 && (row_taken || r.count == 1)) {
    r.row = r.size[0];
    r.self_row = r.self_stride[0];
    r.dense_row = r.dense_stride[0];
    r.index_row = r.index_stride[0];
    r.slices /= r.row > 0 ? r.row : 1;
    --r.ndim;
    for (int k = 0; k < r.ndim; ++k) {
      r.size[k] = r.size[k + 1];
      r.self_stride[k] = r.self_stride[k + 1];
      r.dense_stride[k] = r.dense_stride[k + 1];
      r.index_stride[k] = r.index_stride[k + 1];
    }
  }
}

IndexedRows along_axis(const Tensor& self, int dim, const Tensor& index, const Tensor& dense) {
  IndexedRows r;
  r.self = self.data();
  r.dense = dense.data();
  r.index = index.data_as<std::int64_t>();
  r.count = index.sizes()[dim];
  r.self_size = self.sizes()[dim];
  r.self_step = self.strides()[dim];
  r.dense_step = dense.strides()[dim];
  r.index_step = index.strides()[dim];
  OtherAxes axes;
  for (int i = 0; i < index.ndim(); ++i)
    if (i != dim) axes.add(index.sizes()[i], self.strides()[i], dense.strides()[i], index.strides()[i]);
  axes.inner = index.ndim() - 1 - dim;
  set_axes(r, axes);
  return r;
}

IndexedRows along_shared(const Tensor& self, int dim, const Tensor& index, const Tensor& dense) {
  IndexedRows r;
  r.self = self.data();
  r.dense = dense.data();
  r.index = index.data_as<std::int64_t>();
  r.count = index.numel();
  r.self_size = self.sizes()[dim];
  r.self_step = self.strides()[dim];
  r.dense_step = dense.strides()[dim];
  r.index_step = 1;
  OtherAxes axes;
  for (int i = 0; i < self.ndim(); ++i)
    if (i != dim) axes.add(self.sizes()[i], self.strides()[i], dense.strides()[i], 0);
  axes.inner = self.ndim() - 1 - dim;
  set_axes(r, axes);
  return r;
}

namespace {
bool has_work(const IndexedRows& r) { return r.count > 0 && r.row > 0 && r.slices > 0; }
}  // namespace

void run_gather(const char* op, const IndexedRows& r, const Tensor& self) {
  if (has_work(r))
    kernel_or_fail(kernels<IndexingKernels>(self.device()).gather[width_index(self.dtype())], op, self.device(),
                   self.dtype())(r);
}
void run_scatter(const char* op, const IndexedRows& r, const Tensor& self) {
  if (has_work(r))
    kernel_or_fail(kernels<IndexingKernels>(self.device()).scatter[width_index(self.dtype())], op, self.device(),
                   self.dtype())(r);
}
void run_reduce(const char* op, ScatterOp how, const IndexedRows& r, const Tensor& self) {
  if (!has_work(r)) return;
  const auto& table = kernels<IndexingKernels>(self.device()).scatter_reduce[static_cast<int>(how)];
  kernel_or_fail(table[static_cast<int>(self.dtype())], op, self.device(), self.dtype())(r);
}

bool add_rows(const IndexedRows& r, const Tensor& self) {
  const auto fn = kernels<IndexingKernels>(self.device()).add_rows[static_cast<int>(self.dtype())];
  constexpr std::int64_t kLeast = 16;  // shorter rows are not worth sorting the index
  if (!fn || r.slices != 1 || r.index_row != 0 || r.self_row != 1 || r.dense_row != 1 || r.row < kLeast ||
      r.self_step < r.row)
    return false;
  if (!has_work(r)) return true;
  const Tensor start = empty({r.self_size}, DType::Int64, self.device()),
               order = empty({r.count}, DType::Int64, self.device());
  fn(r, start.data_as<std::int64_t>(), order.data_as<std::int64_t>());
  return true;
}

}  // namespace pydlx::ops
