"""Fetching batches from a data set, in this process or in a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .collate import default_collate
from .dataset import IterableDataset, TensorDataset

__all__ = ["Fetcher", "WorkerInfo", "become_worker", "get_worker_info"]


class WorkerInfo(NamedTuple):
    """Who a worker is: ``id`` in [0, ``num_workers``), its ``seed``, and its copy of the ``dataset``."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """Inside a worker process, which worker it is; None in the main process."""
    return _info


def become_worker(info: WorkerInfo) -> None:
    """Note that this process is a worker."""
    global _info
    _info = info


class Fetcher:
    """Turns a group of indices, or the next part of a stream, into a batch.

    Args:
        dataset: what to read. collate: makes a batch of samples, or converts one sample. batch_size: samples taken from
            a stream per batch. batched: whether there are batches at all. drop_last: leave out a stream's last part.
    """

    def __init__(
        self, dataset: Any, collate: Callable[[Any], Any], batch_size: int | None, batched: bool, drop_last: bool
    ) -> None:
        self.dataset, self.collate, self.batch_size = dataset, collate, batch_size
        self.batched, self.drop_last = batched, drop_last
        self.stream: Any = None
        # Rows of tensors can be gathered in one operation; the result is what collating the samples would give.
        self.gathers = type(dataset) is TensorDataset and collate is default_collate

    def restart(self) -> None:
        """Begin the stream again."""
        self.stream = iter(self.dataset) if isinstance(self.dataset, IterableDataset) else None

    def fetch(self, indices: Any) -> Any:
        """The batch at ``indices`` (ignored for a stream); StopIteration at a stream's end."""
        if self.stream is not None:
            return self._next_of_stream()
        if not self.batched:
            return self.collate(self.dataset[indices])
        if self.gathers:
            return self.dataset.collated_batch(indices)
        fetch_many = getattr(self.dataset, "__getitems__", None)
        samples = fetch_many(indices) if callable(fetch_many) else [self.dataset[i] for i in indices]
        return self.collate(samples)

    def _next_of_stream(self) -> Any:
        if not self.batched:
            return self.collate(next(self.stream))
        samples = []
        for sample in self.stream:
            samples.append(sample)
            if len(samples) == self.batch_size:
                break
        if not samples or (self.drop_last and len(samples) < (self.batch_size or 0)):
            raise StopIteration
        return self.collate(samples)
