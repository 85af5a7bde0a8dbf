"""Recording work once and replaying it without Python."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

from .. import _C
from ._device import current_device, require, synchronize
from ._streams import Stream, current_stream
from ._streams import stream as use_stream

_cuda = _C._cuda
_recording = threading.local()  # .graph: the graph that this thread records


def is_current_stream_capturing() -> bool:
    """Whether the current stream records instead of running."""
    return bool(_cuda.is_capturing())


def before_replay(prepare: Callable[[], None]) -> None:
    """Has the graph that is being recorded call ``prepare`` before each replay, to renew what its work reads."""
    graph = getattr(_recording, "graph", None)
    if graph is None:
        raise RuntimeError("[cuda.graph] expected a recording begun with CUDAGraph in this thread, got none")
    graph._before_replay.append(prepare)


class CUDAGraph:
    """Recorded work. Its tensors keep their addresses: copy new inputs into the old ones and :meth:`replay`."""

    def __init__(self) -> None:
        require("CUDAGraph")
        self._handle = _cuda.Graph()
        self._before_replay: list[Callable[[], None]] = []

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Starts recording the current stream, which must not be the default one."""
        self._handle.begin()
        _recording.graph = self

    def capture_end(self) -> None:
        """Ends the recording."""
        _recording.graph = None
        try:
            self._handle.end()
        except BaseException:  # nothing will be replayed
            self._before_replay.clear()
            raise

    def replay(self) -> None:
        """Queues the recorded work on the current stream."""
        for prepare in self._before_replay:
            prepare()
        self._handle.replay()

    def reset(self) -> None:
        """Drops the recording and the memory that belongs to it."""
        self._handle.reset()
        self._before_replay.clear()


class graph:
    """Records what is queued inside a ``with`` block.

    Args:
        cuda_graph: Where to record.
        pool, capture_error_mode: Accepted for PyTorch's signature; every graph has a memory pool of its own.
        stream: Which stream to record; default: one of the current device that belongs to this class.
    """

    _own: ClassVar[dict[int, Stream]] = {}  # by device

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: Any = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
    ) -> None:
        if stream is None:
            device = current_device()
            stream = graph._own.get(device) or graph._own.setdefault(device, Stream(device))
        self.cuda_graph = cuda_graph
        self._context = use_stream(stream)

    def __enter__(self) -> None:
        synchronize()
        before = current_stream()
        self._context.__enter__()
        current_stream().wait_stream(before)
        self.cuda_graph.capture_begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.cuda_graph.capture_end()
        finally:
            self._context.__exit__(kind, error, trace)
