"""Tables of vectors."""

from __future__ import annotations

from typing import Any

from ..._C import Tensor, empty
from ...autograd import no_grad
from .. import functional as F
from .. import init
from ..parameter import Parameter
from ._checks import require_integers
from .module import Module

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Module):
    """What both embeddings share: the table, its initialisation and the padding row."""

    weight: Tensor
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None

    def _make_table(
        self,
        rows: int,
        features: int,
        padding_idx: int | None,
        given: Tensor | None,
        freeze: bool,
        device: Any,
        dtype: Any,
    ) -> None:
        name = type(self).__name__
        require_integers(self, num_embeddings=rows, embedding_dim=features)
        self.num_embeddings = rows
        self.embedding_dim = features
        if padding_idx is not None:
            require_integers(self, padding_idx=padding_idx)
            if not -rows <= padding_idx < rows:
                raise ValueError(f"[{name}] padding_idx: expected within {rows} rows, got {padding_idx}")
            padding_idx %= rows
        self.padding_idx = padding_idx
        if given is None:
            self.weight = Parameter(empty((rows, features), device=device, dtype=dtype), requires_grad=not freeze)
            self.reset_parameters()
        else:
            if not isinstance(given, Tensor):
                raise TypeError(f"[{name}] _weight: expected a tensor, got {type(given).__name__}")
            if tuple(given.shape) != (rows, features):
                raise ValueError(f"[{name}] _weight: expected shape {(rows, features)}, got {tuple(given.shape)}")
            self.weight = Parameter(given, requires_grad=not freeze)

    def reset_parameters(self) -> None:
        """Draws from ``N(0, 1)``; the padding row is zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx].fill_(0)


class Embedding(_Table):
    """A table of ``num_embeddings`` vectors of size ``embedding_dim``, looked up by index.

    Args:
        padding_idx: a row that starts at zero and gets no gradient. Default: none.
        max_norm: rows longer than this are shrunk, in place, when looked up. Default: none.
        norm_type: the p of that norm. Default: 2.
        scale_grad_by_freq: divide a row's gradient by how often it was looked up. Default: ``False``.
        sparse: accepted; gradients are dense all the same.

    Shape: integers of any shape ``(*)`` to ``(*, embedding_dim)``. ``weight`` starts from ``N(0, 1)``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        self._make_table(num_embeddings, embedding_dim, padding_idx, _weight, _freeze, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """``(*)`` to ``(*, embedding_dim)``."""
        return F.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )

    def extra_repr(self) -> str:
        """Sizes, and whatever differs from its default."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        return text + ", sparse=True" if self.sparse else text

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """An embedding around an existing ``(rows, features)`` table, frozen by default."""
        rows, features = _two_axes(embeddings)
        return cls(
            rows,
            features,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
            _weight=embeddings,
            _freeze=freeze,
        )


class EmbeddingBag(_Table):
    """Sum, mean or maximum of the embeddings of each bag of indices, without keeping the single ones.

    Args:
        num_embeddings, embedding_dim: sizes of the table.
        mode: ``"sum"``, ``"mean"`` or ``"max"``. Default: ``"mean"``.
        include_last_offset: ``offsets`` has one entry more, the end of the last bag. Default: ``False``.
        padding_idx: indices left out of every bag. Default: none.
        max_norm, norm_type, scale_grad_by_freq, sparse: as in :class:`Embedding`.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset
        self._make_table(num_embeddings, embedding_dim, padding_idx, _weight, False, device, dtype)

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """``(B, n)``, or ``(N,)`` with ``offsets`` of ``(B,)``, to ``(B, embedding_dim)``."""
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        """Sizes, and whatever differs from its default."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        text += f", mode={self.mode!r}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        return text

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """An embedding bag around an existing ``(rows, features)`` table, frozen by default."""
        rows, features = _two_axes(embeddings)
        bag = cls(
            rows,
            features,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            mode=mode,
            sparse=sparse,
            _weight=embeddings,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )
        bag.weight.requires_grad = not freeze
        return bag


def _two_axes(embeddings: Tensor) -> tuple[int, int]:
    if embeddings.ndim != 2:
        raise ValueError(f"[from_pretrained] embeddings: expected 2 axes, got shape {tuple(embeddings.shape)}")
    return embeddings.shape[0], embeddings.shape[1]
