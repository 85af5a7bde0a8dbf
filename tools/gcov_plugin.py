"""Pytest plugin of tools/coverage.sh: the engine's line counters reach the disk however a process ends.

gcov writes its counters when a process exits by itself. A worker of pytest-xdist that takes longer than ten seconds to do so, as one
does that has a thousand files of counters to merge, is killed; forked children leave through ``os._exit``. So the counters
are written when the worker's session ends, and before ``os._exit``; a child starts with its own counters at zero.
"""

import ctypes
import os
from typing import NoReturn

import pytest

import pydlx

_engine = ctypes.CDLL(pydlx._C.__file__)
_exit = os._exit


def _dump_and_exit(status: int) -> NoReturn:
    _engine.pydlx_gcov_dump()
    _exit(status)


os._exit = _dump_and_exit
os.register_at_fork(after_in_child=_engine.pydlx_gcov_reset)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    _engine.pydlx_gcov_dump()
