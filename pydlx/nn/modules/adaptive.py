"""Softmax over a great many classes of very different frequency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..._C import Tensor, cat
from .. import functional as F
from ._checks import require_integers, require_numbers
from .container import ModuleList, Sequential
from .linear import Linear
from .module import Module

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class _Result(NamedTuple):
    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """Log-softmax in two levels: frequent classes and one entry per cluster of rare ones (Grave et al., 2017).

    Args:
        in_features: features of the input.
        n_classes: classes, numbered by falling frequency.
        cutoffs: first class of every cluster, increasing; classes below the first form the head.
        div_value: cluster i works in ``in_features / div_value ** (i + 1)`` dimensions. Default: 4.
        head_bias: biases in the head. Default: ``False``.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        require_integers(self, in_features=in_features, n_classes=n_classes)
        require_numbers(self, div_value=div_value)
        for i, cutoff in enumerate(cutoffs):
            require_integers(self, **{f"cutoffs[{i}]": cutoff})
        bounds = [int(c) for c in cutoffs]
        if not bounds or bounds != sorted(set(bounds)) or bounds[0] <= 0 or bounds[-1] > n_classes - 1:
            raise ValueError(
                "[AdaptiveLogSoftmaxWithLoss] cutoffs: expected different increasing integers from 1 to "
                f"{n_classes - 1}, got {list(cutoffs)}"
            )
        factory = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*bounds, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, **factory)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            hidden = int(in_features // div_value ** (i + 1))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                Sequential(
                    Linear(in_features, hidden, bias=False, **factory), Linear(hidden, size, bias=False, **factory)
                )
            )

    def reset_parameters(self) -> None:
        """Draws new values."""
        self.head.reset_parameters()
        for first, second in self.tail:
            first.reset_parameters()
            second.reset_parameters()

    def forward(self, input: Tensor, target: Tensor) -> _Result:
        """``(N, in_features)`` and classes ``(N,)`` (or both without N) to their log-probabilities and mean loss."""
        if input.ndim != target.ndim + 1 or target.ndim > 1 or input.shape[:-1] != target.shape:
            raise RuntimeError(
                "[AdaptiveLogSoftmaxWithLoss] target: expected (N,) for an input (N, in_features), got shapes "
                f"{tuple(target.shape)} and {tuple(input.shape)}"
            )
        rows, classes = (input, target) if target.ndim else (input.unsqueeze(0), target.unsqueeze(0))
        if classes.numel() and not (int(classes.min()) >= 0 and int(classes.max()) < self.n_classes):
            raise RuntimeError(
                f"[AdaptiveLogSoftmaxWithLoss] target: expected 0 to {self.n_classes - 1}, got "
                f"{int(classes.min())} to {int(classes.max())}"
            )
        head = F.log_softmax(self.head(rows), dim=1)
        entry = classes.clone()  # the place in the head: the class itself or its cluster
        output = rows.new_zeros(classes.shape[0])
        for i in range(self.n_clusters):
            low, high = self.cutoffs[i], self.cutoffs[i + 1]
            chosen = ((classes >= low) & (classes < high)).nonzero().squeeze(1)
            if chosen.numel():
                entry[chosen] = self.shortlist_size + i
                inside = F.log_softmax(self.tail[i](rows.index_select(0, chosen)), dim=1)
                picked = inside.gather(1, (classes[chosen] - low).unsqueeze(1)).squeeze(1)
                output = output.index_add(0, chosen, picked)
        output = output + head.gather(1, entry.unsqueeze(1)).squeeze(1)
        loss = (-output).mean()
        return _Result(output if target.ndim else output.squeeze(0), loss)

    def log_prob(self, input: Tensor) -> Tensor:
        """Log-probabilities of all classes: ``(N, in_features)`` to ``(N, n_classes)``."""
        head = F.log_softmax(self.head(input), dim=1)
        parts = [head[:, : self.shortlist_size]]
        for i, tail in enumerate(self.tail):
            inside = F.log_softmax(tail(input), dim=1)
            parts.append(inside + head[:, self.shortlist_size + i].unsqueeze(1))
        return cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The most probable class of every row: ``(N,)``."""
        return self.log_prob(input).argmax(1)
