"""Fixtures that several files share."""

from __future__ import annotations

import random
import sys

import pytest

import pydlx


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, so that statistical bounds hold on every run or on none."""
    random.seed(0)
    pydlx.manual_seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(params=pydlx._C.build_info()["cpu_isas"])
def isa(request):
    """Runs the test once per instruction set of this machine, and leaves the widest one chosen."""
    pydlx._C._set_cpu_isa(request.param)
    yield request.param
    pydlx._C._set_cpu_isa(pydlx._C.build_info()["cpu_isas"][-1])


@pytest.fixture
def highest():
    """Runs the test at float32_matmul_precision "highest"."""
    pydlx.set_float32_matmul_precision("highest")
    yield
    pydlx.set_float32_matmul_precision("high")
