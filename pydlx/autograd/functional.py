"""Jacobians, Hessians and their products with vectors, of functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import _C
from .._C import Tensor
from . import grad
from .grad_mode import enable_grad

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

_Tensors = Tensor | tuple[Tensor, ...]


def _tuple(op: str, name: str, value: Any) -> tuple[Tensor, ...]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    for i, v in enumerate(values):
        if not isinstance(v, Tensor):
            raise TypeError(f"[{op}] {name}: expected tensors, got {type(v).__name__} at position {i}")
    return tuple(values)


def _inputs(op: str, inputs: Any, create_graph: bool) -> tuple[Tensor, ...]:
    """Differentiable inputs: views of the given ones if the result is to be differentiated, else fresh leaves."""
    if create_graph:
        return tuple(t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in inputs)
    return tuple(t.detach().requires_grad_() for t in inputs)


def _same(values: Sequence[Any], like: Any) -> Any:
    """One value for one tensor, a tuple for a tuple."""
    return tuple(values) if isinstance(like, (tuple, list)) else values[0]


def _finish(values: Sequence[Tensor], create_graph: bool) -> tuple[Tensor, ...]:
    return tuple(values) if create_graph else tuple(v.detach() for v in values)


def _grads(
    op: str, outputs: Sequence[Tensor], inputs: tuple[Tensor, ...], cotangents: Any, create_graph: bool, strict: bool
) -> tuple[Tensor, ...]:
    """Gradients with zeros where nothing depends on the input, or an error if ``strict``."""
    recorded = [
        (out, None if cotangents is None else cotangents[i]) for i, out in enumerate(outputs) if out.requires_grad
    ]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if recorded:
        weights = None if cotangents is None else [w for _, w in recorded]
        found = grad(
            [out for out, _ in recorded],
            inputs,
            weights,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
    if strict and any(g is None for g in found):
        missing = [i for i, g in enumerate(found) if g is None]
        raise RuntimeError(f"[{op}] func: expected an output that depends on every input, got none for {missing}")
    return tuple(_C.zeros_like(t) if g is None else g for g, t in zip(found, inputs, strict=True))


def _vectors(op: str, v: Any, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(f"[{op}] v: expected vectors, got None; it may be left out for a single number only")
        return (_C.ones_like(like[0].detach()),)
    values = _tuple(op, "v", v)
    shapes, wanted = [tuple(t.shape) for t in values], [tuple(t.shape) for t in like]
    if shapes != wanted:
        raise RuntimeError(f"[{op}] v: expected shapes {wanted}, got {shapes}")
    return values


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """All partial derivatives of ``func(*inputs)``, one backward pass per output element.

    Args:
        func: of tensors, to a tensor or a tuple of tensors.
        inputs: a tensor or a tuple.
        create_graph: the result can be differentiated. Default: ``False``.
        strict: raise if an output does not depend on an input, instead of giving zeros. Default: ``False``.
        vectorize, strategy: accepted; the computation is the same.

    Returns:
        Shape ``(*output.shape, *input.shape)``; tuples for tuples: ``result[output][input]``.
    """
    with enable_grad():
        points = _inputs("jacobian", _tuple("jacobian", "inputs", inputs), create_graph)
        outputs = func(*points)
        rows = []
        for out in _tuple("jacobian", "func", outputs):
            flat = out.reshape(-1)
            picked = [_grads("jacobian", [flat[i]], points, None, create_graph, strict) for i in range(flat.shape[0])]
            columns = [
                _C.stack([row[k] for row in picked]).reshape(*out.shape, *p.shape)
                if picked
                else p.new_zeros((*out.shape, *p.shape))
                for k, p in enumerate(points)
            ]
            rows.append(_same(_finish(columns, create_graph), inputs))
    return _same(rows, outputs)


def hessian(
    func: Callable[..., Tensor],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Second derivatives of a function with one output element.

    Returns:
        Shape ``(*input.shape, *input.shape)``; for several inputs ``result[i][j]``.
    """
    points = _tuple("hessian", "inputs", inputs)

    def gradient(*values: Tensor) -> tuple[Tensor, ...]:
        out = _scalar("hessian", func(*values))
        return _grads("hessian", [out], values, None, True, strict)

    blocks = jacobian(gradient, points, create_graph, strict)
    return blocks if isinstance(inputs, (tuple, list)) else blocks[0][0]


def _scalar(op: str, out: Any) -> Tensor:
    if not isinstance(out, Tensor) or out.numel() != 1:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise RuntimeError(f"[{op}] func: expected one output element, got {got}")
    return out.reshape(())


def vjp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """``func(*inputs)`` and the product of ``v`` with its Jacobian, in one backward pass."""
    with enable_grad():
        points = _inputs("vjp", _tuple("vjp", "inputs", inputs), create_graph)
        outputs = func(*points)
        flat = _tuple("vjp", "func", outputs)
        product = _grads("vjp", flat, points, _vectors("vjp", v, flat), create_graph, strict)
    return _same(_finish(flat, create_graph), outputs), _same(_finish(product, create_graph), inputs)


def jvp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """``func(*inputs)`` and the product of its Jacobian with ``v``, by differentiating the product ``u J`` by u."""
    with enable_grad():
        points = _inputs("jvp", _tuple("jvp", "inputs", inputs), create_graph)
        direction = _vectors("jvp", v, points)
        outputs = func(*points)
        flat = _tuple("jvp", "func", outputs)
        dual = tuple(_C.zeros_like(out.detach()).requires_grad_() for out in flat)
        row = _grads("jvp", flat, points, dual, True, strict)
        product = _grads("jvp", row, dual, direction, create_graph, strict)
    return _same(_finish(flat, create_graph), outputs), _same(_finish(product, create_graph), outputs)


def vhp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """The value of a function with one output element and the product of ``v`` with its Hessian."""
    with enable_grad():
        points = _inputs("vhp", _tuple("vhp", "inputs", inputs), create_graph)
        direction = _vectors("vhp", v, points)
        out = _scalar("vhp", func(*points))
        first = _grads("vhp", [out], points, None, True, strict)
        product = _grads("vhp", first, points, direction, create_graph, strict)
    return _finish([out], create_graph)[0], _same(_finish(product, create_graph), inputs)


hvp = vhp  # a Hessian is symmetric
