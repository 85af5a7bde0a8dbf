"""Bounding gradients."""

from __future__ import annotations

from collections.abc import Iterable

from ..._C import Tensor, clip_to_norm_, stack, total_norm
from ..._namespace import tensor
from ...autograd import no_grad
from ..functional._distance import _vector_norm

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def _as_list(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _grads(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in _as_list(parameters) if p.grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all tensors taken together as one vector.

    Args:
        norm_type: p, or ``inf``. Default: 2.
        error_if_nonfinite: raise if the norm is NaN or infinite. Default: ``False``.
        foreach: accepted for compatibility.
    """
    items = _as_list(tensors)
    norm_type = float(norm_type)
    if not items:
        return tensor(0.0)
    if norm_type in (1.0, 2.0, float("inf")):
        total = total_norm(items, norm_type)
    else:
        with no_grad():
            norms = [_vector_norm(item.detach().reshape(-1), norm_type, 0) for item in items]
            first = norms[0]
            total = stack([norm.to(device=first.device, dtype=first.dtype) for norm in norms])
            total = _vector_norm(total, norm_type, 0)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise RuntimeError(
            f"[get_total_norm] tensors: expected a finite norm of order {norm_type}, got {float(total)}; "
            "pass error_if_nonfinite=False to scale all the same"
        )
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Multiplies all gradients by ``min(1, max_norm / (total_norm + 1e-6))``."""
    clip_to_norm_(_grads(parameters), float(max_norm), total_norm)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales all gradients together so that their norm is at most ``max_norm`` (Pascanu et al., 2013).

    Args:
        parameters: a tensor or tensors whose ``grad`` is changed in place.
        max_norm: the bound. norm_type: p, or ``inf``. Default: 2.
        error_if_nonfinite: raise if the norm is NaN or infinite. Default: ``False``.

    Returns:
        The norm before clipping.
    """
    items = _as_list(parameters)
    total = get_total_norm(_grads(items), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(items, max_norm, total)
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Clips every element of every gradient to ``[-clip_value, clip_value]``."""
    bound = float(clip_value)
    with no_grad():
        for grad in _grads(parameters):
            grad.clamp_(min=-bound, max=bound)
