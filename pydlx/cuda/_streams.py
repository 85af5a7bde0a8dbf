"""Streams and events."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from .. import _C
from ._device import index_of

_cuda = _C._cuda


class Stream:
    """A queue of work on a device. Work of different streams may overlap.

    Args:
        device: Where; default: the current device.
        priority: Smaller numbers are preferred by the device; default 0.
    """

    def __init__(self, device: Any = None, priority: int = 0, *, _handle: Any = None) -> None:
        self._handle = _handle if _handle is not None else _cuda.new_stream(index_of(device, "Stream"), priority)

    @property
    def device(self) -> Any:
        """The device of the stream."""
        return _C.device("cuda", self._handle.device)

    @property
    def cuda_stream(self) -> int:
        """The ``cudaStream_t`` as a number, for other libraries."""
        return int(self._handle.native)

    def query(self) -> bool:
        """Whether everything queued so far has run."""
        return bool(self._handle.query())

    def synchronize(self) -> None:
        """Waits until everything queued so far has run."""
        self._handle.synchronize()

    def record_event(self, event: Event | None = None) -> Event:
        """Queues an event, a new one by default, and returns it."""
        event = event if event is not None else Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Lets later work of this stream wait for the event, without making Python wait."""
        event.wait(self)

    def wait_stream(self, stream: Stream) -> None:
        """Lets later work of this stream wait for everything queued on the other."""
        self.wait_event(stream.record_event())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and bool(self._handle.same(other._handle))

    def __hash__(self) -> int:
        return hash((self._handle.device, self._handle.native))

    def __repr__(self) -> str:
        return f"<pydlx.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"


class Event:
    """A mark in a stream's queue.

    Args:
        enable_timing: Whether :meth:`elapsed_time` will be asked; default False.
        blocking, interprocess: Accepted for PyTorch's signature; ``interprocess`` must be False.
    """

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        if interprocess:
            raise NotImplementedError(
                "[cuda.Event] interprocess: expected False; events are not shared between processes"
            )
        index_of(None, "Event")
        self._handle = _cuda.Event(enable_timing)

    def record(self, stream: Stream | None = None) -> None:
        """Queues the event on a stream, the current one by default."""
        self._handle.record((stream if stream is not None else current_stream())._handle)

    def wait(self, stream: Stream | None = None) -> None:
        """Lets later work of the stream wait for the event."""
        (stream if stream is not None else current_stream())._handle.wait_event(self._handle)

    def query(self) -> bool:
        """Whether the work before the event has run; True when it was never recorded."""
        return bool(self._handle.query())

    def synchronize(self) -> None:
        """Waits until the work before the event has run."""
        self._handle.synchronize()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds between this event and a later one, both made with ``enable_timing=True``."""
        return float(self._handle.elapsed_time(end_event._handle))


def current_stream(device: Any = None) -> Stream:
    """The stream that the calling thread queues on."""
    return Stream(_handle=_cuda.current_stream(index_of(device, "current_stream")))


def default_stream(device: Any = None) -> Stream:
    """The stream that is current when none was chosen."""
    return Stream(_handle=_cuda.default_stream(index_of(device, "default_stream")))


def set_stream(stream: Stream) -> None:
    """Makes a stream current for the calling thread."""
    _cuda.set_stream(stream._handle)


class stream:
    """Makes a stream (and its device) current inside a ``with`` block; None changes nothing."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream
        self._before: tuple[int, Stream] | None = None

    def __enter__(self) -> stream:
        if self.stream is not None:
            device = int(_cuda.current_device())
            self._before = device, current_stream(self.stream.device)
            _cuda.set_device(self.stream._handle.device)
            set_stream(self.stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            device, before = self._before
            set_stream(before)
            _cuda.set_device(device)
            self._before = None
