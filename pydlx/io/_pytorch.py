"""Reading PyTorch checkpoints without unpickling them.

A checkpoint is a zip archive: a pickle that describes the structure, and one file per storage. Python's own unpickler
runs whatever code a pickle names, so this module interprets the pickle itself: a small stack machine that knows
containers, numbers, text, and the dozen functions PyTorch uses to describe tensors. Everything else is refused by name.
Sources: the opcode descriptions in Python's pickletools; PyTorch's notes on its serialization format.
"""

from __future__ import annotations

import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import pydlx

from .. import Tensor, bfloat16, float16, float32, float64, int8, int16, int32, int64, uint8
from .. import bool as bool_
from .. import device as Device
from .. import dtype as DType
from .._C import Size
from .._memory import tensor_over

__all__ = ["read_checkpoint"]

_MAX_PICKLE = 1 << 30
_STORAGES: dict[str, tuple[DType, int]] = {
    "BoolStorage": (bool_, 1),
    "ByteStorage": (uint8, 1),
    "CharStorage": (int8, 1),
    "ShortStorage": (int16, 2),
    "IntStorage": (int32, 4),
    "LongStorage": (int64, 8),
    "HalfStorage": (float16, 2),
    "BFloat16Storage": (bfloat16, 2),
    "FloatStorage": (float32, 4),
    "DoubleStorage": (float64, 8),
}


class _Mark:
    """Where a group of stack entries begins."""


class _Lazy:
    """A storage named in the pickle, read when the first tensor on it is built."""

    def __init__(self, read: Callable[[], Tensor]) -> None:
        self._read = read
        self._flat: Tensor | None = None

    def flat(self) -> Tensor:
        if self._flat is None:
            self._flat = self._read()
        return self._flat


def _fail(message: str) -> Any:
    raise ValueError(f"[load] checkpoint: {message}")


def read_checkpoint(file: Any) -> Any:
    """The structure in a PyTorch checkpoint, with pydlx tensors on the CPU.

    Args:
        file: seekable binary file positioned at the start.

    Raises:
        ValueError: not such an archive, damaged, or it refers to something other than tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _Archive(archive).read()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, UnicodeDecodeError) as error:
        return _fail(f"expected an intact zip archive, got: {error}")


class _Archive:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        names = archive.namelist()
        if len(set(names)) != len(names):
            _fail("expected each name once in the archive, got a duplicate")
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            _fail(f"expected one data.pkl in the archive, got {len(pickles)}; TorchScript archives are not supported")
        self.folder = pickles[0][: -len("data.pkl")]
        if f"{self.folder}byteorder" in names and self.content("byteorder", 16) != b"little":
            _fail("expected little-endian data, got another byte order")
        self.storages: dict[str, _Lazy] = {}

    def content(self, name: str, limit: int) -> bytes:
        """A file of the archive, which must be stored without compression: its size then bounds what is allocated."""
        try:
            info = self.archive.getinfo(self.folder + name)
        except KeyError:
            return bytes(_fail(f"expected {name} in the archive, got none"))
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            _fail(f"{name}: expected a stored file, got a compressed or encrypted one")
        if info.file_size > limit:
            _fail(f"{name}: expected at most {limit} bytes, got {info.file_size}")
        return self.archive.read(info)

    def read(self) -> Any:
        return _Machine(self.content("data.pkl", _MAX_PICKLE), self.storage).run()

    def storage(self, identity: Any) -> _Lazy:
        """The storage behind a persistent identity ``("storage", kind, key, location, elements)``."""
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            _fail(f"expected a storage reference, got {str(identity)[:80]}")
        _, kind, key, _, count = identity
        if not isinstance(kind, _Kind) or not isinstance(key, str) or not _is_size(count):
            _fail(f"expected a storage reference, got {str(identity)[:80]}")
        dtype, size = kind.dtype, kind.size

        def read() -> Tensor:
            data = self.content(f"data/{key}", count * size)
            if len(data) != count * size:
                _fail(f"data/{key}: expected {count * size} bytes, got {len(data)}")
            if dtype == bool_:  # any byte but 0 means True; a hostile one must not become a malformed bool
                return tensor_over(bytearray(data), uint8, (count,)) != 0
            return tensor_over(bytearray(data), dtype, (count,))

        name = f"{key}:{dtype}"
        if name not in self.storages:
            self.storages[name] = _Lazy(read)
        return self.storages[name]


class _Kind:
    """A storage class named in the pickle."""

    def __init__(self, dtype: DType, size: int) -> None:
        self.dtype, self.size = dtype, size


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_: Any) -> Tensor:
    if not isinstance(storage, _Lazy):
        _fail("expected a tensor on a storage, got something else")
    shapes = (size, stride)
    if not all(isinstance(s, tuple) and len(s) <= 32 and all(_is_size(v) for v in s) for s in shapes):
        _fail(f"expected tuples of sizes and strides, got {str(shapes)[:120]}")
    flat = storage.flat()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if _is_size(offset) else flat.numel()
    count = 1
    for n in size:
        count *= max(n, 1)
    if len(size) != len(stride) or (last >= flat.numel() and 0 not in size) or count >= 2**62:
        _fail(
            f"expected a tensor within its {flat.numel()} elements, got shape {size}, stride {stride}, offset {offset}"
        )
    if 0 in size:
        made = pydlx.empty(size, dtype=flat.dtype, device="cpu")
    else:
        made = flat.as_strided(size, stride, offset)
    return made.requires_grad_() if requires_grad is True else made


def _rebuild_parameter(data: Any, requires_grad: Any = True, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        _fail("expected a parameter made of a tensor, got something else")
    made: Tensor = pydlx.nn.Parameter(data.detach(), requires_grad=requires_grad is True)
    return made


def _rebuild_subclass(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes; the attributes are left out."""
    if function is not _rebuild_tensor:
        _fail("expected a plain tensor, got a subclass with its own way of rebuilding")
    return _rebuild_tensor(*arguments)


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        _fail("expected bytes written as Latin-1 text")
    return bytes(text.encode("latin1"))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "collections.defaultdict": lambda *_: {},
    "torch.Size": lambda size=(): Size(size),
    "torch.device": lambda kind, index=None: Device(kind if index is None else f"{kind}:{index}"),
    "builtins.set": set,
    "__builtin__.set": set,
    "_codecs.encode": _encode,
}


_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter"} | {
    f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("list", "dict", "int", "float", "str")
}


def _named(module: str, name: str) -> Any:
    """What a pickle may refer to."""
    full = f"{module}.{name}"
    if full in _FUNCTIONS:
        return _FUNCTIONS[full]
    if module in ("torch", "torch.storage") and name in _STORAGES:
        return _Kind(*_STORAGES[name])
    if module == "torch":
        found = getattr(pydlx, name, None)
        if isinstance(found, DType):
            return found
    if full in _TYPES:
        return _Kind  # named as an argument only; nothing is made of it
    return _fail(
        f"expected tensors and plain containers, got a reference to {full[:100]}; save model.state_dict() instead of "
        "objects"
    )


class _Machine:
    """Interprets the opcodes that pickles of data use; nothing here can run code from the file."""

    def __init__(self, data: bytes, storage: Callable[[Any], _Lazy]) -> None:
        self.data, self.place, self.storage = data, 0, storage
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        piece = self.data[self.place : self.place + count]
        if count < 0 or len(piece) != count:
            _fail("expected a complete pickle, got a truncated one")
        self.place += count
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.place)
        if end < 0:
            _fail("expected a complete pickle, got a truncated one")
        return self.take(end + 1 - self.place)[:-1].decode("utf-8")

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _Mark:
            _fail("expected a value on the pickle's stack, got none")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            _fail(f"expected a {kind.__name__} on the pickle's stack")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _Mark:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        return list(_fail("expected a mark on the pickle's stack, got none"))

    def run(self) -> Any:
        try:
            while True:
                code = self.take(1)
                if code == b".":
                    return self.pop()
                action = _OPCODES.get(code)
                if action is None:
                    _fail(f"expected a pickle of data, got opcode {code!r}")
                action(self)  # type: ignore[misc]
        except (TypeError, KeyError, RuntimeError, OverflowError) as error:  # wrong arguments to an allowed function
            return _fail(f"expected a well-formed pickle, got: {str(error)[:200]}")

    # -- what the opcodes do -----------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def remember(self, index: int) -> None:
        if not self.stack:
            _fail("expected a value on the pickle's stack, got none")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            _fail(f"expected a remembered value, got number {index}")
        self.push(self.memo[index])

    def group(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def integer(self, length: int) -> None:
        if length > 64:
            _fail(f"expected an integer of at most 64 bytes, got {length}")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def reference(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            _fail("expected a name, got something else")
        self.push(_named(module, name))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not any(function is known for known in _FUNCTIONS.values()) or not isinstance(arguments, tuple):
            _fail("expected a call of a known function, got another")
        self.push(function(*arguments))

    def new_object(self) -> None:
        arguments, kind = self.pop(), self.pop()
        if kind not in (OrderedDict, Counter) or arguments != ():
            _fail("expected a plain container, got another object")
        self.push(kind())

    def build(self) -> None:
        """Attributes of a container, such as the versions in a state_dict: left out."""
        self.pop()
        self.top(dict)

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            _fail("expected pairs of keys and values, got an odd number")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2]):
            target[key] = value

    def add_items(self, items: list[Any]) -> None:
        self.top(set).update(items)

    def one_pair(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])


_OPCODES: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame
    b"(": lambda m: m.push(_Mark),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("i")),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("H")),
    b"\x8a": lambda m: m.integer(m.number("B")),
    b"\x8b": lambda m: m.integer(m.number("i")),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.push(m.take(m.number("I")).decode("utf-8", "surrogatepass")),
    b"\x8c": lambda m: m.push(m.take(m.number("B")).decode("utf-8", "surrogatepass")),
    b"\x8d": lambda m: m.push(m.take(m.number("Q")).decode("utf-8", "surrogatepass")),
    b"B": lambda m: m.push(m.take(m.number("I"))),
    b"C": lambda m: m.push(m.take(m.number("B"))),
    b"\x8e": lambda m: m.push(m.take(m.number("Q"))),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"\x8f": lambda m: m.push(set()),
    b"l": lambda m: m.push(m.since_mark()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.group(1),
    b"\x86": lambda m: m.group(2),
    b"\x87": lambda m: m.group(3),
    b"q": lambda m: m.remember(m.number("B")),
    b"r": lambda m: m.remember(m.number("I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.number("B")),
    b"j": lambda m: m.recall(m.number("I")),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.since_mark()),
    b"s": lambda m: m.one_pair(),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"\x90": lambda m: m.add_items(m.since_mark()),
    b"0": lambda m: m.pop(),
    b"c": lambda m: m.push(_named(m.line(), m.line())),
    b"\x93": lambda m: m.reference(),
    b"R": lambda m: m.call(),
    b"\x81": lambda m: m.new_object(),
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.push(m.storage(m.pop())),
}
