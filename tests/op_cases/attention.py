"""Scaled dot-product attention: lengths beyond every block, masks, groups, layouts."""

import numpy as np
import torch.nn.attention  # noqa: F401  (the oracle's choice of backend)
from cases import Case, ErrorCase, args, booleans, normal


def sdpa(T, *tensors, **options):
    """The op on either library; of the oracle's backends only the composed one has second derivatives."""
    if T.__name__ == "pydlx":
        return T.nn.functional.scaled_dot_product_attention(*tensors, **options)
    with T.nn.attention.sdpa_kernel(T.nn.attention.SDPBackend.MATH):
        return T.nn.functional.scaled_dot_product_attention(*tensors, **options)


def qkv(lead, lq, lk, d, dv=None):
    return args(normal(*lead, lq, d), normal(*lead, lk, d), normal(*lead, lk, dv or d))


def with_mask(lead, lq, lk, d, mask):
    return args(normal(*lead, lq, d), normal(*lead, lk, d), normal(*lead, lk, d), mask)


HALF = ("float32", "float64", "float16", "bfloat16")
CASES = [
    Case("sdpa", lambda T, q, k, v: sdpa(T, q, k, v), qkv((2, 3), 7, 7, 16), dtypes=HALF),
    Case("sdpa/cross", lambda T, q, k, v: sdpa(T, q, k, v), qkv((2, 3), 5, 9, 8, 12)),
    Case("sdpa/causal", lambda T, q, k, v: sdpa(T, q, k, v, is_causal=True), qkv((2, 2), 19, 19, 8)),
    Case("sdpa/causal_wide", lambda T, q, k, v: sdpa(T, q, k, v, is_causal=True), qkv((1, 2), 5, 11, 8)),
    Case(
        "sdpa/causal_tall", lambda T, q, k, v: sdpa(T, q, k, v, is_causal=True), qkv((1, 2), 130, 60, 8), second=False
    ),
    # 700 weights are normalised by a sum in another order than the oracle's
    Case("sdpa/blocks", lambda T, q, k, v: sdpa(T, q, k, v), qkv((1, 1), 101, 700, 20), second=False, tolerance=2),
    Case(
        "sdpa/blocks_causal", lambda T, q, k, v: sdpa(T, q, k, v, is_causal=True), qkv((1,), 577, 577, 17), second=False
    ),
    Case("sdpa/scale", lambda T, q, k, v: sdpa(T, q, k, v, scale=0.3), qkv((3,), 6, 6, 5)),
    Case("sdpa/2d", lambda T, q, k, v: sdpa(T, q, k, v), qkv((), 6, 7, 5)),
    Case("sdpa/5d", lambda T, q, k, v: sdpa(T, q, k, v), qkv((2, 1, 3), 6, 7, 5)),
    Case("sdpa/one", lambda T, q, k, v: sdpa(T, q, k, v), qkv((2, 2), 1, 1, 1)),
    Case("sdpa/empty_batch", lambda T, q, k, v: sdpa(T, q, k, v), qkv((0, 2), 3, 4, 5)),
    Case("sdpa/no_queries", lambda T, q, k, v: sdpa(T, q, k, v), qkv((2, 2), 0, 4, 5)),
    Case("sdpa/extreme", lambda T, q, k, v: sdpa(T, q * 40, k * 40, v), qkv((1, 2), 9, 9, 8), second=False, grad=False),
    Case(
        "sdpa/bool_mask",
        lambda T, q, k, v, m: sdpa(T, q, k, v, attn_mask=m),
        with_mask((2, 2), 9, 11, 8, booleans(9, 11)),
    ),
    Case(
        "sdpa/bool_mask_heads",
        lambda T, q, k, v, m: sdpa(T, q, k, v, attn_mask=m),
        with_mask((2, 2), 9, 11, 8, booleans(2, 1, 1, 11)),
    ),
    Case(
        "sdpa/float_mask",
        lambda T, q, k, v, m: sdpa(T, q, k, v, attn_mask=m),
        with_mask((2, 2), 9, 11, 8, normal(2, 9, 11)),
    ),
    Case(
        "sdpa/float_mask_blocks",
        lambda T, q, k, v, m: sdpa(T, q, k, v, attn_mask=m),
        with_mask((2, 2), 70, 150, 8, normal(2, 1, 150)),
        second=False,
    ),
    Case(
        "sdpa/float_mask_frozen",
        lambda T, q, k, v, m: sdpa(T, q, k, v, attn_mask=m.detach()),
        with_mask((2, 2), 70, 150, 8, normal(70, 150)),
        grad_inputs=(0, 1, 2),
        second=False,
    ),
    Case(
        "sdpa/grouped",
        lambda T, q, k, v: sdpa(T, q, k, v, enable_gqa=True),
        args(normal(2, 6, 7, 8), normal(2, 2, 9, 8), normal(2, 2, 9, 8)),
    ),
    Case(
        "sdpa/grouped_causal",
        lambda T, q, k, v: sdpa(T, q, k, v, enable_gqa=True, is_causal=True),
        args(normal(1, 4, 60, 8), normal(1, 1, 60, 8), normal(1, 1, 60, 8)),
        second=False,
    ),
    Case(
        "sdpa/heads_last",
        lambda T, q, k, v: sdpa(T, *(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2),
        args(normal(2, 7, 3, 8), normal(2, 9, 3, 8), normal(2, 9, 3, 8)),
    ),
]


def ones(T, *shape):
    return T.from_numpy(np.ones(shape))


ERRORS = [
    ErrorCase(
        "sdpa/features",
        lambda T: sdpa(T, ones(T, 2, 3, 4), ones(T, 2, 3, 5), ones(T, 2, 3, 5)),
        ValueError,
        r"key: expected 4 features",
    ),
    ErrorCase(
        "sdpa/length",
        lambda T: sdpa(T, ones(T, 2, 3, 4), ones(T, 2, 3, 4), ones(T, 2, 6, 4)),
        ValueError,
        r"value: expected 3 positions",
    ),
    ErrorCase(
        "sdpa/mask_shape",
        lambda T: sdpa(T, ones(T, 2, 3, 4), ones(T, 2, 5, 4), ones(T, 2, 5, 4), attn_mask=ones(T, 3, 4)),
        ValueError,
        r"scaled_dot_product_attention",
    ),
    ErrorCase(
        "sdpa/mask_and_causal",
        lambda T: sdpa(
            T, ones(T, 2, 3, 4), ones(T, 2, 3, 4), ones(T, 2, 3, 4), attn_mask=ones(T, 3, 3), is_causal=True
        ),
        ValueError,
        r"attn_mask: expected no mask together with is_causal",
    ),
    ErrorCase(
        "sdpa/groups",
        lambda T: sdpa(T, ones(T, 5, 3, 4), ones(T, 2, 3, 4), ones(T, 2, 3, 4), enable_gqa=True),
        ValueError,
        r"divides the 5 query heads",
    ),
]
