"""What runs inside a loader's worker process."""

from __future__ import annotations

import contextlib
import pickle
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ..._C import set_num_threads
from ...random import manual_seed
from .fetch import Fetcher, WorkerInfo, become_worker
from .transport import receive, send

__all__ = ["Job", "run_worker"]


@dataclass
class Job:
    """What a worker is started with."""

    fetcher: Fetcher
    id: int
    count: int
    seed: int
    init: Callable[[int], Any] | None
    inherited: Iterable[Connection]  # the parent's ends of the pipes, which a forked child must not keep open


def run_worker(job: Job, connection: Connection) -> None:
    """Serve fetch requests until the parent closes the connection."""
    for end in job.inherited:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to every process of the group; the parent decides
    set_num_threads(1)  # parallel across workers, not inside them
    become_worker(WorkerInfo(job.id, job.count, job.seed, job.fetcher.dataset))
    failure: tuple[bytes | None, str] | None = None
    try:
        _seed(job.seed)
        if job.init is not None:
            job.init(job.id)
    except Exception as error:
        failure = _describe(error, job.id)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            indices, seed = receive(connection)
            if seed is not None:  # a new epoch begins
                ended = False
                if failure is None:
                    try:
                        if seed != job.seed - job.id:  # a kept worker draws what a new one would
                            _seed(seed + job.id)
                        job.fetcher.restart()
                    except Exception as error:
                        failure = _describe(error, job.id)
                continue
            reply: tuple[str, Any]
            if failure is not None:
                reply = ("error", failure)
            elif ended:
                reply = ("end", None)
            else:
                try:
                    reply = ("batch", job.fetcher.fetch(indices))
                except StopIteration:
                    ended = job.fetcher.stream is not None
                    reply = ("end", None)
                except Exception as error:
                    reply = ("error", _describe(error, job.id))
            try:
                send(connection, reply)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # the batch does not pickle
                send(connection, ("error", _describe(error, job.id)))
            del reply
    connection.close()


def _seed(seed: int) -> None:
    random.seed(seed)
    manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def _describe(error: BaseException, worker: int) -> tuple[bytes | None, str]:
    """An exception as bytes, if it survives pickling, and the text of its traceback."""
    text = f"in DataLoader worker process {worker}:\n{''.join(traceback.format_exception(error))}"
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)
    except Exception:
        return None, text
    return packed, text
