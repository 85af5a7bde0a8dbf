"""Sequences of different lengths in one batch: padded or packed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..._C import Tensor, arange, empty_like, full
from ..._namespace import tensor

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class _PackedFields(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_PackedFields):
    """Sequences laid out time step by time step, longest first, without padding.

    Fields:
        data: all elements, ``(total, *)``. batch_sizes: how many sequences reach each step, int64 on the CPU.
        sorted_indices: the order that sorted the sequences by length, or None if they came sorted.
        unsorted_indices: its inverse.

    Made by :func:`pack_padded_sequence` and :func:`pack_sequence`.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Tensor,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        if batch_sizes is None:
            raise ValueError("[PackedSequence] batch_sizes: expected a tensor, got None; use pack_padded_sequence")
        if batch_sizes.device.type != "cpu":
            raise ValueError(f"[PackedSequence] batch_sizes: expected a CPU tensor, got one on {batch_sizes.device}")
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def _with(self, data: Tensor) -> PackedSequence:
        def moved(index: Tensor | None) -> Tensor | None:
            return None if index is None else index.to(data.device)

        return type(self)(data, self.batch_sizes, moved(self.sorted_indices), moved(self.unsorted_indices))

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """Moves or converts the data; the indices follow its device."""
        return self._with(self.data.to(*args, **kwargs))

    def cuda(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """Moves to a CUDA device."""
        return self._with(self.data.cuda(*args, **kwargs))

    def cpu(self) -> PackedSequence:
        """Moves to the CPU."""
        return self._with(self.data.cpu())

    def pin_memory(self) -> PackedSequence:
        """Puts the data into page-locked memory."""
        return self._with(self.data.pin_memory())

    def double(self) -> PackedSequence:
        """Converts to float64."""
        return self._with(self.data.double())

    def float(self) -> PackedSequence:
        """Converts to float32."""
        return self._with(self.data.float())

    def half(self) -> PackedSequence:
        """Converts to float16."""
        return self._with(self.data.half())

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a CUDA device."""
        return bool(self.data.is_cuda)


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes ``permutation``."""
    if permutation is None:
        return None
    places = arange(permutation.numel(), dtype=permutation.dtype, device=permutation.device)
    return empty_like(permutation).scatter_(0, permutation, places)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Packs a padded batch.

    Args:
        input: ``(L, N, *)``, or ``(N, L, *)`` with ``batch_first``.
        lengths: N lengths, each from 1 to L.
        enforce_sorted: demand that the lengths descend; otherwise the sequences are sorted. Default: ``True``.

    Raises:
        ValueError: a length out of range, or not sorted.
    """
    lengths = lengths.to("cpu") if isinstance(lengths, Tensor) else tensor(list(lengths), device="cpu")
    sorted_indices = None
    if not enforce_sorted:
        lengths, order = lengths.sort(descending=True)
        sorted_indices = order.to(input.device)
        input = input.index_select(0 if batch_first else 1, sorted_indices)
    padded = input.transpose(0, 1) if batch_first else input
    counts = [int(n) for n in lengths.tolist()]
    steps, batch = padded.shape[0], padded.shape[1]
    if len(counts) != batch or not counts:
        raise ValueError(f"[pack_padded_sequence] lengths: expected {batch} lengths (at least one), got {len(counts)}")
    if min(counts) < 1 or max(counts) > steps:
        raise ValueError(f"[pack_padded_sequence] lengths: expected 1 to {steps}, got {counts}")
    if any(a < b for a, b in itertools.pairwise(counts)):
        raise ValueError(
            f"[pack_padded_sequence] lengths: expected descending order, got {counts}; pass enforce_sorted=False"
        )
    longest = counts[0]
    present = arange(longest, device="cpu").unsqueeze(1) < lengths.long()
    rows = present.reshape(-1).nonzero().squeeze(1).to(input.device)
    flat = padded[:longest].reshape(longest * batch, *padded.shape[2:])
    return PackedSequence(flat.index_select(0, rows), present.long().sum(1), sorted_indices)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`pack_padded_sequence`.

    Args:
        batch_first: give ``(N, L, *)`` instead of ``(L, N, *)``. Default: ``False``.
        padding_value: fills what lies beyond a sequence. Default: 0.
        total_length: give the padded batch this length, at least the longest sequence's.

    Returns:
        The padded batch and the lengths, in the order the sequences had before packing.
    """
    sizes = sequence.batch_sizes
    longest, batch = sizes.shape[0], int(sizes[0])
    steps = longest if total_length is None else total_length
    if steps < longest:
        raise ValueError(f"[pad_packed_sequence] total_length: expected at least {longest}, got {total_length}")
    data = sequence.data
    present = arange(batch, device="cpu") < sizes.unsqueeze(1)
    rows = present.reshape(-1).nonzero().squeeze(1).to(data.device)
    flat = full((steps * batch, *data.shape[1:]), padding_value, dtype=data.dtype, device=data.device)
    padded = flat.index_copy(0, rows, data).reshape(steps, batch, *data.shape[1:])
    lengths = present.long().sum(0)
    if sequence.unsorted_indices is not None:
        padded = padded.index_select(1, sequence.unsorted_indices)
        lengths = lengths.index_select(0, sequence.unsorted_indices.cpu())
    return (padded.transpose(0, 1) if batch_first else padded), lengths


def pad_sequence(
    sequences: Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Stacks sequences ``(L_i, *)`` into ``(L, N, *)``, or ``(N, L, *)`` with ``batch_first``, padded to the longest.

    Args:
        padding_value: fills the padding. Default: 0.
        padding_side: ``"right"`` (default) or ``"left"``.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"[pad_sequence] padding_side: expected 'left' or 'right', got {padding_side!r}")
    items = list(sequences)
    if not items or not all(isinstance(item, Tensor) for item in items):
        raise ValueError("[pad_sequence] sequences: expected at least one tensor and nothing else")
    rest = items[0].shape[1:]
    if any(item.ndim < 1 or item.shape[1:] != rest for item in items):
        raise ValueError(
            f"[pad_sequence] sequences: expected shapes (length, {', '.join(map(str, rest))}), got "
            + ", ".join(str(tuple(item.shape)) for item in items)
        )
    longest = max(item.shape[0] for item in items)
    first = items[0]
    out = full((len(items), longest, *rest), padding_value, dtype=first.dtype, device=first.device)
    for i, item in enumerate(items):
        start = 0 if padding_side == "right" else longest - item.shape[0]
        out[i, start : start + item.shape[0]] = item
    return out if batch_first else out.transpose(0, 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False) -> list[Tensor]:
    """The sequences of a padded batch, each cut to its length."""
    batch = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [item[: int(n)] for item, n in zip(batch, lengths, strict=True)]


def pack_sequence(sequences: Iterable[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Packs a list of sequences ``(L_i, *)``."""
    items = list(sequences)
    lengths = tensor([item.shape[0] for item in items], device="cpu")
    return pack_padded_sequence(pad_sequence(items), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a packed batch."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
