// Rows of losses and table look-ups.
#include "bind/rows.h"
#include "ops/cross_entropy.h"
#include "ops/embedding.h"

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
       call<&cross_entropy_>, kFunction, "-log softmax(input)[target], for class indices or class probabilities."},
      {"nll_loss(Tensor input, Tensor target, Tensor? weight=None, *, int ignore_index=-100, str reduction='mean') -> "
       "Tensor",
       call<&nll_loss_>, kFunction, "-input[target] for log-probabilities."},
      {"linear_cross_entropy(Tensor input, Tensor weight, Tensor target, Tensor? bias=None, *, int ignore_index=-100, "
       "str reduction='mean', float label_smoothing=0.0) -> Tensor",
       call<&linear_cross_entropy_>, kFunction,
       "cross_entropy(linear(input, weight, bias), target) in blocks of rows, so that the logits never exist at once."},
      {"embedding(Tensor input, Tensor weight, int? padding_idx=None, object? max_norm=None, float norm_type=2.0, "
       "bool scale_grad_by_freq=False, bool sparse=False) -> Tensor",
       call<&embedding_functional>, kFunction, "Rows weight[input]; deterministic gradient."},
      {"one_hot(Tensor input, int num_classes=-1) -> Tensor", call<&one_hot>, kFunction,
       "int64 zeros with a one at each index."},
  });
}

}  // namespace pydlx::bind
