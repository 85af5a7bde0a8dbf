// Convolution as products of matrices that are never formed (implicit GEMM): positions are turned into addresses while
// panels are fetched. Groups are the batch of the product; weight gradients are split over images and positions, and
// the parts are added in order. Operands of 16 and 32 bits are multiplied by the tensor cores and summed in float.
#include "cuda/conv/conv_depthwise.h"
#include "cuda/conv/conv_first.h"
#include "cuda/conv/conv_last.h"
#include "cuda/conv/problem.cuh"
#include "cuda/gemm/warp_tile.cuh"
#include "cuda/libraries/cudnn.h"
#include "cuda/runtime/pack.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

template <class T>
struct Problem : ConvProblem<T> {
  using ConvProblem<T>::c;
  bool a_along_k = true, b_along_k = false;
  static constexpr int kBlocks = 2;  // left to itself the compiler aims at that, and spills

  using ConvProblem<T>::ConvProblem;
  // The input position that tap `tap` of output `o` looks at; false outside the image.
  __device__ __forceinline__ bool look(const Position& o, const Position& tap, std::int64_t (&at)[3]) const {
    bool inside = true;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      at[d] = o.at[d] * c.shape.stride[d] - c.shape.pad[d] + tap.at[d] * c.shape.dilation[d];
      inside = inside && at[d] >= 0 && at[d] < c.shape.in[d];
    }
    return inside;
  }
  __device__ __forceinline__ std::int64_t x_at(std::int64_t image, std::int64_t group, std::int64_t channel) const {
    return ((image * c.shape.groups + group) * c.shape.cin + channel) * this->in.count;
  }
  __device__ __forceinline__ std::int64_t y_at(std::int64_t image, std::int64_t group, std::int64_t channel) const {
    return ((image * c.shape.groups + group) * c.shape.cout + channel) * this->out.count;
  }
};

// y[cout, image and position] = w[cout, cin and tap] x[cin and tap, image and position]
template <class T>
struct Forward : Problem<T> {
  using Problem<T>::c;
  explicit Forward(const Conv& conv) : Problem<T>(conv) {
    this->m = conv.shape.cout;
    this->n = conv.shape.batch * this->out.count;
    this->k = conv.shape.cin * this->kernel.count;
  }
  __device__ T a(std::int64_t group, std::int64_t m, std::int64_t k) const {
    return static_cast<const T*>(c.w)[(group * c.shape.cout + m) * this->k + k];
  }
  __device__ T b(std::int64_t group, std::int64_t k, std::int64_t n) const {
    const Position tap = this->kernel.split(k), o = this->out.split(n);
    std::int64_t at[3];
    if (!this->look(o, tap, at)) return T(0);
    return static_cast<const T*>(c.x)[this->x_at(o.outer, group, tap.outer) + this->in.flat(at)];
  }
  __device__ void store(std::int64_t group, std::int64_t m, std::int64_t n, typename Problem<T>::Acc v) const {
    const std::int64_t image = n / this->out.count;
    static_cast<T*>(c.y)[this->y_at(image, group, m) + n % this->out.count] = this->ended(v, group * c.shape.cout + m);
  }
};

// x[cin, image and position] = w[cout and tap, cin]^T y[cout and tap, image and position]
template <class T>
struct InputGrad : Problem<T> {
  using Problem<T>::c;
  explicit InputGrad(const Conv& conv) : Problem<T>(conv) {
    this->m = conv.shape.cin;
    this->n = conv.shape.batch * this->in.count;
    this->k = conv.shape.cout * this->kernel.count;
  }
  __device__ T a(std::int64_t group, std::int64_t m, std::int64_t k) const {
    const std::int64_t channel = k / this->kernel.count, tap = k % this->kernel.count;
    return static_cast<const T*>(c.w)[((group * c.shape.cout + channel) * c.shape.cin + m) * this->kernel.count + tap];
  }
  __device__ T b(std::int64_t group, std::int64_t k, std::int64_t n) const {
    const Position tap = this->kernel.split(k), i = this->in.split(n);
    std::int64_t at[3];
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      const std::int64_t reach = i.at[d] + c.shape.pad[d] - tap.at[d] * c.shape.dilation[d];
      if (reach < 0 || reach % c.shape.stride[d] != 0) return T(0);
      at[d] = reach / c.shape.stride[d];
      if (at[d] >= c.shape.out[d]) return T(0);
    }
    return static_cast<const T*>(c.y)[this->y_at(i.outer, group, tap.outer) + this->out.flat(at)];
  }
  __device__ void store(std::int64_t group, std::int64_t m, std::int64_t n, typename Problem<T>::Acc v) const {
    const std::int64_t image = n / this->in.count;
    static_cast<T*>(c.x)[this->x_at(image, group, m) + n % this->in.count] =
        this->with_bias(v, group * c.shape.cin + m);
  }
};

// w[cout, cin and tap] = y[cout, image and position] x[image and position, cin and tap]
template <class T>
struct WeightGrad : Problem<T> {
  using Problem<T>::c;
  explicit WeightGrad(const Conv& conv) : Problem<T>(conv) {
    this->m = conv.shape.cout;
    this->n = conv.shape.cin * this->kernel.count;
    this->k = conv.shape.batch * this->out.count;
    this->b_along_k = true;
  }
  __device__ T a(std::int64_t group, std::int64_t m, std::int64_t k) const {
    return static_cast<const T*>(c.y)[this->y_at(k / this->out.count, group, m) + k % this->out.count];
  }
  __device__ T b(std::int64_t group, std::int64_t k, std::int64_t n) const {
    const Position tap = this->kernel.split(n), o = this->out.split(k);
    std::int64_t at[3];
    if (!this->look(o, tap, at)) return T(0);
    return static_cast<const T*>(c.x)[this->x_at(o.outer, group, tap.outer) + this->in.flat(at)];
  }
  __device__ void store(std::int64_t group, std::int64_t m, std::int64_t n, typename Problem<T>::Acc v) const {
    static_cast<T*>(c.w)[(group * c.shape.cout + m) * this->n + n] = static_cast<T>(v);
  }
};

// Groups of few channels have kernels of their own. The tensor cores take what else fills their tiles, unless float32
// sums of the operands themselves were asked for.
template <class P, ConvPass pass>
void run_conv(const Conv& c) {
  using T = typename P::Element;
  constexpr bool tensor_cores = sizeof(T) <= 4;
  if (c.shape.channels_last && conv_depthwise_last_serves(c.shape, kPackOf<T>)) return run_conv_depthwise<T>(c, pass);
  if constexpr (tensor_cores)
    if (c.shape.channels_last) return run_conv_last<T>(c, pass);
  if (library_conv(c, pass, DTypeOf<T>::value)) return;
  if (conv_depthwise_serves(c.shape)) return run_conv_depthwise<T>(c, pass);
  const P p(c);
  if constexpr (tensor_cores) {
    if (run_conv_first<T>(c, pass)) return;
    if (p.m >= 32 && p.n >= 32 && p.k >= 16 && p.batch > 0 && (sizeof(T) == 2 || !c.shape.exact)) {
      if constexpr (sizeof(T) == 4)
        if (c.shape.rounded) return run_tensor_tiles<P, Digits::eleven>("conv", p);
      return run_tensor_tiles("conv", p);
    }
  }
  run_product("conv", p);
}

}  // namespace

void register_conv(KernelTable& t) {
  ConvKernels& k = family<ConvKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.run[static_cast<int>(ConvPass::forward)][idx<T>] = run_conv<Forward<T>, ConvPass::forward>;
    k.run[static_cast<int>(ConvPass::input_grad)][idx<T>] = run_conv<InputGrad<T>, ConvPass::input_grad>;
    k.run[static_cast<int>(ConvPass::weight_grad)][idx<T>] = run_conv<WeightGrad<T>, ConvPass::weight_grad>;
    const auto with = [&]<ConvPass pass>() {
      constexpr int p = static_cast<int>(pass);
      k.channels_last[p][idx<T>] = [](const ConvShape& s) {
        if constexpr (sizeof(T) <= 4)
          if (conv_last_serves<T>(s, pass)) return true;
        return conv_depthwise_last_serves(s, kPackOf<T>);
      };
      // Groups of few channels are not worth copies: their kernels for either order move what they must.
      if constexpr (sizeof(T) <= 4)
        k.prefers_last[p][idx<T>] = [](const ConvShape& s) { return conv_last_pays<T>(s, pass, s.cin * s.cout); };
    };
    with.template operator()<ConvPass::forward>();
    with.template operator()<ConvPass::input_grad>();
    with.template operator()<ConvPass::weight_grad>();
    for (auto& pass : k.scratch_size) pass[idx<T>] = [](const ConvShape&) { return std::int64_t{0}; };
  });
}

}  // namespace pydlx::cuda
