"""x[key] and x[key] = value against PyTorch and NumPy: a table of keys, then random ones; values, gradients, view semantics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pydlx

SHAPE = (4, 5, 6)


def data(shape=SHAPE):
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape) / 7


def tensors(shape=SHAPE, grad=False):
    a = data(shape)
    return pydlx.tensor(a).requires_grad_(grad), torch.tensor(a).requires_grad_(grad)


def translate(T, key):
    """NumPy arrays inside a key become tensors of the library under test; everything else stays."""
    if isinstance(key, tuple):
        return tuple(translate(T, k) for k in key)
    return T.tensor(key) if isinstance(key, np.ndarray) else key


MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
ROWS = np.array([True, False, True, True])
BASIC = [
    0, -1, 3, slice(None), slice(1, 3), slice(None, None, 2), slice(-2, None), slice(3, 1), slice(10, 20), slice(-100, 100, 3), None, ..., (),
    (1, 2), (1, 2, 3), (slice(None), 2), (..., 2), (1, ...), (..., slice(1, 4), None), (None, 1, None), (slice(1, 3), slice(None), -1),
    (None, ..., None), (slice(None), None, slice(0, 0)), (1, ..., 2), (..., 1, 2, 3), np.int64(2), (np.int32(1), slice(None, None, 5)),
]  # fmt: skip
ADVANCED = [
    [0, 2], np.array([3, 0, -1]), np.array([[0, 1], [2, 3]]), (slice(None), np.array([0, 4])), (slice(None), [0, 4]), ([0, 1], [2, 3]),
    (np.array([0, 1]), slice(None), np.array([2, 3])), (slice(None), np.array([0, 1]), np.array([2, 3])), (np.array([[0], [1]]), np.array([2, 3])),
    (np.array([[0], [1]]), np.array([2, 3]), slice(1, 5, 2)), (1, np.array([0, 2])), (1, slice(None), np.array([0, 2])), (np.array([1, 1]), 2),
    (np.array([0, 2]), 1, np.array([0, 5])), (..., np.array([1, 2])), (np.array([1, 2]), ...), (None, np.array([1, 2])), (np.array([1, 2]), None),
    (slice(1, 3), np.array([1, 2]), None), (np.array([0, 1]), None, np.array([0, 1])), (np.array([0, 1]), ..., np.array([0, 1])), MASK, ROWS, (ROWS, 1),
    (slice(None), np.ones(5, bool)), (ROWS, slice(None), np.array([0, 1, 2])), (MASK, np.array([0])), (MASK, slice(1, 3)), (..., np.zeros(6, bool)),
    [True, False, True, False], np.array(2), (np.array(2), np.array(1)), (np.array(1), slice(None), np.array([1, 2])), np.array([], np.int64), [],
    (slice(None), []), True, False, (True, 1), (..., True), (slice(1, 3), False), np.array(True), (np.array([0, 3]), np.array([4, 0]), np.array([5, 0])),
    (np.array([[[0]], [[1]]]), np.array([[1], [2]]), np.array([3, 4])), np.zeros((4, 5, 6), bool), data() > 3, range(2), (range(2), range(2)),
    np.array([1, 2], np.int32), (np.array([1, 2], np.int16), np.array([0, 1])),
]  # fmt: skip


def readable(key):
    return repr(key).replace("\n", "").replace(" ", "")[:60]


keys = pytest.mark.parametrize("key", BASIC + ADVANCED, ids=readable)


def torch_key(key):
    """PyTorch wants int64 indices and does not know ranges."""
    if isinstance(key, tuple):
        return tuple(torch_key(k) for k in key)
    if isinstance(key, range):
        return list(key)
    if isinstance(key, np.ndarray) and key.dtype in (np.int16,):
        return torch.tensor(key.astype(np.int64))
    return translate(torch, key)


@keys
def test_read(key):
    x, y = tensors()
    got, want = x[translate(pydlx, key)], y[torch_key(key)]
    assert tuple(got.shape) == tuple(want.shape)
    assert np.array_equal(got.numpy(), want.numpy())


@keys
@pytest.mark.parametrize("permuted", [False, True])
def test_read_gradient(key, permuted):
    x, y = tensors(grad=True)
    a, b = (x * 1, y * 1)
    if permuted:
        a, b = a.permute(2, 0, 1).permute(1, 2, 0), b.permute(2, 0, 1).permute(1, 2, 0)
    got, want = a[translate(pydlx, key)], b[torch_key(key)]
    weight = np.random.default_rng(0).standard_normal(tuple(want.shape))
    (got * pydlx.tensor(weight)).sum().backward()
    (want * torch.tensor(weight)).sum().backward()
    assert np.allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-12)


@keys
@pytest.mark.parametrize("value", ["number", "tensor", "broadcast", "leading"])
def test_write(key, value):
    x, y = tensors()
    shape = tuple(y[torch_key(key)].shape)
    v = np.random.default_rng(1).standard_normal(shape)
    if value == "number":
        v = 2.5
    elif value == "broadcast":
        v = v[..., :1] if shape and shape[-1] else v
    elif value == "leading":
        v = v[None, None]
    if value == "tensor" and has_duplicates(key):
        v = np.zeros(shape)  # which of several writes stays is left open by PyTorch
    if value in ("broadcast", "leading") and has_duplicates(key):
        v = np.full(shape, 3.5)
    x[translate(pydlx, key)] = v if value == "number" else pydlx.tensor(v)
    y[torch_key(key)] = v if value == "number" else torch.tensor(v)
    assert np.array_equal(x.numpy(), y.numpy())


def has_duplicates(key):
    counter = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    picked = torch.tensor(counter)[torch_key(key)].numpy().ravel()
    return len(set(picked.tolist())) != picked.size


@keys
def test_write_gradient(key):
    if has_duplicates(key):
        pytest.skip("several writes to one element")
    x, y = tensors(grad=True)
    shape = tuple(y[torch_key(key)].shape)
    v = np.random.default_rng(2).standard_normal(shape)
    grads = []
    for T, t, k in ((pydlx, x, translate(pydlx, key)), (torch, y, torch_key(key))):
        values = T.tensor(v).requires_grad_(True)
        z = t * 2
        z[k] = values * values
        (z * z).sum().backward()
        grads.append([g.numpy() if g is not None else np.zeros(shape) for g in (t.grad, values.grad)])
    assert np.allclose(grads[0][0], grads[1][0])
    assert np.allclose(grads[0][1], grads[1][1])


@pytest.mark.parametrize("key", ADVANCED, ids=readable)
def test_augmented_assignment(key):
    if has_duplicates(key):
        pytest.skip("several writes to one element")
    x, y = tensors()
    x[translate(pydlx, key)] += 10.0
    y[torch_key(key)] += 10.0
    assert np.array_equal(x.numpy(), y.numpy())


def test_numpy_keys_are_taken_directly():
    x, _ = tensors()
    # Nested lists mean arrays, as in NumPy.
    for key in (
        np.array([0, 2]),
        (slice(None), np.array([1, 1])),
        MASK,
        (MASK[:, 0], 2),
        np.array([3, 2, 1])[::-1],
        [[0, 2], [1, 1]],
    ):
        assert np.array_equal(x[key].numpy(), data()[key])


def test_basic_keys_are_views_and_advanced_keys_copies():
    x, _ = tensors()
    for key in BASIC:
        v = x[key]
        if v.numel():
            assert v._base is x
    assert x[[0, 1]]._base is None
    x[1][2] = 7
    assert x[1, 2].tolist() == [7.0] * 6


def test_write_through_views_reaches_the_base():
    x, y = tensors(grad=True)
    for T, t in ((pydlx, x), (torch, y)):
        z = t * 1
        z[1:3][:, [0, 2]] = T.tensor([5.0, 6.0], dtype=T.float64)[:, None, None] * t.sum()
        z.transpose(0, 1)[[0, 1], 2:] *= 2
        z[z > 10] = 0.5
        (z * z).sum().backward()
    assert np.allclose(x.grad.numpy(), y.grad.numpy())


def test_values_are_converted():
    x = pydlx.zeros(4, dtype=pydlx.int64)
    x[1:3] = pydlx.tensor([1.9, -2.9])
    x[pydlx.tensor([3])] = 7.5
    assert x.tolist() == [0, 1, -2, 7]
    h = pydlx.zeros(3, dtype=pydlx.float16)
    h[[0, 2]] = pydlx.tensor([1, 2])
    h[1] = 3
    assert h.tolist() == [1.0, 3.0, 2.0]
    f = pydlx.zeros(2, 3)
    f[0] = [1, 2, 3]
    f[:, 1] = np.array([5, 6])
    assert f.tolist() == [[1, 5, 3], [0, 6, 0]]


def test_overlapping_source_is_copied_first():
    x = pydlx.arange(6)
    x[[0, 1, 2, 3]] = x[2:]
    assert x.tolist() == [2, 3, 4, 5, 4, 5]
    i = pydlx.tensor([2, 0, 1])
    i[i] = i
    assert sorted(i.tolist()) == [0, 1, 2]
    y = pydlx.arange(5)
    y[1:] = y[:-1]
    assert y.tolist() == [0, 0, 1, 2, 3]


def test_saved_tensors_notice_writes():
    x = pydlx.ones(3, requires_grad=True)
    y = x * 2
    z = y * y
    y[[0]] = 0.0
    with pytest.raises(RuntimeError, match="index_put_"):
        z.sum().backward()
    i = pydlx.tensor([0, 1])
    out = (x * 1)[i]
    i.fill_(0)
    with pytest.raises(RuntimeError, match="in-place"):
        out.sum().backward()


def test_scatters_add_in_order_whatever_the_threads():
    rng = np.random.default_rng(3)
    index, source = rng.integers(0, 50, 30000), rng.standard_normal((30000, 70)).astype(np.float32)
    results = []
    before = pydlx.get_num_threads()
    try:
        for threads in (1, 2, 3):
            pydlx.set_num_threads(threads)
            x = pydlx.zeros(50, 70)
            x.index_add_(0, pydlx.tensor(index), pydlx.tensor(source))
            results.append(x.numpy().tobytes())
    finally:
        pydlx.set_num_threads(before)
    assert results[0] == results[1] == results[2]
    plain = np.zeros((50, 70), np.float32)
    for row, s in zip(index, source):
        plain[row] += s
    assert plain.tobytes() == results[0]


def test_iteration_and_unpacking():
    x, _ = tensors(grad=True)
    a, *rest = x
    (a * 2 + rest[-1]).sum().backward()
    want = np.zeros(SHAPE)
    want[0], want[-1] = 2, 1
    assert np.array_equal(x.grad.numpy(), want)


def test_numbers_and_lists():
    assert pydlx.tensor(True).dtype == pydlx.bool
    assert pydlx.tensor(3).dtype == pydlx.int64
    assert pydlx.tensor(3.0).dtype == pydlx.float32
    assert pydlx.tensor([1, True, 2.5]).tolist() == [1.0, 1.0, 2.5]
    assert pydlx.tensor([[], []]).shape == (2, 0)
    assert pydlx.tensor([]).dtype == pydlx.float32
    assert pydlx.tensor([pydlx.tensor(1), 2]).dtype == pydlx.int64
    assert pydlx.tensor([pydlx.ones(2), pydlx.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    assert pydlx.tensor([np.float32(1.5), 2]).dtype == torch_name(torch.tensor([np.float32(1.5), 2]).dtype)
    assert pydlx.tensor([np.arange(3), np.arange(3)]).tolist() == [[0, 1, 2]] * 2
    assert pydlx.tensor(range(3)).tolist() == [0, 1, 2]
    assert pydlx.tensor((1, 2), dtype=pydlx.float16).tolist() == [1.0, 2.0]
    nested = data().tolist()
    assert pydlx.tensor(nested, dtype=pydlx.float64).tolist() == nested
    assert pydlx.tensor([2**40], dtype=pydlx.int64).item() == 2**40
    assert pydlx.tensor(5).tolist() == 5
    assert pydlx.zeros(2, 0).tolist() == [[], []]


def torch_name(dtype):
    return getattr(pydlx, str(dtype).split(".")[1])


# ---- random keys -----------------------------------------------------------------------------------------------------------------


@st.composite
def shaped_keys(draw):
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=0, max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lookup = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=2)))
    key, axis, ellipsis = [], 0, False
    while axis < len(shape):
        kind = draw(st.sampled_from(["int", "slice", "none", "ellipsis", "tensor", "mask", "list", "stop"]))
        n = shape[axis]
        if kind == "stop":
            break
        if kind == "none":
            key.append(None)
            if len(key) > 6:
                break
        elif kind == "ellipsis":
            if not ellipsis:
                key.append(...)
                ellipsis = True
                axis += draw(st.integers(0, len(shape) - axis))
        elif kind == "slice":
            ends = st.one_of(st.none(), st.integers(-7, 7))
            key.append(slice(draw(ends), draw(ends), draw(st.one_of(st.none(), st.integers(1, 3)))))
            axis += 1
        elif kind == "mask":
            span = draw(st.integers(1, len(shape) - axis))
            key.append(rng.integers(0, 2, shape[axis : axis + span]).astype(bool))
            axis += span
        elif n == 0 and kind != "slice":
            key.append(slice(None))
            axis += 1
        elif kind == "int":
            key.append(draw(st.integers(-n, n - 1)))
            axis += 1
        elif kind == "list":
            key.append(rng.integers(-n, n, lookup[-1]).tolist())
            axis += 1
        else:
            sizes = [s if draw(st.booleans()) else 1 for s in lookup]
            key.append(rng.integers(-n, n, sizes))
            axis += 1
    return shape, tuple(key)


def outcome(f):
    """What f returns, or the error it raises."""
    try:
        return f(), None
    except (IndexError, ValueError, RuntimeError) as e:
        return None, e


@settings(max_examples=400, deadline=None, derandomize=True)
@given(shaped_keys())
def test_random_reads_and_writes(case):
    shape, key = case
    x, y = tensors(shape, grad=True)
    mine, theirs = translate(pydlx, key), torch_key(key)
    want, refused = outcome(lambda: y[theirs])
    got, error = outcome(lambda: x[mine])
    if refused is not None:
        assert error is not None, f"PyTorch refuses {key} on {shape}: {refused}"
        return
    assert error is None, f"{key} on {shape}: {error}"
    assert tuple(got.shape) == tuple(want.shape)
    assert np.array_equal(got.detach().numpy(), want.detach().numpy())
    weight = np.random.default_rng(5).standard_normal(tuple(want.shape))
    (got * pydlx.tensor(weight)).sum().backward()
    (want * torch.tensor(weight)).sum().backward()
    assert np.allclose(x.grad.numpy(), y.grad.numpy())
    a, b = x.detach().clone(), y.detach().clone()
    a[mine] = 1.25
    b[theirs] = 1.25
    assert np.array_equal(a.numpy(), b.numpy())


def test_a_mask_may_be_the_tensor_itself():
    m = pydlx.tensor([True, False, True, True])
    m[m] = False
    assert m.tolist() == [False] * 4
    b = pydlx.tensor([True, False, True, True, False])
    want = np.array(b.tolist())
    picked = want[1:].copy()
    want[:-1][picked] = False
    b[:-1][b[1:]] = False
    assert b.tolist() == want.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_sums_of_rows_keep_extreme_values(dtype):
    """index_add, rows put on top of rows, and bags of look-ups share a kernel that adds in registers."""
    rows = np.zeros((6, 37))
    rows[0], rows[1], rows[2] = np.inf, -np.inf, np.nan
    rows[3] = 1e-7 if dtype == "float16" else 1e-39  # subnormal
    rows[4] = 3e4 if dtype == "float16" else 1e38
    index = np.array([0, 0, 1, 1, 2, 3, 3, 4, 4, 5], np.int64)
    source = np.array([0, 5, 0, 1, 2, 3, 3, 4, 4, 5], np.int64)
    x = pydlx.zeros(7, 37, dtype=getattr(pydlx, dtype))
    table = pydlx.from_numpy(rows).to(x.dtype)
    want = np.zeros((7, 37))
    with np.errstate(invalid="ignore"):
        np.add.at(want, index, table.double().numpy()[source])
    with np.errstate(over="ignore"):
        want = pydlx.from_numpy(want).to(x.dtype).double().numpy()
    at, values = pydlx.from_numpy(index), table[pydlx.from_numpy(source)]
    for got in (x.index_add(0, at, values), x.index_put((at - 7,), values, accumulate=True)):
        np.testing.assert_array_equal(got.double().numpy(), want)
    bags = pydlx.nn.functional.embedding_bag(pydlx.tensor([[0, 5], [3, 3], [4, 4], [0, 1], [2, 5]]), table, mode="sum")
    np.testing.assert_array_equal(bags.double().numpy(), want[[0, 3, 4, 1, 2]])


def test_bags_of_no_indices_or_of_bad_ones():
    embedding_bag = pydlx.nn.functional.embedding_bag
    table = pydlx.ones(4, 5)
    for mode in ("sum", "mean"):
        assert embedding_bag(pydlx.zeros(3, 0, dtype=pydlx.int64), table, mode=mode).tolist() == [[0.0] * 5] * 3
        assert embedding_bag(pydlx.zeros(0, 3, dtype=pydlx.int64), table, mode=mode).shape == (0, 5)
        for bad in (4, -1):
            with pytest.raises(IndexError, match=r"\[embedding_bag\] input: .* flat position 3"):
                embedding_bag(pydlx.tensor([[0, 1], [2, bad], [bad, 0]]), table, mode=mode)
