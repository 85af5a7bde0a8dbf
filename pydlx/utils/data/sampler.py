"""Samplers: the order in which a loader visits its data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Generic, TypeVar

from ... import Generator, Tensor, as_tensor, float64, int64, multinomial, randint, randperm

__all__ = [
    "BatchSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
    "fresh_seed",
]

T_co = TypeVar("T_co", covariant=True)


def fresh_seed(generator: Generator | None = None) -> int:
    """A seed drawn from a generator, by default the global one, so that ``manual_seed`` governs it."""
    return int(randint(0, 2**63 - 1, (), dtype=int64, generator=generator).item())


class Sampler(Generic[T_co]):
    """Base class: subclasses define ``__iter__`` over indices, or lists of them, and ``__len__`` if they know it."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"[{type(self).__name__}] __iter__: expected the subclass to define it")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, ..."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """A new random order every epoch.

    Args:
        data_source: what is sampled. replacement: draw independently. num_samples: how many, by default all; more than
            there are gives several permutations in a row. generator: source of randomness; without one, every epoch is
            seeded from the global generator.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        if not isinstance(replacement, bool):
            raise TypeError(f"[RandomSampler] replacement: expected a bool, got {type(replacement).__name__}")
        if num_samples is not None and (
            isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples <= 0
        ):
            raise ValueError(f"[RandomSampler] num_samples: expected an integer > 0, got {num_samples!r}")
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator

    @property
    def num_samples(self) -> int:
        """Indices per epoch; the data set may grow between epochs."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        count, left = len(self.data_source), self.num_samples
        generator = self.generator
        if generator is None:
            generator = Generator()
            generator.manual_seed(fresh_seed())
        if self.replacement:
            while left > 0:
                yield from randint(0, count, (min(left, 4096),), dtype=int64, generator=generator).tolist()
                left -= 4096
        else:
            while left > 0 and count > 0:
                yield from islice(randperm(count, generator=generator).tolist(), left)
                left -= count

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given indices in a new random order every epoch."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        for i in randperm(len(self.indices), generator=self.generator).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Index i with a probability proportional to ``weights[i]``.

    Raises:
        ValueError: a negative, infinite or NaN weight, weights that are all zero, or fewer positive weights than
            samples when drawing without replacement.
    """

    def __init__(
        self,
        weights: Sequence[float] | Tensor,
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        op = "WeightedRandomSampler"
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples <= 0:
            raise ValueError(f"[{op}] num_samples: expected an integer > 0, got {num_samples!r}")
        if not isinstance(replacement, bool):
            raise ValueError(f"[{op}] replacement: expected a bool, got {replacement!r}")
        values = as_tensor(weights, dtype=float64)
        if values.ndim != 1:
            raise ValueError(f"[{op}] weights: expected one dimension, got shape {tuple(values.shape)}")
        if not bool(((values >= 0) & (values < float("inf"))).all()) or not bool((values > 0).any()):
            raise ValueError(f"[{op}] weights: expected finite numbers >= 0 with at least one > 0")
        if not replacement and int((values > 0).sum()) < num_samples:
            raise ValueError(
                f"[{op}] num_samples: expected at most {int((values > 0).sum())} (the positive weights) without "
                f"replacement, got {num_samples}"
            )
        self.weights = values
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        return iter(multinomial(self.weights, self.num_samples, self.replacement, generator=self.generator).tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Groups of ``batch_size`` indices of another sampler; ``drop_last`` leaves out a last group that is smaller."""

    def __init__(self, sampler: Sampler[int] | Iterable[int], batch_size: int, drop_last: bool) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size <= 0:
            raise ValueError(f"[BatchSampler] batch_size: expected an integer > 0, got {batch_size!r}")
        if not isinstance(drop_last, bool):
            raise ValueError(f"[BatchSampler] drop_last: expected a bool, got {drop_last!r}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        indices: Any = iter(self.sampler)
        while batch := list(islice(indices, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield batch

    def __len__(self) -> int:
        count = len(self.sampler)  # type: ignore[arg-type]
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
