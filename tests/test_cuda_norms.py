"""Normalisation on the GPU where packs of elements, planes, rows and parts of sums do not come out even, against float64."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx
from pydlx.nn import functional as F

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

DTYPES = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


def on_device(array, dtype, *, skew=0, last=False):
    """The array on the device, `skew` elements behind where an allocation begins."""
    t = pydlx.tensor(array, dtype=pydlx.float64).to(getattr(pydlx, dtype)).cuda()
    if skew:
        t = pydlx.cat([pydlx.zeros(skew, dtype=t.dtype, device="cuda"), t.flatten()])[skew:].reshape(array.shape)
    return t.to(memory_format=pydlx.channels_last) if last else t


def assert_near(got, want, bound, axes):
    """Errors relative to the largest value of a channel."""
    got, want = got.cpu().double().numpy(), want.numpy()
    scale = np.abs(want).max(axis=axes, keepdims=True) + 1 if axes is not None else np.abs(want).max() + 1
    assert got.shape == want.shape
    assert (np.abs(got - want) <= bound * scale).all(), np.abs(got - want).max()


def check(fn, x, size, dtype, bound, **place):
    """fn(x, weight, bias), its value and three gradients."""
    rng = np.random.default_rng(3)
    w, b, dy = rng.standard_normal(size), rng.standard_normal(size), rng.standard_normal(x.shape)
    gpu = on_device(x, dtype, **place).requires_grad_()
    stat = "float64" if dtype == "float64" else "float32"
    params = [on_device(a, stat).requires_grad_() for a in (w, b)]
    cpu = [t.detach().cpu().double().requires_grad_() for t in (gpu, *params)]
    g = on_device(dy, dtype, **place)
    y, want = fn(gpu, *params), fn(*cpu)
    y.backward(g)
    want.backward(g.cpu().double())
    assert_near(y.detach(), want.detach(), bound, None)
    assert_near(gpu.grad, cpu[0].grad, bound, None)
    for got, ref in zip(params, cpu[1:], strict=True):
        assert_near(got.grad, ref.grad, bound if dtype in ("float64", "float32") else 1e-4, None)


def batch(x, w, b):
    return F.batch_norm(x, None, None, w, b, training=True)


SHAPES = [(3, 5, 7, 7), (2, 16, 8, 8), (5, 3, 1, 13), (4, 6, 9), (2, 3, 40, 70), (300, 24), (130, 9), (1, 2, 3, 5000)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_batch_norm(sizes, dtype):
    x = np.random.default_rng(1).standard_normal(sizes) * 3 + 1
    check(batch, x, sizes[1], dtype, 4 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_elsewhere_in_memory(dtype):
    x = np.random.default_rng(1).standard_normal((3, 16, 7, 7))
    check(batch, x, 16, dtype, 4 * DTYPES[dtype], skew=3)
    check(batch, x, 16, dtype, 4 * DTYPES[dtype], last=True)
    check(batch, x[:, :13], 13, dtype, 4 * DTYPES[dtype], last=True)
    check(batch, np.tile(x, (9, 5, 1, 1)), 80, dtype, 4 * DTYPES[dtype], last=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(2, 6, 5, 7), (3, 12, 8, 8), (2, 6, 40, 50), (3, 6), (2, 12, 2)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(sizes, groups, dtype):
    if sizes == (3, 6) and groups == 6:
        return  # groups of one element
    x = np.random.default_rng(1).standard_normal(sizes) * 2 - 1
    check(lambda x, w, b: F.group_norm(x, groups, w, b), x, sizes[1], dtype, 8 * DTYPES[dtype])


def test_statistics_far_from_zero():
    x = np.random.default_rng(2).standard_normal((4, 6, 9, 9)) + 1e4 * (1 + np.arange(6)).reshape(1, 6, 1, 1)
    x[0, :, 0, 0] = 0
    gpu = on_device(x, "float32")
    want = batch(gpu.cpu().double(), None, None)
    assert np.abs(batch(gpu, None, None).cpu().double().numpy() - want.numpy()).max() < 1e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("at", [0, 48])
def test_what_is_not_finite_stays_in_its_channel(bad, last, at):
    x = np.random.default_rng(1).standard_normal((2, 8, 7, 7))
    x.reshape(2, 8, 49)[0, 3, at] = bad
    for dtype in ("float32", "bfloat16"):
        gpu = on_device(x, dtype, last=last)
        y = batch(gpu, None, None).cpu().double().numpy()
        assert np.isnan(y[:, 3]).all()
        assert np.isfinite(np.delete(y, 3, axis=1)).all()
        y = F.group_norm(gpu, 8).cpu().double().numpy()
        assert np.isnan(y[0, 3]).all() and np.isfinite(y[1]).all() and np.isfinite(np.delete(y[0], 3, axis=0)).all()


def test_infinite_means_are_infinite():
    x = np.ones((2, 3, 5, 5))
    x[0, 1, 0, 0] = np.inf
    mean, var = pydlx.zeros(3, device="cuda"), pydlx.ones(3, device="cuda")
    F.batch_norm(on_device(x, "float32"), mean, var, training=True, momentum=1.0)
    assert mean.cpu().numpy().tolist() == [1, np.inf, 1]
    assert np.isnan(var.cpu().numpy()).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(3, 5, 7, 7), (40, 24), (2, 3, 40, 70)], ids=str)
def test_running_statistics(sizes, dtype, stored):
    """In the format of the statistics they are moved by the kernel, in others by operations."""
    x = on_device(np.random.default_rng(1).standard_normal(sizes) * 3 + 1, dtype)
    cpu = x.cpu().double()
    c, kept = sizes[1], getattr(pydlx, stored)
    gpu = [pydlx.full((c,), v, dtype=kept, device="cuda") for v in (3.0, 2.0)]
    ref = [pydlx.full((c,), v, dtype=pydlx.float64) for v in (3.0, 2.0)]
    for momentum in (0.25, 1.0 / 3):
        F.batch_norm(x, *gpu, training=True, momentum=momentum)
        F.batch_norm(cpu, *ref, training=True, momentum=momentum)
    assert [t._version for t in gpu] == [t._version for t in ref]
    for got, want in zip(gpu, ref, strict=True):
        assert_near(got, want, 1e-13 if dtype == stored == "float64" else 1e-6, None)
    assert_near(F.batch_norm(x, *gpu), F.batch_norm(cpu, *(t.cpu().double() for t in gpu)), 4 * DTYPES[dtype], None)


def test_modules_with_running_statistics():
    for momentum in (0.1, None):
        net = pydlx.nn.BatchNorm2d(5, momentum=momentum)
        gpu = pydlx.nn.BatchNorm2d(5, momentum=momentum).cuda()
        for step in range(3):
            x = pydlx.randn(2, 5, 4, 4) + step
            assert_near(gpu(x.cuda()).detach(), net(x).detach(), 1e-5, None)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert_near(getattr(gpu, name), getattr(net, name).double(), 1e-6, None)
        x = pydlx.randn(2, 5, 4, 4)
        assert_near(gpu.eval()(x.cuda()).detach(), net.eval()(x).detach(), 1e-5, None)
