"""Small data sets for the tests of loading."""

import random

import pydlx
from pydlx.utils.data import Dataset, IterableDataset, get_worker_info


class Numbers(Dataset):
    """Sample i is i, with a tensor, a large tensor, text and a random number; may misbehave at one index."""

    def __init__(self, size=20, trouble=None, at=7, large=False):
        self.size, self.trouble, self.at, self.large = size, trouble, at, large

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        if self.trouble is not None and i == self.at:
            self.trouble()
        sample = {"i": i, "x": pydlx.tensor([i, i + 0.5]), "name": f"n{i}", "random": random.random()}
        if self.large:
            sample["large"] = pydlx.zeros(200, 50) + i
        return sample


class Stream(IterableDataset):
    def __init__(self, size=20):
        self.size = size

    def __iter__(self):
        info = get_worker_info()
        return iter(range(self.size) if info is None else range(info.id, self.size, info.num_workers))


def generator(seed=0):
    g = pydlx.Generator()
    g.manual_seed(seed)
    return g
