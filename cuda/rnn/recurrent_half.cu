// Whole sequences of recurrent layers in float16 and bfloat16, with the recurrent weights on chip and everything that
// is carried from step to step but the multiplied state in float32.
#include "cuda/gemm/warp_tile.cuh"
#include "cuda/rnn/recurrent_launch.cuh"
#include "cuda/runtime/each.cuh"

namespace pydlx::cuda {
namespace {

// Rows of gates as recurrent_steps.cuh has them: gate after gate, GRU's recurrent part of n behind. narrow_columns() of
// any kind are enough for that.
template <class T>
struct InputShare {
  using Acc = float;
  using Element = T;
  std::int64_t m, n, k, batch = 1;
  bool a_along_k = true, b_along_k = true;
  const T *x, *w, *bias, *other_bias;  // the second is null where it is not simply added
  float* gates;
  std::int64_t row;

  __device__ T a(std::int64_t, std::int64_t i, std::int64_t p) const { return x[i * k + p]; }
  __device__ T b(std::int64_t, std::int64_t p, std::int64_t j) const { return w[j * k + p]; }
  __device__ void store(std::int64_t, std::int64_t i, std::int64_t j, float v) const {
    if (bias) v += static_cast<float>(bias[j]);
    if (other_bias) v += static_cast<float>(other_bias[j]);
    gates[i * row + j] = v;
  }
};

template <class To, class From>
struct Convert {
  To* to;
  const From* from;  // null: zeros
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    to[i] = from ? static_cast<To>(static_cast<float>(from[i])) : static_cast<To>(0.0f);
  }
};
template <class To, class From>
void convert(To* to, const From* from, std::int64_t n) {
  for_each(n, Convert<To, From>{to, from});
}

void started(bool fine) {
  require(fine, "cuda", "", ErrorKind::Device, "expected all blocks of a recurrent layer to be resident at a time");
}

template <class T, CellKind kind>
void forward_of(const NarrowForward& q) {
  constexpr bool lstm = kind == CellKind::lstm, gru = kind == CellKind::gru;
  constexpr CellKind formulas = kind == CellKind::relu ? CellKind::tanh : kind;
  const VerboseCall call(cell_name(kind));
  const RecurrentPlan plan = plan_of(kind, q.hidden, q.batch, q.steps, false, sizeof(T));
  if (verbose_on) note_plan(plan);
  const auto tensor = [](const void* p) { return static_cast<const T*>(p); };
  InputShare<T> share;
  share.m = q.total;
  share.n = gates_of(kind) * q.hidden;
  share.k = q.input;
  share.x = tensor(q.x);
  share.w = tensor(q.w_ih);
  share.bias = tensor(q.b_ih);
  share.other_bias = gru ? nullptr : tensor(q.b_hh);
  share.gates = q.gates;
  share.row = narrow_columns(kind, q.hidden);
  run_tensor_tiles(cell_name(kind), share);

  const Timeline timeline(q, plan);
  const std::int64_t state = q.batch * q.hidden;
  const Scratch<float> c(lstm ? state : 1);
  if (lstm) convert(c.get(), tensor(q.c0), state);
  RecurrentForward<T> p = {};
  timeline.describe(q, plan, kind, tensor(q.w_hh), q.hidden, p);
  p.bias = gru ? tensor(q.b_hh) : nullptr;
  p.gates = q.gates;
  p.gates_row = p.candidate_row = share.row;
  p.candidate = q.gates + 3 * q.hidden;
  p.h0 = tensor(q.h0);
  p.h = static_cast<T*>(q.h);
  p.y = static_cast<T*>(q.y);
  p.c = c.get();
  p.h_prev = static_cast<T*>(q.h_prev);
  p.c_prev = q.c_prev;
  p.c_prev_row = narrow_units(q.hidden);
  p.vectors &= whole_vectors(q.h0) && whole_vectors(q.y);
  started(start_steps<recurrent_forward<HalfTile<T>, formulas>>(plan, p));
  if (lstm) convert(static_cast<T*>(q.c), static_cast<const float*>(c.get()), state);
}

template <class T, CellKind kind>
void backward_of(const NarrowBackward& q) {
  constexpr bool lstm = kind == CellKind::lstm;
  constexpr CellKind formulas = kind == CellKind::relu ? CellKind::tanh : kind;
  const VerboseCall call(cell_name(kind));
  const RecurrentPlan plan = plan_of(kind, q.hidden, q.batch, q.steps, true, sizeof(T));
  if (verbose_on) note_plan(plan);
  const auto tensor = [](const void* p) { return static_cast<const T*>(p); };
  const Timeline timeline(q, plan);
  const std::int64_t state = q.batch * q.hidden;
  const Scratch<float> dh(state), dc(lstm ? state : 1);
  convert(dh.get(), tensor(q.dh_n), state);
  if (lstm) convert(dc.get(), tensor(q.dc_n), state);
  RecurrentBackward<T> p = {};
  timeline.describe(q, plan, kind, tensor(q.w_hh), gates_of(kind) * q.hidden, p);
  p.gates = q.gates;
  p.gates_row = p.candidate_row = narrow_columns(kind, q.hidden);
  p.candidate = q.gates + 3 * q.hidden;
  p.c_prev = q.c_prev;
  p.c_prev_row = narrow_units(q.hidden);
  p.h_prev = tensor(q.h_prev);
  p.dy = tensor(q.dy);
  p.dh = dh.get();
  p.dc = dc.get();
  p.dgates = static_cast<T*>(q.dgates);
  p.dmultiplied = static_cast<T*>(kind == CellKind::gru ? q.drecurrent : q.dgates);
  p.vectors &= whole_vectors(p.dmultiplied);
  started(start_steps<recurrent_backward<HalfTile<T>, formulas>>(plan, p));
  convert(static_cast<T*>(q.dh), static_cast<const float*>(dh.get()), state);
  if (lstm) convert(static_cast<T*>(q.dc), static_cast<const float*>(dc.get()), state);
}

template <CellKind kind>
void add(CellKernels& k) {
  k.narrow_forward[static_cast<int>(kind)] = [](const NarrowForward& q) {
    q.dtype == DType::Float16 ? forward_of<Half, kind>(q) : forward_of<BFloat16, kind>(q);
  };
  k.narrow_backward[static_cast<int>(kind)] = [](const NarrowBackward& q) {
    q.dtype == DType::Float16 ? backward_of<Half, kind>(q) : backward_of<BFloat16, kind>(q);
  };
}

}  // namespace

void register_recurrent_half(KernelTable& t) {
  CellKernels& k = family<CellKernels>(t);
  add<CellKind::tanh>(k);
  add<CellKind::relu>(k);
  add<CellKind::lstm>(k);
  add<CellKind::gru>(k);
  k.narrow_serves = [](CellKind kind, DType dtype, std::int64_t hidden, std::int64_t batch, std::int64_t steps) {
    const auto planned = [&](bool backward) { return plan_of(kind, hidden, batch, steps, backward, 2).blocks > 0; };
    return (dtype == DType::Float16 || dtype == DType::BFloat16) && planned(false) && planned(true);
  };
  // Temporary memory comes from the allocator when it is needed.
  k.narrow_forward_scratch = [](CellKind, const NarrowForward&) { return std::int64_t{0}; };
  k.narrow_backward_scratch = [](CellKind, const NarrowBackward&) { return std::int64_t{0}; };
}

}  // namespace pydlx::cuda
