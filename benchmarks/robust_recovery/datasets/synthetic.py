from benchmark_utils.data import load
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """Seeded data; see ``benchmark_utils.data.CASES``."""

    name = "synthetic"
    parameters = {"data": ["60", "60 missing", "400", "400 missing", "800", "800 missing"]}
    requirements = ["pip::lowrank_opt"]

    def get_data(self):
        return {"case": load(self.data)}
