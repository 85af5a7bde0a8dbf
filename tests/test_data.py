"""Data sets, samplers and collating."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from data_sets import Numbers, Stream, generator

import pydlx
from pydlx.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
    random_split,
)

# -- data sets ---------------------------------------------------------------------------------------------------------


def test_tensor_dataset():
    data = TensorDataset(pydlx.arange(5), pydlx.arange(10).reshape(5, 2))
    assert len(data) == 5
    assert [t.tolist() for t in data[3]] == [3, [6, 7]]
    assert [t.tolist() for t in data[-1]] == [4, [8, 9]]
    assert [t.tolist() for t in data[1:3]] == [[1, 2], [[2, 3], [4, 5]]]
    with pytest.raises(IndexError):
        data[5]
    with pytest.raises(ValueError, match=r"\[TensorDataset\] tensors\[1\]: expected the first size"):
        TensorDataset(pydlx.zeros(5), pydlx.zeros(4))
    with pytest.raises(ValueError, match=r"\[TensorDataset\]"):
        TensorDataset(pydlx.zeros(()))
    with pytest.raises(ValueError, match=r"\[TensorDataset\]"):
        TensorDataset()


def test_concat_subset_stack_chain():
    a, b = TensorDataset(pydlx.arange(3)), TensorDataset(pydlx.arange(10, 14))
    both = a + b
    assert isinstance(both, ConcatDataset)
    assert [both[i][0].item() for i in range(-7, 7)] == [0, 1, 2, 10, 11, 12, 13] * 2
    for i in (7, -8):
        with pytest.raises(IndexError, match=r"\[ConcatDataset\] index"):
            both[i]
    sub = Subset(both, [6, 0, 3])
    assert [sub[i][0].item() for i in range(3)] == [13, 0, 10]
    assert len(sub) == 3
    assert [t[0].item() for t in sub.__getitems__([2, 0])] == [10, 13]
    stacked = StackDataset(x=a, y=a)
    assert {k: v[0].item() for k, v in stacked[2].items()} == {"x": 2, "y": 2}
    assert list(ChainDataset([Stream(2), Stream(3)])) == [0, 1, 0, 1, 2]
    assert list(Stream(2) + Stream(1)) == [0, 1, 0]
    with pytest.raises(ValueError, match=r"\[ConcatDataset\] datasets"):
        ConcatDataset([])
    with pytest.raises(TypeError, match=r"\[ConcatDataset\] datasets\[0\]"):
        ConcatDataset([Stream()])
    with pytest.raises(ValueError, match="equal lengths"):
        StackDataset(a, b)


def test_random_split():
    data = Numbers(10)
    parts = random_split(data, [7, 2, 1], generator(3))
    assert [len(p) for p in parts] == [7, 2, 1]
    assert sorted(i for p in parts for i in p.indices) == list(range(10))
    again = random_split(data, [7, 2, 1], generator(3))
    assert [p.indices for p in parts] == [p.indices for p in again]
    assert [len(p) for p in random_split(Numbers(11), [0.5, 0.3, 0.2], generator())] == [6, 3, 2]
    theirs = torch.utils.data.random_split(range(11), [0.5, 0.3, 0.2])
    assert [len(p) for p in theirs] == [6, 3, 2]
    with pytest.raises(ValueError, match=r"\[random_split\] lengths: expected sizes that add up to 10"):
        random_split(data, [5, 6])
    with pytest.raises(ValueError, match="expected a fraction"):
        random_split(data, [1.5, -0.5])


# -- samplers ----------------------------------------------------------------------------------------------------------


def test_samplers():
    data = Numbers(10)
    assert list(SequentialSampler(data)) == list(range(10))
    sampler = RandomSampler(data, generator=generator(1))
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first == list(RandomSampler(data, generator=generator(1)))
    assert len(list(RandomSampler(data, num_samples=25))) == 25
    drawn = list(RandomSampler(data, replacement=True, num_samples=5000, generator=generator()))
    assert len(drawn) == 5000
    assert set(drawn) == set(range(10))
    assert sorted(SubsetRandomSampler([3, 1, 4], generator())) == [1, 3, 4]
    pydlx.manual_seed(5)
    a = list(RandomSampler(data))
    pydlx.manual_seed(5)
    assert a == list(RandomSampler(data))
    assert list(RandomSampler(Numbers(0))) == []


def test_weighted_sampler_follows_its_weights():
    drawn = collections.Counter(WeightedRandomSampler([0.0, 1.0, 3.0], 8000, generator=generator()))
    assert drawn[0] == 0
    assert abs(drawn[2] / 8000 - 0.75) < 0.03
    assert sorted(WeightedRandomSampler([1.0, 0.0, 2.0], 2, replacement=False, generator=generator())) == [0, 2]


def test_batch_sampler():
    assert list(BatchSampler(range(7), 3, False)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(BatchSampler(range(7), 3, True)) == [[0, 1, 2], [3, 4, 5]]
    assert [len(BatchSampler(range(n), 3, d)) for n in (6, 7) for d in (False, True)] == [2, 2, 3, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomSampler(Numbers(), replacement=1), r"\[RandomSampler\] replacement"),
        (lambda: RandomSampler(Numbers(), num_samples=0), r"\[RandomSampler\] num_samples"),
        (lambda: BatchSampler(range(3), 0, False), r"\[BatchSampler\] batch_size"),
        (lambda: BatchSampler(range(3), True, False), r"\[BatchSampler\] batch_size"),
        (lambda: BatchSampler(range(3), 2, 1), r"\[BatchSampler\] drop_last"),
        (lambda: WeightedRandomSampler([1.0], 0), r"\[WeightedRandomSampler\] num_samples"),
        (lambda: WeightedRandomSampler([-1.0, 2.0], 1), r"\[WeightedRandomSampler\] weights"),
        (lambda: WeightedRandomSampler([float("nan")], 1), r"\[WeightedRandomSampler\] weights"),
        (lambda: WeightedRandomSampler([float("inf"), 1.0], 1), r"\[WeightedRandomSampler\] weights"),
        (lambda: WeightedRandomSampler([0.0, 0.0], 1), r"\[WeightedRandomSampler\] weights"),
        (lambda: WeightedRandomSampler([], 1), r"\[WeightedRandomSampler\] weights"),
        (lambda: WeightedRandomSampler([[1.0]], 1), r"\[WeightedRandomSampler\] weights: expected one dimension"),
        (lambda: WeightedRandomSampler([1.0, 0.0], 2, replacement=False), "expected at most 1"),
        (lambda: DataLoader(Numbers(), batch_size=0), r"\[DataLoader\] batch_size"),
        (lambda: DataLoader(Numbers(), num_workers=-1), r"\[DataLoader\] num_workers"),
        (lambda: DataLoader(Numbers(), timeout=-1), r"\[DataLoader\] timeout"),
        (lambda: DataLoader(Numbers(), timeout=1), "expected 0 without workers"),
        (lambda: DataLoader(Numbers(), prefetch_factor=2), r"\[DataLoader\] prefetch_factor"),
        (lambda: DataLoader(Numbers(), num_workers=1, prefetch_factor=0), r"\[DataLoader\] prefetch_factor"),
        (lambda: DataLoader(Numbers(), persistent_workers=True), r"\[DataLoader\] persistent_workers"),
        (lambda: DataLoader(Numbers(), multiprocessing_context="fork"), r"\[DataLoader\] multiprocessing_context"),
        (lambda: DataLoader(Numbers(), shuffle=True, sampler=range(3)), r"\[DataLoader\] sampler"),
        (lambda: DataLoader(Numbers(), 2, batch_sampler=[[1]]), r"\[DataLoader\] batch_sampler"),
        (lambda: DataLoader(Numbers(), None, drop_last=True), r"\[DataLoader\] drop_last"),
        (lambda: DataLoader(Stream(), shuffle=True), r"\[DataLoader\] dataset"),
        (lambda: DataLoader(Stream(), sampler=range(3)), r"\[DataLoader\] dataset"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# -- collating ---------------------------------------------------------------------------------------------------------

Pair = collections.namedtuple("Pair", "a b")


def assert_same_batch(mine, theirs):
    if isinstance(theirs, torch.Tensor):
        assert isinstance(mine, pydlx.Tensor)
        assert str(mine.dtype).split(".")[-1] == str(theirs.dtype).split(".")[-1]
        assert tuple(mine.shape) == tuple(theirs.shape)
        assert mine.tolist() == theirs.tolist()
    elif isinstance(theirs, dict):
        assert list(mine) == list(theirs)
        for key in theirs:
            assert_same_batch(mine[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert type(mine) is type(theirs)
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs):
            assert_same_batch(a, b)
    else:
        assert mine == theirs


@pytest.mark.parametrize(
    "name",
    [
        "tensors", "floats", "ints", "bools", "text", "bytes", "dict", "tuple", "named", "nested", "arrays",
        "numpy numbers", "scalar tensors",
    ],
)  # fmt: skip
def test_collate_like_pytorch(name):
    def samples(T):
        return {
            "tensors": [T.tensor([1.0, 2.0]), T.tensor([3.0, 4.0])],
            "floats": [1.5, 2.0],
            "ints": [1, 2],
            "bools": [True, False],
            "text": ["a", "b"],
            "bytes": [b"a", b"b"],
            "dict": [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}],
            "tuple": [(1, "a"), (2, "b")],
            "named": [Pair(1, 2.0), Pair(3, 4.0)],
            "nested": [[{"x": [1, (2.0, T.tensor(3))]}], [{"x": [4, (5.0, T.tensor(6))]}]],
            "arrays": [np.arange(3, dtype=np.int16), np.arange(3, 6, dtype=np.int16)],
            "numpy numbers": [np.float32(1.5), np.float32(2.5)],
            "scalar tensors": [T.tensor(1), T.tensor(2)],
        }[name]

    assert_same_batch(default_collate(samples(pydlx)), torch.utils.data.default_collate(samples(torch)))
    assert_same_batch(default_convert(samples(pydlx)[0]), torch.utils.data.default_convert(samples(torch)[0]))


def test_collate_errors():
    with pytest.raises(TypeError, match=r"\[default_collate\] batch: .*got object; pass a collate_fn"):
        default_collate([object()])
    with pytest.raises(RuntimeError, match="expected samples of equal length"):
        default_collate([[1, 2], [1]])
    with pytest.raises(ValueError, match="expected at least one sample"):
        default_collate([])
    with pytest.raises((RuntimeError, ValueError)):
        default_collate([pydlx.zeros(2), pydlx.zeros(3)])
