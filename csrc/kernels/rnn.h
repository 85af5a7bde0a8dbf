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
  void* h = nullptr;             // [batch, hidden]: state in, state out
  void* c = nullptr;             // LSTM: the same
  void* y = nullptr;             // [total, hidden]
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

struct CellKernels {
  void (*forward[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const CellForward&) = {};
  void (*backward[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const CellBackward&) = {};
  // Whole sequences, optional. False, with nothing written, when there is no memory for the packed weights.
  bool (*forward_sequence[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const SequenceForward&) = {};
  bool (*backward_sequence[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const SequenceBackward&) = {};
};

}  // namespace pydlx
