"""References stay balanced in the code that speaks to Python's C API: calls leave no object behind and drop none too many.

Every call runs often. Then the number of blocks of Python's allocator and the reference counts of what the calls share
(types, dtypes, arguments, defaults) must be what they were. ``PYDLX_REFERENCE_CALLS`` makes it longer.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import sys

import numpy as np
import pytest

import pydlx
from pydlx import nn

CALLS = int(os.environ.get("PYDLX_REFERENCE_CALLS", "3000"))

X = pydlx.arange(12, dtype=pydlx.float32).reshape(3, 4)
Y = X + 1
M = X > 5
I = pydlx.tensor([0, 2])
G = X.clone().requires_grad_()
OUT = pydlx.empty(3, 4)
NUMBER, TEXT, SIZES, LIST, KEY = 12345.5, "sum of pieces", (3, 4), [X, Y], slice(0, 3, 2)
ARRAY = np.ones((3, 4), np.float32)
SIZE = X.shape
DICT = {(3, 4): "found"}
P = nn.Parameter(X.clone())
D = pydlx.float64
BIG = 10**25


class Double(pydlx.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, g):
        assert ctx.saved_tensors[0] is not None
        return g * 2


class Stubborn:
    def __index__(self):
        raise KeyError("no index")


def failing(call):
    def run():
        with contextlib.suppress(Exception):
            call()
            raise SystemExit("the call was expected to fail")

    return run


def hooked():
    handle = G.register_hook(lambda g: g * 1)
    (G * 2).sum().backward()
    handle.remove()
    G.grad = None


def set_and_read():
    t = X.clone()
    t[1:, KEY] = NUMBER
    t[0] = Y[0]
    t[M] = 0
    t[I, 1] = ARRAY[0, 0]
    t.extra = LIST
    assert t.extra is LIST and t.__dict__


def within_modes():
    with pydlx.no_grad(), pydlx.enable_grad(), pydlx.inference_mode():
        return pydlx.is_grad_enabled(), X + Y


CALLS_TO_TRY = {
    "operators": lambda: (X + Y, X * NUMBER, NUMBER - X, X @ Y.T, -X, abs(X), X**2, X // 3, X % Y, X == Y, ~M),
    "in place": lambda: X.clone().add_(1).mul_(NUMBER).__iadd__(Y),
    "keywords": lambda: (X.sum(dim=1, keepdim=True), pydlx.sum(X, axis=0, keepdims=True), pydlx.add(X, other=Y, alpha=2)),
    "sizes": lambda: (X.reshape(4, 3), X.view((4, 3)), X.view([4, -1]), X.permute(1, 0), pydlx.zeros(SIZES), X.expand(SIZE)),
    "lists": lambda: (pydlx.cat(LIST, dim=0), pydlx.stack((X, Y)), X.split([1, 2]), X.unbind(0), X.chunk(2, 1)),
    "named tuples": lambda: (X.max(dim=1).values, X.sort(descending=True).indices, X.topk(2), X.min(1)),
    "out": lambda: (pydlx.add(X, Y, out=OUT), pydlx.exp(X, out=OUT)),
    "geometry": lambda: (X.shape, X.size(), X.size(1), X.stride(), X.ndim, X.T, X.mT, X.dtype, X.device, len(X), X.nbytes),
    "Size": lambda: (SIZE[0], SIZE[:1], SIZE.__add__((1,)), SIZE * 2, SIZE.numel(), repr(SIZE), hash(SIZE), DICT[SIZE], *SIZE),
    "making a Size": lambda: (pydlx.Size(), pydlx.Size([2, 3]), pickle.loads(pickle.dumps(SIZE)), copy.copy(SIZE)),
    "making tensors": lambda: (
        pydlx.tensor([[1, 2.5], [3, True]]), pydlx.tensor(NUMBER), pydlx.tensor(ARRAY), pydlx.as_tensor(ARRAY),
        pydlx.Tensor(2, 3), pydlx.full((2,), NUMBER, dtype=D), pydlx.tensor([X[0, 0], 2.0]),
    ),
    "reading": lambda: (X[1], X[1, 2], X[..., KEY], X[None], X[I], X[M], X[1:, I], X[I, I], list(X), X.tolist(), X[0, 0].item()),
    "writing": set_and_read,
    "exchange": lambda: (X.numpy(), np.asarray(Y), np.from_dlpack(X), pydlx.from_dlpack(ARRAY), pydlx.from_numpy(ARRAY), memoryview(X)),
    "copies": lambda: (pickle.loads(pickle.dumps(X)), copy.copy(X), copy.deepcopy(P)),
    "text": lambda: (repr(X), str(M), f"{X[0, 0]:.3f}", repr(pydlx.add), pydlx.add.__doc__, pydlx.add.__signatures__),
    "numbers": lambda: (float(X[0, 0]), int(X[0, 1]), bool(M[0, 0]), range(9)[I[1]], hash(X), X.to(D), X.type(D)),
    "einsum": lambda: pydlx.einsum("ij,kj->ik", X, Y),
    "methods and functions": lambda: (X.add, pydlx.Tensor.add(X, Y), X.exp(), X.__class__, X.__array_priority__),
    "gradients": lambda: pydlx.autograd.grad((G * G).sum(), G),
    "higher gradients": lambda: pydlx.autograd.grad(pydlx.autograd.grad((G**3).sum(), G, create_graph=True)[0].sum(), [G]),
    "custom function": lambda: pydlx.autograd.grad(Double.apply(G).sum(), G),
    "hooks": hooked,
    "graph attributes": lambda: ((G * 2).grad_fn.next_functions, (G + 1).grad_fn.name(), G.grad, G.is_leaf, G.detach(), G.data),
    "modes": within_modes,
    "parameters": lambda: (nn.Parameter(X), P * 2, P.data, P.grad, P.shape),
    "modules": lambda: nn.Linear(4, 2)(X).sum().backward(),
    "random": lambda: (pydlx.rand(3), pydlx.randperm(5), X.clone().normal_(), pydlx.Generator().manual_seed(3)),
    "error: no overload": failing(lambda: pydlx.add(X, LIST)),
    "error: wrong type": failing(lambda: X.sum(TEXT)),
    "error: missing": failing(lambda: pydlx.cat()),
    "error: unknown keyword": failing(lambda: X.sum(nothing=DICT)),
    "error: given twice": failing(lambda: X.reshape(SIZES, shape=SIZES)),
    "error: too many": failing(lambda: pydlx.exp(X, Y, X)),
    "error: too large": failing(lambda: X.reshape(BIG)),
    "error: index raises": failing(lambda: X.reshape([3, Stubborn()])),
    "error: shape": failing(lambda: X @ X),
    "error: index": failing(lambda: X[7]),
    "error: key": failing(lambda: X[TEXT]),
    "error: value": failing(lambda: X.__setitem__(0, DICT)),
    "error: ragged": failing(lambda: pydlx.tensor([[1, 2], [3]])),
    "error: Size": failing(lambda: pydlx.Size([1, TEXT])),
    "error: grad": failing(lambda: setattr(X, "grad", TEXT)),
    "error: backward": failing(lambda: (G * 2).backward()),
    "error: truth": failing(lambda: bool(X)),
    "error: item": failing(lambda: X.item()),
    "error: out": failing(lambda: pydlx.add(X, Y, out=TEXT)),
    "error: buffer": failing(lambda: memoryview(G)),
}  # fmt: skip
SHARED = [
    None, True, False, 0, 1, (), pydlx.Tensor, pydlx.Size, nn.Parameter, type(pydlx.add), pydlx.add, pydlx.cat, pydlx.float32, D,
    pydlx.int64, X, Y, M, I, G, P, OUT, NUMBER, TEXT, SIZES, LIST, KEY, ARRAY, SIZE, DICT, BIG, type(X.max(dim=1)), Double, Stubborn,
]  # fmt: skip


def state():
    gc.collect()
    # Immortal objects (Python 3.12 and later) have a constant count.
    return sys.getallocatedblocks(), [sys.getrefcount(o) for o in SHARED]


@pytest.mark.parametrize("name", CALLS_TO_TRY)
def test_references_are_balanced(name):
    call = CALLS_TO_TRY[name]
    for _ in range(50):  # caches, freelists, interned names
        call()
    blocks, counts = state()
    for _ in range(CALLS):
        call()
    after, now = state()
    changed = {repr(o)[:40]: b - a for o, a, b in zip(SHARED, counts, now, strict=True) if abs(b - a) > CALLS // 50}
    assert not changed, f"reference counts after {CALLS} calls changed by {changed}"
    assert after - blocks < max(200, CALLS // 10), f"{after - blocks} blocks more after {CALLS} calls"
