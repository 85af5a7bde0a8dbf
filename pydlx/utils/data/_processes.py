"""The loader's side of its worker processes: handing out work, collecting batches in order, noticing dead workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import signal
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any, NoReturn

from .fetch import Fetcher
from .transport import receive, send
from .worker import Job, run_worker

__all__ = ["WorkerPool"]


# The loaders' ends of all pipes. A forked worker must not hold one, or its neighbours never see them close.
_ends: weakref.WeakSet[Connection] = weakref.WeakSet()


class WorkerTraceback(Exception):
    """The cause of an exception that a worker raised; shows the worker's own traceback."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class WorkerPool:
    """Worker processes, each with a pipe and at most ``prefetch`` batches under way.

    Batch k goes to worker k modulo the number of workers and each worker answers in order, so reading the workers in
    the same rotation gives the batches in the sampler's order, whatever the workers' speeds.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        count: int,
        prefetch: int,
        seed: int,
        init: Callable[[int], Any] | None,
        timeout: float,
        context: Any,
    ) -> None:
        self.prefetch, self.timeout, self.epoch = prefetch, timeout, 0
        self.connections: list[Connection] = []
        self.processes: list[Any] = []
        self.owed = [0] * count  # answers that have not been read yet
        self._finalizer = weakref.finalize(self, _stop, self.connections, self.processes, os.getpid())
        if context is None or isinstance(context, str):
            context = multiprocessing.get_context(context)
        forks = context.get_start_method() == "fork"
        try:
            for i in range(count):
                ours, theirs = context.Pipe(duplex=True)
                self.connections.append(ours)
                _ends.add(ours)
                job = Job(fetcher, i, count, seed + i, init, tuple(_ends) if forks else ())
                process = context.Process(target=run_worker, args=(job, theirs), daemon=True, name=f"pydlx-loader-{i}")
                with warnings.catch_warnings():
                    # Python warns of forking beside threads; the engine's thread pool survives it by design.
                    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
                    try:
                        process.start()
                    except (AttributeError, TypeError, pickle.PicklingError) as error:
                        raise TypeError(
                            "[DataLoader] dataset, collate_fn, worker_init_fn: expected what can be pickled, because "
                            f"workers start by {context.get_start_method()!r}, got {error}; define classes and "
                            "functions at the top of a module, or pass multiprocessing_context='fork'"
                        ) from error
                theirs.close()
                self.processes.append(process)
        except BaseException:
            self.close()
            raise

    def batches(self, work: Iterator[Any], seed: int, keep: bool) -> Epoch:
        """Start an epoch: an iterator over the batch of every item of ``work``, in order.

        Abandoning it is fine: what is still under way is read and dropped when the next one starts. (Left in the pipe it
        would fill it in the end, and loader and worker would wait for each other.)

        Args:
            work: index groups. seed: what the workers are seeded from. keep: leave the workers running at the end.
        """
        for worker, count in enumerate(self.owed):
            for _ in range(count):
                self.receive(worker)
        self.epoch += 1
        return Epoch(self, work, seed, keep)

    def send(self, worker: int, message: Any) -> None:
        """Hand a message to a worker, or report its death."""
        try:
            send(self.connections[worker], message)
        except (BrokenPipeError, ConnectionResetError):
            self._report_death(worker)

    def request(self, worker: int, item: Any) -> None:
        """Ask a worker for a batch; its answer is owed from now on."""
        self.send(worker, (item, None))
        self.owed[worker] += 1

    def has_room(self, worker: int) -> bool:
        """Whether a request fits into the pipe at once, so that sending it cannot wait for a worker that waits for us."""
        poll = select.poll()
        poll.register(self.connections[worker].fileno(), select.POLLOUT)
        return bool(poll.poll(0))

    def receive(self, worker: int) -> tuple[str, Any]:
        """The next answer of a worker; RuntimeError if it died or takes too long."""
        connection, process = self.connections[worker], self.processes[worker]
        ready = wait_for([connection, process.sentinel], self.timeout if self.timeout > 0 else None)
        if connection not in ready and not (ready and connection.poll(0)):
            if ready:
                self._report_death(worker)
            self.close()
            raise RuntimeError(
                f"[DataLoader] worker {worker}: expected a batch within timeout={self.timeout} s, got none; "
                "raise timeout or find what blocks the data set"
            )
        self.owed[worker] -= 1
        try:
            answer: tuple[str, Any] = receive(connection)
        except (EOFError, OSError):
            self._report_death(worker)
        except Exception as error:  # the message came, but its content does not unpickle in this process
            return "unreadable", error
        return answer

    def _report_death(self, worker: int) -> NoReturn:
        process = self.processes[worker]
        process.join(5)
        code = process.exitcode
        reason = f"exit code {code}"
        if code is not None and code < 0:
            try:
                reason = f"signal {signal.Signals(-code).name}"
            except ValueError:
                reason = f"signal {-code}"
        self.close()
        hint = "; the system may have run out of memory" if code == -9 else ""
        raise RuntimeError(
            f"[DataLoader] worker {worker}: expected a batch, got the end of process {process.pid} by {reason}{hint}"
        )

    @property
    def alive(self) -> bool:
        """Whether the workers can still be used."""
        return self._finalizer.alive

    def close(self) -> None:
        """Stop all workers; safe to call twice."""
        self._finalizer()


class Epoch:
    """The batches of one epoch; goes on with the next batch after an exception from the data set."""

    def __init__(self, pool: WorkerPool, work: Iterator[Any], seed: int, keep: bool) -> None:
        self.pool, self.work, self.keep, self.number = pool, work, keep, pool.epoch
        count = len(pool.connections)
        self.finished = [False] * count
        self.order: deque[int] = deque()  # which worker owes each of the next batches
        self.turn = 0
        for worker in range(count):
            pool.send(worker, (None, seed))
        self.hand_out()

    def hand_out(self) -> None:
        """Give out work until the worker whose turn it is has enough."""
        count = len(self.finished)
        while not all(self.finished):
            while self.finished[self.turn]:
                self.turn = (self.turn + 1) % count
            owed = self.pool.owed[self.turn]
            if owed >= self.pool.prefetch or (owed > 1 and not self.pool.has_room(self.turn)):
                return
            try:
                item = next(self.work)
            except StopIteration:
                return
            self.pool.request(self.turn, item)
            self.order.append(self.turn)
            self.turn = (self.turn + 1) % count

    def __iter__(self) -> Epoch:
        return self

    def __next__(self) -> Any:
        if self.number != self.pool.epoch:
            raise RuntimeError("[DataLoader] expected one iteration at a time with persistent workers, got a newer one")
        while self.order:
            worker = self.order.popleft()
            kind, content = self.pool.receive(worker)
            if kind == "end":
                self.finished[worker] = True
            self.hand_out()
            if kind == "batch":
                return content
            if kind == "error":
                _raise(*content)
            if kind == "unreadable":
                raise content
        if not self.keep:
            self.pool.close()
        raise StopIteration


def _stop(connections: list[Connection], processes: list[Any], owner: int) -> None:
    """Close the pipes, on which idle workers end by themselves, and make sure of the busy ones."""
    for connection in connections:
        connection.close()
    if os.getpid() != owner:  # a forked process collects its copy of the pool
        return
    deadline = time.monotonic() + 2.0
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for ending in ("terminate", "kill"):
        for process in processes:
            if process.is_alive():
                getattr(process, ending)()
                process.join(2.0)


def _raise(packed: bytes | None, text: str) -> None:
    """Raise a worker's exception here, with the worker's traceback as its cause."""
    error: BaseException = RuntimeError(f"[DataLoader] an exception that cannot be pickled, {text}")
    if packed is not None:
        error = pickle.loads(packed)
    raise error from WorkerTraceback(text)
