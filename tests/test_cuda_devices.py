"""Several devices: work runs where its operands are, and the thread's own choice stays what it was. The emulator has as many as asked for."""

from __future__ import annotations

import pytest
from cuda_program import python

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

PREPARE = """
import threading
import pydlx
from pydlx import cuda
assert cuda.device_count() >= 2
"""

PROGRAMS = {
    "operations leave the thread's device alone": """
x = pydlx.ones(3, device="cuda:1", requires_grad=True)
y = (x * 2 + 1).sum()
y.backward()
assert y.device.index == x.grad.device.index == 1 and x.grad.tolist() == [2.0] * 3
assert cuda.current_device() == 0 and pydlx.zeros(2, device="cuda").device.index == 0
with cuda.device(1):
    assert (pydlx.ones(2, device="cuda:0") + 1).tolist() == [2.0] * 2
    assert cuda.current_device() == 1 and pydlx.zeros(2, device="cuda").device.index == 1
assert cuda.current_device() == 0
found = []
thread = threading.Thread(target=lambda: found.append(cuda.current_device()))
cuda.set_device(1)
thread.start()
thread.join()
assert found == [0]
""",
    "copies between devices": """
x = pydlx.arange(5.0, device="cuda:1", requires_grad=True)
y = x.to("cuda:0")
assert y.device.index == 0 and y.tolist() == [0, 1, 2, 3, 4]
(y * pydlx.arange(5.0, device="cuda:0")).sum().backward()
assert x.grad.device.index == 1 and x.grad.tolist() == [0, 1, 2, 3, 4]
z = pydlx.zeros(5, device="cuda:0")
z.copy_(x.detach())
assert z.tolist() == [0, 1, 2, 3, 4] and cuda.current_device() == 0
try:
    x + y
except pydlx.DeviceError as e:
    assert "cuda:1" in str(e) and "cuda:0" in str(e)
else:
    raise AssertionError
""",
    "streams and events": """
s, e = cuda.Stream(device=1), cuda.Event(enable_timing=True)
x = pydlx.ones(4, device="cuda:1")
x * 2
f = cuda.Event(enable_timing=True)
f.record(cuda.current_stream(0))  # after work elsewhere
f.synchronize()
e.record(s)
s.wait_event(f)
s.wait_stream(cuda.default_stream(1))
with cuda.stream(s):
    assert cuda.current_device() == 1 and cuda.current_stream() == s
    assert (x + 1).tolist() == [2.0] * 4
    assert (pydlx.ones(2, device="cuda:0") * 3).tolist() == [3.0] * 2
    assert cuda.current_stream() == s
assert cuda.current_device() == 0
cuda.synchronize(1)
assert e.query()
""",
    "graphs": """
for device in (1, 0):
    with cuda.device(device):
        x = pydlx.ones(3, device="cuda")
        g = cuda.CUDAGraph()
        with cuda.graph(g):
            y = x + pydlx.rand(3, device="cuda") * 0
    x.fill_(4.0)
    g.replay()
    assert y.device.index == device and y.tolist() == [4.0] * 3
assert cuda.current_device() == 0
""",
    "layers": """
pydlx.manual_seed(1)
model = pydlx.nn.Sequential(pydlx.nn.Conv2d(3, 8, 3), pydlx.nn.Flatten(), pydlx.nn.Linear(8 * 36, 5))
x = pydlx.randn(2, 3, 8, 8)
there = model(x)
model.to("cuda:1")
optimizer = pydlx.optim.AdamW(model.parameters())
out = model(x.to("cuda:1"))
assert (out.cpu() - there).abs().max().item() < 1e-5
out.square().sum().backward()
optimizer.step()
q = pydlx.randn(1, 2, 70, 16, device="cuda:1").half()
pydlx.nn.functional.scaled_dot_product_attention(q, q, q)
pydlx.nn.LSTM(4, 8).to("cuda:1")(pydlx.randn(3, 2, 4, device="cuda:1"))
pydlx.randn(100, device="cuda:1").sort()
assert cuda.current_device() == 0
assert all(p.device.index == 1 and pydlx.isfinite(p).all().item() for p in model.parameters())
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_two_devices(name):
    if pydlx.cuda.device_count() < 2 and "emulat" not in pydlx.cuda.get_device_name().lower():
        pytest.skip("needs two GPUs")
    done = python(PREPARE + PROGRAMS[name], PYDLX_EMULATED_DEVICES="2")
    assert done.returncode == 0, done.stderr
