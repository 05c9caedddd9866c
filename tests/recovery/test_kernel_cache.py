"""Compiled kernels come from the disk: a second process compiles nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import json, sys, time
start = time.perf_counter()
import numpy as np
from lowrank_opt.recovery import complete
X = np.random.default_rng(0).standard_normal((160, 160)).astype(np.float32)
complete(X, rank=3, reg=0.1, method="als", max_iter=1, random_state=0)
first = time.perf_counter() - start
from lowrank_opt.recovery.compilation import compile_kernels
seconds = compile_kernels()
from numba.core.dispatcher import Dispatcher
hits = misses = 0
missed = []
for name, module in list(sys.modules.items()):
    if name.startswith(("lowrank_opt.recovery.kernels", "lowrank_opt.numerics.kernels")):
        for kernel in vars(module).values():
            if isinstance(kernel, Dispatcher) and kernel.__module__ == name:
                hits += sum(kernel.stats.cache_hits.values())
                if kernel.stats.cache_misses:
                    missed.append(f"{name}.{kernel.__name__}")
print(json.dumps({"first": first, "all": sum(seconds.values()), "hits": hits, "missed": missed}))
"""


def run():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_process_compiles_no_kernel(tmp_path, record_property):
    run()
    second = run()
    record_property("seconds of import and first solve", second["first"])
    assert second["missed"] == []
    assert second["hits"] > 20
