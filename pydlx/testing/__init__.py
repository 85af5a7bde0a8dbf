"""Comparing tensors in tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import Tensor, as_tensor, isclose, promote_types

__all__ = ["assert_close"]

# Relative and absolute tolerance; everything that is not a float is compared exactly.
_TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
}


def assert_close(
    actual: Any,
    expected: Any,
    *,
    allow_subclasses: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_device: bool = True,
    check_dtype: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: str | Callable[[str], str] | None = None,
) -> None:
    """Raises unless ``|actual - expected| <= atol + rtol * |expected|`` everywhere.

    Args:
        actual, expected: tensors, arrays or numbers, or equally built sequences and mappings of them.
        rtol, atol: tolerances, given together. Default: by dtype (float32: 1.3e-6 and 1e-5), the looser of the two.
        equal_nan: NaN equals NaN. Default: ``False``.
        check_device, check_dtype, check_stride: also compare these.
        msg: replaces the message, or makes a new one from it.

    Raises:
        AssertionError: naming the place, the number of mismatches and the largest differences.
        ValueError: one tolerance without the other.
        TypeError: values that cannot be compared.
    """
    if (rtol is None) != (atol is None):
        raise ValueError(f"[assert_close] rtol: expected both tolerances or none, got rtol={rtol}, atol={atol}")
    if not allow_subclasses and type(actual) is not type(expected):
        raise TypeError(f"[assert_close] actual: expected {type(expected).__name__}, got {type(actual).__name__}")
    checks = {"device": check_device, "dtype": check_dtype, "stride": check_stride}
    problem = _compare(actual, expected, "", (rtol, atol), equal_nan, checks)
    if problem is not None:
        raise AssertionError(msg(problem) if callable(msg) else problem if msg is None else msg)


def _compare(
    actual: Any, expected: Any, place: str, tolerances: Any, equal_nan: bool, checks: dict[str, bool]
) -> str | None:
    """What is wrong, or None."""
    at = f" at {place}" if place else ""
    if isinstance(actual, Mapping) and isinstance(expected, Mapping):
        if set(actual) != set(expected):
            return f"The keys of the mappings differ{at}: {sorted(map(str, set(actual) ^ set(expected)))}"
        pairs = [(actual[key], expected[key], f"{place}[{key!r}]") for key in expected]
    elif isinstance(actual, (list, tuple)) and isinstance(expected, (list, tuple)):
        if len(actual) != len(expected):
            return f"The length of the sequences differs{at}: {len(actual)} != {len(expected)}"
        pairs = [(a, e, f"{place}[{i}]") for i, (a, e) in enumerate(zip(actual, expected, strict=True))]
    else:
        return _compare_tensors(actual, expected, at, tolerances, equal_nan, checks)
    for mine, theirs, where in pairs:
        problem = _compare(mine, theirs, where, tolerances, equal_nan, checks)
        if problem is not None:
            return problem
    return None


def _compare_tensors(
    actual: Any, expected: Any, at: str, tolerances: Any, equal_nan: bool, checks: dict[str, bool]
) -> str | None:
    if actual is None or expected is None:
        return None if actual is expected else f"None does not match{at}: {actual} != {expected}"
    plain = [not isinstance(value, Tensor) for value in (actual, expected)]
    if any(isinstance(value, (bool, int, float)) for value in (actual, expected)):
        if plain != [True, True]:
            raise TypeError(f"[assert_close] actual: expected two tensors or two numbers{at}, got one of each")
        if checks["dtype"] and type(actual) is not type(expected):
            return f"The types do not match{at}: {type(actual).__name__} != {type(expected).__name__}."
    try:
        a, e = as_tensor(actual).detach(), as_tensor(expected).detach()
    except (TypeError, ValueError) as error:
        kinds = f"{type(actual).__name__} and {type(expected).__name__}"
        raise TypeError(f"[assert_close] actual: expected tensors or numbers{at}, got {kinds}") from error
    if a.shape != e.shape:
        return f"The values for attribute 'shape' do not match{at}: {a.shape} != {e.shape}."
    for name, wanted in checks.items():
        mine, theirs = (getattr(t, name)() if name == "stride" else getattr(t, name) for t in (a, e))
        if wanted and not any(plain) and mine != theirs:
            return f"The values for attribute '{name}' do not match{at}: {mine} != {theirs}."
    rtol, atol = tolerances if tolerances[0] is not None else _default_tolerances(a, e)
    common = promote_types(a.dtype, e.dtype)
    a, e = a.to(common), e.to(common)
    wrong = ~isclose(a, e, rtol=rtol, atol=atol, equal_nan=equal_nan)
    count = int(wrong.sum())
    if count == 0:
        return None
    bad, good = a[wrong].double(), e[wrong].double()
    apart = (bad - good).abs()
    exact = "equal" if rtol == atol == 0 else "close"
    total = a.numel()
    return (
        f"Values are not {exact}{at}.\n\n"
        f"Mismatched elements: {count} / {total} ({count / total:.1%})\n"
        f"Greatest absolute difference: {apart.max().item()} (up to {atol} allowed)\n"
        f"Greatest relative difference: {(apart / good.abs()).max().item()} (up to {rtol} allowed)\n"
        f"First mismatch: expected {good[0].item()}, got {bad[0].item()} at index {tuple(wrong.nonzero()[0].tolist())}"
    )


def _default_tolerances(*tensors: Tensor) -> Sequence[float]:
    known = [_TOLERANCES.get(str(t.dtype).rpartition(".")[2], (0.0, 0.0)) for t in tensors]
    return [max(values) for values in zip(*known, strict=True)]
