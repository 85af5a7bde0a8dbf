// Products over named or numbered axes, all composed from matrix products and views.
#include <array>
#include <limits>
#include <string>
#include <vector>

#include "autograd/node.h"
#include "kernels/cross.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

std::int64_t count(const Dims& sizes, const std::vector<std::int64_t>& axes) {
  std::int64_t n = 1;
  for (auto a : axes) n *= sizes[a];
  return n;
}

// The diagonal over axes i < j as a view: axis j disappears, axis i walks both.
Tensor diagonal_view(const Tensor& x, int i, int j) {
  Dims sizes = x.sizes(), strides = x.strides();
  strides[i] += strides[j];
  sizes.erase(j);
  strides.erase(j);
  return as_strided(x, sizes, strides, x.offset());
}

}  // namespace

Tensor trace(const Tensor& x) {
  require(x.ndim() == 2, "trace", "input", ErrorKind::Shape, "expected a matrix, got shape ", x.sizes());
  const std::int64_t n = std::min(x.size(0), x.size(1));
  if (n == 0) return sum(x, {}, false);
  return sum(as_strided(x, {n}, {x.stride(0) + x.stride(1)}, x.offset()), {}, false);
}

Tensor tensordot(const Tensor& a, const Tensor& b, const Dims& axes_a, const Dims& axes_b) {
  const char* op = "tensordot";
  require(axes_a.size() == axes_b.size(), op, "dims", ErrorKind::Shape, "expected as many axes for a as for b, got ",
          axes_a, " and ", axes_b);
  std::vector<char> used_a(a.ndim()), used_b(b.ndim());
  std::vector<std::int64_t> pa, pb;
  for (std::size_t i = 0; i < axes_a.size(); ++i) {
    const int x = wrap_axis(axes_a[i], a.ndim(), op, "dims"), y = wrap_axis(axes_b[i], b.ndim(), op, "dims");
    require(a.ndim() > 0 && b.ndim() > 0 && !used_a[x] && !used_b[y], op, "dims", ErrorKind::Value,
            "expected distinct axes, got ", axes_a, " and ", axes_b);
    used_a[x] = used_b[y] = 1;
    pa.push_back(x);
    pb.push_back(y);
  }
  Tensor s = a, t = b;
  for (std::size_t i = 0; i < pa.size(); ++i) {
    const std::int64_t na = a.sizes()[pa[i]], nb = b.sizes()[pb[i]];
    require(na == nb || na == 1 || nb == 1, op, "dims", ErrorKind::Shape, "expected equal sizes for axis ", pa[i],
            " of ", a.sizes(), " and axis ", pb[i], " of ", b.sizes());
    // An axis of size 1 broadcasts: sum the other operand first.
    if (na == 1 && nb != 1) t = sum(t, {pb[i]}, true);
    if (nb == 1 && na != 1) s = sum(s, {pa[i]}, true);
  }
  std::vector<std::int64_t> order_a, order_b = pb, sizes;
  for (int i = 0; i < s.ndim(); ++i)
    if (!used_a[i]) {
      order_a.push_back(i);
      sizes.push_back(s.sizes()[i]);
    }
  const std::int64_t m = count(s.sizes(), order_a), k = count(s.sizes(), pa);
  for (auto i : pa) order_a.push_back(i);
  std::int64_t n = 1;
  for (int i = 0; i < t.ndim(); ++i)
    if (!used_b[i]) {
      order_b.push_back(i);
      sizes.push_back(t.sizes()[i]);
      n *= t.sizes()[i];
    }
  return reshape(mm(reshape(permute(s, order_a), {m, k}), reshape(permute(t, order_b), {k, n})), sizes);
}

Tensor matrix_power(const Tensor& a, std::int64_t n) {
  const char* op = "matrix_power";
  require(a.ndim() >= 2 && a.size(-1) == a.size(-2), op, "input", ErrorKind::Shape,
          "expected square matrices, got shape ", a.sizes());
  require(is_floating(a.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", a.dtype());
  require(n >= 0, op, "n", ErrorKind::Value, "expected a power of at least 0, got ", n, "; invert the matrix first");
  if (n == 0) {
    Tensor eye = full(a.sizes(), 0, a.dtype(), a.device());
    Dims sizes = a.sizes(), strides = eye.strides();
    strides[a.ndim() - 2] += 1;
    sizes.erase(a.ndim() - 1);
    strides.erase(a.ndim() - 1);
    if (eye.numel() > 0) {
      Tensor diagonal = as_strided(eye, sizes, strides, eye.offset());
      fill_(diagonal, wrap_scalar(1.0));
    }
    return eye;
  }
  Tensor result, square = a;
  for (; n > 0; n >>= 1) {
    if (n & 1) result = result.defined() ? matmul(result, square) : square;
    if (n > 1) square = matmul(square, square);
  }
  return result.is_same(a) ? clone(a) : result;
}

Tensor multi_dot(const TensorList& given) {
  const char* op = "multi_dot";
  require(given.size() >= 2, op, "tensors", ErrorKind::Value, "expected at least two tensors, got ", given.size());
  TensorList m = given;
  const int n = static_cast<int>(m.size());
  for (int i = 0; i < n; ++i) {
    const bool end = i == 0 || i == n - 1;
    require(m[i].ndim() == 2 || (end && m[i].ndim() == 1), op, "tensors", ErrorKind::Shape,
            "expected matrices (the first and last may be vectors), got shape ", m[i].sizes(), " at position ", i);
  }
  const bool row = m[0].ndim() == 1, column = m[n - 1].ndim() == 1;
  if (row) m[0] = unsqueeze(m[0], 0);
  if (column) m[n - 1] = unsqueeze(m[n - 1], 1);
  for (int i = 0; i + 1 < n; ++i)
    require(m[i].size(1) == m[i + 1].size(0), op, "tensors", ErrorKind::Shape, "expected inner sizes to match, got ",
            m[i].sizes(), " and ", m[i + 1].sizes(), " at positions ", i, " and ", i + 1);
  // Matrix-chain order (Cormen et al., "Introduction to Algorithms", 15.2): cost[i][j] over split points, shortest
  // chains first.
  std::vector<std::vector<double>> cost(n, std::vector<double>(n, 0));
  std::vector<std::vector<int>> split(n, std::vector<int>(n, 0));
  auto size = [&](int i) { return static_cast<double>(i < n ? m[i].size(0) : m[n - 1].size(1)); };
  for (int length = 2; length <= n; ++length)
    for (int i = 0; i + length <= n; ++i) {
      const int j = i + length - 1;
      cost[i][j] = std::numeric_limits<double>::infinity();
      for (int s = i; s < j; ++s) {
        const double c = cost[i][s] + cost[s + 1][j] + size(i) * size(s + 1) * size(j + 1);
        if (c < cost[i][j]) cost[i][j] = c, split[i][j] = s;
      }
    }
  // The plan as a list of ranges, parents before children; products are then formed from the end, children first.
  struct Range {
    int i, j, left, right;
    Tensor value;
  };
  std::vector<Range> plan{{0, n - 1, -1, -1, {}}};
  for (std::size_t p = 0; p < plan.size(); ++p) {
    const int i = plan[p].i, j = plan[p].j;
    if (i == j) {
      plan[p].value = m[i];
      continue;
    }
    plan[p].left = static_cast<int>(plan.size());
    plan.push_back({i, split[i][j], -1, -1, {}});
    plan[p].right = static_cast<int>(plan.size());
    plan.push_back({split[i][j] + 1, j, -1, -1, {}});
  }
  for (std::size_t p = plan.size(); p-- > 0;)
    if (plan[p].left >= 0) plan[p].value = mm(plan[plan[p].left].value, plan[plan[p].right].value);
  Tensor out = plan[0].value;
  if (column) out = squeeze(out, {1});
  if (row) out = squeeze(out, {0});
  return out;
}

Tensor kron(const Tensor& a, const Tensor& b) {
  const int n = std::max(a.ndim(), b.ndim());
  const auto size = [n](const Tensor& t, int i) { return i < n - t.ndim() ? 1 : t.sizes()[i - (n - t.ndim())]; };
  const std::int64_t last_a = n > 0 ? size(a, n - 1) : 1, last_b = n > 0 ? size(b, n - 1) : 1;
  // The product runs along rows of the result: short rows of b are laid out side by side first, if that is little
  // beside the product itself.
  const bool wide = last_b < 64 && a.numel() >= 4 * last_a && b.numel() >= 4 * last_b;
  Dims sa, sb, ea, eb, out;
  for (int i = 0; i < n; ++i) {
    const std::int64_t x = size(a, i), y = size(b, i);
    const bool laid_out = wide && i == n - 1;
    for (const std::int64_t k : {x, std::int64_t{1}}) sa.push_back(k);
    for (const std::int64_t k : {std::int64_t{1}, y}) sb.push_back(k);
    for (const std::int64_t k : {x, laid_out ? y : 1}) ea.push_back(k);
    for (const std::int64_t k : {laid_out ? x : 1, y}) eb.push_back(k);
    out.push_back(checked_mul(x, y, "kron"));
  }
  Tensor of_a = expand(reshape(a, sa), ea), of_b = expand(reshape(b, sb), eb);
  if (wide) of_a = contiguous(of_a), of_b = contiguous(of_b);
  return reshape(mul(of_a, of_b), out);
}

Tensor cross(const Tensor& a, const Tensor& b, std::int64_t axis) {
  const char* op = "cross";
  const int dim = wrap_axis(axis, a.ndim(), op);
  require(a.sizes() == b.sizes() && a.sizes()[dim] == 3, op, "input", ErrorKind::Shape,
          "expected equal shapes with three elements along axis ", dim, ", got ", a.sizes(), " and ", b.sizes());
  require(a.dtype() == b.dtype(), op, "other", ErrorKind::DType, "expected ", a.dtype(), " like the input, got ",
          b.dtype());
  Tensor out;
  if (const auto fn = kernels<CrossKernels>(common_device(op, {&a, &b})).cross[static_cast<int>(a.dtype())]) {
    const Tensor x = contiguous(detach(a)), y = contiguous(detach(b));
    out = empty(x.sizes(), x.dtype(), x.device());
    Cross k{x.data(), y.data(), out.data(), 1, 1};
    for (int i = 0; i < x.ndim(); ++i) (i < dim ? k.outer : k.inner) *= i == dim ? 1 : x.sizes()[i];
    if (out.numel() > 0) fn(k);
  } else {
    // Components as planes 0 1 2 0 1, of which any three neighbours are a view.
    const auto planes = [dim](const Tensor& t) {
      const Tensor first = movedim(detach(t), {dim}, {0});
      return cat({first, narrow(first, 0, 0, 2)}, 0);
    };
    const Tensor x = planes(a), y = planes(b);
    const auto from = [](const Tensor& t, std::int64_t k) { return narrow(t, 0, k, 3); };
    const Tensor product = sub(mul(from(x, 1), from(y, 2)), mul(from(x, 2), from(y, 1)));
    out = contiguous(movedim(product, {0}, {dim}));
  }
  if (any_requires_grad(a, b))
    record(op, out, {&a, &b}, [a = save(a), b = save(b), dim](Backward& bw) {
      if (bw.needs(0)) bw.set(0, cross(b.get(bw), bw.grad(), dim));
      if (bw.needs(1)) bw.set(1, cross(bw.grad(), a.get(bw), dim));
    });
  return out;
}

// ---- einsum
// ----------------------------------------------------------------------------------------------------------------------

namespace {

// Labels: 0..25 for A-Z, 26..51 for a-z, and from 52 the axes an ellipsis stands for, last axis highest.
constexpr int kLetters = 52;
constexpr int kLabels = kLetters + kMaxDims;

struct Operand {
  Tensor t;
  std::vector<int> labels;  // one per axis, all different after diagonals are taken
  int axis(int label) const {
    for (std::size_t i = 0; i < labels.size(); ++i)
      if (labels[i] == label) return static_cast<int>(i);
    return -1;
  }
};

constexpr int kEllipsis = -1;

// One side of a comma: labels and kEllipsis.
std::vector<int> parse_term(const std::string& term, const std::string& equation) {
  std::vector<int> r;
  bool dots = false;
  for (std::size_t i = 0; i < term.size(); ++i) {
    const char c = term[i];
    if (c == ' ') continue;
    if (c >= 'A' && c <= 'Z') {
      r.push_back(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      r.push_back(26 + c - 'a');
    } else if (c == '.' && term.compare(i, 3, "...") == 0 && !dots) {
      dots = true;
      i += 2;
      r.push_back(kEllipsis);
    } else {
      fail("einsum", "equation", ErrorKind::Value, "expected letters and at most one '...' per operand, got '",
           std::string(1, c), "' in '", equation, "'");
    }
  }
  return r;
}

std::string label_name(int label) {
  if (label >= kLetters) return "...";
  return std::string(1, static_cast<char>(label < 26 ? 'A' + label : 'a' + label - 26));
}

// Sums the axes with these labels away.
void reduce_labels(Operand& o, const std::vector<int>& gone) {
  if (gone.empty()) return;
  Dims axes;
  std::vector<int> rest;
  for (std::size_t i = 0; i < o.labels.size(); ++i) {
    if (std::find(gone.begin(), gone.end(), o.labels[i]) != gone.end())
      axes.push_back(static_cast<std::int64_t>(i));
    else
      rest.push_back(o.labels[i]);
  }
  o.t = sum(o.t, axes, false);
  o.labels = rest;
}

// Drops an axis of size 1.
void drop_label(Operand& o, int label) {
  const int i = o.axis(label);
  o.t = squeeze(o.t, {i});
  o.labels.erase(o.labels.begin() + i);
}

Tensor arranged(const Operand& o, const std::vector<int>& order) {
  Dims axes;
  bool same = true;
  for (std::size_t i = 0; i < order.size(); ++i) {
    axes.push_back(o.axis(order[i]));
    same &= axes.back() == static_cast<std::int64_t>(i);
  }
  return same ? o.t : permute(o.t, axes);
}

// a and b into one operand; `kept` says which labels later operands or the output still need.
Operand contract(Operand a, Operand b, const std::array<bool, kLabels>& kept) {
  // A size-1 axis against a longer one broadcasts: it adds nothing.
  for (const int l : std::vector<int>(a.labels)) {
    const int j = b.axis(l);
    if (j < 0) continue;
    const std::int64_t na = a.t.size(a.axis(l)), nb = b.t.size(j);
    if (na == 1 && nb != 1)
      drop_label(a, l);
    else if (nb == 1 && na != 1)
      drop_label(b, l);
  }
  std::vector<int> gone_a, gone_b, batch, free_a, free_b, summed;
  for (int l : a.labels) {
    if (b.axis(l) < 0)
      (kept[l] ? free_a : gone_a).push_back(l);
    else
      (kept[l] ? batch : summed).push_back(l);
  }
  for (int l : b.labels)
    if (a.axis(l) < 0) (kept[l] ? free_b : gone_b).push_back(l);
  reduce_labels(a, gone_a);
  reduce_labels(b, gone_b);

  Operand r;
  r.labels = batch;
  r.labels.insert(r.labels.end(), free_a.begin(), free_a.end());
  r.labels.insert(r.labels.end(), free_b.begin(), free_b.end());
  auto join = [](std::vector<int> x, const std::vector<int>& y, const std::vector<int>& z) {
    x.insert(x.end(), y.begin(), y.end());
    x.insert(x.end(), z.begin(), z.end());
    return x;
  };
  auto sizes_of = [](const Operand& o, const std::vector<int>& labels) {
    Dims d;
    for (int l : labels) d.push_back(o.t.size(o.axis(l)));
    return d;
  };
  auto product = [](const Dims& d) {
    std::int64_t n = 1;
    for (auto s : d) n *= s;
    return n;
  };
  const Dims sb = sizes_of(a, batch), sm = sizes_of(a, free_a), sn = sizes_of(b, free_b), sk = sizes_of(a, summed);
  if (summed.empty()) {  // a broadcast product
    Tensor x = arranged(a, join(batch, free_a, {})), y = arranged(b, join(batch, free_b, {}));
    for (std::size_t i = 0; i < free_b.size(); ++i) x = unsqueeze(x, -1);
    for (std::size_t i = 0; i < free_a.size(); ++i) y = unsqueeze(y, static_cast<std::int64_t>(batch.size()));
    r.t = mul(x, y);
    return r;
  }
  const std::int64_t nb = product(sb), m = product(sm), n = product(sn), k = product(sk);
  const Tensor x = arranged(a, join(batch, free_a, summed)), y = arranged(b, join(batch, summed, free_b));
  Dims sizes = sb;
  for (auto s : sm) sizes.push_back(s);
  for (auto s : sn) sizes.push_back(s);
  if (batch.empty())
    r.t = reshape(mm(reshape(x, {m, k}), reshape(y, {k, n})), sizes);
  else
    r.t = reshape(bmm(reshape(x, {nb, m, k}), reshape(y, {nb, k, n})), sizes);
  return r;
}

}  // namespace

Tensor einsum(const std::string& equation, const TensorList& tensors) {
  const char* op = "einsum";
  require(!tensors.empty(), op, "operands", ErrorKind::Value, "expected at least one tensor");
  const auto arrow = equation.find("->");
  const std::string left = equation.substr(0, arrow);
  std::vector<std::vector<int>> terms;
  for (std::size_t at = 0;;) {
    const auto comma = left.find(',', at);
    terms.push_back(parse_term(left.substr(at, comma == std::string::npos ? comma : comma - at), equation));
    if (comma == std::string::npos) break;
    at = comma + 1;
  }
  require(terms.size() == tensors.size(), op, "equation", ErrorKind::Value, "expected one term per operand (",
          tensors.size(), "), got ", terms.size(), " in '", equation, "'");

  // Ellipses align at their last axis.
  int dots = 0;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    int letters = 0;
    bool has_dots = false;
    for (int l : terms[i]) l == kEllipsis ? has_dots = true : ++letters != 0;
    const int covered = tensors[i].ndim() - letters;
    require(has_dots ? covered >= 0 : covered == 0, op, "operands", ErrorKind::Shape, "expected ",
            has_dots ? "at least " : "", letters, " axes for operand ", i, " of '", equation, "', got shape ",
            tensors[i].sizes());
    if (has_dots) dots = std::max(dots, covered);
  }
  std::array<std::int64_t, kLabels> extent;
  extent.fill(-1);
  std::array<int, kLabels> uses{};
  std::vector<Operand> operands(tensors.size());
  for (std::size_t i = 0; i < terms.size(); ++i) {
    Operand& o = operands[i];
    o.t = tensors[i];
    std::vector<int> labels;
    const int covered = tensors[i].ndim() - static_cast<int>(terms[i].size()) + 1;
    for (int l : terms[i]) {
      if (l != kEllipsis) {
        labels.push_back(l);
        continue;
      }
      for (int d = 0; d < covered; ++d) labels.push_back(kLetters + dots - covered + d);
    }
    for (std::size_t j = 0; j < labels.size(); ++j) {
      const std::int64_t n = o.t.size(static_cast<int>(j));
      auto& e = extent[labels[j]];
      require(e == -1 || e == 1 || n == 1 || e == n, op, "operands", ErrorKind::Shape, "expected size ", e, " for '",
              label_name(labels[j]), "' of operand ", i, " in '", equation, "', got ", n);
      if (e == -1 || e == 1) e = n;
      ++uses[labels[j]];
    }
    // A label repeated within one operand takes the diagonal.
    for (std::size_t j = 0; j < labels.size(); ++j)
      for (std::size_t l = labels.size(); --l > j;)
        if (labels[l] == labels[j]) {
          require(o.t.size(static_cast<int>(j)) == o.t.size(static_cast<int>(l)), op, "operands", ErrorKind::Shape,
                  "expected equal sizes for the repeated '", label_name(labels[j]), "' of operand ", i, ", got shape ",
                  tensors[i].sizes());
          o.t = diagonal_view(o.t, static_cast<int>(j), static_cast<int>(l));
          labels.erase(labels.begin() + static_cast<std::ptrdiff_t>(l));
        }
    o.labels = labels;
  }

  std::vector<int> output;
  if (arrow == std::string::npos) {  // ellipsis first, then the labels used once, in alphabetical order
    for (int d = 0; d < dots; ++d) output.push_back(kLetters + d);
    for (int l = 0; l < kLetters; ++l)
      if (uses[l] == 1) output.push_back(l);
  } else {
    for (int l : parse_term(equation.substr(arrow + 2), equation)) {
      if (l == kEllipsis) {
        for (int d = 0; d < dots; ++d) output.push_back(kLetters + d);
        continue;
      }
      require(uses[l] > 0, op, "equation", ErrorKind::Value, "output label '", label_name(l), "' of '", equation,
              "' is in no operand");
      require(std::find(output.begin(), output.end(), l) == output.end(), op, "equation", ErrorKind::Value,
              "output label '", label_name(l), "' appears twice in '", equation, "'");
      output.push_back(l);
    }
  }

  Operand acc = operands[0];
  for (std::size_t i = 1; i <= operands.size(); ++i) {
    std::array<bool, kLabels> kept{};
    for (int l : output) kept[l] = true;
    for (std::size_t j = i + 1; j < operands.size(); ++j)
      for (int l : operands[j].labels) kept[l] = true;
    if (i < operands.size()) {
      acc = contract(std::move(acc), operands[i], kept);
      continue;
    }
    std::vector<int> gone;
    for (int l : acc.labels)
      if (!kept[l]) gone.push_back(l);
    reduce_labels(acc, gone);
  }
  return arranged(acc, output);
}

}  // namespace pydlx::ops
