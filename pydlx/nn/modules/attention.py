"""Multi-head attention as a module."""

from __future__ import annotations

from typing import Any

from ..._C import Tensor, empty
from .. import functional as F
from .. import init
from ..parameter import Parameter
from ._checks import require_integers
from .linear import NonDynamicallyQuantizableLinear
from .module import Module

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """``concat(heads) @ out_proj`` with ``head = softmax(q k^T / sqrt(head_dim)) v`` (Vaswani et al., 2017).

    Args:
        embed_dim: features E of the query and of the output.
        num_heads: heads; must divide ``embed_dim``.
        dropout: probability of dropping an attention weight. Default: 0.
        bias: biases in the projections. Default: ``True``.
        add_bias_kv: append a learned key and value to every sequence. Default: ``False``.
        add_zero_attn: append a zero key and value. Default: ``False``.
        kdim, vdim: features of key and value. Default: ``embed_dim``.
        batch_first: ``(N, L, E)`` instead of ``(L, N, E)``. Default: ``False``.

    The input projections start from Xavier's uniform distribution, all biases from zero.
    """

    in_proj_weight: Tensor | None
    in_proj_bias: Tensor | None
    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        require_integers(self, embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"[MultiheadAttention] embed_dim: expected positive sizes, got {embed_dim} and {num_heads} heads"
            )
        if embed_dim % num_heads:
            raise ValueError(f"[MultiheadAttention] num_heads: expected a divisor of {embed_dim}, got {num_heads}")
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        self.add_zero_attn = add_zero_attn

        def make(*shape: int) -> Parameter:
            return Parameter(empty(shape, device=device, dtype=dtype))

        same = self._qkv_same_embed_dim
        self.register_parameter("in_proj_weight", make(3 * embed_dim, embed_dim) if same else None)
        self.register_parameter("q_proj_weight", None if same else make(embed_dim, embed_dim))
        self.register_parameter("k_proj_weight", None if same else make(embed_dim, self.kdim))
        self.register_parameter("v_proj_weight", None if same else make(embed_dim, self.vdim))
        self.register_parameter("in_proj_bias", make(3 * embed_dim) if bias else None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, device, dtype)
        self.register_parameter("bias_k", make(1, 1, embed_dim) if add_bias_kv else None)
        self.register_parameter("bias_v", make(1, 1, embed_dim) if add_bias_kv else None)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None and self.out_proj.bias is not None:
            init.constant_(self.in_proj_bias, 0.0)
            init.constant_(self.out_proj.bias, 0.0)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends from ``query`` to ``key`` and ``value``.

        Args:
            query: ``(L, N, E)``, ``(N, L, E)`` with ``batch_first``, or ``(L, E)``. key, value: likewise with length S.
            key_padding_mask: ``(N, S)``; True, or minus infinity, hides a key.
            need_weights: return the attention weights as well; without them attention is faster. Default: ``True``.
            attn_mask: ``(L, S)`` or ``(N * num_heads, L, S)``; True hides, a float mask is added to the scores.
            average_attn_weights: average the returned weights over the heads. Default: ``True``.
            is_causal: says that ``attn_mask`` is the causal mask. Default: ``False``.

        Returns:
            The output, shaped as ``query``, and weights ``(N, L, S)``, ``(N, num_heads, L, S)`` or None.
        """
        batched = query.ndim == 3
        if self.batch_first and batched:
            # Equal inputs stay one object, so that they are projected by one product.
            same_qk, same_kv = query is key, key is value
            query = query.transpose(0, 1)
            key = query if same_qk else key.transpose(0, 1)
            value = key if same_kv else value.transpose(0, 1)
        out, weights = F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=not self._qkv_same_embed_dim,
            q_proj_weight=self.q_proj_weight,
            k_proj_weight=self.k_proj_weight,
            v_proj_weight=self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return (out.transpose(0, 1) if self.batch_first and batched else out), weights
