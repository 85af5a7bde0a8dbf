#include "bind/autocast.h"

#include <algorithm>
#include <string_view>

#include "bind/caster.h"

namespace pydlx::bind {

namespace {

using enum CastPolicy;

// PyTorch's lists ("Autocast Op Reference"). Sums of many terms and functions of a wide range run in float32, products
// in 16 bits; everything else takes its operands as they are.
struct Row {
  std::string_view op;
  CastPolicies policies;
};
constexpr CastPolicies kProduct{lower, lower}, kWide{full, full}, kWideOnGpu{none, full};
constexpr Row kRows[] = {
    {"addbmm", kProduct},
    {"addmm", kProduct},
    {"addmv", kProduct},
    {"addr", kProduct},
    {"baddbmm", kProduct},
    {"bmm", kProduct},
    {"chain_matmul", kProduct},
    {"conv1d", kProduct},
    {"conv2d", kProduct},
    {"conv3d", kProduct},
    {"conv_activation", kProduct},
    {"conv_transpose1d", kProduct},
    {"conv_transpose2d", kProduct},
    {"conv_transpose3d", kProduct},
    {"convolution", kProduct},
    {"einsum", kProduct},
    {"gru", kProduct},
    {"gru_cell", kProduct},
    {"linear", kProduct},
    {"linear_activation", kProduct},
    {"lstm", kProduct},
    {"lstm_cell", kProduct},
    {"matmul", kProduct},
    {"mm", kProduct},
    {"mv", kProduct},
    {"rnn_relu", kProduct},
    {"rnn_relu_cell", kProduct},
    {"rnn_tanh", kProduct},
    {"rnn_tanh_cell", kProduct},
    {"scaled_dot_product_attention", kProduct},

    {"binary_cross_entropy", kWide},
    {"binary_cross_entropy_with_logits", kWide},
    {"cdist", kWide},
    {"cosine_embedding_loss", kWide},
    {"cross_entropy", {full, none}},  // on GPUs reads 16-bit logits itself, and answers in float32
    {"ctc_loss", kWide},
    {"grid_sample", kWide},
    {"hinge_embedding_loss", kWide},
    {"huber_loss", kWide},
    {"kl_div", kWide},
    {"l1_loss", kWide},
    {"margin_ranking_loss", kWide},
    {"mse_loss", kWide},
    {"multi_margin_loss", kWide},
    {"nll_loss", kWide},
    {"poisson_nll_loss", kWide},
    {"prod", kWide},
    {"quantile", kWide},
    {"nanquantile", kWide},
    {"smooth_l1_loss", kWide},
    {"soft_margin_loss", kWide},
    {"triplet_margin_loss", kWide},

    {"acos", kWideOnGpu},
    {"add_layer_norm", kWideOnGpu},
    {"add_rms_norm", kWideOnGpu},
    {"asin", kWideOnGpu},
    {"cosh", kWideOnGpu},
    {"cosine_similarity", kWideOnGpu},
    {"cumprod", kWideOnGpu},
    {"cumsum", kWideOnGpu},
    {"dist", kWideOnGpu},
    {"erfinv", kWideOnGpu},
    {"exp", kWideOnGpu},
    {"expm1", kWideOnGpu},
    {"group_norm", kWideOnGpu},
    {"layer_norm", kWideOnGpu},
    {"log", kWideOnGpu},
    {"log10", kWideOnGpu},
    {"log1p", kWideOnGpu},
    {"log2", kWideOnGpu},
    {"log_softmax", kWideOnGpu},
    {"logsumexp", kWideOnGpu},
    {"norm", kWideOnGpu},
    {"pow", kWideOnGpu},
    {"reciprocal", kWideOnGpu},
    {"renorm", kWideOnGpu},
    {"rms_norm", kWideOnGpu},
    {"rsqrt", kWideOnGpu},
    {"sinh", kWideOnGpu},
    {"softmax", kWideOnGpu},
    {"softmin", kWideOnGpu},
    {"softplus", kWideOnGpu},
    {"sum", kWideOnGpu},
    {"tan", kWideOnGpu},
};

CastPolicy policy_for(const Tensor& t, CastPolicies p) { return t.is_cpu() ? p.cpu : p.cuda; }

DeviceType device_type(const std::string& name) {
  require(name == "cpu" || name == "cuda", "autocast", "device_type", ErrorKind::Value,
          "expected 'cpu' or 'cuda', got '", name, "'");
  return name == "cpu" ? DeviceType::CPU : DeviceType::CUDA;
}

}  // namespace

CastPolicies cast_policies(const std::string& op) {
  const auto* row = std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& r) { return r.op == op; });
  return row == std::end(kRows) ? CastPolicies{} : row->policies;
}

Tensor cast_operand(const Tensor& t, CastPolicies p) { return autocast(t, policy_for(t, p)); }

void cast_arguments(const Schema& s, PyObject** slots, std::vector<Object>& owned) {
  const auto replace = [&](PyObject*& slot, Object with) {
    slot = with.get();
    owned.push_back(std::move(with));
  };
  for (std::size_t i = 0; i < s.params.size(); ++i) {
    PyObject*& slot = slots[i];
    if (is_tensor(slot)) {
      const Tensor t = as_tensor(slot), cast = cast_operand(t, s.casts);
      if (!cast.is_same(t)) replace(slot, Object(wrap(cast)));
    } else if (s.params[i].kind == Kind::TensorList && (PyTuple_Check(slot) || PyList_Check(slot))) {
      Object list = Object::checked(PySequence_List(slot));
      for (Py_ssize_t k = 0; k < PyList_GET_SIZE(list.get()); ++k) {
        PyObject* item = PyList_GET_ITEM(list.get(), k);
        if (!is_tensor(item)) continue;
        const Tensor t = as_tensor(item);
        if (PyList_SetItem(list.get(), k, wrap(cast_operand(t, s.casts))) < 0) throw PythonError{};
      }
      replace(slot, std::move(list));
    }
  }
}

void init_autocast(PyObject* module) {
  py::module_ m = py::reinterpret_borrow<py::module_>(module);
  m.def("_autocast_enabled",
        [](const std::string& device) { return autocast_state().enabled[static_cast<int>(device_type(device))]; });
  m.def("_set_autocast_enabled", [](const std::string& device, bool on) {
    autocast_state().enabled[static_cast<int>(device_type(device))] = on;
  });
  m.def("_autocast_dtype", [](const std::string& device) {
    return py::reinterpret_steal<py::object>(
        dtype_object(autocast_state().dtype[static_cast<int>(device_type(device))]));
  });
  m.def("_set_autocast_dtype", [](const std::string& device, py::handle dtype) {
    DType t;
    require(dtype_from(dtype.ptr(), t) && (t == DType::Float16 || t == DType::BFloat16), "autocast", "dtype",
            ErrorKind::Value, "expected float16 or bfloat16, got ", std::string(py::str(dtype)));
    autocast_state().dtype[static_cast<int>(device_type(device))] = t;
  });
  m.def("_autocast_cache", [] { return autocast_state().cache; });
  m.def("_set_autocast_cache", [](bool on) { autocast_state().cache = on; });
  m.def("_enter_autocast", [] { return ++autocast_state().depth; });
  m.def("_exit_autocast", [] {
    if (--autocast_state().depth == 0) clear_autocast_cache();
    return autocast_state().depth;
  });
  m.def("_clear_autocast_cache", &clear_autocast_cache);
}

}  // namespace pydlx::bind
