"""Writes pydlx/_C.pyi from the op signatures that the extension carries, plus the hand-written part below.

Usage: python tools/make_stubs.py [--check]. With --check nothing is written and the exit status tells whether the file is current.
"""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

import pydlx
from pydlx import _C

TARGET = Path(__file__).resolve().parent.parent / "pydlx" / "_C.pyi"

TYPES = {
    "Tensor": "Tensor",
    "Operand": "Tensor | Number",
    "Tensor[]": "Sequence[Tensor]",
    "Tensor[*]": "Tensor | Sequence[Tensor]",
    "Number": "Number",
    "int": "builtins.int",
    "float": "builtins.float",
    "bool": "builtins.bool",
    "str": "builtins.str",
    "dtype": "DTypeLike",
    "device": "DeviceLike",
    "Generator": "Generator",
    "object": "Any",
    "Scalar": "Number",
    "None": "None",
}

HEADER = '''"""Types of the native core. Written by tools/make_stubs.py from the signatures in csrc/bind; do not edit."""

import builtins
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, overload

Number: TypeAlias = builtins.int | builtins.float | builtins.bool
DTypeLike: TypeAlias = "dtype | type[Any]"
DeviceLike: TypeAlias = "device | builtins.str | builtins.int"

class ShapeError(ValueError): ...
class DTypeError(TypeError): ...
class DeviceError(RuntimeError): ...
class OutOfMemoryError(MemoryError): ...
class GradientError(RuntimeError): ...

class dtype:
    @property
    def is_floating_point(self) -> builtins.bool: ...
    @property
    def is_complex(self) -> builtins.bool: ...
    @property
    def is_signed(self) -> builtins.bool: ...
    @property
    def itemsize(self) -> builtins.int: ...

class device:
    def __init__(self, type: Any, index: builtins.int | None = None) -> None: ...
    @property
    def type(self) -> builtins.str: ...
    @property
    def index(self) -> builtins.int: ...
    def __enter__(self) -> device: ...
    def __exit__(self, *error: Any) -> None: ...

class Generator:
    device: Any
    def __init__(self, device: Any = None) -> None: ...
    def manual_seed(self, seed: builtins.int) -> Generator: ...
    def initial_seed(self) -> builtins.int: ...
    def seed(self) -> builtins.int: ...
    def get_state(self) -> Tensor: ...
    def set_state(self, new_state: Tensor) -> Generator: ...
    def clone_state(self) -> Generator: ...
    def _get_state(self) -> tuple[builtins.int, builtins.int]: ...
    def _set_state(self, seed: builtins.int, offset: builtins.int) -> None: ...

class Size(tuple[builtins.int, ...]):
    def __new__(cls, sizes: Any = (), /) -> Size: ...
    def numel(self) -> builtins.int: ...

class Node:
    def name(self) -> builtins.str: ...
    @property
    def next_functions(self) -> tuple[Any, ...]: ...
    def register_hook(self, hook: Callable[..., Any]) -> Any: ...
    def register_prehook(self, hook: Callable[..., Any]) -> Any: ...
    def _add_hook(self, hook: Callable[..., Any]) -> builtins.int: ...
    def _add_prehook(self, hook: Callable[..., Any]) -> builtins.int: ...
    def _remove_hook(self, number: builtins.int) -> None: ...

default_generator: Generator
_cuda: Any  # services of the GPU backend; pydlx.cuda is the typed interface
'''

# Methods written in C or installed by pydlx/_tensor.py; operators.
TENSOR = """
class Tensor:
    shape: Size
    ndim: builtins.int
    dtype: dtype
    device: device
    requires_grad: builtins.bool
    is_leaf: builtins.bool
    grad: Tensor | None
    grad_fn: Node | None
    data: Tensor
    T: Tensor
    mT: Tensor
    itemsize: builtins.int
    nbytes: builtins.int
    is_cuda: builtins.bool
    is_cpu: Any
    __array_priority__: Any
    retains_grad: builtins.bool
    output_nr: builtins.int
    _version: builtins.int
    _base: Tensor | None
    layout: Any
    is_sparse: Any
    is_quantized: Any
    def __init__(self, *args: Any) -> None: ...
    @staticmethod
    def _make_subclass(cls: Any, data: Tensor, requires_grad: builtins.bool = False) -> Any: ...
    def data_ptr(self) -> builtins.int: ...
    def numel(self) -> builtins.int: ...
    def nelement(self) -> builtins.int: ...
    def item(self) -> Any: ...
    @overload
    def size(self, dim: None = None) -> Size: ...
    @overload
    def size(self, dim: builtins.int) -> builtins.int: ...
    def stride(self, dim: builtins.int | None = None) -> Any: ...
    def storage_offset(self) -> builtins.int: ...
    def is_inference(self) -> builtins.bool: ...
    def register_hook(self, hook: Callable[[Tensor], Any]) -> Any: ...
    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Any: ...
    def numpy(self, *, force: builtins.bool = False) -> Any: ...
    def type(
        self, dtype: Any = None, non_blocking: builtins.bool = False, *, memory_format: Any = None
    ) -> Any: ...
    def dim(self) -> builtins.int: ...
    def ndimension(self) -> builtins.int: ...
    def element_size(self) -> builtins.int: ...
    def is_floating_point(self) -> builtins.bool: ...
    def is_complex(self) -> builtins.bool: ...
    def is_same_size(self, other: Tensor) -> builtins.bool: ...
    def is_signed(self) -> builtins.bool: ...
    def is_nonzero(self) -> builtins.bool: ...
    def is_pinned(self, device: Any = None) -> builtins.bool: ...
    def apply_(self, callable: Callable[[Any], Any]) -> Tensor: ...
    def sum_to_size(self, *size: Any) -> Tensor: ...
    def where(self, condition: Tensor, other: Any) -> Tensor: ...
    def corrcoef(self) -> Tensor: ...
    def cov(self, **kwargs: Any) -> Tensor: ...
    def cross(self, other: Tensor, dim: builtins.int | None = None) -> Tensor: ...
    def dist(self, other: Tensor, p: builtins.float = 2) -> Tensor: ...
    def gcd(self, other: Tensor) -> Tensor: ...
    def lcm(self, other: Tensor) -> Tensor: ...
    def nextafter(self, other: Tensor) -> Tensor: ...
    def nanquantile(self, q: Any, dim: builtins.int | None = None, keepdim: builtins.bool = False, *, interpolation: builtins.str = "linear") -> Tensor: ...
    def renorm(self, p: builtins.float, dim: builtins.int, maxnorm: builtins.float) -> Tensor: ...
    def index_reduce(self, dim: builtins.int, index: Tensor, source: Tensor, reduce: builtins.str, *, include_self: builtins.bool = True) -> Tensor: ...
    def pin_memory(self) -> Tensor: ...
    def record_stream(self, stream: Any) -> None: ...
    def get_device(self) -> builtins.int: ...
    def share_memory_(self) -> Tensor: ...
    def __len__(self) -> builtins.int: ...
    def __iter__(self) -> Iterator[Tensor]: ...
    def __getitem__(self, key: Any) -> Tensor: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def __bool__(self) -> builtins.bool: ...
    def __int__(self) -> builtins.int: ...
    def __float__(self) -> builtins.float: ...
    def __index__(self) -> builtins.int: ...
    def __contains__(self, element: Any) -> builtins.bool: ...
    def __neg__(self) -> Tensor: ...
    def __pos__(self) -> Tensor: ...
    def __abs__(self) -> Tensor: ...
    def __invert__(self) -> Tensor: ...
    def __eq__(self, other: Any) -> Tensor: ...  # type: ignore[override]
    def __ne__(self, other: Any) -> Tensor: ...  # type: ignore[override]
    def __lt__(self, other: Any) -> Tensor: ...
    def __le__(self, other: Any) -> Tensor: ...
    def __gt__(self, other: Any) -> Tensor: ...
    def __ge__(self, other: Any) -> Tensor: ...
"""
# Results of the pybind11 functions, which are internal to the package but for a few.
RESULTS = {
    "_add_hook": "builtins.int",
    "_add_post_accumulate_hook": "builtins.int",
    "_anomaly_checks_nan": "builtins.bool",
    "_anomaly_enabled": "builtins.bool",
    "_grad": "tuple[Tensor, ...]",
    "_conv_tf32": "builtins.bool",
    "_is_grad_enabled": "builtins.bool",
    "_is_inference_mode": "builtins.bool",
    "build_info": "dict[builtins.str, Any]",
    "from_dlpack": "Tensor",
    "from_numpy": "Tensor",
    "get_default_device": "device",
    "get_default_dtype": "dtype",
    "get_num_threads": "builtins.int",
    "memory_stats": "dict[builtins.str, builtins.int]",
}
OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
IN_PLACE = "add sub mul truediv floordiv mod pow and or xor"


def split(text: str) -> list[str]:
    parts, depth, now = [], 0, ""
    for ch in text:
        depth += (ch in "([") - (ch in ")]")
        if ch == "," and depth == 0:
            parts.append(now.strip())
            now = ""
        else:
            now += ch
    return parts + ([now.strip()] if now.strip() else [])


def python_type(text: str) -> str:
    optional = text.endswith("?")
    base = text.rstrip("?")
    if base.startswith("int["):
        result = "Sequence[builtins.int]" if base == "int[]" else "Sequence[builtins.int] | builtins.int"
    else:
        result = TYPES[base]
    return f"{result} | None" if optional else result


def python_result(text: str) -> str:
    text = text.strip()
    if text.startswith("("):
        return f"tuple[{', '.join('Tensor' for _ in split(text[1:-1]))}]" if " " in text else "tuple[Tensor, ...]"
    if text == "Tensor[]":
        return "tuple[Tensor, ...]"
    if text.startswith("int["):
        return "tuple[builtins.int, ...]"
    return TYPES.get(text, "Any")


def render(signature: str, method: bool, indent: str) -> list[str]:
    has_out = signature.endswith(" [out]")
    signature = signature.removesuffix(" [out]")
    name, rest = signature.split("(", 1)
    body, result = re.split(r"\)\s*->", rest, maxsplit=1)
    parameters, variadic, star, defaulted = [], None, False, False
    for i, part in enumerate(split(body)):
        if part == "*":
            star = True
            parameters.append("*")
            continue
        left, _, default = part.partition("=")
        kind, argument = left.strip().rsplit(" ", 1)
        if keyword.iskeyword(argument):
            argument += "_"
        if i == 0 and method:
            parameters.append("self")
            continue
        if kind in ("int[*]", "Tensor[*]") and not star:
            variadic = argument
            parameters.append(f"*{argument}: Any")
            star = True
            continue
        if default == "None" and not kind.endswith("?") and kind != "object":
            kind += "?"
        defaulted = defaulted or bool(default)
        text = f"{argument}: {python_type(kind)}"
        parameters.append(text + (f" = {default.strip()}" if default else " = ..." if defaulted and not star else ""))
    if has_out:
        if not star:
            parameters.append("*")
        parameters.append("out: Any = None")
    if parameters and parameters[-1] == "*":
        parameters.pop()
    if variadic and "*" in parameters:
        parameters.remove("*")
    if variadic:
        parameters.append("**kwargs: Any")
    return [f"{indent}def {name}({', '.join(parameters)}) -> {python_result(result)}: ..."]


def functions(owner: object, method: bool, indent: str, skip: set[str]) -> list[str]:
    lines = []
    names = vars(owner) if method else dir(owner)
    for name in sorted(names):
        op = (vars(owner) if method else {name: getattr(owner, name)})[name]
        if type(op).__name__ != "Op" or name in skip:
            continue
        rendered = list(dict.fromkeys(render(s, method, indent)[0] for s in op.__signatures__))
        if any("*size: Any" in line for line in rendered):  # view(*size) takes whatever the other overloads take
            rendered = rendered[:1]
        if len(rendered) > 1:
            for line in rendered:
                lines += [f"{indent}@overload", line]
        else:
            lines += rendered
    return lines


def build() -> str:
    out = [HEADER]
    for name in dir(_C):
        if isinstance(getattr(_C, name), _C.dtype):
            out.append(f"{name}: dtype")
    out.append(TENSOR.rstrip())
    out += [f"    def __{o}__(self, other: Any) -> Tensor: ..." for o in OPERATORS.split()]
    out += [f"    def __r{o}__(self, other: Any) -> Tensor: ..." for o in OPERATORS.split()]
    out += [f"    def __i{o}__(self, other: Any) -> Tensor: ..." for o in IN_PLACE.split()]
    written = set(re.findall(r"def (\w+)\(", TENSOR))
    out += functions(pydlx.Tensor, True, "    ", written)
    out.append("")
    out += functions(_C, False, "", set())
    # The remaining callables are pybind11 functions, internal to the package.
    for name in dir(_C):
        value = getattr(_C, name)
        if type(value).__name__ == "builtin_function_or_method" and not name.startswith("__"):
            out.append(f"def {name}(*args: Any, **kwargs: Any) -> {RESULTS.get(name, 'Any')}: ...")
        elif isinstance(value, type) and f"class {name}" not in HEADER + TENSOR and not name.startswith("__"):
            out.append(f"class {name}:\n    def __getattr__(self, name: builtins.str) -> Any: ...")
    return "\n".join(out) + "\n"


def main() -> int:
    text = build()
    if "--check" in sys.argv[1:]:
        current = TARGET.exists() and TARGET.read_text() == text
        if not current:
            print(f"{TARGET.name} is out of date: run `make stubs`", file=sys.stderr)
        return 0 if current else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
