"""SoftImpute: matrix completion with the nuclear norm, and its regularisation path."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import Interval, StrOptions
from lowrank_opt.core.protocols import HasObservations
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.recovery._nuclear import (
    Entries,
    Spectrum,
    dot,
    drop_null,
    line_minimum,
    newton_direction,
    orthonormal_form,
    spectral_norm,
    top_triplets,
)
from lowrank_opt.recovery.biscaling import BiScaling, biscale, debias
from lowrank_opt.recovery.lowrank import LowRankMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.core.result import Result
    from lowrank_opt.recovery.problems import MatrixCompletion

__all__ = ["BiScaling", "SoftImpute", "SoftImputeState", "biscale", "debias", "soft_impute_path"]

# Directions of the residual enter together when their values are within this factor of the
# largest: the rank then grows from below, as on a path of decreasing reg.
_GROWTH = 0.5
# They wait until the part of the residual that the factors can still remove is this much smaller.
_SETTLED = 0.5
_FIRST_STEPS, _CHECK_STEPS, _DEPTH, _MAX_DEPTH = 8, 24, 20, 100
# Iterations without progress after which a run counts as stalled; "als" converges linearly.
_PATIENCE = {"exact": 6, "als": 50}


@dataclass
class SoftImputeState(State):
    """State of `SoftImpute`: the iterate ``U diag(s) V^T``.

    Parameters
    ----------
    U : ndarray of shape (m, r)
        Orthonormal columns.
    s : ndarray of shape (r,)
        Positive values, descending, float64.
    V : ndarray of shape (n, r)
        Orthonormal columns.
    start : ndarray of shape (n,)
        Start of the next Krylov space.
    seed : int
        Seed of what is random in it.
    objective : float
        Objective at the iterate.
    dual_scale : float
        The dual point is the residual times this.
    gap_within : float
        Relative duality gap if no direction outside the factors were missing.
    excess : float
        Largest singular value of the residual outside the factors, divided by ``reg``.
    best_objective, best_gap : float
        Values at the last iteration that improved one of them by more than rounding (10 % for the
        gap).
    waiting : int
        Iterations since then.
    """

    U: Any = None
    s: Any = None
    V: Any = None
    start: Any = None
    seed: int = 0
    objective: float = np.inf
    dual_scale: float = 0.0
    gap_within: float = np.inf
    excess: float = np.inf
    best_objective: float = np.inf
    best_gap: float = np.inf
    waiting: int = 0


@dataclass
class _Work:
    """What follows from the problem and ``U, s, V, start, nit`` of a state."""

    entries: Entries
    RV: Any = None
    RU: Any = None
    core: Any = None
    spectrum: Any = None


class SoftImpute(Solver):
    r"""Matrix completion with the nuclear norm, to a certified duality gap.

    Solves

    .. math:: \min_X \tfrac12 \sum_{\Omega} w_{ij} (M_{ij} - \mu - X_{ij})^2
        + \mathrm{reg}\, \|X\|_*, \qquad \mathrm{rank}\, X \le \mathrm{rank},

    a `MatrixCompletion` with ``penalty="nuclear"``. While the bound on the rank is not active,
    which the result proves, the problem is convex and the answer its global minimum.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the relative duality gap is at most `tol`: with R the weighted residual on
        :math:`\Omega`, the dual point is ``Y = t R``, ``t`` as large as useful with
        ``|Y|_2 <= reg``, and the residual is ``(primal - dual) / primal``. The solver estimates
        ``|R|_2`` by a Lanczos iteration; the certificate of the problem bounds it by its own code.
    max_iter : int, default=1000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=1
        Iterations between two checks. The gap is computed in each iteration.
    method : {"auto", "exact", "als"}, default="auto"
        "exact": one iteration is a proximal gradient step in the span of the factors and of new
        singular vectors of R above `reg` (a soft-thresholded SVD of sparse + low rank, which
        chooses the rank) and a Newton step of the factored objective
        ``1/2 sum w e^2 + reg/2 (|A|^2 + |B|^2)``, by conjugate gradients, with an exact line
        search. "als": softImpute-ALS of [2]_ with `problem.rank` columns; its gap closes linearly.
        "auto": "exact", which was the faster one in all measurements.
    random_state : None, int or Generator, default=None
        Seed of the start of the Lanczos iteration, and of the factors of "als".
    n_threads : int or None, default=None
        Limit on threads. It does not change the answer's bits up to the BLAS library.

    Notes
    -----
    ``Result.x`` has ``U`` = left singular vectors times singular values, ``V`` orthonormal, and
    ``Result.duals`` are the values of Y on the observed entries, by rows.

    When the rank reaches `problem.rank` and a direction is still missing, the gap cannot close:
    the status is ``STALLED``, the message names the bound, and the point is stationary for the
    factors of this rank.

    Cost of an iteration with rank r: "exact" ``(30 + 16 c) N r`` flops with c products with the
    Hessian (3 to 10 in easy cases, some hundred when `reg` is below the noise) and ``O((m+n) r²)``;
    "als" ``8 N r + O((m+n) r²)``. Both: some dozen sparse products with a vector for ``|R|_2``.
    Memory: two copies of the residual, about ten factors, ``100 (m + n)`` numbers; nothing of size
    m × n. The objective never increases.

    References
    ----------
    .. [1] R. Mazumder, T. Hastie, R. Tibshirani, "Spectral regularization algorithms for learning
       large incomplete matrices", JMLR 11, 2010.
    .. [2] T. Hastie, R. Mazumder, J. Lee, R. Zadeh, "Matrix completion and low-rank SVD via fast
       alternating least squares", JMLR 16, 2015.
    .. [3] C.-J. Hsieh, P. Olsen, "Nuclear norm minimization via active subspace selection",
       ICML 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import MatrixCompletion, SoftImpute
    >>> X = np.outer([1.0, 2.0, 3.0], [1.0, 1.0, 2.0])
    >>> X[2, 2] = np.nan
    >>> problem = MatrixCompletion.from_dense(X, rank=3, reg=0.1, penalty="nuclear")
    >>> result = SoftImpute(random_state=0).solve(problem)
    >>> result.success, result.x.rank, round(float(result.x.predict(2, 2)), 1)
    (True, 2, 3.2)
    """

    requires = (HasObservations,)
    blas_threads = 1
    state_type = SoftImputeState
    citation = (
        "@article{mazumder2010spectral, title={Spectral regularization algorithms for learning "
        "large incomplete matrices}, author={Mazumder, Rahul and Hastie, Trevor and Tibshirani, "
        "Robert}, journal={Journal of Machine Learning Research}, volume={11}, pages={2287--2322},"
        " year={2010}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "method": [StrOptions({"auto", "exact", "als"})],
    }

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 1000,
        max_time: float | None = None,
        check_every: int | str = 1,
        method: str = "auto",
        random_state: Any = None,
        n_threads: int | None = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.method = method
        self.random_state = random_state
        self.n_threads = n_threads

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """The nuclear form."""
        return [] if getattr(problem, "penalty", None) == "nuclear" else ["penalty='nuclear'"]

    # -- the interface ---------------------------------------------------------------------------

    def init(self, problem: Any, x0: Any = None) -> SoftImputeState:
        """Start at zero, or at `x0`, and measure the gap there."""
        rng = _generator(self.random_state)
        m, n = problem.shape
        state = SoftImputeState(seed=int(rng.integers(1 << 62)))
        if x0 is None:
            state.U, state.V = np.zeros((m, 0), problem.dtype), np.zeros((n, 0), problem.dtype)
            state.s = np.zeros(0)
        else:
            x0 = problem.start(x0)
            state.U, state.s, state.V = orthonormal_form(x0.U, x0.V)
        state.start = np.zeros(n, problem.dtype)
        self._evaluate(problem, state)
        return state

    def step(self, problem: Any, state: SoftImputeState, n: int = 1) -> SoftImputeState:
        """Do `n` iterations."""
        if state.cache is None:
            self._evaluate(problem, state, count=False)
        for _ in range(n):
            work: _Work = state.cache
            if work.spectrum.right.shape[1]:
                state.start = work.spectrum.right[:, :5].sum(axis=1)
            if self.method == "als":
                self._als_iteration(problem, state)
            else:
                self._exact_iteration(problem, state)
            state.nit += 1
            self._evaluate(problem, state)
            if Solver.terminate(self, problem, state) is not None or self._stalled(problem, state):
                break
        return state

    def terminate(self, problem: Any, state: SoftImputeState) -> Status | None:
        """Converged by the gap; stalled at the bound on the rank, or at rounding."""
        status = super().terminate(problem, state)
        return Status.STALLED if status is None and self._stalled(problem, state) else status

    def point(self, problem: Any, state: SoftImputeState) -> LowRankMatrix:
        """The iterate: left singular vectors times values, right singular vectors."""
        U = state.U * state.s.astype(state.U.dtype)
        return LowRankMatrix(U, state.V.copy(), offset=problem.offset)

    def duals(self, problem: Any, state: SoftImputeState) -> NDArray[Any]:
        """The dual point on the observed entries, by rows."""
        if state.cache is None:
            entries = Entries(problem)
            root = np.sqrt(state.s).astype(entries.dtype)
            entries.residual(state.U * root, state.V * root)
        else:
            entries = state.cache.entries
        return entries.res[0] * entries.dtype.type(state.dual_scale)

    def path(self, problem: MatrixCompletion, regs: Sequence[float]) -> list[Result]:
        """Solve for each value of `regs` in the given order, each from the answer before.

        Parameters
        ----------
        problem : MatrixCompletion
            Its `reg` is replaced.
        regs : sequence of float
            Positive values; descending is the fast order.

        Returns
        -------
        list of Result
            One for each value.
        """
        results: list[Result] = []
        for reg in regs:
            x0 = results[-1].x if results else None
            results.append(self.solve(dataclasses.replace(problem, reg=float(reg)), x0=x0))
        return results

    # -- the gap ---------------------------------------------------------------------------------

    def _evaluate(self, problem: Any, state: SoftImputeState, *, count: bool = True) -> None:
        """Residual, its spectrum and the duality gap; a function of `_Work`'s list of fields."""
        if state.cache is None:
            state.cache = _Work(Entries(problem))
        work: _Work = state.cache
        reg, entries, U, V = problem.reg, work.entries, state.U, state.V
        root = np.sqrt(state.s).astype(entries.dtype)
        loss, RB, RA = entries.residual(U * root, V * root)
        work.RV, work.RU = RB / root, RA / root
        work.core = (U.T @ work.RV).astype(np.float64)
        state.objective = loss + reg * float(state.s.sum())
        product, square = entries.products_with_data(), 2.0 * loss
        inside = np.array(
            [
                [spectral_norm(work.core), spectral_norm(work.RU - V @ (V.T @ work.RU))],
                [spectral_norm(work.RV - U @ (U.T @ work.RV)), 0.0],
            ]
        )

        def gap(outside: float) -> float:
            """Relative gap if the largest value outside the factors is `outside`."""
            norm = float(np.linalg.norm(inside + np.diag([0.0, outside]), 2))
            t = max(product / square, 0.0) if square else 0.0
            state.dual_scale = min(t, reg / norm) if norm else t
            dual = state.dual_scale * (product - 0.5 * state.dual_scale * square)
            return max(state.objective - dual, 0.0) / state.objective if state.objective else 0.0

        for least in (_FIRST_STEPS, _CHECK_STEPS):
            # A short iteration steers; one from a fresh start must confirm a gap that would stop.
            noise = np.random.default_rng([state.seed, state.nit, least])
            start = noise.standard_normal(V.shape[0]) / np.sqrt(V.shape[0])
            if least == _FIRST_STEPS:
                start = state.start + 0.1 * start
            depth = int(np.clip(state.s.size, _DEPTH, _MAX_DEPTH))
            spectrum = top_triplets(
                entries, U, V, start.astype(entries.dtype), reg, least, depth, _MAX_DEPTH
            )
            undecided = spectrum.top <= reg < spectrum.top + spectrum.error
            outside = reg if undecided else spectrum.top
            if work.spectrum is None or least == _FIRST_STEPS or outside > work.spectrum.top:
                work.spectrum = spectrum
            state.excess = max(outside, work.spectrum.top) / reg
            state.residual = gap(state.excess * reg)
            if count:
                state.count(lanczos_steps=spectrum.values.size)
            if state.residual > self.tol:
                break
        residual, scale = state.residual, state.dual_scale
        state.gap_within = gap(min(state.excess, 1.0) * reg)
        state.residual, state.dual_scale = residual, scale
        if not count:
            return
        state.count(passes=2)
        eps = float(np.finfo(entries.dtype).eps)
        improved = state.objective < state.best_objective * (1.0 - 8.0 * eps) or (
            state.residual < 0.9 * state.best_gap
        )
        state.waiting += 1
        if improved:
            state.best_objective, state.best_gap = state.objective, state.residual
            state.waiting = 0

    def _stalled(self, problem: Any, state: SoftImputeState) -> bool:
        state.message = ""
        capped = state.s.size == problem.rank and problem.rank < min(problem.shape)
        if capped and state.excess > 1.0 and state.gap_within <= self.tol < state.residual:
            state.message = (
                f"The bound rank={problem.rank} is active: a direction outside the factors has "
                f"singular value {state.excess:.4g} times reg, so this is no minimum of the convex "
                f"problem, only a stationary point of the factors of this rank. Raise rank "
                f"(or reg)"
            )
            return True
        patience = _PATIENCE["als" if self.method == "als" else "exact"]
        if state.waiting >= patience:
            state.message = (
                f"Neither objective nor gap improved in {patience} iterations: this is the "
                f"accuracy of {problem.dtype} arithmetic for these data"
                + (f", or the bound rank={problem.rank}" if capped else "")
            )
            return True
        return False

    # -- method "exact" --------------------------------------------------------------------------

    def _exact_iteration(self, problem: Any, state: SoftImputeState) -> None:
        work: _Work = state.cache
        entries, reg = work.entries, problem.reg
        before, gap = state.objective, state.residual
        U, s, V = state.U, state.s, state.V
        spectrum: Spectrum = work.spectrum
        level = max(reg, _GROWTH * spectrum.top)
        outside = spectral_norm(work.RV - U @ work.core.astype(U.dtype))
        settled = outside <= _SETTLED * spectrum.top
        new = spectrum.values > level if settled or not s.size else spectrum.values > np.inf
        for extend in [new, new & False] if new.any() else [new]:
            state.U, state.s, state.V = self._threshold(problem, state, U, s, V, extend)
            root = np.sqrt(state.s).astype(entries.dtype)
            A, B = state.U * root, state.V * root
            loss, RB, RA = entries.residual(A, B)
            state.count(passes=2, svd=1)
            objective = loss + reg * float(state.s.sum())
            # It increases only when the bound on the rank cuts the new directions off.
            if objective <= before:
                break
        if state.s.size == 0:
            return
        # The Newton step is where memory peaks, and needs none of what led to the new factors.
        work.spectrum = work.RV = work.RU = None
        del spectrum, U, V
        typed = entries.dtype.type(reg)
        gradient = (typed * A - RB, typed * B - RA)
        # Inexact Newton: the better the gap, the more exactly the equation is solved.
        scaled = sum(float(np.square(g, dtype=np.float64).sum()) for g in gradient) / reg
        forcing = float(np.clip((scaled / objective) ** 0.125, 0.01, 0.3)) if objective else 0.3
        direction, steps = newton_direction(
            entries, (A, B), gradient, state.s, reg, forcing, 40 if gap > 1e-2 else 300
        )
        sums = entries.line((A, B), direction)
        line = line_minimum(sums, reg, dot((A, B), direction), dot(direction, direction))
        state.count(hessian_products=steps, passes=1 + 2 * steps)
        t = entries.dtype.type(line.step)
        A += t * direction[0]
        B += t * direction[1]
        state.U, state.s, state.V = orthonormal_form(A, B)

    def _threshold(
        self, problem: Any, state: SoftImputeState, U: Any, s: Any, V: Any, new: NDArray[np.bool_]
    ) -> tuple[Any, Any, Any]:
        """Proximal gradient step restricted to the spans of ``[U, P]`` and ``[V, Q]``."""
        work: _Work = state.cache
        step = 1.0 / work.entries.lipschitz
        P, Q = work.spectrum.left[:, new], work.spectrum.right[:, new]
        r, total = s.size, s.size + P.shape[1]
        C = np.zeros((total, total))
        C[:r, :r] = np.diag(s) + step * work.core
        C[:r, r:] = step * (work.RU.T @ Q)
        C[r:, :r] = step * (P.T @ work.RV)
        C[r:, r:] = step * np.diag(work.spectrum.values[new])
        x, values, yt = np.linalg.svd(C)
        values = values - step * problem.reg
        keep = np.flatnonzero(values > 0)[: problem.rank]
        left, right = x[:, keep].astype(U.dtype), yt[keep].T.astype(U.dtype)
        return (
            np.ascontiguousarray(np.hstack([U, P]) @ left),
            values[keep],
            np.ascontiguousarray(np.hstack([V, Q]) @ right),
        )

    # -- method "als" ----------------------------------------------------------------------------

    def _als_iteration(self, problem: Any, state: SoftImputeState) -> None:
        """Both half steps of softImpute-ALS; refill after each."""
        work: _Work = state.cache
        entries, reg, dtype = work.entries, problem.reg, work.entries.dtype
        m = problem.shape[0]
        missing = problem.rank - state.s.size
        if state.nit == 0 and missing:
            # Deviation: [2] starts from a random U and D = I; with D² = reg the start scales with
            # the data. The new columns have V = 0, so the matrix does not change.
            rng = np.random.default_rng([state.seed, 0])
            extra = rng.standard_normal((m, missing)).astype(dtype)
            U = np.linalg.qr(np.hstack([state.U, extra]))[0]
            U[:, : state.s.size] = state.U
            D = np.concatenate([state.s, np.full(missing, reg)])
            DV = np.zeros((problem.shape[1], problem.rank), dtype)
            DV[:, : state.s.size] = state.V * state.s.astype(dtype)
        else:
            U, D, DV = state.U, state.s, state.V * state.s.astype(dtype)
        step = dtype.type(1.0 / entries.lipschitz)
        shrink = reg / entries.lipschitz
        # V half step: W^T = (R^T U + V D²) diag(D² / (D² + reg)).
        W = (step * entries.product(1, U) + DV) * (D / (D + shrink)).astype(dtype)
        V, D, qt = np.linalg.svd(W, full_matrices=False)
        U, V, D = drop_null(U @ qt.T, V, D)
        root = np.sqrt(D).astype(dtype)
        entries.residual(U * root, V * root)
        # U half step, symmetric.
        W = (step * entries.product(0, V) + U * D.astype(dtype)) * (D / (D + shrink)).astype(dtype)
        U, D, qt = np.linalg.svd(W, full_matrices=False)
        state.U, state.V, state.s = drop_null(U, V @ qt.T, D)
        state.count(passes=4, svd=2)


def soft_impute_path(
    problem: MatrixCompletion,
    regs: Sequence[float] | None = None,
    *,
    n_regs: int = 20,
    smallest: float = 0.01,
    **params: Any,
) -> list[Result]:
    """Solve nuclear-norm completion for decreasing penalties, each from the one before.

    Parameters
    ----------
    problem : MatrixCompletion
        With ``penalty="nuclear"``; its `reg` is replaced.
    regs : sequence of float or None, default=None
        The penalties, positive; solved in descending order. ``None``: `n_regs` values in
        geometric progression from the smallest penalty with solution 0, which is the spectral
        norm of the observed matrix, down to `smallest` times it.
    n_regs : int, default=20
        Number of values when `regs` is ``None``; at least 1.
    smallest : float, default=0.01
        Last value relative to the first, in (0, 1].
    **params
        Constructor parameters of `SoftImpute`.

    Returns
    -------
    list of Result
        In descending order of the penalty; ``result.x`` has the singular values and the rank.

    Raises
    ------
    ParameterError
        A value out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import MatrixCompletion, soft_impute_path
    >>> X = np.outer([1.0, 2.0, 3.0], [1.0, 1.0, 2.0])
    >>> problem = MatrixCompletion.from_dense(X, rank=3, reg=1.0, penalty="nuclear")
    >>> [r.x.rank for r in soft_impute_path(problem, n_regs=3, random_state=0)]
    [0, 1, 1]
    """
    solver = SoftImpute(**params)
    solver.check(problem)
    if regs is None:
        if not (isinstance(n_regs, Integral) and Interval(Integral, 1).admits(n_regs)):
            raise ParameterError(f"n_regs={n_regs!r}; expected an integer of at least 1")
        if not 0 < smallest <= 1:
            raise ParameterError(f"smallest={smallest!r}; expected a number in (0, 1]")
        regs = _largest_reg(problem) * np.geomspace(1.0, smallest, int(n_regs))
    grid = np.sort(np.asarray(regs, dtype=float).ravel())[::-1]
    if grid.size == 0 or not (np.isfinite(grid) & (grid > 0)).all():
        raise ParameterError("regs has no value, or one that is not positive and finite")
    return solver.path(problem, [float(g) for g in grid])


def _largest_reg(problem: MatrixCompletion) -> float:
    """Spectral norm of the (weighted, centred) observed matrix, rounded up."""
    import scipy.sparse as sp

    from lowrank_opt.recovery.certificates import spectral_norm_bounds

    obs = problem.observations
    data = obs.values.astype(np.float64) - problem.offset
    if obs.weights is not None:
        data *= obs.weights
    return spectral_norm_bounds(
        sp.csr_array((data, obs.indices, obs.indptr), shape=obs.shape)
    ).upper


def _generator(random_state: Any) -> np.random.Generator:
    from lowrank_opt.core.params import make_rng

    return make_rng(random_state)
