"""Fixed Lipschitz bounds; a file of its own, because earlier commits lack the family."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lowrank_opt.lipschitz import ECLipsE, LipschitzProblem, LipSDP, LipSDPGroupSort

NETWORKS = {
    "64-32-32-10": (64, 32, 32, 10),
    "784-50-10": (784, 50, 10),
    "20x20": (4, *[20] * 19, 1),
    "10x60": (4, *[60] * 9, 1),
}


def gaussian(widths: tuple[int, ...]) -> list[np.ndarray]:
    """Return weights with variance one over the number of inputs."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, m)) / np.sqrt(m) for m, n in pairwise(widths)]


class Solve:
    """Time and memory of the semidefinite bound, from weights to certificate."""

    params = tuple(NETWORKS)
    param_names = ("network",)
    timeout = 300
    number = 1
    repeat = 5

    def setup(self, name: str) -> None:
        self.weights = gaussian(NETWORKS[name])

    def time_lip_sdp(self, name: str) -> None:
        LipSDP().solve(LipschitzProblem(self.weights))

    def time_eclipse(self, name: str) -> None:
        ECLipsE().solve(LipschitzProblem(self.weights))

    def peakmem_lip_sdp(self, name: str) -> None:
        LipSDP().solve(LipschitzProblem(self.weights))


class Groups:
    """Time of the bound of MaxMin networks, published and coupled."""

    params = ("separate", "coupled")
    param_names = ("structure",)
    timeout = 300
    number = 1
    repeat = 5

    def setup(self, structure: str) -> None:
        weights = gaussian((64, *[32] * 8, 10))
        self.problem = LipschitzProblem(weights, activation="maxmin")

    def time_solve(self, structure: str) -> None:
        LipSDPGroupSort(structure=structure).solve(self.problem)
