"""Files: exchange with the safetensors package, hostile content, damage, atomic replacement, nested structures."""

from __future__ import annotations

import io
import json
import math
import os
import stat
import struct
from collections import Counter, OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pydlx
from pydlx.io import safetensors as files

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


def sample(dtype, shape=(3, 4)):
    """The same tensor in PyTorch and here."""
    generator = torch.Generator().manual_seed(0)
    theirs = (torch.rand(shape, generator=generator) * 100).to(getattr(torch, dtype))
    return theirs, pydlx.tensor(theirs.tolist(), dtype=getattr(pydlx, dtype)).reshape(shape)


def same(a, b):
    return str(a.dtype).split(".")[1] == str(b.dtype).split(".")[1] and a.shape == b.shape and a.tolist() == b.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (), (0, 3), (1,), (2, 1, 5)])
def test_exchange_with_safetensors(tmp_path, dtype, shape):
    theirs, mine = sample(dtype, shape)
    path = tmp_path / "a.safetensors"
    pydlx.save_file({"w": mine, "other": pydlx.ones(5)}, path, {"note": "hello"})
    loaded = safetensors.torch.load_file(path)
    assert same(loaded["w"], theirs)
    with safetensors.safe_open(str(path), "pt") as f:
        assert f.metadata()["note"] == "hello"
    safetensors.torch.save_file({"w": theirs, "z": torch.zeros(2)}, path)
    back = pydlx.load_file(path)
    assert same(back["w"], mine)
    assert list(back) in (["w", "z"], ["z", "w"])
    back["w"].zero_()  # loaded tensors are writable and belong to nobody else


def test_layouts_order_and_names(tmp_path):
    base = pydlx.arange(24, dtype=pydlx.float32).reshape(4, 6)
    tensors = {
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "broadcast": base[:1].expand(3, 6),
        'ünï "q" \n': base[0],
        "": base[1],
        "i8": pydlx.ones(3, dtype=pydlx.int8),
    }
    path = tmp_path / "a.safetensors"
    pydlx.save_file(tensors, path)
    loaded = pydlx.load_file(str(path))
    assert list(loaded) == list(tensors)
    assert all(loaded[k].tolist() == v.tolist() for k, v in tensors.items())
    assert {k: v.tolist() for k, v in safetensors.torch.load_file(path).items()} == {
        k: v.tolist() for k, v in tensors.items()
    }
    assert files.load(files.save(tensors))["transposed"].tolist() == base.t().tolist()
    with pydlx.io.safe_open(path) as f:
        assert f.keys() == list(tensors)
        assert f.get_shape("strided") == (2, 2)
        assert f.get_tensor("strided").tolist() == tensors["strided"].tolist()
        with pytest.raises(KeyError, match="safe_open"):
            f.get_tensor("absent")
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert (length + 8) % 64 == 0


def test_empty_file_of_tensors(tmp_path):
    pydlx.save_file({}, tmp_path / "a")
    assert pydlx.load_file(tmp_path / "a") == {}


# -- damage and hostile content ----------------------------------------------------------------------------------------


def blob(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty": (b"", "at least 8 bytes"),
    "seven bytes": (b"\0" * 7, "at least 8 bytes"),
    "length past the end": (blob({}, length=100), "truncated"),
    "length 2**64-1": (blob({}, length=2**64 - 1), "at most 100000000"),
    "length 2**63": (blob({}, length=2**63), "at most 100000000"),
    "length 0": (blob(b""), "expected it to start with"),
    "leading space": (blob(b" {}"), "expected it to start with"),
    "not JSON": (blob(b"{nonsense"), "expected JSON"),
    "cut JSON": (blob(b'{"a":'), "expected JSON"),
    "not UTF-8": (blob(b'{"\xff":1}'), "UTF-8"),
    "array": (blob(b"[1]"), "expected it to start with"),
    "deep nesting": (blob(b'{"a":' + b"[" * 200000), "deep nesting|expected JSON"),
    "duplicate names": (
        blob(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", b"\0" * 4),
        "each name once",
    ),
    "duplicate key inside": (
        blob(b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
        "each name once",
    ),
    "metadata not strings": (blob({"__metadata__": {"a": 1}}), "object of strings"),
    "metadata not object": (blob({"__metadata__": [1]}), "object of strings"),
    "entry not object": (blob({"a": 3}), "expected an object with"),
    "entry lacks shape": (blob({"a": {"dtype": "F32", "data_offsets": [0, 0]}}), "expected an object with"),
    "entry has more": (blob({"a": {**entry(), "x": 1}}, b"\0" * 4), "expected an object with"),
    "unknown dtype": (blob({"a": entry("F31")}, b"\0" * 4), "dtype: expected one of"),
    "dtype not text": (blob({"a": entry(["F32"])}, b"\0" * 4), "dtype: expected one of"),
    "negative size": (blob({"a": entry(shape=(-1,))}, b"\0" * 4), "shape: expected"),
    "fractional size": (blob(b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', b"\0" * 4), "integers"),
    "NaN size": (blob(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"\0" * 4), "integers"),
    "bool size": (blob({"a": entry(shape=(True,))}, b"\0" * 4), "shape: expected"),
    "text size": (blob({"a": entry(shape=("1",))}, b"\0" * 4), "shape: expected"),
    "size 2**63": (blob({"a": entry(shape=(2**63,))}, b"\0" * 4), "shape: expected"),
    "digits without end": (
        blob(b'{"a":{"dtype":"F32","shape":[' + b"9" * 1000000 + b'],"data_offsets":[0,4]}}'),
        "1000000 digits",
    ),
    "product overflows": (blob({"a": entry(shape=(2**32, 2**32, 2**32), offsets=(0, 0))}), "below 2\\*\\*63"),
    "product wraps to 4": (blob({"a": entry(shape=(2**62, 4, 2**30), offsets=(0, 4))}, b"\0" * 4), "below 2\\*\\*63"),
    "overflow behind a zero": (blob({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}), "below 2\\*\\*63"),
    "too many dimensions": (blob({"a": entry(shape=[1] * 100000)}, b"\0" * 4), "at most 32"),
    "size and bytes differ": (blob({"a": entry(shape=(2,))}, b"\0" * 4), "expected 8 bytes"),
    "offsets reversed": (blob({"a": entry(offsets=(4, 0))}, b"\0" * 4), "data_offsets"),
    "offsets past the end": (blob({"a": entry(shape=(100,), offsets=(0, 400))}, b"\0" * 4), "within 4 bytes"),
    "negative offset": (blob({"a": entry(offsets=(-4, 0))}, b"\0" * 4), "data_offsets"),
    "three offsets": (blob({"a": entry(offsets=(0, 2, 4))}, b"\0" * 4), "data_offsets"),
    "gap": (blob({"a": entry(), "b": entry(offsets=(8, 12))}, b"\0" * 12), "a gap at 8"),
    "gap at the start": (blob({"a": entry(offsets=(4, 8))}, b"\0" * 8), "a gap at 4"),
    "overlap": (
        blob({"a": entry(shape=(2,), offsets=(0, 8)), "b": entry(offsets=(4, 8))}, b"\0" * 8),
        "an overlap at 4",
    ),
    "same bytes twice": (blob({"a": entry(), "b": entry()}, b"\0" * 4), "an overlap at 0"),
    "bytes left over": (blob({"a": entry()}, b"\0" * 8), "expected 4 bytes of data, got 8"),
    "bytes without tensors": (blob({}, b"\0"), "expected 0 bytes of data, got 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    content, message = HOSTILE[name]
    path = tmp_path / "bad"
    path.write_bytes(content)
    for read in (lambda: pydlx.load_file(path), lambda: files.load(content), lambda: pydlx.load(path)):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert str(caught.value).startswith("[load")
        assert len(str(caught.value)) < 1000


def test_every_truncation_is_refused():
    content = files.save({"a": pydlx.arange(6, dtype=pydlx.float32), "b": pydlx.ones(2, 2, dtype=pydlx.int16)})
    for end in range(len(content)):
        with pytest.raises(ValueError, match=r"\[load\]"):
            files.load(content[:end])


def test_every_damaged_byte_of_data_is_noticed():
    tensors = {"a": pydlx.arange(6, dtype=pydlx.float32), "b": pydlx.ones(3, dtype=pydlx.bool)}
    content = files.save(tensors)
    for position in range(len(content) - 27, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 4
        with pytest.raises(ValueError, match="expected checksum"):
            files.load(bytes(damaged))


def test_verification_can_be_switched_off(tmp_path):
    path = tmp_path / "a"
    pydlx.save_file({"a": pydlx.zeros(4)}, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="verify=False"):
        pydlx.load_file(path)
    assert pydlx.load_file(path, verify=False)["a"].shape == (4,)


def test_any_byte_makes_a_proper_bool():
    content = blob({"a": entry("BOOL", (4,), (0, 4))}, bytes([0, 1, 2, 255]))
    loaded = files.load(content)["a"]
    assert loaded.tolist() == [False, True, True, True]
    assert loaded.to(pydlx.int64).sum().item() == 3


mutations = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)
BASE = files.save({"a": pydlx.arange(6, dtype=pydlx.float32), "b.c": pydlx.ones(2, 2, dtype=pydlx.int16)}, {"k": "v"})


@settings(max_examples=300, deadline=None)
@given(mutations)
def test_fuzz_changed_bytes(changes):
    content = bytearray(BASE)
    for position, value in changes:
        content[position % len(content)] = value
    try:
        loaded = files.load(bytes(content))
    except ValueError as error:
        assert str(error).startswith("[load]")
    else:
        assert all(isinstance(t, pydlx.Tensor) for t in loaded.values())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
headers = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "BF16", "X"]) | json_values,
            "shape": st.lists(st.integers(-1, 5) | st.integers(2**61, 2**64), max_size=3) | json_values,
            "data_offsets": st.lists(st.integers(-1, 30), min_size=2, max_size=2) | json_values,
        }
    )
    | json_values,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(headers, st.binary(max_size=40))
def test_fuzz_headers(header, data):
    try:
        loaded = files.load(blob(header, data))
    except ValueError as error:
        assert str(error).startswith("[load]")
    else:
        assert sum(t.nbytes for t in loaded.values()) == len(data)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=10).filter(lambda s: s != "__metadata__"),
        st.tuples(st.sampled_from(["int16", "float32", "uint8", "bfloat16"]), st.lists(st.integers(0, 4), max_size=4)),
        max_size=5,
    )
)
def test_fuzz_round_trip(spec):
    tensors = {
        name: (pydlx.arange(math.prod(shape)) % 100).to(getattr(pydlx, dtype)).reshape(shape)
        for name, (dtype, shape) in spec.items()
    }
    try:
        content = files.save(tensors)
    except ValueError as error:
        assert "Unicode" in str(error)
        return
    loaded = files.load(content)
    assert list(loaded) == list(tensors)
    assert all(same(loaded[k], v) for k, v in tensors.items())
    assert {k: v.tolist() for k, v in safetensors.torch.load(content).items()} == {
        k: v.tolist() for k, v in tensors.items()
    }


def test_bad_arguments(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(TypeError, match=r"\[save_file\] tensors: expected a dict"):
        pydlx.save_file([pydlx.ones(1)], path)
    with pytest.raises(TypeError, match=r"\[save_file\] 'a': expected a tensor, got list; use pydlx.save"):
        pydlx.save_file({"a": [1]}, path)
    with pytest.raises(TypeError, match="expected names of type str"):
        pydlx.save_file({1: pydlx.ones(1)}, path)
    with pytest.raises(ValueError, match="__metadata__"):
        pydlx.save_file({"__metadata__": pydlx.ones(1)}, path)
    with pytest.raises(TypeError, match=r"\[save_file\] metadata: expected strings"):
        pydlx.save_file({}, path, {"a": 1})
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        pydlx.load_file(tmp_path / "absent")


# -- atomic replacement ------------------------------------------------------------------------------------------------


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    pydlx.save_file({"a": pydlx.ones(2)}, path)
    before = path.read_bytes()

    def broken(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        pydlx.save_file({"a": pydlx.zeros(2)}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_order_of_flush_and_rename(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append("dir" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    pydlx.save_file({"a": pydlx.ones(2)}, tmp_path / "a")
    assert events == ["file", "rename", "dir"]


def test_links_and_permissions_survive(tmp_path):
    target, link = tmp_path / "real", tmp_path / "link"
    pydlx.save_file({"a": pydlx.ones(2)}, target)
    target.chmod(0o640)
    link.symlink_to(target)
    pydlx.save_file({"a": pydlx.zeros(2)}, link)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert pydlx.load_file(target)["a"].tolist() == [0.0, 0.0]


# -- nested structures -------------------------------------------------------------------------------------------------


def test_nested_structures(tmp_path):
    shared = pydlx.arange(3)
    value = {
        "model": OrderedDict([("w", pydlx.ones(2, 2)), ("b", shared)]),
        "numbers": [1, 2.5, True, None, -(2**80), math.inf, -math.inf, 1e-300],
        "tuple": (1, (2, "x"), []),
        5: {(1, 2): "pair", None: 0, True: 1},
        "$odd": {"$tensor": "not one"},
        "bytes": b"\0\xff",
        "set": {1, 2},
        "counter": Counter({3: 2}),
        "dtype": pydlx.bfloat16,
        "device": pydlx.device("cpu"),
        "shape": pydlx.ones(2, 3).shape,
        "numpy": np.float64(0.5),
        "again": shared,
        "parameter": pydlx.nn.Parameter(pydlx.zeros(2)),
        "leaf": pydlx.ones(2, requires_grad=True),
        "text": "ünï \ud800",
    }
    path = tmp_path / "a.pt"
    pydlx.save(value, path)
    back = pydlx.load(path)
    plain = [k for k in value if k not in ("model", "again", "parameter", "leaf")]
    assert list(back) == list(value)
    for key in plain:
        assert back[key] == value[key], key
        assert type(back[key]) is type(value[key]) or key == "numpy"
    assert type(back["model"]) is OrderedDict
    assert back["model"]["w"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert back["again"] is back["model"]["b"]
    assert isinstance(back["parameter"], pydlx.nn.Parameter)
    assert back["parameter"].requires_grad
    assert back["leaf"].requires_grad
    assert not isinstance(back["leaf"], pydlx.nn.Parameter)
    assert set(safetensors.torch.load_file(path)) == {"model.w", "model.b", "parameter", "leaf"}


@pytest.mark.parametrize("value", [math.nan, 3, "a", None, [], (), {}])
def test_bare_values(value):
    stream = io.BytesIO()
    pydlx.save(value, stream)
    stream.seek(0)
    back = pydlx.load(stream)
    assert back == value or (isinstance(value, float) and math.isnan(back))


def test_bare_tensor_and_plain_files(tmp_path):
    pydlx.save(pydlx.arange(3), tmp_path / "a")
    assert pydlx.load(tmp_path / "a").tolist() == [0, 1, 2]
    pydlx.save_file({"x": pydlx.arange(3)}, tmp_path / "b")
    assert pydlx.load(tmp_path / "b", map_location="cpu")["x"].tolist() == [0, 1, 2]


def test_training_state_resumes_bit_for_bit(tmp_path):
    def build():
        pydlx.manual_seed(0)
        w = pydlx.nn.Parameter(pydlx.tensor([[0.3, -0.2], [0.1, 0.7]]))
        opt = pydlx.optim.AdamW([w], lr=0.1)
        return w, opt, pydlx.optim.lr_scheduler.CosineAnnealingLR(opt, 10)

    def train(w, opt, schedule, steps, start):
        for i in range(start, start + steps):
            opt.zero_grad()
            ((w * w * (i + 1)).sum() + w.sum()).backward()
            opt.step()
            schedule.step()

    w, opt, schedule = build()
    train(w, opt, schedule, 3, 0)
    pydlx.save({"w": w.detach(), "opt": opt.state_dict(), "schedule": schedule.state_dict()}, tmp_path / "c")
    train(w, opt, schedule, 4, 3)
    v, opt2, schedule2 = build()
    state = pydlx.load(tmp_path / "c")
    with pydlx.no_grad():
        v.copy_(state["w"])
    opt2.load_state_dict(state["opt"])
    schedule2.load_state_dict(state["schedule"])
    train(v, opt2, schedule2, 4, 3)
    assert v.tolist() == w.tolist()


def test_what_cannot_be_saved():
    class Thing:
        pass

    with pytest.raises(
        TypeError, match=r"\[save\] obj\['a'\]\[1\]: expected tensors.*got .*Thing; save its state_dict"
    ):
        pydlx.save({"a": [1, Thing()]}, io.BytesIO())
    loop: list = []
    loop.append(loop)
    with pytest.raises(ValueError, match="holds itself"):
        pydlx.save(loop, io.BytesIO())
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="at most 200 levels"):
        pydlx.save(deep, io.BytesIO())
    with pytest.raises(TypeError, match=r"\[save\] f: expected a file name"):
        pydlx.save(1, 5)
    with pytest.raises(TypeError, match=r"\[load\] f: expected a file name"):
        pydlx.load(5)


@pytest.mark.parametrize(
    "structure",
    [
        '{"$tensor":"absent"}', '{"$tensor":[1]}', '{"$what":1}', '{"$float":"1e999"}', '{"$bytes":"%"}',
        '{"$bytes":3}',
        '{"$dict":[1]}', '{"$dict":[[[],1]]}', '{"$tuple":3}', '{"$set":[[1]]}', '{"$dtype":"nn"}', '{"$dtype":5}',
        '{"$device":"moon"}', '{"$size":["x"]}', "{", "[" * 100000, "",
    ],
)  # fmt: skip
def test_hostile_structures(structure):
    content = files.save({"a": pydlx.ones(1)}, {"pydlx.structure": structure})
    with pytest.raises(ValueError, match=r"\[load\] structure"):
        pydlx.load(io.BytesIO(content))
