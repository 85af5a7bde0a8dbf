// Convolutions of bfloat16 on channels-last images as products of pairs of channels (see cpu/gemm/pairs.h). Forward and
// input gradient: rows are pixels, whose channels under every tap are copied side by side, or read in place for 1x1
// kernels; weights are packed once per call. The weight gradient is in conv_last_weight_avx512_bf16.cpp, layers with
// few channels are in conv_first_avx512_bf16.cpp.
#include "cpu/conv/last_product.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kPixels = 96, kBlockWords = 640;               // of a block: 252 KB of lines
constexpr std::int64_t kLineElements = 2 * kBlockWords + 2 * kWords;  // off the cache-set period

// The pixels of a phase of the stride.
LastProduct gradient_product(const ConvShape& c, std::int64_t fh, std::int64_t fw) {
  LastProduct p;
  Pixels& s = p.pixels;
  const std::int64_t phase[2] = {fh, fw};
  int tap[2][kMostTaps];
  for (int i = 0; i < 2; ++i)
    for (std::int64_t k = 0; k < c.kernel[1 + i]; ++k) {
      const std::int64_t from = phase[i] + c.pad[1 + i] - k * c.dilation[1 + i];
      if (from % c.stride[1 + i] != 0) continue;
      tap[i][s.taps[i]] = static_cast<int>(k);
      s.shift[i][s.taps[i]++] = static_cast<int>(from / c.stride[1 + i]);
    }
  s.height = (c.in[1] - fh - 1) / c.stride[1] + 1;
  s.width = (c.in[2] - fw - 1) / c.stride[2] + 1;
  set_grid(p, c.out);
  s.place_taps();
  for (int t = 0; t < s.all_taps(); ++t)
    p.tap[t] = tap[0][t / s.taps[1]] * static_cast<int>(c.kernel[2]) + tap[1][t % s.taps[1]];
  p.batch = c.batch;
  p.groups = c.groups;
  p.channels = c.cout;
  p.x_pixel = c.groups * c.cout;
  p.outputs = c.cin;
  const std::int64_t taps = plane_of(c.kernel);
  p.w_group = c.cout * c.cin * taps;
  p.w_channel = c.cin * taps;
  p.w_tap = c.weights_last ? c.cin : 1;
  p.w_output = c.weights_last ? 1 : taps;
  p.y_pixel = c.stride[2] * c.groups * c.cin;
  p.y_row = c.stride[1] * c.in[2] * c.groups * c.cin;
  p.y_image = plane_of(c.in) * c.groups * c.cin;
  return p;
}

std::int64_t packed_floats(const LastProduct& p) { return p.groups * p.panels() * p.words() * kColumns; }

// -> [group][panel][tap, pair of channels][64 outputs]
void pack_weights(const LastProduct& p, float* out) {
  const std::int64_t taps = p.pixels.all_taps(), panels = p.panels(), half = p.half();
  parallel_for(p.groups * panels * taps, 16384 / (half * kColumns) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t t = u % taps, panel = u / taps % panels, group = u / taps / panels;
      pack_words_b<Pairs>(p.w + group * p.w_group + p.tap[t] * p.w_tap + panel * kColumns * p.w_output, p.w_channel,
                          p.w_output, p.channels, min_of(kColumns, p.outputs - panel * kColumns),
                          out + u * half * kColumns);
    }
  });
}

// n elements (zeros where `from` is null) and zeros up to a whole vector, which the next ones overwrite.
PYDLX_INLINE void copy_channels(const T* from, std::int64_t n, T* to) {
  std::int64_t l = 0;
  for (; l + 2 * kWords <= n; l += 2 * kWords)
    _mm512_storeu_si512(to + l, from ? _mm512_loadu_si512(from + l) : _mm512_setzero_si512());
  if (l < n)
    _mm512_storeu_si512(to + l,
                        from ? _mm512_maskz_loadu_epi16((1u << (n - l)) - 1, from + l) : _mm512_setzero_si512());
}

// Words [s0, s1) of pixels; `place` has, for every pixel and tap, the pixel that it sees or -1.
void gather_lines(const LastProduct& p, std::int64_t group, const std::int32_t* place, std::int64_t count,
                  std::int64_t s0, std::int64_t s1, T* lines) {
  const std::int64_t taps = p.pixels.all_taps(), half = max_of(1, p.half()), pixel = p.x_pixel, t0 = s0 / half;
  const T* x = p.x + group * p.channels;
  for (std::int64_t i = 0; i < count; ++i) {
    T* to = lines + i * kLineElements;
    const std::int32_t *seen = place + i * taps, *later = place + min_of(i + kPixelsAhead, count - 1) * taps;
    std::int64_t skip = s0 - t0 * half;
    for (std::int64_t s = s0, t = t0; s < s1; ++t, skip = 0) {
      const std::int64_t first = skip * 2, words = min_of(s1 - s, half - skip),
                         n = min_of(2 * words, p.channels - first);
      for (std::int64_t l = 0; l < n; l += 2 * kWords) __builtin_prefetch(x + later[t] * pixel + first + l);
      copy_channels(seen[t] < 0 ? nullptr : x + seen[t] * pixel + first, n, to);
      to += 2 * words;
      s += words;
    }
  }
}

struct LastPlan {
  std::int64_t blocks, shares, width;  // of pixels; of the panels; columns of a share
  explicit LastPlan(const LastProduct& p)
      : blocks(ceil_div(ceil_div(p.total(), kPixels), num_threads()) * num_threads()),
        shares(min_of(p.panels(), max_of(1, 8 * num_threads() / (p.groups * blocks)))),
        width(ceil_div(p.panels(), shares) * kColumns) {
    shares = ceil_div(p.panels() * kColumns, width);
  }
  std::int64_t bytes(std::int64_t taps) const {
    return rounded(kPixels * kLineElements * 2) + rounded(kPixels * width * 4) + rounded(kPixels * width * 2) +
           rounded(kPixels * taps * 4);
  }
};

// act(bias + scale * sum), a scale per column.
void finish_scaled(const LastProduct& p, std::int64_t k0, std::int64_t columns, const float* sums,
                   std::int64_t sums_row, std::int64_t rows, T* to, std::int64_t row) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; j += kWords) {
      const int count = static_cast<int>(min_of(kWords, columns - j));
      Words v = load(sums + i * sums_row + j) * widen_load(p.scale + k0 + j, count);
      if (p.bias) v += widen_load(p.bias + k0 + j, count);
      if (p.relu) v = v < Words{} ? Words{} : v;  // NaN stays NaN
      narrow_store(to + i * row + j, v, count);
    }
}

void run_last(const LastProduct& p, const float* packed, char* buffers) {
  const Pixels& s = p.pixels;
  const LastPlan plan(p);
  const std::int64_t total = p.total(), words = p.words(), taps = s.all_taps(), panels = p.panels(),
                     blocks = words > kBlockWords ? ceil_div(words, kBlockWords) : 1, block = ceil_div(words, blocks),
                     groups_of_six = ceil_div(total, kTileRows), bytes = plan.bytes(taps);
  const bool in_place = p.in_place(), one_run = p.y_row == s.width * p.y_pixel && p.y_image == s.plane() * p.y_pixel;
  parallel_for(p.groups * plan.blocks * plan.shares, 1, [&](std::int64_t begin, std::int64_t end) {
    char* at = buffers + thread_index() * bytes;
    T* lines = reinterpret_cast<T*>(at);
    at += rounded(kPixels * kLineElements * 2);
    float* sums = reinterpret_cast<float*>(at);
    at += rounded(kPixels * plan.width * 4);
    T* spill = reinterpret_cast<T*>(at);
    std::int32_t* place = reinterpret_cast<std::int32_t*>(at + rounded(kPixels * plan.width * 2));
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t share = u % plan.shares, b = u / plan.shares % plan.blocks,
                         group = u / plan.shares / plan.blocks, first = groups_of_six * b / plan.blocks * kTileRows,
                         last = min_of(total, groups_of_six * (b + 1) / plan.blocks * kTileRows), count = last - first,
                         k0 = share * plan.width, k1 = min_of(p.outputs, k0 + plan.width);
      if (count <= 0) continue;
      if (!in_place) place_pixels(s, first, count, place);
      T* y = p.y + group * p.outputs + k0;
      std::int64_t s0 = 0;
      do {  // once without any words too
        const std::int64_t s1 = min_of(words, s0 + block);
        if (!in_place) gather_lines(p, group, place, count, s0, s1, lines);
        for (std::int64_t k = k0; k < k1; k += kColumns) {
          WordBlock<T> w;
          w.m = count;
          w.n = min_of(kColumns, k1 - k);
          w.steps = s1 - s0;
          w.a = in_place ? reinterpret_cast<const char*>(p.x + (first * p.groups + group) * p.channels + s0 * 2)
                         : reinterpret_cast<const char*>(lines);
          w.a_row = (in_place ? p.groups * p.channels : kLineElements) * 2;
          w.a_step = 4;
          w.ragged = false;
          w.ahead = in_place;
          w.b = packed + ((group * panels + k / kColumns) * words + s0) * kColumns;
          w.sums = sums + k - k0;
          w.sums_row = plan.width;
          w.first = s0 == 0;
          w.last = s1 == words && !p.scale;
          w.c = one_run ? y + first * p.y_pixel + k - k0 : spill + k - k0;
          w.c_row = one_run ? p.y_pixel : plan.width;
          w.end = {1, 0, p.bias ? p.bias + group * p.outputs + k : nullptr, p.relu};
          Pairs::block(w);
        }
        s0 = s1;
      } while (s0 < words);
      if (p.scale)
        finish_scaled(p, group * p.outputs + k0, k1 - k0, sums, plan.width, count,
                      one_run ? y + first * p.y_pixel : spill, one_run ? p.y_pixel : plan.width);
      if (one_run) continue;
      std::int64_t image = first / s.plane(), h = first % s.plane() / s.width, x = first % s.width;
      for (std::int64_t i = 0; i < count; ++i) {
        std::memcpy(y + image * p.y_image + h * p.y_row + x * p.y_pixel, spill + i * plan.width,
                    static_cast<std::size_t>(k1 - k0) * sizeof(T));
        if (++x < s.width) continue;
        x = 0;
        if (++h < s.height) continue;
        h = 0;
        ++image;
      }
    }
  });
}

std::int64_t scratch_of(const LastProduct& p) {
  return rounded(packed_floats(p) * 4) + num_threads() * LastPlan(p).bytes(p.pixels.all_taps());
}

}  // namespace

void pairs_last_data(const Conv& conv, ConvPass pass) {
  const ConvShape& c = conv.shape;
  const bool forward = pass == ConvPass::forward;
  if (forward && first_layer_fits(c)) return first_layer_forward(conv);
  if (verbose_on) verbose_note(", products of pairs of channels-last pixels (vdpbf16ps)");
  char* memory = aligned(conv.scratch);
  float* packed = reinterpret_cast<float*>(memory);
  const std::int64_t phases[2] = {forward ? 1 : min_of(c.stride[1], c.in[1]),
                                  forward ? 1 : min_of(c.stride[2], c.in[2])};
  for (std::int64_t i = 0; i < phases[0] * phases[1]; ++i) {
    const std::int64_t fh = i / phases[1], fw = i % phases[1];
    LastProduct p = forward ? forward_product(c) : gradient_product(c, fh, fw);
    p.w = static_cast<const T*>(conv.w);
    p.x = static_cast<const T*>(forward ? conv.x : conv.y);
    p.y = static_cast<T*>(forward ? conv.y : conv.x) + (fh * c.in[2] + fw) * c.groups * (forward ? 0 : c.cin);
    p.bias = static_cast<const T*>(conv.bias);
    p.scale = static_cast<const T*>(conv.scale);
    p.relu = conv.activation == Activation::relu;
    pack_weights(p, packed);
    run_last(p, packed, memory + rounded(packed_floats(p) * 4));
  }
}

bool pairs_last_fits(const ConvShape& c, ConvPass pass) {
  return fits(c) && c.batch * max_of(plane_of(c.in), plane_of(c.out)) < std::int64_t{1} << 31 &&
         ((pass == ConvPass::input_grad ? c.cout : c.cin) >= 16 ||
          (pass != ConvPass::input_grad && first_layer_fits(c))) &&
         c.cout >= 8;
}

std::int64_t pairs_last_scratch(const ConvShape& c, ConvPass pass) {
  if (pass != ConvPass::input_grad && first_layer_fits(c)) return first_layer_scratch(c, pass);
  if (pass == ConvPass::weight_grad) return pairs_last_weight_scratch(c);
  if (pass == ConvPass::forward) return 64 + scratch_of(forward_product(c));
  std::int64_t most = 0;
  for (std::int64_t fh = 0; fh < min_of(c.stride[1], c.in[1]); ++fh)
    for (std::int64_t fw = 0; fw < min_of(c.stride[2], c.in[2]); ++fw)
      most = max_of(most, scratch_of(gradient_product(c, fh, fw)));
  return 64 + most;
}

void register_conv_last_avx512_bf16(KernelTable& t) {
  ConvKernels& k = family<ConvKernels>(t);
  constexpr int type = static_cast<int>(DType::BFloat16);
  k.channels_last[static_cast<int>(ConvPass::forward)][type] = [](const ConvShape& c) {
    return pairs_last_fits(c, ConvPass::forward);
  };
  k.channels_last[static_cast<int>(ConvPass::input_grad)][type] = [](const ConvShape& c) {
    return pairs_last_fits(c, ConvPass::input_grad);
  };
  k.channels_last[static_cast<int>(ConvPass::weight_grad)][type] = [](const ConvShape& c) {
    return pairs_last_fits(c, ConvPass::weight_grad);
  };
}

}  // namespace pydlx::PYDLX_ISA
