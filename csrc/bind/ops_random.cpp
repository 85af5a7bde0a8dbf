// Rows of the random ops.
#include <deque>
#include <string>

#include "bind/memory_format.h"
#include "bind/rows.h"
#include "ops/elementwise.h"
#include "ops/random.h"

namespace pydlx::bind {

namespace {

using ops::RandomOptions;
using std::optional;
// layout and pin_memory are accepted and ignored, as everything here is dense and pageable.
Tensor rand_(Dims size, Generator* g, optional<DType> dtype, PyObject*, optional<Device> device, bool grad, bool) {
  return ops::rand(size, {g, dtype, device, grad});
}
Tensor randn_(Dims size, Generator* g, optional<DType> dtype, PyObject*, optional<Device> device, bool grad, bool) {
  return ops::randn(size, {g, dtype, device, grad});
}
Tensor randint_(std::int64_t low, std::int64_t high, Dims size, Generator* g, optional<DType> dtype, PyObject*,
                optional<Device> device, bool grad, bool) {
  return ops::randint(low, high, size, {g, dtype, device, grad});
}
Tensor randint_high(std::int64_t high, Dims size, Generator* g, optional<DType> dtype, PyObject*,
                    optional<Device> device, bool grad, bool) {
  return ops::randint(0, high, size, {g, dtype, device, grad});
}
Tensor randperm_(std::int64_t n, Generator* g, optional<DType> dtype, PyObject*, optional<Device> device, bool grad,
                 bool) {
  return ops::randperm(n, {g, dtype, device, grad});
}
// The numbers are drawn in row-major order, whatever the format.
Tensor formatted(const Tensor& x, const Tensor& drawn, optional<MemoryFormat> format) {
  const MemoryFormat f = format.value_or(MemoryFormat::preserve);
  const bool same = f == MemoryFormat::preserve && (x.contiguous_layout() || !is_dense(x.sizes(), x.strides()));
  if (same || f == MemoryFormat::contiguous) return drawn;
  Tensor out = ops::clone_with_strides(
      detach(drawn), f == MemoryFormat::preserve ? x.strides() : format_strides(x.sizes(), f, "memory_format"));
  if (drawn.requires_grad()) set_requires_grad(out, true);
  return out;
}
Tensor rand_like_(Tensor x, Generator* g, optional<DType> dtype, PyObject*, optional<Device> device, bool grad,
                  optional<MemoryFormat> format) {
  return formatted(x, ops::rand_like(x, {g, dtype, device, grad}), format);
}
Tensor randn_like_(Tensor x, Generator* g, optional<DType> dtype, PyObject*, optional<Device> device, bool grad,
                   optional<MemoryFormat> format) {
  return formatted(x, ops::randn_like(x, {g, dtype, device, grad}), format);
}
Tensor randint_like_(Tensor x, std::int64_t low, std::int64_t high, Generator* g, optional<DType> dtype, PyObject*,
                     optional<Device> device, bool grad, optional<MemoryFormat> format) {
  return formatted(x, ops::randint_like(x, low, high, {g, dtype, device, grad}), format);
}
Tensor randint_like_high(Tensor x, std::int64_t high, Generator* g, optional<DType> dtype, PyObject*,
                         optional<Device> device, bool grad, optional<MemoryFormat> format) {
  return formatted(x, ops::randint_like(x, 0, high, {g, dtype, device, grad}), format);
}
Tensor normal_tensors(Tensor mean, Tensor std, Generator* g) { return ops::normal(mean, std, g); }
Tensor normal_mean(Tensor mean, double std, Generator* g) { return ops::normal(mean, wrap_scalar(std), g); }
Tensor normal_std(double mean, Tensor std, Generator* g) { return ops::normal(wrap_scalar(mean), std, g); }
Tensor normal_size(double mean, double std, Dims size, Generator* g, optional<DType> dtype, PyObject*,
                   optional<Device> device, bool grad, bool) {
  return ops::normal(mean, std, size, {g, dtype, device, grad});
}
Tensor bernoulli_p(Tensor x, double p, Generator* g) {
  Tensor out = empty(x.sizes(), x.dtype(), x.device());
  return ops::bernoulli_(out, p, g);
}
Tensor random_plain(Tensor x, Generator* g) { return ops::random_(x, {}, {}, g); }
Tensor random_to(Tensor x, std::int64_t to, Generator* g) { return ops::random_(x, {}, to, g); }
Tensor random_range(Tensor x, std::int64_t from, optional<std::int64_t> to, Generator* g) {
  return ops::random_(x, from, to, g);
}
Tensor bernoulli_scalar(Tensor x, double p, Generator* g) { return ops::bernoulli_(x, p, g); }
Tensor bernoulli_tensor(Tensor x, Tensor p, Generator* g) { return ops::bernoulli_(x, p, g); }

// Signature with the arguments every creation function ends with; the text lives as long as the process.
const char* with(const char* head, const char* last) {
  static std::deque<std::string> texts;
  texts.push_back(std::string(head) +
                  ", *, Generator? generator=None, dtype? dtype=None, object? layout=None, device? device=None, bool "
                  "requires_grad=False, " +
                  last + ") -> Tensor");
  return texts.back().c_str();
}
const char* creation(const char* head) { return with(head, "bool pin_memory=False"); }
const char* like(const char* head) { return with(head, "object? memory_format=None"); }

}  // namespace

void bind_random(OpRegistry& r) {
  using namespace ops;
  r.add({
      {creation("rand(int[*] size"), call<&rand_>, kFunction | kOut, "Uniform numbers in [0, 1)."},
      {creation("randn(int[*] size"), call<&randn_>, kFunction | kOut,
       "Standard normal numbers (Box and Muller 1958)."},
      {creation("randint(int low, int high, int[] size"), call<&randint_>, kFunction | kOut,
       "Integers in [low, high)."},
      {creation("randint(int high, int[] size"), call<&randint_high>, kFunction | kOut, "Integers in [0, high)."},
      {creation("randperm(int n"), call<&randperm_>, kFunction | kOut,
       "A random permutation of 0 .. n - 1 (Fisher and Yates)."},
      {like("rand_like(Tensor input"), call<&rand_like_>, kFunction, "rand with the input's shape, dtype and device."},
      {like("randn_like(Tensor input"), call<&randn_like_>, kFunction,
       "randn with the input's shape, dtype and device."},
      {like("randint_like(Tensor input, int low, int high"), call<&randint_like_>, kFunction,
       "randint with the input's shape."},
      {like("randint_like(Tensor input, int high"), call<&randint_like_high>, kFunction, "Integers in [0, high)."},
      {"normal(Tensor mean, Tensor std, *, Generator? generator=None) -> Tensor", call<&normal_tensors>,
       kFunction | kOut, "Normal numbers with a mean and a standard deviation per element."},
      {"normal(Tensor mean, float std=1.0, *, Generator? generator=None) -> Tensor", call<&normal_mean>,
       kFunction | kOut},
      {"normal(float mean, Tensor std, *, Generator? generator=None) -> Tensor", call<&normal_std>, kFunction | kOut},
      {creation("normal(float mean, float std, int[] size"), call<&normal_size>, kFunction | kOut},
      {"bernoulli(Tensor input, *, Generator? generator=None) -> Tensor", call<&bernoulli>, kBoth | kOut,
       "1 with the probability given by each element, else 0."},
      {"bernoulli(Tensor input, float p, *, Generator? generator=None) -> Tensor", call<&bernoulli_p>, kBoth,
       "1 with probability p, else 0."},
      {"poisson(Tensor input, Generator? generator=None) -> Tensor", call<&poisson>, kFunction,
       "Poisson counts with a rate per element."},
      {"multinomial(Tensor input, int num_samples, bool replacement=False, *, Generator? generator=None) -> Tensor",
       call<&multinomial>, kBoth | kOut, "Column indices of each row, drawn in proportion to the weights."},
      {"uniform_(Tensor input, float from=0, float to=1, *, Generator? generator=None) -> Tensor", call<&uniform_>,
       kMethod, "Fills with uniform numbers in [from, to)."},
      {"normal_(Tensor input, float mean=0, float std=1, *, Generator? generator=None) -> Tensor", call<&normal_>,
       kMethod, "Fills with normal numbers."},
      {"exponential_(Tensor input, float lambd=1, *, Generator? generator=None) -> Tensor", call<&exponential_>,
       kMethod, "Fills with exponential numbers of the given rate."},
      {"geometric_(Tensor input, float p, *, Generator? generator=None) -> Tensor", call<&geometric_>, kMethod,
       "Fills with the number of trials until the first success."},
      {"cauchy_(Tensor input, float median=0, float sigma=1, *, Generator? generator=None) -> Tensor", call<&cauchy_>,
       kMethod, "Fills with Cauchy numbers."},
      {"log_normal_(Tensor input, float mean=1, float std=2, *, Generator? generator=None) -> Tensor",
       call<&log_normal_>, kMethod,
       "Fills with exponentials of normal numbers; mean and std are those of the logarithm."},
      {"random_(Tensor input, *, Generator? generator=None) -> Tensor", call<&random_plain>, kMethod,
       "Fills with integers from 0 to the largest the dtype holds exactly."},
      {"random_(Tensor input, int to, *, Generator? generator=None) -> Tensor", call<&random_to>, kMethod,
       "Fills with integers in [0, to)."},
      {"random_(Tensor input, int from, int? to, *, Generator? generator=None) -> Tensor", call<&random_range>, kMethod,
       "Fills with integers in [from, to)."},
      {"bernoulli_(Tensor input, Tensor p, *, Generator? generator=None) -> Tensor", call<&bernoulli_tensor>, kMethod,
       "Fills with 1 with the probabilities in p, else 0."},
      {"bernoulli_(Tensor input, float p=0.5, *, Generator? generator=None) -> Tensor", call<&bernoulli_scalar>,
       kMethod, "Fills with 1 with probability p, else 0."},
  });
}

}  // namespace pydlx::bind
