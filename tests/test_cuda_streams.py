"""What orders the work of streams, in processes whose emulated streams run as late as they may; and operands that are the host's."""

from __future__ import annotations

import pytest
from cuda_program import EMULATED, python

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

PREPARE = """
import pydlx
from pydlx import cuda
F = pydlx.nn.functional
n, s, usual = 1000, cuda.Stream(), cuda.current_stream()
def full(value, device="cuda"):
    return pydlx.full((n,), value, device=device)
def same(x, value):
    return x.tolist() == [value] * n
"""

PROGRAMS = {
    "streams": """
with cuda.stream(s):
    x = full(5.0)
usual.wait_stream(s)
assert same(x + 1, 6.0)
""",
    "events": """
with cuda.stream(s):
    x = full(5.0)
    e = s.record_event()
    full(0.0)
usual.wait_event(e)
assert same(x + 1, 6.0) and e.query()
s.synchronize()
assert s.query()
""",
    "memory that another stream uses": """
x = full(1.0)
s.wait_stream(usual)
with cuda.stream(s):
    y = x * 2
x.record_stream(s)
del x
z = full(9.0)
usual.wait_stream(s)
assert same(y, 2.0) and same(z, 9.0)
""",
    "copies from pinned memory": """
p = full(1.0, "cpu").pin_memory()
x = p.to("cuda", non_blocking=True)
del p
q = full(2.0, "cpu").pin_memory()
assert same(x, 1.0) and same(q, 2.0)
""",
    "copies to the host": """
x = full(3.0)
p = x.to("cpu", non_blocking=True)
x.fill_(4.0)
usual.synchronize()
assert same(p, 3.0) and same(x, 4.0)
""",
    "tensors kept by the host": """
for pin in (False, True):
    w = full(3.0).requires_grad_()
    with pydlx.autograd.graph.save_on_cpu(pin_memory=pin):
        y = (w * w).exp()
    y.sum().backward()
    assert abs(w.grad[0].item() / (6 * 2.718281828 ** 9) - 1) < 1e-5
""",
    "graphs": """
x = full(1.0)
g = cuda.CUDAGraph()
with cuda.graph(g):
    y = x * 2 + pydlx.rand(n, device="cuda") * 0
for value in (3.0, 4.0):
    x.fill_(value)
    s.wait_stream(usual)
    with cuda.stream(s):
        g.replay()
    usual.wait_stream(s)
    assert same(y, 2 * value)
""",
    "gradients over a stream": """
s.wait_stream(usual)
with cuda.stream(s):
    w = full(2.0).requires_grad_()
    (w * w).sum().backward()
usual.wait_stream(s)
assert same(w.grad, 4.0)
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_work_is_ordered(name):
    done = python(PREPARE + PROGRAMS[name], PYDLX_EMULATED_LAZY="1")
    assert done.returncode == 0, done.stderr


WAITS = {"streams": "usual.wait_stream(s)", "memory that another stream uses": "x.record_stream(s)"}


@pytest.mark.skipif(not EMULATED, reason="not the emulator")
@pytest.mark.parametrize(("name", "wait"), WAITS.items())
def test_a_missing_wait_shows(name, wait):
    assert wait in PROGRAMS[name]
    done = python(PREPARE + PROGRAMS[name].replace(wait, ""), PYDLX_EMULATED_LAZY="1")
    assert done.returncode == 1 and "AssertionError" in done.stderr


def test_the_default_stream_of_another_device_waits():
    if pydlx.cuda.device_count() < 2 and not EMULATED:
        pytest.skip("needs two GPUs")
    program = """
s = cuda.Stream(device=1)
with cuda.stream(s):
    x = full(5.0, "cuda:1")
    e = s.record_event()
assert cuda.current_device() == 0
cuda.default_stream(1).wait_event(e)
y = x + 1
assert not cuda.default_stream(1).query()
assert same(y, 6.0) and cuda.default_stream(1).query()
"""
    done = python(PREPARE + program, PYDLX_EMULATED_LAZY="1", PYDLX_EMULATED_DEVICES="2")
    assert done.returncode == 0, done.stderr


HOST_NUMBERS = """
import warnings
warnings.simplefilter("ignore")
x, t = pydlx.rand(6), pydlx.tensor(0.25)
i = pydlx.tensor([2, 0, 2, 3, 0, 2])
q = pydlx.randn(1, 2, 5, 8)
table = [
    lambda d: F.mse_loss(x.to(d), t),
    lambda d: F.huber_loss(t, x.to(d), reduction="none"),
    lambda d: pydlx.searchsorted(x.to(d).sort().values, 0.5),
    lambda d: pydlx.bucketize(t, x.to(d).sort().values),
    lambda d: x.to(d).scatter_reduce(0, i.to(d), x.to(d), "mean"),
    lambda d: x.to(d).scatter_reduce(0, i.to(d), x.to(d), "amax", include_self=False),
    lambda d: x.to(d).scatter(0, i.to(d), 3.0),
    lambda d: x.to(d).index_fill(0, i.to(d), t),
    lambda d: F.scaled_dot_product_attention(q.to(d), q.to(d), q.to(d), t),
    lambda d: pydlx.where(x.to(d) > t, x.to(d), t),
]
for k, f in enumerate(table):
    there, here = f("cuda"), f("cpu")
    pydlx.full((n,), 7.0)  # over what the host has given back
    assert there.is_cuda and pydlx.allclose(there.cpu(), here, atol=1e-6), k
w = t.clone().requires_grad_()
F.mse_loss(x.cuda(), w).backward()
assert not w.grad.is_cuda and abs(w.grad.item() - 2 * (t - x).mean().item()) < 1e-6
"""


def test_numbers_of_the_host_are_operands():
    done = python(PREPARE + HOST_NUMBERS, PYDLX_EMULATED_LAZY="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "call",
    [
        lambda x, i: pydlx.searchsorted(x, x, sorter=i),
        lambda x, i: pydlx.bincount(i, x),
        lambda x, i: pydlx.bincount(i.cuda(), x.cpu()),
    ],
)
def test_tensors_of_the_host_are_refused(call):
    with pytest.raises(pydlx.DeviceError):
        call(pydlx.arange(4.0).cuda(), pydlx.arange(4))
