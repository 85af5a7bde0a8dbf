// Rows of the recurrent networks, in the form torch.nn's modules call them.
#include "bind/rows.h"
#include "ops/rnn.h"

namespace pydlx::bind {

namespace {

template <CellKind kind>
TensorList sequence(const Tensor& input, const Tensor& hx, const TensorList& params, bool has_biases,
                    std::int64_t num_layers, double dropout, bool train, bool bidirectional, bool batch_first) {
  return ops::rnn_sequence(kind, input, {hx}, params, {has_biases, num_layers, dropout, train, bidirectional},
                           batch_first);
}
template <CellKind kind>
TensorList packed(const Tensor& data, const Tensor& batch_sizes, const Tensor& hx, const TensorList& params,
                  bool has_biases, std::int64_t num_layers, double dropout, bool train, bool bidirectional) {
  return ops::rnn_packed(kind, data, batch_sizes, {hx}, params,
                         {has_biases, num_layers, dropout, train, bidirectional});
}
TensorList lstm_sequence(const Tensor& input, const TensorList& hx, const TensorList& params, bool has_biases,
                         std::int64_t num_layers, double dropout, bool train, bool bidirectional, bool batch_first) {
  return ops::rnn_sequence(CellKind::lstm, input, hx, params, {has_biases, num_layers, dropout, train, bidirectional},
                           batch_first);
}
TensorList lstm_packed(const Tensor& data, const Tensor& batch_sizes, const TensorList& hx, const TensorList& params,
                       bool has_biases, std::int64_t num_layers, double dropout, bool train, bool bidirectional) {
  return ops::rnn_packed(CellKind::lstm, data, batch_sizes, hx, params,
                         {has_biases, num_layers, dropout, train, bidirectional});
}
template <CellKind kind>
Tensor cell(const Tensor& input, const Tensor& hx, const Tensor& w_ih, const Tensor& w_hh, const Tensor& b_ih,
            const Tensor& b_hh) {
  return ops::rnn_cell(kind, input, {hx}, w_ih, w_hh, b_ih, b_hh)[0];
}
TensorList lstm_cell(const Tensor& input, const TensorList& hx, const Tensor& w_ih, const Tensor& w_hh,
                     const Tensor& b_ih, const Tensor& b_hh) {
  return ops::rnn_cell(CellKind::lstm, input, hx, w_ih, w_hh, b_ih, b_hh);
}

constexpr const char* kSequenceDoc =
    "A recurrent network over input (T, B, I), or (B, T, I) with batch_first. hx is h_0 of shape (layers * directions, "
    "B, H) (for the LSTM "
    "the list h_0, c_0); params lists w_ih, w_hh, then b_ih, b_hh with has_biases, then w_hr for an LSTM with "
    "projections, per layer and "
    "direction. Returns the output and the last states.";
constexpr const char* kPackedDoc =
    "A recurrent network over a packed sequence: step t owns the next batch_sizes[t] rows of data. Other arguments as "
    "in the padded form.";

}  // namespace

void bind_rnn(OpRegistry& r) {
  r.add({
      {"lstm(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
       "bool bidirectional, "
       "bool batch_first) -> (Tensor, Tensor, Tensor)",
       call<&lstm_sequence>, kFunction, kSequenceDoc},
      {"lstm(Tensor data, Tensor batch_sizes, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float "
       "dropout, bool train, "
       "bool bidirectional) -> (Tensor, Tensor, Tensor)",
       call<&lstm_packed>, kFunction, kPackedDoc},
      {"gru(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool "
       "bidirectional, "
       "bool batch_first) -> (Tensor, Tensor)",
       call<&sequence<CellKind::gru>>, kFunction, kSequenceDoc},
      {"gru(Tensor data, Tensor batch_sizes, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float "
       "dropout, bool train, "
       "bool bidirectional) -> (Tensor, Tensor)",
       call<&packed<CellKind::gru>>, kFunction, kPackedDoc},
      {"rnn_tanh(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
       "bool bidirectional, "
       "bool batch_first) -> (Tensor, Tensor)",
       call<&sequence<CellKind::tanh>>, kFunction, kSequenceDoc},
      {"rnn_tanh(Tensor data, Tensor batch_sizes, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float "
       "dropout, bool train, "
       "bool bidirectional) -> (Tensor, Tensor)",
       call<&packed<CellKind::tanh>>, kFunction, kPackedDoc},
      {"rnn_relu(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
       "bool bidirectional, "
       "bool batch_first) -> (Tensor, Tensor)",
       call<&sequence<CellKind::relu>>, kFunction, kSequenceDoc},
      {"rnn_relu(Tensor data, Tensor batch_sizes, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float "
       "dropout, bool train, "
       "bool bidirectional) -> (Tensor, Tensor)",
       call<&packed<CellKind::relu>>, kFunction, kPackedDoc},
      {"lstm_cell(Tensor input, Tensor[] hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> "
       "(Tensor, Tensor)",
       call<&lstm_cell>, kFunction, "One LSTM step: input (B, I), hx the list h, c; returns the new h and c."},
      {"gru_cell(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> Tensor",
       call<&cell<CellKind::gru>>, kFunction, "One GRU step: the new hidden state."},
      {"rnn_tanh_cell(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> "
       "Tensor",
       call<&cell<CellKind::tanh>>, kFunction, "tanh(W_ih x + b_ih + W_hh h + b_hh)"},
      {"rnn_relu_cell(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> "
       "Tensor",
       call<&cell<CellKind::relu>>, kFunction, "relu(W_ih x + b_ih + W_hh h + b_hh)"},
  });
}

}  // namespace pydlx::bind
