// Rows of losses and table look-ups.
#include "bind/rows.h"
#include "kernels/pair_loss.h"
#include "ops/cross_entropy.h"
#include "ops/ctc.h"
#include "ops/embedding.h"
#include "ops/pair_loss.h"

namespace pydlx::bind {

namespace {

using ops::parse_reduction;

Tensor cross_entropy_(Tensor x, Tensor target, Tensor weight, std::int64_t ignore, std::string reduction,
                      double smoothing) {
  return ops::cross_entropy(x, target, weight, ignore, parse_reduction("cross_entropy", reduction), smoothing);
}
Tensor nll_loss_(Tensor x, Tensor target, Tensor weight, std::int64_t ignore, std::string reduction) {
  return ops::nll_loss(x, target, weight, ignore, parse_reduction("nll_loss", reduction));
}
Tensor linear_cross_entropy_(Tensor x, Tensor weight, Tensor target, Tensor bias, std::int64_t ignore,
                             std::string reduction, double smoothing) {
  return ops::linear_cross_entropy(x, weight, target, bias, ignore, parse_reduction("linear_cross_entropy", reduction),
                                   smoothing);
}

template <PairLossOp op>
Tensor difference_loss(Tensor x, Tensor t, std::string reduction) {
  const char* name = op == PairLossOp::mse ? "mse_loss" : "l1_loss";
  return ops::pair_loss(op, name, x, t, parse_reduction(name, reduction));
}
Tensor smooth_l1_loss_(Tensor x, Tensor t, std::string reduction, double beta) {
  const char* name = "smooth_l1_loss";
  require(beta >= 0, name, "beta", ErrorKind::Value, "expected a value >= 0, got ", beta);
  return ops::pair_loss(beta == 0 ? PairLossOp::l1 : PairLossOp::smooth_l1, name, x, t,
                        parse_reduction(name, reduction), beta);
}
Tensor huber_loss_(Tensor x, Tensor t, std::string reduction, double delta) {
  require(delta > 0, "huber_loss", "delta", ErrorKind::Value, "expected a value > 0, got ", delta);
  return ops::pair_loss(PairLossOp::huber, "huber_loss", x, t, parse_reduction("huber_loss", reduction), delta);
}
Tensor kl_div_(Tensor x, Tensor t, std::string reduction, bool log_target) {
  return ops::pair_loss(log_target ? PairLossOp::kl_log : PairLossOp::kl, "kl_div", x, t,
                        parse_reduction("kl_div", reduction));
}
Tensor bce_(Tensor x, Tensor t, Tensor weight, std::string reduction) {
  return ops::binary_cross_entropy(x, t, weight, parse_reduction("binary_cross_entropy", reduction));
}
Tensor bce_logits_(Tensor x, Tensor t, Tensor weight, std::string reduction, Tensor pos_weight) {
  return ops::binary_cross_entropy_with_logits(x, t, weight, pos_weight,
                                               parse_reduction("binary_cross_entropy_with_logits", reduction));
}

std::int64_t padding_row(std::optional<std::int64_t> padding, const Tensor& weight) {
  if (!padding) return -1;
  const std::int64_t rows = weight.ndim() > 0 ? weight.sizes()[0] : 0;
  require(*padding >= -rows && *padding < rows, "embedding", "padding_idx", ErrorKind::Value, "expected a row in [",
          -rows, ", ", rows, "), got ", *padding);
  return *padding < 0 ? *padding + rows : *padding;
}
// torch.nn.functional's form. Rows longer than max_norm are shortened by the caller, before the look-up.
Tensor embedding_functional(Tensor index, Tensor weight, std::optional<std::int64_t> padding, PyObject* max_norm,
                            double, bool by_frequency, bool) {
  require(max_norm == Py_None, "embedding", "max_norm", ErrorKind::NotImplemented,
          "expected None here; use nn.functional.embedding, which shortens the rows first");
  return ops::embedding(index, weight, padding_row(padding, weight), by_frequency);
}

}  // namespace

void bind_loss(OpRegistry& r) {
  using namespace ops;
  r.add({
      {"cross_entropy(Tensor input, Tensor target, Tensor? weight=None, *, int ignore_index=-100, str "
       "reduction='mean', "
       "float label_smoothing=0.0) -> Tensor",
       call<&cross_entropy_>, kHidden, "-log softmax(input)[target], for class indices or class probabilities."},
      {"nll_loss(Tensor input, Tensor target, Tensor? weight=None, *, int ignore_index=-100, str reduction='mean') -> "
       "Tensor",
       call<&nll_loss_>, kHidden, "-input[target] for log-probabilities."},
      {"linear_cross_entropy(Tensor input, Tensor weight, Tensor target, Tensor? bias=None, *, int ignore_index=-100, "
       "str reduction='mean', float label_smoothing=0.0) -> Tensor",
       call<&linear_cross_entropy_>, kHidden,
       "cross_entropy(linear(input, weight, bias), target) in blocks of rows, so that the logits never exist at once."},
      {"mse_loss(Tensor input, Tensor target, *, str reduction='mean') -> Tensor",
       call<&difference_loss<PairLossOp::mse>>, kHidden, "(input - target)^2, reduced."},
      {"l1_loss(Tensor input, Tensor target, *, str reduction='mean') -> Tensor",
       call<&difference_loss<PairLossOp::l1>>, kHidden, "|input - target|, reduced."},
      {"smooth_l1_loss(Tensor input, Tensor target, *, str reduction='mean', float beta=1.0) -> Tensor",
       call<&smooth_l1_loss_>, kHidden,
       "d^2 / (2 beta) where d = |input - target| < beta, else d - beta / 2 (Girshick 2015)."},
      {"huber_loss(Tensor input, Tensor target, str reduction='mean', float delta=1.0) -> Tensor", call<&huber_loss_>,
       kHidden, "d^2 / 2 where d = |input - target| <= delta, else delta (d - delta / 2) (Huber 1964)."},
      {"kl_div(Tensor input, Tensor target, *, str reduction='mean', bool log_target=False) -> Tensor", call<&kl_div_>,
       kFunction, "target (log target - input) for log-probabilities input; the mean is over all elements."},
      {"binary_cross_entropy(Tensor input, Tensor target, Tensor? weight=None, *, str reduction='mean') -> Tensor",
       call<&bce_>, kHidden,
       "-(t log x + (1 - t) log(1 - x)) for probabilities, with logarithms bounded below by -100."},
      {"binary_cross_entropy_with_logits(Tensor input, Tensor target, Tensor? weight=None, *, str reduction='mean', "
       "Tensor? pos_weight=None) -> Tensor",
       call<&bce_logits_>, kFunction, "Binary cross-entropy of sigmoid(input), without overflow."},
      {"_ctc_forward(Tensor log_probs, Tensor targets, Tensor frames, Tensor labels, int blank, bool keep) -> (Tensor "
       "loss, Tensor alpha)",
       call<&ctc_forward>, kHidden, "The loss of every sequence, and its forward variables if they are to be kept."},
      {"_ctc_backward(Tensor grad, Tensor log_probs, Tensor targets, Tensor frames, Tensor labels, Tensor loss, Tensor "
       "alpha, int blank) -> Tensor",
       call<&ctc_backward>, kHidden, "The gradient of the log-probabilities."},
      {"embedding(Tensor input, Tensor weight, int? padding_idx=None, object? max_norm=None, float norm_type=2.0, "
       "bool scale_grad_by_freq=False, bool sparse=False) -> Tensor",
       call<&embedding_functional>, kFunction, "Rows weight[input]; deterministic gradient."},
      {"_embedding_bag(Tensor input, Tensor weight, bool mean, bool scale_grad_by_freq=False) -> Tensor",
       call<&embedding_bag>, kHidden, "The sum, or the mean, of weight[input] along the second axis of input."},
      {"one_hot(Tensor input, int num_classes=-1) -> Tensor", call<&one_hot>, kHidden,
       "int64 zeros with a one at each index."},
  });
}

}  // namespace pydlx::bind
