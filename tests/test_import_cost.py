"""What an import may bring along: heavy and optional packages wait until they are used."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = (
    "cupy",
    "cvxpy",
    "dask",
    "llvmlite",
    "matplotlib",
    "numba",
    "pandas",
    "pooch",
    "rich",
    "scipy",
    "sklearn",
    "torch",
)
OPTIONAL = ("cupy", "cvxpy", "dask", "matplotlib", "pandas", "pooch", "rich", "torch")


def modules_after(code: str) -> set[str]:
    """Run `code` in a fresh process and return the top-level packages that it imported."""
    program = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    return set(result.stdout.split())


def test_the_probe_sees_an_import():
    assert "numpy" in modules_after("import numpy.linalg")


def test_import_lowrank_opt_imports_nothing_heavy():
    imported = modules_after("import lowrank_opt")
    assert "lowrank_opt" in imported
    assert imported.isdisjoint({*HEAVY, "numpy"})


@pytest.mark.parametrize("module", ["lowrank_opt.cli", "lowrank_opt.papers", "lowrank_opt.core"])
def test_light_modules_import_nothing_heavy(module):
    assert modules_after(f"import {module}").isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["recovery", "numerics", "datasets", "plotting", "testing"])
def test_rooms_import_nothing_optional(module):
    # Estimators bring scikit-learn, which imports pandas and rich where they are installed.
    program = (
        f"import lowrank_opt.{module} as room\n"
        "matrix = {'MatrixFactorization', 'RobustMatrixFactorization'}\n"
        "for name in set(room.__all__) - matrix - {'LowRankImputer', 'RobustPCA'}:\n"
        "    getattr(room, name)"
    )
    assert modules_after(program).isdisjoint(OPTIONAL)


def test_a_problem_and_a_solver_need_no_scikit_learn():
    imported = modules_after(
        "from lowrank_opt.recovery import AlternatingMinimization, MatrixCompletion"
    )
    assert imported.isdisjoint({*OPTIONAL, "sklearn"})


def test_the_solver_of_transport_needs_no_compiler_before_it_runs():
    loaded = modules_after("from lowrank_opt.transport import SparsityConstrainedOT, sparse_ot")
    assert not loaded & {"numba", "llvmlite", "ot"}


def test_a_result_is_one_of_scipy_without_importing_it():
    modules_after(
        "import copy, pickle, sys\n"
        "from lowrank_opt.core import Result\n"
        "result = Result(nit=1)\n"
        "assert isinstance(result, Result) and 'scipy' not in sys.modules\n"
        "from scipy.optimize import OptimizeResult\n"
        "copies = copy.deepcopy(result), pickle.loads(pickle.dumps(result))\n"
        "for one in (result, Result(), *copies):\n"
        "    assert isinstance(one, OptimizeResult) and isinstance(one, (Result, dict))\n"
        "    assert type(one) is Result and set(one) == set(Result())\n"
        "assert not isinstance({}, OptimizeResult)"
    )


def test_the_logger_is_silent_and_left_alone():
    imported = modules_after(
        "import logging, lowrank_opt\n"
        "logger = logging.getLogger('lowrank_opt')\n"
        "assert [type(h).__name__ for h in logger.handlers] == ['NullHandler'], logger.handlers\n"
        "assert logger.level == logging.NOTSET and logger.propagate\n"
        "assert not logging.root.handlers"
    )
    assert "lowrank_opt" in imported
