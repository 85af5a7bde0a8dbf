"""Weight and spectral normalisation as parametrisations."""

from __future__ import annotations

from ..._C import Tensor
from ...autograd import no_grad
from .. import functional as F
from ..modules.module import Module
from .parametrize import register_parametrization

__all__ = ["spectral_norm", "weight_norm"]


def _norm_except(weight: Tensor, dim: int | None) -> Tensor:
    """The 2-norm over all axes but ``dim``, kept as axes of size 1; over everything if ``dim`` is None or -1."""
    if dim is None or dim == -1:
        return weight.norm(2)
    rows = weight.movedim(dim, 0)
    norm = rows.reshape(rows.shape[0], -1).norm(2, 1)
    shape = [1] * weight.ndim
    shape[dim] = -1
    return norm.reshape(shape)


class _WeightNorm(Module):
    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / _norm_except(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Learns length and direction of a weight apart: ``w = g * v / ||v||`` (Salimans and Kingma, 2016).

    Args:
        name: of the parameter. dim: one length for each index of this axis, None for a single one. Default: 0.
    """
    return register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


class _SpectralNorm(Module):
    """Divides by the largest singular value, which power iteration tracks from step to step."""

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        if n_power_iterations <= 0:
            raise ValueError(
                f"[spectral_norm] n_power_iterations: expected a positive number, got {n_power_iterations}"
            )
        self.dim = dim if dim >= 0 else dim + weight.ndim
        self.eps = eps
        if weight.ndim > 1:
            self.n_power_iterations = n_power_iterations
            matrix = self._matrix(weight)
            rows, cols = matrix.shape
            u = weight.detach().new_empty(rows).normal_(0, 1)
            v = weight.detach().new_empty(cols).normal_(0, 1)
            self.register_buffer("_u", F.normalize(u, dim=0, eps=eps))
            self.register_buffer("_v", F.normalize(v, dim=0, eps=eps))
            self._iterate(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        rows = weight.movedim(self.dim, 0)
        return rows.reshape(rows.shape[0], -1)

    def _iterate(self, matrix: Tensor, steps: int) -> None:
        with no_grad():
            matrix = matrix.detach()
            for _ in range(steps):
                self._u.copy_(F.normalize(matrix.mv(self._v), dim=0, eps=self.eps))
                self._v.copy_(F.normalize(matrix.t().mv(self._u), dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix, self.n_power_iterations)
        # Copies, because a second forward before the backward would overwrite the vectors.
        sigma = self._u.clone().dot(matrix.mv(self._v.clone()))
        return weight / sigma

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divides a weight by its largest singular value (Miyato et al., 2018).

    Args:
        name: of the parameter. n_power_iterations: per forward in training. Default: 1.
        eps: bound in the normalisations. Default: 1e-12.
        dim: the axis of the outputs. Default: 0, and 1 for transposed convolutions.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"[spectral_norm] name: expected a parameter of {type(module).__name__}, got {name!r}")
    if dim is None:
        dim = 1 if getattr(module, "transposed", False) else 0
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))
