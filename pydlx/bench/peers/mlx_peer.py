"""MLX as a peer: lazy, so that a call ends with the evaluation of its result."""

from __future__ import annotations

import importlib.metadata
from functools import partial
from typing import Any

import mlx.core
import mlx.nn
import numpy

from ._arrays import Array, namespace


class MlxArray(Array):
    xp = mlx.core


def _attention(q: Any, k: Any, v: Any, attn_mask: Any = None, is_causal: bool = False, **options: Any) -> Any:
    if options:
        raise NotImplementedError(f"no {', '.join(options)}")
    mask = "causal" if is_causal else attn_mask
    return mlx.core.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


globals().update(
    namespace(
        MlxArray,
        importlib.metadata.version("mlx"),
        {
            "gelu": mlx.nn.gelu,
            "layer_norm": lambda x, shape, w, b: mlx.core.fast.layer_norm(x, w, b, 1e-5),
            "rms_norm": lambda x, shape, w, eps: mlx.core.fast.rms_norm(x, w, eps),
            "scaled_dot_product_attention": _attention,
        },
    )
)


def from_numpy(values: Any) -> Any:
    """The same numbers in MLX's memory."""
    return MlxArray(mlx.core.array(numpy.asarray(values)))


def set_num_threads(count: int) -> None:
    """MLX offers no such setting on the CPU; it follows the cores that the process may use."""
    import os

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def bench_step(step: Any) -> Any:
    """Evaluates the result of a forward row."""
    if not isinstance(step, partial):
        raise NotImplementedError("only forward rows run with mlx")

    def run() -> Any:
        result = step()
        parts = result if isinstance(result, tuple) else (result,)
        mlx.core.eval(*(part.data for part in parts))
        return result

    return run
