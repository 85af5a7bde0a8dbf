// What the passes over one direction of one recurrent layer share.
#pragma once
#include <array>
#include <vector>

#include "core/tensor.h"
#include "kernels/rnn.h"

namespace pydlx::ops {

// One direction of one layer over packed rows: step t owns rows offset[t] .. offset[t] + rows[t]. Steps run in time
// order or against it; either way a step works on the first rows[t] rows of the state, so sequences that ended keep
// their state and late ones still have h0.
struct Steps {
  std::vector<std::int64_t> rows, offset;
  bool reverse = false;
  std::int64_t total = 0;
  std::size_t count() const { return rows.size(); }
  std::size_t at(std::size_t i) const { return reverse ? rows.size() - 1 - i : i; }
};

// Positions in the list of a layer's tensors; undefined where a cell has no such thing.
enum Slot : std::size_t { kX, kH0, kC0, kWih, kWhh, kBih, kBhh, kWhr, kSlots };
using Layer = std::array<Tensor, kSlots>;

// What the forward pass leaves for the backward pass.
struct Tape {
  Tensor gates;           // activations of all steps, (rows, gates * hidden); narrow: see narrow_columns()
  Tensor h_prev, c_prev;  // state before each step
  Tensor candidate;       // GRU
  Tensor unprojected;     // LSTM with projections: o tanh(c)
  bool narrow = false;    // left by forward_narrow
  static constexpr std::size_t kTensors = 5;
  std::array<Tensor*, kTensors> tensors() { return {&gates, &h_prev, &c_prev, &candidate, &unprojected}; }
};

inline bool is_narrow(DType t) { return t == DType::Float16 || t == DType::BFloat16; }
const char* name_of(CellKind kind);

template <class Sequence>
void describe(Sequence& q, const Steps& steps, std::int64_t hidden, std::int64_t batch) {
  q.steps = static_cast<std::int64_t>(steps.count());
  q.hidden = hidden;
  q.batch = batch;
  q.rows = steps.rows.data();
  q.offset = steps.offset.data();
  q.reverse = steps.reverse;
}

// y (rows, H), h_n, c_n with one recorded node.
TensorList run_layer(CellKind kind, const Steps& steps, const Layer& in);

// 16-bit floats by kernels that keep float32 inside, where the device has them: see NarrowForward.
TensorList forward_narrow(CellKind kind, const Steps& steps, const Layer& in, Tape* tape);
// Gradients of all slots. dy, dh_n, dc_n may be undefined.
Layer backward_narrow(CellKind kind, const Steps& steps, const Layer& in, const Tape& tape, const Tensor& dy,
                      const Tensor& dh_n, const Tensor& dc_n);

// The gradients that are one product over all steps: of the input, the weights and the biases.
void weight_gradients(CellKind kind, const Layer& in, const Tensor& dgates, const Tensor& drecurrent,
                      const Tensor& h_prev, Layer& d);

}  // namespace pydlx::ops
