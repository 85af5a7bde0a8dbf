"""Module itself: registration, traversal, hooks, state, conversion, copying, printing, errors."""

import copy
import gc
import pickle
import warnings
import weakref

import numpy as np
import pytest
import torch
from nn_twins import ours, same_repr

import pydlx
from pydlx import nn


def make(lib):
    class Block(lib.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.linear = lib.nn.Linear(width, width)
            self.norm = lib.nn.BatchNorm1d(width)
            self.scale = lib.nn.Parameter(lib.ones(width))
            self.register_buffer("offset", lib.zeros(width))
            self.register_buffer("scratch", lib.ones(2), persistent=False)
            self.register_parameter("absent", None)

        def forward(self, x):
            return self.norm(self.linear(x)) * self.scale + self.offset

    class Net(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = lib.nn.ModuleList([Block(4), Block(4)])
            self.heads = lib.nn.ModuleDict({"a": lib.nn.Linear(4, 2), "b": lib.nn.Linear(4, 3, bias=False)})
            self.shared = self.blocks[0].linear
            self.extra = lib.nn.ParameterList([lib.zeros(2), lib.ones(3)])
            self.named = lib.nn.ParameterDict({"p": lib.zeros(2)})

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.heads["a"](x)

    return Net()


def test_traversal_matches_torch():
    mine, theirs = make(pydlx), make(torch)
    for method in ("named_modules", "named_children", "named_parameters", "named_buffers"):
        assert [n for n, _ in getattr(mine, method)()] == [n for n, _ in getattr(theirs, method)()], method
    for flags in ({"recurse": False}, {"prefix": "root"}, {"remove_duplicate": False}):
        assert [n for n, _ in mine.named_parameters(**flags)] == [n for n, _ in theirs.named_parameters(**flags)], flags
        assert [n for n, _ in mine.named_buffers(**flags)] == [n for n, _ in theirs.named_buffers(**flags)], flags
    assert [n for n, _ in mine.named_modules(remove_duplicate=False)] == [
        n for n, _ in theirs.named_modules(remove_duplicate=False)
    ]
    assert len(list(mine.parameters())) == len(list(theirs.parameters()))
    assert len(list(mine.modules())) == len(list(theirs.modules()))
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert "absent" in mine.blocks[0]._parameters
    assert "linear" in dir(mine.blocks[0])
    same_repr(mine.heads, theirs.heads)
    same_repr(mine.blocks, theirs.blocks)


def test_lookup_by_path():
    net = make(pydlx)
    assert net.get_submodule("blocks.1.linear") is net.blocks[1].linear
    assert net.get_submodule("") is net
    assert net.get_parameter("blocks.1.scale") is net.blocks[1].scale
    assert net.get_buffer("blocks.0.offset") is net.blocks[0].offset
    for call, path in ((net.get_submodule, "blocks.7"), (net.get_parameter, "shared.none"), (net.get_buffer, "x.y")):
        with pytest.raises(AttributeError, match=path.split(".")[0]):
            call(path)
    net.set_submodule("heads.a", nn.Identity())
    assert isinstance(net.heads["a"], nn.Identity)
    with pytest.raises(AttributeError):
        net.set_submodule("heads.new", nn.Identity(), strict=True)


def test_registration_rules():
    m = nn.Module()
    m.weight = nn.Parameter(pydlx.ones(2))
    m.child = nn.Identity()
    m.register_buffer("state", pydlx.zeros(3))
    with pytest.raises(TypeError, match="weight"):
        m.weight = pydlx.ones(2)
    with pytest.raises(TypeError, match="child"):
        m.child = 3
    with pytest.raises(TypeError, match="state"):
        m.state = "x"
    m.weight = None
    assert list(m.parameters()) == []
    assert m.weight is None
    m.weight = nn.Parameter(pydlx.ones(2))
    m.child = nn.Parameter(pydlx.ones(1))  # a parameter replaces a module of that name
    assert list(dict(m.named_parameters())) == ["weight", "child"]
    assert list(m.children()) == []
    m.plain = 4
    m.plain = nn.Identity()
    assert "plain" not in m.__dict__
    assert isinstance(m.plain, nn.Identity)
    del m.plain, m.weight, m.state
    for name in ("plain", "weight", "state", "never"):
        with pytest.raises(AttributeError, match=name):
            getattr(m, name)
    for bad, error in (("", KeyError), ("a.b", KeyError), (3, TypeError), ("child", KeyError)):
        with pytest.raises(error):
            m.register_buffer(bad, None)
    with pytest.raises(TypeError, match=r"nn\.Parameter"):
        m.register_parameter("p", pydlx.ones(1))
    with pytest.raises(TypeError):
        m.add_module("m", 3)
    with pytest.raises(TypeError, match="no arguments"):
        nn.Module(3)
    m.held = nn.Buffer(pydlx.ones(2), persistent=False)
    assert dict(m.named_buffers())["held"] is m.held
    assert "held" not in m.state_dict()

    class Late(nn.Module):
        def __init__(self):
            self.p = nn.Parameter(pydlx.ones(1))

    with pytest.raises(AttributeError, match="super"):
        Late()
    with pytest.raises(NotImplementedError, match="forward"):
        nn.Module()(1)


def test_parameter():
    data = pydlx.ones(3)
    p = nn.Parameter(data)
    assert isinstance(p, pydlx.Tensor)
    assert isinstance(p, nn.Parameter)
    assert p.requires_grad
    assert p.is_leaf
    data.fill_(5)
    assert p.detach().numpy().tolist() == [5, 5, 5]  # the storage is shared
    assert not isinstance(p * 2, nn.Parameter)
    assert repr(p).startswith("Parameter containing:\n")
    twin = copy.deepcopy(p)
    assert isinstance(twin, nn.Parameter)
    assert twin is not p
    assert twin.requires_grad
    back = pickle.loads(pickle.dumps(nn.Parameter(data, requires_grad=False)))
    assert isinstance(back, nn.Parameter)
    assert not back.requires_grad
    assert back.numpy().tolist() == [5, 5, 5]
    with pytest.raises(TypeError, match="data"):
        nn.Parameter([1.0])
    assert nn.Parameter().numel() == 0


def test_state_dict_round_trip_and_hooks():
    net, twin = make(pydlx), make(pydlx)
    state = net.state_dict()
    assert state["blocks.0.scale"].data_ptr() == net.blocks[0].scale.data_ptr()
    assert not state["blocks.0.scale"].requires_grad
    assert net.state_dict(keep_vars=True)["blocks.0.scale"] is net.blocks[0].scale
    assert "blocks.0.scratch" not in state
    assert state._metadata["blocks.0.norm"]["version"] == 2
    assert next(iter(net.state_dict(prefix="p."))).startswith("p.")
    assert repr(twin.load_state_dict(state)) == "<All keys matched successfully>"
    for key, value in twin.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key].numpy())
    net.register_state_dict_post_hook(lambda mod, sd, prefix, meta: sd.update(added=1))
    assert net.state_dict()["added"] == 1
    seen = []
    twin.register_load_state_dict_pre_hook(lambda mod, sd, *rest: sd.pop("added", None))
    twin.register_load_state_dict_post_hook(lambda mod, keys: seen.append(keys.unexpected_keys))
    twin.load_state_dict(net.state_dict(), strict=False)
    assert seen == [["added"]] or seen == [[]]


def test_load_errors_name_every_problem():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    state = net.state_dict()
    del state["1.bias"]
    state["1.weights"] = pydlx.ones(2)
    state["0.weight"] = pydlx.ones(4, 4)
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(state)
    text = str(error.value)
    for part in ("[load_state_dict]", '"1.bias"', '"1.weights"', "0.weight", "(4, 3)", "(4, 4)"):
        assert part in text, part
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    state["0.weight"] = pydlx.ones(4, 3)
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["1.bias"]
    assert result.unexpected_keys == ["1.weights"]
    missing, unexpected = result
    assert missing == ["1.bias"]
    assert unexpected == ["1.weights"]
    assert (net[0].weight == 1).all()
    with pytest.raises(TypeError, match="mapping"):
        net.load_state_dict([1])
    with pytest.raises(RuntimeError, match="expected a Tensor"):
        nn.Linear(1, 1).load_state_dict({"weight": 3, "bias": pydlx.ones(1)})


def test_load_converts_and_assigns():
    m = nn.Linear(2, 1)
    m.load_state_dict({"weight": pydlx.tensor([[1.0, 2.0]], dtype=pydlx.float64), "bias": pydlx.zeros(1)})
    assert m.weight.dtype == pydlx.float32
    assert m.weight.tolist() == [[1, 2]]
    given = pydlx.tensor([[3.0, 4.0]], dtype=pydlx.float64)
    m.load_state_dict({"weight": given, "bias": pydlx.zeros(1)}, assign=True)
    assert m.weight.data_ptr() == given.data_ptr()
    assert m.weight.dtype == pydlx.float64
    assert isinstance(m.weight, nn.Parameter)
    assert m.weight.requires_grad
    old = nn.BatchNorm1d(2)
    state = old.state_dict()
    del state["num_batches_tracked"]
    state._metadata[""]["version"] = 1
    old.load_state_dict(state)  # files of the first version have no counter

    class WithExtra(nn.Module):
        def __init__(self):
            super().__init__()
            self.note = "a"

        def get_extra_state(self):
            return {"note": self.note}

        def set_extra_state(self, state):
            self.note = state["note"]

    a, b = nn.Sequential(WithExtra()), nn.Sequential(WithExtra())
    a[0].note = "b"
    assert list(a.state_dict()) == ["0._extra_state"]
    b.load_state_dict(a.state_dict())
    assert b[0].note == "b"


def test_conversion_keeps_parameters():
    net = make(pydlx)
    before = list(net.parameters())
    net.double()
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))
    assert {str(p.dtype).split(".")[-1] for p in net.parameters()} == {"float64"}
    assert net.blocks[0].norm.num_batches_tracked.dtype == pydlx.int64
    net.to(pydlx.float32)
    net(pydlx.ones(3, 4)).sum().backward()
    net.to("cpu", pydlx.float64)
    assert net.heads["a"].weight.grad.dtype == pydlx.float64
    assert net.half().heads["a"].weight.dtype == pydlx.float16
    assert net.bfloat16().heads["a"].weight.dtype == pydlx.bfloat16
    assert net.float().to(pydlx.ones(1, dtype=pydlx.float64)).heads["a"].weight.dtype == pydlx.float64
    assert net.cpu() is net
    with pytest.raises(TypeError, match="floating"):
        net.to(pydlx.int32)
    with pytest.raises(TypeError):
        net.to([])


def test_modes_and_gradients():
    net = make(pydlx)
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    with pytest.raises(ValueError, match="mode"):
        net.train("yes")
    net(pydlx.ones(3, 4)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in net.parameters() if p.grad is not None)
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert not any(p.requires_grad for p in net.requires_grad_(False).parameters())
    order = []
    net.apply(lambda m: order.append(type(m).__name__))
    assert order[-1] == "Net"
    assert order[0] == "Linear"


def test_copy_and_pickle():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GRU(4, 2))
    twin = copy.deepcopy(net)
    back = pickle.loads(pickle.dumps(net))
    for other in (twin, back):
        assert repr(other) == repr(net)
        for (name, a), (_, b) in zip(net.state_dict().items(), other.state_dict().items(), strict=True):
            assert a.data_ptr() != b.data_ptr(), name
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        assert all(isinstance(p, nn.Parameter) for p in other.parameters())
    tied = nn.ModuleList([nn.Linear(2, 2)])
    tied.append(tied[0])
    twin = copy.deepcopy(tied)
    assert twin[0] is twin[1]


def test_modules_are_freed():
    m = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    m(pydlx.ones(2, 3))
    handle = m.register_forward_hook(lambda *a: None)
    gone = weakref.ref(m)
    del m
    gc.collect()
    assert gone() is None
    handle.remove()


def test_containers():
    def build(lib):
        return [lib.nn.Linear(i + 1, i + 1) for i in range(4)]

    mine, theirs = nn.Sequential(*build(pydlx)), torch.nn.Sequential(*build(torch))
    for edit in (
        lambda s, lib: s.append(lib.nn.ReLU()),
        lambda s, lib: s.insert(1, lib.nn.Tanh()),
        lambda s, lib: s.pop(0),
        lambda s, lib: s.__delitem__(slice(1, 3)),
        lambda s, lib: s.__setitem__(-1, lib.nn.ELU()),
        lambda s, lib: s.extend([lib.nn.GELU(), lib.nn.ReLU()]),
        lambda s, lib: s.__imul__(2),
    ):
        edit(mine, pydlx)
        edit(theirs, torch)
        assert list(mine._modules) == list(theirs._modules)
        same_repr(mine, theirs)
    same_repr(mine[1:3], theirs[1:3])
    same_repr(mine + mine, theirs + theirs)
    same_repr(mine * 2, theirs * 2)
    assert mine[-1] is list(mine)[-1]
    assert len(mine) == len(theirs)
    with pytest.raises(IndexError):
        mine[99]
    named = nn.Sequential({"a": nn.ReLU(), "b": nn.Tanh()})
    assert named.a(pydlx.ones(1)).item() == 1
    assert isinstance(named[1], nn.Tanh)

    items = nn.ModuleList([nn.Linear(2, 2)])
    items += [nn.ReLU()]
    assert isinstance(items.__add__([nn.Tanh()]), nn.ModuleList)
    assert len(items[:1]) == 1
    with pytest.raises(NotImplementedError):
        items(1)
    table = nn.ModuleDict([("x", nn.ReLU()), ("y", nn.Tanh())])
    assert list(table) == ["x", "y"]
    assert "x" in table
    assert isinstance(table.pop("x"), nn.ReLU)
    assert len(table) == 1
    table.update({"z": nn.ELU()})
    assert list(table.keys()) == ["y", "z"]
    params = nn.ParameterList([pydlx.ones(2), "text"])
    params.append(pydlx.ones(3))
    params[0] = pydlx.zeros(1)
    assert [n for n, _ in params.named_parameters()] == ["0", "2"]
    assert params[1] == "text"
    assert len(params[1:]) == 2
    store = nn.ParameterDict({"u": pydlx.ones(2)})
    store["v"] = pydlx.ones(1)
    assert isinstance(store["v"], nn.Parameter)
    assert "u" in store
    assert store.get("w", 4) == 4
    assert store.popitem()[0] == "v"
    assert len(store) == 1
    assert list(store | nn.ParameterDict({"t": 1})) == ["u", "t"]
    with pytest.raises(KeyError):
        store["none"]
    with pytest.raises(RuntimeError):
        params(1)


def test_repr():
    for build in (
        lambda nn: nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Sequential(nn.ReLU(inplace=True)), nn.Identity()),
        lambda nn: nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()]),
        lambda nn: nn.ModuleDict(),
        lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
        lambda nn: nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5, bidirectional=True, proj_size=2),
    ):
        same_repr(build(nn), build(torch.nn))

    class Lines(nn.Module):
        def extra_repr(self):
            return "one\ntwo"

    assert repr(Lines()) == "Lines(\n  one\n  two\n)"


def test_errors_carry_the_module_path():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2))

        def forward(self, x):
            return self.layers(x)

    with pytest.raises(ValueError, match=r"\(in Net\.layers\.2 \(Linear\)\)$") as error:
        Net()(pydlx.ones(1, 3))
    assert str(error.value).count("(in ") == 1
    with pytest.raises(ValueError, match=r"\(in Linear\)$"):
        nn.Linear(3, 4)(pydlx.ones(1, 5))

    class Own(nn.Module):
        def forward(self, x):
            raise LookupError("mine")

    with pytest.raises(LookupError) as error:
        nn.Sequential(Own())(1)
    assert error.value.args == ("mine",)
    if hasattr(error.value, "__notes__"):
        assert error.value.__notes__ == [" (in Sequential.0 (Own))"]


def test_no_warnings_in_plain_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
        loss = nn.CrossEntropyLoss()(net(pydlx.ones(2, 1, 4, 4)), ours(np.array([0, 2])))
        loss.backward()
    assert all(p.grad is not None for p in net.parameters())
