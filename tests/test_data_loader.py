"""The loader, with and without worker processes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import pytest
from data_sets import Numbers, Stream, generator

import pydlx
from pydlx.utils.data import (
    DataLoader,
    Dataset,
    Sampler,
    TensorDataset,
    default_collate,
    get_worker_info,
)

HAS_FORK = hasattr(os, "fork")
needs_fork = pytest.mark.skipif(not HAS_FORK, reason="these data sets are not picklable for spawned workers")
FORK = {"multiprocessing_context": "fork"}


def indices(loader):
    return [batch["i"].tolist() for batch in loader]


@needs_fork
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches(workers, drop_last):
    options = FORK if workers else {}
    loader = DataLoader(Numbers(20, large=True), 6, num_workers=workers, drop_last=drop_last, **options)
    assert len(loader) == (3 if drop_last else 4)
    batches = list(loader)
    assert len(batches) == len(loader)
    expected = [list(range(k, min(k + 6, 20))) for k in range(0, 20, 6)][: len(loader)]
    assert [b["i"].tolist() for b in batches] == expected
    assert batches[1]["x"].tolist() == [[float(i), i + 0.5] for i in range(6, 12)]
    assert batches[1]["name"] == [f"n{i}" for i in range(6, 12)]
    assert batches[1]["large"].shape == (6, 200, 50)
    assert batches[1]["large"][2].tolist() == [[8.0] * 50] * 200
    batches[1]["large"].add_(1)  # batches are writable


@needs_fork
def test_order_depends_on_the_generator_alone():
    def order(workers, **options):
        loader = DataLoader(Numbers(23), 4, shuffle=True, generator=generator(7), num_workers=workers, **options)
        return [indices(loader), indices(loader)]

    alone = order(0)
    assert sorted(i for batch in alone[0] for i in batch) == list(range(23))
    assert alone[0] != alone[1]
    assert order(2, **FORK) == order(3, prefetch_factor=1, **FORK) == order(2, persistent_workers=True, **FORK) == alone


def test_tensor_dataset_gathers_what_collating_gives():
    data = TensorDataset(pydlx.arange(10), pydlx.arange(30, dtype=pydlx.float32).reshape(10, 3))
    fast = list(DataLoader(data, 4, shuffle=True, generator=generator()))
    slow = list(DataLoader(data, 4, shuffle=True, generator=generator(), collate_fn=lambda b: default_collate(b)))
    for a, b in zip(fast, slow, strict=True):
        assert type(a) is type(b) is list
        assert [t.tolist() for t in a] == [t.tolist() for t in b]
    assert DataLoader(data, batch_sampler=[[0, -1]]).__iter__().__next__()[0].tolist() == [0, 9]
    with pytest.raises(IndexError):
        list(DataLoader(data, batch_sampler=[[0, 10]]))


def test_samplers_and_single_samples():
    data = Numbers(5)
    assert indices(DataLoader(data, 2, sampler=[4, 0, 2])) == [[4, 0], [2]]
    assert indices(DataLoader(data, batch_sampler=[[1, 1], [3]])) == [[1, 1], [3]]
    singles = list(DataLoader(data, batch_size=None))
    assert [s["i"] for s in singles] == [0, 1, 2, 3, 4]
    assert list(DataLoader([1.5, 2.5], batch_size=None)) == [1.5, 2.5]
    assert len(DataLoader(data, batch_size=None)) == 5
    assert [b.tolist() for b in DataLoader([1, 2, 3], 2)] == [[1, 2], [3]]

    class Twice(Sampler):
        def __iter__(self):
            return iter([0, 0])

    assert indices(DataLoader(data, 2, sampler=Twice())) == [[0, 0]]


def test_getitems_is_used():
    class Bulk(Dataset):
        def __len__(self):
            return 4

        def __getitems__(self, picks):
            return [10 * i for i in picks]

    assert [b.tolist() for b in DataLoader(Bulk(), 3)] == [[0, 10, 20], [30]]


@needs_fork
def test_streams():
    assert [b.tolist() for b in DataLoader(Stream(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [b.tolist() for b in DataLoader(Stream(7), 3, drop_last=True)] == [[0, 1, 2], [3, 4, 5]]
    assert list(DataLoader(Stream(3), None)) == [0, 1, 2]
    batches = [b.tolist() for b in DataLoader(Stream(20), 3, num_workers=3, **FORK)]
    theirs = [
        [0, 3, 6], [1, 4, 7], [2, 5, 8], [9, 12, 15], [10, 13, 16], [11, 14, 17], [18], [19],
    ]  # fmt: skip
    assert batches == theirs
    loader = DataLoader(Stream(5), 2, num_workers=2, persistent_workers=True, **FORK)
    assert [b.tolist() for b in loader] == [b.tolist() for b in loader] == [[0, 2], [1, 3], [4]]
    assert list(DataLoader(Stream(0), 2, num_workers=2, **FORK)) == []


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
def test_exceptions_and_going_on(workers):
    def trouble():
        raise KeyError("lost")

    iterator = iter(DataLoader(Numbers(20, trouble), 4, num_workers=workers, **(FORK if workers else {})))
    assert next(iterator)["i"].tolist() == [0, 1, 2, 3]
    with pytest.raises(KeyError, match="lost") as caught:
        next(iterator)
    if workers:
        text = str(caught.value.__cause__)
        assert "in DataLoader worker process 1" in text
        assert "in trouble" in text
        assert 'raise KeyError("lost")' in text
    assert [b["i"].tolist()[0] for b in iterator] == [8, 12, 16]


class Awkward(Exception):
    def __init__(self, a, b):
        super().__init__(a)


@needs_fork
def test_exceptions_that_do_not_pickle():
    def trouble():
        raise Awkward(1, 2)

    with pytest.raises(RuntimeError, match=r"cannot be pickled, in DataLoader worker process(.|\n)*Awkward"):
        list(DataLoader(Numbers(20, trouble), 4, num_workers=2, **FORK))
    with pytest.raises(Exception, match="pickle"):
        list(DataLoader(Numbers(3), 1, collate_fn=lambda b: lambda: b, num_workers=1, **FORK))


@needs_fork
def test_killed_worker_is_noticed():
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"\[DataLoader\] worker 1: expected a batch.*signal SIGKILL"):
        list(DataLoader(Numbers(20, lambda: os.kill(os.getpid(), signal.SIGKILL)), 4, num_workers=2, **FORK))
    with pytest.raises(RuntimeError, match=r"worker 1: .* by exit code 3"):
        list(DataLoader(Numbers(20, lambda: os._exit(3)), 4, num_workers=2, **FORK))
    assert time.monotonic() - start < 20
    # killed from outside while it waits for work
    loader = DataLoader(Numbers(20), 4, num_workers=2, persistent_workers=True, **FORK)
    assert len(indices(loader)) == 5
    os.kill(loader._pool.processes[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="SIGKILL"):
        indices(loader)
    assert len(indices(loader)) == 5  # the next epoch starts new workers


@needs_fork
def test_timeout():
    loader = DataLoader(Numbers(8, lambda: time.sleep(60), at=4), 4, num_workers=2, timeout=1.5, **FORK)
    iterator = iter(loader)
    next(iterator)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"\[DataLoader\] worker 1: expected a batch within timeout=1.5 s"):
        next(iterator)
    assert time.monotonic() - start < 50


@needs_fork
def test_workers_end_with_their_loader():
    iterator = iter(DataLoader(Numbers(1000), 1, num_workers=2, **FORK))
    next(iterator)
    processes = list(iterator._batches.pool.processes)
    assert all(p.is_alive() for p in processes)
    del iterator
    assert not any(p.is_alive() for p in processes)
    loader = DataLoader(Numbers(8), 4, num_workers=2, **FORK)
    iterator = iter(loader)
    processes = list(iterator._batches.pool.processes)
    assert len(list(iterator)) == 2
    assert not any(p.is_alive() for p in processes)


@needs_fork
def test_prefetching_is_bounded(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()

    class Marked(Dataset):
        def __len__(self):
            return 100

        def __getitem__(self, i):
            (marks / str(i)).touch()
            return i

    iterator = iter(DataLoader(Marked(), 1, num_workers=2, prefetch_factor=3, **FORK))
    next(iterator)
    time.sleep(0.5)
    assert len(list(marks.iterdir())) <= 2 * 3 + 1


@needs_fork
def test_worker_info_seeds_and_init():
    class Info(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            info = get_worker_info()
            return info.id, info.num_workers, info.seed, random.random(), pydlx.rand(1).item(), MARK[0]

    MARK = ["unset"]

    def init(worker):
        MARK[0] = f"worker {worker}"

    def run(seed, **options):
        loader = DataLoader(Info(), 1, num_workers=2, generator=generator(seed), worker_init_fn=init, **FORK, **options)
        return [
            tuple(v[0] if isinstance(v, (list, tuple)) else v.item() for v in batch)
            for _ in range(2)
            for batch in loader
        ]

    rows = run(1)
    assert [r[0] for r in rows] == [0, 1, 0, 1] * 2
    assert {r[1] for r in rows} == {2}
    assert rows[1][2] == rows[0][2] + 1
    assert [r[5] for r in rows] == ["worker 0", "worker 1"] * 4
    assert len({r[3] for r in rows}) == len({r[4] for r in rows}) == 8
    assert rows == run(1)
    assert [r[3:5] for r in run(1, persistent_workers=True)] == [r[3:5] for r in rows]
    assert [r[3] for r in rows] != [r[3] for r in run(2)]
    assert get_worker_info() is None

    def broken(worker):
        raise ValueError("no init")

    with pytest.raises(ValueError, match="no init"):
        list(DataLoader(Numbers(4), 2, num_workers=1, worker_init_fn=broken, **FORK))


@needs_fork
def test_breaking_off_with_persistent_workers():
    loader = DataLoader(Numbers(40), 2, num_workers=2, persistent_workers=True, **FORK)
    for batch in loader:
        if batch["i"][0].item() == 4:
            break
    pids = [p.pid for p in loader._pool.processes]
    assert indices(loader) == [[k, k + 1] for k in range(0, 40, 2)]
    assert [p.pid for p in loader._pool.processes] == pids
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(second)
    with pytest.raises(RuntimeError, match="one iteration at a time"):
        next(first)


@contextlib.contextmanager
def at_most(seconds):
    """Breaks off what hangs, instead of the whole suite."""

    def expired(*_):
        raise TimeoutError(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@needs_fork
def test_many_abandoned_epochs_do_not_fill_the_pipes():
    loader = DataLoader(Numbers(16), 2, shuffle=True, num_workers=2, persistent_workers=True, **FORK)
    with at_most(200):
        for _ in range(400):
            assert next(iter(loader))["i"].shape == (2,)
        assert sorted(i for batch in indices(loader) for i in batch) == list(range(16))


@needs_fork
def test_far_prefetching_of_large_batches_does_not_lock_up():
    # requests and answers are both sent inline and both pipes would hold fewer than these
    data = TensorDataset(pydlx.arange(3000 * 160).to(pydlx.uint8))
    loader = DataLoader(data, 3000, num_workers=1, prefetch_factor=150, **FORK)
    with at_most(200):
        sums = [batch[0].long().sum().item() for batch in loader]
    assert sums == [data.tensors[0][3000 * k : 3000 * (k + 1)].long().sum().item() for k in range(160)]


@needs_fork
def test_workers_end_by_themselves_beside_a_younger_loader():
    older = iter(DataLoader(Numbers(8), 4, num_workers=2, **FORK))
    younger = iter(DataLoader(Numbers(8), 4, num_workers=2, **FORK))
    processes = list(older._batches.pool.processes)
    assert len(list(older)) == 2
    assert [p.exitcode for p in processes] == [0, 0]  # not terminated: they saw their pipes close
    assert len(list(younger)) == 2


class Unreadable:
    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise LookupError("not here")


@needs_fork
def test_batches_that_do_not_unpickle():
    iterator = iter(
        DataLoader(range(12), 1, collate_fn=lambda b: Unreadable() if b[0] < 6 else b, num_workers=2, **FORK)
    )
    for _ in range(6):
        with pytest.raises(LookupError, match="not here"):
            next(iterator)
    assert [b[0] for b in iterator] == list(range(6, 12))


def test_what_spawned_workers_cannot_get():
    loader = DataLoader([1, 2], 1, collate_fn=lambda b: b, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(TypeError, match=r"\[DataLoader\].*expected what can be pickled.*'spawn'.*context='fork'"):
        iter(loader)


def test_spawned_workers():
    data = TensorDataset(pydlx.arange(10), pydlx.zeros(10, 2000))
    loader = DataLoader(data, 4, num_workers=1, multiprocessing_context="spawn")
    assert [b[0].tolist() for b in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@needs_fork
@pytest.mark.parametrize("own", [False, True], ids=["global generator", "own generator"])
@pytest.mark.parametrize("workers", [(0, 0), (0, 2), (2, 0)])
def test_resuming_inside_an_epoch(own, workers):
    def loader(count):
        g = generator(4) if own else None
        return DataLoader(Numbers(23), 4, shuffle=True, generator=g, num_workers=count, **(FORK if count else {}))

    pydlx.manual_seed(9)
    full = loader(workers[0])
    indices(full)  # the first epoch is over
    order = []
    for k, batch in enumerate(full):
        order.append(batch["i"].tolist())
        if k == 1:
            saved = full.state_dict()
    assert saved["position"] == 2
    following = indices(full) if own else None
    resumed = loader(workers[1])
    resumed.load_state_dict(saved)
    assert indices(resumed) == order[2:]
    if own:
        assert indices(resumed) == following
    with pytest.raises(ValueError, match=r"\[DataLoader.load_state_dict\]"):
        resumed.load_state_dict({})


def test_resuming_a_stream():
    loader = DataLoader(Stream(10), 3)
    iterator = iter(loader)
    next(iterator)
    saved = loader.state_dict()
    again = DataLoader(Stream(10), 3)
    again.load_state_dict(saved)
    assert [b.tolist() for b in again] == [[3, 4, 5], [6, 7, 8], [9]]
    assert [b.tolist() for b in again] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_pin_memory_is_accepted():
    assert [b.tolist() for b in DataLoader([1, 2], 2, pin_memory=True)] == [[1, 2]]
