// The error function, its complement and inverse, and the normal distribution, branch-free (see functors/math.h). On
// GPUs those of double are CUDA's own.
#pragma once
#include "functors/math.h"

namespace pydlx::math {

// erf(x) for small |x|: x + x q(x^2), so that the rounding of q hardly shows. |x| <= 0.94, relative error of the fit
// 6e-10; |x| <= 0.84, 9e-18.
PYDLX_HD float erf_small(float x) {
  return x + x * horner(x * x, 8.193777467e-05f, -8.099877159e-04f, 5.197154824e-03f, -2.685779147e-02f,
                        1.128366590e-01f, -3.761263192e-01f, 1.283792257e-01f);
}
PYDLX_HD double erf_small(double x) {
  return x + x * horner(x * x, 1.074446622525787382e-8, -1.572027539152552164e-7, 1.640242585352956494e-6,
                        -1.492218130161951045e-5, 1.205520261378094669e-4, -8.548323863936743575e-4,
                        5.223977577557415396e-3, -0.02686617064088626244, 0.1128379167093577634, -0.3761263890318340963,
                        0.1283791670955125586);
}
// e^(a^2) erfc(a) for a in [0, 15] in t = 1 / (1 + a/2), relative error 4.4e-8.
template <class T>
PYDLX_HD T erfcx(T a) {
  const T t = T(1) / (T(1) + T(0.5) * a);
  return t * horner(t, T(-5.938610435e-02f), T(2.861224115e-01f), -4.904035330e-01f, 2.817305326e-01f,
                    -2.914700098e-02f, 2.037520409e-01f, 2.428351939e-01f, 2.824120820e-01f, 2.820843458e-01f);
}
// The same for a in [0, 27.3] as value + rest: p(t) / (a + 4) in t = (a - 4) / (a + 4) (after Shepherd and
// Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x", 1981), relative error 3.2e-18. `rest` is what
// the last steps lost. Even and odd powers apart: one long chain would take longer than its operations; but the first
// terms last, whose rounding shows.
struct TailFactor {
  double value, rest;
};
PYDLX_HD TailFactor erfcx_parts(double a, double a_rest = 0.0) {
  const double sum = a + 4.0, r = 1.0 / sum, one = r * sum;
  const double rest = ((1.0 - one) - product_rest(r, sum, one)) - r * ((a - (sum - 4.0)) + a_rest);
  const double t = (1.0 - 8.0 * r) - 8.0 * r * rest, z = t * t;
  const double even =
      horner(z, 1.017286887209563807e-9, -1.539538725730334148e-8, 1.239482429408652689e-7, -8.460177853816428308e-7,
             4.694337038326041605e-6, -3.635151741778763897e-6, -4.550526883615747245e-4, 6.112055656705106879e-3,
             0.07638151490915429109, 0.3308515878780232122, 0.773208702265236858);
  const double odd =
      horner(z, -3.839133166474483763e-10, 2.61153136270681645e-9, -7.797874052460887269e-8, 1.42609283427890237e-6,
             -1.886178451582585228e-5, 1.76813086551095151e-4, -2.809589158198437238e-4, -0.02637005333462836762,
             -0.1740109372402891263, -0.5408538313132249531);
  const double h = t * (-0.9765487290808820831 + t * (even + t * odd)), p = 1.095995661000491062 + h, value = p * r;
  return {value, product_rest(p, r, value) + r * (p * rest + ((1.095995661000491062 - p) + h))};
}
// e^(-factor a^2) = (1 + m) 2^n, for factor 1 or 1/2 without what the rounding of the square would make of it.
PYDLX_HD double exp_minus_square(double a, double factor, double& n) {
  const double square = a * a, r = reduce_ln2(-factor * square, n) - factor * product_rest(a, a, square);
  return r + r * r * exp_tail(r);
}
inline constexpr float kErfSplit = 0.92f;

// Max error 2 ULP.
PYDLX_HD float erf(float x) {
  const float a = abs(x), c = a > 4.0f ? 4.0f : a;
  const float large = 1.0f - exp(-c * c) * erfcx(c);
  return a < kErfSplit ? erf_small(x) : copysign(large, x);
}
// Max error 1.5 ULP.
PYDLX_HD double erf(double x) {
  if constexpr (kOnDevice) return __builtin_erf(x);
  const double a = abs(x), c = a > 6.0 ? 6.0 : a;
  const double large = 1.0 - exp(-c * c) * erfcx_parts(c).value;
  return a < 0.84 ? erf_small(x) : copysign(large, x);
}
// In double where erf x is nearly 1/2 and more: an error of the square would be multiplied by x^2, and the polynomial
// loses digits beside erf x. Max error 2 ULP, subnormal results included.
PYDLX_HD float erfc(float x) {
  const float a = abs(x), c = a > 15.0f ? 15.0f : a;
  const double d = c;
  const float large = static_cast<float>(exp(-d * d) * erfcx(d));
  return a < 0.47f ? 1.0f - erf_small(x) : (x < 0.0f ? 2.0f - large : large);
}
// Max error 3 ULP.
PYDLX_HD double erfc(double x) {
  if constexpr (kOnDevice) return __builtin_erfc(x);
  const double a = abs(x), c = a > 27.3 ? 27.3 : a;
  double n;
  const double m = exp_minus_square(c, 1.0, n);
  const TailFactor f = erfcx_parts(c);
  const double large = scale(f.value + (f.value * m + f.rest), n);
  return a < 0.47 ? 1.0 - erf_small(x) : (x < 0.0 ? 2.0 - large : large);
}

// The normal distribution: cdf and density * sqrt(2 pi). The tail keeps its relative accuracy (1 + erf would cancel).
PYDLX_HD float normal_cdf(float x, float& kernel) {
  const float z = x * 0.70710678f, a = abs(z), c = a > 13.0f ? 13.0f : a;
  kernel = exp(-c * c);
  const float tail = 0.5f * kernel * erfcx(c);
  return x < 0.0f ? tail : 1.0f - tail;
}
// The cdf at -a for a >= 0.
PYDLX_HD double normal_tail(double a, double& kernel) {
  const double c = a > 38.6 ? 38.6 : a;
  double n;
  const double m = exp_minus_square(c, 0.5, n);
  kernel = scale(1.0 + m, n);
  const double root = 0x1.6a09e667f3bcdp-1, root_rest = -0x1.bdd3413b26456p-55, b = c * root;  // of 1/2
  const TailFactor f = erfcx_parts(b, product_rest(c, root, b) + c * root_rest);
  return scale(0.5 * (f.value + (f.value * m + f.rest)), n);
}
// Max error 3 ULP.
PYDLX_HD double normal_cdf(double x, double& kernel) {
  const double tail = normal_tail(abs(x), kernel);
  return x < 0.0 ? tail : 1.0 - tail;
}
// x cdf(x).
PYDLX_HD float gelu(float x) {
  float kernel;
  return x * normal_cdf(x, kernel);
}
// Max error 3.5 ULP.
PYDLX_HD double gelu(double x) {
  double kernel;
  const double tail = normal_tail(abs(x), kernel), c = x > 40.0 ? 40.0 : x;
  return x < 0.0 ? x * tail : x - c * tail;
}

// Inverse of erf after Giles ("Approximating the erfinv function", 2010): his variable w = -log(1 - x^2) and his two
// ranges, with polynomials of our own (relative errors of the fits 6e-9 and 2e-8). Max error 2.5 ULP.
PYDLX_HD float erfinv(float x) {
  const float w = -log((1.0f - x) * (1.0f + x)), v = w - 2.5f;
  const float u = sqrt(w) - 3.0f;
  const float centre =
      horner(v, -8.791014874e-09f, 2.323262167e-08f, 4.661700912e-07f, -3.462704483e-06f, -4.963345242e-06f,
             2.183444384e-04f, -1.252741883e-03f, -4.177386780e-03f, 2.466402862e-01f, 5.01409359e-01f);
  const float tail =
      horner(u, 9.850016113e-05f, -2.910190240e-04f, -3.300417909e-05f, 1.461594206e-03f, -3.609467751e-03f,
             5.696172895e-03f, -7.634707607e-03f, 9.444176688e-03f, 1.001674800e+00f, 2.832976820e+00f);
  const float y = w < 5.0f ? x + x * centre : x * tail;
  return copysign(abs(x) == 1.0f ? kInfinity<float> : y, x);
}
// An estimate in the same way (relative errors of the fits 2.2e-6 and 1.1e-6, with the float form's logarithm), then
// three terms of the Taylor series of the inverse: d is the residual over the slope 2 / sqrt(pi) e^(-y^2). Where erf
// is more than 0.76, the residual is that of erfc, with 1 - |x| exact. Max error 2.5 ULP.
PYDLX_HD double erfinv(double x) {
  const double a = abs(x);
  std::uint64_t k;
  const double f = significand((1.0 - a) * (1.0 + a), k), z = f * f;
  const double p = horner(f, 6.746637821e-02, -1.167565063e-01, 1.188816279e-01, -1.240558997e-01, 1.421955228e-01,
                          -1.666799635e-01, 2.000211924e-01, -2.500000894e-01, 3.333331347e-01);
  const double w = -log_sum(exponent_of(k), f, z * f * p - 0.5 * z), v = w - 2.5, u = sqrt(w) - 4.0;
  const double centre =
      horner(v, -3.30803954054785688e-6, -6.625258559735968117e-7, 2.18481613483120069e-4, -1.265258688360606154e-3,
             -4.1789449598290309e-3, 0.2466495966339193602, 1.501410112845754208);
  const double tail = horner(u, 1.78252213603966126e-5, -7.891614022087112983e-5, 9.049989913385954527e-5,
                             -2.769688200629036464e-5, 2.563229956221225233e-4, -9.420831922528936442e-4,
                             1.292879785102558085e-3, 1.009510931830095659, 3.839781479565455236);
  const double y = a * (w < 5.0 ? centre : tail), square = y * y, grown = exp(square);
  const double d =
      (a < 0.76 ? (a - erf_small(y)) * grown : erfcx_parts(y).value - (1.0 - a) * grown) * 0.88622692545275801365;
  const double r = y + d * (1.0 + d * (y + d * (1.0 + 4.0 * square) * (1.0 / 3.0)));
  return copysign(a < 1.0 ? r : (a == 1.0 ? kInfinity<double> : kNaN<double>), x);
}

}  // namespace pydlx::math
