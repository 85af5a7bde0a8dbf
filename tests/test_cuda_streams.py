"""What orders the work of streams, in processes whose emulated streams run as late as they may."""

from __future__ import annotations

import pytest
from cuda_program import python

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


@pytest.mark.skipif("emulator" not in pydlx.cuda.get_device_name().lower(), reason="not the emulator")
@pytest.mark.parametrize(("name", "wait"), WAITS.items())
def test_a_missing_wait_shows(name, wait):
    assert wait in PROGRAMS[name]
    done = python(PREPARE + PROGRAMS[name].replace(wait, ""), PYDLX_EMULATED_LAZY="1")
    assert done.returncode == 1 and "AssertionError" in done.stderr


def test_the_default_stream_of_another_device_waits():
    if pydlx.cuda.device_count() < 2 and "emulator" not in pydlx.cuda.get_device_name().lower():
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
