// Random tensors. A null generator stands for the default one. Results depend only on the generator's (seed, offset):
// any number of threads and any device gives the same stream.
#pragma once
#include <optional>

#include "core/generator.h"
#include "core/tensor.h"

namespace pydlx::ops {

struct RandomOptions {
  Generator* generator = nullptr;
  std::optional<DType> dtype;  // default: default_dtype() for floats, int64 for integers
  std::optional<Device> device;
  bool requires_grad = false;
};

Tensor rand(const Dims& size, const RandomOptions& o);                                          // uniform in [0, 1)
Tensor randn(const Dims& size, const RandomOptions& o);                                         // standard normal
Tensor randint(std::int64_t low, std::int64_t high, const Dims& size, const RandomOptions& o);  // [low, high)
Tensor randperm(std::int64_t n, const RandomOptions& o);
Tensor rand_like(const Tensor& x, const RandomOptions& o);
Tensor randn_like(const Tensor& x, const RandomOptions& o);
Tensor randint_like(const Tensor& x, std::int64_t low, std::int64_t high, const RandomOptions& o);

Tensor normal(const Tensor& mean, const Tensor& std, Generator* g);  // elementwise parameters, broadcast
Tensor normal(double mean, double std, const Dims& size, const RandomOptions& o);
Tensor bernoulli(const Tensor& p, Generator* g);  // 1 with probability p, element by element
Tensor poisson(const Tensor& rate, Generator* g);
// Column indices of each row of `weights` (one or two axes), drawn in proportion to them.
Tensor multinomial(const Tensor& weights, std::int64_t samples, bool replacement, Generator* g);

Tensor& uniform_(Tensor& x, double from, double to, Generator* g);
Tensor& normal_(Tensor& x, double mean, double std, Generator* g);
Tensor& exponential_(Tensor& x, double rate, Generator* g);
Tensor& geometric_(Tensor& x, double p, Generator* g);
Tensor& cauchy_(Tensor& x, double median, double scale, Generator* g);
Tensor& log_normal_(Tensor& x, double mean, double std, Generator* g);
Tensor& random_(Tensor& x, std::optional<std::int64_t> low, std::optional<std::int64_t> high,
                Generator* g);  // integers in [low, high)
Tensor& bernoulli_(Tensor& x, double p, Generator* g);
Tensor& bernoulli_(Tensor& x, const Tensor& p, Generator* g);

}  // namespace pydlx::ops
