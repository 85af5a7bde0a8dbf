"""Data sets: things with samples in them."""

from __future__ import annotations

import bisect
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar

from ... import Generator, Tensor, int64, randperm, tensor

__all__ = [
    "ChainDataset",
    "ConcatDataset",
    "Dataset",
    "IterableDataset",
    "StackDataset",
    "Subset",
    "TensorDataset",
    "random_split",
]

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """A map from index to sample: subclasses define ``__getitem__`` and usually ``__len__``.

    A subclass may define ``__getitems__(indices)``, which fetches a batch of samples at once.
    """

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError(f"[{type(self).__name__}] __getitem__: expected the subclass to define it")

    def __add__(self, other: Dataset[Any]) -> ConcatDataset[Any]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co]):
    """A stream of samples: subclasses define ``__iter__``.

    With worker processes every worker iterates a copy of its own; divide the stream with ``get_worker_info()``.
    """

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"[{type(self).__name__}] __iter__: expected the subclass to define it")

    def __add__(self, other: Dataset[Any]) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Samples that are the rows of tensors with one common first size.

    Raises:
        ValueError: no tensors, a tensor without dimensions, or different first sizes.
    """

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors:
            raise ValueError("[TensorDataset] tensors: expected at least one, got none")
        for i, t in enumerate(tensors):
            if t.ndim == 0 or t.shape[0] != tensors[0].shape[0]:
                raise ValueError(
                    f"[TensorDataset] tensors[{i}]: expected the first size of all tensors to be equal, "
                    f"got shapes {[tuple(t.shape) for t in tensors]}"
                )
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])

    def collated_batch(self, indices: Sequence[int]) -> list[Tensor]:
        """What collating the samples at ``indices`` gives, gathered in one operation per tensor."""
        count = len(self)
        # Wraps negative indices as single access does; anything else out of range fails inside the gather.
        picks = tensor([i + count if i < 0 else i for i in indices], dtype=int64, device="cpu")
        return [t.index_select(0, picks.to(t.device)) for t in self.tensors]


class StackDataset(Dataset[Any]):
    """Samples zipped from several data sets: tuples from positional, dicts from keyword arguments."""

    def __init__(self, *args: Dataset[Any], **kwargs: Dataset[Any]) -> None:
        if bool(args) == bool(kwargs):
            raise ValueError(
                "[StackDataset] datasets: expected only positional or only keyword arguments, and at least one"
            )
        self.datasets: Any = args or kwargs
        lengths = {len(d) for d in (args or kwargs.values())}  # type: ignore[arg-type]
        if len(lengths) != 1:
            raise ValueError(f"[StackDataset] datasets: expected equal lengths, got {sorted(lengths)}")
        self._length = lengths.pop()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {key: d[index] for key, d in self.datasets.items()}
        return tuple(d[index] for d in self.datasets)

    def __len__(self) -> int:
        return int(self._length)


class ConcatDataset(Dataset[T_co]):
    """Several data sets, one after the other.

    Attributes:
        datasets: the parts. cumulative_sizes: where each part ends.
    """

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("[ConcatDataset] datasets: expected at least one, got none")
        for i, d in enumerate(self.datasets):
            if isinstance(d, IterableDataset):
                raise TypeError(f"[ConcatDataset] datasets[{i}]: expected an indexed data set, got an IterableDataset")
        self.cumulative_sizes = list(accumulate(len(d) for d in self.datasets))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> T_co:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"[ConcatDataset] index: expected one in [{-len(self)}, {len(self)}), got {index}")
        part = bisect.bisect_right(self.cumulative_sizes, position)
        start = self.cumulative_sizes[part - 1] if part else 0
        sample: T_co = self.datasets[part][position - start]
        return sample


class ChainDataset(IterableDataset[Any]):
    """Several streams, one after the other."""

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = datasets

    def __iter__(self) -> Iterator[Any]:
        for i, d in enumerate(self.datasets):
            if not isinstance(d, IterableDataset):
                raise TypeError(f"[ChainDataset] datasets[{i}]: expected an IterableDataset, got {type(d).__name__}")
            yield from d

    def __len__(self) -> int:
        return sum(len(d) for d in self.datasets)  # type: ignore[arg-type, misc]


class Subset(Dataset[T_co]):
    """The samples of ``dataset`` at ``indices``."""

    def __init__(self, dataset: Dataset[T_co], indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: Any) -> T_co:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: list[int]) -> list[T_co]:
        inner = [self.indices[i] for i in indices]
        fetch = getattr(self.dataset, "__getitems__", None)
        return fetch(inner) if callable(fetch) else [self.dataset[i] for i in inner]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(
    dataset: Dataset[T_co], lengths: Sequence[int | float], generator: Generator | None = None
) -> list[Subset[T_co]]:
    """Cut a data set into random parts without overlap.

    Args:
        dataset: what to cut. lengths: sizes that add up to its length, or fractions that add up to 1, where the
            samples left over by rounding down go to the first parts, one each. generator: source of randomness.

    Raises:
        ValueError: lengths that do not add up, or a fraction outside [0, 1].
    """
    total = len(dataset)  # type: ignore[arg-type]
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        sizes = []
        for i, fraction in enumerate(lengths):
            if not 0 <= fraction <= 1:
                raise ValueError(f"[random_split] lengths[{i}]: expected a fraction in [0, 1], got {fraction}")
            sizes.append(math.floor(total * fraction))
        for i in range(total - sum(sizes)):
            sizes[i % len(sizes)] += 1
        for i, size in enumerate(sizes):
            if size == 0:
                warnings.warn(
                    f"[random_split] lengths[{i}]: expected at least one sample, got an empty part", stacklevel=2
                )
    else:
        sizes = [int(n) for n in lengths]
    if sum(sizes) != total or any(size < 0 for size in sizes):
        raise ValueError(f"[random_split] lengths: expected sizes that add up to {total}, got {list(lengths)}")
    order = randperm(total, generator=generator).tolist()
    ends = accumulate(sizes)
    return [Subset(dataset, order[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
