"""The data loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ... import Generator, Tensor
from ...random import get_rng_state, set_rng_state
from .collate import default_collate, default_convert
from .dataset import Dataset, IterableDataset
from .fetch import Fetcher
from .sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler, fresh_seed

if TYPE_CHECKING:
    from ._processes import WorkerPool

__all__ = ["DataLoader"]


class _Endless(Sampler[Any]):
    """Stands for the indices of a stream, which has none."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield None


class DataLoader:
    """Iterates over a data set in batches, in this process or in worker processes.

    Args:
        dataset: a map-style or iterable data set. batch_size: samples per batch, None for single samples.
        shuffle: a new random order every epoch. sampler: an own order of indices. batch_sampler: an own order of lists
            of indices. num_workers: worker processes, 0 to load here. collate_fn: makes a batch of a list of samples.
        pin_memory: put batches in page-locked memory when there is a GPU. drop_last: leave out a smaller last batch.
        timeout: seconds to wait for a worker's batch, 0 for ever. worker_init_fn: called with the worker's number in
            each worker. multiprocessing_context: a start method or context, by default Python's: on Linux "fork", from
            Python 3.14 on "forkserver", for which data set and functions must pickle. generator: source of randomness
            for the order and the workers' seeds. prefetch_factor: batches under way per worker, 2 by default.
        persistent_workers: keep the workers between epochs. pin_memory_device: accepted for compatibility.
        in_order: accepted; the order is always that of the sampler.

    The order depends on the generator alone, never on the number or speed of the workers. Exceptions in workers are
    raised here with the worker's traceback as their cause; a killed worker raises RuntimeError at once.
    ``state_dict`` and ``load_state_dict`` resume in the middle of an epoch.

    Raises:
        ValueError: options that exclude each other or are out of range. TypeError, when iterated: workers that are not
            forked would get something that does not pickle.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers, multiprocessing_context)
        streams = isinstance(dataset, IterableDataset)
        if streams and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError(
                "[DataLoader] dataset: expected one with indices when shuffle, sampler or batch_sampler is given, "
                "got an IterableDataset; shuffle inside the data set"
            )
        if sampler is not None and shuffle:
            raise ValueError("[DataLoader] sampler: expected shuffle=False beside a sampler, got shuffle=True")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "[DataLoader] batch_sampler: expected no batch_size, shuffle, sampler or drop_last beside it"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError("[DataLoader] drop_last: expected False without batches (batch_size=None), got True")
        if batch_size is not None and (
            isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
        ):
            raise ValueError(f"[DataLoader] batch_size: expected an integer > 0 or None, got {batch_size!r}")

        if sampler is None:
            if streams:
                sampler = _Endless()
            elif shuffle:
                sampler = RandomSampler(dataset, generator=generator)  # type: ignore[arg-type]
            else:
                sampler = SequentialSampler(dataset)  # type: ignore[arg-type]
        if batch_sampler is None and batch_size is not None and not streams:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset = dataset
        self.batch_size = batch_size
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.drop_last = drop_last
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.generator: Any = generator
        self.prefetch_factor = 2 if prefetch_factor is None and num_workers > 0 else prefetch_factor
        self.persistent_workers = persistent_workers
        self.in_order = in_order
        self._batched = batch_sampler is not None or batch_size is not None
        self.collate_fn = (
            collate_fn if collate_fn is not None else default_collate if self._batched else default_convert
        )
        self._streams = streams
        self._pool: WorkerPool | None = None
        self._position = 0
        self._epoch_rng: Any = None
        self._resume: dict[str, Any] | None = None

    def __len__(self) -> int:
        if self._streams:
            count = len(self.dataset)  # type: ignore[arg-type]
            if self.batch_size is None:
                return count
            return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
        return len(self._index_sampler)

    @property
    def _index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def _rng_state(self) -> Tensor:
        return get_rng_state() if self.generator is None else self.generator.get_state()

    def _set_rng_state(self, state: Tensor) -> None:
        if self.generator is None:
            set_rng_state(state)
        else:
            self.generator.set_state(state)

    def __iter__(self) -> Iterator[Any]:
        resume, self._resume = self._resume, None
        if resume is None:
            self._epoch_rng, self._position = self._rng_state(), 0
            seed = fresh_seed(self.generator)
            return self._run(iter(self._index_sampler), seed, 0)
        # Replay the random draws with which the interrupted epoch began. The global generator is put back afterwards,
        # because its state belongs to the training loop; an own generator stands where it stood then.
        skip = int(resume["position"])
        before = self._rng_state()
        self._epoch_rng, self._position = resume["rng"].clone(), skip
        self._set_rng_state(resume["rng"])
        seed = fresh_seed(self.generator)
        work = iter(self._index_sampler)
        if not self._streams:
            for _ in range(skip):
                next(work, None)
        if self.generator is None:
            set_rng_state(before)
        return self._run(work, seed, skip if self._streams else 0)

    def _run(self, work: Iterator[Any], seed: int, discard: int) -> Iterator[Any]:
        fetcher = Fetcher(self.dataset, self.collate_fn, self.batch_size, self._batched, self.drop_last)
        if self.num_workers == 0:
            fetcher.restart()
            return _LoaderIterator(self, _Batches(fetcher, work), discard)
        from ._processes import WorkerPool  # multiprocessing takes longer to import than the rest of this package

        pool = self._pool
        if pool is None or not pool.alive:
            pool = WorkerPool(
                fetcher,
                self.num_workers,
                self.prefetch_factor or 2,
                seed,
                self.worker_init_fn,
                self.timeout,
                self.multiprocessing_context,
            )
            if self.persistent_workers:
                self._pool = pool
        return _LoaderIterator(self, pool.batches(work, seed, self.persistent_workers), discard)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands in its epoch, to be saved with the training state.

        Returns:
            ``{"position": batches given out, "rng": the generator's state when the epoch began}``.
        """
        rng = self._rng_state() if self._epoch_rng is None else self._epoch_rng
        return {"position": self._position, "rng": rng}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next iteration continue where ``state_dict`` was taken: same order, past batches skipped."""
        if not {"position", "rng"} <= state_dict.keys():
            raise ValueError(f"[DataLoader.load_state_dict] expected 'position' and 'rng', got keys {list(state_dict)}")
        self._resume = dict(state_dict)
        self._position, self._epoch_rng = int(state_dict["position"]), state_dict["rng"]


class _LoaderIterator:
    """One pass over the loader."""

    def __init__(self, loader: DataLoader, batches: Iterator[Any], discard: int) -> None:
        self._loader, self._batches = loader, batches
        for _ in range(discard):
            next(batches, None)

    def __iter__(self) -> _LoaderIterator:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._batches)
        except StopIteration:
            self._loader._position, self._loader._epoch_rng = 0, None
            raise
        self._loader._position += 1
        return _pin(batch) if self._loader.pin_memory else batch

    def __len__(self) -> int:
        return len(self._loader)


class _Batches:
    """The batches of one epoch; unlike a generator it goes on after an exception from the data set."""

    def __init__(self, fetcher: Fetcher, work: Iterator[Any]) -> None:
        self._fetcher, self._work = fetcher, work

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
        return self._fetcher.fetch(next(self._work))


def _pin(batch: Any) -> Any:
    """Page-lock the tensors in a batch, where there is a GPU to copy them to."""
    from ... import cuda

    if not cuda.is_available():
        return batch
    if isinstance(batch, Tensor):
        return batch.pin_memory()
    if isinstance(batch, dict):
        return {key: _pin(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_pin(value) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(_pin(value) for value in batch)
    return batch.pin_memory() if hasattr(batch, "pin_memory") else batch


def _check_workers(count: Any, timeout: Any, prefetch: Any, persistent: bool, context: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f"[DataLoader] num_workers: expected an integer >= 0, got {count!r}")
    if not timeout >= 0:
        raise ValueError(f"[DataLoader] timeout: expected seconds >= 0, got {timeout!r}")
    if count == 0:
        if prefetch is not None:
            raise ValueError(
                f"[DataLoader] prefetch_factor: expected None without workers, got {prefetch}; set num_workers > 0"
            )
        if persistent:
            raise ValueError(
                "[DataLoader] persistent_workers: expected False without workers, got True; set num_workers > 0"
            )
        if context is not None:
            raise ValueError("[DataLoader] multiprocessing_context: expected None without workers; set num_workers > 0")
        if timeout != 0:
            raise ValueError(f"[DataLoader] timeout: expected 0 without workers, got {timeout}; set num_workers > 0")
    elif prefetch is not None and (not isinstance(prefetch, int) or prefetch < 1):
        raise ValueError(f"[DataLoader] prefetch_factor: expected an integer > 0, got {prefetch!r}")
