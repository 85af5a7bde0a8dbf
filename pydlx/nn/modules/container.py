"""Modules and parameters held in sequences and dictionaries."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from ..._C import Tensor
from ..parameter import Parameter
from ._neighbours import run
from .module import Module, _bracket, _indent

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]

S = TypeVar("S", bound="_ModuleSequence")


class _ModuleSequence(Module):
    """What Sequential and ModuleList share: children named "0", "1", ... that behave like a list."""

    def _position(self, index: Any) -> int:
        length = len(self._modules)
        position = operator.index(index)
        if not -length <= position < length:
            raise IndexError(f"[{type(self).__name__}] index: expected within {length} modules, got {position}")
        return position % length

    def _key(self, index: Any) -> str:
        return list(self._modules)[self._position(index)]

    def _renumber(self) -> None:
        modules = list(self._modules.values())
        self._modules.clear()
        self._modules.update({str(i): m for i, m in enumerate(modules)})

    def _subset(self: S, part: dict[str, Module | None]) -> S:
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._subset(dict(list(self._modules.items())[index]))
        return self._modules[self._key(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._key(index), module)

    def __delitem__(self, index: int | slice) -> None:
        keys = list(self._modules)[index] if isinstance(index, slice) else [self._key(index)]
        for key in keys:
            delattr(self, key)
        self._renumber()

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def append(self: S, module: Module) -> S:
        """Adds a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self: S, modules: Iterable[Module]) -> S:
        """Adds several modules at the end."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"[{type(self).__name__}.extend] modules: expected an iterable, got {type(modules).__name__}"
            )
        for module in list(modules):
            self.append(module)
        return self

    def insert(self: S, index: int, module: Module) -> S:
        """Puts a module before position ``index``."""
        if not isinstance(module, Module):
            raise TypeError(f"[{type(self).__name__}.insert] module: expected Module, got {type(module).__name__}")
        modules = list(self._modules.values())
        modules.insert(index, module)
        self._modules.clear()
        self._modules.update({str(i): m for i, m in enumerate(modules)})
        return self

    def pop(self, key: int | slice) -> Any:
        """Removes and returns the module (or slice of modules) at ``key``."""
        value = self[key]
        del self[key]
        return value

    def __iadd__(self: S, other: Iterable[Module]) -> S:
        return self.extend(other)


class Sequential(_ModuleSequence):
    """Modules called one after the other: ``Sequential(a, b)(x)`` is ``b(a(x))``.

    Args:
        *args: modules, or one ordered mapping from names to modules.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def _subset(self, part: dict[str, Module | None]) -> Sequential:
        return type(self)(OrderedDict(part))

    def forward(self, input: Any) -> Any:
        """The last module's output. Neighbours such as Linear and ReLU run as one operation."""
        return run(list(self._modules.values()), input)

    def __add__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(f"[Sequential.__add__] other: expected Sequential, got {type(other).__name__}")
        return Sequential(*self, *other)

    def __mul__(self, count: int) -> Sequential:
        return Sequential(*(module for _ in range(self._times(count)) for module in self))

    def __rmul__(self, count: int) -> Sequential:
        return self * count

    def __imul__(self, count: int) -> Sequential:
        modules = list(self)
        for _ in range(self._times(count) - 1):
            self.extend(modules)
        return self

    @staticmethod
    def _times(count: int) -> int:
        if not isinstance(count, int):
            raise TypeError(f"[Sequential.__mul__] count: expected int, got {type(count).__name__}")
        if count <= 0:
            raise ValueError(f"[Sequential.__mul__] count: expected at least 1, got {count}")
        return count


class ModuleList(_ModuleSequence):
    """A list of modules whose parameters are registered; it has no ``forward`` of its own.

    Args:
        modules: the modules to start with.
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def _subset(self, part: dict[str, Module | None]) -> ModuleList:
        return type(self)([m for m in part.values() if m is not None])

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        """Equal neighbours are printed once: ``(0-3): 4 x Linear(...)``."""
        if not len(self):
            return f"{self._get_name()}()"
        runs: list[tuple[int, int, str]] = []
        for i, text in enumerate(repr(module) for module in self):
            if runs and runs[-1][2] == text:
                runs[-1] = (runs[-1][0], i, text)
            else:
                runs.append((i, i, text))
        children = [
            f"({i}): {_indent(text)}" if i == j else f"({i}-{j}): {_indent(f'{j - i + 1} x {text}')}"
            for i, j, text in runs
        ]
        return _bracket(self._get_name(), [], children)


class ModuleDict(Module):
    """A dictionary of modules whose parameters are registered, in insertion order.

    Args:
        modules: mapping from names to modules, or pairs.
    """

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]  # type: ignore[return-value]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Removes all modules."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Removes and returns the module under ``key``."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> Any:
        """The names."""
        return self._modules.keys()

    def items(self) -> Any:
        """Pairs of name and module."""
        return self._modules.items()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def update(self, modules: Any) -> None:
        """Adds modules from a mapping or pairs, replacing equal names."""
        for key, module in _pairs(modules, "ModuleDict.update"):
            self[key] = module


class ParameterList(Module):
    """A list of parameters; tensors put into it become parameters, other objects are kept as they are.

    Args:
        values: what to start with.
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def _key(self, index: Any) -> str:
        position = operator.index(index)
        if not -self._size <= position < self._size:
            raise IndexError(f"[ParameterList] index: expected within {self._size} parameters, got {position}")
        return str(position % self._size)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(getattr(self, str(i)) for i in range(*index.indices(self._size)))
        return getattr(self, self._key(index))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, self._key(index), _as_parameter(value))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, str(i)) for i in range(self._size)])

    def __iadd__(self, values: Iterable[Any]) -> ParameterList:
        return self.extend(values)

    def append(self, value: Any) -> ParameterList:
        """Adds a value at the end."""
        self._size += 1
        self[self._size - 1] = value
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Adds several values at the end."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise TypeError(f"[ParameterList.extend] values: expected an iterable, got {type(values).__name__}")
        for value in list(values):
            self.append(value)
        return self

    def extra_repr(self) -> str:
        """One line per entry."""
        return "\n".join(_entry_line(str(i), value) for i, value in enumerate(self))

    def __repr__(self) -> str:
        return _listing(self._get_name(), self.extra_repr())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("[ParameterList] expected a module with a forward, got a ParameterList")


class ParameterDict(Module):
    """A dictionary of parameters; tensors put into it become parameters, other objects are kept as they are.

    Args:
        parameters: mapping or pairs to start with.
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"[ParameterDict] key: expected str, got {type(key).__name__}")
        self._keys[key] = None
        setattr(self, key, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self._keys))

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def copy(self) -> ParameterDict:
        """A new dictionary with the same parameters."""
        return ParameterDict(OrderedDict(self.items()))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value under ``key``, storing ``default`` first if there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Removes all entries."""
        for key in list(self._keys):
            del self[key]

    def pop(self, key: str) -> Any:
        """Removes and returns the value under ``key``."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Removes and returns the newest entry."""
        key = next(reversed(self._keys))
        return key, self.pop(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value under ``key`` or ``default``."""
        value = self[key] if key in self._keys else default
        return value

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new dictionary with ``default`` under every key."""
        return ParameterDict((key, default) for key in keys)

    def keys(self) -> Any:
        """The names."""
        return self._keys.keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Pairs of name and value."""
        return [(key, self[key]) for key in self._keys]

    def values(self) -> Iterable[Any]:
        """The values."""
        return [self[key] for key in self._keys]

    def update(self, parameters: Any) -> None:
        """Adds entries from a mapping or pairs, replacing equal names."""
        for key, value in _pairs(parameters, "ParameterDict.update"):
            self[key] = value

    def extra_repr(self) -> str:
        """One line per entry."""
        return "\n".join(_entry_line(key, value) for key, value in self.items())

    def __repr__(self) -> str:
        return _listing(self._get_name(), self.extra_repr())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("[ParameterDict] expected a module with a forward, got a ParameterDict")

    def __or__(self, other: ParameterDict) -> ParameterDict:
        merged = self.copy()
        merged.update(other)
        return merged

    def __ior__(self, other: ParameterDict) -> ParameterDict:
        self.update(other)
        return self


def _pairs(source: Any, where: str) -> Iterable[tuple[str, Any]]:
    if isinstance(source, (Mapping, ModuleDict, ParameterDict)):
        return list(source.items())
    if not isinstance(source, Iterable):
        raise TypeError(f"[{where}] expected a mapping or pairs, got {type(source).__name__}")
    pairs = [tuple(pair) for pair in source]
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"[{where}] expected pairs (name, value), got {len(pair)} items")
    return pairs


def _as_parameter(value: Any) -> Any:
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


def _listing(name: str, extra: str) -> str:
    return (
        f"{name}(\n" + "\n".join("    " + line.strip() for line in extra.split("\n")) + "\n)" if extra else f"{name}()"
    )


def _entry_line(key: str, value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"({key}): Object of type: {type(value).__name__}"
    kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
    place = "" if value.device.type == "cpu" else f" ({value.device})"
    return f"({key}): {kind} containing: [{value.dtype} of size {'x'.join(map(str, value.shape))}{place}]"
