from benchmark_utils.data import case, unavailable_data
from benchopt import BaseDataset


class Dataset(BaseDataset):
    """Seeded data; see ``benchmark_utils.data.KINDS``. `ratio`: lambda_max over the penalty."""

    name = "synthetic"
    parameters = {
        "data": ["dense 500x5000", "sparse 5000x50000"],
        "penalty": ["l1"],
        "ratio": [10, 100],
        "fit_intercept": [True],
        "seed": [0],
    }
    requirements = ["pip::numpy", "pip::scipy"]

    def skip(self, data, **_):
        reason = unavailable_data(data)
        return reason is not None, reason

    def get_data(self):
        made = case(self.data, self.penalty, self.ratio, self.seed, self.fit_intercept)
        return {"case": made}
