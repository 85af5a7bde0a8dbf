// Recurrent cells: the elementwise part of one step. Matrix products happen outside. All matrices are contiguous,
// [rows, columns].
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels.h"

namespace pydlx {

enum class CellKind : int { tanh, relu, lstm, gru, COUNT };

constexpr std::int64_t gates_of(CellKind k) { return k == CellKind::lstm ? 4 : k == CellKind::gru ? 3 : 1; }

// In PyTorch's gate order: LSTM i, f, g, o; GRU r, z, n.
struct CellForward {
  std::int64_t rows = 0, hidden = 0;
  void* gates = nullptr;            // [rows, gates * hidden]: pre-activations in, activations out
  const void* recurrent = nullptr;  // GRU: [rows, 3 hidden], h W_hh^T + b_hh, kept apart because r scales its n part
  void* candidate = nullptr;        // GRU, or null: receives the n part of `recurrent` for the backward pass
  const void* h_prev = nullptr;     // GRU: [rows, hidden]
  void* c = nullptr;                // LSTM: [rows, hidden], updated
  void* h = nullptr;                // [rows, hidden]
};

struct CellBackward {
  std::int64_t rows = 0, hidden = 0;
  const void* gates = nullptr;      // activations
  const void* candidate = nullptr;  // GRU
  const void* h_prev = nullptr;     // GRU
  const void* c_prev = nullptr;     // LSTM: the cell state before the step
  void* dh = nullptr;               // gradient of h; GRU: replaced by its direct part of the gradient of h_prev
  void* dc = nullptr;               // LSTM: gradient of the new cell state in, of the old one out
  void* dgates = nullptr;           // gradient of the pre-activations
  void* drecurrent = nullptr;       // GRU: gradient of `recurrent`
};

// All steps of one direction of one layer. Step t owns rows offset[t] .. offset[t] + rows[t] of the per-step matrices
// and the first rows[t] rows of the state.
struct SequenceForward {
  std::int64_t steps = 0, hidden = 0, batch = 0;
  const std::int64_t* rows = nullptr;
  const std::int64_t* offset = nullptr;
  bool reverse = false;
  const void* weight = nullptr;  // W_hh [gates * hidden, hidden]
  const void* bias = nullptr;    // GRU, or null: b_hh [3 hidden]
  void* gates = nullptr;         // [total, gates * hidden]: the input's share in, activations out
  // Where nothing is kept for the backward pass, kernels make the input's share themselves from `joined_from`
  // sequences on: x W_ih^T + b_ih (and b_hh, but GRU). `gates` is null then.
  std::int64_t input = 0;
  const void *x = nullptr, *w_ih = nullptr;  // [total, input], [gates * hidden, input]
  const void* input_bias = nullptr;          // or null: [gates * hidden]
  void* h = nullptr;                         // [batch, hidden]: state in, state out
  void* c = nullptr;                         // LSTM: the same
  void* y = nullptr;                         // [total, hidden]
  // For the backward pass, or all null: the state before each step, and GRU's n part of h W_hh^T + b_hh.
  void* h_prev = nullptr;
  void* c_prev = nullptr;
  void* candidate = nullptr;
};

struct SequenceBackward {
  std::int64_t steps = 0, hidden = 0, batch = 0;
  const std::int64_t* rows = nullptr;
  const std::int64_t* offset = nullptr;
  bool reverse = false;
  const void* weight = nullptr;
  const void* gates = nullptr;
  const void* candidate = nullptr;
  const void* h_prev = nullptr;
  const void* c_prev = nullptr;
  const void* dy = nullptr;  // [total, hidden] or null
  void* dh = nullptr;        // [batch, hidden]: gradient of the last state in, of the first out
  void* dc = nullptr;        // LSTM: the same
  void* dgates = nullptr;
  void* drecurrent = nullptr;  // GRU
};

// The same for 16-bit floats with float32 inside: sums, gates, cell states and the gradients that are carried from step
// to step are not rounded between steps; outputs, states that are multiplied and gradients of gates are. The input
// product is part of it. Kernels that serve this have a layout of gates of their own: `gates` is only passed on, and
// read as narrow_gates() says.
struct NarrowForward {
  DType dtype = DType::BFloat16;
  std::int64_t steps = 0, hidden = 0, batch = 0, input = 0, total = 0;
  const std::int64_t* rows = nullptr;
  const std::int64_t* offset = nullptr;
  bool reverse = false;
  const void *x = nullptr, *w_ih = nullptr, *w_hh = nullptr;  // of that type; x [total, input]
  const void *b_ih = nullptr, *b_hh = nullptr;                // or both null
  const void *h0 = nullptr, *c0 = nullptr;                    // [batch, hidden]; c0: LSTM
  void *y = nullptr, *h = nullptr, *c = nullptr;              // [total, hidden] and the last states
  float* gates = nullptr;                                     // [total, narrow_columns]: activations out
  void* h_prev = nullptr;   // for the backward pass, or null: [total, hidden], the state before each step
  float* c_prev = nullptr;  // LSTM: [total, narrow_units]
  void* scratch = nullptr;  // narrow_forward_scratch() bytes, aligned to 64
};

struct NarrowBackward {
  DType dtype = DType::BFloat16;
  std::int64_t steps = 0, hidden = 0, batch = 0;
  const std::int64_t* rows = nullptr;
  const std::int64_t* offset = nullptr;
  bool reverse = false;
  const void* w_hh = nullptr;
  const float *gates = nullptr, *c_prev = nullptr;
  const void* h_prev = nullptr;                                // GRU
  const void *dy = nullptr, *dh_n = nullptr, *dc_n = nullptr;  // each may be null
  void *dh = nullptr, *dc = nullptr;                           // [batch, hidden]: gradients of the first states
  void *dgates = nullptr, *drecurrent = nullptr;               // [total, gates * hidden]; the second: GRU
  void* scratch = nullptr;                                     // narrow_backward_scratch() bytes
};

// Sixteen units of all gates of a row lie side by side, 64 floats in all (a cell of one gate: 64 units): LSTM i, f, g,
// o; GRU r, z, n and the recurrent part of n.
constexpr std::int64_t narrow_group(CellKind k) { return gates_of(k) == 1 ? 64 : 16; }
constexpr std::int64_t narrow_units(std::int64_t hidden) { return (hidden + 15) / 16 * 16; }
constexpr std::int64_t narrow_columns(CellKind k, std::int64_t hidden) {
  return (hidden + narrow_group(k) - 1) / narrow_group(k) * 64;
}

struct CellKernels {
  void (*forward[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const CellForward&) = {};
  void (*backward[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const CellBackward&) = {};
  // Whole sequences, optional. False, with nothing written, when there is no memory for the packed weights.
  bool (*forward_sequence[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const SequenceForward&) = {};
  bool (*backward_sequence[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const SequenceBackward&) = {};
  std::int64_t joined_from = 0;  // see SequenceForward; 0: never
  // 16-bit floats, optional; all four or none. narrow_serves: whether for layers of this type and size; null: for
  // bfloat16 of any size.
  bool (*narrow_serves)(CellKind, DType, std::int64_t hidden, std::int64_t batch, std::int64_t steps) = nullptr;
  void (*narrow_forward[static_cast<int>(CellKind::COUNT)])(const NarrowForward&) = {};
  void (*narrow_backward[static_cast<int>(CellKind::COUNT)])(const NarrowBackward&) = {};
  std::int64_t (*narrow_forward_scratch)(CellKind, const NarrowForward&) = nullptr;
  std::int64_t (*narrow_backward_scratch)(CellKind, const NarrowBackward&) = nullptr;
};

}  // namespace pydlx
