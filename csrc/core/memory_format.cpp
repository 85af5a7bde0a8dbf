#include "core/memory_format.h"

namespace pydlx {

namespace {

int axes_of(MemoryFormat f) { return f == MemoryFormat::channels_last ? 4 : 5; }
bool names_channels(MemoryFormat f) { return f == MemoryFormat::channels_last || f == MemoryFormat::channels_last_3d; }

// Axes from the innermost: channels, spatial axes from the last one, samples.
int axis_at(int ndim, int i) { return i == 0 ? 1 : i == ndim - 1 ? 0 : ndim - i; }

}  // namespace

Dims format_strides(const Dims& sizes, MemoryFormat format, const char* op) {
  checked_numel(sizes, op);
  if (!names_channels(format)) return contiguous_strides(sizes);
  require(sizes.ndim() == axes_of(format), op, "memory_format", ErrorKind::Runtime, "expected ", axes_of(format),
          " axes for ", format == MemoryFormat::channels_last ? "channels_last" : "channels_last_3d", ", got shape ",
          sizes);
  Dims strides = sizes;
  std::int64_t step = 1;
  for (int i = 0; i < sizes.ndim(); ++i) {
    const int a = axis_at(sizes.ndim(), i);
    strides[a] = step;
    step *= sizes[a];
  }
  return strides;
}

bool has_format(const Tensor& t, MemoryFormat format) {
  if (!names_channels(format)) return t.contiguous_layout();
  if (t.ndim() != axes_of(format)) return false;
  std::int64_t step = 1;
  for (int i = 0; i < t.ndim(); ++i) {
    const int a = axis_at(t.ndim(), i);
    if (t.sizes()[a] == 1) continue;
    if (t.strides()[a] != step) return false;
    step *= t.sizes()[a];
  }
  return true;
}

MemoryFormat format_of(const Tensor& t) {
  const int ndim = t.ndim();
  if (ndim != 4 && ndim != 5) return MemoryFormat::contiguous;
  const Dims &sizes = t.sizes(), &strides = t.strides();
  if (strides[1] == 0) return MemoryFormat::contiguous;
  std::int64_t least = 0;
  for (int i = 0; i < ndim; ++i) {
    const int a = axis_at(ndim, i);
    if (sizes[a] == 0 || strides[a] < least) return MemoryFormat::contiguous;
    // One value per sample: the samples' stride tells the orders apart, and a row-major tensor's equals the channels'.
    if (a == 0 && least == strides[1]) return MemoryFormat::contiguous;
    least = strides[a] * sizes[a];
  }
  return ndim == 4 ? MemoryFormat::channels_last : MemoryFormat::channels_last_3d;
}

MemoryFormat common_format(std::initializer_list<const Tensor*> inputs) {
  for (const Tensor* t : inputs)
    if (const MemoryFormat f = format_of(*t); f != MemoryFormat::contiguous) return f;
  return MemoryFormat::contiguous;
}

Tensor empty(const Dims& sizes, DType dtype, Device device, MemoryFormat format) {
  if (!names_channels(format)) return empty(sizes, dtype, device);
  checked_numel(sizes, "empty");
  return empty_strided(sizes, format_strides(sizes, format, "empty"), dtype, device);
}

Tensor channels_behind(const Tensor& t) {
  Dims sizes, strides;
  for (int i = 0; i < t.ndim(); ++i) {
    const int a = axis_at(t.ndim(), t.ndim() - 1 - i);
    sizes.push_back(t.sizes()[a]);
    strides.push_back(t.strides()[a]);
  }
  return alias(t, sizes, strides, t.offset());
}

}  // namespace pydlx
