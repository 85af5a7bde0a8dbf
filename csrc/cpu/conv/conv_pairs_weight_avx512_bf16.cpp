// Weight gradient of bfloat16 convolutions as implicit products of pairs: dw[k][r] = sum over images and pixels of
// dy[k][pixel] x[r][pixel], r running over channels and taps. K runs over pixels, which are pairs in both operands.
#include "cpu/conv/pairs_pixels.h"

namespace pydlx::PYDLX_ISA {
namespace {

std::int64_t joined_bytes(const ConvShape& c) { return rounded(c.batch * c.groups * c.cout * plane_of(c.out) * 2); }
constexpr std::int64_t kGradPixels = 512;                        // of a block of sums
constexpr std::int64_t kRowElements = kGradPixels + 2 * kWords;  // off the cache-set period
struct GradPlan {
  std::int64_t rows, blocks;   // of 64 rows
  std::int64_t share, shares;  // of the output channels
  std::int64_t together;       // blocks that use a piece of dy while it is in the second-level cache: 256 KB of sums
  explicit GradPlan(const ConvShape& c)
      : rows(c.cin * plane_of(c.kernel)),
        blocks(ceil_div(rows, kColumns)),
        share(share_of(c.cout, c.groups * blocks)),
        shares(ceil_div(c.cout, share)),
        together(max_of(1, min_of(1024 / share, c.groups * blocks * shares / (4 * num_threads())))) {}
  std::int64_t bytes() const {
    return rounded(kGradPixels / 2 * kColumns * 4) + rounded(kColumns * kRowElements * 2) +
           rounded(together * share * kColumns * 4);
  }
};

void weight_grad(const Conv& conv) {
  const ConvShape& c = conv.shape;
  if (verbose_on) verbose_note(", implicit product of pairs (vdpbf16ps)");
  char* memory = aligned(conv.scratch);
  const Bordered b = forward_borders(c);
  const T* x = with_borders(c, b, conv.x, c.cin, c.in, memory);
  // dy with the images side by side: pixels in pairs, whatever the size of an image.
  const std::int64_t out = plane_of(c.out), total = c.batch * out, channels = c.groups * c.cout;
  const T* dy = static_cast<const T*>(conv.y);
  if (c.batch > 1) {
    T* joined = reinterpret_cast<T*>(memory);
    parallel_for(channels, 32768 / (total + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k)
        for (std::int64_t n = 0; n < c.batch; ++n)
          std::memcpy(joined + k * total + n * out, dy + (n * channels + k) * out,
                      static_cast<std::size_t>(out) * sizeof(T));
    });
    dy = joined;
  }
  memory += joined_bytes(c);
  Pixels s;
  forward_pixels(c, b, x, s);
  const GradPlan plan(c);
  const std::int64_t sets = ceil_div(plan.blocks, plan.together);
  parallel_for(c.groups * sets * plan.shares, 1, [&](std::int64_t begin, std::int64_t end) {
    char* at = memory + thread_index() * plan.bytes();
    float* panel = reinterpret_cast<float*>(at);
    at += rounded(kGradPixels / 2 * kColumns * 4);
    T* lines = reinterpret_cast<T*>(at);
    float* sums = reinterpret_cast<float*>(at + rounded(kColumns * kRowElements * 2));
    Run runs[kGradPixels];
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t k0 = u % plan.shares * plan.share, set = u / plan.shares % sets,
                         group = u / plan.shares / sets, first = set * plan.together * kColumns,
                         last = min_of(plan.rows, first + plan.together * kColumns);
      for (std::int64_t p0 = 0; p0 < total; p0 += kGradPixels) {
        const std::int64_t run = min_of(kGradPixels, total - p0);
        const int n = runs_of(s, p0, run, 2 * kWords, runs);
        for (std::int64_t r0 = first; r0 < last; r0 += kColumns) {
          const std::int64_t rows = min_of(kColumns, last - r0);
          for (std::int64_t r = 0; r < rows; ++r) {
            const T* from = s.x + group * s.group + (r0 + r) / s.taps * s.channel + s.shift[(r0 + r) % s.taps];
            T* to = lines + r * kRowElements;  // a run may pass its end, where the next one follows
            if (from + runs[n - 1].at + 2 * kWords <= s.end)
              for (int i = 0; i < n; ++i)
                _mm512_storeu_si512(to + runs[i].first, _mm512_loadu_si512(from + runs[i].at));
            else
              for (int i = 0; i < n; ++i)
                _mm512_storeu_si512(to + runs[i].first, _mm512_maskz_loadu_epi16(runs[i].lanes, from + runs[i].at));
          }
          pack_words_b<Pairs>(lines, 1, kRowElements, run, rows, panel);
          WordBlock<T> w;
          w.m = min_of(plan.share, c.cout - k0);
          w.n = rows;
          w.steps = ceil_div(run, 2);
          w.a = reinterpret_cast<const char*>(dy + (group * c.cout + k0) * total + p0);
          w.a_row = total * 2;
          w.a_step = 4;
          w.ragged = run % 2 != 0;
          w.b = panel;
          w.sums = sums + (r0 - first) * plan.share;
          w.sums_row = kColumns;
          w.first = p0 == 0;
          w.last = p0 + run == total;
          w.c = static_cast<T*>(conv.w) + (group * c.cout + k0) * plan.rows + r0;
          w.c_row = plan.rows;
          w.end = {1, 0, nullptr, false};
          Pairs::block(w);
        }
      }
    }
  });
}

std::int64_t weight_grad_scratch(const ConvShape& c) {
  if (!fits(c) || c.cout < 8 || c.cin * plane_of(c.kernel) < 16 || leave_to_winograd(c)) return -1;
  return 64 + bordered_bytes(c, forward_borders(c), c.cin) + joined_bytes(c) + num_threads() * GradPlan(c).bytes();
}

}  // namespace

void register_conv_pairs_weight_avx512_bf16(KernelTable& t) {
  ConvKernels& k = family<ConvKernels>(t);
  constexpr int type = static_cast<int>(DType::BFloat16), w = static_cast<int>(ConvPass::weight_grad);
  k.run[w][type] = weight_grad;
  k.scratch_size[w][type] = weight_grad_scratch;
}

}  // namespace pydlx::PYDLX_ISA
