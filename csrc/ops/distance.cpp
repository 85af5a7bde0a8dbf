#include "ops/distance.h"

#include "autograd/node.h"
#include "kernels/distance.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/logic.h"
#include "ops/math.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

constexpr const char* kName = "cdist";

Distances describe(const Tensor& a, const Tensor& b) {
  Distances k;
  k.batch = a.size(0);
  k.rows_a = a.size(1);
  k.rows_b = b.size(1);
  k.features = a.size(2);
  k.a = a.data();
  k.b = b.data();
  return k;
}

Tensor differences(const Tensor& a, const Tensor& b) { return sub(unsqueeze(a, 2), unsqueeze(b, 1)); }

// g / distance, 0 where the distance is.
Tensor slopes(const Tensor& g, const Tensor& distance) {
  const Tensor zero = wrap_scalar(0.0), apart = gt(distance, zero);
  return where(apart, div(g, where(apart, distance, wrap_scalar(1.0))), zero);
}

}  // namespace

Tensor euclidean_distances(const Tensor& a, const Tensor& b) {
  for (const Tensor* t : {&a, &b})
    require(t->ndim() == 3, kName, t == &a ? "x1" : "x2", ErrorKind::Shape, "expected (N, rows, features), got shape ",
            t->sizes());
  require(a.size(0) == b.size(0) && a.size(2) == b.size(2), kName, "x2", ErrorKind::Shape, "expected (", a.size(0),
          ", rows, ", a.size(2), "), got shape ", b.sizes());
  require(a.dtype() == b.dtype(), kName, "x2", ErrorKind::DType, "expected ", a.dtype(), " like x1, got ", b.dtype());
  const Device device = common_device(kName, {&a, &b});
  const auto fn = kernels<DistanceKernels>(device).forward[static_cast<int>(a.dtype())];
  const bool half = a.dtype() == DType::Float16 || a.dtype() == DType::BFloat16;
  if (half && !fn && kernels<DistanceKernels>(device).forward[static_cast<int>(DType::Float32)])
    return to_dtype(euclidean_distances(to_dtype(a, DType::Float32), to_dtype(b, DType::Float32)), a.dtype());
  if (!fn || a.numel() == 0 || b.numel() == 0) return vector_norm(differences(a, b), Scalar(2.0), Axes({3}), false);
  const Tensor x = contiguous(detach(a)), y = contiguous(detach(b));
  Tensor out = empty({x.size(0), x.size(1), y.size(1)}, x.dtype(), device);
  Distances k = describe(x, y);
  k.out = out.data();
  fn(k);
  if (any_requires_grad(a, b))
    record(kName, out, {&a, &b}, [a = save(a), b = save(b), out = Saved(out, 0)](Backward& bw) {
      const Tensor u = a.get(bw), v = b.get(bw), slope = slopes(bw.grad(), out.get(bw));
      if (bw.create_graph) {
        const Tensor pulls = mul(differences(u, v), unsqueeze(slope, 3));
        if (bw.needs(0)) bw.set(0, sum(pulls, {2}, false));
        if (bw.needs(1)) bw.set(1, neg(sum(pulls, {1}, false)));
        return;
      }
      const Tensor x = contiguous(u), y = contiguous(v), s = contiguous(slope);
      const Tensor da = bw.needs(0) ? empty(x.sizes(), x.dtype(), x.device()) : Tensor(),
                   db = bw.needs(1) ? empty(y.sizes(), y.dtype(), y.device()) : Tensor();
      Distances k = describe(x, y);
      k.slope = s.data();
      k.da = data_or_null(da);
      k.db = data_or_null(db);
      kernels<DistanceKernels>(x.device()).backward[static_cast<int>(x.dtype())](k);
      if (da.defined()) bw.set(0, da);
      if (db.defined()) bw.set(1, db);
    });
  return out;
}

}  // namespace pydlx::ops
