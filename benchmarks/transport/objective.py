from benchopt import BaseObjective
from benchopt.stopping_criterion import SufficientProgressCriterion


class Objective(BaseObjective):
    """Sparse transport: residual of the certificate, and the same by a plain evaluation."""

    name = "Sparsity-constrained optimal transport"
    min_benchopt_version = "1.6"
    requirements = ["pip::lowrank_opt"]
    parameters = {"threads": [1]}
    sampling_strategy = "callback"
    stopping_criterion = SufficientProgressCriterion(patience=100, strategy="callback")
    test_config = {"dataset": {"data": "clouds 60", "k": 2}}

    def set_data(self, case):
        self.case = case

    def get_objective(self):
        return {"case": self.case, "threads": self.threads}

    def evaluate_result(self, answer):
        if answer is None:
            answer = self.get_one_result()["answer"]
        grades = self.case.grade(*answer)
        plain = {f"plain_{name}": value for name, value in grades.pop("plain").items()}
        objective = grades.pop("value")
        return {"value": grades.pop("residual"), "objective": objective, **grades, **plain}

    def get_one_result(self):
        import numpy as np

        case = self.case
        return {"answer": (np.outer(case.a, case.b), np.zeros(len(case.a)))}
