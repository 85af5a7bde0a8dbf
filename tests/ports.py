"""Programs written for PyTorch, run once with PyTorch and once with pydlx in its place, and their results compared."""

import numpy as np
import torch as reference

import pydlx


class Draw:
    """The same numbers for both: ``draw(2, 3)`` is normal, ``draw.below(5, 3)`` integers, ``draw.fill`` parameters."""

    def __init__(self, lib):
        self.lib = lib
        self.random = np.random.default_rng(0)

    def __call__(self, *shape, dtype=np.float32, grad=False):
        made = self.lib.tensor(self.random.standard_normal(shape).astype(dtype))
        return made.requires_grad_() if grad else made

    def below(self, high, *shape):
        return self.lib.tensor(self.random.integers(0, high, shape))

    def fill(self, module):
        random = np.random.default_rng(1)
        with self.lib.no_grad():
            for p in module.parameters():
                p.copy_(self.lib.tensor((random.standard_normal(tuple(p.shape)) * 0.3).astype(np.float32)))
        return module


def plain(value):
    """Tensors as (dtype, array), other objects as Python values or what they print."""
    if hasattr(value, "detach"):
        return str(value.dtype).rpartition(".")[2], value.detach().cpu().numpy().copy()
    if type(value).__name__ == "Size":
        return "Size", list(value)
    if isinstance(value, dict):
        return [(key, plain(v)) for key, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, int, float, bool, str, type(None), np.generic)):
        return value
    return str(value)


def compare(mine, theirs, place):
    if isinstance(theirs, (list, tuple)):
        assert type(mine) is type(theirs), f"{place}: {mine} != {theirs}"
        assert len(mine) == len(theirs), f"{place}: {mine} != {theirs}"
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            compare(a, b, f"{place}[{i}]")
    elif isinstance(theirs, str):
        assert mine.replace("pydlx", "torch") == theirs, place
    elif isinstance(theirs, (np.ndarray, float, np.floating)):
        np.testing.assert_allclose(mine, theirs, rtol=3e-4, atol=3e-5, err_msg=place)
    else:
        assert mine == theirs, f"{place}: {mine} != {theirs}"


def assert_same(program, place):
    """Runs ``program(lib, draw)`` with both libraries and compares everything it returns."""
    theirs = plain(program(reference, Draw(reference)))
    compare(plain(program(pydlx, Draw(pydlx))), theirs, place)


class Programs(list):
    """A list whose name is a decorator: ``@PROGRAMS`` adds a function of the library and a ``Draw``."""

    def __call__(self, program):
        self.append(program)
        return program
