from benchmark_utils.data import load
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """MovieLens, fetched beforehand with ``lowrank_opt.datasets.fetch_movielens``."""

    name = "movielens"
    parameters = {"release": ["100k", "1m", "10m"]}
    requirements = ["pip::lowrank_opt", "pip::pooch"]

    def prepare(self):
        from lowrank_opt.datasets import fetch_movielens

        fetch_movielens(self.release)

    def get_data(self):
        return {"split": load(f"ml-{self.release}")}
