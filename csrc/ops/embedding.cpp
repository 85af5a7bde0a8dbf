#include "ops/embedding.h"

#include "autograd/node.h"
#include "kernels/embedding.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

struct Lookup {
  Tensor index;  // int64, row-major
  Dims table;
  std::int64_t padding_index;
  bool by_frequency;
};

Tensor embedding_backward(const Lookup& l, const Tensor& g);

void fail_outside(const char* op, const Lookup& l, std::int64_t bad) {
  if (bad >= 0)
    fail(op, "input", ErrorKind::Index, "expected indices in [0, ", l.table[0],
         "), got another value at flat position ", bad);
}

// The look-up and its gradient are each other's transpose when neither padding nor frequencies change the gradient.
Tensor look_up(const Lookup& l, const Tensor& weight) {
  const char* op = "embedding";
  const Tensor w = contiguous(detach(weight));
  Dims sizes = l.index.sizes();
  sizes.push_back(l.table[1]);
  Tensor out = empty(sizes, weight.dtype(), weight.device());
  EmbeddingForward k;
  k.weight = w.data();
  k.index = l.index.data_as<std::int64_t>();
  k.out = out.data();
  k.n = l.index.numel();
  k.rows = l.table[0];
  k.row_bytes = l.table[1] * static_cast<std::int64_t>(itemsize(weight.dtype()));
  if (k.n > 0) {
    const std::int64_t bad =
        kernel_or_fail(kernels<EmbeddingKernels>(weight.device()).forward, op, weight.device(), weight.dtype())(k);
    fail_outside(op, l, bad);
  }
  if (any_requires_grad(weight))
    record(op, out, {&weight}, [l, index = save(l.index)](Backward& bw) {
      index.get(bw);  // refuses indices that were changed in place
      bw.set(0, embedding_backward(l, bw.grad()));
    });
  return out;
}

Tensor embedding_backward(const Lookup& l, const Tensor& g) {
  const char* op = "embedding_backward";
  const Tensor gc = contiguous(detach(g));
  Tensor out = empty(l.table, g.dtype(), g.device());
  const Tensor start = empty({l.table[0] + 1}, DType::Int64, g.device()),
               order = empty({l.index.numel()}, DType::Int64, g.device());
  EmbeddingBackward k;
  k.dy = gc.data();
  k.index = l.index.data_as<std::int64_t>();
  k.dweight = out.data();
  k.start = start.data_as<std::int64_t>();
  k.order = order.data_as<std::int64_t>();
  k.n = l.index.numel();
  k.rows = l.table[0];
  k.cols = l.table[1];
  k.padding_index = l.padding_index;
  k.by_frequency = l.by_frequency;
  if (out.numel() > 0)
    kernel_or_fail(kernels<EmbeddingKernels>(g.device()).backward[static_cast<int>(g.dtype())], op, g.device(),
                   g.dtype())(k);
  if (any_requires_grad(g))
    record(op, out, {&g}, [l, index = save(l.index)](Backward& bw) {
      index.get(bw);
      // Transpose of a scaled scatter: look up, then undo what the scatter left out.
      Tensor gg = look_up({l.index, l.table, -1, false}, bw.grad());
      const Dims column = [&] {
        Dims d = l.index.sizes();
        d.push_back(1);
        return d;
      }();
      if (l.padding_index >= 0)
        gg = mul(gg, reshape(to_dtype(ne(l.index, wrap_scalar(l.padding_index)), gg.dtype()), column));
      if (l.by_frequency) {
        const Tensor ones = full(column, 1, gg.dtype(), gg.device());
        const Tensor counts = embedding_backward({l.index, {l.table[0], 1}, -1, false}, ones);
        gg = div(gg, look_up({l.index, {l.table[0], 1}, -1, false}, counts));
      }
      bw.set(0, gg);
    });
  return out;
}

void check_arguments(const char* op, const Tensor& index, const Tensor& weight) {
  require(is_integral(index.dtype()), op, "input", ErrorKind::DType, "expected integer indices, got ", index.dtype());
  require(weight.ndim() == 2, op, "weight", ErrorKind::Shape, "expected shape (rows, features), got ", weight.sizes());
  require(index.device() == weight.device(), op, "input", ErrorKind::Device, "expected ", weight.device(),
          " like the weight, got ", index.device());
}

}  // namespace

Tensor embedding(const Tensor& index, const Tensor& weight, std::int64_t padding_index, bool by_frequency) {
  const char* op = "embedding";
  check_arguments(op, index, weight);
  require(padding_index < weight.sizes()[0], op, "padding_idx", ErrorKind::Value, "expected a row below ",
          weight.sizes()[0], ", got ", padding_index);
  return look_up({contiguous(to_dtype(index, DType::Int64)), weight.sizes(), padding_index, by_frequency}, weight);
}

Tensor embedding_bag(const Tensor& index, const Tensor& weight, bool mean, bool by_frequency) {
  const char* op = "embedding_bag";
  check_arguments(op, index, weight);
  require(index.ndim() == 2, op, "input", ErrorKind::Shape, "expected shape (bags, length), got ", index.sizes());
  const auto fn = kernels<EmbeddingKernels>(weight.device()).bag[static_cast<int>(weight.dtype())];
  const Lookup l{contiguous(to_dtype(index, DType::Int64)), weight.sizes(), -1, by_frequency};
  const std::int64_t length = index.sizes()[1];
  if (!fn) {
    const Tensor total = sum(look_up(l, weight), {1}, false);
    return mean && length > 1 ? div(total, wrap_scalar(length)) : total;
  }
  const Tensor w = contiguous(detach(weight));
  Tensor out = empty({index.sizes()[0], l.table[1]}, weight.dtype(), weight.device());
  EmbeddingBag k;
  k.weight = w.data();
  k.index = l.index.data_as<std::int64_t>();
  k.out = out.data();
  k.bags = index.sizes()[0];
  k.length = length;
  k.rows = l.table[0];
  k.cols = l.table[1];
  k.mean = mean && length > 0;
  fail_outside(op, l, fn(k));
  if (any_requires_grad(weight))
    record(op, out, {&weight}, [l, index = save(l.index), mean = k.mean](Backward& bw) {
      index.get(bw);
      const Tensor g = mean ? div(bw.grad(), wrap_scalar(l.index.sizes()[1])) : bw.grad();
      bw.set(0, embedding_backward(l, expand(unsqueeze(g, 1), {l.index.sizes()[0], l.index.sizes()[1], l.table[1]})));
    });
  return out;
}

Tensor one_hot(const Tensor& index, std::int64_t num_classes) {
  const char* op = "one_hot";
  require(is_integral(index.dtype()), op, "input", ErrorKind::DType, "expected integer indices, got ", index.dtype());
  require(num_classes >= -1, op, "num_classes", ErrorKind::Value, "expected a value >= 0, or -1, got ", num_classes);
  const Tensor i = contiguous(to_dtype(index, DType::Int64));
  OneHot k;
  k.index = i.data_as<std::int64_t>();
  k.n = i.numel();
  k.classes = num_classes;
  if (num_classes == -1) {
    require(k.n > 0, op, "num_classes", ErrorKind::Value, "expected a number of classes for an empty input, got -1");
    k.classes = checked_add(
        kernel_or_fail(kernels<EmbeddingKernels>(i.device()).largest, op, i.device(), index.dtype())(k), 1, op);
    require(k.classes > 0, op, "input", ErrorKind::Value, "expected indices >= 0, got negative ones only");
  }
  Dims sizes = i.sizes();
  sizes.push_back(k.classes);
  checked_numel(sizes, op);
  Tensor out = empty(sizes, DType::Int64, i.device());
  k.out = out.data_as<std::int64_t>();
  if (k.n > 0) {
    const std::int64_t bad =
        kernel_or_fail(kernels<EmbeddingKernels>(i.device()).one_hot, op, i.device(), index.dtype())(k);
    require(bad < 0, op, "input", ErrorKind::Value, "expected indices in [0, ", k.classes,
            "), got another value at flat position ", bad);
  }
  return out;
}

}  // namespace pydlx::ops
