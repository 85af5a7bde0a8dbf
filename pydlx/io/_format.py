"""The safetensors header: eight bytes of length, JSON, then the tensors' bytes back to back.

Everything is checked here, against the file's real size, before a single tensor is allocated.
Source: the format description at https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .. import bfloat16, dtype, float16, float32, float64, int8, int16, int32, int64, uint8
from .. import bool as bool_

__all__ = ["DTYPES", "MAX_HEADER", "NAMES", "Entry", "build_header", "parse_header", "parse_length"]

DTYPES: dict[str, tuple[dtype, int]] = {
    "BOOL": (bool_, 1),
    "U8": (uint8, 1),
    "I8": (int8, 1),
    "I16": (int16, 2),
    "I32": (int32, 4),
    "I64": (int64, 8),
    "F16": (float16, 2),
    "BF16": (bfloat16, 2),
    "F32": (float32, 4),
    "F64": (float64, 8),
}
NAMES = {kind: name for name, (kind, _) in DTYPES.items()}
MAX_HEADER = 100_000_000  # the format's own limit
MAX_DIMS = 32  # the engine's limit, csrc/core/limits.h
_INT64_MAX = 2**63 - 1
# Data begins at a multiple of 64 bytes, so a mapped file can be used by vector instructions as it is.
_ALIGNMENT = 64


class Entry(NamedTuple):
    """Where one tensor lies: name of its dtype, shape, and the bytes [begin, end) of the data section."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _pairs(op: str) -> Any:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"[{op}] header: expected each name once, got {twice[:100]!r} twice")
        return result

    return build


def _refuse_number(op: str) -> Any:
    def refuse(text: str) -> Any:
        raise ValueError(f"[{op}] header: expected integers, got {text[:40]}")

    return refuse


def _short_int(op: str) -> Any:
    def convert(text: str) -> int:
        if len(text) > 20:  # longer than any int64; converting a million digits would take minutes
            raise ValueError(f"[{op}] header: expected integers below 2**63, got one with {len(text)} digits")
        return int(text)

    return convert


def strict_json(raw: bytes, op: str) -> Any:
    """Parse JSON, refusing duplicate names, fractions, NaN, over-long integers and hopeless nesting."""
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_pairs(op),
            parse_float=_refuse_number(op),
            parse_constant=_refuse_number(op),
            parse_int=_short_int(op),
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"[{op}] header: expected UTF-8 text, got {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"[{op}] header: expected JSON, got {error}") from None
    except RecursionError:
        raise ValueError(f"[{op}] header: expected a flat JSON object, got deep nesting") from None


def parse_length(prefix: bytes, size: int, op: str) -> int:
    """The header's length from a file's first eight bytes, checked against the file's ``size``."""
    if len(prefix) < 8:
        raise ValueError(f"[{op}] file: expected at least 8 bytes, got {len(prefix)}; the file is truncated")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise ValueError(f"[{op}] header: expected at most {MAX_HEADER} bytes, got {length}; not a safetensors file")
    if length > size - 8:
        raise ValueError(f"[{op}] header: expected {length} bytes, got {size - 8}; the file is truncated")
    return length


def parse_header(raw: bytes, data_size: int, op: str) -> tuple[dict[str, Entry], dict[str, str]]:
    """Check a whole header.

    Args:
        raw: the JSON text. data_size: bytes that follow the header in the file. op: names the caller in errors.

    Returns:
        The entries in the header's order, and the file's string metadata.

    Raises:
        ValueError: anything but a well-formed header whose tensors tile the data section exactly.
    """
    if raw[:1] != b"{":
        raise ValueError(f"[{op}] header: expected it to start with '{{', got {raw[:1]!r}; not a safetensors file")
    header = strict_json(raw, op)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"[{op}] __metadata__: expected an object of strings")
    entries = {name: _parse_entry(name, info, data_size, op) for name, info in header.items()}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            trouble = "an overlap" if entry.begin < position else "a gap"
            raise ValueError(
                f"[{op}] {_short(name)}: expected data at offset {position}, got {trouble} at {entry.begin}"
            )
        position = entry.end
    if position != data_size:
        raise ValueError(f"[{op}] file: expected {position} bytes of data, got {data_size}")
    return entries, metadata


def _parse_entry(name: str, info: Any, data_size: int, op: str) -> Entry:
    where = f"[{op}] {_short(name)}"
    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where}: expected an object with dtype, shape and data_offsets, got {_brief(info)}")
    kind, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"{where} dtype: expected one of {', '.join(DTYPES)}, got {_brief(kind)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(_is_size(d) for d in shape):
        raise ValueError(f"{where} shape: expected at most {MAX_DIMS} sizes in [0, 2**63), got {_brief(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(o) for o in offsets):
        raise ValueError(f"{where} data_offsets: expected two sizes, got {_brief(offsets)}")
    begin, end = offsets
    if not begin <= end <= data_size:
        raise ValueError(f"{where} data_offsets: expected a range within {data_size} bytes, got [{begin}, {end})")
    extent = DTYPES[kind][1]  # counts a size of zero as one, so that an empty tensor cannot smuggle in huge strides
    empty = False
    for size in shape:
        empty = empty or size == 0
        extent *= max(size, 1)
        if extent > _INT64_MAX:
            raise ValueError(f"{where} shape: expected a size below 2**63 bytes, got {_brief(shape)}")
    if end - begin != (0 if empty else extent):
        raise ValueError(
            f"{where}: expected {0 if empty else extent} bytes for shape {_brief(shape)}, got {end - begin}"
        )
    return Entry(kind, tuple(shape), begin, end)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _INT64_MAX


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:97] + "...")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def build_header(
    shapes: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str], op: str
) -> tuple[bytes, list[str]]:
    """The length prefix and JSON for tensors given as name -> (dtype name, shape).

    Returns:
        The bytes in front of the data, and the names in the order of their data: widest dtype first, so that every
        tensor is aligned to its own element size.
    """
    order = sorted(shapes, key=lambda name: -DTYPES[shapes[name][0]][1])
    offsets: dict[str, tuple[int, int]] = {}
    position = 0
    for name in order:
        kind, shape = shapes[name]
        size = DTYPES[kind][1]
        for d in shape:
            size *= d
        offsets[name] = (position, position + size)
        position += size
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for name, (kind, shape) in shapes.items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets[name])}
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"[{op}] names: expected Unicode text, got {error}") from None
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"[{op}] header: expected at most {MAX_HEADER} bytes, got {len(text)}; save fewer tensors per file"
        )
    return len(text).to_bytes(8, "little") + text, order
