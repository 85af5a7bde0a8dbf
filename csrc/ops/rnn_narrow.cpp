// One direction of one recurrent layer in 16-bit floats.
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/rnn_layer.h"

namespace pydlx::ops {

namespace {

std::int64_t hidden_of(CellKind kind, const Layer& in) { return in[kWhh].size(0) / gates_of(kind); }

}  // namespace

TensorList forward_narrow(CellKind kind, const Steps& steps, const Layer& in, Tape* tape) {
  const Device device = in[kX].device();
  const DType type = in[kX].dtype();
  const bool lstm = kind == CellKind::lstm;
  const std::int64_t hidden = hidden_of(kind, in), batch = in[kH0].size(0);
  auto matrix = [&](std::int64_t rows, std::int64_t cols, DType dtype) { return empty({rows, cols}, dtype, device); };
  const Tensor gates = matrix(steps.total, narrow_columns(kind, hidden), DType::Float32),
               y = matrix(steps.total, hidden, type), h = matrix(batch, hidden, type),
               c = lstm ? matrix(batch, hidden, type) : Tensor();
  NarrowForward q;
  q.dtype = type;
  describe(q, steps, hidden, batch);
  q.input = in[kX].size(1);
  q.total = steps.total;
  q.x = in[kX].data();
  q.w_ih = in[kWih].data();
  q.w_hh = in[kWhh].data();
  q.b_ih = data_or_null(in[kBih]);
  q.b_hh = data_or_null(in[kBhh]);
  q.h0 = in[kH0].data();
  q.c0 = data_or_null(in[kC0]);
  q.y = y.data();
  q.h = h.data();
  q.c = data_or_null(c);
  q.gates = static_cast<float*>(gates.data());
  if (tape) {
    tape->narrow = true;
    tape->gates = gates;
    tape->h_prev = matrix(steps.total, hidden, type);
    q.h_prev = tape->h_prev.data();
    if (lstm) {
      tape->c_prev = matrix(steps.total, narrow_units(hidden), DType::Float32);
      q.c_prev = static_cast<float*>(tape->c_prev.data());
    }
  }
  const CellKernels& table = kernels<CellKernels>(device);
  const Tensor scratch = empty({table.narrow_forward_scratch(kind, q)}, DType::UInt8, device);
  q.scratch = scratch.data();
  table.narrow_forward[static_cast<int>(kind)](q);
  TensorList result{y, h};
  if (lstm) result.push_back(c);
  return result;
}

Layer backward_narrow(CellKind kind, const Steps& steps, const Layer& in, const Tape& tape, const Tensor& dy,
                      const Tensor& dh_n, const Tensor& dc_n) {
  const Device device = in[kX].device();
  const DType type = in[kX].dtype();
  const bool gru = kind == CellKind::gru, lstm = kind == CellKind::lstm;
  const std::int64_t hidden = hidden_of(kind, in), batch = in[kH0].size(0), columns = gates_of(kind) * hidden;
  auto matrix = [&](std::int64_t rows, std::int64_t cols) { return empty({rows, cols}, type, device); };
  auto rows = [](const Tensor& t) { return t.defined() ? contiguous(t) : Tensor(); };
  const Tensor dy_rows = rows(dy), dh_rows = rows(dh_n), dc_rows = rows(dc_n);
  const Tensor dgates = matrix(steps.total, columns), drecurrent = gru ? matrix(steps.total, columns) : dgates;
  Layer d;
  d[kH0] = matrix(batch, hidden);
  if (lstm) d[kC0] = matrix(batch, hidden);
  NarrowBackward q;
  q.dtype = type;
  describe(q, steps, hidden, batch);
  q.w_hh = in[kWhh].data();
  q.gates = static_cast<const float*>(tape.gates.data());
  q.c_prev = static_cast<const float*>(data_or_null(tape.c_prev));
  q.h_prev = tape.h_prev.data();
  q.dy = data_or_null(dy_rows);
  q.dh_n = data_or_null(dh_rows);
  q.dc_n = data_or_null(dc_rows);
  q.dh = d[kH0].data();
  q.dc = data_or_null(d[kC0]);
  q.dgates = dgates.data();
  q.drecurrent = gru ? drecurrent.data() : nullptr;
  const CellKernels& table = kernels<CellKernels>(device);
  require(table.narrow_backward[static_cast<int>(kind)], "rnn", "backward", ErrorKind::Value,
          "expected the instruction set of the forward pass");
  const Tensor scratch = empty({table.narrow_backward_scratch(kind, q)}, DType::UInt8, device);
  q.scratch = scratch.data();
  table.narrow_backward[static_cast<int>(kind)](q);
  weight_gradients(kind, in, dgates, drecurrent, tape.h_prev, d);
  return d;
}

}  // namespace pydlx::ops
