// Convolution of bfloat16 as implicit products of pairs (see cpu/gemm/pairs.h): K runs over channels and taps, 64
// pixels at a time are the columns, and sums are float32. Operands are read as they are.
//
// Two-dimensional layers only. Where Winograd's algorithm in float32 needs less time, and with few channels, the shape
// is refused and the op widens its operands as on other processors.
#include "cpu/conv/pairs_last.h"
#include "cpu/conv/pairs_pixels.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kBlockWords = 1024;  // of a panel: at most 256 KB
constexpr std::int64_t kMostPanels = 2;     // that a tile has
// Weights beyond this stay in the third-level cache, and every row of them meets two panels.
constexpr std::int64_t kNearBytes = 512 << 10;

// y[m][pixel] = activation(bias[m] + scale[m] * sum over channels and taps of a[m][word] x[word][pixel]), for one
// group.
struct Product {
  Pixels pixels;
  bool by_channel = false;  // words are pairs of channels of one tap; else pairs in the order (channel, tap)
  std::int64_t batch = 0, m = 0;
  const char* a = nullptr;
  std::int64_t a_group = 0, a_row = 0;  // bytes
  const T *bias = nullptr, *scale = nullptr;
  bool relu = false;
  T* y = nullptr;
  std::int64_t y_image = 0, y_group = 0, y_channel = 0, y_row = 0, y_step = 1;
  std::int64_t steps() const {
    return by_channel ? pixels.all_taps() * ceil_div(pixels.channels, 2)
                      : ceil_div(pixels.channels * pixels.all_taps(), 2);
  }
};

std::int64_t panels_of(std::int64_t m, std::int64_t steps) { return m * steps * 4 > kNearBytes ? kMostPanels : 1; }

std::int64_t block_words(std::int64_t steps) { return steps == 0 ? 0 : ceil_div(steps, ceil_div(steps, kBlockWords)); }

std::int64_t product_bytes(std::int64_t m, std::int64_t steps, std::int64_t taps) {
  const std::int64_t panels = panels_of(m, steps), columns = panels * kColumns;
  return rounded(min_of(steps, kBlockWords) * columns * 4) + (steps > kBlockWords ? rounded(m * columns * 4) : 0) +
         rounded(m * columns * 2) + panels * View::bytes(taps);
}

// Words [s0, s1) of the panel of the pixels in `v`.
void gather_panel(const Product& p, std::int64_t group, const View& v, std::int64_t s0, std::int64_t s1, float* panel) {
  const Pixels& s = p.pixels;
  const std::int64_t taps = s.all_taps(), half = max_of(1, ceil_div(s.channels, 2)), from = group * s.group;
  std::int64_t c = p.by_channel ? s0 % half * 2 : s0 * 2 / taps, t = p.by_channel ? s0 / half : s0 * 2 % taps;
  for (std::int64_t w = s0; w < s1; ++w, panel += kColumns) {
    const std::int64_t tap = t, a = from + c * s.channel + s.at[t];
    if (p.by_channel) {
      const bool two = c + 1 < s.channels;
      gather_pair(s, v, a, tap, two ? a + s.channel : a, two ? tap : taps, panel);
      c += 2;
      if (c >= s.channels) {
        c = 0;
        ++t;
      }
    } else {
      const auto next = [&] {
        if (++t == taps) {
          t = 0;
          ++c;
        }
      };
      next();
      const bool two = c < s.channels;
      gather_pair(s, v, a, tap, two ? from + c * s.channel + s.at[t] : a, two ? t : taps, panel);
      next();
    }
  }
}

// Results of pixels that are not one run of memory: [rows][spill_row] -> y.
void scatter(const Product& p, const T* spill, std::int64_t spill_row, std::int64_t rows, std::int64_t first,
             std::int64_t count, T* y) {
  const Pixels& s = p.pixels;
  const bool planes = p.y_step == 1 && p.y_row == s.width;
  const std::int64_t height = planes ? 1 : s.height, width = planes ? s.plane() : s.width, rest = first % s.plane();
  std::int64_t at = first / s.plane(), h = rest / width, w = rest % width;
  for (std::int64_t j = 0; j < count;) {
    const std::int64_t run = min_of(count - j, width - w);
    T* to = y + at * p.y_image + h * p.y_row + w * p.y_step;
    for (std::int64_t i = 0; i < rows; ++i, to += p.y_channel) {
      const T* from = spill + i * spill_row + j;
      if (p.y_step == 1)
        for (std::int64_t l = 0; l < run; l += 2 * kWords) {
          const __mmask32 part = static_cast<__mmask32>((std::uint64_t{1} << min_of(2 * kWords, run - l)) - 1);
          _mm512_mask_storeu_epi16(to + l, part, _mm512_maskz_loadu_epi16(part, from + l));
        }
      else
        for (std::int64_t l = 0; l < run; ++l) to[l * p.y_step] = from[l];
    }
    j += run;
    w = 0;
    if (++h < height) continue;
    h = 0;
    ++at;
  }
}

void product_tile(const Product& p, std::int64_t group, std::int64_t first, std::int64_t count, std::int64_t m0,
                  std::int64_t m1, char* memory) {
  const Pixels& s = p.pixels;
  const std::int64_t steps = p.steps(), block = block_words(steps), rows = m1 - m0, panels = ceil_div(count, kColumns),
                     row = panels * kColumns;
  float* panel = reinterpret_cast<float*>(memory);
  memory += rounded(block * row * 4);
  float* sums = reinterpret_cast<float*>(memory);
  if (steps > kBlockWords) memory += rounded(rows * row * 4);
  T* spill = reinterpret_cast<T*>(memory);
  memory += rounded(rows * row * 2);
  const View* view[kMostPanels];
  for (std::int64_t i = 0; i < panels; ++i)
    view[i] = view_of<true>(s, first + i * kColumns, min_of(kColumns, count - i * kColumns),
                            memory + i * View::bytes(s.all_taps()));
  const std::int64_t image = first / s.plane(), rest = first % s.plane();
  const bool direct = p.y_step == 1 && (s.height == 1 || p.y_row == s.width) && rest + count <= s.plane();
  T* y = p.y + group * p.y_group + m0 * p.y_channel;
  std::int64_t s0 = 0;
  do {  // once without any words too
    const std::int64_t s1 = min_of(steps, s0 + block);
    for (std::int64_t i = 0; i < panels; ++i)
      gather_panel(p, group, *view[i], s0, s1, panel + i * (s1 - s0) * kColumns);
    WordBlock<T> b;
    b.m = rows;
    b.n = count;
    b.steps = s1 - s0;
    b.a = p.a + group * p.a_group + m0 * p.a_row + s0 * 4;
    b.a_row = p.a_row;
    b.a_step = 4;
    b.ragged = !p.by_channel && s1 == steps && s.channels * s.all_taps() % 2 != 0;
    b.b = panel;
    b.sums = sums;
    b.sums_row = row;
    b.first = s0 == 0;
    b.last = s1 == steps;
    b.c = direct ? y + image * p.y_image + rest : spill;
    b.c_row = direct ? p.y_channel : row;
    b.end = {1, 0, nullptr, p.relu};
    b.row_bias = p.bias ? p.bias + group * p.m + m0 : nullptr;
    b.row_scale = p.scale ? p.scale + group * p.m + m0 : nullptr;
    Pairs::block(b);
    s0 = s1;
  } while (s0 < steps);
  if (!direct) scatter(p, spill, row, rows, first, count, y);
}

void run_product(const Product& p, std::int64_t groups, char* buffers) {
  // Vectors of pixels are spread over tiles: one of three keeps the multipliers busy, one of a single vector does not.
  const std::int64_t total = p.batch * p.pixels.plane(), vectors = ceil_div(total, kWords),
                     tiles = ceil_div(total, panels_of(p.m, p.steps()) * kColumns),
                     threads = in_parallel_region() ? 1 : num_threads(),
                     bytes = product_bytes(p.m, p.steps(), p.pixels.all_taps());
  // Rows of a tile are cut where threads would wait for one another. Neighbouring shares are one product.
  std::int64_t share = share_of(p.m, groups * tiles), shares = ceil_div(p.m, share);
  if (shares == 1 && p.m >= 96 && groups * tiles % threads != 0 && groups * tiles < 32 * threads) {
    share = ceil_div(p.m, 2 * kTileRows) * kTileRows;
    shares = 2;
  }
  const double work = 4.0 * static_cast<double>(share) * static_cast<double>((p.steps() + 1) * kColumns);
  parallel_for(groups * tiles * shares, work > 2e6 ? 1 : static_cast<std::int64_t>(2e6 / work) + 1,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t u = begin, next; u < end; u = next) {
                   const std::int64_t unit = u / shares, tile = unit % tiles, first = vectors * tile / tiles * kWords,
                                      last = min_of(total, vectors * (tile + 1) / tiles * kWords);
                   next = min_of(end, (unit + 1) * shares);
                   product_tile(p, unit / tiles, first, last - first, u % shares * share,
                                min_of(p.m, (next - unit * shares) * share), buffers + thread_index() * bytes);
                 }
               });
}

// ---- forward

void forward(const Conv& conv) {
  const ConvShape& c = conv.shape;
  if (c.channels_last) return pairs_last_data(conv, ConvPass::forward);
  if (verbose_on) verbose_note(", implicit product of pairs (vdpbf16ps)");
  char* memory = aligned(conv.scratch);
  Product p;
  forward_pixels(c, conv.x, p.pixels);
  p.batch = c.batch;
  p.m = c.cout;
  p.a = static_cast<const char*>(conv.w);
  p.a_row = c.cin * plane_of(c.kernel) * 2;
  p.a_group = c.cout * p.a_row;
  p.bias = static_cast<const T*>(conv.bias);
  p.scale = static_cast<const T*>(conv.scale);
  p.relu = conv.activation == Activation::relu;
  p.y = static_cast<T*>(conv.y);
  p.y_channel = plane_of(c.out);
  p.y_group = c.cout * p.y_channel;
  p.y_image = c.groups * p.y_group;
  p.y_row = c.out[2];
  run_product(p, c.groups, memory);
}

// ---- input gradient: one product per phase of the stride, of the taps that its pixels see

struct Phases {
  std::int64_t count[2];                                       // per axis
  std::int64_t tap_phase[2][kMostTaps], offset[2][kMostTaps];  // output index minus lattice index
};

Phases phases_of(const ConvShape& c) {
  Phases f;
  for (int i = 0; i < 2; ++i) {
    const std::int64_t s = c.stride[1 + i];
    f.count[i] = min_of(s, c.in[1 + i]);
    for (std::int64_t k = 0; k < c.kernel[1 + i]; ++k) {
      const std::int64_t r = (k * c.dilation[1 + i] - c.pad[1 + i]) % s, phase = r < 0 ? r + s : r;
      f.tap_phase[i][k] = phase;
      f.offset[i][k] = (phase + c.pad[1 + i] - k * c.dilation[1 + i]) / s;
    }
  }
  return f;
}

std::int64_t turned_bytes(const ConvShape& c) {
  return rounded(c.groups * c.cin * plane_of(c.kernel) * ceil_div(c.cout, 2) * 4);
}

// Weights [cout][line] of one group -> words along cout for every line; line l goes to out + place(l), or nowhere when
// that is negative.
template <class Place>
void turn_weights(const T* w, std::int64_t lines, std::int64_t cout, float* out, const Place& place) {
  const std::int64_t words = ceil_div(cout, 2);
  parallel_for(ceil_div(lines, kWords), 16384 / (kWords * cout) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * kWords; i < min_of(lines, end * kWords); i += kWords) {
      const int count = static_cast<int>(min_of(kWords, lines - i));
      for (std::int64_t s = 0; s < words; s += kWords) {
        Words r[kWords];
#pragma GCC unroll 16
        for (int l = 0; l < kWords; ++l) {
          const std::int64_t k = (s + l) * 2;
          r[l] = k < cout ? Pairs::across(w + k * lines + i, lines, k + 1 < cout, count) : Words{};
        }
        transpose_square<float>(r);
        const Lanes part(static_cast<int>(min_of(kWords, words - s)));
#pragma GCC unroll 16
        for (int l = 0; l < kWords; ++l) {
          const std::int64_t at = l < count ? place(i + l) : -1;
          if (at >= 0) store_part(out + at + s, r[l], part);
        }
      }
    }
  });
}

void input_grad(const Conv& conv) {
  const ConvShape& c = conv.shape;
  if (c.channels_last) return pairs_last_data(conv, ConvPass::input_grad);
  if (verbose_on) verbose_note(", implicit product of pairs (vdpbf16ps)");
  char* memory = aligned(conv.scratch);
  const Phases f = phases_of(c);
  float* turned = reinterpret_cast<float*>(memory);
  memory += turned_bytes(c);
  // Words as [group][phase][cin][tap of the phase][pair of cout].
  const std::int64_t taps = plane_of(c.kernel), words = ceil_div(c.cout, 2), group_words = c.cin * taps * words;
  std::int64_t place[kMostTaps], width[kMostTaps], start = 0;
  for (std::int64_t t = 0; t < taps; ++t) place[t] = -1;
  for (std::int64_t phase = 0; phase < f.count[0] * f.count[1]; ++phase) {
    const auto in_phase = [&](std::int64_t t) {
      return f.tap_phase[0][t / c.kernel[2]] == phase / f.count[1] &&
             f.tap_phase[1][t % c.kernel[2]] == phase % f.count[1];
    };
    std::int64_t n = 0;
    for (std::int64_t t = 0; t < taps; ++t)
      if (in_phase(t)) place[t] = start + n++ * words;
    for (std::int64_t t = 0; t < taps; ++t)
      if (in_phase(t)) width[t] = n * words;
    start += c.cin * n * words;
  }
  for (std::int64_t g = 0; g < c.groups; ++g)
    turn_weights(static_cast<const T*>(conv.w) + g * c.cout * c.cin * taps, c.cin * taps, c.cout,
                 turned + g * group_words, [&](std::int64_t line) {
                   const std::int64_t t = line % taps;
                   return place[t] < 0 ? -1 : place[t] + line / taps * width[t];  // a pixel of its phase may not exist
                 });
  start = 0;
  for (std::int64_t phase = 0; phase < f.count[0] * f.count[1]; ++phase) {
    const std::int64_t fh = phase / f.count[1], fw = phase % f.count[1];
    Product p;
    Pixels& s = p.pixels;
    set_planes(s, conv.y, c.batch, c.groups, c.cout, c.out);
    const std::int64_t at[2] = {fh, fw};
    for (int i = 0; i < 2; ++i)
      for (std::int64_t k = 0; k < c.kernel[1 + i]; ++k)
        if (f.tap_phase[i][k] == at[i]) s.shift[i][s.taps[i]++] = static_cast<int>(f.offset[i][k]);
    s.place_taps();
    s.height = (c.in[1] - fh - 1) / c.stride[1] + 1;
    s.width = (c.in[2] - fw - 1) / c.stride[2] + 1;
    p.by_channel = true;
    p.batch = c.batch;
    p.m = c.cin;
    p.a = reinterpret_cast<const char*>(turned + start);
    p.a_row = s.all_taps() * words * 4;
    p.a_group = group_words * 4;
    p.bias = static_cast<const T*>(conv.bias);
    p.y = static_cast<T*>(conv.x) + fh * c.in[2] + fw;
    p.y_channel = plane_of(c.in);
    p.y_group = c.cin * p.y_channel;
    p.y_image = c.groups * p.y_group;
    p.y_row = c.stride[1] * c.in[2];
    p.y_step = c.stride[2];
    start += c.cin * s.all_taps() * words;
    run_product(p, c.groups, memory);
  }
}

// ---- which shapes

std::int64_t forward_scratch(const ConvShape& c) {
  if (c.channels_last) return pairs_last_scratch(c, ConvPass::forward);
  const std::int64_t rows = c.cin * plane_of(c.kernel);
  if (!fits(c) || c.cout < 8 || rows < 16 || leave_to_winograd(c)) return -1;
  return 64 + num_threads() * product_bytes(c.cout, ceil_div(rows, 2), plane_of(c.kernel));
}

std::int64_t input_grad_scratch(const ConvShape& c) {
  if (c.channels_last) return pairs_last_scratch(c, ConvPass::input_grad);
  if (!fits(c) || (c.cin < 8 && (c.cin < 3 || c.cout < 32)) || c.cout < 8 || leave_to_winograd(c)) return -1;
  const std::int64_t taps = plane_of(c.kernel);
  return 64 + turned_bytes(c) + num_threads() * product_bytes(c.cin, taps * ceil_div(c.cout, 2), taps);
}

}  // namespace

void register_conv_pairs_avx512_bf16(KernelTable& t) {
  ConvKernels& k = family<ConvKernels>(t);
  constexpr int type = static_cast<int>(DType::BFloat16), f = static_cast<int>(ConvPass::forward),
                g = static_cast<int>(ConvPass::input_grad);
  k.run[f][type] = forward;
  k.run[g][type] = input_grad;
  k.scratch_size[f][type] = forward_scratch;
  k.scratch_size[g][type] = input_grad_scratch;
}

}  // namespace pydlx::PYDLX_ISA
