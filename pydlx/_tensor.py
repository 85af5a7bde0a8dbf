"""Methods of Tensor that are Python: hooks, conversion to other libraries, copying and pickling. Installed when pydlx is imported."""

from __future__ import annotations

import copy as copy_module
import functools
from collections.abc import Callable
from typing import Any

from . import _C, _composed, _legacy
from ._C import Tensor
from ._namespace import as_tensor
from .utils.hooks import RemovableHandle


class _EngineHook(RemovableHandle):
    """Handle of a hook that the engine keeps, under a number, with the history of a tensor or in a node."""

    __slots__ = ("_number", "_remove")

    def __init__(self, remove: Callable[[int], None], number: int) -> None:
        super().__init__({})
        self._remove = remove
        self._number = number

    def remove(self) -> None:
        """Takes the hook out; a second call does nothing."""
        self._remove(self._number)


def _callable(op: str, hook: Any) -> Any:
    if not callable(hook):
        raise TypeError(f"[{op}] hook: expected a function, got {type(hook).__name__}")
    return hook


def register_hook(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Calls ``hook(grad)`` when the gradient of this tensor is computed; a returned tensor replaces the gradient."""
    number = _C._add_hook(self, _callable("register_hook", hook))
    return _EngineHook(functools.partial(_C._remove_hook, self), number)


def register_post_accumulate_grad_hook(self: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
    """Calls ``hook(tensor)`` after a gradient was added to this leaf's ``.grad``."""
    number = _C._add_post_accumulate_hook(self, _callable("register_post_accumulate_grad_hook", hook))
    return _EngineHook(functools.partial(_C._remove_hook, self), number)


def _node_hook(self: _C.Node, hook: Callable[..., Any]) -> RemovableHandle:
    """Calls ``hook(grad_inputs, grad_outputs)`` after the node ran in a backward pass; a returned tuple replaces grad_inputs."""
    return _EngineHook(self._remove_hook, self._add_hook(_callable("register_hook", hook)))


def _node_prehook(self: _C.Node, hook: Callable[..., Any]) -> RemovableHandle:
    """Calls ``hook(grad_outputs)`` before the node runs in a backward pass; a returned tuple replaces them."""
    return _EngineHook(self._remove_hook, self._add_prehook(_callable("register_prehook", hook)))


def numpy(self: Tensor, *, force: bool = False) -> Any:
    """A NumPy array that shares the tensor's memory. With ``force`` also for tensors that need detaching or a copy to the CPU."""
    if force:
        return _C._to_numpy(self.detach().cpu(), True)
    return _C._to_numpy(self, False)


def __array__(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    array = numpy(self)
    if dtype is not None and array.dtype != dtype:
        if copy is False:
            raise ValueError("[__array__] copy: expected no conversion, but the dtype differs")
        return array.astype(dtype)
    return array.copy() if copy else array


def __array_wrap__(self: Tensor, array: Any, context: Any = None, return_scalar: bool = False) -> Tensor:
    """Makes NumPy's functions return tensors for tensors."""
    return as_tensor(array, device="cpu")


def __dlpack__(
    self: Tensor,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    if dl_device is not None and tuple(dl_device) != __dlpack_device__(self):
        raise BufferError(
            f"[__dlpack__] dl_device: the tensor is on {__dlpack_device__(self)}, got {dl_device}; move it first"
        )
    return _C._to_dlpack(self, max_version, copy)


def __dlpack_device__(self: Tensor) -> tuple[int, int]:
    return (2, self.device.index) if self.is_cuda else (1, 0)


def _rebuild(
    cls: type[Tensor],
    data: bytes,
    dtype: Any,
    shape: tuple[int, ...],
    requires_grad: bool,
    device: str = "cpu",
) -> Tensor:
    import numpy as np

    import pydlx

    array = np.frombuffer(bytearray(data), dtype=np.uint8)
    flat = _C.from_numpy(array)
    made = _C.empty(shape, dtype=dtype, device="cpu") if 0 in shape else flat.view(dtype).reshape(shape)
    if device != "cpu":
        if not pydlx.cuda.is_available() or int(device.partition(":")[2]) >= pydlx.cuda.device_count():
            raise RuntimeError(
                f"[pickle] device: the tensor was pickled on {device}, which is not here; pickle its .cpu(), or use "
                "pydlx.save and pydlx.load, which has a map_location"
            )
        made = made.to(device)
    rebuilt: Tensor = Tensor._make_subclass(cls, made, requires_grad)
    return rebuilt


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(_C._to_numpy(flat.view(_C.uint8), True).tobytes()) if flat.numel() else b""


def __reduce_ex__(self: Tensor, protocol: int) -> Any:
    if self.requires_grad and not self.is_leaf:
        raise RuntimeError(
            "[pickle] only leaf tensors can be pickled: this one is the result of an operation; use detach() first"
        )
    state = (type(self), _bytes_of(self), self.dtype, tuple(self.shape), self.requires_grad, str(self.device))
    return (_rebuild, state, self.__dict__ or None)


def __deepcopy__(self: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(self) in memo:
        return memo[id(self)]  # type: ignore[no-any-return]
    if self.requires_grad and not self.is_leaf:
        raise RuntimeError("[deepcopy] only leaf tensors can be deep-copied; use clone() or detach() first")
    copy: Tensor = Tensor._make_subclass(type(self), self.detach().clone(), self.requires_grad)
    memo[id(self)] = copy
    if self.grad is not None:
        copy.grad = self.grad.detach().clone()
    for key, value in self.__dict__.items():
        copy.__dict__[key] = copy_module.deepcopy(value, memo)
    return copy


def __format__(self: Tensor, spec: str) -> str:
    if self.ndim == 0 and type(self) is Tensor:
        return format(self.item(), spec)
    return format(str(self), spec) if spec else str(self)


def __contains__(self: Tensor, element: Any) -> bool:
    return bool((self == element).any())


def type_(self: Tensor, dtype: Any = None, non_blocking: bool = False, *, memory_format: Any = None) -> Any:
    """Without argument the name of the tensor's type; with a dtype, or such a name, the converted tensor."""
    if dtype is None:
        return _legacy.type_name(self.dtype)
    return self.to(_legacy.dtype_of(dtype), memory_format=memory_format)


def where(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """The tensor's elements where ``condition`` holds, those of ``other`` elsewhere."""
    return _C.where(condition, self, other)


def is_nonzero(self: Tensor) -> bool:
    """Whether a one-element tensor is not zero."""
    return bool(self)


def is_pinned(self: Tensor, device: Any = None) -> bool:
    """Whether the tensor lies in host memory that a GPU reads and writes directly."""
    return bool(_C._cuda.is_pinned(self))


def record_stream(self: Tensor, stream: Any) -> None:
    """Tells the GPU's allocator that ``stream`` uses the tensor too: its memory is reused only after that work."""
    _C._cuda.record_stream(self, stream._handle)


def apply_(self: Tensor, callable: Callable[[Any], Any]) -> Tensor:
    """Replaces every element by ``callable(element)``, one Python call each."""
    changed = [callable(value) for value in self.detach().reshape(-1).tolist()]
    return self.copy_(_C._tensor_from_data(changed, self.dtype, None).reshape(tuple(self.shape)))


def sum_to_size(self: Tensor, *size: Any) -> Tensor:
    """Sums the axes along which ``size`` would be broadcast to this tensor's shape."""
    wanted = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
    lead = self.ndim - len(wanted)
    if lead < 0 or any(w not in (1, s) for w, s in zip(wanted, self.shape[lead:])):
        raise _C.ShapeError(f"[sum_to_size] size: expected a shape that expands to {self.shape}, got {wanted}")
    axes = [*range(lead), *(lead + i for i, w in enumerate(wanted) if w == 1)]
    return self.sum(axes, keepdim=True).reshape(wanted) if axes else self


def dim(self: Tensor) -> int:
    """Number of dimensions."""
    return self.ndim


def element_size(self: Tensor) -> int:
    """Bytes per element."""
    return self.itemsize


def is_floating_point(self: Tensor) -> bool:
    """Whether the dtype is a float."""
    return self.dtype.is_floating_point


def pin_memory(self: Tensor) -> Tensor:
    """A copy in host memory that a GPU reads and writes directly; without a GPU the tensor itself."""
    if not _C._cuda.device_count() or self.is_pinned():
        return self
    pinned: Tensor = _C._cuda.pin_memory(self)
    return pinned


def get_device(self: Tensor) -> int:
    """Index of the GPU, or -1 for the CPU."""
    return self.device.index if self.is_cuda else -1


def share_memory_(self: Tensor) -> Tensor:
    """Not available: tensors cannot be placed in shared memory."""
    raise NotImplementedError(
        "[share_memory_] tensors cannot be moved to shared memory; send them through a queue instead"
    )


def _install() -> None:
    methods: dict[str, Any] = {
        "register_hook": register_hook,
        "register_post_accumulate_grad_hook": register_post_accumulate_grad_hook,
        "numpy": numpy,
        "__array__": __array__,
        "__array_wrap__": __array_wrap__,
        "__dlpack__": __dlpack__,
        "__dlpack_device__": __dlpack_device__,
        "__reduce_ex__": __reduce_ex__,
        "__deepcopy__": __deepcopy__,
        "__format__": __format__,
        "__contains__": __contains__,
        "type": type_,
        "dim": dim,
        "ndimension": dim,
        "element_size": element_size,
        "is_floating_point": is_floating_point,
        "is_nonzero": is_nonzero,
        "is_pinned": is_pinned,
        "apply_": apply_,
        "sum_to_size": sum_to_size,
        "where": where,
        **{name: getattr(_composed, name) for name in _composed.METHODS},
        "pin_memory": pin_memory,
        "record_stream": record_stream,
        "get_device": get_device,
        "share_memory_": share_memory_,
    }
    for name, method in methods.items():
        setattr(Tensor, name, method)
    Tensor.__array_priority__ = 1000  # NumPy leaves mixed operators to the tensor
    Tensor.is_cpu = property(lambda self: not self.is_cuda)
    Tensor.is_sparse = property(lambda self: False)
    Tensor.is_quantized = property(lambda self: False)
    Tensor.layout = property(lambda self: _layout())
    Tensor.__module__ = "pydlx"
    for name, method in (("register_hook", _node_hook), ("register_prehook", _node_prehook)):
        setattr(_C.Node, name, method)


def _layout() -> Any:
    from ._namespace import strided

    return strided


_install()
