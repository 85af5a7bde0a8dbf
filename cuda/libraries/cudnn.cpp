#include "cuda/libraries/cudnn.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "core/verbose.h"
#include "cuda/libraries/shared_library.h"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/scratch.h"

namespace pydlx::cuda {

namespace {

constexpr const char *kVariable = "PYDLX_CUDA_CONV", *kName = "cudnn";

// ---- the library's interface ----------------------------------------------------------------------------------------
// What is used of it, by the names and numbers of the public manual (cuDNN 8 and 9), so that no header is needed to
// build. Its enumerations are ints.

struct Algorithm {  // cudnnConvolution{Fwd,BwdData,BwdFilter}AlgoPerf_t
  int number, status;
  float time;
  std::size_t memory;
  int deterministic, math, reserved[3];
};
using Handle = struct DnnContext*;
using Tensor = struct DnnTensor*;
using Filter = struct DnnFilter*;
using Convolution = struct DnnConvolution*;

enum DataType : int { kFloat = 0, kDouble = 1, kHalf = 2, kBrain = 9 };
enum MathType : int { kTensorCores = 1, kNoTensorCores = 3 };  // the second, so that float32 is not shortened to TF32
enum : int { kSuccess = 0, kChannelsFirst = 0, kCrossCorrelation = 1, kDeterministic = 1 };

using A = const void*;
struct Library {
  int (*create)(Handle*);
  int (*set_stream)(Handle, cudaStream_t);
  std::size_t (*version)();
  int (*tensor_create)(Tensor*);
  int (*tensor_set)(Tensor, int type, int axes, const int* sizes, const int* strides);
  int (*filter_create)(Filter*);
  int (*filter_set)(Filter, int type, int format, int axes, const int* sizes);
  int (*convolution_create)(Convolution*);
  int (*convolution_set)(Convolution, int axes, const int* pad, const int* stride, const int* dilation, int mode,
                         int compute);
  int (*set_groups)(Convolution, int);
  int (*set_math)(Convolution, int);
  int (*tensor_destroy)(Tensor);
  int (*filter_destroy)(Filter);
  int (*convolution_destroy)(Convolution);
  int (*forward_choose)(Handle, Tensor x, Filter, Convolution, Tensor y, int wanted, int* found, Algorithm*);
  int (*data_choose)(Handle, Filter, Tensor y, Convolution, Tensor x, int wanted, int* found, Algorithm*);
  int (*filter_choose)(Handle, Tensor x, Tensor y, Convolution, Filter, int wanted, int* found, Algorithm*);
  int (*forward_workspace)(Handle, Tensor x, Filter, Convolution, Tensor y, int algorithm, std::size_t*);
  int (*data_workspace)(Handle, Filter, Tensor y, Convolution, Tensor x, int algorithm, std::size_t*);
  int (*filter_workspace)(Handle, Tensor x, Tensor y, Convolution, Filter, int algorithm, std::size_t*);
  int (*forward)(Handle, A alpha, Tensor, A x, Filter, A w, Convolution, int algorithm, void* workspace, std::size_t,
                 A beta, Tensor, void* y);
  int (*data)(Handle, A alpha, Filter, A w, Tensor, A y, Convolution, int algorithm, void* workspace, std::size_t,
              A beta, Tensor, void* x);
  int (*filter)(Handle, A alpha, Tensor, A x, Tensor, A y, Convolution, int algorithm, void* workspace, std::size_t,
                A beta, Filter, void* w);
  int (*add)(Handle, A alpha, Tensor, A bias, A beta, Tensor, void* to);
  SharedLibrary file{"PYDLX_CUDNN", {"libcudnn.so.9", "libcudnn.so.8"}};

  Library() {
    file.find(create, "cudnnCreate");
    file.find(set_stream, "cudnnSetStream");
    file.find(version, "cudnnGetVersion");
    file.find(tensor_create, "cudnnCreateTensorDescriptor");
    file.find(tensor_set, "cudnnSetTensorNdDescriptor");
    file.find(tensor_destroy, "cudnnDestroyTensorDescriptor");
    file.find(filter_create, "cudnnCreateFilterDescriptor");
    file.find(filter_set, "cudnnSetFilterNdDescriptor");
    file.find(filter_destroy, "cudnnDestroyFilterDescriptor");
    file.find(convolution_create, "cudnnCreateConvolutionDescriptor");
    file.find(convolution_set, "cudnnSetConvolutionNdDescriptor");
    file.find(convolution_destroy, "cudnnDestroyConvolutionDescriptor");
    file.find(set_groups, "cudnnSetConvolutionGroupCount");
    file.find(set_math, "cudnnSetConvolutionMathType");
    file.find(forward_choose, "cudnnGetConvolutionForwardAlgorithm_v7");
    file.find(data_choose, "cudnnGetConvolutionBackwardDataAlgorithm_v7");
    file.find(filter_choose, "cudnnGetConvolutionBackwardFilterAlgorithm_v7");
    file.find(forward_workspace, "cudnnGetConvolutionForwardWorkspaceSize");
    file.find(data_workspace, "cudnnGetConvolutionBackwardDataWorkspaceSize");
    file.find(filter_workspace, "cudnnGetConvolutionBackwardFilterWorkspaceSize");
    file.find(forward, "cudnnConvolutionForward");
    file.find(data, "cudnnConvolutionBackwardData");
    file.find(filter, "cudnnConvolutionBackwardFilter");
    file.find(add, "cudnnAddTensor");
  }
};

const Library& library() {
  static const auto* l = new Library;  // stays open: kernels of it may run when the process ends
  return *l;
}

void require_success(int status, const char* call) {
  require(status == kSuccess, "conv", "", ErrorKind::Device, call, ": status ", status,
          " (see cudnnStatus_t in the manual of cuDNN); PYDLX_CUDA_CONV=own does without it");
}

// ---- convolutions in its terms --------------------------------------------------------------------------------------

// Why it is not served, or null.
const char* obstacle(const Conv& c) {
  const ConvShape& s = c.shape;
  if (s.channels_last || s.weights_last) return "the order of the channels";
  if (c.scale || c.activation != Activation::none) return "a factor or an activation behind the sum";
  if (s.exact) return "only the plain sum is exact enough";
  if (s.batch < 1 || s.cin < 1 || s.cout < 1) return "an empty tensor";
  constexpr double kMost = 2147483647.0;
  double x = static_cast<double>(s.batch * s.groups * s.cin), y = static_cast<double>(s.batch * s.groups * s.cout),
         w = static_cast<double>(s.groups * s.cout * s.cin);
  for (int d = 0; d < 3; ++d) {
    if (s.in[d] < 1 || s.out[d] < 1 || s.kernel[d] < 1) return "an empty tensor";
    // It pads both ends alike and has its own idea of the number of outputs.
    const std::int64_t reach = s.in[d] + 2 * s.pad[d] - s.dilation[d] * (s.kernel[d] - 1) - 1;
    if (s.pad[d] < 0 || reach < 0 || reach / s.stride[d] + 1 != s.out[d]) return "padding that differs between ends";
    x *= static_cast<double>(s.in[d]);
    y *= static_cast<double>(s.out[d]);
    w *= static_cast<double>(s.kernel[d]);
  }
  if (std::max({x, y, w}) > kMost) return "more than 2^31 elements";
  for (const void* p : {static_cast<const void*>(c.x), static_cast<const void*>(c.w), static_cast<const void*>(c.y)})
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return "a tensor does not begin at a multiple of 16 bytes";
  return nullptr;
}

using Key = std::array<std::int64_t, 25>;
Key key_of(const ConvShape& s, ConvPass pass, DType dtype, int device) {
  Key k = {static_cast<int>(pass), static_cast<int>(dtype), device, s.batch, s.groups, s.cin, s.cout};
  std::size_t i = 7;
  for (const auto* axes : {&s.in, &s.out, &s.kernel, &s.stride, &s.pad, &s.dilation})
    for (const std::int64_t v : *axes) k[i++] = v;
  return k;
}

// What was found for a geometry. Kept until the cache is full of others.
struct Choice {
  Tensor x = nullptr, y = nullptr, bias = nullptr;
  Filter w = nullptr;
  Convolution convolution = nullptr;
  Algorithm best = {};
  std::size_t workspace = 0;
  bool served = false;

  Choice(const Library& l, Handle handle, const ConvShape& s, ConvPass pass, DType dtype) {
    const int type = dtype == DType::Float32   ? kFloat
                     : dtype == DType::Float64 ? kDouble
                     : dtype == DType::Float16 ? kHalf
                                               : kBrain;
    // The library wants at least two spatial axes.
    const bool deep = s.in[0] != 1 || s.out[0] != 1 || s.kernel[0] != 1 || s.pad[0] != 0;
    const int first = deep ? 0 : 1, axes = 3 - first;
    const auto from_axis = [&](const std::int64_t (&a)[3], int* to) {
      for (int d = first; d < 3; ++d) to[d - first] = static_cast<int>(a[d]);
    };
    const auto tensor = [&](Tensor& t, std::int64_t outer, std::int64_t channels, const std::int64_t* size) {
      int sizes[5] = {static_cast<int>(outer), static_cast<int>(channels), 1, 1, 1}, strides[5];
      for (int d = first; size && d < 3; ++d) sizes[2 + d - first] = static_cast<int>(size[d]);
      for (int i = axes + 1, step = 1; i >= 0; --i) {
        strides[i] = step;
        step *= sizes[i];
      }
      require_success(l.tensor_create(&t), "cudnnCreateTensorDescriptor");
      require_success(l.tensor_set(t, type, axes + 2, sizes, strides), "cudnnSetTensorNdDescriptor");
    };
    tensor(x, s.batch, s.groups * s.cin, s.in);
    tensor(y, s.batch, s.groups * s.cout, s.out);
    tensor(bias, 1, s.groups * (pass == ConvPass::input_grad ? s.cin : s.cout), nullptr);
    int kernel[5] = {static_cast<int>(s.groups * s.cout), static_cast<int>(s.cin)}, pad[3], stride[3], dilation[3];
    from_axis(s.kernel, kernel + 2);
    from_axis(s.pad, pad);
    from_axis(s.stride, stride);
    from_axis(s.dilation, dilation);
    require_success(l.filter_create(&w), "cudnnCreateFilterDescriptor");
    require_success(l.filter_set(w, type, kChannelsFirst, axes + 2, kernel), "cudnnSetFilterNdDescriptor");
    require_success(l.convolution_create(&convolution), "cudnnCreateConvolutionDescriptor");
    require_success(l.convolution_set(convolution, axes, pad, stride, dilation, kCrossCorrelation,
                                      dtype == DType::Float64 ? kDouble : kFloat),
                    "cudnnSetConvolutionNdDescriptor");
    require_success(l.set_groups(convolution, static_cast<int>(s.groups)), "cudnnSetConvolutionGroupCount");
    const bool narrow = dtype == DType::Float16 || dtype == DType::BFloat16;
    require_success(l.set_math(convolution, narrow ? kTensorCores : kNoTensorCores), "cudnnSetConvolutionMathType");

    constexpr int kWanted = 10;
    constexpr std::size_t kWorkspace = std::size_t{1} << 30;
    Algorithm candidates[kWanted] = {};
    int found = 0;
    const int answer = choose(l, handle, pass, candidates, kWanted, found);
    for (int i = 0; answer == kSuccess && i < found && !served; ++i) {
      best = candidates[i];
      if (best.status != kSuccess || best.deterministic != kDeterministic) continue;
      served = workspace_of(l, handle, pass) == kSuccess && workspace <= kWorkspace;
    }
  }
  void destroy(const Library& l) {
    for (const Tensor t : {x, y, bias}) l.tensor_destroy(t);
    l.filter_destroy(w);
    l.convolution_destroy(convolution);
  }
  int run(const Library& l, Handle handle, const Conv& c, ConvPass pass, A one, A zero, void* memory) const {
    switch (pass) {
      case ConvPass::forward:
        return l.forward(handle, one, x, c.x, w, c.w, convolution, best.number, memory, workspace, zero, y, c.y);
      case ConvPass::input_grad:
        return l.data(handle, one, w, c.w, y, c.y, convolution, best.number, memory, workspace, zero, x, c.x);
      default:
        return l.filter(handle, one, x, c.x, y, c.y, convolution, best.number, memory, workspace, zero, w, c.w);
    }
  }

 private:
  int choose(const Library& l, Handle handle, ConvPass pass, Algorithm* to, int wanted, int& found) const {
    switch (pass) {
      case ConvPass::forward:
        return l.forward_choose(handle, x, w, convolution, y, wanted, &found, to);
      case ConvPass::input_grad:
        return l.data_choose(handle, w, y, convolution, x, wanted, &found, to);
      default:
        return l.filter_choose(handle, x, y, convolution, w, wanted, &found, to);
    }
  }
  int workspace_of(const Library& l, Handle handle, ConvPass pass) {
    switch (pass) {
      case ConvPass::forward:
        return l.forward_workspace(handle, x, w, convolution, y, best.number, &workspace);
      case ConvPass::input_grad:
        return l.data_workspace(handle, w, y, convolution, x, best.number, &workspace);
      default:
        return l.filter_workspace(handle, x, y, convolution, w, best.number, &workspace);
    }
  }
};

// Handles of devices and choices for geometries. The lock is held while a pass is queued, because the stream is the
// handle's.
class Choices {
 public:
  bool run(const Library& l, const Conv& c, ConvPass pass, DType dtype) {
    const std::lock_guard lock(mutex_);
    const int device = current_device();
    Handle& handle = handles_[device];
    if (!handle) require_success(l.create(&handle), "cudnnCreate");
    require_success(l.set_stream(handle, current_stream().handle), "cudnnSetStream");
    const Key key = key_of(c.shape, pass, dtype, device);
    auto it = choices_.find(key);
    if (it == choices_.end()) {
      if (choices_.size() >= kMost) {
        for (auto& [k, choice] : choices_) choice.destroy(l);
        choices_.clear();
      }
      it = choices_.emplace(key, Choice(l, handle, c.shape, pass, dtype)).first;
    }
    const Choice& choice = it->second;
    if (!choice.served) return false;
    const Scratch<unsigned char> memory(static_cast<std::int64_t>(choice.workspace));
    const float narrow[2] = {1, 0};
    const double wide[2] = {1, 0};
    const bool is_wide = dtype == DType::Float64;
    const A one = is_wide ? static_cast<A>(wide) : narrow, zero = is_wide ? static_cast<A>(wide + 1) : narrow + 1;
    require_success(choice.run(l, handle, c, pass, one, zero, choice.workspace ? memory.get() : nullptr),
                    "a convolution of cuDNN");
    if (c.bias && pass != ConvPass::weight_grad) {
      const bool forward = pass == ConvPass::forward;
      require_success(l.add(handle, one, choice.bias, c.bias, one, forward ? choice.y : choice.x, forward ? c.y : c.x),
                      "cudnnAddTensor");
    }
    return true;
  }

 private:
  static constexpr std::size_t kMost = 4096;
  std::mutex mutex_;
  std::map<int, Handle> handles_;
  std::map<Key, Choice> choices_;
};

Choices& choices() {
  static auto* c = new Choices;
  return *c;
}

}  // namespace

bool convolutions_by_library() {
  static const UseLibrary use = library_use("conv", kVariable, kName);
  return use != UseLibrary::never && library().file.ready(use, "conv", kVariable, kName);
}

bool library_conv(const Conv& c, ConvPass pass, DType dtype) {
  if (!convolutions_by_library()) return false;
  const Library& l = library();
  const char* why = obstacle(c);
  if (!why && !choices().run(l, c, pass, dtype)) why = "it has no deterministic algorithm";
  if (verbose_on) {
    if (why)
      verbose_note("; not cuDNN: %s", why);
    else
      verbose_note("; cuDNN %zu", l.version());
  }
  return why == nullptr;
}

}  // namespace pydlx::cuda
