// Activation functions and their derivatives. A backward functor takes (gradient, x), or (gradient, y) where the output
// is what the op keeps; parameters are those of the forward functor.
#pragma once
#include "functors/error_function.h"
#include "functors/types.h"
#include "kernels/pointwise.h"

namespace pydlx::functors {

template <UnaryOp op>
struct Act;
template <BinaryOp op>
struct ActGrad;

template <>
struct Act<UnaryOp::leaky_relu> {  // param: slope
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double* param) {
    return x > T(0) ? x : x * static_cast<T>(param[0]);
  }
};

template <>
struct Act<UnaryOp::elu> {  // param: negative coefficient, positive coefficient, scale of the exponent; serves elu,
                            // selu and celu
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double* param) {
    const T low = static_cast<T>(param[0]) * math::expm1((x > T(0) ? T(0) : x) * static_cast<T>(param[2]));
    return x > T(0) ? x * static_cast<T>(param[1]) : low;
  }
};

template <>
struct Act<UnaryOp::gelu> {  // x Phi(x) (Hendrycks and Gimpel 2016)
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::gelu(x);
  }
};

// x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3), which equals x (1 + tanh u) / 2. The clamp keeps u finite;
// sigmoid is 0 or 1 there, in double, too.
template <class T>
PYDLX_HD T gelu_tanh_gate(T x, T& slope) {
  const T c = x > T(32) ? T(32) : (x < T(-32) ? T(-32) : x), z = c * c;
  slope = T(1.5957691216057307) * (T(1) + T(0.134145) * z);  // d(2u)/dx
  return math::sigmoid(T(1.5957691216057307) * c * (T(1) + T(0.044715) * z));
}

template <>
struct Act<UnaryOp::gelu_tanh> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    T slope;
    return x * gelu_tanh_gate(x, slope);
  }
};

template <>
struct Act<UnaryOp::silu> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return x * math::sigmoid(x);
  }
};

// tanh(log(1 + e^x)) = n / (n + 2) with n = e^x (e^x + 2); 1 beyond x = 20 to working precision.
template <class T>
PYDLX_HD T mish_gate(T x, T& n, T& e) {
  const T limit = sizeof(T) == 4 ? T(20) : T(40);
  e = math::exp(x > limit ? limit : x);
  n = e * (e + T(2));
  return n / (n + T(2));
}

template <>
struct Act<UnaryOp::mish> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    T n, e;
    return x * mish_gate(x, n, e);
  }
};

template <>
struct Act<UnaryOp::softplus> {  // param: beta, threshold
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double* param) {
    const T beta = static_cast<T>(param[0]), z = beta * x, limit = static_cast<T>(param[1]);
    const T soft = ((z > T(0) ? z : T(0)) + math::log1p_unit(math::exp(-math::abs(z)))) / beta;
    return z > limit ? x : soft;
  }
};

template <>
struct Act<UnaryOp::hardsigmoid> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    const T z = x + T(3), low = z < T(0) ? T(0) : z;
    return (low > T(6) ? T(6) : low) / T(6);
  }
};

template <>
struct Act<UnaryOp::hardswish> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    const T z = x + T(3), low = z < T(0) ? T(0) : z;
    return x * ((low > T(6) ? T(6) : low) * T(1.0 / 6));
  }
};

template <>
struct Act<UnaryOp::log_sigmoid> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return (x < T(0) ? x : T(0)) - math::log1p_unit(math::exp(-math::abs(x)));
  }
};

template <>
struct Act<UnaryOp::threshold> {  // param: threshold, value
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T x, const double* param) {
    return x <= static_cast<T>(param[0]) ? static_cast<T>(param[1]) : x;
  }
};

template <>
struct Act<UnaryOp::hardshrink> {  // param: lambda
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double* param) {
    const T limit = static_cast<T>(param[0]);
    return x >= -limit && x <= limit ? T(0) : x;
  }
};

template <>
struct Act<UnaryOp::softshrink> {  // param: lambda
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double* param) {
    const T limit = static_cast<T>(param[0]);
    const T inner = x != x ? x : T(0);
    return x > limit ? x - limit : (x < -limit ? x + limit : inner);
  }
};

// ---- derivatives ----------------------------------------------------------------------------------------------------

// (gradient, output) -> gradient where the output is positive, or NaN. Written on the output, so that relu can run in
// place.
template <>
struct ActGrad<BinaryOp::relu_backward> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T g, T y, const double*) {
    return y <= T(0) ? T(0) : g;
  }
};

template <>
struct ActGrad<BinaryOp::sigmoid_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T y, const double*) {
    return g * (T(1) - y) * y;
  }
};

template <>
struct ActGrad<BinaryOp::tanh_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T y, const double*) {
    return g * (T(1) - y * y);
  }
};

// Inside the bounds, which count as inside unless param[2] says otherwise (hardtanh excludes them, clamp does not).
template <>
struct ActGrad<BinaryOp::clamp_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double* param) {
    const T low = static_cast<T>(param[0]), high = static_cast<T>(param[1]);
    const bool open = param[2] != 0;
    return (open ? x > low && x < high : x >= low && x <= high) ? g : T(0);
  }
};

template <>
struct ActGrad<BinaryOp::leaky_relu_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double* param) {
    return x > T(0) ? g : g * static_cast<T>(param[0]);
  }
};

template <>
struct ActGrad<BinaryOp::prelu> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, T slope, const double*) {
    return x > T(0) ? x : x * slope;
  }
};

template <>
struct ActGrad<BinaryOp::elu_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double* param) {
    const T scale = static_cast<T>(param[2]);
    const T low = static_cast<T>(param[0]) * scale * math::exp((x > T(0) ? T(0) : x) * scale);
    return g * (x > T(0) ? static_cast<T>(param[1]) : low);
  }
};

template <>
struct ActGrad<BinaryOp::gelu_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double*) {
    T kernel;
    const T cdf = math::normal_cdf(x, kernel);
    return g * (cdf + x * T(0.39894228040143267794) * kernel);
  }
};

template <>
struct ActGrad<BinaryOp::gelu_tanh_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double*) {
    T slope;
    const T s = gelu_tanh_gate(x, slope);
    return g * (s + x * (s * (T(1) - s) * slope));
  }
};

template <>
struct ActGrad<BinaryOp::silu_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double*) {
    const T s = math::sigmoid(x);
    return g * (s * (T(1) + x * (T(1) - s)));
  }
};

// gate + x sigmoid(x) (1 - gate^2), where 1 - gate^2 = 4 (n + 1) / (n + 2)^2 does not cancel.
template <>
struct ActGrad<BinaryOp::mish_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double*) {
    T n, e;
    const T gate = mish_gate(x, n, e), d = T(1) / (n + T(2));
    return g * (gate + x * (e / (T(1) + e)) * (T(4) * (n + T(1)) * d * d));
  }
};

template <>
struct ActGrad<BinaryOp::softplus_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double* param) {
    const T z = x * static_cast<T>(param[0]);
    return z > static_cast<T>(param[1]) ? g : g * math::sigmoid(z);
  }
};

template <>
struct ActGrad<BinaryOp::hardsigmoid_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double*) {
    return x > T(-3) && x < T(3) ? g / T(6) : T(0);
  }
};

template <>
struct ActGrad<BinaryOp::hardswish_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double*) {
    return x <= T(-3) ? T(0) : (x < T(3) ? g * (x / T(3) + T(0.5)) : g);
  }
};

template <>
struct ActGrad<BinaryOp::log_sigmoid_backward> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double*) {
    return g * math::sigmoid(-x);
  }
};

template <>
struct ActGrad<BinaryOp::threshold_backward> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double* param) {
    return x <= static_cast<T>(param[0]) ? T(0) : g;
  }
};

template <>
struct ActGrad<BinaryOp::shrink_backward> {  // hardshrink and softshrink
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T g, T x, const double* param) {
    const T limit = static_cast<T>(param[0]);
    return x >= -limit && x <= limit ? T(0) : g;
  }
};

}  // namespace pydlx::functors
