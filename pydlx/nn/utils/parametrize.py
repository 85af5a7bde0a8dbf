"""Parameters that are computed: ``module.weight`` becomes a function of other, trained tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..._C import Tensor
from ...autograd import no_grad
from ..modules.container import ModuleDict, ModuleList
from ..modules.module import Module
from ..parameter import Parameter

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
]

# Inside cached() every parametrised tensor is computed once. Keyed by the list's id and the tensor's name.
_cache: dict[tuple[int, str], Tensor] = {}
_cache_depth = 0


@contextmanager
def cached() -> Iterator[None]:
    """Computes every parametrised tensor once inside the block, for modules that read it several times."""
    global _cache_depth
    _cache_depth += 1
    try:
        yield
    finally:
        _cache_depth -= 1
        if not _cache_depth:
            _cache.clear()


class ParametrizationList(ModuleList):
    """The functions that make one tensor, applied in order, and the tensors they start from.

    The stored tensors are called ``original``, or ``original0``, ``original1``, ... when the first function's
    ``right_inverse`` returns several.
    """

    def __init__(self, modules: list[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        with no_grad():
            values: Any = original
            for module in reversed(modules):
                if hasattr(module, "right_inverse"):
                    values = module.right_inverse(values)
        self.is_tensor = isinstance(values, Tensor)
        self.ntensors = 1 if self.is_tensor else len(values)
        for name, value in zip(self._names(), [values] if self.is_tensor else values, strict=True):
            if isinstance(original, Parameter) and self.is_tensor:
                original.data = value.detach()
                self.register_parameter(name, original)
            elif isinstance(original, Parameter):
                self.register_parameter(name, Parameter(value.detach(), original.requires_grad))
            else:
                self.register_buffer(name, value.detach())
        result = self()
        if not unsafe and (result.shape != original.shape or result.dtype != original.dtype) and self.is_tensor:
            raise ValueError(
                f"[register_parametrization] parametrization: expected to keep shape {tuple(original.shape)} and "
                f"{original.dtype}, got {tuple(result.shape)} and {result.dtype}; pass unsafe=True to allow it"
            )

    def _names(self) -> list[str]:
        return ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]

    def right_inverse(self, value: Tensor) -> None:
        """Sets the stored tensors so that the parametrised one becomes ``value``."""
        with no_grad():
            values: Any = value
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(
                        f"[right_inverse] {type(module).__name__}: expected a right_inverse method to assign through"
                    )
                values = module.right_inverse(values)
            for name, item in zip(self._names(), [values] if self.is_tensor else values, strict=True):
                getattr(self, name).copy_(item)

    def forward(self) -> Tensor:
        """The parametrised tensor."""
        first, *others = list(self)
        value = first(*(getattr(self, name) for name in self._names()))
        for module in others:
            value = module(value)
        return value  # type: ignore[no-any-return]


def _property(name: str) -> property:
    def get(module: Any) -> Tensor:
        chain = module.parametrizations[name]
        if not _cache_depth:
            return chain()  # type: ignore[no-any-return]
        key = (id(chain), name)
        if key not in _cache:
            _cache[key] = chain()
        return _cache[key]

    def put(module: Any, value: Tensor) -> None:
        module.parametrizations[name].right_inverse(value)

    return property(get, put)


def _parametrized_class(cls: type[Module]) -> type[Module]:
    """A subclass made for one instance, to carry its properties. It copies but does not pickle: save its state_dict."""

    def __getstate__(self: Module) -> Any:
        raise RuntimeError(
            f"[pickle] {cls.__name__}: expected a module without parametrizations; save its state_dict() instead"
        )

    def __deepcopy__(self: Module, memo: dict[int, Any]) -> Any:
        # The twin gets the same class: its properties only look at the instance they are called on.
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items()})
        return twin

    def setattr_(self: Module, name: str, value: Any) -> None:
        # Module.__setattr__ would register a Parameter or tensor under the name instead of calling the property.
        if isinstance(type(self).__dict__.get(name), property):
            object.__setattr__(self, name, value)
        else:
            Module.__setattr__(self, name, value)

    body = {"__getstate__": __getstate__, "__deepcopy__": __deepcopy__, "__setattr__": setattr_}
    return type(f"Parametrized{cls.__name__}", (cls,), body)


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a module, or one of its tensors, is parametrised."""
    chains = module.__dict__.get("_modules", {}).get("parametrizations")
    if not isinstance(chains, ModuleDict):
        return False
    return len(chains) > 0 if tensor_name is None else tensor_name in chains


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Makes ``module.<tensor_name>`` the output of ``parametrization``; a second call adds to the chain.

    Args:
        module: holds the tensor. tensor_name: of a parameter or buffer.
        parametrization: ``forward(original)`` gives the tensor; ``right_inverse(tensor)``, if it has one, gives the
            value to start from and allows assignment.
        unsafe: allow a change of shape or dtype. Default: ``False``.
    """
    if is_parametrized(module, tensor_name):
        chain: Any = module.parametrizations[tensor_name]
        with no_grad():
            before = getattr(module, tensor_name)
            if hasattr(parametrization, "right_inverse"):
                chain.right_inverse(parametrization.right_inverse(before))
        chain.append(parametrization)
        return module
    original: Tensor | None = module._parameters.get(tensor_name)
    if original is None:
        original = module._buffers.get(tensor_name)
    if original is None:
        raise ValueError(
            f"[register_parametrization] tensor_name: expected a parameter or buffer of {type(module).__name__}, "
            f"got {tensor_name!r}"
        )
    chain = ParametrizationList([parametrization], original, unsafe)
    parametrization.train(module.training)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        module.__class__ = _parametrized_class(type(module))
        module.parametrizations = ModuleDict()
    setattr(type(module), tensor_name, _property(tensor_name))
    module.parametrizations[tensor_name] = chain
    return module


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Makes ``module.<tensor_name>`` a plain parameter again.

    Args:
        leave_parametrized: keep the computed value (default) instead of the stored original.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(
            f"[remove_parametrizations] tensor_name: expected a parametrised tensor of {type(module).__name__}, "
            f"got {tensor_name!r}"
        )
    chain: Any = module.parametrizations[tensor_name]
    if not leave_parametrized and not chain.is_tensor:
        raise ValueError("[remove_parametrizations] leave_parametrized: expected True for several originals, got False")
    with no_grad():
        value = (getattr(module, tensor_name) if leave_parametrized else chain.original).detach().clone()
    first = getattr(chain, chain._names()[0])
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    if isinstance(first, Parameter):
        if chain.is_tensor:
            first.data = value
            module.register_parameter(tensor_name, first)
        else:
            module.register_parameter(tensor_name, Parameter(value, first.requires_grad))
    else:
        module.register_buffer(tensor_name, value)
    if not is_parametrized(module):
        delattr(module, "parametrizations")
        module.__class__ = type(module).__bases__[0]
    return module
