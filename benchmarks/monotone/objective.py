from benchopt import BaseObjective


class Objective(BaseObjective):
    """Linear programs: the residual of the point that a system returns."""

    name = "Linear programs"
    min_benchopt_version = "1.6"
    requirements = ["pip::numpy", "pip::scipy"]
    sampling_strategy = "run_once"
    test_config = {"dataset": {"program": "planted 30x60/5"}}

    def set_data(self, case):
        self.case = case

    def get_objective(self):
        return {"case": self.case}

    def evaluate_result(self, answer):
        """Residual of the certificate and relative norms, the same for all systems."""
        grade = self.case.grade(answer.x, answer.y)
        residual = grade["residual"]
        return {
            "value": float("inf") if residual is None else residual,
            "relative": grade.get("relative", float("inf")),
            "status": answer.status,
        }

    def get_one_result(self):
        import numpy as np
        from benchmark_utils.systems import Answer

        m, n = self.case.A.shape
        return {"answer": Answer(np.zeros(n), np.zeros(m), "zero")}
