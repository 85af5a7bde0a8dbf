"""scaled_dot_product_attention on the shapes of GPT-2 small, BERT base and ViT-B, long, short and odd ones."""

from __future__ import annotations

from typing import Any

from ..inputs import Inputs
from ..rows import Row, forward, training


def _attention(
    note: str,
    batch: int,
    heads: int,
    length: int,
    dim: int = 64,
    *,
    keys: int | None = None,
    causal: bool = False,
    mask: str | None = None,
    key_heads: int | None = None,
    dtype: str | None = None,
) -> list[Row]:
    """Forward and forward + backward; ``mask`` "bool" hides a random tenth of the keys, "float" adds a bias, "learned" one with a gradient."""
    keys = keys or length
    grouped = key_heads is not None
    kv_heads = key_heads or heads

    def inputs(x: Inputs) -> list[Any]:
        q, k, v = (
            x.normal(batch, h, n, dim, dtype=dtype) for h, n in ((heads, length), (kv_heads, keys), (kv_heads, keys))
        )
        if mask == "bool":
            return [q, k, v, x.mask(batch, 1, length, keys, share=0.9)]
        if mask in ("float", "learned"):
            return [q, k, v, x.normal(1, heads, length, keys)]
        return [q, k, v]

    def attend(T: Any, q: Any, k: Any, v: Any, m: Any = None) -> Any:
        options = {"enable_gqa": True} if grouped else {}
        return T.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=m, is_causal=causal, **options)

    pairs = length * (length + 1) / 2 if causal else length * keys
    flops = 4.0 * batch * heads * pairs * dim
    size = 2.0 if dtype else 4.0
    query, key = size * batch * heads * length * dim, size * batch * kv_heads * keys * dim
    bias = 4.0 * heads * length * keys
    seen = {None: 0.0, "bool": 1.0 * batch * length * keys}.get(mask, bias)
    name = f"{note} {batch}x{heads}x{length}" + (f"x{keys}" if keys != length else "") + f" d{dim}"
    name += (
        (" causal" if causal else "") + (f" {mask} mask" if mask else "") + (f" {kv_heads} kv heads" if grouped else "")
    )
    name += f" {dtype}" if dtype else ""
    return [
        Row(name, forward(attend, inputs), flops, query + 2 * key + seen, query),
        # backward: the scores again, dV, dP, dQ, dK: five products beside the forward's two
        Row(
            f"{name} fwd+bwd",
            training(attend, inputs, (0, 1, 2, 3) if mask == "learned" else (0, 1, 2)),
            3.5 * flops,
            4 * query + 4 * key + 2 * seen,
            2 * query + 2 * key,
        ),
    ]


def rows() -> list[Row]:
    return [
        *_attention("GPT-2", 1, 12, 1024, causal=True),
        *_attention("GPT-2", 4, 12, 256, causal=True),
        *_attention("BERT", 8, 12, 128),
        *_attention("BERT", 2, 12, 512),
        *_attention("BERT", 2, 12, 512, mask="bool"),
        *_attention("ViT-B", 4, 12, 197),
        *_attention("long", 1, 8, 2048),
        *_attention("long", 1, 8, 2048, causal=True),
        *_attention("wide", 1, 8, 1024, 128),
        *_attention("wide", 1, 8, 1024, 128, causal=True),
        *_attention("narrow", 4, 8, 512, 32),
        *_attention("short", 32, 8, 32),
        *_attention("short", 32, 8, 32, causal=True),
        *_attention("tiny", 2, 4, 16, 16),
        *_attention("grouped", 1, 12, 512, causal=True, key_heads=4),
        *_attention("bias", 1, 12, 384, mask="float"),
        _attention("bias", 4, 6, 196, mask="learned")[1],
        *_attention("cross", 4, 8, 77, keys=301),
        *_attention("odd", 3, 5, 127, 40, causal=True),
        *_attention("GPT-2", 1, 12, 1024, causal=True, dtype="bfloat16"),
        *_attention("BERT", 8, 12, 128, dtype="bfloat16"),
        *_attention("long", 1, 8, 2048, dtype="bfloat16"),
        _attention("decode", 8, 12, 1, keys=1024)[0],
        _attention("decode", 1, 12, 1, keys=4096)[0],
    ]
