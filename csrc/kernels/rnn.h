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

struct CellKernels {
  void (*forward[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const CellForward&) = {};
  void (*backward[static_cast<int>(CellKind::COUNT)][kDTypeCount])(const CellBackward&) = {};
};

}  // namespace pydlx
