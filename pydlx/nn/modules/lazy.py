"""Modules that learn the size of their input from the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..._C import Tensor
from ...autograd import no_grad
from ...random import fork_rng
from ..parameter import Parameter, UninitializedBuffer, UninitializedParameter
from ._checks import require_integers
from .batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from .conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from .linear import Linear
from .module import Module

__all__ = [
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "LazyLinear",
]


class _Lazy(Module):
    """Takes the arguments of the class it is named after but for the first, the size of the input.

    Parameters and running statistics have no shape until the first call of ``forward`` (or ``load_state_dict``),
    which gives them shape and values and turns the module into one of the ordinary class. An optimiser may be given
    the parameters before: they stay the same objects.
    """

    _ordinary: ClassVar[type[Module]]
    _size_name: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        with fork_rng():
            template = self._ordinary(self._trial_size(**options), **options)
        Module.__init__(self)
        self.__dict__.update(template.__dict__)
        self.__dict__[self._size_name] = 0
        self._options = options
        for name, param in self._parameters.items():
            if param is not None:
                self._parameters[name] = UninitializedParameter(device=param.device, dtype=param.dtype)
        for name, buffer in self._buffers.items():
            if buffer is not None and buffer.ndim:
                self._buffers[name] = UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)

    def _trial_size(self, **options: Any) -> int:
        """Some size with which the ordinary module can be built to see what it consists of."""
        return 1

    def _size_of_input(self, input: Tensor) -> int:
        raise NotImplementedError

    def _size_of_weight(self, weight: Tensor) -> int:
        raise NotImplementedError

    def has_uninitialized_params(self) -> bool:
        """True until the first forward."""
        return True

    def initialize_parameters(self, input: Tensor) -> None:
        """Gives parameters and buffers their shapes and values and becomes the ordinary module."""
        self._become(self._size_of_input(input))

    def _become(self, size: int) -> None:
        complete = self._ordinary(size, **self.__dict__.pop("_options"))
        self.__dict__[self._size_name] = size
        with no_grad():
            for name, value in complete._parameters.items():
                unshaped = self._parameters[name]
                if value is not None and unshaped is not None:
                    unshaped.data = value.detach().to(unshaped.device, unshaped.dtype)
                    unshaped.__class__ = Parameter
            for name, buffer in complete._buffers.items():
                old = self._buffers[name]
                if buffer is not None and old is not None:
                    self._buffers[name] = buffer.to(old.device, old.dtype)
        self.__class__ = self._ordinary  # type: ignore[assignment]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Initialises from the first input, then computes what the ordinary module computes."""
        self.initialize_parameters(*args, **kwargs)
        return self.forward(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        given = next((state_dict[prefix + k] for k in ("weight", "running_mean") if prefix + k in state_dict), None)
        if isinstance(given, Tensor) and not isinstance(given, (UninitializedParameter, UninitializedBuffer)):
            self._become(self._size_of_weight(given))
            self._load_from_state_dict(state_dict, prefix, *rest)


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in ("self", "__class__")}


class LazyLinear(_Lazy, Linear):
    __doc__ = f":class:`Linear` that takes ``in_features`` from the input's last axis.\n\n{_Lazy.__doc__}"
    _ordinary = Linear
    _size_name = "in_features"

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(out_features=out_features, bias=bias, device=device, dtype=dtype)

    def _size_of_input(self, input: Tensor) -> int:
        return int(input.shape[-1])

    def _size_of_weight(self, weight: Tensor) -> int:
        return int(weight.shape[1])


class _LazyConvNd(_Lazy):
    _size_name = "in_channels"
    _axes: int
    _transposed: bool
    groups: int

    def _trial_size(self, **options: Any) -> int:
        require_integers(self, out_channels=options["out_channels"])
        return int(options["out_channels"])  # a multiple of groups, like in_channels

    def _size_of_input(self, input: Tensor) -> int:
        if input.ndim not in (self._axes + 1, self._axes + 2):
            name, axes = type(self).__name__, self._axes
            raise ValueError(f"[{name}] input: expected {axes + 1} or {axes + 2} axes, got shape {tuple(input.shape)}")
        return int(input.shape[-self._axes - 1])

    def _size_of_weight(self, weight: Tensor) -> int:
        return int(weight.shape[0]) if self._transposed else int(weight.shape[1]) * self.groups


class _LazyConv(_LazyConvNd):
    def __init__(
        self,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(**_options(locals()))


class _LazyConvTranspose(_LazyConvNd):
    def __init__(
        self,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(**_options(locals()))


class _LazyNorm(_Lazy):
    _size_name = "num_features"
    _ranks: tuple[int, ...]

    # PyTorch's lazy instance normalisations have the defaults of batch normalisation too.
    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(**_options(locals()))

    def _size_of_input(self, input: Tensor) -> int:
        if input.ndim not in self._ranks:
            told = " or ".join(map(str, self._ranks))
            raise ValueError(f"[{type(self).__name__}] input: expected {told} axes, got shape {tuple(input.shape)}")
        unbatched = issubclass(self._ordinary, _UNBATCHED) and input.ndim == self._ranks[0]
        return int(input.shape[0 if unbatched else 1])

    def _size_of_weight(self, weight: Tensor) -> int:
        return int(weight.shape[0])


_UNBATCHED = (InstanceNorm1d, InstanceNorm2d, InstanceNorm3d)


def _lazy(family: type[_Lazy], ordinary: type[Module], axis: str) -> Any:
    name = ordinary.__name__
    doc = f":class:`{name}` that takes ``{family._size_name}`` from {axis}.\n\n{_Lazy.__doc__}"
    return type(f"Lazy{name}", (family, ordinary), {"_ordinary": ordinary, "__doc__": doc, "__module__": __name__})


_CHANNELS = "the input's axis of channels"
LazyConv1d = _lazy(_LazyConv, Conv1d, _CHANNELS)
LazyConv2d = _lazy(_LazyConv, Conv2d, _CHANNELS)
LazyConv3d = _lazy(_LazyConv, Conv3d, _CHANNELS)
LazyConvTranspose1d = _lazy(_LazyConvTranspose, ConvTranspose1d, _CHANNELS)
LazyConvTranspose2d = _lazy(_LazyConvTranspose, ConvTranspose2d, _CHANNELS)
LazyConvTranspose3d = _lazy(_LazyConvTranspose, ConvTranspose3d, _CHANNELS)
LazyBatchNorm1d = _lazy(_LazyNorm, BatchNorm1d, _CHANNELS)
LazyBatchNorm2d = _lazy(_LazyNorm, BatchNorm2d, _CHANNELS)
LazyBatchNorm3d = _lazy(_LazyNorm, BatchNorm3d, _CHANNELS)
LazyInstanceNorm1d = _lazy(_LazyNorm, InstanceNorm1d, _CHANNELS)
LazyInstanceNorm2d = _lazy(_LazyNorm, InstanceNorm2d, _CHANNELS)
LazyInstanceNorm3d = _lazy(_LazyNorm, InstanceNorm3d, _CHANNELS)
