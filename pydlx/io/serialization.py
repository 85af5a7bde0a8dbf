"""``pydlx.save`` and ``pydlx.load``: nested Python structures of tensors, without pickle."""

from __future__ import annotations

import json
import os
from typing import Any

import pydlx

from .. import Tensor
from .. import device as Device
from .._C import Size
from ._atomic import write_atomically
from ._structure import decode, encode
from .safetensors import load_from, serialize

__all__ = ["load", "save"]

STRUCTURE = "pydlx.structure"


def save(obj: Any, f: str | os.PathLike[str] | Any) -> None:
    """Write a nested structure of tensors: state dicts, optimiser states, whole checkpoints.

    Args:
        obj: tensors, None, booleans, numbers, strings, bytes, dtypes, devices, and lists, tuples, sets and dicts of
            them (dict keys of any of these types). The same tensor at two places is stored once.
        f: a file name, replaced atomically, or a writable binary file.

    The file is a safetensors file: other readers find the tensors under their path in the structure, and nothing in it
    can run code when loaded. Objects are saved through their ``state_dict()``.

    Raises:
        TypeError: something else in the structure, named with its place. OSError: the file cannot be written.
    """
    structure, tensors = encode(obj)
    text = json.dumps(structure, separators=(",", ":"), ensure_ascii=True)
    chunks = serialize(tensors, {STRUCTURE: text}, "save")
    if isinstance(f, (str, os.PathLike)):
        write_atomically(f, chunks)
    elif hasattr(f, "write"):
        for chunk in chunks:
            f.write(chunk)
    else:
        raise TypeError(f"[save] f: expected a file name or a binary file, got {type(f).__name__}")


def load(
    f: str | os.PathLike[str] | Any,
    map_location: str | Device | None = None,
    *,
    weights_only: bool | None = None,
    verify: bool = True,
) -> Any:
    """Read what ``save`` wrote, a plain safetensors file (as a dict of tensors), or a PyTorch checkpoint.

    No file can run code: PyTorch's pickles are interpreted by a reader that knows tensors and plain containers only.

    Args:
        f: a file name, or a readable, seekable binary file positioned at the start.
        map_location: where the tensors go; None keeps them on the CPU.
        weights_only: accepted for compatibility.
        verify: compare the checksum of every tensor.

    Raises:
        ValueError: not such a file, truncated or damaged. OSError: the file cannot be read.
    """
    if map_location is not None and not isinstance(map_location, (str, Device)):
        raise TypeError(
            f"[load] map_location: expected None, a string or a device, got {type(map_location).__name__}; "
            "move the tensors after loading"
        )
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb", buffering=0) as file:
            return _read(file, map_location, verify)
    if not hasattr(f, "readinto") or not hasattr(f, "seek"):
        raise TypeError(f"[load] f: expected a file name or a seekable binary file, got {type(f).__name__}")
    return _read(f, map_location, verify)


def _read(file: Any, map_location: str | Device | None, verify: bool) -> Any:
    start = file.tell()
    magic = file.read(4)
    file.seek(start)
    if magic == b"PK\x03\x04":
        from ._pytorch import read_checkpoint  # needs zipfile, which is slow to import

        return _move(read_checkpoint(file), map_location)
    if magic[:1] == b"\x80":
        raise ValueError(
            "[load] f: expected a file of pydlx.save, a safetensors file or a PyTorch checkpoint, got a bare pickle; "
            "load it in PyTorch and save it again, which writes the zip format"
        )
    tensors, metadata = load_from(file, "load", map_location, verify)
    if STRUCTURE not in metadata:
        return tensors
    try:
        structure = json.loads(metadata[STRUCTURE])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[load] structure: expected JSON in the metadata, got {error}") from None
    return decode(structure, tensors)


def _move(value: Any, device: str | Device | None) -> Any:
    """Every tensor in a structure on the given device."""
    if device is None or str(device) == "cpu":
        return value
    if isinstance(value, Tensor):
        moved = value.detach().to(device)
        if isinstance(value, pydlx.nn.Parameter):
            return pydlx.nn.Parameter(moved, requires_grad=value.requires_grad)
        return moved.requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        for key in value:
            value[key] = _move(value[key], device)
        return value
    if isinstance(value, (list, tuple)) and not isinstance(value, Size):
        return type(value)(_move(item, device) for item in value)
    return value
