"""Nested Python values as JSON, with the tensors taken out and named.

Strings, booleans, None, integers, finite floats, lists, and dicts with plain string keys are themselves. Everything
else is an object with one key that starts with ``$``::

    {"$tensor": "model.fc.weight", "parameter": true}     {"$tuple": [...]}     {"$dict": [[key, value], ...]}
    {"$float": "nan"}     {"$bytes": "<base64>"}     {"$size": [2, 3]}     {"$dtype": "float32"}     {"$device": "cpu"}
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict
from typing import Any

import pydlx

from .. import Tensor
from .. import device as Device
from .. import dtype as DType
from .._C import Size

__all__ = ["decode", "encode"]

_MAX_DEPTH = 200


def encode(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split a value into its JSON form and its tensors.

    Raises:
        TypeError: a type that has no JSON form, named with its place. ValueError: nested in itself, or too deeply.
    """
    encoder = _Encoder()
    return encoder.walk(value, ()), encoder.tensors


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[int, str] = {}
        self.open: set[int] = set()

    def walk(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if isinstance(value, Tensor):
            return self.tensor(value, path)
        if isinstance(value, bytes):
            return {"$bytes": base64.b64encode(value).decode()}
        if isinstance(value, Size):
            return {"$size": list(value)}
        if isinstance(value, DType):
            return {"$dtype": str(value).split(".")[-1]}
        if isinstance(value, Device):
            return {"$device": str(value)}
        if hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            return self.walk(value.item(), path)  # a NumPy number
        if isinstance(value, (bool, int, float, str)):  # subclasses, such as enumerations of them
            return self.walk(next(base for base in (bool, int, float, str) if isinstance(value, base))(value), path)
        if isinstance(value, (list, tuple, dict, set, frozenset)):
            return self.container(value, path)
        raise TypeError(
            f"[save] {_place(path)}: expected tensors, numbers, strings, bytes, None, lists, tuples, sets or dicts, "
            f"got {kind.__module__}.{kind.__qualname__}; save its state_dict() or its fields instead"
        )

    def container(self, value: Any, path: tuple[Any, ...]) -> Any:
        if id(value) in self.open:
            raise ValueError(f"[save] {_place(path)}: expected a tree, got a container that holds itself")
        if len(path) > _MAX_DEPTH:
            raise ValueError(f"[save] {_place(path)}: expected at most {_MAX_DEPTH} levels, got more")
        self.open.add(id(value))
        try:
            if isinstance(value, dict):
                if type(value) is dict and all(type(k) is str and not k.startswith("$") for k in value):
                    return {k: self.walk(v, (*path, k)) for k, v in value.items()}
                pairs = [[self.walk(k, (*path, k)), self.walk(v, (*path, k))] for k, v in value.items()]
                tag = {OrderedDict: "$ordered", Counter: "$counter"}.get(type(value), "$dict")
                return {tag: pairs}
            items = [self.walk(v, (*path, i)) for i, v in enumerate(value)]
            if isinstance(value, list):
                return items
            return {"$tuple" if isinstance(value, tuple) else "$set": items}
        finally:
            self.open.discard(id(value))

    def tensor(self, value: Tensor, path: tuple[Any, ...]) -> dict[str, Any]:
        name = self.names.get(id(value))
        if name is None:  # the same tensor met twice is stored once and shared again after loading
            stem = ".".join(str(part) for part in path) or "tensor"
            if stem == "__metadata__":
                stem = "_metadata"
            name, n = stem, 1
            while name in self.tensors:
                n += 1
                name = f"{stem}#{n}"
            self.names[id(value)] = name
            self.tensors[name] = value
        node: dict[str, Any] = {"$tensor": name}
        if isinstance(value, pydlx.nn.Parameter):
            node["parameter"] = True
        if value.requires_grad and value.is_leaf:
            node["requires_grad"] = True
        return node


def decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    """Rebuild the value that ``encode`` split.

    Raises:
        ValueError: a form ``encode`` does not produce.
    """
    try:
        return _Decoder(tensors).walk(node)
    except RecursionError:
        raise ValueError("[load] structure: expected a shallow tree, got deep nesting") from None


class _Decoder:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.made: dict[str, Tensor] = {}

    def walk(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        tag = next((key for key in node if key.startswith("$")), None)
        if tag is None:
            return {key: self.walk(value) for key, value in node.items()}
        body = node[tag]
        try:
            return self.tagged(tag, body, node)
        except (TypeError, AttributeError, KeyError, ValueError, RuntimeError) as error:
            if str(error).startswith("[load] structure"):
                raise
            raise ValueError(
                f"[load] structure: expected a valid {tag[:20]!r}, got {str(body)[:80]!r} ({error})"
            ) from None

    def tagged(self, tag: str, body: Any, node: dict[str, Any]) -> Any:
        if tag == "$tensor":
            return self.tensor(body, node)
        if tag == "$tuple":
            return tuple(self.walk(item) for item in body)
        if tag == "$set":
            return {self.walk(item) for item in body}
        if tag in ("$dict", "$ordered", "$counter"):
            pairs = [(self.walk(key), self.walk(value)) for key, value in body]
            if tag == "$counter":
                return Counter(dict(pairs))
            return OrderedDict(pairs) if tag == "$ordered" else dict(pairs)
        if tag == "$float" and body in ("nan", "inf", "-inf"):
            return float(body)
        if tag == "$bytes":
            return base64.b64decode(body, validate=True)
        if tag == "$size" and all(type(size) is int for size in body):
            return Size(body)
        if tag == "$dtype":
            found = getattr(pydlx, body, None)
            if isinstance(found, DType):
                return found
        if tag == "$device":
            return Device(body)
        raise ValueError(f"[load] structure: expected a known form, got {tag[:40]!r}: {str(body)[:80]!r}")

    def tensor(self, name: str, node: dict[str, Any]) -> Tensor:
        if name not in self.tensors:
            raise ValueError(f"[load] structure: expected a stored tensor, got the name {str(name)[:80]!r}")
        if name not in self.made:
            tensor = self.tensors[name]
            wants_grad = bool(node.get("requires_grad", False))
            if node.get("parameter"):
                tensor = pydlx.nn.Parameter(tensor, requires_grad=wants_grad)
            elif wants_grad:
                tensor.requires_grad_()
            self.made[name] = tensor
        return self.made[name]


def _place(path: tuple[Any, ...]) -> str:
    return "obj" + "".join(f"[{part!r}]" for part in path)
