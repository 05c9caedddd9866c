from benchmark_utils.data import load
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """Seeded data; see ``benchmark_utils.data.DESCRIPTIONS``."""

    name = "synthetic"
    parameters = {"data": ["S", "L4", "L8", "exact", "M"]}
    requirements = ["pip::lowrank_opt"]

    def get_data(self):
        return {"split": load(self.data)}
