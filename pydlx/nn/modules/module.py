"""Module: the base of everything with parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from ..._C import Tensor, bfloat16, empty_like, float16, float32, float64
from ..._C import device as Device
from ..._C import dtype as DType
from ...autograd import no_grad
from ..parameter import Buffer, Parameter
from ._hooks import (
    HookMixin,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
)
from ._state import IncompatibleKeys, StateMixin
from ._tree import TreeMixin

__all__ = [
    "IncompatibleKeys",
    "Module",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
]

Self = TypeVar("Self", bound="Module")
_HOOK_TABLES = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class Module(HookMixin, StateMixin, TreeMixin):
    """Base of all neural network modules: a tree of parameters, buffers and child modules with a ``forward``.

    Assigning a :class:`Parameter`, a :class:`Buffer` or a Module to an attribute registers it under that name::

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(8, 2)

            def forward(self, x):
                return self.layer(x).relu()

    Calling the module calls ``forward`` together with the registered hooks. ``training`` tells dropout and
    normalisation which behaviour is wanted; ``train()`` and ``eval()`` set it for the whole tree.
    """

    training: bool
    forward: Callable[..., Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:
            got = [repr(a) for a in args] + [f"{k}={v!r}" for k, v in kwargs.items()]
            raise TypeError(f"[{type(self).__name__}] Module.__init__: expected no arguments, got {', '.join(got)}")
        # Written into __dict__ directly: __setattr__ below looks these tables up.
        state = self.__dict__
        state["training"] = True
        state["_parameters"] = {}
        state["_buffers"] = {}
        state["_modules"] = {}
        state["_non_persistent_buffers_set"] = set()
        for table in _HOOK_TABLES:
            state[table] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[no-redef]
        """What the module computes; every subclass defines it."""
        raise NotImplementedError(f"[{type(self).__name__}] forward: expected a method of the subclass, got none")

    # --- registration -------------------------------------------------------------------------------------------

    def _check_name(self, name: str, kind: str, table: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"[{type(self).__name__}] {name}: expected super().__init__() to run first, got none")
        if not isinstance(name, str):
            raise TypeError(f"[register_{kind}] name: expected str, got {type(name).__name__}")
        if not name or "." in name:
            raise KeyError(f"[register_{kind}] name: expected a non-empty name without dots, got {name!r}")
        if hasattr(self, name) and name not in self.__dict__[table]:
            raise KeyError(f"[register_{kind}] name: expected an unused name, got {name!r}, which exists already")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter under ``name``; None reserves the name for an absent one.

        Raises:
            KeyError: the name is taken, empty or contains a dot.
            TypeError: ``param`` is not a Parameter.
            ValueError: ``param`` is the result of a computation.
        """
        self._check_name(name, "parameter", "_parameters")
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(
                    f"[register_parameter] {name}: expected Parameter or None, got {type(param).__name__}; "
                    "wrap it in nn.Parameter"
                )
            if param.grad_fn is not None:
                raise ValueError(
                    f"[register_parameter] {name}: expected a leaf, got the result of {param.grad_fn}; compute it in "
                    "forward from its parameters instead"
                )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Adds a tensor that belongs to the state but is not trained, such as a running mean.

        Args:
            persistent: whether ``state_dict`` includes it. Default: ``True``.
        """
        self._check_name(name, "buffer", "_buffers")
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"[register_buffer] {name}: expected Tensor or None, got {type(tensor).__name__}")
        self._buffers[name] = tensor
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Adds a child module under ``name``."""
        self._check_name(name, "module", "_modules")
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"[add_module] {name}: expected Module or None, got {type(module).__name__}")
        self._modules[name] = module

    register_module = add_module

    def __getattr__(self, name: str) -> Any:
        state = self.__dict__
        if "_parameters" in state:
            group = state["_parameters"]
            if name in group:
                return group[name]
            group = state["_modules"]
            if name in group:
                return group[name]
            group = state["_buffers"]
            if name in group:
                return group[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'", name=name, obj=self)

    def _forget(self, name: str) -> None:
        self.__dict__.pop(name, None)
        for table in ("_parameters", "_buffers", "_modules"):
            self.__dict__[table].pop(name, None)
        self._non_persistent_buffers_set.discard(name)

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__
        kind = Parameter if isinstance(value, Parameter) else Module if isinstance(value, Module) else None
        if "_parameters" not in state:
            if kind is not None:
                raise AttributeError(
                    f"[{type(self).__name__}] {name}: expected super().__init__() to run before a {kind.__name__} is "
                    "assigned, got none"
                )
            object.__setattr__(self, name, value)
        elif kind is Parameter:
            if name not in state["_parameters"]:
                self._forget(name)
            self.register_parameter(name, value)
        elif name in state["_parameters"]:
            if value is not None:
                raise TypeError(
                    f"[{type(self).__name__}] {name}: expected Parameter or None, got {type(value).__name__}; wrap it "
                    "in nn.Parameter"
                )
            state["_parameters"][name] = None
        elif kind is Module:
            if name not in state["_modules"]:
                self._forget(name)
            state["_modules"][name] = value
        elif name in state["_modules"]:
            if value is not None:
                raise TypeError(f"[{type(self).__name__}] {name}: expected Module or None, got {type(value).__name__}")
            state["_modules"][name] = None
        elif isinstance(value, Buffer):
            if name not in state["_buffers"]:
                self._forget(name)
            self.register_buffer(name, value, value.persistent)
        elif name in state["_buffers"]:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"[{type(self).__name__}] {name}: expected Tensor or None, got {type(value).__name__}")
            state["_buffers"][name] = value
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        for table in ("_parameters", "_buffers", "_modules"):
            group = self.__dict__.get(table, {})
            if name in group:
                del group[name]
                self._non_persistent_buffers_set.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        names = set(object.__dir__(self)) | {*self._parameters, *self._buffers, *self._modules}
        return sorted(name for name in names if not name[:1].isdigit())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for table in _HOOK_TABLES:
            self.__dict__.setdefault(table, {})
        self.__dict__.setdefault("_non_persistent_buffers_set", set())

    # --- whole-tree changes -------------------------------------------------------------------------------------

    def apply(self: Self, fn: Callable[[Module], None]) -> Self:
        """Calls ``fn`` on every descendant, children first, then on this module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Replaces the values of all parameters, their gradients and all buffers by ``fn`` of them.

        Parameters stay the same objects, so an optimiser built before the change keeps working.
        """
        if recurse:
            for module in self.children():
                module._apply(fn)
        with no_grad():
            for param in self._parameters.values():
                if param is not None:
                    grad = param.grad
                    param.data = fn(param.data)
                    if grad is not None:
                        param.grad = fn(grad)
            for name, buffer in self._buffers.items():
                if buffer is not None:
                    self._buffers[name] = fn(buffer)
        return self

    @overload
    def to(self: Self, device: Any = ..., dtype: DType | None = ..., non_blocking: bool = ...) -> Self: ...
    @overload
    def to(self: Self, dtype: DType, non_blocking: bool = ...) -> Self: ...
    @overload
    def to(self: Self, tensor: Tensor, non_blocking: bool = ...) -> Self: ...
    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Moves and converts parameters and buffers in place: ``to(device)``, ``to(dtype)``, ``to(device, dtype)``,
        ``to(tensor)``, ``to(memory_format=...)``. Integer tensors keep their dtype; a memory format applies to
        tensors of 4 or 5 axes.

        Raises:
            TypeError: ``dtype`` is not a floating point type.
        """
        device, dtype, non_blocking, layout = _parse_to(args, kwargs)
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError(f"[Module.to] dtype: expected a floating point dtype, got {dtype}")

        def convert(tensor: Tensor) -> Tensor:
            target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            place = tensor.device if device is None else device
            if layout is not None and tensor.ndim in (4, 5):
                return tensor.to(place, target, non_blocking, memory_format=layout)
            return tensor.to(place, target, non_blocking)

        return self._apply(convert)

    def to_empty(self: Self, *, device: Any, recurse: bool = True) -> Self:
        """Moves to ``device`` without copying: all values are undefined afterwards."""
        return self._apply(lambda t: empty_like(t, device=device), recurse)

    def cpu(self: Self) -> Self:
        """Moves everything to the CPU."""
        return self._apply(lambda t: t.cpu())

    def cuda(self: Self, device: Any = None) -> Self:
        """Moves everything to a CUDA device, by default the current one."""
        return self._apply(lambda t: t.cuda(device))

    def type(self: Self, dst_type: Any) -> Self:
        """Converts all parameters and buffers, integers too."""
        return self._apply(lambda t: t.type(dst_type))

    def _cast(self: Self, dtype: DType) -> Self:
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def float(self: Self) -> Self:
        """Converts floating point parameters and buffers to float32."""
        return self._cast(float32)

    def double(self: Self) -> Self:
        """Converts floating point parameters and buffers to float64."""
        return self._cast(float64)

    def half(self: Self) -> Self:
        """Converts floating point parameters and buffers to float16."""
        return self._cast(float16)

    def bfloat16(self: Self) -> Self:
        """Converts floating point parameters and buffers to bfloat16."""
        return self._cast(bfloat16)

    def share_memory(self: Self) -> Self:
        """Moves the storage of all parameters and buffers to shared memory."""
        return self._apply(lambda t: t.share_memory_())

    def train(self: Self, mode: bool = True) -> Self:
        """Sets training behaviour (dropout active, batch statistics) for the whole tree."""
        if not isinstance(mode, bool):
            raise ValueError(f"[train] mode: expected bool, got {type(mode).__name__}")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self: Self) -> Self:
        """Sets evaluation behaviour for the whole tree."""
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Freezes or unfreezes all parameters."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops all gradients, or fills them with zeros if ``set_to_none`` is False."""
        for param in self.parameters():
            if param.grad is not None:
                if set_to_none:
                    param.grad = None
                else:
                    param.grad = param.grad.detach()
                    param.grad.zero_()

    # --- printing -----------------------------------------------------------------------------------------------

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What stands between the brackets of this module's line; override it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): " + _indent(repr(module)) for name, module in self._modules.items()]
        return _bracket(self._get_name(), lines, children)


def _bracket(name: str, lines: list[str], children: list[str]) -> str:
    if len(lines) <= 1 and not children:
        return f"{name}({''.join(lines)})"
    return f"{name}(\n  " + "\n  ".join(lines + children) + "\n)"


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")


def _parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, DType | None, bool, Any]:
    unknown = set(kwargs) - {"device", "dtype", "tensor", "other", "non_blocking", "copy", "memory_format"}
    if unknown or len(args) > 4:
        raise TypeError(f"[Module.to] expected device, dtype or tensor, got {sorted(unknown) or args}")
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    non_blocking = bool(kwargs.get("non_blocking", False))
    tensor = kwargs.get("tensor", kwargs.get("other"))
    for arg in args:
        if isinstance(arg, DType):
            dtype = arg
        elif isinstance(arg, Tensor):
            tensor = arg
        elif isinstance(arg, bool):
            non_blocking = arg
        elif isinstance(arg, (str, int, Device)):
            device = arg
        elif arg is not None:
            raise TypeError(f"[Module.to] expected device, dtype or tensor, got {type(arg).__name__}")
    if tensor is not None:
        device, dtype = tensor.device, tensor.dtype
    return device, dtype, non_blocking, kwargs.get("memory_format")
