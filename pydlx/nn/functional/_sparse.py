"""Looking rows up in a table, singly and in bags."""

from __future__ import annotations

from ..._C import DTypeError, Tensor, _embedding_bag, arange, int32, int64, zeros
from ..._C import embedding as _embedding
from ...autograd import no_grad
from ._distance import _vector_norm

__all__ = ["embedding", "embedding_bag"]


def _checked_padding(op: str, padding_idx: int | None, weight: Tensor) -> int | None:
    rows = int(weight.shape[0])
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"[{op}] padding_idx: expected within {rows} rows, got {padding_idx}")
    return padding_idx % rows


def _renorm(weight: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> None:
    """Shrinks the looked-up rows of ``weight`` in place so that none is longer than ``max_norm``."""
    with no_grad():
        index = indices.reshape(-1)
        rows = weight.detach().index_select(0, index)
        length = _vector_norm(rows, norm_type, 1, keepdim=True)
        weight.detach().index_copy_(0, index, rows * (max_norm / (length + 1e-7)).clamp_max(1.0))


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows ``weight[input]``.

    Args:
        input: integers of any shape.
        weight: shape ``(rows, features)``.
        padding_idx: a row whose gradient stays zero. Default: none.
        max_norm: rows longer than this are first shrunk **in place**. Default: none.
        norm_type: the p of that norm. Default: 2.
        scale_grad_by_freq: divide a row's gradient by how often it was looked up. Default: ``False``.
        sparse: accepted; gradients are dense all the same.

    Returns:
        Shape ``(*input.shape, features)``.
    """
    padding_idx = _checked_padding("embedding", padding_idx, weight)
    if max_norm is not None:
        _renorm(weight, input, max_norm, norm_type)
    return _embedding(input, weight, padding_idx, None, 2.0, scale_grad_by_freq, False)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sum, mean or maximum of the embeddings of each bag of indices.

    Args:
        input: ``(B, n)`` for B bags of equal size, or ``(N,)`` together with ``offsets``.
        weight: shape ``(rows, features)``.
        offsets: where each bag of a 1-d input starts, shape ``(B,)``.
        mode: ``"sum"``, ``"mean"`` or ``"max"``. Default: ``"mean"``.
        per_sample_weights: a factor per index, shaped as ``input``; only with ``"sum"``.
        include_last_offset: ``offsets`` has one entry more, the end of the last bag. Default: ``False``.
        padding_idx: indices to be left out of every bag. Default: none.

    Returns:
        Shape ``(B, features)``; an empty bag gives zeros.
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"[embedding_bag] mode: expected 'sum', 'mean' or 'max', got {mode!r}")
    if per_sample_weights is not None:
        if mode != "sum":
            raise NotImplementedError(f"[embedding_bag] per_sample_weights: expected mode 'sum', got {mode!r}")
        if per_sample_weights.shape != input.shape:
            raise ValueError(
                f"[embedding_bag] per_sample_weights: expected shape {tuple(input.shape)}, "
                f"got {tuple(per_sample_weights.shape)}"
            )
        per_sample_weights = per_sample_weights.reshape(-1)
    if input.ndim == 2:
        if offsets is not None:
            raise ValueError("[embedding_bag] offsets: expected None with a 2-d input, got a tensor")
        if mode != "max" and per_sample_weights is None and padding_idx is None:
            if max_norm is not None:
                _renorm(weight, input, max_norm, norm_type)
            return _embedding_bag(input, weight, mode == "mean", scale_grad_by_freq)
        bags, length = input.shape
        bag_of = arange(bags, device=input.device).repeat_interleave(length)
        input = input.reshape(-1)
    elif input.ndim == 1:
        if offsets is None or offsets.ndim != 1:
            raise ValueError("[embedding_bag] offsets: expected a 1-d tensor with a 1-d input, got none")
        if offsets.dtype not in (int32, int64):
            raise DTypeError(f"[embedding_bag] offsets: expected int32 or int64, got {offsets.dtype}")
        ends = [0, *offsets.tolist(), input.shape[0]]  # the first bag starts at 0, and none ends beyond the input
        if ends[1] != 0 or ends != sorted(ends):
            raise ValueError(
                f"[embedding_bag] offsets: expected 0 first and then numbers that grow up to {input.shape[0]}, "
                f"got {offsets.tolist()}"
            )
        starts = offsets
        if include_last_offset:
            starts, input = offsets[:-1], input[: ends[-2]]
            per_sample_weights = None if per_sample_weights is None else per_sample_weights[: ends[-2]]
        bags = starts.shape[0]
        marks = zeros(input.shape[0] + 1, dtype=starts.dtype, device=input.device)
        bag_of = marks.index_add(0, starts, starts * 0 + 1).cumsum(0)[:-1] - 1
    else:
        raise ValueError(f"[embedding_bag] input: expected 1 or 2 axes, got {input.ndim}")
    padding_idx = _checked_padding("embedding_bag", padding_idx, weight)
    if padding_idx is not None:
        keep = (input != padding_idx).nonzero().squeeze(1)
        input, bag_of = input[keep], bag_of[keep]
        per_sample_weights = None if per_sample_weights is None else per_sample_weights[keep]
    rows = embedding(input, weight, None, max_norm, norm_type, scale_grad_by_freq)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    counts = zeros(bags, dtype=bag_of.dtype, device=input.device).index_add(0, bag_of, bag_of * 0 + 1)
    if mode == "max":
        return _bag_max(rows, bag_of, counts)
    total = zeros(bags, weight.shape[1], dtype=rows.dtype, device=rows.device).index_add(0, bag_of, rows)
    return total / counts.clamp_min(1).to(rows.dtype).unsqueeze(1) if mode == "mean" else total


def _bag_max(rows: Tensor, bag_of: Tensor, counts: Tensor) -> Tensor:
    """Lays the bags out as a padded block and takes the maximum along it."""
    bags, longest = counts.shape[0], int(counts.max()) if counts.numel() else 0
    if longest == 0:
        return zeros(bags, rows.shape[1], dtype=rows.dtype, device=rows.device)
    place = arange(rows.shape[0], device=rows.device) - (counts.cumsum(0) - counts)[bag_of]
    block = zeros(bags, longest, rows.shape[1], dtype=rows.dtype, device=rows.device).fill_(float("-inf"))
    block = block.index_put((bag_of, place), rows)
    return block.max(1)[0].masked_fill((counts == 0).unsqueeze(1), 0.0)
