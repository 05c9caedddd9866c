from benchmark_utils.data import rmse
from benchopt import BaseObjective
from benchopt.stopping_criterion import SufficientProgressCriterion


class Objective(BaseObjective):
    """Ridge-regularised completion; graded by the problem and by held-out entries, in float64."""

    name = "Matrix completion"
    min_benchopt_version = "1.6"
    requirements = ["pip::lowrank_opt"]
    parameters = {
        "rank": [50],
        "reg": [0.1],
        "biases": [True],
        "dtype": ["float32"],
        "threads": [1],
    }
    sampling_strategy = "iteration"
    stopping_criterion = SufficientProgressCriterion(
        patience=3, strategy="iteration", key_to_monitor="objective_value"
    )
    test_config = {"rank": 5, "dataset": {"data": "M"}}

    def set_data(self, split):
        from lowrank_opt.recovery import MatrixCompletion

        self.split = split
        # The same objective for all, at the precision of the grades.
        rows, cols, values = split.train
        self.problem = MatrixCompletion.from_coo(
            rows, cols, values.astype("float64"), split.shape, rank=self.rank, reg=self.reg,
            reg_scaling="count", biases=self.biases, center=True,
        )  # fmt: skip

    def get_objective(self):
        return {
            "split": self.split,
            "rank": self.rank,
            "reg": self.reg,
            "biases": self.biases,
            "dtype": self.dtype,
            "threads": self.threads,
        }

    def evaluate_result(self, factors):
        from lowrank_opt.recovery import LowRankMatrix

        grades = {
            "value": rmse(factors, self.split.valid),
            "test_rmse": rmse(factors, self.split.test),
            "train_rmse": rmse(factors, self.split.train),
        }
        # A system with another offset (LIBMF has none) or without biases is graded as what it is.
        if isinstance(factors, tuple):
            factors = LowRankMatrix(*factors).astype("float64")
        certificate = self.problem.certificate(factors)
        return {
            **grades,
            "objective": certificate.objective,
            "residual": certificate.residual,
        }

    def get_one_result(self):
        import numpy as np

        m, n = self.split.shape
        return {"factors": (np.zeros((m, self.rank)), np.zeros((n, self.rank)), 0.0, None, None)}
