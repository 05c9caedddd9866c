"""Starts of "ssnal": nested samples, plain transport from an optional package, or nothing."""

from __future__ import annotations

import importlib.util
import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import MissingDependencyError, ParameterError
from lowrank_opt.transport.canonical import EXACT, L2, Canonical
from lowrank_opt.transport.costs import DenseCost, PointCost, SparseCost, cost_block, restrict
from lowrank_opt.transport.kernels_costs import scores_of_targets
from lowrank_opt.transport.kernels_prox import cross_transform
from lowrank_opt.transport.proximal import empty_plan

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Start", "emd_start", "has_emd", "nested_start", "typical_cost", "zero_start"]

# Sizes up to this one are not sampled; samples have this share of rows and columns.
_SMALL, _SHARE = 250, 1.0 / 3.0
# Regularisation of the first step, against the typical cost: without and with potentials.
_COLD, _WARM = 0.3, 0.03
# Potentials are prolonged by a soft minimum over the sample with this part of that level.
_SOFT = 0.3
_NEIGHBOURS = 12
_SAMPLED = 256
# What is left of the costs without means of rows is a scale if it is more than this part of them.
_ROUNDING = 1e-5
# Pairs up to which a dense matrix is formed for plain transport without being asked.
_LARGEST_EMD = 25_000_000


class Start(NamedTuple):
    """Where "ssnal" begins.

    Parameters
    ----------
    alpha : ndarray of shape (m,)
        Potentials.
    plan : tuple of ndarray
        First plan of the proximal term.
    mu : float
        First weight of the proximal term is ``1 / mu``.
    """

    alpha: Any
    plan: tuple[Any, Any, Any]
    mu: float


def typical_cost(canonical: Canonical, alpha: Any = None) -> float:
    """Return the mean of finite costs above the least cost of their column, over some columns.

    Parameters
    ----------
    canonical : Canonical
        The problem.
    alpha : ndarray of shape (m,) or None, default=None
        Potentials that are taken off the rows before; ``None``: their means, if they have fixed
        sums.

    Returns
    -------
    float
        A scale of costs; 0 if all costs of each column are equal.
    """
    centred = _mean_costs(canonical)[1]
    if alpha is None:
        return centred
    return max(centred, _of_columns(canonical, _sampled_columns(canonical), alpha)[1])


def _sampled_columns(canonical: Canonical) -> Any:
    return range(0, canonical.n, -(-canonical.n // _SAMPLED))


def _mean_costs(canonical: Canonical) -> tuple[Any, float]:
    """Means of the rows (zero, if their sums are not fixed), and a scale of what is left."""
    columns = _sampled_columns(canonical)
    zeros = np.zeros(canonical.m)
    means, spread = _of_columns(canonical, columns, zeros)
    if canonical.row_kind != EXACT:
        return zeros, spread
    return means, max(_of_columns(canonical, columns, means)[1], _ROUNDING * spread)


def _of_columns(canonical: Canonical, columns: Any, alpha: Any) -> tuple[Any, float]:
    """Means of ``c_ij - alpha_i`` in rows, and of its rise above the least of the column."""
    out = np.empty((1, canonical.m))
    sums, counts, total = np.zeros(canonical.m), np.zeros(canonical.m), 0.0
    for j in columns:
        scores_of_targets(canonical.cost, alpha, j, j + 1, out)
        finite = out[0] > -np.inf
        values = out[0][finite]
        sums[finite] -= values
        counts += finite
        total += float(np.sum(values.max() - values))
    return sums / np.maximum(counts, 1.0), total / max(float(counts.sum()), 1.0)


def _level(canonical: Canonical, share: float) -> float:
    """Weight mu whose smoothing is `share` of the typical cost."""
    scale = typical_cost(canonical)
    mean = 1.0 / canonical.n
    if scale > 0:
        return mean / (share * scale)
    return 1.0 / canonical.gamma if canonical.gamma > 0 else mean


def zero_start(canonical: Canonical) -> Start:
    """Return a start that knows nothing.

    Parameters
    ----------
    canonical : Canonical
        The problem.

    Returns
    -------
    Start
        Empty plan; potentials zero, or the mean costs of rows with fixed sums.
    """
    means, _ = _mean_costs(canonical)
    return Start(means, empty_plan(canonical.n), _level(canonical, _COLD))


def nested_start(
    canonical: Canonical,
    rng: np.random.Generator,
    solve: Callable[[Canonical, Start], tuple[Any, Any]],
    deadline: float,
) -> Start:
    """Solve random samples of growing size, and return potentials prolonged from the last.

    Parameters
    ----------
    canonical : Canonical
        The problem.
    rng : numpy.random.Generator
        Draws the samples.
    solve : callable
        ``solve(canonical, start)`` returns potentials of the sources and of the targets of a
        sample, roughly.
    deadline : float
        Value of ``time.perf_counter()`` after which the zero start is returned.

    Returns
    -------
    Start
        Potentials, empty plan.
    """
    m, n = canonical.m, canonical.n
    if max(m, n) <= _SMALL or time.perf_counter() >= deadline or _has_forbidden(canonical):
        return zero_start(canonical)
    rows, columns = (_sample(rng, size) for size in (m, n))
    small = _sampled(canonical, rows, columns)
    start = nested_start(small, rng, solve, deadline)
    if time.perf_counter() >= deadline:
        return zero_start(canonical)
    _, beta = solve(small, start)
    if time.perf_counter() >= deadline:
        return zero_start(canonical)
    alpha, smallest = np.empty(m), np.empty((m, min(_NEIGHBOURS, len(columns))))
    soft = _SOFT * _WARM * typical_cost(canonical)
    cross_transform(canonical.cost, columns, beta, soft, smallest, alpha)
    return Start(alpha, empty_plan(n), _level(canonical, _WARM))


def _has_forbidden(canonical: Canonical) -> bool:
    """Whether a sample might be left without allowed pairs."""
    if isinstance(canonical.cost, DenseCost):
        return not np.isfinite(canonical.cost.C).all()
    return isinstance(canonical.cost, SparseCost)


def _sample(rng: np.random.Generator, size: int) -> Any:
    if size <= _SMALL:
        return np.arange(size)
    return np.sort(rng.permutation(size)[: max(_SMALL // 2, int(size * _SHARE))])


def _sampled(canonical: Canonical, rows: Any, columns: Any) -> Canonical:
    """The problem of a sample, with the same mass a row and the same regularisation a column."""
    a, b = canonical.a[rows], canonical.b[columns]
    share = len(columns) / canonical.n
    a = a * (np.sum(canonical.a) / (np.sum(a) or 1.0))
    if canonical.row_kind == EXACT:
        a = a / np.sum(a)
    weight = canonical.row_weight
    if canonical.row_kind == L2:
        weight *= len(rows) / canonical.m
    return replace(
        canonical, a=a, b=b / np.sum(b), cost=restrict(canonical.cost, rows, columns),
        gamma=canonical.gamma * share, k=min(canonical.k, len(rows)), row_weight=weight,
        sources=rows, targets=columns,
    )  # fmt: skip


def has_emd(canonical: Canonical) -> bool:
    """Return whether :func:`emd_start` can be had: POT is installed, and the problem is balanced.

    Parameters
    ----------
    canonical : Canonical
        The problem.

    Returns
    -------
    bool
        Whether it can.
    """
    return (
        canonical.row_kind == EXACT
        and not isinstance(canonical.cost, PointCost)  # its matrix is not formed unasked
        and canonical.m * canonical.n <= _LARGEST_EMD
        and not _has_forbidden(canonical)
        and importlib.util.find_spec("ot") is not None
    )


def emd_start(canonical: Canonical) -> Start:
    """Return plan and potentials of plain transport, from the optional package POT.

    Parameters
    ----------
    canonical : Canonical
        The problem; its row sums must be equalities and its costs finite.

    Returns
    -------
    Start
        Optimal for the problem without the quadratic term.

    Raises
    ------
    ParameterError
        The problem is not balanced, or has forbidden pairs.
    MissingDependencyError
        POT is not installed.
    """
    if canonical.row_kind != EXACT or _has_forbidden(canonical):
        raise ParameterError(
            "SparsityConstrainedOT: start='emd' is for balanced problems without forbidden pairs; "
            "use start='nested' or 'zero'"
        )
    try:
        import ot
    except ImportError as error:
        raise MissingDependencyError("POT", "transport", "start='emd'") from error
    import scipy.sparse as sp

    C = cost_block(canonical.cost, 0, canonical.n).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns about is in the log
        T, log = ot.emd(
            canonical.a, canonical.b, np.ascontiguousarray(C), log=True, numItermax=10**7
        )
    if log["warning"]:  # no plan was found
        return zero_start(canonical)
    T = sp.csc_array(T)
    T.sort_indices()
    plan = (T.indptr.astype(np.int64), T.indices.astype(np.int64), T.data.astype(np.float64))
    alpha = np.asarray(log["u"], dtype=np.float64)
    mu = 1.0 / canonical.gamma if canonical.gamma > 0 else _level(canonical, _WARM)
    return Start(alpha - canonical.a @ alpha, plan, mu)
