"""Connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..._C import (
    DTypeError,
    Tensor,
    _ctc_backward,
    _ctc_forward,
    arange,
    cat,
    empty,
    float64,
    full,
    isinf,
    stack,
    where,
    zeros_like,
)
from ..._namespace import tensor
from ...autograd import Function, grad
from ...autograd.grad_mode import is_grad_enabled
from ._reduction import apply as _apply

__all__ = ["ctc_loss"]

# Stands for log 0: far below any sum of log-probabilities, yet finite, so that differences of it stay numbers.
_NEVER = -1e30


def _lengths(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(device=like.device).long().reshape(-1)
    return tensor(list(value) if isinstance(value, Sequence) else [int(value)], device=like.device).long()


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Minus the log-probability of all alignments of the target with the input (Graves et al., 2006).

    The forward variables ``alpha`` over the target interleaved with blanks are advanced one time step at a time, in
    the log domain. The gradient is minus the posterior probability of each symbol at each step.

    Args:
        log_probs: ``(T, N, C)`` or ``(T, C)``, log-probabilities of C symbols.
        targets: ``(N, S)`` padded, or all targets joined in one vector.
        input_lengths, target_lengths: ``(N,)`` tensors or sequences, or numbers for an unbatched input.
        blank: index of the blank symbol. Default: 0.
        reduction: ``"mean"`` divides each loss by its target length, then averages over the batch.
        zero_infinity: count targets that do not fit their input as zero. Default: ``False``.
    """
    if log_probs.ndim not in (2, 3):
        raise ValueError(f"[ctc_loss] log_probs: expected (T, N, C) or (T, C), got shape {tuple(log_probs.shape)}")
    if not log_probs.is_floating_point():
        raise DTypeError(f"[ctc_loss] log_probs: expected a floating dtype, got {log_probs.dtype}")
    probs = log_probs if log_probs.ndim == 3 else log_probs.unsqueeze(1)
    steps, batch, classes = probs.shape
    if not 0 <= blank < classes:
        raise ValueError(f"[ctc_loss] blank: expected within {classes} classes, got {blank}")
    frames, labels = _lengths(input_lengths, probs), _lengths(target_lengths, probs)
    if frames.shape[0] != batch or labels.shape[0] != batch:
        raise ValueError(
            f"[ctc_loss] input_lengths: expected {batch} lengths, got {frames.shape[0]} and {labels.shape[0]}"
        )
    if batch and (int(frames.max()) > steps or int(frames.min()) < 0 or int(labels.min()) < 0):
        raise ValueError(f"[ctc_loss] input_lengths: expected 0 to {steps} frames, got {frames.tolist()}")
    longest = int(labels.max()) if batch else 0
    symbols = _padded(targets, labels, longest, blank)
    wide = probs if probs.dtype == float64 else probs.float()  # 16-bit floats cannot hold the sums of many frames
    loss: Tensor = _Paths.apply(wide, symbols, frames, labels, blank)
    if zero_infinity:
        loss = where(isinf(loss), zeros_like(loss), loss)
    if reduction == "mean":
        loss = (loss / labels.clamp_min(1).to(loss.dtype)).mean()
    else:
        loss = _apply(loss if log_probs.ndim == 3 else loss.squeeze(0), reduction, "ctc_loss")
    return loss.to(log_probs.dtype)


class _Paths(Function):
    """The loss of every sequence. Its gradient is a kernel, too, unless that is to be differentiated again."""

    @staticmethod
    def forward(ctx: Any, probs: Tensor, symbols: Tensor, frames: Tensor, labels: Tensor, blank: int) -> Tensor:
        loss, alpha = _ctc_forward(probs, symbols, frames, labels, blank, ctx.needs_input_grad[0])
        ctx.save_for_backward(probs, symbols, frames, labels, loss, alpha)
        ctx.blank = blank
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        probs, symbols, frames, labels, loss, alpha = ctx.saved_tensors
        if is_grad_enabled():
            again = _composed(probs, symbols, frames, labels, ctx.blank)
            (gradient,) = grad(again, probs, grads[0], create_graph=True)
        else:
            gradient = _ctc_backward(grads[0], probs, symbols, frames, labels, loss, alpha, ctx.blank)
        return gradient, None, None, None, None


def _composed(probs: Tensor, symbols: Tensor, frames: Tensor, labels: Tensor, blank: int) -> Tensor:
    """The loss of every sequence in differentiable operations, one time step of all sequences at a time."""
    (steps, batch, _), longest = probs.shape, symbols.shape[1]
    extended = full((batch, 2 * longest + 1), blank, dtype=symbols.dtype, device=symbols.device)
    extended[:, 1::2] = symbols
    emissions = probs.gather(2, extended.unsqueeze(0).expand(steps, -1, -1))
    # A path may jump over a blank, except between two equal symbols.
    may_skip = zeros_like(extended).bool()
    may_skip[:, 2:] = (extended[:, 2:] != blank) & (extended[:, 2:] != extended[:, :-2])
    never = full((batch, 2), _NEVER, dtype=probs.dtype, device=probs.device)
    places = arange(2 * longest + 1, device=probs.device)
    alpha = where(places < 2, emissions[0], never[:, :1]) if steps else never[:, :1].expand(-1, 2 * longest + 1)
    for t in range(1, steps):
        before = cat([never, alpha], 1)
        skipped = where(may_skip, before[:, :-2], never[:, :1])
        advanced = stack([alpha, before[:, 1:-1], skipped]).logsumexp(0) + emissions[t]
        alpha = where((frames > t).unsqueeze(1), advanced, alpha)
    ends = stack([2 * labels, (2 * labels - 1).clamp_min(0)], 1)
    final = alpha.gather(1, ends)
    one_end = (labels == 0).unsqueeze(1) & (arange(2, device=probs.device) == 1)
    loss = -where(one_end, never, final).logsumexp(1)
    loss = where((frames == 0) & (labels == 0), loss * 0, loss)
    # An impossible target has only paths through log 0; its gradient is zero, its value infinite.
    impossible = (loss > -_NEVER / 2) | ((frames == 0) & (labels > 0))
    return where(impossible, full((), float("inf"), dtype=loss.dtype, device=loss.device), loss)


def _padded(targets: Tensor, labels: Tensor, longest: int, blank: int) -> Tensor:
    """Targets as ``(N, longest)``, with blanks beyond each length."""
    batch = labels.shape[0]
    if longest == 0:
        return empty(batch, 0, dtype=labels.dtype, device=labels.device)
    inside = arange(longest, device=labels.device) < labels.unsqueeze(1)
    if targets.ndim == 2:
        if targets.shape[0] != batch or targets.shape[1] < longest:
            raise ValueError(
                f"[ctc_loss] targets: expected at least ({batch}, {longest}), got shape {tuple(targets.shape)}"
            )
        block = targets[:, :longest].long()
    else:
        if int(labels.sum()) > targets.numel():
            raise ValueError(
                f"[ctc_loss] targets: expected at least {int(labels.sum())} symbols, got {targets.numel()}"
            )
        start = (labels.cumsum(0) - labels).unsqueeze(1)
        place = (start + arange(longest, device=labels.device)).clamp_max(max(targets.numel() - 1, 0))
        block = targets.reshape(-1).long()[place]
    return where(inside, block, full((), blank, dtype=block.dtype, device=block.device))
