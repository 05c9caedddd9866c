from benchopt import BaseObjective


class Objective(BaseObjective):
    """Sparse linear models: relative duality gap, by a function that no solver has a part in."""

    name = "Sparse linear models"
    min_benchopt_version = "1.6"
    requirements = ["pip::numpy", "pip::scipy"]
    parameters = {"threads": [1]}
    sampling_strategy = "tolerance"
    test_config = {"dataset": {"data": "dense 60x90", "penalty": "l1", "ratio": 5}}

    def set_data(self, case):
        self.case = case

    def get_objective(self):
        return {"case": self.case, "threads": self.threads}

    def evaluate_result(self, coefficients, intercept):
        import numpy as np
        from benchmark_utils.data import gap

        nonzero = np.count_nonzero(coefficients)
        return {"value": gap(self.case, coefficients, intercept), "nonzero": int(nonzero)}

    def get_one_result(self):
        import numpy as np

        shape = (self.case.X.shape[1], *self.case.y.shape[1:])
        return {"coefficients": np.zeros(shape), "intercept": self.case.y.mean(axis=0)}
