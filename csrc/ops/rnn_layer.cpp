// One direction of one recurrent layer: in differentiable ops, and fused with one recorded node.
#include "ops/rnn_layer.h"

#include <vector>

#include "autograd/engine.h"
#include "autograd/node.h"
#include "kernels/gemm.h"
#include "kernels/pointwise.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/math.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

Tensor row_block(const Tensor& t, std::int64_t offset, std::int64_t n) {
  const std::int64_t cols = t.sizes()[1];
  return alias(t, {n, cols}, {cols, 1}, t.offset() + offset * cols);
}

// c = a b (+ c), on raw contiguous matrices.
void multiply(const char* op, const Tensor& a, const Tensor& b, const Tensor& c, double beta) {
  Gemm g;
  g.m = c.sizes()[0];
  g.n = c.sizes()[1];
  g.k = a.sizes()[1];
  if (g.m == 0 || g.n == 0) return;
  g.a = a.data();
  g.a_row = a.strides()[0];
  g.a_col = a.strides()[1];
  g.b = b.data();
  g.b_row = b.strides()[0];
  g.b_col = b.strides()[1];
  g.c = c.data();
  g.c_row = c.strides()[0];
  g.beta = beta;
  run_gemm(op, g, c.dtype(), c.device());
}

// Packing the recurrent weights pays from this many steps on.
constexpr std::size_t kPackSteps = 4;

// ---- one layer in differentiable ops
// -----------------------------------------------------------------------------------------------

// Used for gradients of gradients, and as the oracle of the fused path.
TensorList composed_layer(CellKind kind, const Steps& steps, const Layer& in) {
  Tensor h = in[kH0], c = in[kC0];
  const Tensor x_gates = linear(in[kX], in[kWih], in[kBih]);
  const std::int64_t batch = h.size(0), hidden = in[kWhh].size(0) / gates_of(kind);
  std::vector<Tensor> outputs(steps.count());
  auto gate = [&](const Tensor& t, std::int64_t i) { return narrow(t, 1, i * hidden, hidden); };
  auto keep_rest = [&](const Tensor& now, const Tensor& before, std::int64_t n) {
    return n == batch ? now : cat({now, narrow(before, 0, n, batch - n)}, 0);
  };
  for (std::size_t s = 0; s < steps.count(); ++s) {
    const std::size_t t = steps.at(s);
    const std::int64_t n = steps.rows[t];
    const Tensor hp = n == batch ? h : narrow(h, 0, 0, n), x = narrow(x_gates, 0, steps.offset[t], n);
    const Tensor r = linear(hp, in[kWhh], in[kBhh]);
    Tensor y;
    if (kind == CellKind::lstm) {
      const Tensor a = add(x, r), cp = n == batch ? c : narrow(c, 0, 0, n);
      const Tensor now = add(mul(sigmoid(gate(a, 1)), cp), mul(sigmoid(gate(a, 0)), tanh(gate(a, 2))));
      y = mul(sigmoid(gate(a, 3)), tanh(now));
      c = keep_rest(now, c, n);
      if (in[kWhr].defined()) y = linear(y, in[kWhr], {});
    } else if (kind == CellKind::gru) {
      const Tensor reset = sigmoid(add(gate(x, 0), gate(r, 0))), z = sigmoid(add(gate(x, 1), gate(r, 1)));
      const Tensor u = tanh(add(gate(x, 2), mul(reset, gate(r, 2))));
      y = add(u, mul(z, sub(hp, u)));
    } else {
      y = kind == CellKind::tanh ? tanh(add(x, r)) : relu(add(x, r));
    }
    outputs[t] = y;
    h = keep_rest(y, h, n);
  }
  TensorList out{steps.count() ? cat(outputs, 0) : reshape(in[kX], {0, h.size(1)}), h};
  if (kind == CellKind::lstm) out.push_back(c);
  return out;
}

// ---- one layer, fused
// --------------------------------------------------------------------------------------------------------------

TensorList forward_layer(CellKind kind, const Steps& steps, const Layer& in, Tape* tape) {
  const char* op = name_of(kind);
  const DType dtype = in[kX].dtype();
  const Device device = in[kX].device();
  const bool gru = kind == CellKind::gru, lstm = kind == CellKind::lstm, projected = in[kWhr].defined();
  const std::int64_t hidden = in[kWhh].size(0) / gates_of(kind), state = in[kWhh].size(1), batch = in[kH0].size(0);
  auto matrix = [&](std::int64_t rows, std::int64_t cols) { return empty({rows, cols}, dtype, device); };
  // The input side of all steps is one product; where the recurrent side is simply added, its bias joins here.
  const Tensor bias = in[kBih].defined() ? (gru ? in[kBih] : add(in[kBih], in[kBhh])) : Tensor();
  const CellKernels& table = kernels<CellKernels>(device);
  const auto whole = projected || steps.count() < kPackSteps
                         ? nullptr
                         : table.forward_sequence[static_cast<int>(kind)][static_cast<int>(dtype)];
  const bool joined = whole && !tape && table.joined_from > 0 && batch >= table.joined_from;
  Tensor gates = joined ? Tensor() : linear(in[kX], in[kWih], bias);
  const Tensor y = matrix(steps.total, state), h = contiguous(clone(in[kH0])),
               c = lstm ? contiguous(clone(in[kC0])) : Tensor();
  const Tensor raw = projected ? matrix(steps.total, hidden) : y,
               recurrent = gru ? matrix(batch, 3 * hidden) : Tensor();
  if (tape) {
    tape->gates = gates;
    tape->h_prev = matrix(steps.total, state);
    if (lstm) tape->c_prev = matrix(steps.total, hidden);
    if (gru) tape->candidate = matrix(steps.total, hidden);
    if (projected) tape->unprojected = raw;
  }
  if (whole) {
    SequenceForward q;
    describe(q, steps, hidden, batch);
    q.weight = in[kWhh].data();
    q.bias = gru ? data_or_null(in[kBhh]) : nullptr;
    q.gates = data_or_null(gates);
    if (joined) {
      q.input = in[kX].size(1);
      q.x = in[kX].data();
      q.w_ih = in[kWih].data();
      q.input_bias = data_or_null(bias);
    }
    q.h = h.data();
    q.c = data_or_null(c);
    q.y = y.data();
    if (tape) {
      q.h_prev = tape->h_prev.data();
      q.c_prev = data_or_null(tape->c_prev);
      q.candidate = data_or_null(tape->candidate);
    }
    if (whole(q)) {
      TensorList result{y, h};
      if (lstm) result.push_back(c);
      return result;
    }
    if (joined) gates = linear(in[kX], in[kWih], bias);
  }
  // Few rows multiply W_hh as it lies (inner products along its rows); for more, transposing it once beats doing so in
  // every step.
  Tensor w = transpose(in[kWhh], 0, 1);
  if (batch > 16 && steps.count() > 1) w = contiguous(w);
  const auto fn = kernel_or_fail(table.forward[static_cast<int>(kind)][static_cast<int>(dtype)], op, device, dtype);
  for (std::size_t s = 0; s < steps.count(); ++s) {
    const std::size_t t = steps.at(s);
    const std::int64_t n = steps.rows[t], offset = steps.offset[t];
    const Tensor hs = row_block(h, 0, n), g = row_block(gates, offset, n), out = row_block(raw, offset, n);
    if (tape) copy_raw(row_block(tape->h_prev, offset, n), hs);
    CellForward k;
    k.rows = n;
    k.hidden = hidden;
    k.gates = g.data();
    k.h = out.data();
    if (gru) {
      const Tensor r = row_block(recurrent, 0, n);
      if (in[kBhh].defined()) copy_raw(r, in[kBhh]);
      multiply(op, hs, w, r, in[kBhh].defined() ? 1 : 0);
      k.recurrent = r.data();
      k.h_prev = hs.data();
      k.candidate = tape ? row_block(tape->candidate, offset, n).data() : nullptr;
    } else {
      multiply(op, hs, w, g, 1);
      if (lstm) {
        const Tensor cs = row_block(c, 0, n);
        if (tape) copy_raw(row_block(tape->c_prev, offset, n), cs);
        k.c = cs.data();
      }
    }
    fn(k);
    if (projected) multiply(op, out, transpose(in[kWhr], 0, 1), row_block(y, offset, n), 0);
    copy_raw(hs, row_block(y, offset, n));
  }
  TensorList result{y, h};
  if (lstm) result.push_back(c);
  return result;
}

// Gradients of all slots. dy, dh, dc may be undefined.
Layer backward_layer(CellKind kind, const Steps& steps, const Layer& in, const Tape& tape, const Tensor& dy,
                     const Tensor& dh_n, const Tensor& dc_n) {
  const char* op = name_of(kind);
  const DType dtype = in[kX].dtype();
  const Device device = in[kX].device();
  const bool gru = kind == CellKind::gru, lstm = kind == CellKind::lstm, projected = in[kWhr].defined();
  const std::int64_t gate_count = gates_of(kind), hidden = in[kWhh].size(0) / gate_count, state = in[kWhh].size(1);
  const std::int64_t batch = in[kH0].size(0);
  auto matrix = [&](std::int64_t rows, std::int64_t cols) { return empty({rows, cols}, dtype, device); };
  auto start = [&](const Tensor& g, std::int64_t cols) {
    return g.defined() ? contiguous(clone(g)) : full({batch, cols}, 0, dtype, device);
  };
  Tensor dh = start(dh_n, state);
  const Tensor dc = lstm ? start(dc_n, hidden) : Tensor(), dy_rows = dy.defined() ? contiguous(dy) : Tensor();
  const Tensor dgates = matrix(steps.total, gate_count * hidden),
               drecurrent = gru ? matrix(steps.total, 3 * hidden) : dgates;
  const Tensor dh_all = projected ? matrix(steps.total, state) : Tensor(),
               draw = projected ? matrix(batch, hidden) : Tensor();
  const Tensor w = contiguous(in[kWhh]);
  const auto fn = kernel_or_fail(kernels<CellKernels>(device).backward[static_cast<int>(kind)][static_cast<int>(dtype)],
                                 op, device, dtype);
  const auto whole = kernels<CellKernels>(device).backward_sequence[static_cast<int>(kind)][static_cast<int>(dtype)];
  bool done = false;
  if (whole && !projected && steps.count() >= kPackSteps) {
    SequenceBackward q;
    describe(q, steps, hidden, batch);
    q.weight = w.data();
    q.gates = tape.gates.data();
    q.candidate = data_or_null(tape.candidate);
    q.h_prev = tape.h_prev.data();
    q.c_prev = data_or_null(tape.c_prev);
    q.dy = data_or_null(dy_rows);
    q.dh = dh.data();
    q.dc = data_or_null(dc);
    q.dgates = dgates.data();
    q.drecurrent = gru ? drecurrent.data() : nullptr;
    done = whole(q);
  }
  for (std::size_t s = done ? 0 : steps.count(); s-- > 0;) {
    const std::size_t t = steps.at(s);
    const std::int64_t n = steps.rows[t], offset = steps.offset[t];
    Tensor dhs = row_block(dh, 0, n);
    if (dy_rows.defined()) run_binary(BinaryOp::add, op, dhs, row_block(dy_rows, offset, n), false, true);
    CellBackward k;
    k.rows = n;
    k.hidden = hidden;
    k.gates = row_block(tape.gates, offset, n).data();
    k.dh = dhs.data();
    if (projected) {
      copy_raw(row_block(dh_all, offset, n), dhs);
      const Tensor d = row_block(draw, 0, n);
      multiply(op, dhs, in[kWhr], d, 0);
      k.dh = d.data();
    }
    k.dgates = row_block(dgates, offset, n).data();
    if (gru) {
      k.candidate = row_block(tape.candidate, offset, n).data();
      k.h_prev = row_block(tape.h_prev, offset, n).data();
      k.drecurrent = row_block(drecurrent, offset, n).data();
    }
    if (lstm) {
      k.c_prev = row_block(tape.c_prev, offset, n).data();
      k.dc = row_block(dc, 0, n).data();
    }
    fn(k);
    multiply(op, row_block(drecurrent, offset, n), w, dhs, gru ? 1 : 0);
  }
  Layer d;
  d[kH0] = dh;
  d[kC0] = dc;
  weight_gradients(kind, in, dgates, drecurrent, tape.h_prev, d);
  if (projected) d[kWhr] = mm(transpose(dh_all, 0, 1), tape.unprojected);
  return d;
}

// A layer in another type, differentiable.
Layer converted(const Layer& in, DType dtype) {
  Layer out;
  for (std::size_t i = 0; i < kSlots; ++i)
    if (in[i].defined()) out[i] = to_dtype(in[i], dtype);
  return out;
}

// A tape in the graph.
class KeptTape {
 public:
  explicit KeptTape(Tape tape) : narrow(tape.narrow) {
    for (std::size_t i = 0; i < Tape::kTensors; ++i) tensors_[i] = save(*tape.tensors()[i]);
  }
  Tape get(const Backward& bw) const {
    Tape tape;
    for (std::size_t i = 0; i < Tape::kTensors; ++i)
      if (tensors_[i].defined()) *tape.tensors()[i] = contiguous(tensors_[i].get(bw));
    return tape;
  }
  bool narrow;

 private:
  std::array<Saved, Tape::kTensors> tensors_;
};

}  // namespace

const char* name_of(CellKind k) {
  constexpr const char* names[] = {"rnn_tanh", "rnn_relu", "lstm", "gru"};
  return names[static_cast<int>(k)];
}

TensorList run_layer(CellKind kind, const Steps& steps, const Layer& in) {
  bool wanted = false;
  if (GradMode::enabled())
    for (const Tensor& t : in) wanted |= t.defined() && t.requires_grad();
  Layer plain;
  for (std::size_t i = 0; i < kSlots; ++i)
    if (in[i].defined()) plain[i] = contiguous(detach(in[i]));
  Tape tape;
  TensorList out;
  {
    const GradModeGuard off(false);
    out = (is_narrow(plain[kX].dtype()) ? forward_narrow : forward_layer)(kind, steps, plain, wanted ? &tape : nullptr);
  }
  if (!wanted) return out;
  std::vector<const Tensor*> inputs;
  std::array<Saved, kSlots> saved;
  for (std::size_t i = 0; i < kSlots; ++i) {
    inputs.push_back(&in[i]);
    saved[i] = save(in[i]);
  }
  const KeptTape kept(std::move(tape));
  const Ref<Node> node =
      make_node(name_of(kind), std::span<const Tensor* const>(inputs), [kind, steps, saved, kept](Backward& bw) {
        Layer x, d;
        for (std::size_t i = 0; i < kSlots; ++i)
          if (saved[i].defined()) x[i] = saved[i].get(bw);
        const bool lstm = kind == CellKind::lstm;
        if (bw.create_graph) {
          // Copies separate the layer's own use of a tensor from any other path to it; the gradient then flows through
          // the recorded steps.
          TensorList ends, wanted_inputs, roots, grads;
          std::vector<std::size_t> positions;
          for (std::size_t i = 0; i < kSlots; ++i) {
            if (!x[i].defined() || !x[i].requires_grad()) continue;
            x[i] = clone(x[i]);
            wanted_inputs.push_back(x[i]);
            positions.push_back(i);
          }
          const DType dtype = x[kX].dtype();
          ends = composed_layer(kind, steps, kept.narrow ? converted(x, DType::Float32) : x);
          for (Tensor& end : ends) end = to_dtype(end, dtype);
          for (std::size_t i = 0; i < ends.size(); ++i)
            if (bw.has_grad(i) && ends[i].requires_grad()) {
              roots.push_back(ends[i]);
              grads.push_back(bw.grad(i));
            }
          if (roots.empty()) return;
          const TensorList g = run_grad(roots, grads, wanted_inputs, {true, true});
          for (std::size_t i = 0; i < positions.size(); ++i)
            if (bw.needs(positions[i])) bw.set(positions[i], g[i]);
          return;
        }
        for (auto& t : x)
          if (t.defined()) t = contiguous(t);
        const auto grad_or_none = [&](std::size_t i) { return bw.has_grad(i) ? bw.grad(i) : Tensor(); };
        d = (kept.narrow ? backward_narrow : backward_layer)(kind, steps, x, kept.get(bw), grad_or_none(0),
                                                             grad_or_none(1), lstm ? grad_or_none(2) : Tensor());
        for (std::size_t i = 0; i < kSlots; ++i)
          if (d[i].defined() && bw.needs(i)) bw.set(i, d[i]);
      });
  node->output_count = static_cast<std::uint32_t>(out.size());
  for (std::uint32_t i = 0; i < out.size(); ++i) set_history(out[i], node, i);
  return out;
}

void weight_gradients(CellKind kind, const Layer& in, const Tensor& dgates, const Tensor& drecurrent,
                      const Tensor& h_prev, Layer& d) {
  d[kX] = mm(dgates, in[kWih]);
  d[kWih] = mm(transpose(dgates, 0, 1), in[kX]);
  d[kWhh] = mm(transpose(drecurrent, 0, 1), h_prev);
  if (in[kBih].defined()) {
    d[kBih] = sum(dgates, {0}, false);
    d[kBhh] = kind == CellKind::gru ? sum(drecurrent, {0}, false) : clone(d[kBih]);
  }
}

}  // namespace pydlx::ops
