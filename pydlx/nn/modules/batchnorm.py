"""Batch and instance normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._C import Tensor, int64, ones, zeros
from ..._namespace import tensor
from .. import functional as F
from ._affine import Affine

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"]


class _NormBase(Affine):
    """Parameters and running statistics of batch and instance normalisation.

    Args:
        num_features: channels C.
        eps: added to the variance. Default: 1e-5.
        momentum: weight of a batch in the running statistics; None averages over all batches. Default: 0.1.
        affine: learn a scale (from one) and a shift (from zero) per channel.
        track_running_stats: keep running statistics and use them in evaluation.
        bias: learn the shift. Default: ``True``.
    """

    _version = 2  # version 2 added num_batches_tracked
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _ranks: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._register_affine(num_features, affine, affine and bias, device, dtype)
        if track_running_stats:
            self.register_buffer("running_mean", zeros(num_features, device=device, dtype=dtype))
            self.register_buffer("running_var", ones(num_features, device=device, dtype=dtype))
            self.register_buffer("num_batches_tracked", tensor(0, dtype=int64, device=device))
        else:
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                self.register_buffer(name, None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches seen."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, and :meth:`reset_running_stats`."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in self._ranks:
            told = " or ".join(map(str, self._ranks))
            raise ValueError(f"[{type(self).__name__}] input: expected {told} axes, got shape {tuple(input.shape)}")

    def extra_repr(self) -> str:
        """Sizes and settings."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "num_batches_tracked"
        version = local_metadata.get("version")
        # Files of version 1 lack the counter; those with no version at all may come from any program and must be whole.
        if version is not None and version < 2 and self.track_running_stats and key not in state_dict:
            state_dict = {**state_dict, key: tensor(0, dtype=int64)}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class _BatchNorm(_NormBase):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input. Training updates the running statistics."""
        self._check_input_dim(input)
        factor = 0.0 if self.momentum is None else self.momentum
        training = self.training
        if training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        use_batch = training or (self.running_mean is None and self.running_var is None)
        keep = not training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if keep else None,
            self.running_var if keep else None,
            self.weight,
            self.bias,
            use_batch,
            factor,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    __doc__ = f"Batch normalisation of ``(N, C)`` or ``(N, C, L)`` (Ioffe and Szegedy, 2015).\n{_NormBase.__doc__}"
    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = f"Batch normalisation of ``(N, C, H, W)`` (Ioffe and Szegedy, 2015).\n{_NormBase.__doc__}"
    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = f"Batch normalisation of ``(N, C, D, H, W)`` (Ioffe and Szegedy, 2015).\n{_NormBase.__doc__}"
    _ranks = (5,)


class _InstanceNorm(_NormBase):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input; the batch axis may be missing."""
        self._check_input_dim(input)
        batched = input.ndim == self._ranks[1]
        channels = input.shape[1 if batched else 0]
        if channels != self.num_features:
            raise ValueError(f"[{type(self).__name__}] input: expected {self.num_features} channels, got {channels}")
        out = F.instance_norm(
            input if batched else input.unsqueeze(0),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return out if batched else out.squeeze(0)


class InstanceNorm1d(_InstanceNorm):
    __doc__ = f"Instance normalisation of ``(N, C, L)`` or ``(C, L)`` (Ulyanov et al., 2016).\n{_NormBase.__doc__}"
    _ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    __doc__ = f"Instance normalisation of ``(N, C, H, W)`` or ``(C, H, W)``.\n{_NormBase.__doc__}"
    _ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    __doc__ = f"Instance normalisation of ``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_NormBase.__doc__}"
    _ranks = (4, 5)
