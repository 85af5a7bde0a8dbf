"""Losses. ``size_average`` and ``reduce`` are the older way to choose ``reduction``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

from ..._C import Tensor, linear, logsigmoid, where, zeros_like
from ..._C import binary_cross_entropy as _binary_cross_entropy
from ..._C import binary_cross_entropy_with_logits as _binary_cross_entropy_with_logits
from ..._C import cross_entropy as _cross_entropy
from ..._C import huber_loss as _huber_loss
from ..._C import kl_div as _kl_div
from ..._C import l1_loss as _l1_loss
from ..._C import linear_cross_entropy as _linear_cross_entropy
from ..._C import mse_loss as _mse_loss
from ..._C import nll_loss as _nll_loss
from ..._C import smooth_l1_loss as _smooth_l1_loss
from ...autograd import no_grad
from ._distance import pairwise_distance
from ._reduction import apply as _apply
from ._reduction import choose as _choose

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "linear_cross_entropy",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def _warn_if_broadcast(op: str, input: Tensor, target: Tensor) -> None:
    if target.shape != input.shape:
        warnings.warn(
            f"[{op}] target: expected shape {tuple(input.shape)}, got {tuple(target.shape)}; they are broadcast, which "
            "is rarely meant in a loss",
            stacklevel=3,
        )


def _weighted(loss: Tensor, weight: Tensor, reduction: str, op: str) -> Tensor:
    """The weighted mean divides by the sum of the weights."""
    loss = loss * weight
    if reduction == "mean":
        return loss.sum() / weight.expand_as(loss).sum()
    return _apply(loss, reduction, op)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """``(x - y) ** 2``, reduced."""
    _warn_if_broadcast("mse_loss", input, target)
    reduction = _choose(size_average, reduce, reduction)
    if weight is not None:
        return _weighted(_mse_loss(input, target, reduction="none"), weight, reduction, "mse_loss")
    return _mse_loss(input, target, reduction=reduction)


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """``|x - y|``, reduced."""
    _warn_if_broadcast("l1_loss", input, target)
    reduction = _choose(size_average, reduce, reduction)
    if weight is not None:
        return _weighted(_l1_loss(input, target, reduction="none"), weight, reduction, "l1_loss")
    return _l1_loss(input, target, reduction=reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """``d ** 2 / (2 * beta)`` where ``d = |x - y| < beta``, else ``d - beta / 2`` (Girshick, 2015)."""
    _warn_if_broadcast("smooth_l1_loss", input, target)
    reduction = _choose(size_average, reduce, reduction)
    if beta == 0.0:
        return _l1_loss(input, target, reduction=reduction)
    return _smooth_l1_loss(input, target, reduction=reduction, beta=beta)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """``d ** 2 / 2`` where ``d = |x - y| < delta``, else ``delta * (d - delta / 2)`` (Huber, 1964)."""
    _warn_if_broadcast("huber_loss", input, target)
    if weight is not None:
        return _weighted(_huber_loss(input, target, reduction="none", delta=delta), weight, reduction, "huber_loss")
    return _huber_loss(input, target, reduction=reduction, delta=delta)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``-log softmax(x)[y]``.

    Args:
        input: logits ``(N, C)``, ``(C,)`` or ``(N, C, d1, ...)``.
        target: class indices ``(N,)`` or ``(N, d1, ...)``, or class probabilities shaped as ``input``.
        weight: a factor per class, shape ``(C,)``.
        ignore_index: a class index that contributes nothing. Default: -100.
        reduction: ``"none"``, ``"mean"`` (weighted by ``weight``) or ``"sum"``. Default: ``"mean"``.
        label_smoothing: share of the target spread evenly over all classes. Default: 0.
    """
    if size_average is not None or reduce is not None:
        reduction = _choose(size_average, reduce, reduction)
    return _cross_entropy(
        input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
) -> Tensor:
    """``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)`` without ever holding all the logits.

    Args:
        input: ``(N, features)``. linear_weight: ``(C, features)``. linear_bias: ``(C,)``.
        target: class indices ``(N,)``; class probabilities and ``weight`` are served by the two functions in turn.
        ignore_index: Default: None, which stands for -100.
        options: accepted; the block of rows is chosen from the sizes.
    """
    ignored = -100 if ignore_index is None else ignore_index
    if weight is None and input.ndim == 2 and target.ndim == 1 and reduction in ("mean", "sum"):
        return _linear_cross_entropy(
            input,
            linear_weight,
            target,
            linear_bias,
            ignore_index=ignored,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    logits = linear(input, linear_weight, linear_bias)
    return cross_entropy(
        logits, target, weight, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing
    )


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``-x[y]`` for log-probabilities x; shapes and arguments as in :func:`cross_entropy`."""
    reduction = _choose(size_average, reduce, reduction)
    return _nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``-(y log x + (1 - y) log(1 - x))`` for probabilities x, with the logarithms bounded below by -100."""
    reduction = _choose(size_average, reduce, reduction)
    return _binary_cross_entropy(input, target, weight, reduction=reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of ``sigmoid(x)``, without overflow; ``pos_weight`` multiplies the positive term."""
    reduction = _choose(size_average, reduce, reduction)
    return _binary_cross_entropy_with_logits(input, target, weight, reduction=reduction, pos_weight=pos_weight)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """``y * (log y - x)`` for log-probabilities x; ``log_target`` says that y is given as a logarithm too.

    ``reduction="batchmean"`` divides the sum by the first axis, which is the mathematical definition; ``"mean"``
    divides by all elements.
    """
    reduction = _choose(size_average, reduce, reduction)
    if reduction == "batchmean":
        total = _kl_div(input, target, reduction="sum", log_target=log_target)
        return total / input.shape[0] if input.ndim else total
    return _kl_div(input, target, reduction=reduction, log_target=log_target)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of counts y: ``exp(x) - y x``, or ``x - y log(x + eps)`` without ``log_input``.

    ``full`` adds Stirling's approximation of ``log y!`` where y > 1.
    """
    loss = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        safe = target.clamp_min(1.0)
        stirling = safe * safe.log() - safe + 0.5 * (2 * math.pi * safe).log()
        loss = loss + where(target > 1, stirling, stirling * 0)
    return _apply(loss, _choose(size_average, reduce, reduction), "poisson_nll_loss")


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """``(log v + (x - y) ** 2 / v) / 2`` with ``v = max(var, eps)``; ``full`` adds ``log(2 pi) / 2``.

    Args:
        var: variances: a number, the shape of ``input``, or that shape with a last axis of 1 or none.

    Raises:
        ValueError: a negative variance, or a shape that fits neither form.
    """
    if not isinstance(var, Tensor):
        if var < 0:
            raise ValueError(f"[gaussian_nll_loss] var: expected no negative variance, got {var}")
        var = zeros_like(input).fill_(var)
    if var.shape != input.shape:
        if input.shape[:-1] == var.shape:
            var = var.unsqueeze(-1)
        elif not (input.ndim == var.ndim and input.shape[:-1] == var.shape[:-1] and var.shape[-1] == 1):
            raise ValueError(f"[gaussian_nll_loss] var: expected shape {tuple(input.shape)}, got {tuple(var.shape)}")
    if bool((var < 0).any()):
        raise ValueError("[gaussian_nll_loss] var: expected no negative variance, got one")
    var = var.clone()
    with no_grad():  # the bound is not differentiated: a clipped variance still receives its gradient
        var.clamp_(min=eps)
    loss = 0.5 * (var.log() + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _apply(loss, reduction, "gaussian_nll_loss")


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """x where y = 1 and ``max(0, margin - x)`` where y = -1."""
    apart = where(target != 1, (margin - input).clamp_min(0.0), zeros_like(input))
    together = where(target != -1, input, zeros_like(input))
    return _apply(apart + together, _choose(size_average, reduce, reduction), "hinge_embedding_loss")


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``max(0, -y * (x1 - x2) + margin)`` for y = 1 (x1 should rank higher) or -1."""
    if not input1.ndim == input2.ndim == target.ndim:
        raise ValueError(
            "[margin_ranking_loss] target: expected as many axes as the inputs, got shapes "
            f"{tuple(input1.shape)}, {tuple(input2.shape)}, {tuple(target.shape)}"
        )
    loss = (-target * (input1 - input2) + margin).clamp_min(0.0)
    return _apply(loss, _choose(size_average, reduce, reduction), "margin_ranking_loss")


def _rows(input: Tensor, op: str) -> Tensor:
    if input.ndim not in (1, 2):
        raise ValueError(f"[{op}] input: expected (C,) or (N, C), got shape {tuple(input.shape)}")
    return input if input.ndim == 2 else input.unsqueeze(0)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``sum over i != y of w[y] * max(0, margin - x[y] + x[i]) ** p / C`` with p = 1 or 2."""
    if p not in (1, 2):
        raise ValueError(f"[multi_margin_loss] p: expected 1 or 2, got {p}")
    x, y = _rows(input, "multi_margin_loss"), target.reshape(-1, 1)
    if y.shape[0] != x.shape[0]:
        raise ValueError(f"[multi_margin_loss] target: expected {x.shape[0]} classes, got {y.shape[0]}")
    hinge = (margin - x.gather(1, y) + x).clamp_min(0.0)
    hinge = hinge * hinge if p == 2 else hinge
    if weight is not None:
        hinge = hinge * weight[y]
    loss = hinge.scatter(1, y, 0.0).sum(1) / x.shape[1]
    loss = loss if input.ndim == 2 else loss.squeeze(0)
    return _apply(loss, _choose(size_average, reduce, reduction), "multi_margin_loss")


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``sum over labels j and other classes i of max(0, 1 - (x[y[j]] - x[i])) / C``.

    Args:
        target: class indices shaped as ``input``; those before the first -1 are the labels of the sample.
    """
    if input.shape != target.shape:
        raise ValueError(
            f"[multilabel_margin_loss] target: expected shape {tuple(input.shape)}, got {tuple(target.shape)}"
        )
    x, y = _rows(input, "multilabel_margin_loss"), target.reshape(-1, target.shape[-1])
    valid = (y < 0).cumsum(1) == 0
    index = where(valid, y, zeros_like(y))
    is_label = zeros_like(y).scatter_add(1, index, valid.to(y.dtype)) > 0
    hinge = (1 - x.gather(1, index).unsqueeze(2) + x.unsqueeze(1)).clamp_min(0.0)
    counted = valid.unsqueeze(2) & ~is_label.unsqueeze(1)
    loss = where(counted, hinge, zeros_like(hinge)).sum((1, 2)) / x.shape[1]
    loss = loss if input.ndim == 2 else loss.squeeze(0)
    return _apply(loss, _choose(size_average, reduce, reduction), "multilabel_margin_loss")


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean over the classes of ``-(y log sigmoid(x) + (1 - y) log sigmoid(-x))``."""
    loss = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    if weight is not None:
        loss = loss * weight
    return _apply(loss.mean(-1), _choose(size_average, reduce, reduction), "multilabel_soft_margin_loss")


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``log(1 + exp(-y x))`` for y = 1 or -1."""
    loss = -logsigmoid(target * input)
    return _apply(loss, _choose(size_average, reduce, reduction), "soft_margin_loss")


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``1 - cos(x1, x2)`` where y = 1 and ``max(0, cos(x1, x2) - margin)`` where y = -1."""
    if target.ndim + 1 != max(input1.ndim, input2.ndim) or input1.ndim not in (1, 2):
        raise ValueError(
            "[cosine_embedding_loss] target: expected inputs (N, D) with target (N,) or (D,) with (), got shapes "
            f"{tuple(input1.shape)}, {tuple(input2.shape)}, {tuple(target.shape)}"
        )
    tiny = 1e-12  # keeps the gradient of a zero vector finite
    lengths = ((input1 * input1).sum(-1) + tiny) * ((input2 * input2).sum(-1) + tiny)
    cos = (input1 * input2).sum(-1) / lengths.sqrt()
    zero = zeros_like(cos)
    loss = where(target == 1, 1 - cos, zero) + where(target == -1, (cos - margin).clamp_min(0.0), zero)
    return _apply(loss, _choose(size_average, reduce, reduction), "cosine_embedding_loss")


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``max(0, d(a, p) - d(a, n) + margin)`` with the p-norm distance; ``swap`` also considers ``d(p, n)``."""
    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=lambda a, b: pairwise_distance(a, b, p, eps),
        margin=margin,
        swap=swap,
        reduction=_choose(size_average, reduce, reduction),
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """``max(0, d(a, p) - d(a, n) + margin)`` with any distance (Schroff et al., 2015)."""
    if margin <= 0:
        raise ValueError(f"[triplet_margin_loss] margin: expected a positive number, got {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise ValueError(
            "[triplet_margin_loss] anchor: expected three inputs with equally many axes, got shapes "
            f"{tuple(anchor.shape)}, {tuple(positive.shape)}, {tuple(negative.shape)}"
        )
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = far.minimum(distance(positive, negative))
    return _apply((margin + near - far).clamp_min(0.0), reduction, "triplet_margin_loss")
