// Recurrent networks in PyTorch's calling convention.
#pragma once
#include <optional>
#include <tuple>

#include "core/tensor.h"
#include "kernels/rnn.h"

namespace pydlx::ops {

struct RnnOptions {
  bool has_biases = true;
  std::int64_t num_layers = 1;
  double dropout = 0;  // between layers, while training
  bool train = false;
  bool bidirectional = false;
};

// `weights` per layer and direction: w_ih, w_hh, then b_ih, b_hh when has_biases, then w_hr for an LSTM with
// projections. input (T, B, I), or (B, T, I) with batch_first; h0 and c0 (layers * directions, B, H). Returns output,
// h_n (and c_n for an LSTM).
TensorList rnn_sequence(CellKind kind, const Tensor& input, const TensorList& state, const TensorList& weights,
                        const RnnOptions& o, bool batch_first);
// The same for packed sequences: data (sum of batch_sizes, I), step t has batch_sizes[t] rows, never more than the step
// before.
TensorList rnn_packed(CellKind kind, const Tensor& data, const Tensor& batch_sizes, const TensorList& state,
                      const TensorList& weights, const RnnOptions& o);
// One step: input (B, I) or (I), state (B, H) or (H). Returns h (and c).
TensorList rnn_cell(CellKind kind, const Tensor& input, const TensorList& state, const Tensor& w_ih, const Tensor& w_hh,
                    const Tensor& b_ih, const Tensor& b_hh);

}  // namespace pydlx::ops
