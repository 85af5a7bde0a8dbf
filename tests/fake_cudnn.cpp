// A stand-in for libcudnn.so with the functions that the backend looks for, after the public manual: descriptors of
// tensors with strides, filters, convolutions with groups. Every choice and every pass is a line in the file named by
// FAKE_CUDNN_LOG. FAKE_CUDNN_NONE=1: only algorithms that differ from run to run. A program that exports
// run_on_device() gets real results.
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "tests/fake_library.h"

namespace {

enum : int { kSuccess = 0, kBadParameter = 3, kNotSupported = 9 };
constexpr int kAlgorithm = 1, kRandom = 0;
constexpr std::size_t kWorkspace = 4096;

struct Tensor {
  int type = 0, axes = 0, size[5], stride[5];
};
struct Filter {
  int type = 0, axes = 0, size[5];
};
struct Convolution {
  int axes = 0, pad[3], stride[3], dilation[3], compute = 0, groups = 1, math = 0;
};
struct Algorithm {
  int number, status;
  float time;
  std::size_t memory;
  int deterministic, math, reserved[3];
};

// Whether the four fit together.
bool consistent(const Tensor& x, const Filter& w, const Convolution& c, const Tensor& y) {
  bool fine = x.axes == c.axes + 2 && w.axes == x.axes && y.axes == x.axes && x.type == w.type && x.type == y.type;
  fine = fine && x.size[0] == y.size[0] && x.size[1] == w.size[1] * c.groups && y.size[1] == w.size[0] &&
         y.size[1] % c.groups == 0 && c.compute == (x.type == 1 ? 1 : 0);
  fine = fine && c.math == (x.type == 2 || x.type == 9 ? 1 : 3);
  for (int d = 0; fine && d < c.axes; ++d)
    fine = y.size[2 + d] == (x.size[2 + d] + 2 * c.pad[d] - c.dilation[d] * (w.size[2 + d] - 1) - 1) / c.stride[d] + 1;
  return fine;
}
int choices(const char* pass, const Tensor& x, const Filter& w, const Convolution& c, const Tensor& y, int wanted,
            int* found, Algorithm* to) {
  say("FAKE_CUDNN_LOG", "choose %s", pass);
  *found = 0;
  if (!consistent(x, w, c, y) || wanted < 3) return kBadParameter;
  to[0] = {7, kNotSupported, 0, 0, 1, 0, {}};
  to[1] = {kRandom, kSuccess, 1, kWorkspace, 0, 0, {}};
  to[2] = {kAlgorithm, kSuccess, 2, kWorkspace, 1, 0, {}};
  *found = std::getenv("FAKE_CUDNN_NONE") ? 2 : 3;
  return kSuccess;
}

// f(place in x, place in w, place in y) for every product of the convolution.
void each_product(const Tensor& x, const Filter& w, const Convolution& c, const Tensor& y,
                  const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& f) {
  int taps = 1, outputs = 1;
  for (int d = 0; d < c.axes; ++d) taps *= w.size[2 + d], outputs *= y.size[2 + d];
  const int cin = w.size[1], cout = y.size[1] / c.groups;
  for (int n = 0; n < y.size[0]; ++n)
    for (int o = 0; o < y.size[1]; ++o)
      for (int i = 0; i < cin; ++i)
        for (int position = 0; position < outputs; ++position)
          for (int tap = 0; tap < taps; ++tap) {
            std::int64_t at_x = n * x.stride[0] + (o / cout * cin + i) * x.stride[1];
            std::int64_t at_y = n * y.stride[0] + o * y.stride[1];
            bool inside = true;
            for (int d = c.axes - 1, rest = position, t = tap; d >= 0; --d) {
              const int p = rest % y.size[2 + d], k = t % w.size[2 + d];
              rest /= y.size[2 + d];
              t /= w.size[2 + d];
              const int look = p * c.stride[d] - c.pad[d] + k * c.dilation[d];
              inside = inside && look >= 0 && look < x.size[2 + d];
              at_x += look * x.stride[2 + d];
              at_y += p * y.stride[2 + d];
            }
            if (inside) f(at_x, (std::int64_t{o} * cin + i) * taps + tap, at_y);
          }
}

int run(const char* pass, int algorithm, const void* workspace, std::size_t bytes, const std::function<void()>& work) {
  say("FAKE_CUDNN_LOG", "%s", pass);
  if (algorithm != kAlgorithm || !workspace || bytes < kWorkspace) return kBadParameter;
  using Run = void (*)(const std::function<void()>&);
  if (const auto device = reinterpret_cast<Run>(dlsym(RTLD_DEFAULT, "run_on_device"))) device(work);
  return kSuccess;
}

double* zeros(std::int64_t n) { return static_cast<double*>(std::calloc(static_cast<std::size_t>(n), sizeof(double))); }
std::int64_t count(const int* size, int axes) {
  std::int64_t n = 1;
  for (int i = 0; i < axes; ++i) n *= size[i];
  return n;
}
void store(int type, void* to, double* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) write(type, to, i, from[i]);
  std::free(from);
}

template <class T>
int make(T** t) {
  *t = new T;
  return kSuccess;
}
template <class T>
int destroy(T* t) {
  delete t;
  return kSuccess;
}
using P = const void*;

}  // namespace

extern "C" {

int cudnnCreate(void** h) {
  say("FAKE_CUDNN_LOG", "create");
  *h = std::malloc(1);
  return kSuccess;
}
int cudnnSetStream(void*, void*) { return kSuccess; }
std::size_t cudnnGetVersion() { return 91000; }
int cudnnCreateTensorDescriptor(Tensor** t) { return make(t); }
int cudnnDestroyTensorDescriptor(Tensor* t) { return destroy(t); }
int cudnnCreateFilterDescriptor(Filter** t) { return make(t); }
int cudnnDestroyFilterDescriptor(Filter* t) { return destroy(t); }
int cudnnCreateConvolutionDescriptor(Convolution** t) { return make(t); }
int cudnnDestroyConvolutionDescriptor(Convolution* t) { return destroy(t); }
int cudnnSetTensorNdDescriptor(Tensor* t, int type, int axes, const int* size, const int* stride) {
  if (axes < 4 || axes > 5) return kBadParameter;
  t->type = type;
  t->axes = axes;
  std::memcpy(t->size, size, static_cast<std::size_t>(axes) * sizeof(int));
  std::memcpy(t->stride, stride, static_cast<std::size_t>(axes) * sizeof(int));
  return kSuccess;
}
int cudnnSetFilterNdDescriptor(Filter* t, int type, int format, int axes, const int* size) {
  if (axes < 4 || axes > 5 || format != 0) return kBadParameter;
  t->type = type;
  t->axes = axes;
  std::memcpy(t->size, size, static_cast<std::size_t>(axes) * sizeof(int));
  return kSuccess;
}
int cudnnSetConvolutionNdDescriptor(Convolution* c, int axes, const int* pad, const int* stride, const int* dilation,
                                    int mode, int compute) {
  if (axes < 2 || axes > 3 || mode != 1) return kBadParameter;
  c->axes = axes;
  c->compute = compute;
  for (int d = 0; d < axes; ++d) c->pad[d] = pad[d], c->stride[d] = stride[d], c->dilation[d] = dilation[d];
  return kSuccess;
}
int cudnnSetConvolutionGroupCount(Convolution* c, int groups) {
  c->groups = groups;
  return kSuccess;
}
int cudnnSetConvolutionMathType(Convolution* c, int math) {
  c->math = math;
  return kSuccess;
}
int cudnnGetConvolutionForwardAlgorithm_v7(void*, Tensor* x, Filter* w, Convolution* c, Tensor* y, int wanted,
                                           int* found, Algorithm* to) {
  return choices("forward", *x, *w, *c, *y, wanted, found, to);
}
int cudnnGetConvolutionBackwardDataAlgorithm_v7(void*, Filter* w, Tensor* y, Convolution* c, Tensor* x, int wanted,
                                                int* found, Algorithm* to) {
  return choices("data", *x, *w, *c, *y, wanted, found, to);
}
int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void*, Tensor* x, Tensor* y, Convolution* c, Filter* w, int wanted,
                                                  int* found, Algorithm* to) {
  return choices("filter", *x, *w, *c, *y, wanted, found, to);
}
int cudnnGetConvolutionForwardWorkspaceSize(void*, Tensor*, Filter*, Convolution*, Tensor*, int algorithm,
                                            std::size_t* bytes) {
  *bytes = kWorkspace;
  return algorithm == kAlgorithm ? kSuccess : kNotSupported;
}
int cudnnGetConvolutionBackwardDataWorkspaceSize(void*, Filter*, Tensor*, Convolution*, Tensor*, int algorithm,
                                                 std::size_t* bytes) {
  *bytes = kWorkspace;
  return algorithm == kAlgorithm ? kSuccess : kNotSupported;
}
int cudnnGetConvolutionBackwardFilterWorkspaceSize(void*, Tensor*, Tensor*, Convolution*, Filter*, int algorithm,
                                                   std::size_t* bytes) {
  *bytes = kWorkspace;
  return algorithm == kAlgorithm ? kSuccess : kNotSupported;
}
int cudnnConvolutionForward(void*, P, Tensor* tx, P x, Filter* tw, P w, Convolution* c, int algorithm, void* workspace,
                            std::size_t bytes, P, Tensor* ty, void* y) {
  return run("forward", algorithm, workspace, bytes, [=] {
    const std::int64_t n = count(ty->size, ty->axes);
    double* sum = zeros(n);
    each_product(*tx, *tw, *c, *ty, [&](std::int64_t i, std::int64_t k, std::int64_t o) {
      sum[o] += read(tx->type, x, i) * read(tw->type, w, k);
    });
    store(ty->type, y, sum, n);
  });
}
int cudnnConvolutionBackwardData(void*, P, Filter* tw, P w, Tensor* ty, P y, Convolution* c, int algorithm,
                                 void* workspace, std::size_t bytes, P, Tensor* tx, void* x) {
  return run("data", algorithm, workspace, bytes, [=] {
    const std::int64_t n = count(tx->size, tx->axes);
    double* sum = zeros(n);
    each_product(*tx, *tw, *c, *ty, [&](std::int64_t i, std::int64_t k, std::int64_t o) {
      sum[i] += read(ty->type, y, o) * read(tw->type, w, k);
    });
    store(tx->type, x, sum, n);
  });
}
int cudnnConvolutionBackwardFilter(void*, P, Tensor* tx, P x, Tensor* ty, P y, Convolution* c, int algorithm,
                                   void* workspace, std::size_t bytes, P, Filter* tw, void* w) {
  return run("filter", algorithm, workspace, bytes, [=] {
    const std::int64_t n = count(tw->size, tw->axes);
    double* sum = zeros(n);
    each_product(*tx, *tw, *c, *ty, [&](std::int64_t i, std::int64_t k, std::int64_t o) {
      sum[k] += read(tx->type, x, i) * read(ty->type, y, o);
    });
    store(tw->type, w, sum, n);
  });
}
int cudnnAddTensor(void*, P, Tensor* tb, P bias, P, Tensor* ty, void* y) {
  if (tb->axes != ty->axes || tb->size[0] != 1 || tb->size[1] != ty->size[1] || tb->size[2] != 1) return kBadParameter;
  return run("add", kAlgorithm, bias, kWorkspace, [=] {
    const std::int64_t n = count(ty->size, ty->axes);
    for (std::int64_t i = 0; i < n; ++i)
      write(ty->type, y, i, read(ty->type, y, i) + read(tb->type, bias, i / ty->stride[1] % ty->size[1]));
  });
}

}  // extern "C"
