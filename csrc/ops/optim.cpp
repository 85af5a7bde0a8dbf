#include "ops/optim.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "autograd/node.h"
#include "core/backend.h"
#include "kernels/optim.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"

namespace pydlx::ops {

namespace {

struct StateList {
  const char* name;
  const TensorList* tensors;
  bool used;
};

// The checked lists as the kernels want them. Tensors whose layouts disagree (a parameter that is a transposed view, a
// gradient that was expanded) are worked on as row-major copies, and what the step writes is copied back.
class Lists {
 public:
  Lists(const char* op, const TensorList& params, const TensorList& grads, std::initializer_list<StateList> states)
      : op_(op) {
    require_length("grads", grads, params.size());
    for (const StateList& s : states) require_length(s.name, *s.tensors, s.used ? params.size() : 0);
    start_.reserve(params.size() + 1);
    start_.push_back(0);
    for (std::size_t i = 0; i < params.size(); ++i) add(params[i], grads[i], states, i);
  }

  // Fills in the common part of the arguments and runs the kernel. `live` is explained in ops/optim.h.
  template <class Step>
  void run(Step& k, void (*const (OptimKernels::*table)[kDTypeCount])(const Step&), const Tensor& live,
           std::array<double, kMaxOptimNumbers> numbers) const {
    if (start_.size() == 1 || start_.back() == 0) return;
    if (live.defined()) {
      require(!device_.is_cpu() && live.device() == device_ && live.dtype() == DType::Float64 &&
                  live.numel() == kMaxOptimNumbers && live.contiguous_layout(),
              op_, "live", ErrorKind::Value, "expected ", kMaxOptimNumbers,
              " contiguous float64 values beside parameters on a GPU");
      Backend& backend = require_backend(device_);
      if (!backend.is_capturing())
        return backend.copy(live.data(), device_, numbers.data(), Device{}, sizeof numbers, true);
      k.numbers = static_cast<const double*>(live.data());
    }
    k.count = static_cast<std::int64_t>(param_.size());
    k.start = start_.data();
    k.param = param_.data();
    k.grad = grad_.data();
    for (int s = 0; s < kMaxOptimState; ++s) k.state[s] = state_[s].empty() ? nullptr : state_[s].data();
    kernel_or_fail((kernels<OptimKernels>(device_).*table)[static_cast<int>(dtype_)], op_, device_, dtype_)(k);
    for (const auto& [target, copy] : copies_) copy_raw(target, copy);
    for (const Tensor& t : written_) bump_version(t, op_);
  }

 private:
  void require_length(const char* name, const TensorList& list, std::size_t n) const {
    require(list.size() == n, op_, name, ErrorKind::Value, "expected ", n, " tensors, got ", list.size());
  }

  void add(const Tensor& p, const Tensor& g, std::initializer_list<StateList> states, std::size_t i) {
    if (i == 0) {
      dtype_ = p.dtype();
      device_ = p.device();
      require(is_floating(dtype_), op_, "params", ErrorKind::DType, "expected floating point tensors, got ", dtype_);
    }
    check("params", p, p, true);
    check("grads", g, p, false);
    bool direct = p.contiguous_layout() || is_dense(p.sizes(), p.strides());
    direct = direct && g.strides() == p.strides();
    for (const StateList& s : states) {
      if (!s.used) continue;
      check(s.name, (*s.tensors)[i], p, true);
      direct = direct && (*s.tensors)[i].strides() == p.strides();
    }
    start_.push_back(start_.back() + p.numel());
    param_.push_back(writable(p, direct));
    const Tensor source = direct ? alias(g) : contiguous(alias(g));
    kept_.push_back(source);
    grad_.push_back(source.data());
    int slot = 0;
    for (const StateList& s : states) {
      if (s.used) state_[slot].push_back(writable((*s.tensors)[i], direct));
      ++slot;
    }
  }

  void check(const char* name, const Tensor& t, const Tensor& p, bool written) const {
    require(t.sizes() == p.sizes(), op_, name, ErrorKind::Shape, "expected shape ", p.sizes(),
            " like the parameter, got ", t.sizes());
    require(t.dtype() == dtype_, op_, name, ErrorKind::DType, "expected ", dtype_, " like the first parameter, got ",
            t.dtype());
    require(t.device() == device_, op_, name, ErrorKind::Device, "expected ", device_,
            " like the first parameter, got ", t.device());
    if (!written) return;
    require(!t.impl()->storage->read_only, op_, name, ErrorKind::Runtime,
            "expected writable tensors, got one on read-only memory");
    require(t.contiguous_layout() || !may_self_overlap(t.sizes(), t.strides()), op_, name, ErrorKind::Value,
            "expected tensors without repeated elements, got one with strides ", t.strides(), "; use contiguous()");
  }

  void* writable(const Tensor& t, bool direct) {
    written_.push_back(t);
    if (direct) return t.data();
    const Tensor copy = clone(contiguous(alias(t)));
    copies_.emplace_back(alias(t), copy);
    return copy.data();
  }

  const char* op_;
  DType dtype_ = DType::Float32;
  Device device_;
  std::vector<std::int64_t> start_;
  std::vector<void*> param_, state_[kMaxOptimState];
  std::vector<const void*> grad_;
  std::vector<Tensor> kept_, written_;
  std::vector<std::pair<Tensor, Tensor>> copies_;
};

void require_step(const char* op, std::int64_t step) {
  require(step >= 1, op, "step", ErrorKind::Value, "expected a count >= 1, got ", step);
}

}  // namespace

void fused_zero_(const TensorList& tensors) {
  constexpr std::int64_t kLine = 64;
  struct OnDevice {
    Device device;
    std::vector<std::int64_t> start, bytes;  // start: of lines, and their total
    std::vector<void*> data;
  };
  std::vector<OnDevice> all;
  for (const Tensor& t : tensors) {
    const bool direct =
        !any_requires_grad(t) && t.numel() > 0 && (t.contiguous_layout() || is_dense(t.sizes(), t.strides()));
    Tensor target = t;
    if (!direct || !kernels<OptimKernels>(t.device()).zero) {
      zero_(target);
      continue;
    }
    check_inplace(target, "zero_");
    auto list = std::find_if(all.begin(), all.end(), [&](const OnDevice& l) { return l.device == t.device(); });
    if (list == all.end()) list = all.insert(list, OnDevice{t.device(), {0}, {}, {}});
    list->data.push_back(t.data());
    list->bytes.push_back(t.numel() * static_cast<std::int64_t>(itemsize(t.dtype())));
    list->start.push_back(list->start.back() + (list->bytes.back() + kLine - 1) / kLine);
    bump_version(target, "zero_");
  }
  for (const OnDevice& list : all)
    kernels<OptimKernels>(list.device)
        .zero({static_cast<std::int64_t>(list.data.size()), list.start.data(), list.data.data(), list.bytes.data()});
}

void fused_sgd_(const TensorList& params, const TensorList& grads, const TensorList& momentum_buffers, double lr,
                double momentum, double dampening, double weight_decay, bool nesterov, bool maximize, bool first_step,
                const Tensor& live) {
  const Lists lists("fused_sgd_", params, grads, {{"momentum_buffers", &momentum_buffers, momentum != 0}});
  SgdStep k;
  k.lr = lr;
  k.momentum = momentum;
  k.dampening = dampening;
  k.weight_decay = weight_decay;
  k.nesterov = nesterov;
  k.maximize = maximize;
  k.first_step = first_step;
  lists.run(k, &OptimKernels::sgd, live, {k.lr, first_step ? 1.0 : 0.0});
}

void fused_adam_(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
                 const TensorList& exp_avg_sqs, const TensorList& max_exp_avg_sqs, std::int64_t step, double lr,
                 double beta1, double beta2, double eps, double weight_decay, bool decoupled, bool amsgrad,
                 bool maximize, const Tensor& live) {
  const Lists lists("fused_adam_", params, grads,
                    {{"exp_avgs", &exp_avgs, true},
                     {"exp_avg_sqs", &exp_avg_sqs, true},
                     {"max_exp_avg_sqs", &max_exp_avg_sqs, amsgrad}});
  require_step("fused_adam_", step);
  AdamStep k;
  k.step_size = lr / (1.0 - std::pow(beta1, static_cast<double>(step)));
  k.beta1 = beta1;
  k.beta2 = beta2;
  k.eps = eps;
  k.correction2_sqrt = std::sqrt(1.0 - std::pow(beta2, static_cast<double>(step)));
  k.shrink = decoupled ? 1.0 - lr * weight_decay : 1.0;
  k.weight_decay = decoupled ? 0.0 : weight_decay;
  k.maximize = maximize;
  lists.run(k, &OptimKernels::adam, live, {k.step_size, k.correction2_sqrt, k.shrink});
}

void fused_rmsprop_(const TensorList& params, const TensorList& grads, const TensorList& square_avgs,
                    const TensorList& grad_avgs, const TensorList& momentum_buffers, double lr, double alpha,
                    double eps, double weight_decay, double momentum, bool centered, bool maximize,
                    const Tensor& live) {
  const Lists lists("fused_rmsprop_", params, grads,
                    {{"square_avgs", &square_avgs, true},
                     {"grad_avgs", &grad_avgs, centered},
                     {"momentum_buffers", &momentum_buffers, momentum > 0}});
  RmspropStep k;
  k.lr = lr;
  k.alpha = alpha;
  k.eps = eps;
  k.weight_decay = weight_decay;
  k.momentum = momentum;
  k.maximize = maximize;
  lists.run(k, &OptimKernels::rmsprop, live, {k.lr});
}

void fused_adagrad_(const TensorList& params, const TensorList& grads, const TensorList& state_sums, std::int64_t step,
                    double lr, double lr_decay, double eps, double weight_decay, bool maximize, const Tensor& live) {
  const Lists lists("fused_adagrad_", params, grads, {{"state_sums", &state_sums, true}});
  require_step("fused_adagrad_", step);
  AdagradStep k;
  k.lr = lr / (1.0 + static_cast<double>(step - 1) * lr_decay);
  k.eps = eps;
  k.weight_decay = weight_decay;
  k.maximize = maximize;
  lists.run(k, &OptimKernels::adagrad, live, {k.lr});
}

}  // namespace pydlx::ops
