"""Printing, with PyTorch's layout and options."""

from __future__ import annotations

import math
from typing import Any

from . import _C
from ._C import Tensor


class _Options:  # not a dataclass: that module doubles the time of `import pydlx`
    def __init__(self, precision: int = 4, threshold: int = 1000, edgeitems: int = 3) -> None:
        self.precision, self.threshold, self.edgeitems, self.linewidth = precision, threshold, edgeitems, 80
        self.sci_mode: bool | None = None


_options = _Options()
_PROFILES = {"default": _Options(), "short": _Options(precision=2, edgeitems=2), "full": _Options(threshold=2**62)}


def set_printoptions(
    precision: int | None = None,
    threshold: int | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Sets how tensors print: digits, elements before summarising, elements per edge, characters per line, scientific notation.

    ``profile`` is ``default``, ``short`` or ``full``; the other arguments override it.
    """
    if profile is not None:
        if profile not in _PROFILES:
            raise ValueError(f"[set_printoptions] profile: expected 'default', 'short' or 'full', got {profile!r}")
        chosen = _PROFILES[profile]
        _options.precision, _options.threshold = chosen.precision, chosen.threshold
        _options.edgeitems, _options.linewidth = chosen.edgeitems, chosen.linewidth
    if precision is not None:
        _options.precision = precision
    if threshold is not None:
        _options.threshold = threshold
    if edgeitems is not None:
        _options.edgeitems = edgeitems
    if linewidth is not None:
        _options.linewidth = linewidth
    _options.sci_mode = sci_mode


class _Formatter:
    """Chooses one format for all numbers shown: integers as such, floats fixed or scientific, padded to one width."""

    def __init__(self, values: list[Any], floating: bool) -> None:
        self.floating = floating
        self.whole = self.scientific = False
        self.width = 1
        if not floating:
            self.width = max((len(str(v)) for v in values), default=1)
            return
        # Zeros, NaN and infinities have no say in the format or the width, as in PyTorch.
        telling = [v for v in values if math.isfinite(v) and v != 0]
        finite = [abs(v) for v in telling]
        self.whole = True
        if finite:
            high, low = max(finite), min(finite)
            self.whole = all(v == math.ceil(v) for v in telling)
            if self.whole:
                self.scientific = (high / low > 1000.0 and high > 1.0e8) or high > 1.0e8
            else:
                self.scientific = high / low > 1000.0 or high > 1.0e8 or low < 1.0e-4
        if _options.sci_mode is not None:
            self.scientific = _options.sci_mode
        self.width = max((len(self._plain(v)) for v in telling), default=1)

    def _plain(self, value: Any) -> str:
        if not self.floating:
            return str(value)
        if self.scientific:
            return f"{value:.{_options.precision}e}"
        if self.whole:
            return f"{value:.0f}." if math.isfinite(value) else f"{value:.0f}"
        return f"{value:.{_options.precision}f}"

    def __call__(self, value: Any) -> str:
        text = self._plain(value)
        return " " * (self.width - len(text)) + text


def _edges(tensor: Tensor) -> Tensor:
    """The elements that a summary shows, as one small tensor."""
    n = _options.edgeitems
    for axis in range(tensor.ndim):
        size = tensor.shape[axis]
        if size > 2 * n:
            tensor = _C.cat([tensor.narrow(axis, 0, n), tensor.narrow(axis, size - n, n)], axis)
    return tensor


def _lines(values: Any, shape: tuple[int, ...], indent: int, summarize: bool, show: _Formatter) -> str:
    if not shape:
        return show(values)
    n = _options.edgeitems
    cut = summarize and shape[0] > 2 * n
    if len(shape) == 1:
        cells = [show(v) for v in values]
        if cut:
            cells = [*cells[:n], " ...", *cells[n:]]
        per_line = max(1, (_options.linewidth - indent) // (show.width + 2))
        rows = [cells[i : i + per_line] for i in range(0, len(cells), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(", ".join(row) for row in rows) + "]"
    blocks = [_lines(v, shape[1:], indent + 1, summarize, show) for v in values]
    if cut:
        blocks = [*blocks[:n], "...", *blocks[n:]]
    return "[" + ("," + "\n" * (len(shape) - 1) + " " * (indent + 1)).join(blocks) + "]"


def _describe(tensor: Tensor, prefix: str) -> str:
    suffixes = []
    if tensor.is_cuda:
        suffixes.append(f"device='{tensor.device}'")
    if tensor.numel() == 0:
        if tensor.ndim != 1:
            suffixes.append(f"size={tuple(tensor.shape)}")
        if tensor.dtype != _C.get_default_dtype():
            suffixes.append(f"dtype={tensor.dtype}")
        body = "[]"
    else:
        if tensor.dtype not in (_C.get_default_dtype(), _C.int64, _C.bool):
            suffixes.append(f"dtype={tensor.dtype}")
        summarize = tensor.numel() > _options.threshold
        plain = tensor.detach().cpu()
        shown = _edges(plain) if summarize else plain
        if shown.dtype in (_C.float16, _C.bfloat16):
            shown = shown.float()
        flat = shown.reshape(-1).tolist()
        show = _Formatter(flat, tensor.dtype.is_floating_point)
        body = _lines(shown.tolist(), tuple(tensor.shape), len(prefix), summarize, show)
    function = tensor.grad_fn
    if function is not None:
        suffixes.append(f"grad_fn=<{function.name()}>")
    elif tensor.requires_grad:
        suffixes.append("requires_grad=True")
    text = prefix + body
    last = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if last + len(suffix) + 2 > _options.linewidth:
            text += ",\n" + " " * len(prefix) + suffix
            last = len(prefix) + len(suffix)
        else:
            text += ", " + suffix
            last += len(suffix) + 2
    return text + ")"


def tensor_repr(tensor: Tensor) -> str:
    """``repr`` of a tensor; a Parameter says so."""
    with_no_grad = _C._is_grad_enabled()
    _C._set_grad_enabled(False)
    try:
        if type(tensor) is not Tensor and type(tensor).__name__ == "Parameter":
            return "Parameter containing:\n" + _describe(tensor, "tensor(")
        return _describe(tensor, "tensor(")
    finally:
        _C._set_grad_enabled(with_no_grad)
