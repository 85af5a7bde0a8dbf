// Sparse maps along one axis, copies along three, and sliding blocks. Every output element is one thread's sum in a
// fixed order.
#include <vector>

#include "cuda/runtime/each.cuh"
#include "cuda/runtime/pack.cuh"
#include "cuda/runtime/upload.cuh"
#include "kernels/resample.h"

namespace pydlx::cuda {
namespace {

// ---- maps -----------------------------------------------------------------------------------------------------------

template <class T>
struct MapAxis {
  AxisMap m;  // with tables on the device
  Divider by_inner, by_out;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const Quotient a = by_inner(e), b = by_out(a.quotient);
    const std::int64_t i = a.rest, j = b.rest, o = b.quotient;
    const T* x = static_cast<const T*>(m.x) + o * m.in * m.inner + i;
    T sum = 0;
    for (std::int64_t k = m.start[j]; k < m.start[j + 1]; ++k)
      sum += static_cast<T>(m.weight[k]) * x[m.index[k] * m.inner];
    static_cast<T*>(m.y)[e] = sum;
  }
};

template <class T>
void axis_map(const AxisMap& m) {
  if (m.outer <= 0 || m.out <= 0 || m.inner <= 0) return;
  const std::int64_t entries = m.start[m.out];
  const Scratch<std::int64_t> start(m.out + 1), index(entries + 1);
  const Scratch<double> weight(entries + 1);
  upload_table(start.get(), m.start, static_cast<std::size_t>(m.out + 1) * sizeof(std::int64_t));
  upload_table(index.get(), m.index, static_cast<std::size_t>(entries) * sizeof(std::int64_t));
  upload_table(weight.get(), m.weight, static_cast<std::size_t>(entries) * sizeof(double));
  AxisMap on_device = m;
  on_device.start = start.get();
  on_device.index = index.get();
  on_device.weight = weight.get();
  const std::int64_t n = m.outer * m.out * m.inner;
  for_each(n, MapAxis<T>{on_device, Divider(m.inner, n), Divider(m.out, n)});
}

template <class W>
struct MapPlanes {
  PlaneMap m;  // with tables on the device
  W value;
  Divider by[3];
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const Quotient c = by[2](e), b = by[1](c.quotient), a = by[0](b.quotient);
    const std::int64_t i = m.index[0][a.rest], j = m.index[1][b.rest], k = m.index[2][c.rest];
    const bool inside = i >= 0 && j >= 0 && k >= 0;
    static_cast<W*>(m.y)[e] =
        inside ? static_cast<const W*>(m.x)[((a.quotient * m.in[0] + i) * m.in[1] + j) * m.in[2] + k] : value;
  }
};

// `bytes` of an element, which are what m.value points to repeated.
template <class W>
void map_planes(const PlaneMap& m, std::size_t bytes) {
  const std::int64_t entries = m.out[0] + m.out[1] + m.out[2], n = m.outer * m.out[0] * m.out[1] * m.out[2];
  std::vector<std::int64_t> tables;
  tables.reserve(static_cast<std::size_t>(entries));
  const Scratch<std::int64_t> index(entries);
  MapPlanes<W> map{m, {}, {Divider(m.out[0], n), Divider(m.out[1], n), Divider(m.out[2], n)}};
  for (int d = 0; d < 3; ++d) {
    map.m.index[d] = index.get() + tables.size();
    tables.insert(tables.end(), m.index[d], m.index[d] + m.out[d]);
  }
  for (std::size_t k = 0; k < sizeof(W); k += bytes)
    std::memcpy(reinterpret_cast<char*>(&map.value) + k, m.value, bytes);
  upload_table(index.get(), tables.data(), tables.size() * sizeof(std::int64_t));
  for_each(n, map);
}

// Where whole rows are copied, or none of them, they are moved 16 bytes at a time.
template <class W>
void plane_map(const PlaneMap& m) {
  constexpr std::int64_t V = kPackOf<W>;
  bool whole = m.in[2] == m.out[2] && m.out[2] % V == 0 && packs_begin(m.x, m.y);
  for (std::int64_t k = 0; k < m.out[2] && whole; ++k) whole = m.index[2][k] == k;
  if (!whole) return map_planes<W>(m, sizeof(W));
  PlaneMap packs = m;
  packs.in[2] = packs.out[2] = m.out[2] / V;
  map_planes<uint4>(packs, sizeof(W));
}

// ---- sliding blocks -------------------------------------------------------------------------------------------------

// y[plane, tap, o] = x[plane, o * stride - pad + tap * dilation], 0 outside.
template <class T>
struct Unfold {
  Pool p;
  Divider by_width, by_height, by_columns, by_rows;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const Quotient w = by_width(e), h = by_height(w.quotient), b = by_columns(h.quotient), a = by_rows(b.quotient);
    const std::int64_t row = h.rest * p.stride[1] - p.pad[1] + a.rest * p.dilation[1],
                       col = w.rest * p.stride[2] - p.pad[2] + b.rest * p.dilation[2];
    const bool inside = row >= 0 && row < p.in[1] && col >= 0 && col < p.in[2];
    static_cast<T*>(p.y)[e] = inside ? static_cast<const T*>(p.x)[(a.quotient * p.in[1] + row) * p.in[2] + col] : T(0);
  }
};
template <class T>
void unfold(const Pool& p) {
  const std::int64_t n = p.planes * p.kernel[1] * p.kernel[2] * p.out[1] * p.out[2];
  for_each(n,
           Unfold<T>{p, Divider(p.out[2], n), Divider(p.out[1], n), Divider(p.kernel[2], n), Divider(p.kernel[1], n)});
}

// The adjoint: every element of x gathers the block elements that it went to, tap by tap.
template <class T>
struct Fold {
  Pool p;
  Divider by_width, by_height, by_row_step, by_column_step;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const Quotient w = by_width(e), h = by_height(w.quotient);
    const std::int64_t taps = p.kernel[1] * p.kernel[2], blocks = p.out[1] * p.out[2];
    const T* y = static_cast<const T*>(p.y) + h.quotient * taps * blocks;
    T sum = 0;
    for (std::int64_t a = 0; a < p.kernel[1]; ++a) {
      const std::int64_t top = h.rest + p.pad[1] - a * p.dilation[1];
      if (top < 0) break;
      const Quotient i = by_row_step(top);
      if (i.rest != 0 || i.quotient >= p.out[1]) continue;
      for (std::int64_t b = 0; b < p.kernel[2]; ++b) {
        const std::int64_t left = w.rest + p.pad[2] - b * p.dilation[2];
        if (left < 0) break;
        const Quotient j = by_column_step(left);
        if (j.rest != 0 || j.quotient >= p.out[2]) continue;
        sum += y[(a * p.kernel[2] + b) * blocks + i.quotient * p.out[2] + j.quotient];
      }
    }
    static_cast<T*>(p.x)[e] = sum;
  }
};
template <class T>
void fold(const Pool& p) {
  const std::int64_t n = p.planes * p.in[1] * p.in[2];
  for_each(n, Fold<T>{p, Divider(p.in[2], n), Divider(p.in[1], n), Divider(p.stride[1], p.in[1] + p.pad[1]),
                      Divider(p.stride[2], p.in[2] + p.pad[2])});
}

}  // namespace

void register_resample(KernelTable& t) {
  ResampleKernels& k = family<ResampleKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.axis_map[idx<T>] = axis_map<T>;
    k.unfold[idx<T>] = unfold<T>;
    k.fold[idx<T>] = fold<T>;
  });
  k.plane_map[0] = plane_map<std::uint8_t>;
  k.plane_map[1] = plane_map<std::uint16_t>;
  k.plane_map[2] = plane_map<std::uint32_t>;
  k.plane_map[3] = plane_map<std::uint64_t>;
}

}  // namespace pydlx::cuda
