"""The learned scale and shift that the normalisations share."""

from __future__ import annotations

from typing import Any

from ..._C import Tensor, empty
from .. import init
from ..parameter import Parameter
from .module import Module


class Affine(Module):
    """A normalisation with a learned scale ``weight`` and shift ``bias``, either of which may be absent."""

    weight: Tensor | None
    bias: Tensor | None

    def _register_affine(self, shape: Any, weight: bool, bias: bool, device: Any, dtype: Any) -> None:
        for name, wanted in (("weight", weight), ("bias", bias)):
            self.register_parameter(name, Parameter(empty(shape, device=device, dtype=dtype)) if wanted else None)

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)
