// Recurrent networks: checks, layers and directions.
#include "ops/rnn.h"

#include <vector>

#include "ops/dispatch.h"
#include "ops/dropout.h"
#include "ops/elementwise.h"
#include "ops/rnn_layer.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

// ---- checks

void check_matrix(const char* op, const char* argument, const Tensor& t, const Dims& sizes, DType dtype) {
  require(t.defined() && t.sizes() == sizes, op, argument, ErrorKind::Shape, "expected shape ", sizes, ", got ",
          t.defined() ? t.sizes() : Dims{});
  require(t.dtype() == dtype, op, argument, ErrorKind::DType, "expected ", dtype, " like the input, got ", t.dtype());
}

// Whether every layer is one for forward_narrow. Shapes are not checked yet.
bool narrow_serves(CellKind kind, const Tensor& data, const std::vector<std::int64_t>& sizes, const TensorList& state,
                   const TensorList& weights, const RnnOptions& o) {
  const CellKernels& table = kernels<CellKernels>(data.device());
  const std::size_t runs = static_cast<std::size_t>(o.num_layers) * (o.bidirectional ? 2 : 1);
  if (!table.narrow_forward[static_cast<int>(kind)] || sizes.empty() || data.numel() == 0 ||
      weights.size() != runs * (o.has_biases ? 4 : 2) || weights[1].numel() == 0 || weights[1].ndim() != 2)
    return false;
  const DType dtype = data.dtype();
  for (const TensorList* list : {&state, &weights})
    for (const Tensor& t : *list)
      if (t.dtype() != dtype) return false;
  if (!table.narrow_serves) return dtype == DType::BFloat16;
  return table.narrow_serves(kind, dtype, weights[1].size(1), sizes[0], static_cast<std::int64_t>(sizes.size()));
}

// data (rows, I) in packed order -> output rows, h_n, c_n.
TensorList run_network(CellKind kind, const Tensor& data, const std::vector<std::int64_t>& sizes,
                       const TensorList& given_state, const TensorList& given_weights, const RnnOptions& o) {
  const char* op = name_of(kind);
  const bool lstm = kind == CellKind::lstm;
  require(is_floating(data.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ",
          data.dtype());
  require(o.num_layers >= 1, op, "num_layers", ErrorKind::Value, "expected at least 1, got ", o.num_layers);
  require(o.dropout >= 0 && o.dropout <= 1, op, "dropout", ErrorKind::Value, "expected 0 to 1, got ", o.dropout);
  require(given_state.size() == (lstm ? 2u : 1u), op, "hx", ErrorKind::Value, "expected ", lstm ? "h_0 and c_0" : "h_0",
          ", got ", given_state.size(), " tensors");
  for (const auto& t : given_state) common_device(op, {&data, &t});
  for (const auto& t : given_weights) common_device(op, {&data, &t});
  if (is_narrow(data.dtype()) && !narrow_serves(kind, data, sizes, given_state, given_weights, o)) {
    auto wide = [](const TensorList& ts) {
      TensorList r;
      for (const auto& t : ts) r.push_back(to_dtype(t, DType::Float32));
      return r;
    };
    TensorList out =
        run_network(kind, to_dtype(data, DType::Float32), sizes, wide(given_state), wide(given_weights), o);
    for (auto& t : out) t = to_dtype(t, data.dtype());
    return out;
  }
  const std::int64_t directions = o.bidirectional ? 2 : 1, runs = o.num_layers * directions, gates = gates_of(kind);
  const std::size_t plain = o.has_biases ? 4 : 2;
  const bool projected = lstm && given_weights.size() == static_cast<std::size_t>(runs) * (plain + 1);
  const std::size_t per_run = plain + (projected ? 1 : 0);
  require(given_weights.size() == static_cast<std::size_t>(runs) * per_run, op, "params", ErrorKind::Value, "expected ",
          static_cast<std::size_t>(runs) * plain, " tensors (", plain, " per layer and direction",
          lstm ? ", one more with projections" : "", "), got ", given_weights.size());
  Steps steps;
  for (auto n : sizes) {
    require(n > 0 && (steps.rows.empty() || n <= steps.rows.back()), op, "batch_sizes", ErrorKind::Value,
            "expected positive sizes that never grow, got ", n, " at step ", steps.rows.size());
    steps.rows.push_back(n);
    steps.offset.push_back(steps.total);
    steps.total = checked_add(steps.total, n, op);
  }
  require(steps.total == data.size(0), op, "batch_sizes", ErrorKind::Value, "expected a sum of ", data.size(0),
          " rows, got ", steps.total);
  require(given_state[0].ndim() == 3, op, "hx", ErrorKind::Shape, "expected shape (", runs, ", batch, hidden), got ",
          given_state[0].sizes());
  const std::int64_t batch = sizes.empty() ? given_state[0].size(1) : sizes[0];
  require(given_weights[1].ndim() == 2 && given_weights[1].size(0) % gates == 0, op, "params", ErrorKind::Shape,
          "expected w_hh of shape (", gates, " * hidden, hidden), got ", given_weights[1].sizes());
  const std::int64_t hidden = given_weights[1].size(0) / gates,
                     state = projected ? given_weights[per_run - 1].size(0) : hidden;
  check_matrix(op, "hx", given_state[0], {runs, batch, state}, data.dtype());
  if (lstm) check_matrix(op, "hx", given_state[1], {runs, batch, hidden}, data.dtype());

  Tensor x = data;
  TensorList last_h, last_c;
  for (std::int64_t layer = 0; layer < o.num_layers; ++layer) {
    TensorList outputs;
    for (std::int64_t direction = 0; direction < directions; ++direction) {
      const std::int64_t run = layer * directions + direction;
      const Tensor* w = &given_weights[static_cast<std::size_t>(run) * per_run];
      Layer in;
      in[kX] = x;
      in[kH0] = select(given_state[0], 0, run);
      if (lstm) in[kC0] = select(given_state[1], 0, run);
      in[kWih] = w[0];
      in[kWhh] = w[1];
      check_matrix(op, "params (w_ih)", w[0], {gates * hidden, x.size(1)}, data.dtype());
      check_matrix(op, "params (w_hh)", w[1], {gates * hidden, state}, data.dtype());
      if (o.has_biases) {
        in[kBih] = w[2];
        in[kBhh] = w[3];
        check_matrix(op, "params (b_ih)", w[2], {gates * hidden}, data.dtype());
        check_matrix(op, "params (b_hh)", w[3], {gates * hidden}, data.dtype());
      }
      if (projected) {
        in[kWhr] = w[plain];
        check_matrix(op, "params (w_hr)", w[plain], {state, hidden}, data.dtype());
      }
      steps.reverse = direction == 1;
      const TensorList r = run_layer(kind, steps, in);
      outputs.push_back(r[0]);
      last_h.push_back(r[1]);
      if (lstm) last_c.push_back(r[2]);
    }
    x = outputs.size() == 1 ? outputs[0] : cat(outputs, 1);
    if (o.train && o.dropout > 0 && layer + 1 < o.num_layers) x = dropout(x, o.dropout, true, false);
  }
  TensorList result{x, stack(last_h, 0)};
  if (lstm) result.push_back(stack(last_c, 0));
  return result;
}

}  // namespace

TensorList rnn_sequence(CellKind kind, const Tensor& input, const TensorList& state, const TensorList& weights,
                        const RnnOptions& o, bool batch_first) {
  const char* op = name_of(kind);
  require(input.ndim() == 3, op, "input", ErrorKind::Shape, "expected 3 dimensions (",
          batch_first ? "batch, time" : "time, batch", ", features), got shape ", input.sizes());
  const Tensor x = batch_first ? transpose(input, 0, 1) : input;
  const std::int64_t steps = x.size(0), batch = x.size(1);
  require(steps > 0, op, "input", ErrorKind::Shape, "expected at least one step, got shape ", input.sizes());
  if (batch == 0) {  // as one sequence of zeros, of which nothing is kept
    const auto with_one = [](const Tensor& t) {
      return cat({t, full({t.size(0), 1, t.size(2)}, 0.0, t.dtype(), t.device())}, 1);
    };
    TensorList padded;
    for (const Tensor& t : state) {
      require(t.ndim() == 3, op, "hx", ErrorKind::Shape, "expected 3 dimensions, got shape ", t.sizes());
      padded.push_back(with_one(t));
    }
    TensorList r = rnn_sequence(kind, with_one(x), padded, weights, o, false);
    for (Tensor& t : r) t = narrow(t, 1, 0, 0);
    if (batch_first) r[0] = transpose(r[0], 0, 1);
    return r;
  }
  TensorList r = run_network(kind, reshape(x, {steps * batch, x.size(2)}),
                             std::vector<std::int64_t>(static_cast<std::size_t>(steps), batch), state, weights, o);
  r[0] = reshape(r[0], {steps, batch, r[0].size(1)});
  if (batch_first) r[0] = transpose(r[0], 0, 1);
  return r;
}

TensorList rnn_packed(CellKind kind, const Tensor& data, const Tensor& batch_sizes, const TensorList& state,
                      const TensorList& weights, const RnnOptions& o) {
  const char* op = name_of(kind);
  require(data.ndim() == 2, op, "data", ErrorKind::Shape, "expected shape (rows, features), got ", data.sizes());
  require(batch_sizes.ndim() == 1 && batch_sizes.dtype() == DType::Int64 && batch_sizes.numel() > 0, op, "batch_sizes",
          ErrorKind::Value, "expected a non-empty 1-d int64 tensor, got ", batch_sizes.dtype(), " of shape ",
          batch_sizes.sizes());
  std::vector<std::int64_t> sizes;
  for (std::int64_t i = 0; i < batch_sizes.size(0); ++i) sizes.push_back(item(select(batch_sizes, 0, i)).to_int());
  return run_network(kind, data, sizes, state, weights, o);
}

TensorList rnn_cell(CellKind kind, const Tensor& input, const TensorList& state, const Tensor& w_ih, const Tensor& w_hh,
                    const Tensor& b_ih, const Tensor& b_hh) {
  const std::string op = std::string(name_of(kind)) + "_cell";
  require(input.ndim() == 1 || input.ndim() == 2, op, "input", ErrorKind::Shape,
          "expected shape (batch, features) or (features,), got ", input.sizes());
  require(b_ih.defined() == b_hh.defined(), op, "b_hh", ErrorKind::Value, "expected both biases or none");
  const bool single = input.ndim() == 1;
  TensorList layered;
  for (const Tensor& s : state) {
    require(s.ndim() == input.ndim(), op, "hx", ErrorKind::Shape, "expected ", input.ndim(),
            " dimensions like the input, got shape ", s.sizes());
    layered.push_back(unsqueeze(single ? unsqueeze(s, 0) : s, 0));
  }
  const Tensor x = single ? unsqueeze(input, 0) : input;
  TensorList weights{w_ih, w_hh};
  if (b_ih.defined()) weights.insert(weights.end(), {b_ih, b_hh});
  RnnOptions o;
  o.has_biases = b_ih.defined();
  std::vector<std::int64_t> sizes;
  if (x.size(0) > 0) sizes.push_back(x.size(0));
  const TensorList r = run_network(kind, x, sizes, layered, weights, o);
  TensorList out;
  for (std::size_t i = 1; i < r.size(); ++i) out.push_back(squeeze(r[i], single ? Dims{0, 1} : Dims{0}));
  return out;
}

}  // namespace pydlx::ops
