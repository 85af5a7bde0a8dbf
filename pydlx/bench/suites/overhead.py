"""Cost of the machinery: tiny operations, a small training step, page faults, memory under random shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..inputs import Inputs
from ..memory import page_faults, resident_bytes
from ..rows import Row, Step


def _tiny(name: str, make: Callable[[Any, Any], Any]) -> Row:
    """``make(T, x)`` returns the function to time."""
    return Row(name, lambda T, x: make(T, x), check=False)


def _graph(T: Any, x: Inputs) -> Step:
    w = x.normal(4).requires_grad_()

    def step() -> None:
        w.grad = None
        (w * w + w).sum().backward()

    return step


def _recorded(T: Any, x: Inputs) -> Step:
    w, b = x.normal(4).requires_grad_(), x.normal(4)
    return lambda: w + b


def _binary(T: Any, x: Inputs) -> Step:
    a, b = x.normal(4), x.normal(4)
    return lambda: a + b


def _in_place(T: Any, x: Inputs) -> Step:
    a, b = x.normal(4), x.normal(4, scale=0.0)
    return lambda: a.add_(b)


def _unary(act: Callable[[Any], Any]) -> Callable[[Any, Inputs], Step]:
    def setup(T: Any, x: Inputs) -> Step:
        a = x.normal(4)
        return lambda: act(a)

    return setup


def _matmul(T: Any, x: Inputs) -> Step:
    a, b = x.normal(4, 4), x.normal(4, 4)
    return lambda: a @ b


def _mlp(T: Any, x: Inputs) -> Step:
    nn = T.nn
    model = x.load(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    optimizer = T.optim.Adam(model.parameters(), lr=1e-3)
    data, labels = x.normal(32, 64), x.integers(10, 32)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), labels).backward()
        optimizer.step()

    return step


def _faults(T: Any, x: Inputs) -> Step:
    def count() -> float:
        step = _mlp(T, x)
        for _ in range(200):
            step()
        before = page_faults()
        for _ in range(200):
            step()
        return (page_faults() - before) / 200

    return count


def _growth(T: Any, x: Inputs) -> Step:
    """Percent by which resident memory grows over 8,000 steps of random shapes, after 2,000 to warm up."""

    def grow() -> float:
        generator = T.Generator().manual_seed(0)
        resident = 1
        for i, n in enumerate(T.randint(1, 512, (10_000,), generator=generator).tolist()):
            (T.randn(n, 64) @ T.randn(64, n)).relu().sum()
            if i == 2000:
                resident = resident_bytes()
        return 100 * (resident_bytes() / resident - 1)

    return grow


def rows() -> list[Row]:
    return [
        _tiny("a + b, four elements", _binary),
        _tiny("a * 2.5", _unary(lambda a: a * 2.5)),
        _tiny("a.add_(b)", _in_place),
        _tiny("a + b, recorded", _recorded),
        _tiny("a.sum()", _unary(lambda a: a.sum())),
        _tiny("a.exp()", _unary(lambda a: a.exp())),
        _tiny("a @ b, 4x4", _matmul),
        _tiny("a[1:3]", _unary(lambda a: a[1:3])),
        _tiny("a.reshape(2, 2)", _unary(lambda a: a.reshape(2, 2))),
        _tiny("a.shape", _unary(lambda a: a.shape)),
        _tiny("(a*a + a).sum().backward()", _graph),
        _tiny("MLP 64-128-10 Adam step, batch 32", _mlp),
        Row("page faults per MLP step", _faults, unit="faults", fresh=True, rated=False),
        Row("memory growth over random shapes", _growth, unit="%", fresh=True, rated=False),
    ]
