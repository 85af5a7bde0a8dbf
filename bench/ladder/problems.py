"""The problems that the ladders solve: inputs, the result in float64, and the call of pydlx that does the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["FAMILIES", "Problem", "aligned", "problems"]

FAMILIES = ("gemm", "conv", "attention", "recurrence")
Array = np.ndarray[Any, Any]


@dataclass
class Problem:
    """One problem of a family.

    ``sizes`` and the arrays are passed to a step in this order: sizes, inputs, output. ``reference`` computes the
    output in float64 from the inputs, and ``ours(pydlx, *tensors)`` returns a function that computes it with pydlx.
    """

    title: str
    sizes: tuple[int, ...]
    flops: float
    inputs: list[Array]
    output: tuple[int, ...]
    reference: Callable[..., Array]
    ours: Callable[..., Callable[[], Any]]
    call: str  # what pydlx calls it
    table: str = "steps"
    skip: tuple[str, ...] = ()  # steps that would take minutes
    reference_value: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.reference_value = self.reference(*(x.astype(np.float64) for x in self.inputs))


def aligned(*shape: int, past: int = 0) -> Array:
    """Uninitialised float32 that begin on a cache line, as a library's tensors do, or ``past`` numbers behind."""
    count = int(np.prod(shape))
    room = np.empty(count + past + 16, np.float32)
    first = -room.ctypes.data % 64 // 4 + past
    return room[first : first + count].reshape(shape)


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0, past: int = 0) -> Array:
    x = aligned(*shape, past=past)
    x[:] = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
    return x


def _gemm(n: int, skip: tuple[str, ...] = (), past: int = 0) -> Problem:
    rng = np.random.default_rng(n)
    return Problem(
        f"matrix product {n} x {n} x {n}" + (", B begins inside a cache line" if past else ""),
        (n, n, n),
        2.0 * n**3,
        [_normal(rng, n, n), _normal(rng, n, n, past=past)],
        (n, n),
        lambda a, b: a @ b,
        lambda T, a, b: lambda: T.mm(a, b),
        "mm",
        skip=skip,
    )


def _convolve(x: Array, w: Array) -> Array:
    """3x3, stride 1, one pixel of padding: nine shifted products."""
    _, _, height, width = x.shape
    around = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros((x.shape[0], w.shape[0], height, width))
    for r in range(3):
        for s in range(3):
            y += np.einsum("kc,nchw->nkhw", w[:, :, r, s], around[:, :, r : r + height, s : s + width], optimize=True)
    return y


def _conv(images: int, c: int, k: int, h: int, w: int) -> Problem:
    rng = np.random.default_rng(c)
    return Problem(
        f"convolution {c} -> {k}, {h} x {w}, 3 x 3" + (f", {images} images" if images > 1 else ""),
        (images, c, k, h, w),
        18.0 * images * c * k * h * w,
        [_normal(rng, images, c, h, w), _normal(rng, k, c, 3, 3, scale=(9 * c) ** -0.5)],
        (images, k, h, w),
        _convolve,
        lambda T, x, weight: lambda: T.nn.functional.conv2d(x, weight, padding=1),
        "conv2d",
    )


def _attend(q: Array, k: Array, v: Array, causal: bool) -> Array:
    length = q.shape[1]
    out = np.empty_like(q)
    for h in range(q.shape[0]):
        scores = q[h] @ k[h].T / 8
        if causal:
            scores[np.triu_indices(length, 1)] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out[h] = weights @ v[h] / weights.sum(1, keepdims=True)
    return out


def _attention(heads: int, length: int, causal: bool) -> Problem:
    rng = np.random.default_rng(length)
    shape = (heads, length, 64)

    def ours(T: Any, q: Any, k: Any, v: Any) -> Callable[[], Any]:
        q, k, v = (x.unsqueeze(0) for x in (q, k, v))
        attend = T.nn.functional.scaled_dot_product_attention
        return lambda: attend(q, k, v, is_causal=causal).squeeze(0)

    pairs = length * (length + 1) / 2 if causal else length * length
    return Problem(
        f"{'causal ' if causal else ''}attention, {heads} heads, length {length}, 64 wide",
        (heads, length),
        4.0 * 64 * heads * pairs,
        [_normal(rng, *shape, scale=2.0), _normal(rng, *shape), _normal(rng, *shape)],
        shape,
        lambda q, k, v: _attend(q, k, v, causal),
        ours,
        "scaled_dot_product_attention",
        table="causal_steps" if causal else "steps",
    )


def _recur(x: Array, w_ih: Array, w_hh: Array, bias: Array) -> Array:
    steps, batch, n = x.shape
    h, c, out = np.zeros((batch, n)), np.zeros((batch, n)), np.empty_like(x)
    for t in range(steps):
        i, f, g, o = np.split(x[t] @ w_ih.T + h @ w_hh.T + bias, 4, axis=1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = out[t] = np.tanh(c) / (1 + np.exp(-o))
    return out


def _recurrence(steps: int, batch: int, n: int) -> Problem:
    rng = np.random.default_rng(batch)
    weight = 1.5 * n**-0.5

    def ours(T: Any, x: Any, w_ih: Any, w_hh: Any, bias: Any) -> Callable[[], Any]:
        layer = T.nn.LSTM(n, n)
        state = {"weight_ih_l0": w_ih, "weight_hh_l0": w_hh, "bias_ih_l0": bias, "bias_hh_l0": T.zeros(4 * n)}
        layer.load_state_dict(state)
        return lambda: layer(x)[0]

    return Problem(
        f"LSTM {n} -> {n}, {steps} steps, batch {batch}",
        (steps, batch, n),
        16.0 * steps * batch * n * n,
        [
            _normal(rng, steps, batch, n),
            _normal(rng, 4 * n, n, scale=weight),
            _normal(rng, 4 * n, n, scale=weight),
            _normal(rng, 4 * n),
        ],
        (steps, batch, n),
        _recur,
        ours,
        "LSTM",
    )


def problems(family: str, small: bool = False) -> list[Problem]:
    """The problems of a family; ``small`` ones only check the steps."""
    if family == "gemm":
        if small:
            return [_gemm(64), _gemm(576, past=1)]
        return [
            _gemm(512),
            _gemm(2048, skip=("dot",)),
            _gemm(2048, skip=("dot", "row order", "small tile"), past=1),
        ]
    if family == "conv":
        return [_conv(2, 16, 64, 8, 16), _conv(1, 32, 128, 16, 12)] if small else [_conv(1, 64, 64, 56, 56)]
    if family == "attention":
        heads, lengths = (2, (64, 320)) if small else (8, (1024,))
        return [_attention(heads, length, causal) for length in lengths for causal in (False, True)]
    if family == "recurrence":
        return [_recurrence(5, b, 64) for b in (1, 2, 11)] if small else [_recurrence(64, b, 256) for b in (1, 32)]
    raise ValueError(f"[ladder] family: expected one of {', '.join(FAMILIES)}, got {family!r}")
