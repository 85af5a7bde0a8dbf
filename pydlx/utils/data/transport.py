"""Moving batches between processes without copying them through a pipe.

A message is pickled with its tensors and arrays taken out (pickle protocol 5). Small messages go inline. For large ones
everything goes into one anonymous memory file, whose descriptor is handed over the socket; the receiver maps it, and
its tensors lie in that mapping. Nothing has a name, so nothing is left behind when a process is killed, and the size of
/dev/shm does not matter.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
import tempfile
from io import BytesIO
from multiprocessing.connection import Connection
from typing import Any

from ... import Tensor
from ..._memory import bytes_of, tensor_over
from ...io._format import DTYPES, NAMES

__all__ = ["receive", "send"]

# Below this a copy through the socket is cheaper than making and mapping a file (two dozen microseconds).
_INLINE = 16384
_ALIGN = 64
_INLINE_TAG, _FILE_TAG = b"I", b"F"


class _Pickler(pickle.Pickler):
    """Takes the memory of plain CPU tensors out of the stream; arrays of NumPy do that by themselves."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Tensor and obj.device.type == "cpu" and obj.dtype in NAMES:
            buffer = pickle.PickleBuffer(bytes_of(obj.contiguous()))
            return _rebuild, (buffer, NAMES[obj.dtype], tuple(obj.shape))
        return NotImplemented


def _rebuild(buffer: Any, kind: str, shape: tuple[int, ...]) -> Tensor:
    return tensor_over(buffer, DTYPES[kind][0], shape)


def send(connection: Connection, message: Any) -> None:
    """Send any picklable value; raises what pickling raises, before anything is sent."""
    buffers: list[pickle.PickleBuffer] = []
    stream = BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(message)
    parts = [memoryview(stream.getbuffer()), *(buffer.raw() for buffer in buffers)]
    sizes = [part.nbytes for part in parts]
    table = struct.pack(f"<{len(sizes)}q", *sizes)
    if sum(sizes) <= _INLINE or not hasattr(socket, "send_fds"):
        padded = [piece for part in parts for piece in (part, bytes(-part.nbytes % _ALIGN))]
        connection.send_bytes(b"".join([_INLINE_TAG, struct.pack("<q", len(sizes)), table, *padded]))
        return
    descriptor, file = _anonymous_file()
    try:
        _write_parts(descriptor, parts)
        connection.send_bytes(_FILE_TAG + struct.pack("<q", len(sizes)) + table)
        with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            socket.send_fds(channel, [b"f"], [descriptor])
    finally:
        if file is None:
            os.close(descriptor)
        else:
            file.close()


def receive(connection: Connection) -> Any:
    """Receive what ``send`` sent; EOFError or OSError when the other side is gone."""
    head = connection.recv_bytes()
    (count,) = struct.unpack_from("<q", head, 1)
    sizes = struct.unpack_from(f"<{count}q", head, 9)
    starts, total = _layout(list(sizes))
    if head[:1] == _INLINE_TAG:
        # A copy: tensors need memory that is writable and aligned to their elements.
        body = memoryview(bytearray(memoryview(head)[9 + 8 * count :]))
    else:
        with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not descriptors:
            raise EOFError("the sender is gone")
        try:
            body = memoryview(mmap.mmap(descriptors[0], total))
        finally:
            os.close(descriptors[0])
    parts = [body[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return pickle.loads(parts[0], buffers=parts[1:])


def _layout(sizes: list[int]) -> tuple[list[int], int]:
    """Where each part starts, aligned for vector instructions, and the size of them all."""
    starts, position = [], 0
    for size in sizes:
        starts.append(position)
        position += -(-size // _ALIGN) * _ALIGN
    return starts, max(position, 1)


def _anonymous_file() -> tuple[int, Any]:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pydlx-batch"), None
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    return file.fileno(), file


def _write_parts(descriptor: int, parts: list[memoryview]) -> None:
    starts, total = _layout([part.nbytes for part in parts])
    os.ftruncate(descriptor, total)
    for start, part in zip(starts, parts, strict=True):
        rest, position = part.cast("B") if part.nbytes else part, start
        while rest.nbytes:
            written = os.pwrite(descriptor, rest, position)
            rest, position = rest[written:], position + written
