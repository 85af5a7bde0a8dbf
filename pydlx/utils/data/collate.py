"""Turning a list of samples into one batch."""

from __future__ import annotations

import collections.abc
from collections.abc import Callable, Sequence
from typing import Any

from ... import Tensor, as_tensor, float64, stack, tensor

__all__ = ["default_collate", "default_convert"]


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack samples into a batch: every leaf gets a new first dimension.

    Tensors and NumPy arrays are stacked, numbers become tensors (float64 and int64), strings and bytes stay lists, and
    dicts, named tuples, tuples (as lists) and lists are collated element by element.

    Raises:
        TypeError: a sample of another type. RuntimeError or ValueError: samples that differ in shape or length.
    """
    if not batch:
        raise ValueError("[default_collate] batch: expected at least one sample, got none")
    first = batch[0]
    kind = type(first)
    if isinstance(first, Tensor):
        return stack(list(batch), 0)
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, bool):
        return tensor(batch)
    if isinstance(first, float):
        return tensor(batch, dtype=float64)
    if isinstance(first, int):
        return tensor(batch)
    if kind.__module__ == "numpy":
        if getattr(first, "ndim", 0) == 0:
            return as_tensor([b.item() for b in batch], dtype=as_tensor(first).dtype)
        return stack([as_tensor(b) for b in batch], 0)
    if isinstance(first, collections.abc.Mapping):
        collated = {key: default_collate([sample[key] for sample in batch]) for key in first}
        return _rebuild(kind, collated)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return kind(*(default_collate(part) for part in zip(*batch, strict=True)))
    if isinstance(first, collections.abc.Sequence):
        if any(len(sample) != len(first) for sample in batch):
            raise RuntimeError(
                f"[default_collate] batch: expected samples of equal length, got {sorted({len(s) for s in batch})}; "
                "pass a collate_fn that pads them"
            )
        parts = [default_collate(part) for part in zip(*batch, strict=True)]
        return parts if isinstance(first, tuple) else _rebuild(kind, parts)
    raise TypeError(
        "[default_collate] batch: expected tensors, NumPy arrays, numbers, strings, dicts or lists, "
        f"got {kind.__name__}; pass a collate_fn"
    )


def default_convert(data: Any) -> Any:
    """Turn the NumPy arrays and numbers inside one sample into tensors and leave the rest: loading without batches."""
    if isinstance(data, Tensor):
        return data
    if type(data).__module__ == "numpy" and getattr(getattr(data, "dtype", None), "kind", "O") not in "OSUMmV":
        return as_tensor(data)
    if isinstance(data, collections.abc.Mapping):
        return _rebuild(type(data), {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(default_convert(value) for value in data))
    if isinstance(data, tuple):
        return [default_convert(value) for value in data]
    if isinstance(data, collections.abc.Sequence) and not isinstance(data, (str, bytes)):
        return _rebuild(type(data), [default_convert(value) for value in data])
    return data


def _rebuild(kind: Callable[[Any], Any], content: Any) -> Any:
    """The content in a container of the sample's own type, or as it is if that type takes other arguments."""
    try:
        return kind(content)
    except TypeError:
        return content
