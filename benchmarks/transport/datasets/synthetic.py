from benchmark_utils.data import load
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """Seeded data; see ``benchmark_utils.data.KINDS``. ``k=0``: no cap."""

    name = "synthetic"
    parameters = {"data": ["clouds 500", "clouds 1000"], "k": [2, 4, 10, 0], "gamma": [1.0]}
    requirements = ["pip::lowrank_opt"]

    def get_data(self):
        return {"case": load(self.data, self.k or None, self.gamma)}
