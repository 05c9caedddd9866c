"""Pauli et al.: bounds of networks that sort, by quadratic constraints that keep sums.

The published table is about MaxMin networks on MNIST; their weights are public and are used when
they lie in the data folder (see `fetch_maxmin_network`), or, beyond the smoke scale, fetched. The
same comparison is made on MaxMin networks that were trained on scikit-learn's digits.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import MissingDependencyError
from lowrank_opt.datasets import DatasetError, fetch_maxmin_network, load_digits_network
from lowrank_opt.lipschitz import (
    Activation,
    Affine,
    ExactLipschitz,
    FeedForward,
    LipschitzProblem,
    LipSDP,
    LipSDPGroupSort,
    Residual,
    ResidualBlock,
    SampledLowerBound,
)
from lowrank_opt.papers.report import Row, Section, Table, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

__all__ = ["REFERENCE", "as_residual_relu", "clarabel_bound", "product", "reproduce"]

REFERENCE = (
    "P. Pauli, A. Havens, A. Araujo, S. Garg, F. Khorrami, F. Allgöwer, B. Hu, Novel Quadratic "
    "Constraints for Extending LipSDP beyond Slope-Restricted Activations, ICLR 2024, "
    "arXiv:2401.14033"
)
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"download": False, "published": ((18, 128),), "norms": ("l2",)},
    "medium": {
        "download": True,
        "published": ((2, 16), (2, 32), (5, 32), (8, 32), (18, 32), (18, 128)),
        "norms": ("l2", "linf"),
    },
    "paper": {
        "download": True,
        "published": (
            (2, 16), (2, 32), (2, 64), (2, 128), (5, 32), (5, 64), (8, 32), (8, 64), (8, 128),
            (8, 256), (18, 32), (18, 64), (18, 128),
        ),
        "norms": ("l2", "linf"),
    },
}  # fmt: skip
_TOL = 5e-7
_SIZES = ((2, 16), (2, 32), (5, 32), (8, 32), (18, 32))
# Largest networks that are also solved as residual ReLU networks: one dense inequality of twice
# their neurons.
_RESIDUAL = 160
# Table 1, 18 layers of 128 neurons: semidefinite bound and product of norms.
_HEADLINES = {"l2": (24271.0, 74167.0), "linf": (1.97e5, 2.79e16)}
_TABLE = "table 1, 18 × 128"


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Bound MaxMin networks on digits, one activation alone, and the published networks.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        "smoke" uses published weights only if they are in the data folder; the others fetch them.
    random_state : int, default=0
        Seed of the samples.

    Returns
    -------
    list of Section
        Statements about single activations, networks on digits, published networks.
    """
    size = _SCALES[scale]
    return [_single(), _digits(random_state), _published(size)]


def product(weights: list[Any], norm: str) -> float:
    """Product of the layers' norms.

    Parameters
    ----------
    weights : list of ndarray
        The layers; for "linf" the last is a row.
    norm : {"l2", "linf"}
        Spectral norms, or largest absolute row sums.

    Returns
    -------
    float
        The product.
    """
    order = 2 if norm == "l2" else np.inf
    return float(np.prod([np.linalg.norm(W, order) for W in weights]))


def as_residual_relu(weights: list[Any]) -> Residual:
    """Write a MaxMin network as a residual ReLU network, which has the same values.

    Of two neurons u, MaxMin is ``H u + G relu(W u)`` with ``W = [[-1, 1], [1, -1]]``,
    ``H = [[0, 1], [0, 1]]``, ``G = [[-1, 0], [0, 1]]``.

    Parameters
    ----------
    weights : list of ndarray
        The layers of the MaxMin network.

    Returns
    -------
    Residual
        With a block for each hidden layer.
    """
    blocks = []
    for k, V in enumerate(weights[1:], 1):
        pairs = np.eye(len(weights[k - 1]) // 2)
        W = np.kron(pairs, [[-1.0, 1.0], [1.0, -1.0]])
        H = np.kron(pairs, [[0.0, 1.0], [0.0, 1.0]])
        G = np.kron(pairs, [[-1.0, 0.0], [0.0, 1.0]])
        blocks.append(ResidualBlock(W, "relu", skip=V @ H, output=V @ G))
    return Residual(tuple(blocks), first=Affine(weights[0]))


def clarabel_bound(weights: list[Any], *, sums: bool = True) -> float:
    """Value of the published program for MaxMin and the norm l2, by cvxpy and Clarabel.

    Parameters
    ----------
    weights : list of ndarray
        The layers.
    sums : bool, default=True
        Whether multipliers may use that pairs keep their sum; without, activations are only known
        to be 1-Lipschitz on pairs.

    Returns
    -------
    float
        The square root of the optimal value, without a certificate.
    """
    import cvxpy as cp

    rho = cp.Variable()
    first = weights[0]
    if first.shape[1] > len(first):  # inputs that the first layer does not see
        first = np.linalg.qr(first.T, mode="r").T
    before, constraints = rho * np.eye(first.shape[1]), []
    for W in [first, *weights[1:-1]]:
        half = len(W) // 2
        lam, gam = cp.Variable(half, nonneg=True), cp.Variable(half)
        both = np.kron(np.eye(half), np.ones((2, 1)))
        T = cp.diag(both @ lam)
        if sums:
            T = T + both @ cp.diag(gam) @ both.T
        constraints.append(before - W.T @ T @ W >> 0)
        before = T
    constraints.append(before - weights[-1].T @ weights[-1] >> 0)
    problem = cp.Problem(cp.Minimize(rho), constraints)
    problem.solve(cp.CLARABEL)
    return float(np.sqrt(rho.value))


# -- one activation -------------------------------------------------------------------------------


def _single() -> Section:
    began = time.perf_counter()
    eye, v = np.eye(2), np.array([0.6, 0.8])
    alone = {
        "MaxMin": Activation("maxmin"),
        "GroupSort of four": Activation("group_sort", group_size=4),
        "Householder": Activation("householder", direction=v),
    }
    rows = []
    for name, phi in alone.items():
        identity = np.eye(4) if name.startswith("Group") else eye
        network = FeedForward((Affine(identity), phi, Affine(identity)))
        result = LipSDPGroupSort(tol=_TOL).solve(LipschitzProblem(network))
        rows.append(
            Row(
                f"{name} alone: bound", result.fun, paper=1.0, band=(1.0, 1 + 2e-6),
                certificate=result.gap, source="the activations are 1-Lipschitz (section 3)",
            )
        )  # fmt: skip
    residual = as_residual_relu([eye, eye])
    rr = LipSDP(tol=_TOL).solve(LipschitzProblem(residual))
    rows.append(
        Row(
            "MaxMin alone as a residual ReLU network: squared LipSDP bound", rr.fun**2, paper=2.0,
            band=(2.0 - 1e-5, 2.0 + 1e-5), certificate=rr.gap,
            source="section 3: LipSDP fails to recover that MaxMin is 1-Lipschitz",
        )
    )  # fmt: skip
    X = np.random.default_rng(0).standard_normal((100, 2))
    off = np.abs(residual.forward(X) - np.sort(X, axis=1)[:, ::-1]).max()
    other = np.abs(residual.forward(X) - np.sort(X, axis=1)).max()
    rows.append(
        Row(
            "the residual network against a sort: largest difference", min(off, other),
            band=(None, 1e-12), source="closed form",
        )
    )  # fmt: skip
    return Section(
        "One activation alone",
        "Sorting and reflecting activations do not act on single neurons, and no interval of "
        "slopes describes them. Rewriting MaxMin by ReLU units makes the older program applicable "
        "and loses a factor of √2 for every activation.",
        rows,
        reference=REFERENCE,
        seconds=time.perf_counter() - began,
    )


# -- digits ---------------------------------------------------------------------------------------


def _digits(seed: int) -> Section:
    began = time.perf_counter()
    cells, gaps, violations, differences, losses = [], [], 0, [], {}
    residual: dict[str, float] = {}
    for norm in ("l2", "linf"):
        for depth, width in _SIZES:
            data = load_digits_network((64, *[width] * (depth - 1), 10), activation="maxmin")
            weights = list(data.weights)
            if norm == "linf":
                weights[-1] = weights[-1][8:9]
            problem = LipschitzProblem(weights, norm=norm, activation="maxmin")
            result = LipSDPGroupSort(tol=_TOL).solve(problem)
            low = SampledLowerBound(n_ascent=10, random_state=seed).solve(problem).lower_bound
            trivial = product(weights, norm)
            exact = None
            if (depth, width) == (2, 16):
                exact = ExactLipschitz().solve(problem).fun
            rr = None
            if norm == "l2" and width * (depth - 1) <= _RESIDUAL:
                answer = LipSDP(tol=_TOL, max_time=20.0).solve(
                    LipschitzProblem(as_residual_relu(weights))
                )
                rr = residual[f"{depth} × {width}"] = answer.fun / result.fun
            chain = [v for v in (low, exact, result.fun, trivial) if v is not None]
            violations += any(a > b * (1 + 1e-9) for a, b in itertools.pairwise(chain))
            gaps.append(result.gap)
            if norm == "l2" and depth <= 5:
                differences.append(abs(result.fun / clarabel_bound(weights) - 1.0))
            if norm == "l2" and (depth, width) in ((2, 16), (5, 32)):
                losses[f"{depth} × {width}"] = clarabel_bound(weights, sums=False) / result.fun - 1
            cells.append(
                [
                    norm, depth, width, low, exact, result.fun,
                    None if rr is None else rr * result.fun, trivial, result.nit,
                    1e3 * result.time,
                ]
            )  # fmt: skip
    rows = [
        Row(
            "networks where sampled ≤ exact ≤ LipSDP-NSR ≤ product fails", violations, band=(0, 0),
            source="theory; exact where it can be had, 2 × 16",
        ),
        Row(
            "largest certified gap", max(gaps), band=(0.0, 1e-6),
            source="1 - lower / upper, by the problem",
        ),
        Row(
            "l2, up to 5 layers: largest relative difference from the published program",
            max(differences), band=(None, 1e-5), source="cvxpy with Clarabel",
        ),
        Row(
            "least ratio of LipSDP-RR to LipSDP-NSR", min(residual.values()), band=(1.0, None),
            source="the published comparison: LipSDP-RR is looser, and fails at depth 18",
            note=", ".join(f"{k}: {v:.3f}" for k, v in residual.items()),
        ),
        *(
            Row(
                f"{name}: loss without multipliers for the sums", value, band=(0.0, None),
                source="theory: fewer multipliers; the size is reported",
            )
            for name, value in losses.items()
        ),
    ]  # fmt: skip

    def plot(figure: MatplotlibFigure) -> None:
        for axes, norm in zip(figure.subplots(1, 2), ("l2", "linf"), strict=True):
            mine = [c for c in cells if c[0] == norm]
            names = [f"{c[1]}×{c[2]}" for c in mine]
            for label, column in (("sampled", 3), ("LipSDP-NSR", 5), ("product", 7)):
                axes.semilogy(names, [c[column] for c in mine], "o-", markersize=4, label=label)
            axes.set_title(norm, fontsize=9)
        figure.axes[0].legend(fontsize=8)

    return Section(
        "MaxMin networks on digits",
        "Trained in NumPy on 80 % of scikit-learn's digits, stored with the package. Depth counts "
        "matrices. l2: all outputs; linf: output 8, inputs measured by their largest entry. "
        "LipSDP-NSR is the program with the new constraints, LipSDP-RR the older one on the "
        "network rewritten by ReLU units.",
        rows,
        [
            Table(
                ["norm", "depth", "width", "sampled", "exact", "LipSDP-NSR", "LipSDP-RR",
                 "product", "iterations", "ms"],
                cells, "Bounds; exact: the largest Jacobian over all orders of pairs",
            )
        ],
        draw(plot, "Lower bound, semidefinite bound and product, by depth × width.", size=(8, 2.8)),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


# -- published weights ----------------------------------------------------------------------------


def _published(size: dict[str, Any]) -> Section:
    began = time.perf_counter()
    rows: list[Row] = []
    cells = []
    reason = ""
    for depth, width in size["published"]:
        try:
            data = fetch_maxmin_network(depth, width, download=size["download"])
        except (DatasetError, MissingDependencyError) as error:
            reason = reason or str(error).partition(";")[0]
            if (depth, width) == (18, 128):
                rows += [
                    Row(
                        f"18 × 128, {norm}: {what}", None, paper=value, source=_TABLE,
                        note="the published weights are not in the data folder; see "
                        "fetch_maxmin_network",
                    )
                    for norm, values in _HEADLINES.items()
                    for what, value in zip(("bound", "product of norms"), values, strict=True)
                ]  # fmt: skip
            continue
        for norm in size["norms"]:
            weights = list(data.weights)
            if norm == "linf":
                weights[-1] = weights[-1][8:9]
            result = LipSDPGroupSort(tol=1e-5 if depth > 8 else _TOL).solve(
                LipschitzProblem(weights, norm=norm, activation="maxmin")
            )
            trivial = product(weights, norm)
            cells.append(
                [norm, depth, width, result.fun, trivial, result.gap, result.nit, result.time]
            )
            if (depth, width) == (18, 128):
                bound, naive = _HEADLINES[norm]
                off = 2e-4 if norm == "l2" else 3e-3  # 1.97e5 is printed with three digits
                rows += [
                    Row(
                        f"18 × 128, {norm}: bound", result.fun, paper=bound,
                        band=((1 - off) * bound, (1 + off) * bound), certificate=result.gap,
                        seconds=result.time, source=_TABLE,
                        note="the band is the rounding of the printed number and the accuracy of "
                        "the solver used there",
                    ),
                    Row(
                        f"18 × 128, {norm}: product of norms", trivial, paper=naive,
                        band=(0.995 * naive, 1.005 * naive), source=_TABLE,
                    ),
                ]  # fmt: skip
    text = (
        "The authors' weights of MaxMin networks on MNIST, 784 inputs, from their repository by "
        "checksum; linf is about output 8. Depth counts matrices."
    )
    if reason:
        text += f" Some are not at hand: {reason}."
    head = ["norm", "depth", "width", "bound", "product", "gap", "iterations", "seconds"]
    return Section(
        "The published networks",
        text,
        rows,
        [Table(head, cells, "LipSDP-NSR on the published weights")] if cells else [],
        [],
        REFERENCE,
        seconds=time.perf_counter() - began,
    )
