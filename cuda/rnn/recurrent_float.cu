// Whole sequences of recurrent layers in float32, with the recurrent weights on chip.
#include "cuda/rnn/recurrent_launch.cuh"

namespace pydlx::cuda {
namespace {

template <auto kernel0, auto kernel1, auto kernel2, class Work>
bool start_tile(const RecurrentPlan& plan, const Work& work) {
  switch (plan.tile) {
    case 0:
      return start_steps<kernel0>(plan, work);
    case 1:
      return start_steps<kernel1>(plan, work);
    default:
      return start_steps<kernel2>(plan, work);
  }
}

template <CellKind kind>
bool forward(const SequenceForward& q) {
  constexpr CellKind formulas = kind == CellKind::relu ? CellKind::tanh : kind;
  const VerboseCall call(cell_name(kind));
  const RecurrentPlan plan = plan_of(kind, q.hidden, q.batch, q.steps, false, sizeof(float));
  if (plan.blocks == 0) {
    if (verbose_on) verbose_note(" forward: step by step");
    return false;
  }
  if (verbose_on) note_plan(plan);
  const Timeline timeline(q, plan);
  // Blocks read the first state while others write the last one.
  const Scratch<float> last(q.batch * q.hidden);
  RecurrentForward<float> p = {};
  timeline.describe(q, plan, kind, static_cast<const float*>(q.weight), q.hidden, p);
  p.bias = static_cast<const float*>(q.bias);
  p.gates = static_cast<float*>(q.gates);
  p.gates_row = gates_of(kind) * q.hidden;
  p.h0 = static_cast<const float*>(q.h);
  p.h = last.get();
  p.y = static_cast<float*>(q.y);
  p.c = static_cast<float*>(q.c);
  p.h_prev = static_cast<float*>(q.h_prev);
  p.c_prev = static_cast<float*>(q.c_prev);
  p.candidate = static_cast<float*>(q.candidate);
  p.c_prev_row = p.candidate_row = q.hidden;
  p.vectors &= whole_vectors(q.h) && whole_vectors(q.y);
  if (!start_tile<recurrent_forward<FloatTile<0>, formulas>, recurrent_forward<FloatTile<1>, formulas>,
                  recurrent_forward<FloatTile<2>, formulas>>(plan, p))
    return false;
  copy_bytes(q.h, last.get(), static_cast<std::size_t>(q.batch * q.hidden) * sizeof(float));
  return true;
}

template <CellKind kind>
bool backward(const SequenceBackward& q) {
  constexpr CellKind formulas = kind == CellKind::relu ? CellKind::tanh : kind;
  const VerboseCall call(cell_name(kind));
  const RecurrentPlan plan = plan_of(kind, q.hidden, q.batch, q.steps, true, sizeof(float));
  if (plan.blocks == 0) {
    if (verbose_on) verbose_note(" backward: step by step");
    return false;
  }
  if (verbose_on) note_plan(plan);
  const Timeline timeline(q, plan);
  const std::int64_t depth = gates_of(kind) * q.hidden;
  RecurrentBackward<float> p = {};
  timeline.describe(q, plan, kind, static_cast<const float*>(q.weight), depth, p);
  p.gates = static_cast<const float*>(q.gates);
  p.gates_row = depth;
  p.c_prev = static_cast<const float*>(q.c_prev);
  p.candidate = static_cast<const float*>(q.candidate);
  p.c_prev_row = p.candidate_row = q.hidden;
  p.h_prev = static_cast<const float*>(q.h_prev);
  p.dy = static_cast<const float*>(q.dy);
  p.dh = static_cast<float*>(q.dh);
  p.dc = static_cast<float*>(q.dc);
  p.dgates = static_cast<float*>(q.dgates);
  p.dmultiplied = static_cast<float*>(kind == CellKind::gru ? q.drecurrent : q.dgates);
  p.vectors &= whole_vectors(p.dmultiplied);
  return start_tile<recurrent_backward<FloatTile<0>, formulas>, recurrent_backward<FloatTile<1>, formulas>,
                    recurrent_backward<FloatTile<2>, formulas>>(plan, p);
}

template <CellKind kind>
void add(CellKernels& k) {
  constexpr int t = static_cast<int>(DType::Float32);
  k.forward_sequence[static_cast<int>(kind)][t] = forward<kind>;
  k.backward_sequence[static_cast<int>(kind)][t] = backward<kind>;
}

}  // namespace

void register_recurrent_float(KernelTable& t) {
  CellKernels& k = family<CellKernels>(t);
  add<CellKind::tanh>(k);
  add<CellKind::relu>(k);
  add<CellKind::lstm>(k);
  add<CellKind::gru>(k);
}

}  // namespace pydlx::cuda
