from benchmark_utils.data import case
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """Linear programs by name; see ``benchmark_utils.data.DESCRIPTIONS``."""

    name = "programs"
    parameters = {
        "program": [
            "planted 2000x4000/10",
            "transport 300",
            "pagerank 20000",
            "multicommodity 100-600-120",
            "markov 1000x10",
            "l1 2000x20",
        ],
    }
    requirements = ["pip::numpy", "pip::scipy"]

    def get_data(self):
        return {"case": case(self.program)}
