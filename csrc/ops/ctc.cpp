#include "ops/ctc.h"

#include "kernels/ctc.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

constexpr const char* kName = "ctc_loss";

// The arguments, checked, and what keeps them alive.
struct Problem {
  Ctc k;
  Tensor x, targets, frames, labels, scratch;
};
Tensor checked(const char* name, const Tensor& t, const Dims& sizes, const Tensor& x, DType dtype) {
  require(t.dtype() == dtype && t.sizes() == sizes, kName, name, ErrorKind::Shape, "expected ", dtype, " of shape ",
          sizes, ", got ", t.dtype(), " of shape ", t.sizes());
  require(t.device() == x.device(), kName, name, ErrorKind::Device, "expected ", x.device(),
          " like the log-probabilities, got ", t.device());
  return contiguous(detach(t));
}
Problem describe(const Tensor& x, const Tensor& targets, const Tensor& frames, const Tensor& labels,
                 std::int64_t blank) {
  require(x.ndim() == 3 && targets.ndim() == 2, kName, "log_probs", ErrorKind::Shape,
          "expected shape (T, N, C) and targets of shape (N, S), got ", x.sizes(), " and ", targets.sizes());
  Problem p;
  p.k.steps = x.size(0);
  p.k.batch = x.size(1);
  p.k.classes = x.size(2);
  p.k.longest = targets.size(1);
  p.k.blank = blank;
  require(blank >= 0 && blank < p.k.classes, kName, "blank", ErrorKind::Value, "expected within ", p.k.classes,
          " classes, got ", blank);
  p.x = contiguous(detach(x));
  p.targets = checked("targets", targets, {p.k.batch, p.k.longest}, x, DType::Int64);
  p.frames = checked("input_lengths", frames, {p.k.batch}, x, DType::Int64);
  p.labels = checked("target_lengths", labels, {p.k.batch}, x, DType::Int64);
  p.scratch = empty({p.k.batch, ctc_scratch(p.k.longest)}, x.dtype(), x.device());
  p.k.x = p.x.data();
  p.k.target = p.targets.data_as<std::int64_t>();
  p.k.frames = p.frames.data_as<std::int64_t>();
  p.k.labels = p.labels.data_as<std::int64_t>();
  p.k.scratch = p.scratch.data();
  return p;
}
void check_sequence(std::int64_t bad, const Ctc& k) {
  require(bad < 0, kName, "targets", ErrorKind::Index, "expected at most ", k.steps, " frames and ", k.longest,
          " symbols in [0, ", k.classes, ") each, got others in sequence ", bad);
}

}  // namespace

std::pair<Tensor, Tensor> ctc_forward(const Tensor& x, const Tensor& targets, const Tensor& frames,
                                      const Tensor& labels, std::int64_t blank, bool keep) {
  Problem p = describe(x, targets, frames, labels, blank);
  Ctc& k = p.k;
  const Tensor loss = empty({k.batch}, x.dtype(), x.device());
  const Tensor alpha = empty({keep ? k.batch : 0, k.steps, 2 * k.longest + 1}, x.dtype(), x.device());
  k.loss = loss.data();
  k.alpha = keep ? alpha.data() : nullptr;
  check_sequence(kernel_or_fail(kernels<CtcKernels>(x.device()).forward[static_cast<int>(x.dtype())], kName, x.device(),
                                x.dtype())(k),
                 k);
  return {loss, alpha};
}

Tensor ctc_backward(const Tensor& grad, const Tensor& x, const Tensor& targets, const Tensor& frames,
                    const Tensor& labels, const Tensor& loss, const Tensor& alpha, std::int64_t blank) {
  Problem p = describe(x, targets, frames, labels, blank);
  Ctc& k = p.k;
  const Tensor g = checked("grad", grad, {k.batch}, x, x.dtype()),
               total = checked("loss", loss, {k.batch}, x, x.dtype()),
               reached = checked("alpha", alpha, {k.batch, k.steps, 2 * k.longest + 1}, x, x.dtype());
  const Tensor dx = empty(x.sizes(), x.dtype(), x.device());
  k.grad = g.data();
  k.total = total.data();
  k.alpha = reached.data();
  k.dx = dx.data();
  check_sequence(kernel_or_fail(kernels<CtcKernels>(x.device()).backward[static_cast<int>(x.dtype())], kName,
                                x.device(), x.dtype())(k),
                 k);
  return dx;
}

}  // namespace pydlx::ops
