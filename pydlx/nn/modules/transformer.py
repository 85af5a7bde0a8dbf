"""The transformer of Vaswani et al. (2017): layers, stacks, and the whole."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

from ..._C import Tensor, full, triu
from .. import functional as F
from .. import init
from ._checks import require_integers
from ._neighbours import add_norm, linear_activation
from .attention import MultiheadAttention
from .container import ModuleList
from .dropout import Dropout
from .linear import Linear
from .module import Module
from .normalization import LayerNorm

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

_LAYER_ARGS = """
    Args:
        d_model: features of the input and output. nhead: attention heads.
        dim_feedforward: features inside the feed-forward block. Default: 2048.
        dropout: probability in all dropouts. Default: 0.1.
        activation: ``"relu"``, ``"gelu"`` or a function of a tensor. Default: ReLU.
        layer_norm_eps: eps of the layer normalisations. Default: 1e-5.
        batch_first: ``(N, L, d_model)`` instead of ``(L, N, d_model)``. Default: ``False``.
        norm_first: normalise before each block instead of after its sum. Default: ``False``.
        bias: biases in the linear maps and normalisations. Default: ``True``.
    """


def _activation(activation: Any) -> Callable[[Tensor], Tensor]:
    if callable(activation):
        return activation  # type: ignore[no-any-return]
    if activation in ("relu", "gelu"):
        return getattr(F, activation)  # type: ignore[no-any-return]
    raise ValueError(f"[Transformer] activation: expected 'relu', 'gelu' or a function, got {activation!r}")


def _copies(module: Module, count: int) -> ModuleList:
    return ModuleList([copy.deepcopy(module) for _ in range(count)])


def _causal_mask(size: int, device: Any = None, dtype: Any = None) -> Tensor:
    """``(size, size)``: minus infinity above the diagonal, zero elsewhere."""
    return triu(full((size, size), float("-inf"), device=device, dtype=dtype), diagonal=1)


def _looks_causal(mask: Tensor | None, is_causal: bool | None, length: int) -> bool:
    """The hint itself, or whether ``mask`` equals the causal mask when no hint is given."""
    if is_causal is not None:
        return is_causal
    if mask is None or mask.ndim < 2 or tuple(mask.shape[-2:]) != (length, length):
        return False
    causal = _causal_mask(length, mask.device)
    return bool((mask == (causal < 0 if not mask.is_floating_point() else causal.to(mask.dtype))).all())


class _Layer(Module):
    """What both kinds of layer share: attentions, the feed-forward block, one normalisation and dropout for each."""

    _attentions: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Any = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"bias": bias, "device": device, "dtype": dtype}
        blocks = range(1, len(self._attentions) + 2)
        for name in self._attentions:
            self.add_module(
                name, MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=batch_first, **factory)
            )
        self.linear1 = Linear(d_model, dim_feedforward, **factory)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **factory)
        self.norm_first = norm_first
        for i in blocks:
            self.add_module(f"norm{i}", LayerNorm(d_model, layer_norm_eps, **factory))
        for i in blocks:
            self.add_module(f"dropout{i}", Dropout(dropout))
        self.activation = _activation(activation)

    def _attend(
        self, attention: Module, x: Tensor, memory: Tensor, mask: Tensor | None, padding: Tensor | None, causal: bool
    ) -> Tensor:
        out, _ = attention(
            x, memory, memory, attn_mask=mask, key_padding_mask=padding, need_weights=False, is_causal=causal
        )
        return out  # type: ignore[no-any-return]

    def _sa_block(self, x: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool) -> Tensor:
        return self.dropout1(self._attend(self.self_attn, x, x, mask, padding, is_causal))  # type: ignore[no-any-return]

    def _expand(self, x: Tensor) -> Tensor:
        hidden = linear_activation(self.linear1, self.activation, x)
        return self.linear2(self.dropout(hidden))  # type: ignore[no-any-return]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("activation", F.relu)


class TransformerEncoderLayer(_Layer):
    __doc__ = (
        "Self-attention and a feed-forward block, each with a residual connection and layer normalisation.\n"
        + _LAYER_ARGS
    )
    _attentions = ("self_attn",)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """``(L, N, d_model)`` to the same shape; masks as in :class:`MultiheadAttention`."""
        x = src
        if self.norm_first:
            x, h = add_norm(self.norm2, x, self._sa_block(self.norm1(x), src_mask, src_key_padding_mask, is_causal))
            return x + self._ff_block(h)
        _, x = add_norm(self.norm1, x, self._sa_block(x, src_mask, src_key_padding_mask, is_causal))
        return add_norm(self.norm2, x, self._ff_block(x))[1]

    def _ff_block(self, x: Tensor) -> Tensor:
        return self.dropout2(self._expand(x))  # type: ignore[no-any-return]


class TransformerDecoderLayer(_Layer):
    __doc__ = (
        "Self-attention, attention to the encoder's output and a feed-forward block, each with a residual connection "
        "and layer normalisation.\n" + _LAYER_ARGS
    )
    _attentions = ("self_attn", "multihead_attn")

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """``(T, N, d_model)`` and the encoder's ``(S, N, d_model)`` to ``(T, N, d_model)``."""
        x = tgt
        own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = (memory_mask, memory_key_padding_mask, memory_is_causal)
        if self.norm_first:
            x, h = add_norm(self.norm2, x, self._sa_block(self.norm1(x), *own))
            x, h = add_norm(self.norm3, x, self._mha_block(h, memory, *other))
            return x + self._ff_block(h)
        _, x = add_norm(self.norm1, x, self._sa_block(x, *own))
        _, x = add_norm(self.norm2, x, self._mha_block(x, memory, *other))
        return add_norm(self.norm3, x, self._ff_block(x))[1]

    def _mha_block(
        self, x: Tensor, memory: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool
    ) -> Tensor:
        out = self._attend(self.multihead_attn, x, memory, mask, padding, is_causal)
        return self.dropout2(out)  # type: ignore[no-any-return]

    def _ff_block(self, x: Tensor) -> Tensor:
        return self.dropout3(self._expand(x))  # type: ignore[no-any-return]


class TransformerEncoder(Module):
    """A stack of ``num_layers`` copies of an encoder layer.

    Args:
        encoder_layer: the layer to copy. num_layers: how many.
        norm: applied at the end. Default: none.
        enable_nested_tensor, mask_check: accepted; padded positions are always computed.
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        require_integers(self, num_layers=num_layers)
        self.layers = _copies(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """``(L, N, d_model)`` to the same shape. ``is_causal=None`` finds out from ``mask``."""
        out = src
        causal = _looks_causal(mask, is_causal, _length(src, self.layers))
        for layer in self.layers:
            out = layer(out, src_mask=mask, is_causal=causal, src_key_padding_mask=src_key_padding_mask)
        return out if self.norm is None else self.norm(out)


class TransformerDecoder(Module):
    """A stack of ``num_layers`` copies of a decoder layer.

    Args:
        decoder_layer: the layer to copy. num_layers: how many.
        norm: applied at the end. Default: none.
    """

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        require_integers(self, num_layers=num_layers)
        self.layers = _copies(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """``(T, N, d_model)`` and the encoder's ``(S, N, d_model)`` to ``(T, N, d_model)``."""
        out = tgt
        causal = _looks_causal(tgt_mask, tgt_is_causal, _length(tgt, self.layers))
        for layer in self.layers:
            out = layer(
                out,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=causal,
                memory_is_causal=memory_is_causal,
            )
        return out if self.norm is None else self.norm(out)


def _length(x: Tensor, layers: ModuleList) -> int:
    batch_first = len(layers) > 0 and getattr(getattr(layers[0], "self_attn", None), "batch_first", False)
    return int(x.shape[1] if batch_first and x.ndim == 3 else x.shape[0])


class Transformer(Module):
    __doc__ = (
        "Encoder and decoder: ``decoder(tgt, encoder(src))``. All matrices start from Xavier's uniform distribution.\n"
        + _LAYER_ARGS.rstrip()
        + """
        num_encoder_layers, num_decoder_layers: Default: 6.
        custom_encoder, custom_decoder: modules to use instead.
    """
    )

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Any = F.relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        layer_args: tuple[Any, ...] = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
        layer_args += (batch_first, norm_first, bias, device, dtype)
        if custom_encoder is not None:
            self.encoder = custom_encoder
        else:
            norm = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **factory)
            self.encoder = TransformerEncoder(TransformerEncoderLayer(*layer_args), num_encoder_layers, norm)
        if custom_decoder is not None:
            self.decoder = custom_decoder
        else:
            norm = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **factory)
            self.decoder = TransformerDecoder(TransformerDecoderLayer(*layer_args), num_decoder_layers, norm)
        self._reset_parameters()
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """``(S, N, d_model)`` and ``(T, N, d_model)`` to ``(T, N, d_model)``."""
        batch_axis = 0 if self.batch_first else 1
        for name, x in (("src", src), ("tgt", tgt)):
            if x.ndim not in (2, 3):
                raise ValueError(f"[Transformer] {name}: expected 2 or 3 axes, got shape {tuple(x.shape)}")
        if src.ndim == 3 and tgt.ndim == 3 and src.shape[batch_axis] != tgt.shape[batch_axis]:
            raise ValueError(
                f"[Transformer] tgt: expected batch size {src.shape[batch_axis]}, got {tgt.shape[batch_axis]}"
            )
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ValueError(
                f"[Transformer] src: expected {self.d_model} features, got {src.shape[-1]} and {tgt.shape[-1]} in tgt"
            )
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(  # type: ignore[no-any-return]
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """``(sz, sz)``: minus infinity above the diagonal, zero elsewhere."""
        return _causal_mask(sz, device, dtype)

    def _reset_parameters(self) -> None:
        for param in self.parameters():
            if param.ndim > 1:
                init.xavier_uniform_(param)
