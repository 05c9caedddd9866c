"""One job in a process of its own: reads the job as JSON from the command line, prints JSON."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
import harness

from benchmark_utils import data
from benchmark_utils.systems import SYSTEMS


def _system(job, **changes):
    parameters = {**job.get("parameters", {}), **changes}
    return SYSTEMS[job["system"]](**parameters)


def _grade(system, entries):
    factors = system.factors()
    return None if factors is None else data.rmse(factors, entries)


def warm_up(job) -> None:
    """Compile, load and page in: one fit of the same kind on a corner of the data."""
    rng = np.random.default_rng(0)
    cells = np.sort(rng.choice(200 * 150, 6000, replace=False))
    entries = cells // 150, cells % 150, rng.standard_normal(6000) + 3.0
    entries = entries[0].astype(np.int32), entries[1].astype(np.int32), entries[2]
    system = _system(job, rank=min(job.get("parameters", {}).get("rank", 50), 60))
    system.prepare(entries, (200, 150))
    system.fit(2)


def sweeps(job, split):
    """Seconds per sweep from the difference of two fits, so that set-up cancels."""
    few, many = job.get("counts", [1, 3])
    rows = []
    for rank in job["ranks"]:
        system = _system(job, rank=rank)
        system.prepare(split.train, split.shape)
        whole: list[float] = []

        def once(system=system, whole=whole):
            long = harness.timed(system.fit, many)
            whole.append(long)
            return (long - harness.timed(system.fit, few)) / (many - few)

        seconds = harness.repeat(
            once, repetitions=job.get("repetitions", 5), budget=job.get("budget", 15.0)
        )
        rows.append(
            {
                "rank": rank,
                "sweep": harness.quartiles(seconds),
                "fit": harness.quartiles(whole),
                "fit_sweeps": many,
                "entries": len(split.train[2]),
            }
        )
    return rows


def single_fit(job, split):
    """Seconds of a whole fit of one sweep, an upper bound where more would take too long."""
    rows = []
    for rank in job["ranks"]:
        system = _system(job, rank=rank)
        system.prepare(split.train, split.shape)
        rows.append({"rank": rank, "fit": harness.quartiles([harness.timed(system.fit, 1)])})
    return rows


def curve(job, split):
    """Whole-fit seconds and error after 1, 2, 4, … sweeps, every point a fit from scratch."""
    system = _system(job)
    system.prepare(split.train, split.shape)
    points = []
    for n in job["counts"]:
        seconds = harness.repeat(
            lambda n=n: harness.timed(system.fit, n),
            repetitions=job.get("repetitions", 3),
            budget=job.get("budget", 6.0),
        )
        point = {"n": n, "seconds": harness.quartiles(seconds)}
        point["valid"], point["test"] = (_grade(system, e) for e in (split.valid, split.test))
        points.append(point)
    return points


def search(job, split):
    """Best setting by validation error, then a fit on training and validation, graded on test."""
    best = None
    tried = 0
    start = time.perf_counter()
    for setting in job["grid"]:
        system = _system(job, **setting)
        system.prepare(split.train, split.shape)
        for n in job["counts"]:
            system.fit(n)
            error = _grade(system, split.valid)
            tried += 1
            if best is None or error < best[0]:
                best = error, setting, n
    search_seconds = time.perf_counter() - start
    error, setting, n = best
    system = _system(job, **setting)
    merged = split.merged()
    system.prepare(merged.train, merged.shape)
    seconds = harness.repeat(
        lambda: harness.timed(system.fit, n), repetitions=job.get("repetitions", 3), budget=10.0
    )
    return {
        "settings": tried,
        "best": {**setting, "n": n},
        "valid": error,
        "test": _grade(system, split.test),
        "seconds": harness.quartiles(seconds),
        "search_seconds": search_seconds,
    }


def memory(job, split):
    """Peak of a fit over the process's size before it; the input is already there."""
    system = _system(job)
    system.prepare(split.train, split.shape)
    n = job.get("count", 2)
    if job.get("trace"):
        tracemalloc.start()
        system.fit(n)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    else:
        peak = harness.peak_memory(lambda: system.fit(n))
    size = system.dtype.itemsize
    entries = len(split.train[2])
    m, n_cols = split.shape
    # Compressed rows and compressed columns (value, 4-byte index, 8-byte pointers), and factors.
    least = 2 * entries * (size + 4) + 8 * (m + n_cols + 2) + (m + n_cols) * system.rank * size
    return {"peak": peak, "least": least, "input": entries * (size + 8)}


def slope(job, split):
    """Seconds per sweep against rank, at a fixed number N of entries and fixed N / (n k)."""
    from lowrank_opt.datasets import make_low_rank_observations

    rows = []
    for rank in job["ranks"]:
        side = job["side"] * job["ranks"][0] // rank
        entries = make_low_rank_observations(
            side, side, rank, n_observations=job["entries"], dtype=np.float32, random_state=0
        )
        system = _system(job, rank=rank)
        system.prepare((entries.rows, entries.cols, entries.values), entries.shape)

        def once(system=system):
            return (harness.timed(system.fit, 3) - harness.timed(system.fit, 1)) / 2

        seconds = harness.repeat(once, repetitions=3, budget=12.0)
        rows.append({"rank": rank, "side": side, "sweep": harness.quartiles(seconds)})
    return rows


def gap(job, split):
    """Seconds and relative duality gap after given numbers of iterations, on a photograph."""
    from lowrank_opt.datasets import sample_image_observations
    from lowrank_opt.recovery import LowRankMatrix, MatrixCompletion

    image = sample_image_observations("china", missing=job["missing"], random_state=0)
    rows, cols = (a.astype(np.int32) for a in np.nonzero(image.mask))
    entries = rows, cols, image.truth[image.mask]
    largest = np.linalg.norm(np.where(image.mask, image.truth - entries[2].mean(), 0.0), 2)
    system = _system(job, rank=min(image.mask.shape), reg=job["level"] * largest)
    system.prepare(entries, image.mask.shape)
    problem = MatrixCompletion.from_coo(
        *entries, image.mask.shape, rank=system.rank, reg=system.reg, penalty="nuclear", center=True
    )
    points = []
    for n in job["counts"]:
        seconds = harness.repeat(lambda n=n: harness.timed(system.fit, n), budget=4.0)
        U, V, offset, *_ = system.factors()
        certificate = problem.certificate(LowRankMatrix(U, V, offset))
        estimate = U.astype(np.float64) @ V.T + offset
        points.append(
            {
                "n": n,
                "seconds": harness.quartiles(seconds),
                "gap": certificate.residual,
                "psnr": image.psnr(estimate, missing_only=True),
            }
        )
    return points


def main() -> None:
    job = json.loads(sys.argv[1])
    harness.pin(job.get("parameters", {}).get("threads", 1))
    warnings.simplefilter("ignore")
    split = data.load(job["data"]) if job.get("data") else None
    start = time.perf_counter()
    warm_up(job)
    first = time.perf_counter() - start
    answer = globals()[job["measure"]](job, split)
    # The last line of the output, whatever a library may have printed before.
    print("\n" + json.dumps({"answer": answer, "warm_up": first}))


if __name__ == "__main__":
    main()
