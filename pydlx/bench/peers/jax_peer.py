"""JAX as a peer: every row is compiled once, and a call ends when its result is there."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy

from ._arrays import Array, namespace


class JaxArray(Array):
    xp = jax.numpy


def _attention(q: Any, k: Any, v: Any, attn_mask: Any = None, is_causal: bool = False, **options: Any) -> Any:
    if options:
        raise NotImplementedError(f"no {', '.join(options)}")
    # (batch, heads, length, dim) here, (batch, length, heads, dim) there
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    masks = {} if attn_mask is None else {"mask" if attn_mask.dtype == bool else "bias": attn_mask}
    return jax.nn.dot_product_attention(q, k, v, is_causal=is_causal, **masks).swapaxes(1, 2)


def _convolution(
    x: Any, w: Any, b: Any = None, stride: int = 1, padding: int = 0, groups: int = 1, dilation: int = 1
) -> Any:
    axes = x.ndim - 2
    y = jax.lax.conv_general_dilated(
        x, w, (stride,) * axes, [(padding, padding)] * axes, rhs_dilation=(dilation,) * axes, feature_group_count=groups
    )
    return y if b is None else y + b.reshape(1, -1, *(1,) * axes)


globals().update(
    namespace(
        JaxArray,
        jax.__version__,
        {
            "gelu": partial(jax.nn.gelu, approximate=False),
            "scaled_dot_product_attention": _attention,
            **{f"conv{axes}d": _convolution for axes in (1, 2, 3)},
        },
    )
)


def from_numpy(values: Any) -> Any:
    """The same numbers in JAX's memory."""
    return JaxArray(jax.numpy.asarray(values))


def set_num_threads(count: int) -> None:
    """XLA takes its threads from the cores this process may use: leave as many."""
    import os

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def bench_step(step: Any) -> Any:
    """Compiles the function of a forward row with its inputs as arguments, so that nothing is computed beforehand."""
    if not isinstance(step, partial):
        raise NotImplementedError("only forward rows run with jax")
    function, (T, *tensors) = step.func, step.args
    arrays = [tensor.data for tensor in tensors]

    def raw(*given: Any) -> Any:
        result = function(T, *map(JaxArray, given))
        return tuple(r.data for r in result) if isinstance(result, tuple) else result.data

    compiled = jax.jit(raw)

    return lambda: jax.block_until_ready(compiled(*arrays))
