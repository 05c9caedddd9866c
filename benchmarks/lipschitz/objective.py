from benchopt import BaseObjective


class Objective(BaseObjective):
    """Lipschitz bounds of networks: the bound that a system's multipliers prove."""

    name = "Lipschitz bounds"
    min_benchopt_version = "1.6"
    requirements = ["pip::numpy", "pip::scipy"]
    sampling_strategy = "run_once"
    test_config = {"dataset": {"network": "digits 64-32-10"}}

    def set_data(self, case):
        self.case = case

    def get_objective(self):
        return {"case": self.case}

    def evaluate_result(self, answer):
        """A bound with multipliers counts with what they prove, others with what they claim."""
        bound = answer.claimed if answer.proved is None else answer.proved
        return {"value": float("inf") if bound is None else bound, "status": answer.status}

    def get_one_result(self):
        import numpy as np
        from benchmark_utils.systems import Answer

        product = float(np.prod([np.linalg.norm(W, 2) for W in self.case.weights]))
        return {"answer": Answer(product, "product of norms")}
