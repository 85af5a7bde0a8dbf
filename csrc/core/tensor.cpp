#include "core/tensor.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/meta.h"
#include "autograd/mode.h"
#include "autograd/node.h"
#include "core/allocator.h"
#include "core/backend.h"

namespace pydlx {

namespace {
void give_back(Storage& s) noexcept {
  if (s.data && s.data != s.inline_data) allocator_for(s.device).deallocate(s.data, s.nbytes);
}
}  // namespace

void destroy(Storage* s) noexcept {
  if (s->deleter)
    s->deleter(s->data, s->nbytes, s->context);
  else
    give_back(*s);
  delete s;
}

Ref<Storage> new_storage(std::size_t nbytes, Device device) {
  Ref<Storage> s(new Storage);
  s->device = device;
  s->nbytes = nbytes;
  if (device.is_cpu())
    s->data = nbytes <= Storage::kInline ? s->inline_data : cpu_allocator().allocate(nbytes);
  else
    s->data = allocator_for(device).allocate(nbytes);
  return s;
}

Ref<Storage> foreign_storage(void* data, std::size_t nbytes, Device device, Storage::Deleter deleter, void* context,
                             bool read_only) {
  Ref<Storage> s(new Storage);
  s->data = data;
  s->nbytes = nbytes;
  s->device = device;
  s->deleter = deleter;
  s->context = context;
  s->read_only = read_only;
  return s;
}

TensorImpl::TensorImpl() = default;
TensorImpl::~TensorImpl() = default;

// In a loop: a chain of `.grad`s of any length must not overflow the stack.
void destroy(TensorImpl* t) noexcept {
  while (t) {
    TensorImpl* next = t->meta ? t->meta->grad.release() : nullptr;
    delete t;
    t = next && next->release() ? next : nullptr;
  }
}

std::uint32_t geometry_key(const TensorImpl& t) noexcept {
  std::uint64_t h = 0x9E3779B97F4A7C15u;
  for (auto s : t.sizes) {
    h = (h ^ static_cast<std::uint64_t>(s)) * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
  }
  return static_cast<std::uint32_t>(h) << 4 | static_cast<std::uint32_t>(t.dtype);
}

void TensorImpl::set_geometry(Dims new_sizes, Dims new_strides) {
  sizes = std::move(new_sizes);
  strides = std::move(new_strides);
  numel = 1;
  for (auto s : sizes) numel *= s;
  contiguous = true;
  std::int64_t expected = 1;
  for (int i = sizes.ndim() - 1; i >= 0; --i) {
    if (sizes[i] == 1) continue;
    if (strides[i] != expected) {
      contiguous = numel == 0;
      break;
    }
    expected *= sizes[i];
  }
}

Dims contiguous_strides(const Dims& sizes) {
  Dims s;
  s.resize(sizes.size());
  std::int64_t step = 1;
  for (int i = sizes.ndim() - 1; i >= 0; --i) {
    s[i] = step;
    step *= std::max<std::int64_t>(sizes[i], 1);  // fits: see checked_numel
  }
  return s;
}

namespace {
// Axes with more than one element, by increasing stride.
Dims axes_by_stride(const Dims& sizes, const Dims& strides) {
  Dims order;
  for (int i = 0; i < sizes.ndim(); ++i)
    if (sizes[i] != 1) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return strides[a] < strides[b]; });
  return order;
}
}  // namespace

bool is_dense(const Dims& sizes, const Dims& strides) {
  std::int64_t expected = 1;
  for (auto a : axes_by_stride(sizes, strides)) {
    if (sizes[a] == 0) return true;
    if (strides[a] != expected) return false;
    expected *= sizes[a];
  }
  return true;
}

bool may_self_overlap(const Dims& sizes, const Dims& strides) {
  for (const std::int64_t n : sizes)
    if (n == 0) return false;
  std::int64_t reach = 0;  // largest offset reachable with the axes seen so far
  for (auto a : axes_by_stride(sizes, strides)) {
    if (strides[a] <= reach) return true;
    reach += (sizes[a] - 1) * strides[a];
  }
  return false;
}

bool partially_overlaps(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  if (a.is_same(b)) return false;
  auto range = [](const Tensor& t) {
    std::int64_t span = 1;
    for (int i = 0; i < t.ndim(); ++i) span += (t.sizes()[i] - 1) * t.strides()[i];
    const auto* begin = static_cast<const char*>(t.data());
    return std::pair(begin, begin + static_cast<std::size_t>(span) * itemsize(t.dtype()));
  };
  const auto [ab, ae] = range(a);
  const auto [bb, be] = range(b);
  if (ae <= bb || be <= ab) return false;
  const bool identical = ab == bb && a.dtype() == b.dtype() && a.sizes() == b.sizes() && a.strides() == b.strides();
  return !identical;
}

Tensor empty_strided(const Dims& sizes, const Dims& strides, DType dtype, Device device) {
  const std::int64_t n = checked_numel(sizes, "empty");
  const std::int64_t bytes = checked_mul(n, static_cast<std::int64_t>(itemsize(dtype)), "empty");
  Ref<TensorImpl> t(new TensorImpl);
  t->storage = new_storage(static_cast<std::size_t>(bytes), device);
  t->dtype = dtype;
  t->inference = InferenceMode::enabled();
  t->set_geometry(sizes, strides);
  return Tensor(std::move(t));
}

Tensor empty(const Dims& sizes, DType dtype, Device device) {
  const std::int64_t n = checked_numel(sizes, "empty");
  const std::int64_t bytes = checked_mul(n, static_cast<std::int64_t>(itemsize(dtype)), "empty");
  Ref<TensorImpl> t(new TensorImpl);
  t->storage = new_storage(static_cast<std::size_t>(bytes), device);
  t->dtype = dtype;
  t->inference = InferenceMode::enabled();
  t->sizes = sizes;
  t->strides = contiguous_strides(sizes);
  t->numel = n;
  return Tensor(std::move(t));
}

Tensor empty_like(const Tensor& t) { return empty_like(t, t.dtype()); }

Tensor empty_like(const Tensor& t, DType dtype) {
  if (t.contiguous_layout()) {
    Tensor r = empty(t.sizes(), dtype, t.device());
    r.impl()->strides = t.strides();  // those of axes of size 1 say in which format the tensor was made
    return r;
  }
  if (is_dense(t.sizes(), t.strides())) return empty_strided(t.sizes(), t.strides(), dtype, t.device());
  // Keep the axis order of a strided view, without its gaps. Broadcast axes (stride 0) go where a contiguous tensor has
  // them.
  for (int i = 0; i < t.ndim(); ++i)
    if (t.strides()[i] == 0 && t.sizes()[i] > 1) return empty(t.sizes(), dtype, t.device());
  Dims strides = contiguous_strides(t.sizes());
  std::int64_t step = 1;
  for (auto a : axes_by_stride(t.sizes(), t.strides())) {
    strides[a] = step;
    step *= std::max<std::int64_t>(t.sizes()[a], 1);
  }
  return empty_strided(t.sizes(), strides, dtype, t.device());
}

Tensor alias(const Tensor& t, Dims sizes, Dims strides, std::int64_t offset) {
  Ref<TensorImpl> v(new TensorImpl);
  v->storage = t.impl()->storage;
  v->dtype = t.dtype();
  v->offset = offset;
  v->inference = t.impl()->inference;
  v->untracked = t.impl()->untracked;
  v->set_geometry(std::move(sizes), std::move(strides));
  return Tensor(std::move(v));
}

Tensor alias(const Tensor& t) { return alias(t, t.sizes(), t.strides(), t.offset()); }

void store_scalar(void* p, DType dtype, Scalar v) {
  switch (dtype) {
    case DType::Bool:
      *static_cast<bool*>(p) = v.is_float() ? v.f != 0 : v.i != 0;
      break;
    case DType::UInt8:
      *static_cast<std::uint8_t*>(p) = static_cast<std::uint8_t>(v.to_int());
      break;
    case DType::Int8:
      *static_cast<std::int8_t*>(p) = static_cast<std::int8_t>(v.to_int());
      break;
    case DType::Int16:
      *static_cast<std::int16_t*>(p) = static_cast<std::int16_t>(v.to_int());
      break;
    case DType::Int32:
      *static_cast<std::int32_t*>(p) = static_cast<std::int32_t>(v.to_int());
      break;
    case DType::Int64:
      *static_cast<std::int64_t*>(p) = v.to_int();
      break;
    case DType::Float16:
      *static_cast<Half*>(p) = Half(static_cast<float>(v.to_double()));
      break;
    case DType::BFloat16:
      *static_cast<BFloat16*>(p) = BFloat16(static_cast<float>(v.to_double()));
      break;
    case DType::Float32:
      *static_cast<float*>(p) = static_cast<float>(v.to_double());
      break;
    case DType::Float64:
      *static_cast<double*>(p) = v.to_double();
      break;
  }
}

void require_fits(const char* op, const char* argument, Scalar v, DType dtype) {
  bool fits = true;
  if (is_floating(dtype)) {
    const double magnitude = std::abs(v.to_double());
    if (magnitude < 65504 || dtype == DType::Float64) return;
    double stored = 0;
    store_scalar(&stored, dtype, v);
    fits = std::isinf(magnitude) || !std::isinf(load_scalar(&stored, dtype).to_double());
  } else if (dtype != DType::Bool) {
    const std::int64_t high = integer_max(dtype),
                       low = dtype == DType::UInt8 && !v.is_float() ? -high : integer_min(dtype), i = v.to_int();
    fits = i >= low && i <= high && !(v.is_float() && i == INT64_MIN && v.f != -0x1p63);
  }
  if (fits) return;
  if (v.is_float()) fail(op, argument, ErrorKind::Value, "expected a number that fits ", dtype, ", got ", v.f);
  fail(op, argument, ErrorKind::Value, "expected a number that fits ", dtype, ", got ", v.i);
}

Scalar load_scalar(const void* p, DType dtype) {
  switch (dtype) {
    case DType::Bool:
      return *static_cast<const unsigned char*>(p) != 0;
    case DType::UInt8:
      return static_cast<std::int64_t>(*static_cast<const std::uint8_t*>(p));
    case DType::Int8:
      return static_cast<std::int64_t>(*static_cast<const std::int8_t*>(p));
    case DType::Int16:
      return static_cast<std::int64_t>(*static_cast<const std::int16_t*>(p));
    case DType::Int32:
      return static_cast<std::int64_t>(*static_cast<const std::int32_t*>(p));
    case DType::Int64:
      return *static_cast<const std::int64_t*>(p);
    case DType::Float16:
      return static_cast<double>(static_cast<float>(*static_cast<const Half*>(p)));
    case DType::BFloat16:
      return static_cast<double>(static_cast<float>(*static_cast<const BFloat16*>(p)));
    case DType::Float32:
      return static_cast<double>(*static_cast<const float*>(p));
    case DType::Float64:
      return *static_cast<const double*>(p);
  }
  return {};
}

Scalar scalar_of(const Tensor& t) {
  if (t.is_cpu()) [[likely]]
    return load_scalar(t.data(), t.dtype());
  alignas(8) unsigned char bytes[8];
  require_backend(t.device()).copy(bytes, {}, t.data(), t.device(), itemsize(t.dtype()), false);
  return load_scalar(bytes, t.dtype());
}

Tensor wrap_scalar(Scalar v, DType dtype) {
  // The last number of this thread serves again when nobody kept it: most live for one op only.
  static thread_local Tensor last;
  const bool reuse = last.defined() && last.ref()->use_count() == 1 && last.impl()->storage->use_count() == 1 &&
                     last.impl()->wrapped_number && !last.impl()->meta && !last.impl()->python;
  if (!reuse) {
    last = empty({}, dtype);
    last.impl()->wrapped_number = true;
  }
  last.impl()->dtype = dtype;
  last.impl()->inference = InferenceMode::enabled();
  last.impl()->storage->nbytes = itemsize(dtype);
  store_scalar(last.data(), dtype, v);
  return last;
}
Tensor wrap_scalar(Scalar v) {
  // Python floats are kept in double until an op knows its compute type: 0.1 must not be rounded to float32 and back.
  return wrap_scalar(v, v.is_float() ? DType::Float64 : v.natural_dtype());
}

void bump_version(const Tensor& t, const char* op) {
  Storage& s = *t.impl()->storage;
  require(!s.read_only, op, "", ErrorKind::Runtime,
          "expected a writable tensor, got one that shares read-only memory; use clone() first");
  if (t.impl()->untracked) return;
  ++s.version;
  s.last_writer = op;
  s.last_write_site = current_callsite();
}

}  // namespace pydlx
