// One functor per PairLossOp: value and derivatives with respect to prediction and target. Shared by the CPU and CUDA
// backends.
#pragma once
#include "functors/math.h"
#include "functors/random.h"
#include "kernels/pair_loss.h"

namespace pydlx::functors {

// log(x) for x > 0, subnormals included.
template <class A>
PYDLX_HD A log_any(A x) {
  const bool small = x < (sizeof(A) == 8 ? A(0x1p-1022) : A(0x1p-126));
  return log_positive(small ? x * A(0x1p64) : x) - (small ? A(44.3614195558364998) : A(0));
}
// log(x) for x >= 0, bounded below by -100 as PyTorch bounds it in binary cross-entropy.
template <class A>
PYDLX_HD A bounded_log(A x) {
  return x <= A(3.720075976020836e-44) ? A(-100) : log_any(x);  // e^-100
}
// log(1 + x) for x > -1: the rounding of 1 + x is divided out again (Kahan).
template <class A>
PYDLX_HD A log_1p(A x) {
  const A u = A(1) + x;
  return u == A(1) ? x : log_positive(u) * (x / (u - A(1)));
}
template <class A>
PYDLX_HD A bounded_log_1m(A x) {  // log(1 - x) for x in [0, 1]
  return x >= A(1) ? A(-100) : log_1p(-x);
}
template <class A>
PYDLX_HD A sign_of(A d) {
  return d > A(0) ? A(1) : (d < A(0) ? A(-1) : d * A(0));  // NaN stays
}
// log(1 + e^-|x|)
template <class A>
PYDLX_HD A softplus_tail(A x) {
  return log_1p(math::exp(-math::abs(x)));
}

template <PairLossOp op>
struct Pair;

template <>
struct Pair<PairLossOp::mse> {
  template <class A>
  PYDLX_HD static A value(A x, A t, A) {
    return (x - t) * (x - t);
  }
  template <class A>
  PYDLX_HD static A dx(A x, A t, A) {
    return A(2) * (x - t);
  }
  template <class A>
  PYDLX_HD static A dt(A x, A t, A p) {
    return -dx(x, t, p);
  }
};
template <>
struct Pair<PairLossOp::l1> {
  template <class A>
  PYDLX_HD static A value(A x, A t, A) {
    return math::abs(x - t);
  }
  template <class A>
  PYDLX_HD static A dx(A x, A t, A) {
    return sign_of(x - t);
  }
  template <class A>
  PYDLX_HD static A dt(A x, A t, A p) {
    return -dx(x, t, p);
  }
};
template <>
struct Pair<PairLossOp::smooth_l1> {
  template <class A>
  PYDLX_HD static A value(A x, A t, A beta) {
    const A d = math::abs(x - t);
    return d < beta ? A(0.5) * d * d / beta : d - A(0.5) * beta;
  }
  template <class A>
  PYDLX_HD static A dx(A x, A t, A beta) {
    const A d = x - t;
    return math::abs(d) < beta ? d / beta : sign_of(d);
  }
  template <class A>
  PYDLX_HD static A dt(A x, A t, A p) {
    return -dx(x, t, p);
  }
};
template <>
struct Pair<PairLossOp::huber> {
  template <class A>
  PYDLX_HD static A value(A x, A t, A delta) {
    const A d = math::abs(x - t);
    return d <= delta ? A(0.5) * d * d : delta * (d - A(0.5) * delta);
  }
  template <class A>
  PYDLX_HD static A dx(A x, A t, A delta) {
    const A d = x - t;
    return math::abs(d) <= delta ? d : delta * sign_of(d);
  }
  template <class A>
  PYDLX_HD static A dt(A x, A t, A p) {
    return -dx(x, t, p);
  }
};
template <>
struct Pair<PairLossOp::bce> {
  template <class A>
  PYDLX_HD static A value(A x, A t, A) {
    return (t - A(1)) * bounded_log_1m(x) - t * bounded_log(x);
  }
  template <class A>
  PYDLX_HD static A dx(A x, A t, A) {
    const A spread = (A(1) - x) * x;
    return (x - t) / (spread < A(1e-12) ? A(1e-12) : spread);
  }
  template <class A>
  PYDLX_HD static A dt(A x, A, A) {
    return bounded_log_1m(x) - bounded_log(x);
  }
};
template <>
struct Pair<PairLossOp::bce_logits> {
  template <class A>
  PYDLX_HD static A value(A x, A t, A) {
    return (x > A(0) ? x : A(0)) - x * t + softplus_tail(x);
  }
  template <class A>
  PYDLX_HD static A dx(A x, A t, A) {
    const A e = math::exp(-math::abs(x));
    return (x >= A(0) ? A(1) : e) / (A(1) + e) - t;
  }
  template <class A>
  PYDLX_HD static A dt(A x, A, A) {
    return -x;
  }
};
template <>
struct Pair<PairLossOp::kl> {
  template <class A>
  PYDLX_HD static A value(A x, A t, A) {
    return t > A(0) ? t * (log_any(t) - x) : (t == A(0) ? A(0) * x : t * A(__builtin_nan("")));
  }
  template <class A>
  PYDLX_HD static A dx(A, A t, A) {
    return -t;
  }
  template <class A>
  PYDLX_HD static A dt(A x, A t, A) {
    return t > A(0) ? log_any(t) + A(1) - x : A(0);
  }
};
template <>
struct Pair<PairLossOp::kl_log> {
  template <class A>
  PYDLX_HD static A value(A x, A t, A) {
    return math::exp(t) * (t - x);
  }
  template <class A>
  PYDLX_HD static A dx(A, A t, A) {
    return -math::exp(t);
  }
  template <class A>
  PYDLX_HD static A dt(A x, A t, A) {
    return math::exp(t) * (t - x + A(1));
  }
};

}  // namespace pydlx::functors
