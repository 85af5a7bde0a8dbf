"""PyTorch checkpoints are read without running anything in them."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile
from collections import Counter, OrderedDict, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pydlx


def saved(value, **options):
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    stream.seek(0)
    return stream


def assert_same(mine, theirs):
    if isinstance(theirs, torch.Tensor):
        assert isinstance(mine, pydlx.Tensor)
        assert str(mine.dtype).split(".")[1] == str(theirs.dtype).split(".")[1]
        assert tuple(mine.shape) == tuple(theirs.shape)
        assert mine.tolist() == theirs.tolist()
        assert mine.requires_grad == theirs.requires_grad
        assert isinstance(mine, pydlx.nn.Parameter) == isinstance(theirs, torch.nn.Parameter)
    elif isinstance(theirs, dict):
        assert list(mine) == list(theirs)
        for key in theirs:
            assert_same(mine[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs):
            assert_same(a, b)
    else:
        assert str(mine).replace("pydlx.", "torch.") == str(theirs)


DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
NUMBERS = [1, -1, 300, 70000, 2**40, -(2**70), 1.5, float("inf"), True, None]
VALUES = {
    "plain": [*NUMBERS, "ünï", b"\0\xff", (1, (2,)), {3: {4, 5}}],
    "dtypes": {name: torch.arange(5).to(getattr(torch, name)) for name in DTYPES},
    "shapes": [
        torch.rand(2, 3).t(),
        torch.rand(4, 6)[1:3, ::2],
        torch.tensor(3.5),
        torch.zeros(0, 3),
        torch.ones(1).expand(3),
    ],
    "kinds": [
        torch.nn.Parameter(torch.ones(2)),
        torch.nn.Parameter(torch.ones(1), requires_grad=False),
        torch.ones(2, requires_grad=True),
        torch.Size([2, 3]),
        torch.float16,
        torch.device("cpu"),
        OrderedDict(a=1),
        Counter("aab"),
    ],
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", VALUES)
def test_values(name, protocol):
    assert_same(pydlx.load(saved(VALUES[name], pickle_protocol=protocol)), VALUES[name])


def test_model_and_optimizer(tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    )
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(checkpoint, tmp_path / "c.pt")
    back = pydlx.load(tmp_path / "c.pt")
    assert_same(back, checkpoint)
    assert type(back["model"]) is OrderedDict
    mine = pydlx.optim.AdamW([pydlx.nn.Parameter(pydlx.tensor(p.tolist())) for p in model.parameters()])
    mine.load_state_dict(back["optimizer"])
    assert mine.state[mine.param_groups[0]["params"][0]]["step"].item() == 1


def test_views_share_memory():
    base = torch.arange(6.0)
    back = pydlx.load(saved([base, base[2:4], base]))
    back[0][2] = 50.0
    assert back[1].tolist() == [50.0, 3.0]
    assert back[2] is back[0]
    assert pydlx.load(saved(defaultdict(list, a=[1]))) == {"a": [1]}


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/pydlx-was-here",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_refused(protocol):
    with pytest.raises(
        ValueError, match=r"\[load\] checkpoint: expected tensors and plain containers, got a reference to"
    ):
        pydlx.load(saved({"a": Evil()}, pickle_protocol=protocol))
    assert not os.path.exists("/tmp/pydlx-was-here")
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear; save model\.state_dict"):
        pydlx.load(saved(torch.nn.Linear(1, 1), pickle_protocol=protocol))
    with pytest.raises(ValueError, match="got a bare pickle"):
        pydlx.load(io.BytesIO(pickle.dumps(1)))
    with pytest.raises(ValueError, match="got a bare pickle"):
        pydlx.load(saved(torch.ones(1), _use_new_zipfile_serialization=False))


def archive(pickled, files=(), compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as target:
        target.writestr("archive/data.pkl", pickled)
        for name, data in files:
            target.writestr(f"archive/{name}", data)
    stream.seek(0)
    return stream


def global_(module, name):
    return f"c{module}\n{name}\n".encode()


def tensor_pickle(count=4, offset=0, size=(4,), stride=(1,), kind="FloatStorage"):
    """A handmade tensor on storage 0."""

    def plain(value):
        return pickle.dumps(value, protocol=2)[2:-1]

    storage = b"(" + plain("storage") + global_("torch", kind) + plain("0") + plain("cpu") + plain(count) + b"tQ"
    arguments = b"(" + storage + plain(offset) + plain(size) + plain(stride) + b"\x89Nt"
    return b"\x80\x02" + global_("torch._utils", "_rebuild_tensor_v2") + arguments + b"R."


DATA = [("data/0", b"\0\0\x80?" * 4)]


def test_the_handmade_tensor_is_right():
    assert pydlx.load(archive(tensor_pickle(), DATA)).tolist() == [1.0] * 4


HOSTILE = {
    "no pickle": archive(b"", ()).getvalue()[:-30],
    "empty pickle": archive(b"").getvalue(),
    "storage missing": archive(tensor_pickle()).getvalue(),
    "storage too short": archive(tensor_pickle(5), DATA).getvalue(),
    "storage too long": archive(tensor_pickle(3), DATA).getvalue(),
    "storage of 2**61": archive(tensor_pickle(2**61), DATA).getvalue(),
    "negative count": archive(tensor_pickle(-1), DATA).getvalue(),
    "past the end": archive(tensor_pickle(size=(5,)), DATA).getvalue(),
    "offset past the end": archive(tensor_pickle(offset=1), DATA).getvalue(),
    "negative offset": archive(tensor_pickle(offset=-1), DATA).getvalue(),
    "negative stride": archive(tensor_pickle(stride=(-1,)), DATA).getvalue(),
    "huge stride": archive(tensor_pickle(size=(2,), stride=(2**61,)), DATA).getvalue(),
    "overflowing shape": archive(tensor_pickle(size=(2**61, 2**61), stride=(0, 0)), DATA).getvalue(),
    "rank differs": archive(tensor_pickle(size=(2, 2)), DATA).getvalue(),
    "sizes are text": archive(tensor_pickle(size="ab"), DATA).getvalue(),
    "unknown storage": archive(tensor_pickle(kind="ComplexStorage"), DATA).getvalue(),
    "compressed": archive(tensor_pickle(), DATA, zipfile.ZIP_DEFLATED).getvalue(),
    "stack underflow": archive(b"\x80\x02R.").getvalue(),
    "no mark": archive(b"\x80\x02t.").getvalue(),
    "only a mark": archive(b"\x80\x02(.").getvalue(),
    "memo missing": archive(b"\x80\x02h\x05.").getvalue(),
    "odd pairs": archive(b"\x80\x02}(Nu.").getvalue(),
    "unhashable key": archive(b"\x80\x02}]Ns.").getvalue(),
    "append to number": archive(b"\x80\x02K\x01K\x02a.").getvalue(),
    "call of data": archive(b"\x80\x02K\x01)R.").getvalue(),
    "call with wrong arguments": archive(
        b"\x80\x02" + global_("torch._utils", "_rebuild_tensor_v2") + b")R."
    ).getvalue(),
    "call of a type": archive(b"\x80\x02" + global_("torch", "Tensor") + b")R.").getvalue(),
    "instruction to import": archive(b"\x80\x02" + global_("builtins", "eval") + b"X\x01\0\0\x001\x85R.").getvalue(),
    "attribute chain": archive(b"\x80\x02" + global_("torch", "nn.Linear") + b".").getvalue(),
    "text longer than the file": archive(b"\x80\x02X\xff\xff\xff\x7fa.").getvalue(),
    "integer of 2**31 bytes": archive(b"\x80\x02\x8b\xff\xff\xff\x7f1.").getvalue(),
    "old opcodes": archive(b"I1\n.").getvalue(),
    "persistent text": archive(b"\x80\x02X\x01\0\0\x00aQ.").getvalue(),
    "never stops": archive(b"\x80\x02N").getvalue(),
    "not UTF-8": archive(b"\x80\x02X\x01\0\0\0\xff.").getvalue(),
    "big endian": archive(tensor_pickle(), [*DATA, ("byteorder", b"big")]).getvalue(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(name):
    with pytest.raises(ValueError, match=r"^\[load\] checkpoint: "):
        pydlx.load(io.BytesIO(HOSTILE[name]))


def test_damage_is_noticed():
    content = archive(tensor_pickle(), DATA).getvalue()
    place = content.index(DATA[0][1])
    damaged = content[:place] + b"\1" + content[place + 1 :]
    with pytest.raises(ValueError, match="CRC"):
        pydlx.load(io.BytesIO(damaged))
    for end in range(4, len(content), 7):
        with pytest.raises(ValueError, match=r"\[load\]"):
            pydlx.load(io.BytesIO(content[:end]))


def test_memo_numbers_cost_nothing():
    """The C unpickler would allocate a table of 2**31 entries here."""
    assert pydlx.load(archive(b"\x80\x02Nr\xff\xff\xff\x7f.")) is None


BASE = saved({"a": torch.arange(3.0), "b": [1, "x", (2.5, None)], "c": torch.nn.Parameter(torch.ones(2))}).getvalue()
with zipfile.ZipFile(io.BytesIO(BASE)) as _zip:
    PICKLE = _zip.read(next(n for n in _zip.namelist() if n.endswith("data.pkl")))
    PARTS = [(n.split("/", 1)[1], _zip.read(n)) for n in _zip.namelist() if "/data/" in n]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_fuzz_pickles(changes):
    changed = bytearray(PICKLE)
    for position, value in changes:
        changed[position % len(changed)] = value
    try:
        pydlx.load(archive(bytes(changed), PARTS))
    except ValueError as error:
        assert str(error).startswith("[load]")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([op.code.encode("latin1") for op in pickletools.opcodes]) | st.binary(max_size=4), max_size=20
    )
)
def test_fuzz_opcodes(codes):
    try:
        pydlx.load(archive(b"\x80\x02" + b"".join(codes) + b"."))
    except ValueError as error:
        assert str(error).startswith("[load]")
