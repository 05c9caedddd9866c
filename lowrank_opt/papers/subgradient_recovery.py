"""Ma and Fattahi: the sub-gradient method with a small start.

Measurements of a symmetric matrix of low rank, some of them grossly wrong or all of them noisy, are
fitted in the mean absolute error by factors of any number of columns, up to a full square. The
paper proves that a small start makes the method blind to the columns that are too many, and that it
comes to the true matrix even when global minima are elsewhere. Bands are statements of the theory,
closed forms, and results of a plain NumPy implementation; none is read off the paper's figures.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core import AccuracyWarning, History
from lowrank_opt.papers.report import Row, Section, Table, draw
from lowrank_opt.recovery import LowRankMatrix, MatrixSensing, SubgradientMethod

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from lowrank_opt.core.result import Result

__all__ = ["reproduce"]

REFERENCE = (
    "J. Ma, S. Fattahi, “Global Convergence of Sub-gradient Method for Robust Matrix Recovery: "
    "Small Initialization, Noisy Measurements, and Over-parameterization”, JMLR 24, 2023, "
    "arXiv:2202.08788"
)
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "side": 20, "rank": 3, "seeds": 3, "hidden": 2, "ranks": (3, 20),
        "alphas": (1e-1, 1e-3, 1e-6),
        "densities": (0.1, 0.3, 0.5), "lengths": (600, 1200, 2400),
        "starts": (1e-2, 1e-4, 1e-6, 1e-8), "decays": (0.95, 0.97, 0.98, 0.99),
        "monte_carlo": 200_000,
    },
    "medium": {
        "side": 20, "rank": 3, "seeds": 10, "hidden": 5, "ranks": (3, 4, 6, 10, 15, 20),
        "alphas": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        "densities": (0.1, 0.2, 0.3, 0.4, 0.5), "lengths": (600, 1200, 2400, 4800),
        "starts": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9),
        "decays": (0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99),
        "monte_carlo": 400_000,
    },
    "paper": {
        "side": 50, "rank": 3, "seeds": 5, "hidden": 3, "ranks": (3, 4, 6, 10, 20, 50),
        "alphas": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        "densities": (0.1, 0.2, 0.3, 0.4, 0.5), "lengths": (1500, 3000, 6000),
        "starts": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9),
        "decays": (0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99),
        "monte_carlo": 1_000_000,
    },
}  # fmt: skip
# The settings of the table: first step over the Frobenius norm of the matrix, whose singular
# values are 1; decay; iterations; size of the start; standard deviation of gross errors.
_ETA0, _RHO, _STEPS, _ALPHA, _GROSS = 0.25, 0.99, 1000, 1e-6, 10.0
# First step of the two-phase runs, relative to the leading direction: U grows by 1 + 2·0.15.
_STEP = 0.15
_SHAPE = 5.0
_CHUNK = 100_000
_PEER = "a plain NumPy implementation, other seeds; the band is a factor of 5 both ways"


class Measured(NamedTuple):
    """Measurements of a matrix, and the matrix."""

    truth: NDArray[np.float64]
    A: NDArray[np.float64]
    y: NDArray[np.float64]

    def problem(self, rank: int) -> MatrixSensing:
        """The problem with factors of so many columns."""
        return MatrixSensing.from_dense(self.A, self.y, rank=rank, symmetric=True)

    def error(self, x: Any) -> float:
        """Relative error in the Frobenius norm."""
        return float(np.linalg.norm(x.to_dense() - self.truth) / np.linalg.norm(self.truth))

    def loss(self, X: NDArray[Any]) -> float:
        """Mean absolute error of a matrix."""
        return float(np.mean(np.abs(self.A.reshape(len(self.y), -1) @ X.ravel() - self.y)))


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Run the sub-gradient method on Gaussian measurements.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        Size, and number of seeds.
    random_state : int, default=0
        Seed of the first of several random cases.

    Returns
    -------
    list of Section
        Over-parameterisation, the size of the start, noise, and the sign-RIP.
    """
    size = _SCALES[scale]
    return [
        part(size, random_state) for part in (_over_parameterisation, _start, _noise, _sign_rip)
    ]


def measure(
    side: int, rank: int, length: int, *, outliers: float = 0.0, noise: float = 0.0, seed: Any = 0
) -> Measured:
    """Draw a projection of this rank and Gaussian measurements of it, some or all of them wrong."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((side, rank))).Q
    truth = Q @ Q.T
    A = rng.standard_normal((length, side, side))
    y = A.reshape(length, -1) @ truth.ravel() + noise * rng.standard_normal(length)
    y += np.where(rng.random(length) < outliers, _GROSS * rng.standard_normal(length), 0.0)
    return Measured(truth, A, y)


def solve(
    data: Measured, rank: int, *, history: History | None = None, **options: Any
) -> LowRankMatrix:
    """Return the last iterate of the method of the table, or with other options.

    The last iterate is what the theory is about. (``Result.x`` is the best one by the problem's
    own certificate, which needs more than half of the measurements to be right.)
    """
    options = {
        "schedule": "geometric", "alpha": _ALPHA, "max_iter": _STEPS, "check_every": 25,
        "n_threads": 1, **options,
    }  # fmt: skip
    # Relative to the leading direction here, to the Frobenius norm in the table.
    options.setdefault("eta0", _ETA0 / np.linalg.norm(data.truth))
    options.setdefault("rho", _RHO)
    problem = data.problem(rank)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"rho=.* with schedule", category=AccuracyWarning)
        solver = SubgradientMethod(tol=0.0, **options)
        return solver.point(problem, solver.solve(problem, history=history).state)


def iterations_to(data: Measured, rank: int, error: float, **options: Any) -> int:
    """Return how many iterations of the two-phase schedule it takes to this relative error."""

    def stop(result: Result) -> None:
        if data.error(result.x) <= error:
            raise StopIteration

    solver = SubgradientMethod(
        tol=0.0, eta0=_STEP, max_iter=5000, check_every=2, n_threads=1, **options
    )
    return int(solver.solve(data.problem(rank), callback=stop).nit)


def line(x: Any, y: Any) -> tuple[float, float]:
    """Return slope of the least-squares line and the coefficient of determination."""
    slope, offset = np.polyfit(x, y, 1)
    residual = np.asarray(y) - slope * np.asarray(x) - offset
    return float(slope), float(1.0 - np.sum(residual**2) / np.sum((y - np.mean(y)) ** 2))


def _table(value: float, applies: bool) -> dict[str, Any]:
    """Peer's value and band of a row of the table."""
    if not applies:
        return {}
    return {"peer": value, "band": (value / _SHAPE, value * _SHAPE), "source": _PEER}


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _over_parameterisation(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    side, rank = size["side"], size["rank"]
    length = 10 * side * rank
    table = (side, rank) == (20, 3)
    cases = [
        measure(side, rank, length, outliers=0.1, seed=[seed, 1, trial])
        for trial in range(size["seeds"])
    ]
    errors = {
        k: _median([data.error(solve(data, k)) for data in cases]) for k in size["ranks"]
    }  # fmt: skip
    by_alpha = {
        alpha: _median([data.error(solve(data, side, alpha=alpha)) for data in cases])
        for alpha in size["alphas"]
    }
    largest, smallest = max(by_alpha), min(by_alpha)
    # Fewer measurements than a square has unknowns: the truth is no minimum any more.
    wide = 2 * side
    hidden = [
        measure(wide, 1, 20 * wide, outliers=0.3, seed=[seed, 2, trial])
        for trial in range(size["hidden"])
    ]
    small = [solve(data, wide) for data in hidden]
    big = [solve(data, wide, alpha=1.0) for data in hidden]
    deeper = [
        data.loss(data.truth) - data.loss(x.to_dense()) for data, x in zip(hidden, big, strict=True)
    ]
    error_small = _median([data.error(x) for data, x in zip(hidden, small, strict=True)])
    error_big = _median([data.error(x) for data, x in zip(hidden, big, strict=True)])
    rows = [
        Row(
            f"error with {rank} columns, the true rank", errors[rank],
            **_table(6.4e-6, table),
        ),
        Row(
            f"error with {side} columns, a full square", errors[side],
            **_table(1.2e-5, table),
        ),
        Row(
            "largest error of all numbers of columns over that at the true rank",
            max(errors.values()) / errors[rank], band=(None, 10.0),
            source="abstract: agnostic to over-parameterisation",
        ),
        Row(
            f"error from a start of {largest:g}, a full square", by_alpha[largest],
            **_table(2.8e-3, table and largest == 1e-1),
        ),
        *(
            [Row("error from a start of 0.001, a full square", by_alpha[1e-3],
                 **_table(1.0e-3, table))]
            if 1e-3 in by_alpha else []
        ),
        Row(
            f"error from a start of {largest:g} over that from {smallest:g}",
            by_alpha[largest] / by_alpha[smallest], band=(10.0, None),
            source="abstract: the small start nullifies over-parameterisation",
        ),
        Row(
            "truth that is no minimum: its loss minus that of the answer from a large start, "
            "least of all seeds",
            min(deeper), band=(0.0, None),
            source="abstract: global minima need not be the truth",
            note=f"rank 1 in {wide} dimensions, {20 * wide} measurements, 30 % of them wrong; "
            f"a full square of {wide} columns has {wide * (wide + 1) // 2} unknowns",
        ),
        Row(
            "there: error from the large start", error_big, band=(0.5, None),
            source="the minimum is elsewhere",
        ),
        Row(
            f"there: error from a start of {_ALPHA:g}", error_small, band=(None, 0.05),
            source="abstract: the truth even so",
        ),
    ]  # fmt: skip

    curves = {
        f"start {alpha:g}, {k} columns": (alpha, k) for alpha in (1e-1, 1e-6) for k in (rank, side)
    }
    paths = {}
    for label, (alpha, k) in curves.items():
        data = cases[0]
        history = History(
            objective=False,
            extra={"error": lambda problem, x, data=data: data.error(x)},
        )
        solve(data, k, alpha=alpha, history=history, check_every=40)
        paths[label] = (history["nit"], history["error"])

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (label, (nit, error)) in enumerate(paths.items()):
            style = "--" if index % 2 else "-"
            axes.semilogy(nit, error, style, color=f"C{index // 2}", label=label)
        axes.set_xlabel("iteration")
        axes.set_ylabel("relative error")
        axes.legend(fontsize=8)

    return Section(
        "Small start against over-parameterisation",
        f"A projection of rank {rank} in {side} dimensions, {length} Gaussian measurements, a "
        f"tenth of them with an error of standard deviation {_GROSS:g}; {_STEPS} steps of the "
        f"geometric schedule. Medians of {size['seeds']} seeds. From a large start the columns "
        "that are too many keep what they started with; from a small one they hardly matter.",
        rows,
        [
            Table(["columns", "error"], list(errors.items()), f"Start of size {_ALPHA:g}"),
            Table(["start", "error"], list(by_alpha.items()), f"{side} columns"),
        ],
        draw(plot, "Error along the iterations, one seed: the four runs differ in the size of the "
                   "start and in the number of columns."),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _start(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    side, rank = size["side"], size["rank"]
    length = 10 * side * rank
    cases = [
        measure(side, rank, length, outliers=0.1, seed=[seed, 3, trial])
        for trial in range(size["seeds"])
    ]
    starts = size["starts"]
    decades = [-math.log10(alpha) for alpha in starts]
    grown = {
        k: [_median([iterations_to(data, k, 0.3, alpha=alpha) for data in cases])
            for alpha in starts]
        for k in (rank, side)
    }  # fmt: skip
    slopes = {k: line(decades, nit) for k, nit in grown.items()}
    predicted = math.log(10.0) / math.log(1.0 + 2.0 * _STEP)
    late = {
        k: _median([iterations_to(data, k, 1e-2, alpha=_ALPHA) for data in cases])
        for k in (rank, side)
    }
    norm = math.sqrt(rank)
    needed = norm / 2.0 * math.log(1.0 / _ALPHA)
    errors, budgets = [], []
    for rho in size["decays"]:
        budgets.append(_ETA0 / (1.0 - rho) / needed)
        errors.append(_median([data.error(solve(data, side, rho=rho)) for data in cases]))
    poor = size["decays"].index(0.97)
    warned = 0
    for data in cases:
        solver = SubgradientMethod(
            schedule="geometric", eta0=_ETA0 / norm, rho=0.97, alpha=_ALPHA, max_iter=1
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solver.solve(data.problem(side))
        warned += any("schedule='geometric'" in str(w.message) for w in caught)
    two_phase = _median(
        [data.error(solve(data, side, schedule="two-phase", rho=0.97)) for data in cases]
    )
    rows = [
        Row(
            f"iterations to error 0.3 for each decade of the start, {k} columns",
            slope,
            band=(0.5 * predicted, 2.0 * predicted),
            source="derived: the leading direction grows by 1.3 a step, the others less",
        )
        for k, (slope, _) in slopes.items()
    ]
    rows += [
        Row(
            f"coefficient of determination of that line, {k} columns",
            fit,
            band=(0.9, 1.0),
            source="derived: iterations grow like log(1 / start)",
        )
        for k, (_, fit) in slopes.items()
    ]
    rows += [
        Row(
            f"iterations to error 0.01, {side} columns over {rank} columns",
            late[side] / late[rank], band=(0.7, 1.4),
            source="derived: iterations do not depend on the search rank",
        ),
        Row(
            "geometric decay 0.97: sum of steps over what the weakest direction needs",
            budgets[poor], band=(None, 1.0),
            source="derived: the budget η₀/(1−ρ) against ‖X‖/(2σ)·log(1/α)",
        ),
        Row(
            "its error", errors[poor], band=(0.9, 1.1), peer=1.0,
            source="derived: too small a budget freezes the iterate at 0",
        ),
        Row(
            f"runs of {len(cases)} with a warning before them", warned,
            band=(len(cases), len(cases)), source="the law is evaluated on the data",
        ),
        Row(
            f"error at a budget of {budgets[-1]:.2g} times the need", errors[-1],
            band=(None, 1e-3), source="derived: a sufficient budget reaches the answer",
        ),
        Row(
            "error of the two-phase schedule with the decay that froze", two_phase,
            band=(None, 1e-2), source="this library's default: decay sets in after the growth",
        ),
    ]  # fmt: skip

    def plot(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for k, nit in grown.items():
            left.plot(decades, nit, "o-", label=f"{k} columns")
        left.set_xlabel("log10(1 / start)")
        left.set_ylabel("iterations to error 0.3")
        left.legend(fontsize=8)
        right.semilogy(budgets, errors, "o-")
        right.axvline(1.0, linestyle=":", color="C1")
        right.set_xlabel("budget / need")
        right.set_ylabel("final error")

    return Section(
        "The size of the start, and the budget of steps",
        f"The same measurements, medians of {size['seeds']} seeds. A smaller start costs a fixed "
        "number of iterations a decade, however many columns there are. A geometric schedule has "
        "a finite sum of steps; what a direction needs to grow from the start is a closed form, "
        "and with less the run ends where it began.",
        rows,
        [Table(["decay", "budget / need", "error"],
               [[*row] for row in zip(size["decays"], budgets, errors, strict=True)],
               f"Geometric schedules, {side} columns")],
        draw(plot, "Left: iterations against the size of the start. Right: final error of "
                   "geometric schedules against their budget, in units of the need."),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _noise(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    side, rank, seeds = size["side"], size["rank"], range(size["seeds"])
    table = (side, rank) == (20, 3)
    length = 20 * side * rank
    outliers: dict[float, list[float]] = {}
    for density in size["densities"]:
        outliers[density] = [
            data.error(solve(data, side))
            for data in (
                measure(side, rank, length, outliers=density, seed=[seed, 4, trial])
                for trial in seeds
            )
        ]
    gaussian, ratios = [], []
    for count in size["lengths"]:
        errors = [
            data.error(solve(data, side))
            for data in (
                measure(side, rank, count, noise=1.0, seed=[seed, 5, trial]) for trial in seeds
            )
        ]
        gaussian.append(_median(errors))
        ratios.append(gaussian[-1] / math.sqrt(side * rank / count / rank))
    references = {0.3: 6.2e-6, 0.5: 1.8e-4}
    exponent, _ = line(np.log(size["lengths"]), np.log(gaussian))
    rows = [
        Row(
            f"error with {density:.0%} outliers", _median(values),
            band=(None, _SHAPE * references[density] if table and density < 0.5 else 1e-2),
            peer=references[density] if table else None,
            source="abstract: arbitrarily large outliers",
            note="peer: a plain NumPy implementation, other seeds. From "
            f"{min(values):.1e} to {max(values):.1e} over our seeds"
            + ("; with this few measurements the edge, so the band is wide"
               if density >= 0.5 else "; the band is 5 times the peer's"),
        )
        for density, values in outliers.items()
        if density in references
    ]  # fmt: skip
    for index, reference in ((0, 0.22), (2, 0.094)):
        rows.append(
            Row(
                f"error with noise of deviation 1, {size['lengths'][index]} measurements",
                gaussian[index],
                **_table(reference, table),
            )
        )
    rows += [
        Row(
            "exponent of the error in the number of measurements", exponent, band=(-0.8, -0.35),
            source="derived: ν·√(d·r/N), an exponent of -1/2",
            note="steeper than the law at the small end, where a full square also fits noise",
        ),
        Row(
            "error over ν·√(d·r/N)/‖X‖, largest of all numbers of measurements", max(ratios),
            band=(None, 5.0), source="derived: the order of the best possible error",
        ),
    ]  # fmt: skip

    def plot(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.semilogy(list(outliers), [_median(v) for v in outliers.values()], "o-")
        left.set_xlabel("share of outliers")
        left.set_ylabel("relative error")
        right.loglog(size["lengths"], gaussian, "o-", label="measured")
        law = [math.sqrt(side / count) for count in size["lengths"]]
        right.loglog(size["lengths"], law, ":", label="√(d·r/N) / ‖X‖")
        right.set_xlabel("measurements")
        right.legend(fontsize=8)

    return Section(
        "Outliers and Gaussian noise",
        f"A full square of {side} columns for a projection of rank {rank}; {length} measurements "
        f"for outliers, noise of standard deviation 1 in every measurement otherwise; the "
        f"geometric schedule, medians of {size['seeds']} seeds. One method, without a parameter "
        "for the kind of noise.",
        rows,
        [
            Table(["outliers", "median error", "largest"],
                  [[d, _median(v), max(v)] for d, v in outliers.items()],
                  f"{length} measurements"),
            Table(["measurements", "median error", "over √(d·r/N) / ‖X‖"],
                  [[*row] for row in zip(size["lengths"], gaussian, ratios, strict=True)],
                  "Gaussian noise"),
        ],
        draw(plot, "Error against the share of outliers (left), and against the number of "
                   "measurements under Gaussian noise (right)."),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def sub_gradient(X: NDArray[Any], A: NDArray[Any], noise: NDArray[Any]) -> NDArray[np.float64]:
    """Return the symmetric matrix sub-gradient of the loss at a distance X from the truth."""
    Q = np.zeros_like(X)
    for at in range(0, len(A), _CHUNK):  # the problem copies small matrices into longer rows
        part = slice(at, at + _CHUNK)
        problem = MatrixSensing.from_dense(A[part], noise[part])
        slope = problem.measurements.linearize(X, np.eye(len(X)), noise[part], "l1")
        Q += slope.left * (len(noise[part]) / len(A))
    return (Q + Q.T) / 2.0


def _sign_rip(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    side, count = 5, size["monte_carlo"]
    rng = np.random.default_rng([seed, 6])
    U = rng.standard_normal((side, 2))
    X = U @ np.diag([1.0, -0.5]) @ U.T
    X /= np.linalg.norm(X)
    A = rng.standard_normal((count, side, side))
    normal, chance = rng.standard_normal(count), rng.random(count)
    base = math.sqrt(2.0 / math.pi)
    cases: list[tuple[str, float, NDArray[Any], float]] = [("no noise", 1.0, np.zeros(count), base)]
    for p in (0.1, 0.3, 0.5):
        # The mean of exp(-s²/2) over normal s of deviation σ is 1 / √(1 + σ²).
        kept = 1.0 - p + p / math.sqrt(1.0 + _GROSS**2)
        noise = np.where(chance < p, _GROSS * normal, 0.0)
        cases.append((f"{p:.0%} outliers", 1.0, noise, base * kept))
    for distance in (1.0, 0.25):
        phi = base * distance / math.sqrt(distance**2 + 1.0)
        cases.append((f"Gaussian noise, at a distance of {distance:g}", distance, normal, phi))
    rows, cells, off = [], [], 0.0
    for label, distance, noise, phi in cases:
        Q = sub_gradient(distance * X, A, noise)
        found = float(np.sum(Q * X))
        off = max(off, float(np.linalg.norm(Q - phi * X, 2)))
        cells.append([label, found, phi])
        rows.append(
            Row(
                f"constant φ, {label}", found, band=(phi - 1e-2, phi + 1e-2),
                source=f"closed form {phi:.4f}",
            )
        )  # fmt: skip
    # Sampled entries: the matrix of signs itself, with every entry observed.
    big = np.outer(rng.standard_normal(400), rng.standard_normal(400))
    cosine = float(np.abs(big).sum() / np.linalg.norm(big) / np.sqrt(big.size))
    rows += [
        Row(
            "largest spectral norm of the sub-gradient minus φ·X/‖X‖", off, band=(None, 2e-2),
            source="paper: the sign-RIP; the fluctuation falls like 1/√N",
        ),
        Row(
            "sampled entries, all of them observed: cosine between sub-gradient and X", cosine,
            band=(2.0 / math.pi - 0.05, 2.0 / math.pi + 0.05),
            source="closed form 2/π for normal factors; the sign-RIP needs 1",
            note="the theory does not carry over to matrix completion",
        ),
    ]  # fmt: skip
    return Section(
        "The sign-RIP by Monte Carlo",
        f"At a fixed distance X from the truth the mean sub-gradient of {count:,} Gaussian "
        "measurements is a multiple φ of X/‖X‖, whatever the noise: wrong measurements shorten "
        "it, and do not turn it. This is the property that the theory rests on.",
        rows,
        [Table(["measurements", "φ measured", "φ in closed form"], cells)],
        [],
        REFERENCE,
        seconds=time.perf_counter() - began,
    )
