"""ctc_loss on ``device="cuda"``: the kernels against those of the CPU in float64, at the edges of their layouts."""

from __future__ import annotations

import numpy as np
import pytest
from test_ctc import SHAPES, problem

import pydlx
from pydlx import cuda
from pydlx.nn.functional import ctc_loss

pytestmark = pytest.mark.skipif(not cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")


def run(x, targets, frames, labels, dtype, device, blank=0):
    leaf = pydlx.tensor(x, dtype=dtype, device=device, requires_grad=True)
    arguments = [pydlx.tensor(a, device=device) for a in (targets, frames, labels)]
    loss = ctc_loss(leaf, *arguments, blank=blank, reduction="none", zero_infinity=True)
    loss.backward(pydlx.arange(1.0, loss.numel() + 1, dtype=dtype, device=device))
    assert loss.device.type == leaf.grad.device.type == device
    return loss.detach().cpu().numpy(), leaf.grad.cpu().numpy()


def check(x, *arguments, dtype=pydlx.float64, tolerance=1e-10, **more):
    x = pydlx.tensor(x).log_softmax(2).numpy()
    want = run(x, *arguments, pydlx.float64, "cpu", **more)
    got = run(x, *arguments, dtype, "cuda", **more)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * max(1, abs(want[1]).max()))
    for g, again in zip(got, run(x, *arguments, dtype, "cuda", **more), strict=True):
        assert g.tobytes() == again.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, dtype):
    check(*problem(*shape), dtype=getattr(pydlx, dtype), tolerance=1e-10 if dtype == "float64" else 3e-5)


@pytest.mark.parametrize(
    ("longest", "dtype"), [(15, "float32"), (16, "float32"), (256, "float64"), (511, "float32"), (520, "float32")]
)
def test_as_many_states_as_threads_and_more(longest, dtype):
    x, targets, *_ = problem(longest + 30, 2, 12, longest, seed=3)
    frames, labels = np.array([longest + 30, longest + 10]), np.array([longest, longest // 2])
    check(x, targets, frames, labels, dtype=getattr(pydlx, dtype), tolerance=1e-9 if dtype == "float64" else 2e-4)


@pytest.mark.parametrize(("longest", "dtype"), [(1410, "float32"), (720, "float64")])
def test_targets_longer_than_shared_memory(longest, dtype):
    """Classes enough that few symbols repeat, so that the target fits."""
    x, targets, *_ = problem(longest + 40, 1, 300, longest, seed=4)
    check(
        x,
        targets,
        np.array([longest + 40]),
        np.array([longest]),
        dtype=getattr(pydlx, dtype),
        tolerance=1e-3 if dtype == "float32" else 1e-9,
    )


def test_one_symbol_over_and_over_and_blanks_inside_targets():
    x, *_ = problem(60, 2, 3, 20, seed=5)
    for targets in (np.full((2, 20), 1), np.tile([0, 1, 0, 0, 2], (2, 4))):
        check(x, targets, np.array([60, 47]), np.array([20, 17]))
        check(x, targets, np.array([60, 47]), np.array([20, 17]), blank=2)


def test_many_sequences():
    """More of them than blocks."""
    check(*problem(6, 3000, 3, 2, seed=6))


def test_nothing_to_do():
    none = pydlx.zeros(0, dtype=pydlx.int64, device="cuda")
    for steps, batch in ((0, 2), (4, 0)):
        x = pydlx.zeros(steps, batch, 3, device="cuda", requires_grad=True)
        lengths = pydlx.zeros(batch, dtype=pydlx.int64, device="cuda")
        loss = ctc_loss(x, none.reshape(0, 0) if batch == 0 else none, lengths, lengths, reduction="none")
        loss.sum().backward()
        assert loss.tolist() == [0.0] * batch and x.grad.shape == x.shape


def test_lengths_that_do_not_fit_and_extreme_probabilities():
    x = np.random.default_rng(3).normal(size=(6, 6, 4))
    targets = np.array([[1, 2, 3], [2, 2, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 2, 0]])
    check(x, targets, np.array([2, 3, 0, 0, 4, 2]), np.array([3, 3, 1, 0, 0, 2]))
    x = np.full((8, 2, 3), -1000.0)
    x[:, :, 0] = 0
    x[3, :, 1] = -1
    x[:, 1, 2] = -np.inf
    got = run(x, np.array([[1, 2], [1, 1]]), np.array([8, 8]), np.array([2, 1]), pydlx.float32, "cuda")
    np.testing.assert_allclose(got[0], [1001 - np.log(4), 1], rtol=1e-6)
    assert np.isfinite(got[1]).all()
    np.testing.assert_allclose(got[1].sum(2), np.tile([-1.0, -2.0], (8, 1)), rtol=1e-6)


def test_bad_symbols_are_reported_and_the_device_lives():
    x = pydlx.zeros(4, 2, 3, device="cuda", requires_grad=True)
    targets, lengths = pydlx.tensor([[1], [3]], device="cuda"), pydlx.tensor([4, 4], device="cuda")

    def use():
        ctc_loss(x, targets, lengths, pydlx.tensor([1, 1], device="cuda"))
        cuda.synchronize()

    with pytest.raises(IndexError, match=r"position 1"):
        use()
    cuda.synchronize()
    loss = ctc_loss(x, targets, lengths, pydlx.tensor([1, 0], device="cuda"), reduction="none")
    loss.sum().backward()
    assert pydlx.isfinite(loss).all().item() and pydlx.isfinite(x.grad).all().item()


def test_second_derivatives_are_composed():
    x, targets, frames, labels = problem(5, 2, 4, 2, seed=7)
    results = []
    for device in ("cpu", "cuda"):
        leaf = pydlx.tensor(x, device=device, requires_grad=True)
        arguments = [pydlx.tensor(a, device=device) for a in (targets, frames, labels)]
        loss = ctc_loss(leaf.log_softmax(2), *arguments, reduction="sum", zero_infinity=True)
        (first,) = pydlx.autograd.grad(loss, leaf, create_graph=True)
        (second,) = pydlx.autograd.grad((first**2).sum(), leaf)
        results.append(second.cpu().numpy())
    np.testing.assert_allclose(*results, rtol=1e-8, atol=1e-10)
