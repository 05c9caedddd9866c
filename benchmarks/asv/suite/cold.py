"""What a fresh process pays before its first answer."""

from __future__ import annotations

import subprocess
import sys
import time

_SOLVE = """
import numpy as np
from lowrank_opt import complete
rng = np.random.default_rng(0)
X = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 100))
X[rng.random(X.shape) < 0.6] = np.nan
complete(X, rank=5)
"""


def seconds(code: str) -> float:
    """Run `code` in a fresh interpreter."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


class Import:
    """Best of five; the start of the interpreter is contained in the first two."""

    unit = "s"
    number = 1
    repeat = 1
    timeout = 60

    def track_numpy(self) -> float:
        return min(seconds("import numpy") for _ in range(5))

    def track_lowrank_opt(self) -> float:
        return min(seconds("import lowrank_opt") for _ in range(5))

    def track_lowrank_opt_beyond_numpy(self) -> float:
        # in turn, so that a busy moment hits both
        pairs = [(seconds("import numpy, lowrank_opt"), seconds("import numpy")) for _ in range(5)]
        ours, numpys = zip(*pairs, strict=True)
        return min(ours) - min(numpys)


class FirstSolve:
    """First solve of a process, import included, kernels from numba's cache."""

    unit = "s"
    timeout = 300

    def setup(self) -> None:
        seconds(_SOLVE)

    def track_first_solve(self) -> float:
        return min(seconds(_SOLVE) for _ in range(3))
