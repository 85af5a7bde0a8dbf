"""Devices, streams, events, graphs, memory and errors of the GPU: a real one, or the emulator of a build with PYDLX_CUDA=EMULATE."""

from __future__ import annotations

import copy
import gc
import math
import pickle

import numpy as np
import pytest
from cuda_program import EMULATED

import pydlx
from pydlx import cuda

needs_device = pytest.mark.skipif(not cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")


@pytest.mark.skipif(cuda.is_available(), reason="there is a GPU")
class TestWithoutDevice:
    """Asking never raises; using says what is missing."""

    def test_questions(self):
        assert not cuda.is_available()
        assert cuda.device_count() == 0
        assert not cuda.is_initialized()
        cuda.manual_seed(1)
        cuda.manual_seed_all(1)
        cuda.empty_cache()

    @pytest.mark.parametrize(
        "use",
        [
            lambda: pydlx.ones(2).cuda(),
            lambda: pydlx.ones(2, device="cuda"),
            lambda: pydlx.ones(2).to("cuda:3"),
            lambda: pydlx.tensor([1.0], device="cuda"),
            lambda: pydlx.nn.Linear(2, 2).cuda(),
            lambda: pydlx.set_default_device("cuda"),
            cuda.synchronize,
            cuda.current_device,
            cuda.Stream,
            cuda.Event,
            cuda.CUDAGraph,
            cuda.memory_allocated,
            cuda.get_device_name,
        ],
    )
    def test_uses(self, use):
        with pytest.raises(pydlx.DeviceError, match=r"CUDA|cuda"):
            use()
        assert pydlx.get_default_device().type == "cpu"


@needs_device
class TestPlacement:
    def test_round_trips_keep_values_dtype_and_strides(self):
        for dtype in (pydlx.float32, pydlx.bfloat16, pydlx.int64, pydlx.bool):
            x = (pydlx.arange(24).reshape(4, 6) % 3).to(dtype)
            for view in (x, x.t(), x[::2, 1:], x[:0]):
                there = view.cuda()
                assert there.is_cuda and there.device == pydlx.device("cuda:0") and there.dtype == dtype
                assert there.cpu().tolist() == view.tolist()
        assert x.t().cuda().stride() == x.t().stride()

    def test_same_device_is_the_same_tensor(self):
        x = pydlx.ones(3).cuda()
        assert x.cuda() is x and x.to("cuda") is x
        assert x.to("cuda", copy=True) is not x

    def test_gradient_comes_back(self):
        x = pydlx.randn(3, 4, requires_grad=True)
        (x.cuda() * 2).cpu().backward(pydlx.ones(3, 4))
        assert x.grad.device.type == "cpu" and x.grad.tolist() == [[2.0] * 4] * 3

    def test_scalars_join_the_other_operand(self):
        """A 0-d host value, on either side of a 0-d tensor of the device."""
        t = pydlx.tensor(3.0, device="cuda", requires_grad=True)
        host = pydlx.tensor(2.0)
        results = [0 + t, t + 0, 2 - t, host * t, t * host, pydlx.maximum(host, t), host < t, sum([t, t])]
        assert [r.device.type for r in results] == ["cuda"] * len(results)
        assert [r.item() for r in results] == [3, 3, -1, 6, 6, 3, True, 6]
        (0 + host * t).backward()
        assert t.grad.is_cuda and t.grad.item() == 2

    def test_copies_between_devices_convert_and_broadcast(self):
        x = pydlx.zeros(2, 3).cuda()
        x.copy_(pydlx.tensor([1, 2, 3]))
        assert x.tolist() == [[1.0, 2.0, 3.0]] * 2
        y = pydlx.zeros(3, 2).t()
        y.copy_(x * 2)
        assert y.tolist() == [[2.0, 4.0, 6.0]] * 2

    def test_numbers_and_zero_dim_tensors_join(self):
        x = pydlx.ones(3).cuda()
        assert (x + 1).tolist() == [2.0] * 3
        assert (x + pydlx.tensor(1.0)).tolist() == [2.0] * 3
        assert float(x[0]) == 1.0 and x[pydlx.tensor(1).cuda()].item() == 1.0

    def test_mixed_devices_are_refused(self):
        with pytest.raises(pydlx.DeviceError, match=r"one device.*cuda:0.*cpu|one device.*cpu.*cuda:0"):
            pydlx.ones(3).cuda() + pydlx.ones(3)

    def test_index_of_a_device_that_is_not_there(self):
        with pytest.raises(pydlx.DeviceError, match="index below"):
            pydlx.ones(2).to(f"cuda:{cuda.device_count()}")

    def test_default_device(self):
        with pydlx.device("cuda"):
            assert pydlx.ones(2).is_cuda and pydlx.tensor([1]).is_cuda
            with pydlx.device("cpu"):
                assert not pydlx.ones(2).is_cuda
        assert not pydlx.ones(2).is_cuda

    def test_printing_and_pickling(self):
        import pickle

        x = pydlx.arange(3.0).cuda()
        assert repr(x) == "tensor([0., 1., 2.], device='cuda:0')"
        back = pickle.loads(pickle.dumps(x))
        assert back.tolist() == x.tolist()

    def test_numpy_needs_a_copy(self):
        x = pydlx.ones(2).cuda()
        with pytest.raises((pydlx.DeviceError, TypeError), match="cpu"):
            x.numpy()
        assert np.array_equal(x.cpu().numpy(), [1, 1])


@needs_device
class TestStreams:
    def test_current_and_default(self):
        assert cuda.current_stream() == cuda.default_stream()
        s = cuda.Stream()
        with cuda.stream(s):
            assert cuda.current_stream() == s
            y = pydlx.ones(1000).cuda() * 3
        assert cuda.current_stream() == cuda.default_stream()
        cuda.current_stream().wait_stream(s)
        y.record_stream(cuda.current_stream())
        assert y.sum().item() == 3000.0
        s.synchronize()
        assert s.query()

    def test_events(self):
        a, b = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        with pytest.raises(RuntimeError, match="recorded"):
            a.elapsed_time(b)
        assert a.query()  # never recorded
        a.record()
        pydlx.ones(1000).cuda()
        b.record()
        b.synchronize()
        assert b.query() and a.elapsed_time(b) >= 0
        with pytest.raises(ValueError, match="enable_timing"):
            cuda.Event().elapsed_time(b)


@needs_device
class TestMemory:
    def test_blocks_are_reused_and_counted(self):
        gc.collect()
        before = cuda.memory_allocated()
        x = pydlx.empty(1 << 20, device="cuda")
        assert cuda.memory_allocated() - before >= 4 << 20
        address = x.data_ptr()
        del x
        assert cuda.memory_allocated() == before
        hits = cuda.memory_stats()["cache_hits"]
        x = pydlx.empty(1 << 20, device="cuda")
        assert x.data_ptr() == address and cuda.memory_stats()["cache_hits"] == hits + 1
        del x
        reserved = cuda.memory_reserved()
        cuda.empty_cache()
        assert cuda.memory_reserved() < reserved

    def test_pieces_do_not_overlap(self):
        tensors = [pydlx.full((n,), float(i), device="cuda") for i, n in enumerate([1, 7, 1000, 5, 300_000, 3, 129])]
        for i in (1, 3):
            tensors[i] = pydlx.full((tensors[i].numel() + 1,), float(i), device="cuda")
        for i, t in enumerate(tensors):
            assert (t == i).all().item()

    def test_exhaustion_is_an_error_and_not_the_end(self):
        free, total = cuda.mem_get_info()
        assert 0 < free <= total
        with pytest.raises(cuda.OutOfMemoryError, match=r"requested .* in use .* cached"):
            pydlx.empty(total, dtype=pydlx.float32, device="cuda")
        assert (pydlx.ones(4, device="cuda") * 2).tolist() == [2.0] * 4

    def test_peak(self):
        cuda.reset_peak_memory_stats()
        base = cuda.max_memory_allocated()
        x = pydlx.empty(1 << 18, device="cuda")
        del x
        assert cuda.max_memory_allocated() - base >= 1 << 20

    def test_memory_in_use_elsewhere_is_not_handed_out(self):
        s = cuda.Stream()
        x = pydlx.ones(1 << 18, device="cuda")
        address = x.data_ptr()
        x.record_stream(s)
        with pytest.raises(pydlx.DeviceError, match="CUDA tensor"):
            pydlx.ones(2).record_stream(s)
        s.synchronize()
        del x  # free once the stream has passed: at the latest when the next block is asked for
        y = pydlx.ones(1 << 18, device="cuda")
        z = pydlx.ones(1 << 18, device="cuda")
        assert address in (y.data_ptr(), z.data_ptr()) and y.data_ptr() != z.data_ptr()

    def test_pinned_memory(self):
        x = pydlx.arange(1000.0)
        p = x.pin_memory()
        assert p.is_pinned() and not x.is_pinned() and p.tolist() == x.tolist() and p.pin_memory() is p
        assert p.to("cuda", non_blocking=True).sum().item() == x.sum().item()

    def test_freed_pinned_memory_waits_for_its_copies(self):
        n = 8 if EMULATED else 1024
        a = pydlx.ones(n, n, device="cuda") / n
        p = pydlx.ones(1 << 16).pin_memory()
        for _ in range(50):  # the copy below has to queue behind these
            a = a @ a
        x = p.to("cuda", non_blocking=True)
        del p
        q = pydlx.full((1 << 16,), 2.0).pin_memory()  # would overwrite the block if it were given out already
        assert x.sum().item() == 1 << 16 and q.sum().item() == 2 << 16


@needs_device
class TestGraphs:
    def test_replay_reads_new_inputs(self):
        x = pydlx.ones(5, device="cuda")
        g = cuda.CUDAGraph()
        with cuda.graph(g):
            y = x * 2 + 1
        g.replay()
        assert y.tolist() == [3.0] * 5
        x.copy_(pydlx.arange(5.0))
        g.replay()
        assert y.tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]

    @pytest.mark.parametrize("warm", [1, 2])
    @pytest.mark.parametrize(
        "make_optimizer",
        [
            lambda p: pydlx.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1),
            lambda p: pydlx.optim.Adam(p, lr=0.1, amsgrad=True),
            lambda p: pydlx.optim.AdamW(p, lr=0.1),
            lambda p: pydlx.optim.RMSprop(p, lr=0.1, momentum=0.5),
            lambda p: pydlx.optim.Adagrad(p, lr=0.1, lr_decay=0.1),
        ],
        ids=["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"],
    )
    def test_a_training_step_equals_eager_bit_for_bit(self, make_optimizer, warm):
        """With dropout and a learning rate that a schedule changes; some eager steps, a recording, replays, an eager step."""
        x, y = pydlx.randn(8, 6, device="cuda"), pydlx.randint(3, (8,), device="cuda")

        def make():
            pydlx.manual_seed(1)
            model = pydlx.nn.Sequential(
                pydlx.nn.Linear(6, 16), pydlx.nn.ReLU(), pydlx.nn.Dropout(0.25), pydlx.nn.Linear(16, 3)
            ).cuda()
            optimizer = make_optimizer(model.parameters())
            schedule = pydlx.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

            def step():
                optimizer.zero_grad(set_to_none=False)
                loss = pydlx.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                return loss

            return model, optimizer, schedule, step

        def run(replays):
            """Losses, weights and counts after six steps, those from `warm` on replayed but for the last."""
            model, optimizer, schedule, step = make()
            losses, g = [], cuda.CUDAGraph()
            for i in range(6):
                if replays and warm <= i < 5:
                    if i == warm:
                        with cuda.graph(g):
                            loss = step()
                    g.replay()
                else:
                    loss = step()
                losses.append(loss.item())
                schedule.step()
            counts = [s["step"].item() for s in optimizer.state_dict()["state"].values() if "step" in s]
            return losses, [p.tolist() for p in model.parameters()], counts

        assert run(replays=True) == run(replays=False)

    def test_a_checkpoint_repeats_its_draws(self):
        x = pydlx.randn(8, 6, device="cuda", requires_grad=True)
        nn = pydlx.nn
        model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3), nn.Dropout(0.5)).cuda()

        def run(forward, record):
            """Gradients of three steps."""
            pydlx.manual_seed(3)
            results, g = [], cuda.CUDAGraph()

            def step():
                return pydlx.autograd.grad(forward(x).pow(2).sum(), x)[0]

            if record:
                with cuda.graph(g):
                    gradient = step()
            for _ in range(3):
                if record:
                    g.replay()
                else:
                    gradient = step()
                results.append(gradient.tolist())
            return results

        expected = run(model, record=False)
        assert expected[0] != expected[1]
        for record in (False, True):
            assert run(lambda t: pydlx.utils.checkpoint.checkpoint(model, t), record) == expected

    def test_optimisers_with_a_step_count_in_python_refuse(self):
        p = pydlx.nn.Parameter(pydlx.ones(3, device="cuda"))
        p.grad = pydlx.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match=r"\[NAdam.step\].*recorded graph"), cuda.graph(cuda.CUDAGraph()):
            pydlx.optim.NAdam([p]).step()

    def test_misuse(self):
        g = cuda.CUDAGraph()
        with pytest.raises(RuntimeError, match="recorded"):
            g.replay()
        with pytest.raises(RuntimeError, match="default"):
            g.capture_begin()

    def test_memory_of_a_graph_stays_its_own(self):
        x = pydlx.ones(1000, device="cuda")
        g = cuda.CUDAGraph()
        with cuda.graph(g):
            y = x + 1
        other = [pydlx.full((1000,), 9.0, device="cuda") for _ in range(8)]
        g.replay()
        assert y.tolist() == [2.0] * 1000
        assert all((o == 9).all().item() for o in other)

    def test_memory_of_a_deleted_graph_waits_for_replays_on_other_streams(self):
        """The stream that recorded must not write there while another one still replays."""
        recording, replaying = cuda.Stream(), cuda.Stream()
        n = 1 << 20
        x, result = pydlx.ones(n, device="cuda"), pydlx.zeros(n, device="cuda")
        cuda.synchronize()
        g = cuda.CUDAGraph()
        with cuda.graph(g, stream=recording):
            y = x
            for _ in range(20):
                y = y + 1
            result.copy_(y)
            del y
        with cuda.stream(replaying):
            for _ in range(10):
                g.replay()
        del g
        with cuda.stream(recording):
            garbage = [pydlx.full((n,), -5.0, device="cuda") for _ in range(24)]
        cuda.synchronize()
        assert (result == 21).all().item() and all((t == -5).all().item() for t in garbage)

    def test_a_graph_can_be_deleted_while_a_stream_records(self):
        g, x, s = cuda.CUDAGraph(), pydlx.ones(1000, device="cuda"), cuda.Stream()
        with cuda.graph(g):
            y = x + 1
        g.replay()
        with cuda.stream(s):
            g.replay()
        assert y.tolist() == [2.0] * 1000
        other = cuda.CUDAGraph()
        with cuda.graph(other, stream=s):
            z = x + 2
            del g
        other.replay()
        assert z.tolist() == [3.0] * 1000 and y.tolist() == [2.0] * 1000

    def test_memory_that_a_recording_uses_can_be_freed_meanwhile(self):
        """An event of a recording is never over: blocks that waited for it, and all behind them, were lost."""
        s, g = cuda.Stream(), cuda.CUDAGraph()
        x = pydlx.ones(1 << 18, device="cuda")
        address = x.data_ptr()
        cuda.synchronize()
        with cuda.graph(g, stream=s):
            pydlx.empty(4, device="cuda").fill_(2.0)
            x.record_stream(s)
            del x
        others = [pydlx.empty(1 << 18, device="cuda") for _ in range(2)]
        assert address in [t.data_ptr() for t in others]


@needs_device
class TestFaults:
    def test_index_out_of_range_is_raised_later_and_the_device_lives(self):
        loss = pydlx.nn.functional.cross_entropy
        x = pydlx.randn(4, 3).cuda()

        def use():
            loss(x, pydlx.tensor([0, 1, 2, 7]).cuda())
            cuda.synchronize()

        with pytest.raises(IndexError, match="class"):
            use()
        cuda.synchronize()  # reported once
        assert loss(x, pydlx.tensor([0, 1, 2, 0]).cuda()).item() > 0


# What this backend leaves to compositions on purpose; everything else that the CPU's portable path has, it has.
LEFT_OUT = {
    "CellKernels": 1,  # joined_from: the input's share of the gates is one product for all steps
    "CrossKernels": 4,  # composed
    "NormKernels": 1,  # batch_norm_train: statistics and results are two kernels
    "IndexingKernels": 1,  # checks_range: bad indices have a kernel of their own
    "ScanKernels": 1,  # sums of bool: widened first
    "SortKernels": 6,  # tallies of the integers, and their workspace: sorting is no slower here
    "ConvKernels": 1,  # prepared weights of float32
}


@needs_device
def test_no_kernel_is_missing():
    missing = [family for family, _ in pydlx._C._cuda.missing_kernels(0)]
    assert {family: missing.count(family) for family in missing} == LEFT_OUT


@needs_device
def test_random_numbers_equal_the_cpu():
    pydlx.manual_seed(5)
    want = pydlx.rand(1000)
    pydlx.manual_seed(5)
    try:
        got = pydlx.rand(1000, device="cuda")
    except pydlx.DTypeError as e:
        pytest.skip(str(e))
    assert got.tolist() == want.tolist()


@needs_device
@pytest.mark.parametrize("dtype", [pydlx.uint8, pydlx.float16, pydlx.float32, pydlx.float64], ids=str)
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(8, 130), (31, 33), (32, 65), (63, 9), (64, 64), (65, 128), (136, 72), (49, 80), (80, 49), (196, 50), (100, 196)],
)
def test_transposes_around_the_edges_of_tiles(rows, columns, dtype):
    """Packs, words and single elements on either side, as sizes and where data begins allow."""
    for shape, order in [
        ((rows, columns), (1, 0)),
        ((3, rows, columns), (0, 2, 1)),
        ((2, rows, 3, columns), (0, 3, 2, 1)),
        ((rows, 2, columns), (2, 0, 1)),
    ]:
        for skew in (0, 2, 3):
            x = (pydlx.arange(rows * columns * 6 + skew) % 251)[skew : math.prod(shape) + skew].to(dtype)
            x, there = x.reshape(shape), pydlx.cat([pydlx.zeros(skew, dtype=dtype), x]).cuda()[skew:].reshape(shape)
            want = x.permute(*order)
            assert (there.permute(*order).contiguous().cpu() == want).all().item()
            into = pydlx.zeros(x.numel() + skew, dtype=dtype, device="cuda")[skew:].reshape(want.shape)
            into.copy_(there.permute(*order))
            assert (into.cpu() == want).all().item()


@needs_device
def test_zeros_of_many_tensors():
    """Lists that take several launches, any dtype, tensors that begin and end amid chunks of 16 bytes, on both devices."""
    dtypes = [pydlx.bool, pydlx.uint8, pydlx.int16, pydlx.bfloat16, pydlx.float32, pydlx.int64, pydlx.float64]
    sizes = [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 100, 1000, 33000]
    made = []
    for i in range(200):
        n, first, device = sizes[i % len(sizes)], i % 19, "cpu" if i % 11 == 0 else "cuda"
        around = pydlx.ones(n + 40, dtype=dtypes[i % len(dtypes)], device=device)
        made.append((around, first, n))
    lists = [around[first : first + n] for around, first, n in made]
    versions = [t._version for t in lists]
    dense, strided = pydlx.ones(6, 4, device="cuda").t(), pydlx.ones(6, 4, device="cuda")
    pydlx._C.fused_zero_([*lists, pydlx.ones(0, device="cuda"), dense, strided[:, ::2]])
    for around, first, n in made:
        expected = np.ones(n + 40)
        expected[first : first + n] = 0
        assert (around.double().cpu().numpy() == expected).all(), (around.dtype, first, n)
    assert [t._version for t in lists] == [v + 1 for v in versions]
    assert dense.sum().item() == 0 and strided.sum(0).tolist() == [0, 6, 0, 6]
    pydlx._C.fused_zero_([])


@needs_device
def test_recorded_zeros_of_many_tensors():
    tensors = [pydlx.ones(3 + i, device="cuda") for i in range(170)]
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        pydlx._C.fused_zero_(tensors)
    for t in tensors:
        t.fill_(2.0)
    graph.replay()
    assert all(t.sum().item() == 0 for t in tensors)


@needs_device
def test_pickle_and_deepcopy_keep_the_device():
    layer = pydlx.nn.Linear(3, 2).cuda()
    layer.register_buffer("counts", pydlx.arange(4).cuda())
    for copied in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        for name, value in layer.state_dict().items():
            got = copied.state_dict()[name]
            assert got.device == value.device
            assert (got == value).all().item()
        assert copied.weight.is_leaf and copied.weight.requires_grad and not copied.counts.requires_grad
    empty = pickle.loads(pickle.dumps(pydlx.empty(0, 3, device="cuda")))
    assert (empty.device.type, tuple(empty.shape)) == ("cuda", (0, 3))


def test_a_pickle_of_a_device_that_is_not_here_names_the_remedy():
    # Protocol 2 has no frames, whose lengths would have to be corrected.
    plain = pickle.dumps(pydlx.arange(3), protocol=2).replace(b"X\x03\x00\x00\x00cpu", b"X\x07\x00\x00\x00cuda:99")
    assert b"cuda:99" in plain
    with pytest.raises(RuntimeError, match=r"\[pickle\] device: .* cuda:99, which is not here; pickle its \.cpu\(\)"):
        pickle.loads(plain)
