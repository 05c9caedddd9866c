from benchmark_utils.data import case
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """Networks by name; see ``benchmark_utils.data.DESCRIPTIONS``."""

    name = "networks"
    parameters = {
        "network": [
            "digits 64-32-10",
            "digits 64-32-32-10",
            "digits 784-50-10",
            "uniform 2-10-30-20-2",
            "gauss 10x20",
            "maxmin 18x32",
        ],
    }
    requirements = ["pip::numpy", "pip::scikit-learn"]

    def get_data(self):
        return {"case": case(self.network)}
