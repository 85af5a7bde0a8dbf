"""Programs written for PyTorch on ``device="cuda"``, in both ways in which they get there: by a default device, and by an
argument of each factory function while the default stays the CPU. Results are those of PyTorch on the CPU."""

from __future__ import annotations

import functools

import pytest
import test_checkpoint
import test_composed
import test_nn_lazy
import test_port_sequences
import test_port_tools
import test_port_vision
import test_utilities
import torch
from ports import Draw, compare, plain

import pydlx

pytestmark = [
    pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU"),
    pytest.mark.filterwarnings("ignore"),
]

MODULES = (
    test_composed,
    test_port_sequences,
    test_port_vision,
    test_port_tools,
    test_utilities,
    test_nn_lazy,
    test_checkpoint,
)
# What they return, or ask for, is the CPU by name.
OF_THE_CPU = {"methods", "gan", "mlp_mnist", "modulelist_buffer", "precision_of_the_second_run"}
PROGRAMS = [p for module in MODULES for p in module.PROGRAMS if p.__name__ not in OF_THE_CPU]
FACTORIES = {"arange", "as_tensor", "empty", "eye", "full", "ones", "rand", "randn", "tensor", "zeros"}


class OnDevice:
    """pydlx, whose factory functions are called with ``device="cuda"``."""

    def __getattr__(self, name):
        found = getattr(pydlx, name)
        return functools.partial(found, device="cuda") if name in FACTORIES else found


@pytest.fixture
def default_device():
    pydlx.set_default_device("cuda")
    yield
    pydlx.set_default_device(None)


def check(program, lib):
    theirs = plain(program(torch, Draw(torch)))
    compare(plain(program(lib, Draw(lib))), theirs, program.__name__)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_by_default_device(default_device, program):
    check(program, pydlx)


@pytest.mark.parametrize(
    "program",
    [p for p in test_composed.PROGRAMS if p.__name__ not in OF_THE_CPU],
    ids=lambda program: program.__name__,
)
def test_by_argument(program):
    check(program, OnDevice())


def test_data_goes_to_the_default_device(default_device):
    import numpy as np

    array, here = np.ones(2, np.float32), pydlx.ones(2, device="cpu")
    for make in (pydlx.tensor, pydlx.as_tensor, pydlx.asarray):
        for data in (1.0, [1.0], array, here):
            assert make(data).device.type == "cuda", (make, data)
            assert make(data, device="cpu").device.type == "cpu", (make, data)
    assert pydlx.from_numpy(array).device.type == "cpu"
    assert pydlx.as_tensor(array, device="cpu").data_ptr() == array.ctypes.data
    copied = pydlx.tensor(array, device="cpu")
    array[0] = 5
    assert copied.tolist() == [1.0, 1.0]


def test_a_copy_need_not_wait():
    pinned, target = pydlx.randn(1000).pin_memory(), pydlx.zeros(1000, device="cuda")
    assert target.copy_(pinned, non_blocking=True) is target
    back = pydlx.zeros(1000).pin_memory()
    back.copy_(target, True)
    pydlx.cuda.synchronize()
    assert back.tolist() == pinned.tolist()


def test_gradients_of_a_copy_are_where_its_source_is():
    source = pydlx.ones(3, requires_grad=True)
    (pydlx.zeros(3, device="cuda").copy_(source) * 2).sum().backward()
    assert source.grad.device.type == "cpu" and source.grad.tolist() == [2.0, 2.0, 2.0]


def test_gradgradcheck_draws_where_the_results_are():
    x = pydlx.tensor([0.3, -0.7], dtype=pydlx.float64, device="cuda", requires_grad=True)
    assert pydlx.autograd.gradgradcheck(pydlx.sin, (x,))


@pytest.mark.parametrize("name", ["orthogonal_", "sparse_"])
def test_initialisers_by_drawing_and_sorting(name):
    def draw(device):
        pydlx.manual_seed(3)
        weight, more = pydlx.empty(6, 4, device=device), (0.5,) if name == "sparse_" else ()
        return getattr(pydlx.nn.init, name)(weight, *more).tolist()

    assert draw("cuda") == draw("cpu")


def test_states_of_the_generators_come_back():
    one, everything = pydlx.cuda.get_rng_state(), pydlx.cuda.get_rng_state_all()
    first = pydlx.rand(5, device="cuda").tolist()
    pydlx.cuda.set_rng_state(one)
    assert pydlx.rand(5, device="cuda").tolist() == first
    pydlx.cuda.set_rng_state_all(everything)
    assert pydlx.rand(5, device="cuda").tolist() == first
    pydlx.cuda.seed_all()
    seeds = {g.initial_seed() for g in pydlx.cuda.default_generators}
    assert seeds == {pydlx.cuda.initial_seed()} and pydlx.rand(5, device="cuda").tolist() != first


def test_what_scripts_ask_a_gpu():
    assert pydlx.cuda.is_bf16_supported() and pydlx.cuda.init() is None
    assert pydlx.cuda.is_tf32_supported() == (pydlx.cuda.get_device_capability() >= (8, 0))
    x = pydlx.zeros(3 << 20, device="cuda")
    lines = pydlx.cuda.memory_summary().splitlines()
    assert lines[0].startswith("cuda:0") and float(lines[1].split()[1]) == round(
        pydlx.cuda.memory_allocated() / 2**20, 1
    )
    assert len(lines) == 5 and len(pydlx.cuda.memory_summary("cuda:0", abbreviated=True).splitlines()) == 4
    del x


def test_the_older_spelling_of_mixed_precision():
    class Cube(pydlx.autograd.Function):
        @staticmethod
        @pydlx.cuda.amp.custom_fwd(cast_inputs=pydlx.float32)
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @pydlx.cuda.amp.custom_bwd
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 3 * x * x * g

    scaler, layer = pydlx.cuda.amp.GradScaler(init_scale=128.0), pydlx.nn.Linear(4, 4).cuda()
    with pydlx.cuda.amp.autocast():
        inner = layer(pydlx.ones(2, 4, device="cuda"))
        out = Cube.apply(inner)
    assert inner.dtype is pydlx.float16 and out.dtype is pydlx.float32
    scaler.scale(out.sum()).backward()
    optimizer = pydlx.optim.SGD(layer.parameters(), lr=0.1)
    scaler.unscale_(optimizer)
    want = 3 * inner.detach().float().pow(2).sum(0)
    assert ((layer.bias.grad - want).abs() <= 2e-3 * want.abs().max()).all().item()
