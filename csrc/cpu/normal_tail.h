// e^(a^2 / 2) Phi(-a) for a >= 0, Phi the normal distribution, the factor of its lower tail that varies slowly.
#pragma once
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA::vmath {
namespace {

#if defined(PYDLX_ISA_avx512)
// 32 intervals, eight to each octave of a + 1: points near their middle, and polynomials in the distance from them,
// lowest power first. The points are chosen so that the function's value there is a float to within 1e-9 (Gal's
// accurate tables, 1986); the polynomials are minimax fits from there. Relative error 6e-8 just above 3 and 7, 2e-8
// elsewhere.
alignas(64) constexpr float kNormalTail[6][32] = {
    {1.12503755f,   1.37351871f,  1.62237501f,  1.87723124f,  2.12256241f,  2.37366867f,  2.62436247f,  2.87745619f,
     3.25232506f,   3.74928761f,  4.24621248f,  4.74632502f,  5.25003767f,  5.75202513f,  6.24486256f,  6.75056267f,
     7.49429989f,   8.50990009f,  9.49782467f,  10.5085497f,  11.5093746f,  12.4931002f,  13.5032997f,  14.5091496f,
     0.0615156256f, 0.188306257f, 0.312537491f, 0.436909378f, 0.562171876f, 0.686103106f, 0.812959373f, 0.937678099f},
    {0.245326772f,  0.217787579f,  0.19523865f,   0.176138401f,  0.160720885f,  0.147319615f,  0.135862619f,
     0.12587139f,   0.113381833f,  0.100056164f,  0.0894319639f, 0.080733262f,  0.0734877363f, 0.0674267411f,
     0.0623574033f, 0.0578779988f, 0.0523315668f, 0.0462575629f, 0.0415526032f, 0.0376287512f, 0.0344064198f,
     0.0317322239f, 0.0293846261f, 0.0273671169f, 0.476374775f,  0.432926267f,  0.396201521f,  0.364246458f,
     0.336130321f,  0.311692357f,  0.289619952f,  0.270386517f},
    {-0.122940257f,  -0.0998068526f,  -0.0821918994f,  -0.0682897195f,  -0.057802137f,   -0.0492543019f,
     -0.0423895083f, -0.0367528573f,  -0.0301875919f,  -0.0238028839f,  -0.0191951264f,  -0.0157559589f,
     -0.0131288841f, -0.011101963f,   -0.00952886231f, -0.00823321939f, -0.00675379438f, -0.00529502612f,
     -0.0042829318f, -0.00351867336f, -0.00294590252f, -0.00250842655f, -0.00215286645f, -0.00186868792f,
     -0.369637668f,  -0.317419469f,   -0.275114387f,   -0.239799544f,   -0.209979236f,   -0.185089156f,
     -0.163493007f,  -0.145406753f},
    {0.0535070151f,   0.0403505154f,   0.0309463404f,   0.0239713099f,   0.0190161131f,   0.0152030922f,
     0.0123085789f,   0.0100583071f,   0.00760074984f,  0.00540603651f,  0.0039626332f,   0.00297513488f,
     0.00228026533f,  0.00178396108f,  0.00142547174f,  0.00114955625f,  0.000858191517f, 0.000598638202f,
     0.000436993927f, 0.000326271547f, 0.000250444253f, 0.000197089001f, 0.000156904949f, 0.00012701661f,
     0.226818129f,    0.186576918f,    0.155109107f,    0.129737929f,    0.10904295f,     0.0923511758f,
     0.0783533752f,   0.0670208856f},
    {-0.0209632553f,   -0.0148254167f,   -0.0106815398f,   -0.00777645921f,  -0.00582197541f,  -0.00439516036f,
     -0.00336652668f,  -0.00260661216f,  -0.00182969577f,  -0.0011819707f,   -0.000791870698f, -0.000546327326f,
     -0.000386605301f, -0.00028070627f,  -0.000209329897f, -0.000157902046f, -0.000107936379f, -6.71250164e-05f,
     -4.42857636e-05f, -3.00838346e-05f, -2.11899078e-05f, -1.54218942e-05f, -1.1394819e-05f,  -8.60671207e-06f,
     -0.118678816f,    -0.0941813886f,   -0.0756096467f,   -0.0610858686f,   -0.0495950766f,   -0.0406054333f,
     -0.0332861319f,   -0.0275369305f},
    {0.0075096176f,   0.00500408839f,  0.00340451975f,  0.00235719793f,  0.00166753144f,  0.00119619805f,
     0.000871224387f, 0.00064228609f,  0.000420700468f, 0.00024785311f,  0.000152263412f, 9.70976835e-05f,
     6.38217316e-05f, 4.31517583e-05f, 3.00143693e-05f, 2.13061849e-05f, 1.32757286e-05f, 7.44746285e-06f,
     4.42660394e-06f, 2.75279604e-06f, 1.78351434e-06f, 1.19474487e-06f, 8.22885852e-07f, 5.80720155e-07f,
     0.0549212024f,   0.0422972329f,   0.0328612626f,   0.0257554166f,   0.0202964768f,   0.0160929915f,
     0.012839824f,    0.0103102326f},
};

PYDLX_INLINE Vector<float> normal_entry(int row, VectorOf<float>::index at) {
  return (Vector<float>)_mm512_permutex2var_ps(_mm512_load_ps(kNormalTail[row]), (__m512i)at,
                                               _mm512_load_ps(kNormalTail[row] + 16));
}
// Half the rounding errors of a quotient of polynomials, and no division.
PYDLX_INLINE Vector<float> normal_tail(Vector<float> a) {
  using I = VectorOf<float>::index;
  // The exponent's last two bits and three more, which are all that the permutation looks at; 1 .. 2 comes at 24.
  const I at = (I)(a + 1.0f) >> 20;
  const Vector<float> d = a - normal_entry(0, at);
  const Vector<float> high = normal_entry(3, at) + d * (normal_entry(4, at) + d * normal_entry(5, at));
  return normal_entry(1, at) + d * (normal_entry(2, at) + d * high);
}
#else
// A rational minimax fit with relative error 6e-9; evaluating it leaves some 4 ULP.
PYDLX_INLINE Vector<float> normal_tail(Vector<float> a) {
  const Vector<float> z = a * a;
  const Vector<float> p =
      (0.5f + a * 4.384960532e-01f) + z * ((1.833842993e-01f + a * 4.068356007e-02f) + z * 4.123794381e-03f);
  const Vector<float> q = (1.0f + a * 1.674877048f) +
                          z * ((1.203122377f + a * 4.698644578e-01f) + z * (1.019849405e-01f + a * 1.033670083e-02f));
  return p / q;
}
#endif

}  // namespace
}  // namespace pydlx::PYDLX_ISA::vmath
