"""ctc_loss: the kernel against PyTorch, the composed form, all alignments by hand, and finite differences."""

import itertools

import numpy as np
import pytest
import torch

import pydlx
from pydlx.nn.functional import _ctc, ctc_loss

RNG = np.random.default_rng


def problem(steps, batch, classes, longest, seed=0, repeats=True):
    rng = RNG(seed)
    x = rng.normal(0, 2, (steps, batch, classes))
    targets = rng.integers(1, classes, (batch, longest))
    if repeats and longest > 1:
        targets[:, 1] = targets[:, 0]
    labels = rng.integers(0, longest + 1, batch)
    frames = np.minimum(steps, 2 * labels + 1 + rng.integers(0, steps, batch))
    return x, targets, frames, labels


def both(x, targets, frames, labels, dtype="float64", **more):
    results = []
    for M in (pydlx, torch):
        leaf = M.tensor(x, dtype=getattr(M, dtype), requires_grad=True)
        args = (M.tensor(targets), M.tensor(frames), M.tensor(labels))
        loss = M.nn.functional.ctc_loss(leaf.log_softmax(2), *args, reduction="none", **more)
        loss.backward(M.tensor(RNG(9).uniform(0.5, 2, loss.shape), dtype=loss.dtype))
        results.append((loss.detach().numpy(), leaf.grad.numpy()))
    return results


SHAPES = [
    (1, 1, 2, 1),
    (5, 3, 4, 2),
    (12, 4, 6, 0),
    (20, 3, 5, 7),
    (33, 2, 30, 15),
    (40, 5, 9, 16),
    (150, 2, 40, 33),
    (64, 40, 3, 1),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 2e-5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, dtype, tolerance, isa):
    x, targets, frames, labels = problem(*shape)
    (loss, dx), (want, dwant) = both(x, targets, frames, labels, dtype, zero_infinity=True)
    np.testing.assert_allclose(loss, want, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(dx, dwant, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("blank", [0, 1])
def test_kernel_is_the_composed_form(shape, blank):
    x, targets, frames, labels = problem(*shape, seed=1)
    args = [pydlx.tensor(a) for a in (np.where(targets == blank, 0 if blank else 1, targets), frames, labels)]
    results = []
    for f in (_ctc._composed, _ctc._Paths.apply):
        leaf = pydlx.tensor(x).log_softmax(2).detach().requires_grad_()
        loss = f(leaf, *args, blank)
        finite = pydlx.where(pydlx.isinf(loss), pydlx.zeros_like(loss), loss)
        (finite * pydlx.arange(1, len(loss) + 1)).sum().backward()
        results.append((loss.detach().numpy(), leaf.grad.numpy()))
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


def test_all_alignments():
    """The sum over every path that collapses to the target."""
    steps, classes, target = 5, 3, (1, 2, 2)
    x = RNG(2).normal(size=(steps, 1, classes))
    log_probs = pydlx.tensor(x).log_softmax(2)
    probability = 0.0
    for path in itertools.product(range(classes), repeat=steps):
        merged = [k for k, _ in itertools.groupby(path)]
        if tuple(k for k in merged if k != 0) == target:
            probability += np.exp(sum(log_probs[t, 0, k].item() for t, k in enumerate(path)))
    loss = ctc_loss(log_probs, pydlx.tensor([target]), [steps], [3], reduction="none")
    np.testing.assert_allclose(loss.numpy(), [-np.log(probability)], rtol=1e-12)


def test_lengths_that_do_not_fit():
    """Too few frames for the symbols, or for a repetition; no frames; no symbols."""
    x = RNG(3).normal(size=(6, 6, 4))
    targets = np.array([[1, 2, 3], [2, 2, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 2, 0]])
    frames, labels = np.array([2, 3, 0, 0, 4, 2]), np.array([3, 3, 1, 0, 0, 2])
    (loss, dx), (want, dwant) = both(x, targets, frames, labels, zero_infinity=True)
    np.testing.assert_allclose(loss, want, atol=1e-12)
    np.testing.assert_allclose(dx, dwant, atol=1e-12)
    leaf = pydlx.tensor(x, requires_grad=True)
    infinite = ctc_loss(leaf, *(pydlx.tensor(a) for a in (targets, frames, labels)), reduction="none")
    np.testing.assert_array_equal(np.isinf(infinite.detach().numpy()), [True, True, True, False, False, False])
    infinite.sum().backward()
    assert (leaf.grad.numpy()[:, :4] == 0).all()
    composed = _ctc._composed(leaf, *(pydlx.tensor(a) for a in (targets, frames, labels)), 0)
    np.testing.assert_allclose(composed.detach().numpy(), infinite.detach().numpy(), atol=1e-12)


def test_finite_differences_and_second_derivatives():
    x, targets, frames, labels = problem(7, 2, 4, 2, seed=5)
    args = [pydlx.tensor(a) for a in (targets, np.array([7, 5]), np.array([2, 1]))]

    def f(t):
        return ctc_loss(t, *args, reduction="sum")

    leaf = pydlx.tensor(x).log_softmax(2).detach().requires_grad_()
    assert pydlx.autograd.gradcheck(f, (leaf,))
    assert pydlx.autograd.gradgradcheck(f, (leaf,))


def test_extreme_probabilities(isa):
    """Impossible symbols, and differences of a thousand between neighbours: no overflow, nothing lost."""
    x = np.full((8, 2, 3), -1000.0)
    x[:, :, 0] = 0
    x[3, :, 1] = -1
    x[:, 1, 2] = -np.inf
    targets, frames, labels = np.array([[1, 2], [1, 1]]), np.array([8, 8]), np.array([2, 1])
    for dtype in (pydlx.float32, pydlx.float64):
        leaf = pydlx.tensor(x, dtype=dtype, requires_grad=True)
        loss = ctc_loss(leaf, *(pydlx.tensor(a) for a in (targets, frames, labels)), reduction="none")
        loss.sum().backward()
        np.testing.assert_allclose(loss.detach().numpy(), [1001 - np.log(4), 1], rtol=1e-6)
        grad = leaf.grad.numpy()
        assert np.isfinite(grad).all()
        np.testing.assert_allclose(grad.sum(2), -1, rtol=1e-6)  # every step has one symbol
        np.testing.assert_allclose(grad[3, :, 1], -1, rtol=1e-6)
        np.testing.assert_allclose(grad[4:, 0, 2], -0.25, rtol=1e-4)


def test_long_sequences_stay_accurate():
    x, targets, *_ = problem(3000, 1, 20, 200, seed=6)
    frames, labels = np.array([3000]), np.array([200])
    (exact, dexact), _ = both(x, targets, frames, labels, "float64")
    (loss, dx), (_, dother) = both(x, targets, frames, labels, "float32")
    np.testing.assert_allclose(loss, exact, rtol=2e-6)
    np.testing.assert_allclose(dx, dexact, atol=1e-3)
    assert abs(dx - dexact).max() < abs(dother - dexact).max() / 10  # which adds up to thousands


def test_any_number_of_threads():
    x, targets, frames, labels = problem(50, 9, 12, 11, seed=7)
    pydlx_args = [pydlx.tensor(a) for a in (targets, frames, labels)]
    threads = pydlx.get_num_threads()
    results = []
    for count in (1, 2, 3):
        pydlx.set_num_threads(count)
        leaf = pydlx.tensor(x, dtype=pydlx.float32, requires_grad=True)
        ctc_loss(leaf.log_softmax(2), *pydlx_args, zero_infinity=True).backward()
        results.append(leaf.grad.numpy().tobytes())
    pydlx.set_num_threads(threads)
    assert len(set(results)) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_16_bit_floats(dtype, reduction):
    """As in float32 on the same values, rounded once."""
    x, targets, frames, labels = problem(10, 3, 5, 3, seed=8, repeats=False)
    t = pydlx.tensor(x, dtype=getattr(pydlx, dtype)).log_softmax(2)
    args = [pydlx.tensor(a) for a in (targets, frames, labels)]
    narrow, wide = t.clone().requires_grad_(), t.float().requires_grad_()
    got, want = (ctc_loss(leaf, *args, reduction=reduction) for leaf in (narrow, wide))
    assert got.dtype == t.dtype
    assert pydlx.equal(got, want.to(t.dtype))
    got.sum().backward()
    want.sum().backward()
    assert pydlx.equal(narrow.grad, wide.grad.to(t.dtype))


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16, pydlx.float32])
def test_impossible_target(dtype):
    t = pydlx.zeros(2, 1, 3, dtype=dtype).log_softmax(2)
    loss, zero = (ctc_loss(t, pydlx.tensor([[1, 1]]), [2], [2], zero_infinity=z) for z in (False, True))
    assert loss.item() == float("inf")
    assert zero.item() == 0


def test_bad_symbols_and_lengths():
    x = pydlx.zeros(4, 2, 3)
    with pytest.raises(TypeError, match=r"\[ctc_loss\] log_probs: expected a floating dtype, got .*int64"):
        ctc_loss(x.long(), pydlx.tensor([[1], [2]]), [4, 4], [1, 1])
    with pytest.raises(IndexError, match=r"\[ctc_loss\] targets: expected .* symbols in \[0, 3\)"):
        ctc_loss(x, pydlx.tensor([[1], [3]]), [4, 4], [1, 1])
    ctc_loss(x, pydlx.tensor([[1, 7], [2, -1]]), [4, 4], [1, 1])  # padding may hold anything
    with pytest.raises(ValueError, match=r"\[ctc_loss\] input_lengths"):
        ctc_loss(x, pydlx.tensor([[1], [2]]), [5, 4], [1, 1])
    lengths = pydlx.tensor([4, 5])
    with pytest.raises(IndexError, match=r"sequence 1"):
        pydlx._C._ctc_forward(x, pydlx.tensor([[1], [2]]), lengths, pydlx.tensor([1, 1]), 0, False)
    with pytest.raises(ValueError, match=r"\[ctc_loss\] input_lengths: expected int64 of shape"):
        pydlx._C._ctc_forward(x, pydlx.tensor([[1], [2]]), lengths[:1], pydlx.tensor([1, 1]), 0, False)
