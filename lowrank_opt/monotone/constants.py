"""Constants of operators that are sums, measured or computed, and the choice of a method."""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.monotone import kernels_games, reference_games
from lowrank_opt.monotone.operator_terms import terms_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = [
    "MethodChoice",
    "alternatives",
    "choose_method",
    "compare_constants",
    "mean_cocoercivity",
    "mean_lipschitz",
    "runner",
]

logger = logging.getLogger("lowrank_opt")

# Variance reduction is chosen when sqrt(n) L_F > C L. Calibrated on the suite of `regimes`: of its
# monotone inclusions those with a ratio of 2.4 lose by it (factors 0.5 and 0.8), those of 7 and
# more gain (1.5 to 21); games with 8 gain or lose, and some with 14 lose. Against extrapolation,
# for cocoercive operators, ratios below 40 lose, 63 loses or gains (factors 0.2 to 1.3), and 118
# and 141 gain 1.1 to 2.3, but lose (0.2 to 0.5) where extrapolation spans all ten variables.
THRESHOLD, THRESHOLD_GAMES, THRESHOLD_COCOERCIVE = 5.0, 16.0, 100.0
# Smallest eigenvalue of the symmetric part over the norm, from which on extragradient steps need
# fewer calls than anchored ones; with a prox the mean of the eigenvalues decides.
_STRONG = 0.02

_SEED = 0
_MARGIN = 1.5  # of what was only sampled
_DENSE = 1500
_SUBSET = 64
_PAIRS = 6
_LARGEST_EXACT = 5000


def runner(name: str, terms: Any) -> Callable[..., tuple[int, bool]]:
    """Return the steps of a method for terms: a kernel, or the same in Python.

    Parameters
    ----------
    name : str
        Function of ``kernels_games`` and ``reference_games``.
    terms : ColumnTerms or SampledTerms
        What is sampled.
    """
    if terms.columns is not None:
        kernel = getattr(kernels_games, name)
        return functools.partial(kernel, terms.columns, terms.draws, terms.sets)
    return functools.partial(getattr(reference_games, name), terms)


def mean_lipschitz(problem: Any, terms: Any, batch: int = 1) -> tuple[float, int]:
    """Return L with ``E ‖F_S(u) - F_S(v)‖² <= L² ‖u - v‖²`` for the estimate from a batch S.

    Parameters
    ----------
    problem : Problem
        A game or an inclusion.
    terms : ColumnTerms or SampledTerms
        What is sampled.
    batch : int, default=1
        Terms in an estimate: ``L² = L_1² / b + (1 - 1/b) L_F²``.

    Returns
    -------
    L : float
        Exact for terms by columns; for others the problem's, or measured with a margin.
    calls : int
        Evaluations of terms that measuring took.
    """
    calls = 0
    if terms.columns is not None:
        weight = terms.draws.weight
        L = math.sqrt(float(np.max(weight * terms.squared_norms(), initial=0.0)))
    elif getattr(problem, "mean_lipschitz", None) is not None and terms.probabilities is None:
        L = float(problem.mean_lipschitz)
    else:
        ratios, calls = _sampled(problem, terms)
        L = _MARGIN * math.sqrt(max((s / d for s, d, _ in ratios), default=0.0))
    L = math.sqrt(L * L / batch + (1.0 - 1.0 / batch) * float(problem.lipschitz) ** 2)
    return (L if L > 0 else 1.0), calls


def mean_cocoercivity(problem: Any, terms: Any) -> tuple[float, int]:
    """Return L with ``E ‖F_i(u) - F_i(v)‖² <= L <F(u) - F(v), u - v>``.

    Parameters
    ----------
    problem : Problem
        A cocoercive inclusion.
    terms : ColumnTerms or SampledTerms
        What is sampled.

    Returns
    -------
    L : float
        Exact up to 1500 variables for terms by columns: the largest generalised eigenvalue of the
        second moment against the symmetric part; otherwise measured with a margin.
    calls : int
        Evaluations of terms that measuring took.

    Raises
    ------
    ProblemError
        There is no such constant.
    """
    calls = 0
    if terms.columns is not None:
        L = _column_cocoercivity(problem, terms)
    else:
        ratios, calls = _sampled(problem, terms, ascend=True)
        worst = max(ratios, key=lambda r: r[0] / r[2] if r[2] > 0 else math.inf, default=None)
        if worst is None:
            return 1.0, calls
        L = _MARGIN * worst[0] / worst[2] if worst[2] > 0 else math.inf
    if not math.isfinite(L):
        raise ProblemError(
            f"{problem!r} has no constant L with E |F_i(u) - F_i(v)|^2 <= L <F(u) - F(v), u - v>: "
            "variance-reduced Halpern iteration has no guarantee for it; use InexactHalpern or "
            "VarianceReducedExtraGradient, or give eta as a number"
        )
    return (L if L > 0 else 1.0), calls


@dataclass(frozen=True)
class MethodChoice:
    """Constants of an operator that is a sum, and what follows from them.

    Parameters
    ----------
    n_terms : int
        Number of terms n.
    lipschitz, mean_lipschitz : float
        Constants of the operator and of the mean of its terms.
    ratio : float
        ``sqrt(n) lipschitz / mean_lipschitz``: the gain that theory promises, up to a constant.
    threshold : float
        From which ratio on variance reduction is chosen.
    calls : int
        Evaluations of terms that measuring took.
    """

    n_terms: int
    lipschitz: float
    mean_lipschitz: float
    ratio: float
    threshold: float
    calls: int

    @property
    def variance_reduced(self) -> bool:
        """Whether variance reduction is expected to pay."""
        return self.ratio > self.threshold


def compare_constants(problem: Any, terms: Any = None) -> MethodChoice:
    """Measure the constants on which the choice of a method depends.

    Parameters
    ----------
    problem : Problem
        A game or an inclusion.
    terms : ColumnTerms, SampledTerms or None, default=None
        What is sampled; ``None``: by importance where that needs no measurement.
    """
    n = int(getattr(problem, "n_terms", 1))
    L_F = float(problem.lipschitz)
    threshold = THRESHOLD
    if hasattr(problem, "spread"):
        threshold = THRESHOLD_GAMES
    elif problem.cocoercive:
        threshold = THRESHOLD_COCOERCIVE
    if math.sqrt(n) <= threshold:  # L >= L_F: no measurement can tell otherwise
        return MethodChoice(n, L_F, L_F, math.sqrt(n), threshold, 0)
    if terms is None:
        terms = terms_of(problem, "auto")
    L, calls = mean_lipschitz(problem, terms)
    return MethodChoice(n, L_F, L, math.sqrt(n) * L_F / L, threshold, calls)


def alternatives(
    problem: Any,
) -> tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]:
    """Return the deterministic and the variance-reduced method for a problem, with parameters.

    Parameters
    ----------
    problem : Problem
        A game or an inclusion.

    Notes
    -----
    For cocoercive operators extrapolation, safeguarded by averaged steps, needs 2 to 10 times fewer
    calls than Halpern iteration on the calibration suite and on another one. Of the
    variance-reduced methods the extragradient one needs the fewest calls, also for cocoercive
    operators: half of those of variance-reduced Halpern iteration on the calibration suite.
    """
    plain: tuple[str, dict[str, Any]] = ("FastExtraGradient", {"restart": "adaptive"})
    if problem.cocoercive:
        plain = ("Anderson", {"fallback": "average"})
    elif _strongly_monotone(problem):
        plain = ("ExtraGradient", {})
    return plain, ("VarianceReducedExtraGradient", {})


def choose_method(problem: Any, *, exact: bool = True) -> tuple[str, dict[str, Any]]:
    """Return name and parameters of a solver for an inclusion or a game; the choice is logged.

    Parameters
    ----------
    problem : Problem
        A game or an inclusion.
    exact : bool, default=True
        Solve affine problems without a prox by exact resolvents.

    Returns
    -------
    name : str
        Name of a solver.
    params : dict
        Its parameters.

    Notes
    -----
    Exact resolvents for affine operators without prox of up to 5000 variables; otherwise, with
    L_F and L the constants of the operator and of the mean of its n terms, variance reduction
    where ``sqrt(n) L_F > C L``: extragradient steps with a snapshot; else safeguarded extrapolation
    for cocoercive operators, extragradient steps for affine ones that are strongly monotone (with a
    prox: on average over directions), and the fast extragradient method for others, with restarts.
    C is 100 for cocoercive operators and 5 for others. Games: as the game says (``auto_solver``)
    where that is neither, else C is 16.
    """
    if hasattr(problem, "spread"):
        name, params = problem.auto_solver()
        if name == "GameInteriorPoint":
            logger.info("%r: %s", problem, name)
            return name, params
    affine = getattr(problem, "affine", None) is not None and problem.prox is None
    if exact and affine and problem.size <= _LARGEST_EXACT:
        logger.info("%r: InexactHalpern with the exact resolvent of an affine operator", problem)
        return "InexactHalpern", {"inner": "exact", "reflect": True}
    choice = compare_constants(problem)
    name, params = alternatives(problem)[choice.variance_reduced]
    logger.info(
        "%r: %s, for sqrt(n) L_F / L = %.3g and the threshold is %g (n = %d, L_F = %.3g, L = %.3g)",
        problem, name, choice.ratio, choice.threshold, choice.n_terms, choice.lipschitz,
        choice.mean_lipschitz,
    )  # fmt: skip
    return name, params


def _strongly_monotone(problem: Any) -> bool:
    affine = getattr(problem, "affine", None)
    if affine is None:
        return False
    M = affine[0]
    if problem.prox is not None:
        return float(M.diagonal().mean()) >= _STRONG * float(problem.lipschitz)
    if M.shape[0] > _DENSE:
        return False
    dense = np.asarray(M.toarray() if sp.issparse(M) else M, np.float64)
    least = float(la.eigvalsh(0.5 * (dense + dense.T), subset_by_index=[0, 0])[0])
    return least >= _STRONG * float(problem.lipschitz)


def _column_cocoercivity(problem: Any, terms: Any) -> float:
    second = terms.draws.weight * terms.squared_norms()
    if getattr(problem, "affine", None) is None:
        return math.inf  # a game: the symmetric part is zero
    M = problem.affine[0]
    if M.shape[0] <= _DENSE:
        dense = np.asarray(M.toarray() if sp.issparse(M) else M, np.float64)
        values, vectors = la.eigh(0.5 * (dense + dense.T))
        positive = values > 1e-12 * max(abs(values[-1]), abs(values[0]))
        flat = vectors[:, ~positive]
        if flat.size and np.max(np.sqrt(second)[:, None] * np.abs(flat)) > 1e-6 * math.sqrt(
            float(np.max(second, initial=0.0))
        ):
            return math.inf
        if not positive.any():
            return 0.0
        half = np.sqrt(second)[:, None] * vectors[:, positive] / np.sqrt(values[positive])
        return float(la.norm(half, 2)) ** 2
    return math.inf


def _sampled(
    problem: Any, terms: Any, ascend: bool = False
) -> tuple[list[tuple[float, float, float]], int]:
    """Return second moments, squared distances and inner products for pairs of points.

    Along random directions, and, to ascend, along the directions in which the operator changes
    most.
    """
    rng = np.random.default_rng(_SEED)
    z, n = np.asarray(problem.start(), np.float64), int(problem.n_terms)
    scale = max(1.0, float(np.linalg.norm(z)))
    subset = np.arange(n) if n <= _SUBSET else rng.choice(n, _SUBSET, replace=False)
    chances = terms.probabilities
    q = np.full(n, 1.0 / n) if chances is None else np.asarray(chances)
    found, calls = [], 0

    def look(u: Values, v: Values) -> Values:
        nonlocal calls
        d = u - v
        length = float(d @ d)
        change = np.zeros_like(d)
        if ascend:
            change = terms.operator(u) - terms.operator(v)
            calls += 2 * n
        calls += 2 * len(subset)
        if not length > 0:
            return change
        moment = 0.0
        for i in subset:
            part = np.asarray(problem.sample_difference(u, v, np.array([i])), np.float64) / n
            moment += float(part @ part) / q[i]
        found.append((moment * n / len(subset), length, float(change @ d)))
        return change

    for k in range(_PAIRS):
        a, b = (z + scale * rng.standard_normal(z.size) / math.sqrt(z.size) for _ in range(2))
        if k % 2:
            a, b = terms.resolvent(a, 1.0), terms.resolvent(b, 1.0)
        look(a, b)
    if ascend:
        d = rng.standard_normal(z.size)
        for _ in range(_PAIRS):
            size = float(np.linalg.norm(d))
            if not size > 0 or not math.isfinite(size):
                break
            d = look(z + scale * d / size, z)
    return found, calls
