"""The room as a whole: public names, imports, and what a second process need not compile."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import lowrank_opt.numerics as numerics

SCRIPT = """
import numpy as np
from numba.core.dispatcher import Dispatcher
from lowrank_opt import numerics as nx
from lowrank_opt.numerics import kernels

x = np.random.default_rng(0).standard_normal((2, 200))
nx.project_simplex(x)
nx.project_l1_ball(x)
nx.topk(x, 3)
nx.topk(x, 100)
stream = nx.StreamingTopK(2, 3)
stream.update(x)
stream.merge(stream)
stream.result()
nx.SRHT(4, 200).apply(x.T)
nx.SparseSignSketch(4, 200).apply(x.T)
kernels.norm(x[0])
pairs = [(name, f.stats) for name, f in vars(kernels).items() if isinstance(f, Dispatcher)]
used = {name for name, stats in pairs if stats.cache_hits or stats.cache_misses}
print(len(used), sum(sum(stats.cache_misses.values()) for _, stats in pairs))
"""


def test_a_second_process_compiles_nothing():
    # In the cache of the test session: other tests have compiled most of it by now.
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT],
            capture_output=True,
            text=True,
            check=True,
        )
    used, compiled = (int(word) for word in done.stdout.split())
    assert used >= 10
    assert compiled == 0


def test_kernels_that_call_the_penalties_are_cached_too(tmp_path):
    (tmp_path / "solver_kernels.py").write_text(
        "from numba import njit\n"
        "from lowrank_opt.numerics.kernels import prox, value\n"
        "@njit(cache=True, error_model='numpy')\n"
        "def shrink(pen, z, step):\n"
        "    return prox(pen, z, step) + value(pen, z)\n"
    )
    code = (
        "from solver_kernels import shrink; from lowrank_opt.numerics import L1, MCP\n"
        "assert shrink(L1(1.0), 3.0, 0.5) == 5.5; shrink(MCP(), 3.0, 0.5)\n"
        "print(len(shrink.stats.cache_misses))"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    counts = [
        int(
            subprocess.run(
                [sys.executable, "-W", "error", "-c", code],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(2)
    ]
    assert counts == [2, 0]


def test_importing_the_names_imports_nothing_heavy():
    code = (
        "import sys; from lowrank_opt.numerics import *; from lowrank_opt import numerics; "
        "assert all(hasattr(numerics, n) for n in numerics.__all__); "
        "numerics.prox(numerics.L1(), 2.0, 1.0); numerics.project_box([1.0], 0.0, None); "
        "heavy = {'numba', 'sklearn', 'torch', 'cupy', 'cvxpy', 'scipy.sparse'} & set(sys.modules)"
        "; sys.exit(sorted(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_stub_lists_the_names_and_functions_are_not_hidden_by_modules():
    stub = Path(numerics.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    listed = [
        alias.name
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(listed) == sorted(numerics.__all__)
    assert not {path.stem for path in Path(numerics.__file__).parent.glob("*.py")} & set(listed)
