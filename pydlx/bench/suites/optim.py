"""One optimiser step over many tensors, and gradient clipping."""

from __future__ import annotations

import math
from typing import Any

from ..inputs import Inputs
from ..rows import Row, Step

# Parameter shapes of ResNet-18 (62 tensors, 11.2 million numbers) and of a small MLP, where calls count, not bytes.
_RESNET: tuple[tuple[int, ...], ...] = (
    *((64, 3, 7, 7), (64,), (64,), (1000, 512), (1000,)),
    *(
        shape
        for width, inside in ((64, 64), (128, 64), (256, 128), (512, 256))
        for shape in (
            (width, inside, 3, 3),
            *((width, width, 3, 3),) * 3,
            *((width,),) * 8,
            *(((width, inside, 1, 1), (width,), (width,)) if width != inside else ()),
        )
    ),
)
_MLP: tuple[tuple[int, ...], ...] = ((128, 64), (128,), (64, 128), (64,), (10, 64), (10,))
_FLAT: tuple[tuple[int, ...], ...] = ((10_000_000,),)
_SETS = {"ResNet-18": _RESNET, "MLP": _MLP, "one 10M tensor": _FLAT}

# Arrays of the parameters' size that a step must read and write.
_TRAFFIC = {
    "SGD": (2, 1),
    "SGD momentum": (3, 2),
    "Adam": (4, 3),
    "AdamW": (4, 3),
    "RMSprop": (3, 2),
    "Adagrad": (3, 2),
}


def _parameters(x: Inputs, shapes: tuple[tuple[int, ...], ...]) -> list[Any]:
    parameters = []
    for shape in shapes:
        parameter = x.normal(*shape, scale=0.1).requires_grad_()
        parameter.grad = x.normal(*shape, scale=0.01)
        parameters.append(parameter)
    return parameters


def _step(kind: str, which: str, fused: bool = False) -> Row:
    shapes = _SETS[which]

    def setup(T: Any, x: Inputs) -> Step:
        parameters = _parameters(x, shapes)
        options: dict[str, Any] = {"momentum": 0.9} if "momentum" in kind else {}
        if fused:
            options["fused"] = True
        optimizer = getattr(T.optim, kind.split()[0])(parameters, lr=1e-5, **options)

        def step() -> Any:
            optimizer.step()
            return parameters[0].detach()

        return step

    count = 4.0 * sum(map(math.prod, shapes))
    read, written = _TRAFFIC[kind]
    name = f"{kind}{' fused=True' if fused else ''}, {which}"
    return Row(name, setup, 0.0, read * count, written * count, resident=(read + 0.0) * count)


def _clip(which: str) -> Row:
    shapes = _SETS[which]

    def setup(T: Any, x: Inputs) -> Step:
        parameters = _parameters(x, shapes)
        # Far above the norm: the gradients keep their values, but norms and products are computed all the same.
        return lambda: T.nn.utils.clip_grad_norm_(parameters, 1e6)

    count = 4.0 * sum(map(math.prod, shapes))
    return Row(f"clip_grad_norm_, {which}", setup, 0.0, 2 * count, count, resident=count)


def _zero_grad(which: str) -> Row:
    shapes = _SETS[which]

    def setup(T: Any, x: Inputs) -> Step:
        parameters = _parameters(x, shapes)
        optimizer = T.optim.SGD(parameters, lr=0.1)
        return lambda: optimizer.zero_grad(set_to_none=False)

    count = 4.0 * sum(map(math.prod, shapes))
    return Row(f"zero_grad in place, {which}", setup, 0.0, 0.0, count, check=False)


def rows() -> list[Row]:
    return [
        *(_step(kind, "ResNet-18") for kind in _TRAFFIC),
        *(_step(kind, "ResNet-18", fused=True) for kind in ("SGD momentum", "Adam", "AdamW")),
        *(_step(kind, "MLP") for kind in ("SGD momentum", "Adam", "AdamW")),
        _step("AdamW", "one 10M tensor"),
        _step("AdamW", "one 10M tensor", fused=True),
        _clip("ResNet-18"),
        _clip("MLP"),
        _zero_grad("ResNet-18"),
    ]
