"""Multi-head attention as one function."""

from __future__ import annotations

import math

from ..._C import Tensor, cat, linear, pad, scaled_dot_product_attention, zeros
from ..._C import dropout as _dropout
from ..._C import softmax as _softmax

__all__ = ["multi_head_attention_forward"]


def _as_additive(mask: Tensor, like: Tensor, name: str) -> Tensor:
    """A boolean mask (True: do not attend) becomes 0 and minus infinity; a float mask is added as it is."""
    if mask.is_floating_point():
        return mask.to(like.dtype)
    if str(mask.dtype).rpartition(".")[2] != "bool":
        raise TypeError(
            f"[multi_head_attention_forward] {name}: expected a bool or floating point mask, got {mask.dtype}"
        )
    return zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))


def _project(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: tuple[Tensor, Tensor, Tensor] | Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    size = query.shape[-1]
    if isinstance(weights, Tensor):
        if query is key and key is value:  # one product instead of three
            q, k, v = linear(query, weights, bias).split(size, -1)
            return q, k, v
        if key is value:
            parts = [None, None] if bias is None else list(bias.split([size, 2 * size]))
            q_weight, kv_weight = weights.split([size, 2 * size])
            k, v = linear(key, kv_weight, parts[1]).split(size, -1)
            return linear(query, q_weight, parts[0]), k, v
        q_weight, k_weight, v_weight = weights.split(size)
    else:
        q_weight, k_weight, v_weight = weights
    biases = [None] * 3 if bias is None else list(bias.split(size))
    return linear(query, q_weight, biases[0]), linear(key, k_weight, biases[1]), linear(value, v_weight, biases[2])


def _check_mask(mask: Tensor | None, expected: list[tuple[int, ...]], name: str) -> None:
    if mask is not None and tuple(mask.shape) not in expected:
        told = " or ".join(map(str, expected))
        raise ValueError(f"[multi_head_attention_forward] {name}: expected shape {told}, got {tuple(mask.shape)}")


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``concat(softmax(q k^T / sqrt(head_dim) + mask) v) @ out_proj`` per head (Vaswani et al., 2017).

    Args:
        query: ``(L, N, E)`` or ``(L, E)``. key, value: ``(S, N, ...)`` or ``(S, ...)``.
        in_proj_weight: ``(3 * E, E)``, or ``q_proj_weight`` and the two others with ``use_separate_proj_weight``.
        key_padding_mask: ``(N, S)``; True, or minus infinity, hides a key.
        attn_mask: ``(L, S)`` or ``(N * num_heads, L, S)``; True hides, a float mask is added to the scores.
        need_weights: also return the attention weights, averaged over the heads with ``average_attn_weights``.
        is_causal: a hint that ``attn_mask`` is the causal mask.

    Returns:
        Output ``(L, N, E)`` (without N if unbatched), and weights ``(N, L, S)`` or ``(N, num_heads, L, S)`` or None.
    """
    if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
        raise ValueError(
            "[multi_head_attention_forward] query: expected (L, N, E) or (L, E), as many axes for key and value, got "
            f"shapes {tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
        )
    batched = query.ndim == 3
    if not batched:
        same_qk, same_kv = query is key, key is value
        query = query.unsqueeze(1)
        key = query if same_qk else key.unsqueeze(1)
        value = key if same_kv else value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    length, batch, size = query.shape
    source = key.shape[0]
    if size != embed_dim_to_check:
        raise ValueError(f"[multi_head_attention_forward] query: expected {embed_dim_to_check} features, got {size}")
    head_dim = size // num_heads
    if head_dim * num_heads != size:
        raise ValueError(f"[multi_head_attention_forward] num_heads: expected a divisor of {size}, got {num_heads}")
    if key.shape[:2] != value.shape[:2]:
        raise ValueError(
            f"[multi_head_attention_forward] value: expected {tuple(key.shape[:2])} leading axes, "
            f"got {tuple(value.shape[:2])}"
        )
    if is_causal and attn_mask is None:
        raise ValueError("[multi_head_attention_forward] attn_mask: expected the causal mask with is_causal, got None")
    _check_mask(key_padding_mask, [(batch, source)], "key_padding_mask")
    _check_mask(attn_mask, [(length, source), (batch * num_heads, length, source)], "attn_mask")
    extended = bias_k is not None or add_zero_attn
    causal_kernel = is_causal and key_padding_mask is None and not need_weights and not extended

    weights: tuple[Tensor, Tensor, Tensor] | Tensor | None = in_proj_weight
    if use_separate_proj_weight:
        if q_proj_weight is None or k_proj_weight is None or v_proj_weight is None:
            raise ValueError("[multi_head_attention_forward] q_proj_weight: expected three separate weights, got None")
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    if weights is None:
        raise ValueError("[multi_head_attention_forward] in_proj_weight: expected a tensor, got None")
    # On GPUs inputs that lie batch by batch stay so: every step works on dense rows, and nothing is copied. (CPUs gain
    # nothing, and sums over rows keep their order.)
    by_batch = query.is_cuda and not extended and static_k is None and static_v is None
    by_batch = by_batch and all(t.transpose(0, 1).is_contiguous() for t in (query, key, value))
    if by_batch:
        same_qk, same_kv = query is key, key is value
        query = query.transpose(0, 1)
        key = query if same_qk else key.transpose(0, 1)
        value = key if same_kv else value.transpose(0, 1)
    q, k, v = _project(query, key, value, weights, in_proj_bias)

    mask = None
    if not causal_kernel:
        mask = None if attn_mask is None else _as_additive(attn_mask, q, "attn_mask")
        hidden = None if key_padding_mask is None else _as_additive(key_padding_mask, q, "key_padding_mask")
        mask = (
            None
            if mask is None
            else mask.reshape(batch if mask.ndim == 3 else 1, num_heads if mask.ndim == 3 else 1, length, source)
        )
        if hidden is not None:
            hidden = hidden.reshape(batch, 1, 1, source)
            mask = hidden if mask is None else mask + hidden
    if bias_k is not None and bias_v is not None:
        k = cat([k, bias_k.expand(1, batch, size)])
        v = cat([v, bias_v.expand(1, batch, size)])
        mask = None if mask is None else pad(mask, [0, 1])
    if by_batch:
        q = q.reshape(batch, length, num_heads, head_dim).transpose(1, 2)
        k, v = (x.reshape(batch, source, num_heads, head_dim).transpose(1, 2) for x in (k, v))
    else:
        q = _heads(q, None, batch, num_heads, head_dim)
        k = _heads(k, static_k, batch, num_heads, head_dim)
        v = _heads(v, static_v, batch, num_heads, head_dim)
    if add_zero_attn:
        zero = zeros(batch, num_heads, 1, head_dim, dtype=k.dtype, device=k.device)
        k, v = cat([k, zero], 2), cat([v, zero], 2)
        mask = None if mask is None else pad(mask, [0, 1])
    drop = dropout_p if training else 0.0

    attention: Tensor | None = None
    if need_weights:
        scores = (q * (1.0 / math.sqrt(head_dim))).matmul(k.transpose(-2, -1))
        attention = _softmax(scores if mask is None else scores + mask, -1)
        attention = _dropout(attention, drop, True) if drop > 0.0 else attention
        mixed = attention.matmul(v)
        attention = attention.mean(1) if average_attn_weights else attention
    else:
        mixed = scaled_dot_product_attention(q, k, v, mask, drop, causal_kernel)
    if by_batch:
        out = linear(mixed.transpose(1, 2).reshape(batch, length, size), out_proj_weight, out_proj_bias).transpose(0, 1)
    else:
        mixed = mixed.permute(2, 0, 1, 3).reshape(length * batch, size)
        out = linear(mixed, out_proj_weight, out_proj_bias).reshape(length, batch, out_proj_weight.shape[0])
    if batched:
        return out, attention
    return out.squeeze(1), None if attention is None else attention.squeeze(0)


def _heads(x: Tensor, static: Tensor | None, batch: int, num_heads: int, head_dim: int) -> Tensor:
    """``(S, N, E)`` to ``(N, heads, S, head_dim)``; ``static`` replaces it with ``(N * heads, S, head_dim)``."""
    if static is not None:
        return static.reshape(batch, num_heads, static.shape[1], head_dim)
    return x.reshape(x.shape[0], batch, num_heads, head_dim).permute(1, 2, 0, 3)
