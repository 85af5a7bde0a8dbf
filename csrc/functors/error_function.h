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
  const double first = 1.0 - 8.0 * r, less = 8.0 * r * rest, t = first - less, z = t * t;
  const double even =
      horner(z, 1.017286887209563807e-9, -1.539538725730334148e-8, 1.239482429408652689e-7, -8.460177853816428308e-7,
             4.694337038326041605e-6, -3.635151741778763897e-6, -4.550526883615747245e-4, 6.112055656705106879e-3,
             0.07638151490915429109, 0.3308515878780232122, 0.773208702265236858);
  const double odd =
      horner(z, -3.839133166474483763e-10, 2.61153136270681645e-9, -7.797874052460887269e-8, 1.42609283427890237e-6,
             -1.886178451582585228e-5, 1.76813086551095151e-4, -2.809589158198437238e-4, -0.02637005333462836762,
             -0.1740109372402891263, -0.5408538313132249531);
  const double s = -0.9765487290808820831 + t * (even + t * odd), h = t * s, p = 1.095995661000491062 + h,
               value = p * r;
  const double t_rest = (first - t) - less;  // times the slope, as if p were a parabola
  return {value,
          product_rest(p, r, value) + r * ((p * rest + t_rest * (s + s + 0.98)) + ((1.095995661000491062 - p) + h))};
}
// e^(-factor a^2) = (1 + m) 2^n, for factor 1 or 1/2 without what the rounding of the square would make of it.
PYDLX_HD double exp_minus_square(double a, double factor, double& n) {
  const double square = a * a, rest = product_rest(a, a, square), magic = 6755399441055744.0;
  n = (square * (factor * -1.4426950408889634) + magic) - magic;
  const double small = n * 1.90821492927058770002e-10 + factor * rest;  // added before anything is rounded
  const double r = (-factor * square - n * 6.93147180369123816490e-01) - small;
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
// The cdf at -a for a >= 0 is 2^n / 2 (value + rest), the density (times sqrt(2 pi)) 2^n (1 + m). Both vanish from 38.6
// on, where `bounded` stops.
struct NormalTail {
  double value, rest, m, n, bounded;
};
PYDLX_HD NormalTail normal_tail(double a) {
  const double c = a > 38.6 ? 38.6 : a;
  double n;
  const double m = exp_minus_square(c, 0.5, n);
  const double root = 0x1.6a09e667f3bcdp-1, root_rest = -0x1.bdd3413b26456p-55, b = c * root;  // of 1/2
  const TailFactor f = erfcx_parts(b, product_rest(c, root, b) + c * root_rest);
  return {f.value, f.value * m + f.rest, m, n, c};
}
// Max error 3 ULP.
PYDLX_HD double normal_cdf(double x, double& kernel) {
  const NormalTail k = normal_tail(abs(x));
  const double tail = scale(0.5 * (k.value + k.rest), k.n);
  kernel = scale(1.0 + k.m, k.n);
  return x < 0.0 ? tail : 1.0 - tail;
}
// x cdf(x).
PYDLX_HD float gelu(float x) {
  float kernel;
  return x * normal_cdf(x, kernel);
}
// As max(x, 0) - |x| cdf(-|x|), whose product is rounded together with the cdf. NaN at -infinity, as the product is.
// Max error 3 ULP.
PYDLX_HD double gelu(double x) {
  const NormalTail k = normal_tail(abs(x));
  const double p = k.bounded * k.value;
  const double tail = scale(0.5 * (p + (product_rest(k.bounded, k.value, p) + k.bounded * k.rest)), k.n);
  return (x > 0.0 ? x : 0.0 * x) - tail;
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
struct Either {
  bool first;
  PYDLX_HD double operator()(double a, double b) const { return first ? a : b; }
};
// With the same w, one polynomial in w up to 7.5, from there on another in its root (relative errors of the fits
// 2e-17): what they add to the argument, or to nearly the root times it, so that their own rounding hardly shows. Max
// error 2.5 ULP.
PYDLX_HD double erfinv(double x) {
  const double a = abs(x);
  std::uint64_t k;
  const double f = significand((1.0 - a) * (1.0 + a), k), e = exponent_of(k);
  const double high = e * 6.93147180369123816490e-01, low = f + (e * 1.90821492927058770002e-10 + log_tail(f));
  const double w = -(high + low), s = sqrt(w), square = s * s;
  // What the roundings of w and its root have lost, over roughly 2 s.
  const double lost = (((w - square) - product_rest(s, s, square)) - ((high + w) + low)) * (0.24 - 0.027 * s);
  const bool central = w < 7.5;
  const Either pick{central};
  const double v = pick(w - 2.25, (s - 4.375) + lost), z = v * v;
  const double even = horner(
      z, pick(-4.277359727811966695e-25, 1.707716471022170991e-14),
      pick(-1.085283519592229367e-21, -2.88233311458682103e-13),
      pick(-1.419872148670011084e-19, -9.160595938602224114e-13),
      pick(5.121328820988215717e-18, 3.178927080712007042e-11),
      pick(2.216068350289048338e-17, 1.160248063675841389e-10),
      pick(-1.164692250797331812e-14, -2.66829937331297438e-9),
      pick(7.778201943820786787e-13, -1.067747855437232337e-8),
      pick(-3.051025575309911471e-11, 1.026343382643360928e-7), pick(4.483231965415085961e-10, 8.859687451211768585e-7),
      pick(4.003699567057579689e-8, 3.088453409283126513e-6), pick(-4.215970810419730677e-6, 0.00001514050578378758853),
      pick(0.0002210355290759127169, 0.0001764568690152108173),
      pick(-0.003155372200942818794, 0.0005034976081888687402));
  const double odd = horner(z, pick(3.52167773368163638e-23, -4.517215353076450571e-14),
                            pick(1.716125929478515603e-20, 1.335463751324364074e-12),
                            pick(3.240430536086454781e-19, -6.444688083308297348e-12),
                            pick(-4.837660147225552019e-17, -9.411720256867394315e-11),
                            pick(2.177176560651674555e-15, 4.099087494240984885e-10),
                            pick(-4.749410365336339347e-14, 7.503835636793059145e-9),
                            pick(-1.417784545704352511e-12, -8.479925187268886151e-9),
                            pick(2.139223438843779778e-10, -3.614538486499262346e-7),
                            pick(-1.260995079512983901e-8, -1.748265501681959865e-6),
                            pick(4.259312829074034016e-7, -5.886528643698368122e-6),
                            pick(7.398829376358174621e-7, -0.00005073378491277870998),
                            pick(-0.001472948540355195972, -0.0005110908204071519101));
  const double p = pick(0.4395086296840070869, -0.031519292347084143) +
                   v * (pick(0.2484803354817564409, 0.010129552387974702) + v * (even + v * odd));
  const double r = central ? a + a * p : a * ((s - 0.125) + (p + lost));
  return copysign(a < 1.0 ? r : (a == 1.0 ? kInfinity<double> : kNaN<double>), x);
}

}  // namespace pydlx::math
