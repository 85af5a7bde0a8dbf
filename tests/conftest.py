"""Fixtures that several files share."""

from __future__ import annotations

import pytest

import pydlx


@pytest.fixture(params=pydlx._C.build_info()["cpu_isas"])
def isa(request):
    """Runs the test once per instruction set of this machine, and leaves the widest one chosen."""
    pydlx._C._set_cpu_isa(request.param)
    yield request.param
    pydlx._C._set_cpu_isa(pydlx._C.build_info()["cpu_isas"][-1])
