// Weight gradient of bfloat16 convolutions as implicit products of pairs: dw[k][r] = sum over images and pixels of
// dy[k][pixel] x[r][pixel], r running over channels and taps. K runs over pixels, which are pairs in both operands: dy
// is transposed once, into panels of 64 channels, and every r is a line of x.
#include "cpu/conv/pairs_last.h"
#include "cpu/conv/pairs_pixels.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kViews = 8, kGradPixels = kViews * kColumns;  // of a block of sums
constexpr std::int64_t kRowElements = kGradPixels + 2 * kWords;      // off the cache-set period

struct GradPlan {
  std::int64_t rows, total, panels;  // of dy
  // Rows at a time: 256 KB of lines or sums. Every share finds out anew what its pixels see, at a cost per tap.
  std::int64_t share, shares;
  explicit GradPlan(const ConvShape& c)
      : rows(c.cin * plane_of(c.kernel)),
        total(c.batch * plane_of(c.out)),
        panels(ceil_div(c.cout, kColumns)),
        share(min_of(share_of(rows, (plane_of(c.kernel) > 16 ? 4 : 2) * c.groups),
                     max_of(kTileRows, min_of(192, 1024 / panels) / kTileRows * kTileRows))),
        shares(ceil_div(rows, share)) {}
  std::int64_t words() const { return ceil_div(total, 2); }
  std::int64_t width() const { return panels * kColumns; }
  std::int64_t packed_bytes(std::int64_t groups) const { return rounded(groups * width() * words() * 4); }
  std::int64_t bytes(std::int64_t taps) const {
    return rounded(share * kRowElements * 2) + rounded(share * width() * 4) + kViews * View::bytes(taps);
  }
};

// Pixels [first, first + 32) of a channel, counted over all images; zeros past the last.
PYDLX_INLINE Words pixels_along(const T* channel, std::int64_t plane, std::int64_t image, std::int64_t first,
                                std::int64_t total) {
  std::int64_t n = first / plane, done = 0;
  const std::int64_t count = min_of(2 * kWords, total - first);
  Words sum{};
  while (done < count) {
    const std::int64_t at = first + done - n * plane, run = min_of(count - done, plane - at);
    const std::uint64_t lanes = ((std::uint64_t{1} << run) - 1) << done;
    sum = (Words)_mm512_or_si512(
        (__m512i)sum, _mm512_maskz_loadu_epi16(static_cast<__mmask32>(lanes), channel + n * image + at - done));
    done += run;
    ++n;
  }
  return sum;
}

// dy -> [group][block of pixels][panel][word][64 channels].
void pack_gradient(const ConvShape& c, const GradPlan& plan, const T* dy, float* out) {
  const std::int64_t plane = plane_of(c.out), image = c.groups * c.cout * plane,
                     blocks = ceil_div(plan.words(), kWords);
  parallel_for(c.groups * blocks, 65536 / (c.cout * 2 * kWords) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t group = u / blocks, s = u % blocks * kWords, block = s * 2 / kGradPixels * (kGradPixels / 2),
                         steps = min_of(kGradPixels / 2, plan.words() - block);
      for (std::int64_t k = 0; k < c.cout; k += kWords) {
        const T* from = dy + (group * c.cout + k) * plane;
        Words r[kWords];
#pragma GCC unroll 16
        for (int l = 0; l < kWords; ++l)
          r[l] = k + l < c.cout ? pixels_along(from + l * plane, plane, image, s * 2, plan.total) : Words{};
        transpose_square<float>(r);
        float* to = out + group * plan.width() * plan.words() + block * plan.width() + k / kColumns * steps * kColumns +
                    (s - block) * kColumns + k % kColumns;
#pragma GCC unroll 16
        for (int l = 0; l < kWords; ++l)
          if (s + l < plan.words()) store<float>(to + l * kColumns, r[l]);
      }
    }
  });
}

void weight_grad(const Conv& conv) {
  const ConvShape& c = conv.shape;
  if (first_layer_fits(c)) return first_layer_weight(conv);
  if (c.channels_last) return pairs_last_weight(conv);
  if (verbose_on) verbose_note(", implicit product of pairs (vdpbf16ps)");
  const GradPlan plan(c);
  char* memory = aligned(conv.scratch);
  float* packed = reinterpret_cast<float*>(memory);
  memory += plan.packed_bytes(c.groups);
  pack_gradient(c, plan, static_cast<const T*>(conv.y), packed);
  Pixels s;
  forward_pixels(c, conv.x, s);
  const std::int64_t taps = s.all_taps(), bytes = plan.bytes(taps), width = plan.width();
  parallel_for(c.groups * plan.shares, 1, [&](std::int64_t begin, std::int64_t end) {
    char* at = memory + thread_index() * bytes;
    T* lines = reinterpret_cast<T*>(at);
    at += rounded(plan.share * kRowElements * 2);
    float* sums = reinterpret_cast<float*>(at);
    at += rounded(plan.share * width * 4);
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t group = u / plan.shares, r0 = u % plan.shares * plan.share,
                         rows = min_of(plan.share, plan.rows - r0);
      for (std::int64_t p0 = 0; p0 < plan.total; p0 += kGradPixels) {
        const std::int64_t run = min_of(kGradPixels, plan.total - p0), views = ceil_div(run, kColumns);
        const View* view[kViews];
        for (std::int64_t i = 0; i < views; ++i)
          view[i] =
              view_of<false>(s, p0 + i * kColumns, min_of(kColumns, run - i * kColumns), at + i * View::bytes(taps));
        for (std::int64_t r = 0; r < rows; ++r) {
          const std::int64_t tap = (r0 + r) % taps, from = group * s.group + (r0 + r) / taps * s.channel + s.at[tap];
          for (std::int64_t i = 0; i < views; ++i)
            gather_line(s, *view[i], from, tap, lines + r * kRowElements + i * kColumns);
        }
        WordBlock<T> w;
        w.m = rows;
        w.n = c.cout;
        w.steps = ceil_div(run, 2);
        w.a = reinterpret_cast<const char*>(lines);
        w.a_row = kRowElements * 2;
        w.a_step = 4;
        w.ragged = false;  // lines and panels end in zeros
        w.b = packed + group * width * plan.words() + p0 / 2 * width;
        w.sums = sums;
        w.sums_row = width;
        w.first = p0 == 0;
        w.last = false;
        w.c = nullptr;
        w.c_row = 0;
        w.end = {1, 0, nullptr, false};
        Pairs::block(w);
      }
      store_turned(sums, width, rows, c.cout, static_cast<T*>(conv.w) + group * c.cout * plan.rows + r0, plan.rows);
    }
  });
}

std::int64_t weight_grad_scratch(const ConvShape& c) {
  if (c.channels_last) return pairs_last_scratch(c, ConvPass::weight_grad);
  if (!fits(c) || c.cout < 8 || c.cin * plane_of(c.kernel) < 16 || leave_to_winograd(c)) return -1;
  if (first_layer_fits(c)) return first_layer_scratch(c, ConvPass::weight_grad);
  const GradPlan plan(c);
  return 64 + plan.packed_bytes(c.groups) + num_threads() * plan.bytes(plane_of(c.kernel));
}

}  // namespace

void register_conv_pairs_weight_avx512_bf16(KernelTable& t) {
  ConvKernels& k = family<ConvKernels>(t);
  constexpr int type = static_cast<int>(DType::BFloat16), w = static_cast<int>(ConvPass::weight_grad);
  k.run[w][type] = weight_grad;
  k.scratch_size[w][type] = weight_grad_scratch;
}

}  // namespace pydlx::PYDLX_ISA
