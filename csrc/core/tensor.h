// The tensor: a strided view of a storage, plus what autograd knows about it. `Tensor` is a counted handle,
// `TensorImpl` the object.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/device.h"
#include "core/dims.h"
#include "core/dtype.h"
#include "core/ref.h"
#include "core/storage.h"

namespace pydlx {

struct AutogradMeta;
struct Node;

struct TensorImpl : RefCounted {
  TensorImpl();
  ~TensorImpl();

  Ref<Storage> storage;
  std::int64_t offset = 0;  // in elements
  std::int64_t numel = 1;
  Dims sizes, strides;  // strides in elements
  DType dtype = DType::Float32;
  bool contiguous = true;          // row-major without gaps; kept by set_geometry
  bool requires_grad = false;      // leaf that asks for a gradient, or result of a recorded op
  bool wrapped_number = false;     // a Python number: takes part in promotion by category only
  bool inference = false;          // made in inference mode: can never enter a recorded graph
  bool made_without_grad = false;  // view made in no_grad or by a multi-output op: refuses in-place with gradients
  bool untracked = false;          // `.data` alias: in-place writes do not advance the version counter
  Ref<TensorImpl> base;            // the tensor this is a differentiable view of
  std::unique_ptr<AutogradMeta> meta;
  void* python = nullptr;  // borrowed pointer to the Python object, while there is one

  void set_geometry(Dims new_sizes, Dims new_strides);
  void* data() const noexcept {
    return static_cast<char*>(storage->data) + static_cast<std::size_t>(offset) * itemsize(dtype);
  }
};

void destroy(TensorImpl* t) noexcept;

class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Ref<TensorImpl> impl) : impl_(std::move(impl)) {}

  bool defined() const noexcept { return static_cast<bool>(impl_); }
  TensorImpl* impl() const noexcept { return impl_.get(); }
  const Ref<TensorImpl>& ref() const noexcept { return impl_; }
  TensorImpl* release() noexcept { return impl_.leak(); }  // gives the reference to the caller
  bool is_same(const Tensor& o) const noexcept { return impl_ == o.impl_; }

  const Dims& sizes() const noexcept { return impl_->sizes; }
  const Dims& strides() const noexcept { return impl_->strides; }
  std::int64_t size(int i) const { return impl_->sizes[wrap_axis(i, ndim(), "size")]; }
  std::int64_t stride(int i) const { return impl_->strides[wrap_axis(i, ndim(), "stride")]; }
  int ndim() const noexcept { return impl_->sizes.ndim(); }
  std::int64_t numel() const noexcept { return impl_->numel; }
  std::int64_t offset() const noexcept { return impl_->offset; }
  DType dtype() const noexcept { return impl_->dtype; }
  Device device() const noexcept { return impl_->storage->device; }
  bool is_cpu() const noexcept { return impl_->storage->device.is_cpu(); }
  bool contiguous_layout() const noexcept { return impl_->contiguous; }
  // A view also requires a gradient when its base came to require one later, through an in-place change.
  bool requires_grad() const noexcept {
    return impl_->requires_grad || (impl_->base && impl_->base->requires_grad && !impl_->made_without_grad);
  }
  bool is_wrapped_number() const noexcept { return impl_->wrapped_number; }
  std::uint32_t version() const noexcept { return impl_->storage->version; }

  void* data() const noexcept { return impl_->data(); }
  template <class T>
  T* data_as() const noexcept {
    return static_cast<T*>(impl_->data());
  }

 private:
  Ref<TensorImpl> impl_;
};

using TensorList = std::vector<Tensor>;

// A Python number on its way into an op.
struct Scalar {
  enum class Kind : std::uint8_t { Bool, Int, Float };
  Kind kind = Kind::Int;
  union {
    std::int64_t i = 0;
    double f;
  };
  Scalar() = default;
  Scalar(bool v) : kind(Kind::Bool), i(v) {}
  Scalar(int v) : kind(Kind::Int), i(v) {}
  Scalar(std::int64_t v) : kind(Kind::Int), i(v) {}
  Scalar(double v) : kind(Kind::Float), f(v) {}
  bool is_float() const { return kind == Kind::Float; }
  double to_double() const { return is_float() ? f : static_cast<double>(i); }
  // NaN, infinities and numbers beyond 64 bits become the smallest integer.
  std::int64_t to_int() const {
    if (!is_float()) return i;
    return f >= -0x1p63 && f < 0x1p63 ? static_cast<std::int64_t>(f) : INT64_MIN;
  }
  DType natural_dtype() const {
    return kind == Kind::Bool ? DType::Bool : kind == Kind::Int ? DType::Int64 : default_dtype();
  }
};

// Writes `v` as one element of `dtype` at `p` (host memory).
void store_scalar(void* p, DType dtype, Scalar v);
Scalar load_scalar(const void* p, DType dtype);
// Refuses a number that `dtype` cannot hold and store_scalar would change beyond rounding. Bools take any number, and
// unsigned integers negative ones, which wrap around, as in PyTorch.
void require_fits(const char* op, const char* argument, Scalar v, DType dtype);
// The smallest and largest value of an integer (or bool) dtype.
constexpr std::int64_t integer_max(DType t) {
  const bool is_signed = t != DType::Bool && t != DType::UInt8;
  return t == DType::Bool ? 1 : static_cast<std::int64_t>(~std::uint64_t{0} >> (64 - 8 * itemsize(t) + is_signed));
}
constexpr std::int64_t integer_min(DType t) { return t == DType::Bool || t == DType::UInt8 ? 0 : -integer_max(t) - 1; }
Scalar scalar_of(const Tensor& t);  // of a tensor with one element; waits for a device's result

// Sizes and dtype in 32 bits: tells whether a gradient or a saved tensor still has the geometry it was recorded with.
std::uint32_t geometry_key(const TensorImpl& t) noexcept;

Dims contiguous_strides(const Dims& sizes);
// True when no two index tuples address the same element and the elements fill a gap-free block (any axis order).
bool is_dense(const Dims& sizes, const Dims& strides);
// True when some element is reachable through two different index tuples (an expanded tensor, say).
bool may_self_overlap(const Dims& sizes, const Dims& strides);
// True when writing `a` could change `b` other than by being exactly the same view.
bool partially_overlaps(const Tensor& a, const Tensor& b);

// Uninitialised tensors. `empty_strided` expects strides for which is_dense holds.
Tensor empty(const Dims& sizes, DType dtype, Device device = {});
Tensor empty_strided(const Dims& sizes, const Dims& strides, DType dtype, Device device = {});
Tensor empty_like(const Tensor& t);  // keeps the axis order of a dense tensor
Tensor empty_like(const Tensor& t, DType dtype);
// Another view of the same storage, without any autograd information.
Tensor alias(const Tensor& t);
Tensor alias(const Tensor& t, Dims sizes, Dims strides, std::int64_t offset);
// A 0-d CPU tensor marked as wrapped number.
Tensor wrap_scalar(Scalar v);
Tensor wrap_scalar(Scalar v, DType dtype);

// Records an in-place write for the version counter and for error messages.
void bump_version(const Tensor& t, const char* op);

}  // namespace pydlx
