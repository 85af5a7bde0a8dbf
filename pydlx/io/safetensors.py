"""Reading and writing safetensors files: a flat dict of named tensors, safe to open whoever wrote it.

Files move both ways between this module and the ``safetensors`` package. Files written here also carry a CRC-32 of
every tensor in their metadata, which is checked when they are loaded.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from .. import Tensor, empty, uint8
from .. import device as Device
from .._memory import bytes_of
from ._atomic import write_atomically
from ._format import DTYPES, NAMES, Entry, build_header, parse_header, parse_length, strict_json

__all__ = ["load", "load_file", "safe_open", "save", "save_file"]

CHECKSUMS = "pydlx.crc32"
_CHUNK = 1 << 22  # bytes read and checksummed at a time: stays in the cache between the two


class Source(Protocol):
    """What a reader needs of a file: positioned by ``seek``, filled by ``readinto``."""

    def read(self, size: int = ..., /) -> bytes: ...
    def readinto(self, buffer: Any, /) -> int | None: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def tell(self) -> int: ...


def _check_tensors(tensors: Any, op: str) -> dict[str, Tensor]:
    if not isinstance(tensors, Mapping):
        raise TypeError(f"[{op}] tensors: expected a dict of name to tensor, got {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"[{op}] tensors: expected names of type str, got {name!r}")
        if name == "__metadata__":
            raise ValueError(f"[{op}] tensors: expected another name than '__metadata__', which the format reserves")
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"[{op}] {name!r}: expected a tensor, got {type(tensor).__name__}; use pydlx.save for nested structures"
            )
        if tensor.dtype not in NAMES:
            raise TypeError(f"[{op}] {name!r}: expected one of {', '.join(map(str, NAMES))}, got {tensor.dtype}")
    return dict(tensors)


def serialize(tensors: Any, metadata: Mapping[str, str] | None, op: str) -> Iterator[bytes | memoryview]:
    """Check the arguments and yield the file's content piece by piece."""
    checked = _check_tensors(tensors, op)
    extra = dict(metadata or {})
    for key, value in extra.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"[{op}] metadata: expected strings, got {key!r}: {value!r}")
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in checked.items()}
    extra[CHECKSUMS] = json.dumps({name: f"{zlib.crc32(bytes_of(t)):08x}" for name, t in plain.items()})
    shapes = {name: (NAMES[t.dtype], tuple(t.shape)) for name, t in plain.items()}
    header, order = build_header(shapes, extra, op)

    def chunks() -> Iterator[bytes | memoryview]:
        yield header
        for name in order:
            yield bytes_of(plain[name])

    return chunks()


def save_file(
    tensors: Mapping[str, Tensor], filename: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to a safetensors file, replacing it atomically.

    Args:
        tensors: name -> tensor of any layout and device; views are written as the elements they show, and tensors that
            share memory are written once each. filename: where to. metadata: strings to keep in the header.

    Raises:
        TypeError: a name that is not a string, a value that is not a tensor, an unsupported dtype.
        OSError: the file cannot be written; an existing file is then unchanged.
    """
    write_atomically(filename, serialize(tensors, metadata, "save_file"))


def save(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content ``save_file`` would write, as bytes."""
    return b"".join(serialize(tensors, metadata, "save"))


class Reader:
    """A checked header and the means to fetch its tensors from a seekable source."""

    def __init__(self, source: Source, op: str, verify: bool) -> None:
        self.source, self.op = source, op
        start = source.tell()
        size = source.seek(0, os.SEEK_END) - start
        source.seek(start)
        length = parse_length(source.read(8), size, op)
        raw = source.read(length)
        if len(raw) != length:
            raise ValueError(f"[{op}] header: expected {length} bytes, got {len(raw)}; the file shrank while reading")
        self.entries, self.metadata = parse_header(raw, size - 8 - length, op)
        self.data = start + 8 + length
        self.checksums: dict[str, str] = {}
        if verify and CHECKSUMS in self.metadata:
            sums = strict_json(self.metadata[CHECKSUMS].encode(), op)
            if not isinstance(sums, dict) or not all(isinstance(v, str) for v in sums.values()):
                raise ValueError(f"[{op}] {CHECKSUMS}: expected an object of strings in the metadata")
            self.checksums = sums

    def read(self, name: str) -> Tensor:
        """Allocate one tensor and fill it from the source, checking its checksum on the way."""
        entry: Entry = self.entries[name]
        kind = DTYPES[entry.kind][0]
        # A bool of a hostile file may hold any byte; comparing turns each into a proper 0 or 1.
        tensor = empty(entry.shape, dtype=uint8 if entry.kind == "BOOL" else kind, device="cpu")
        self.source.seek(self.data + entry.begin)
        checksum = 0
        view = bytes_of(tensor)
        while len(view):
            got = self.source.readinto(view[:_CHUNK])
            if not got:
                raise ValueError(f"[{self.op}] {name!r}: expected {len(view)} more bytes, got the end of the file")
            checksum = zlib.crc32(view[:got], checksum)
            view = view[got:]
        expected = self.checksums.get(name)
        if expected is not None and expected != f"{checksum:08x}":
            raise ValueError(
                f"[{self.op}] {name!r}: expected checksum {expected[:16]}, got {checksum:08x}; the data is damaged "
                "(verify=False reads it anyway)"
            )
        return tensor != 0 if entry.kind == "BOOL" else tensor


def load_file(
    filename: str | os.PathLike[str], device: str | int | Device = "cpu", *, verify: bool = True
) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        filename: the file. device: where the tensors go. verify: compare checksums, if the file has them.

    Returns:
        Name -> tensor, in the order in which they were saved.

    Raises:
        ValueError: not a safetensors file, truncated, inconsistent, or damaged; nothing was allocated for it.
        OSError: the file cannot be read.
    """
    with open(filename, "rb", buffering=0) as file:
        return load_from(file, "load_file", device, verify)[0]


def load_from(source: Source, op: str, device: Any, verify: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a seekable source."""
    reader = Reader(source, op, verify)
    tensors = {}
    for name in reader.entries:
        tensor = reader.read(name)
        tensors[name] = tensor if device is None or device == "cpu" else tensor.to(device)
    return tensors, reader.metadata


def load(data: bytes) -> dict[str, Tensor]:
    """Read what ``save`` returned."""
    from io import BytesIO

    return load_from(BytesIO(data), "load", None, True)[0]


class safe_open:
    """Open a safetensors file and fetch single tensors from it.

    Args:
        filename: the file. framework: accepted for compatibility. device: where the tensors go.
        verify: compare checksums, if the file has them.

    ``with safe_open("model.safetensors") as f: weight = f.get_tensor("fc.weight")``
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str = "pt",
        device: str | int | Device = "cpu",
        *,
        verify: bool = True,
    ) -> None:
        self._device = device
        self._file: BinaryIO = open(filename, "rb", buffering=0)  # noqa: SIM115
        try:
            self._reader = Reader(self._file, "safe_open", verify)
        except BaseException:
            self._file.close()
            raise

    def keys(self) -> list[str]:
        """The tensors' names."""
        return list(self._reader.entries)

    def metadata(self) -> dict[str, str]:
        """The strings kept in the header."""
        return dict(self._reader.metadata)

    def get_tensor(self, name: str) -> Tensor:
        """Read one tensor; KeyError if the file has none of that name."""
        if name not in self._reader.entries:
            raise KeyError(f"[safe_open] {name!r}: expected one of the file's {len(self.keys())} tensors")
        tensor = self._reader.read(name)
        return tensor if self._device == "cpu" else tensor.to(self._device)

    def get_shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return self._reader.entries[name].shape

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
