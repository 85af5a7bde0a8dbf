"""The table of op cases on ``device="cuda"``: the GPU where there is one, else the emulator of a build with PYDLX_CUDA=EMULATE.

Results are compared with PyTorch in float64 by the limits of the CPU's tests. Factory functions inside a case make their
tensors on the device, because it is the default device meanwhile.
"""

from __future__ import annotations

import contextlib

import pytest
import test_ops
from test_ops import CASES, by, check_gradients, check_strided_inputs, check_values

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")


@pytest.fixture(autouse=True)
def _on_device(monkeypatch):
    monkeypatch.setattr(test_ops, "place", lambda t: t.cuda())
    pydlx.set_default_device("cuda")
    yield
    pydlx.set_default_device(None)
    pydlx.cuda.synchronize()


@contextlib.contextmanager
def kernels_exist():
    """Ops without a kernel say so; that is no wrong result."""
    try:
        yield
    except pydlx.DTypeError as e:
        if "there is no CUDA kernel" not in str(e):
            raise
        pytest.skip(str(e))


VALUE_ROWS = [(c, d) for c in CASES for d in c.dtypes]


@pytest.mark.parametrize(("case", "dtype"), VALUE_ROWS, ids=[f"{c.name}-{d}" for c, d in VALUE_ROWS])
def test_values(case, dtype):
    with kernels_exist():
        check_values(case, dtype)


@by(lambda c: c.grad)
def test_gradients(case):
    with kernels_exist():
        check_gradients(case, "float32")


@by(lambda c: c.layouts)
def test_strided_inputs(case):
    with kernels_exist():
        check_strided_inputs(case)
