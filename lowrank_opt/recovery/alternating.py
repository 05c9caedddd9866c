"""Alternating minimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from lowrank_opt.core.params import Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasCertificate, HasObjective, HasObservations
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.recovery import kernels
from lowrank_opt.recovery.lowrank import LowRankMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.recovery.problems import MatrixCompletion

__all__ = ["AlternatingMinimization"]

# Above these ranks a sweep of conjugate-gradient steps is faster than exact solves.
_EXACT_RANK = {4: 64, 8: 48}
# Checks without progress, by a thousandth of the residual or by this part of the objective, after
# which the run counts as stalled. Objective alone would not do near an exact fit, where it is all
# rounding; the residual alone would not do on plateaus, where it rises for a while.
_PATIENCE = 20
_PROGRESS = {4: 1e-6, 8: 1e-10}
_NEARLY = 1.0 - 1e-4
_BLOCK = 4096


class _Side(NamedTuple):
    """The observations seen from the factor that is being solved for."""

    indptr: NDArray[np.int64]
    indices: NDArray[Any]
    values: NDArray[Any]  # without the offset
    weights: NDArray[Any] | None
    ridge: NDArray[Any]
    ridge_bias: NDArray[Any]
    mass: NDArray[np.float64]  # weight sums of the rows
    other_mass: NDArray[np.float64]  # and of the rows of the fixed factor


class _Implicit(NamedTuple):
    """The co-factorised indicator matrix, as it enters the rows' normal equations."""

    gram: NDArray[Any]
    rhs: NDArray[Any]
    value: float


class _Cache(NamedTuple):
    rows: _Side
    cols: _Side
    errors: NDArray[Any]  # residuals of the observed entries; robust losses only
    U: NDArray[Any]  # factors at the last check, to fall back on
    V: NDArray[Any]


@dataclass
class AlternatingState(State):
    """Padded factors, and what stall detection needs."""

    U: Any = None
    V: Any = None
    lowest_residual: float = math.inf
    lowest_objective: float = math.inf
    idle_checks: int = 0


class AlternatingMinimization(Solver):
    r"""Alternating minimisation for matrix completion.

    Fixes one factor and solves for the other one: every row (column) is a small ridge regression
    of its own on the observed entries,

    .. math:: u_i \leftarrow \arg\min_u \sum_{j \in \Omega_i} w_{ij} (M_{ij} - u \cdot v_j)^2
              + \mathrm{reg}\, s_i \|u\|^2 .

    Huber and l1 losses are solved by iteratively reweighted least squares: before each half sweep
    the loss is replaced by the quadratic that touches it from above at the present residuals.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the scaled first-order residual of
        :meth:`~lowrank_opt.recovery.MatrixCompletion.certificate` is at most `tol`. Its square is
        about the relative decrease of the objective that another sweep would bring.
    max_iter : int, default=100
        Limit on sweeps; a sweep solves for all columns, then for all rows.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int, default=1
        Sweeps between two checks. A check costs one pass over the data.
    inner : {"auto", "cholesky", "cg", "dual", "sketch"}, default="auto"
        How a row is solved. "cholesky": exactly; rows with few entries through their dual
        (``n_i × n_i``) system. "dual": exactly, every row with fewer entries than unknowns
        through the dual. "cg": `cg_steps` conjugate-gradient steps from the last value, in a
        basis that makes one diagonal preconditioner fit all rows. "sketch": preconditioned by a
        sparse sketch of the row's own regression matrix, the method of [1]_. "auto": "cholesky"
        up to rank 64 in float32 and 48 in float64, "cg" above. A problem with `nonnegative` is
        always solved by coordinate descent on each row's normal equations, one with
        `implicit_weight` by "cholesky", whatever is asked for here.
    cg_steps : int, default=3
        Steps per row and half sweep of "cg".
    sketch_size : float, default=4.0
        Rows of the sketch per unknown, above 1; "sketch" only.
    inner_tol : float, default=1e-10
        Relative residual to which "sketch" solves a row.
    finalize : bool, default=True
        After "cg" or "sketch", solve the rows of the returned point once exactly, so that folding
        in a training row gives its training factor.
    start : {"spectral", "random"}, default="spectral"
        "spectral": left singular vectors of the zero-filled data by two passes of subspace
        iteration; for robust losses, of the data clipped at twice their deviation.
        "random": normal numbers of standard deviation 0.1.
    clip : float or None, default=5.0
        Rows of the spectral start longer than `clip` times their root mean square are shortened
        to that length (the theory's clipping step, with rotation-invariant row norms).
    n_threads : int or None, default=None
        Threads; the result has the same bits for every number.
    random_state : int, Generator or None, default=None
        Seed of the start (and of the sketches).

    Notes
    -----
    Cost per sweep: ``2·N·k²`` flops ("cholesky"), ``8·(cg_steps + 1)·N·k`` ("cg").

    The objective never increases, for each of the inner solvers. For exact low rank, incoherent
    factors and enough uniformly sampled entries [1]_ and [2]_ prove geometric convergence to the
    true matrix from the spectral start, also when the regressions are solved inexactly. In
    general the answer is a stationary point, not a certified global minimum.

    With ``reg=0`` the fixed factor is orthogonalised before each half sweep.

    References
    ----------
    .. [1] Gu, Song, Yin, Zhang, "Low Rank Matrix Completion via Robust Alternating Minimization in
       Nearly Linear Time", ICLR 2024. :arxiv:`2302.11068`.
    .. [2] Jain, Netrapalli, Sanghavi, "Low-rank Matrix Completion using Alternating Minimization",
       STOC 2013. :arxiv:`1212.0467`.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import AlternatingMinimization, MatrixCompletion
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 50))
    >>> mask = rng.random(X.shape) < 0.5
    >>> problem = MatrixCompletion.from_dense(np.where(mask, X, np.nan), rank=2)
    >>> result = AlternatingMinimization(tol=1e-9, random_state=0).solve(problem)
    >>> result.success
    True
    >>> bool(np.abs(result.x.to_dense() - X).max() < 1e-6)
    True
    """

    requires: ClassVar[tuple[type, ...]] = (HasObservations, HasObjective, HasCertificate)
    blas_threads = 1
    citation = (
        "@inproceedings{gu2024lowrank,\n"
        "  title={Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear"
        " Time},\n"
        "  author={Gu, Yuzhou and Song, Zhao and Yin, Junze and Zhang, Lichen},\n"
        "  booktitle={International Conference on Learning Representations},\n"
        "  year={2024}\n}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "inner": [StrOptions({"auto", "cholesky", "cg", "dual", "sketch"})],
        "cg_steps": [Interval(Integral, 1, None)],
        "sketch_size": [Interval(Real, 1, None, closed="neither")],
        "inner_tol": [Interval(Real, 0, 1, closed="neither")],
        "finalize": ["boolean"],
        "start": [StrOptions({"spectral", "random"})],
        "clip": [None, Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 100,
        max_time: float | None = None,
        check_every: int = 1,
        inner: str = "auto",
        cg_steps: int = 3,
        sketch_size: float = 4.0,
        inner_tol: float = 1e-10,
        finalize: bool = True,
        start: str = "spectral",
        clip: float | None = 5.0,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.inner = inner
        self.cg_steps = cg_steps
        self.sketch_size = sketch_size
        self.inner_tol = inner_tol
        self.finalize = finalize
        self.start = start
        self.clip = clip
        self.n_threads = n_threads
        self.random_state = random_state

    # -- the three parts of the contract ---------------------------------------------------------

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Every loss and constraint, with the ridge penalty."""
        return [] if getattr(problem, "penalty", None) == "ridge" else ["penalty='ridge'"]

    def init(self, problem: MatrixCompletion, x0: Any = None) -> AlternatingState:
        """Return the first state; with `x0` its residual is known, otherwise it is infinite."""
        state = AlternatingState(rng=make_rng(self.random_state))
        (m, n), k, bias = problem.shape, problem.rank, problem.biases
        if x0 is not None:
            x0 = problem.start(x0)
            state.U = self._padded(problem, x0.U, x0.row_bias, state.rng)
            state.V = self._padded(problem, x0.V, x0.col_bias, state.rng)
            cache = self._prepare(problem, state)
            self._measure(problem, state, cache)
            return state
        zeros = np.zeros(m, problem.dtype) if bias else None
        state.U = kernels.pad_factor(np.zeros((m, k), problem.dtype), zeros)
        zeros = np.zeros(n, problem.dtype) if bias else None
        state.V = kernels.pad_factor(np.zeros((n, k), problem.dtype), zeros)
        cache = self._prepare(problem, state)
        if self.start == "random":
            state.U[:, :k] = 0.1 * state.rng.standard_normal((m, k))
        else:
            state.U[:, :k] = self._spectral(problem, cache, state)
        if problem.nonnegative:
            np.abs(state.U[:, :k], out=state.U[:, :k])
        return state

    def step(self, problem: MatrixCompletion, state: State, n: int = 1) -> State:
        """Do `n` sweeps: all columns, then all rows."""
        assert isinstance(state, AlternatingState)
        cache = self._prepare(problem, state)
        method = self._method(problem)
        for _ in range(n):
            if problem.reg > 0 and not problem.nonnegative and not problem.implicit_weight:
                _balance(state.U, state.V, problem.rank, cache)
            self._half_sweep(problem, state, cache, "cols", method)
            self._half_sweep(problem, state, cache, "rows", method)
            state.nit += 1
        state.count(sweeps=n, passes=2 * n)
        self._measure(problem, state, cache, method)
        return state

    def terminate(self, problem: MatrixCompletion, state: State) -> Status | None:
        """Return the status to stop with, or ``None``."""
        assert isinstance(state, AlternatingState)
        status = super().terminate(problem, state)
        if status is None and state.idle_checks >= _PATIENCE:
            state.message = (
                f"No progress in {_PATIENCE} checks: the precision of {problem.dtype} or the loss "
                "limits the accuracy"
            )
            return Status.STALLED
        return status

    def point(self, problem: MatrixCompletion, state: State) -> LowRankMatrix:
        """Return the factors, without padding."""
        assert isinstance(state, AlternatingState)
        return _point(problem, state.U, state.V)

    def answer(
        self, problem: MatrixCompletion, state: State, status: Status
    ) -> tuple[LowRankMatrix, float]:
        """Return the point; after inexact solves, with its rows solved exactly."""
        assert isinstance(state, AlternatingState)
        if status is Status.NUMERICAL_ERROR:  # in the middle of a step: back to the last check
            cache = self._prepare(problem, state)
            return _point(problem, cache.U, cache.V), state.residual
        inexact = self._method(problem) in ("cg", "sketch")
        usable = status is not Status.DIVERGED and state.nit > 0
        if not (self.finalize and inexact and usable):
            return super().answer(problem, state, status)
        cache, state.cache = self._prepare(problem, state), None
        # The copies of the last check become the answer.
        final = AlternatingState(U=cache.U, V=cache.V, residual=state.residual)
        self._half_sweep(problem, final, cache, "rows", "cholesky")
        self._measure(problem, final, cache)
        if not final.residual <= max(state.residual, self.tol):
            return super().answer(problem, state, status)
        return _point(problem, final.U, final.V), final.residual

    # -- pieces ----------------------------------------------------------------------------------

    def _method(self, problem: MatrixCompletion) -> str:
        if problem.nonnegative:
            return "nonnegative"
        if problem.implicit_weight:
            return "cholesky"
        if self.inner != "auto":
            return self.inner
        exact = problem.rank <= _EXACT_RANK[problem.dtype.itemsize]
        return "cholesky" if exact else "cg"

    def _prepare(self, problem: MatrixCompletion, state: AlternatingState) -> _Cache:
        """Return the data in the form that the kernels take, made once a run."""
        if state.cache is None:
            obs, dtype = problem.observations, problem.dtype
            offset = dtype.type(problem.offset)
            sides = [
                _Side(
                    indptr=o.indptr,
                    indices=o.indices,
                    values=o.values - offset if offset else o.values,
                    weights=o.weights,
                    ridge=ridge.astype(dtype),
                    ridge_bias=ridge_bias.astype(dtype),
                    mass=o.row_weights,
                    other_mass=o.col_weights,
                )
                for o, ridge, ridge_bias in (
                    (obs, problem.row_ridge, problem.row_bias_ridge),
                    (obs.T, problem.col_ridge, problem.col_bias_ridge),
                )
            ]
            state.cache = _Cache(
                *sides,
                np.empty(0 if problem.loss == "squared" else obs.nnz, dtype),
                state.U.copy(),
                state.V.copy(),
            )
        return state.cache

    def _padded(
        self, problem: MatrixCompletion, factor: Any, bias: Any, rng: np.random.Generator
    ) -> NDArray[Any]:
        """Return a factor of `x0` padded; missing columns get small random numbers."""
        rows, missing = len(factor), problem.rank - factor.shape[1]
        factor = np.asarray(factor, dtype=problem.dtype)
        if missing:
            extra = 0.1 * rng.standard_normal((rows, missing))
            factor = np.hstack([factor, extra.astype(problem.dtype)])
        if not problem.biases:
            return kernels.pad_factor(factor)
        bias = np.zeros(rows) if bias is None else bias
        return kernels.pad_factor(factor, np.asarray(bias, dtype=problem.dtype))

    def _spectral(
        self, problem: MatrixCompletion, cache: _Cache, state: AlternatingState
    ) -> NDArray[Any]:
        """Return approximate left singular vectors of the zero-filled data, rows clipped."""
        (m, n), k, dtype = problem.shape, problem.rank, problem.dtype
        assert state.rng is not None
        Q = kernels.pad_factor(state.rng.standard_normal((m, k), dtype=dtype))
        data = [(side, side.values) for side in (cache.cols, cache.rows)]
        if problem.loss != "squared":  # gross errors must not choose the directions
            size = np.abs(cache.rows.values[:: max(1, problem.observations.nnz // 200_000)])
            bound = dtype.type(2.0 * 1.4826 * float(np.median(size)) or np.inf)
            data = [(side, np.clip(values, -bound, bound)) for side, values in data]
        for _ in range(2):
            for (side, values), rows in zip(data, (n, m), strict=True):
                zero = np.zeros((rows, Q.shape[1]), dtype)
                # The gradient at zero is minus twice the product of data and factor.
                Q = kernels.factor_gradient(
                    side.indptr,
                    side.indices,
                    values,
                    Q,
                    zero,
                    rank=k,
                    ridge=0.0,
                    weights=side.weights,
                    n_threads=None,
                )
                Q[:, :k] *= dtype.type(1.0 / max(float(np.abs(Q).max()), 1e-30))
            _orthogonalize(Q, zero[:0], k)
        state.count(matvecs=4 * k)
        vectors = Q[:, :k]
        vectors /= dtype.type(math.sqrt(k))
        if self.clip is not None:
            norms = np.linalg.norm(vectors, axis=1)
            vectors *= np.minimum(1.0, self.clip / np.maximum(norms, 1e-30))[:, None].astype(dtype)
        return vectors

    def _half_sweep(
        self, problem: MatrixCompletion, state: AlternatingState, cache: _Cache, which: str,
        method: str,
    ) -> None:  # fmt: skip
        """Solve for all rows of one factor."""
        side = cache.rows if which == "rows" else cache.cols
        F, X = (state.V, state.U) if which == "rows" else (state.U, state.V)
        k = problem.rank
        if problem.reg == 0 and method != "nonnegative":
            _orthogonalize(F, X, k)
        arguments: dict[str, Any] = {
            "rank": k,
            "ridge": side.ridge,
            "bias": problem.biases,
            "ridge_bias": side.ridge_bias,
            "weights": self._weights(problem, side, F, X, cache),
            "n_threads": None,
        }
        data = (side.indptr, side.indices, side.values, F, X)
        if problem.implicit_weight:
            implicit = self._implicit(problem, cache, which, X)
            arguments |= {"base_gram": implicit.gram, "base_rhs": implicit.rhs}
        if method == "cg":
            scale = kernels.rotate_factors(F, X, k)
            report = kernels.solve_rows_cg(*data, scale=scale, n_steps=self.cg_steps, **arguments)
        elif method == "sketch":
            assert state.rng is not None
            report = kernels.solve_rows_sketch(
                *data,
                oversample=self.sketch_size,
                rtol=max(self.inner_tol, 10 * float(np.finfo(F.dtype).eps)),
                seed=int(state.rng.integers(1 << 63)),
                **arguments,
            )
        else:
            dual = k + int(problem.biases) if method == "dual" else None
            report = kernels.solve_rows(
                *data, dual=dual, nonnegative=problem.nonnegative, **arguments
            )
        state.count(inner_iterations=report.n_steps, repaired_rows=report.n_repaired)
        if report.n_minimum_norm:
            state.message = (
                f"{report.n_minimum_norm} {which} have fewer entries than unknowns and no ridge: "
                "their least-norm solution was taken"
            )

    def _weights(
        self, problem: MatrixCompletion, side: _Side, F: Any, X: Any, cache: _Cache
    ) -> NDArray[Any] | None:
        """Return the weights of the quadratic that touches the loss at the present residuals."""
        if problem.loss == "squared":
            return side.weights
        errors, _ = kernels.residuals(
            side.indptr, side.indices, side.values, F, X, rank=problem.rank, bias=problem.biases,
            out=cache.errors, n_threads=None,
        )  # fmt: skip
        return _majorizer(problem, errors, side.weights)

    def _measure(
        self,
        problem: MatrixCompletion,
        state: AlternatingState,
        cache: _Cache,
        method: str | None = None,
    ) -> None:
        """Set the residual, with the formula of the certificate and code of the solver.

        Rows that `method` has just solved exactly have no gradient: only columns are measured.
        """
        if not all(np.isfinite(X).all() for X in (state.U, state.V)):
            self._fall_back(problem, state, cache)
            return
        total = shared = 0.0
        solved = method in ("cholesky", "dual") and problem.loss == "squared"
        solved = solved and not problem.implicit_weight
        for which in ("cols",) if solved else ("cols", "rows"):
            side = cache.rows if which == "rows" else cache.cols
            F, X = (state.V, state.U) if which == "rows" else (state.U, state.V)
            implicit = None
            if problem.implicit_weight:
                implicit = self._implicit(problem, cache, which, X)
                shared += implicit.value
            part, loss = self._stationarity(problem, side, F, X, cache, implicit)
            total += part
        scale = problem.loss_at_zero
        residual = math.sqrt(total / scale) if scale else math.sqrt(total)
        objective = (
            loss
            + shared
            + sum(
                kernels.ridge_penalty(
                    X,
                    rank=problem.rank,
                    ridge=side.ridge,
                    bias=problem.biases,
                    ridge_bias=side.ridge_bias,
                )
                for X, side in ((state.U, cache.rows), (state.V, cache.cols))
            )
        )
        state.count(passes=1 if solved else 2)
        settled = objective > _NEARLY * state.lowest_objective
        if problem.loss == "l1" and settled and state.nit % 5 == 0:
            # Where residuals vanish the gradient is a set: its least element costs more, and is
            # looked for only when the objective has nearly settled.
            point = _point(problem, state.U, state.V)
            residual = problem.certificate(point).residual
        if not (math.isfinite(residual) and math.isfinite(objective)):
            self._fall_back(problem, state, cache)
            return
        state.residual = residual
        np.copyto(cache.U, state.U)
        np.copyto(cache.V, state.V)
        small = 1.0 - _PROGRESS[problem.dtype.itemsize]
        better_objective = objective < small * state.lowest_objective
        better_residual = state.residual < 0.999 * state.lowest_residual
        state.idle_checks = 0 if better_objective or better_residual else state.idle_checks + 1
        state.lowest_objective = min(objective, state.lowest_objective)
        state.lowest_residual = min(state.residual, state.lowest_residual)

    def _fall_back(self, problem: MatrixCompletion, state: AlternatingState, cache: _Cache) -> None:
        """Mark the run as diverged; the last finite point is the one to return."""
        state.best, state.best_residual = _point(problem, cache.U, cache.V), state.residual
        state.residual = math.nan

    def _implicit(
        self, problem: MatrixCompletion, cache: _Cache, which: str, X: NDArray[Any]
    ) -> _Implicit:
        """Minimise over the factor P of the indicator matrix that shares `X`."""
        side, other = (cache.rows, cache.cols) if which == "rows" else (cache.cols, cache.rows)
        k, weight = problem.rank, problem.implicit_weight
        products = _indicator_product(other, X, k)
        own = X[:, :k].astype(np.float64)
        gram = own.T @ own + problem.implicit_ridge(len(X)) * np.eye(k)
        P = np.linalg.solve(gram, products[:, :k].astype(np.float64).T).T
        value = weight * (problem.observations.nnz - float(np.vdot(P, products[:, :k])))
        padded = kernels.pad_factor(P.astype(X.dtype), np.zeros(len(P), X.dtype))
        padded = np.ascontiguousarray(padded[:, : X.shape[1]])
        base = np.zeros((X.shape[1], X.shape[1]), X.dtype)
        base[:k, :k] = weight * (P.T @ P)
        rhs = _indicator_product(side, padded, k)
        rhs *= X.dtype.type(weight)
        return _Implicit(base, rhs, value)

    def _stationarity(
        self,
        problem: MatrixCompletion,
        side: _Side,
        F: Any,
        X: Any,
        cache: _Cache,
        implicit: _Implicit | None,
    ) -> tuple[float, float]:
        """Return the sum of ``g H⁻¹ g`` over one side's rows, and the loss."""
        k, bias = problem.rank, problem.biases
        data = (side.indptr, side.indices)
        penalty = {
            "rank": k,
            "ridge": side.ridge,
            "bias": bias,
            "ridge_bias": side.ridge_bias,
            "n_threads": None,
        }
        if problem.loss == "squared":
            gradient, loss = kernels.first_order(
                *data, side.values, F, X, weights=side.weights, **penalty
            )
        else:
            errors, _ = kernels.residuals(
                *data, side.values, F, X, rank=k, bias=bias, out=cache.errors, n_threads=None
            )
            loss = _loss(problem, errors, side.weights)
            weights = _majorizer(problem, errors, side.weights)
            gradient = kernels.factor_gradient(*data, errors, F, X, weights=weights, **penalty)
        gram = np.zeros((k, k))
        for part in _blocks(len(F)):
            block = F[part, :k].astype(np.float64)
            gram += (block * side.other_mass[part, None]).T @ block
        gram /= side.other_mass.sum()
        if problem.nonnegative:
            scales, basis = np.diag(gram), np.eye(k)
        else:
            scales, basis = np.linalg.eigh(gram)
        floor = 4 * np.finfo(float).eps * k * max(float(scales.max(initial=0.0)), 0.0)
        scales = np.where(scales > floor, scales, 0.0)
        total = 0.0
        for part in _blocks(len(X)):
            g = 0.5 * gradient[part, : k + bias].astype(np.float64)
            own = X[part, :k].astype(np.float64)
            if implicit is not None:
                g[:, :k] += own @ implicit.gram[:k, :k] - implicit.rhs[part, :k]
            curvature = problem.loss_curvature * side.mass[part]
            H = curvature[:, None] * scales + side.ridge[part, None]
            if problem.nonnegative:
                move = own - np.maximum(own - _quotient(g[:, :k], H), 0.0)
                total += float((H * move * move).sum())
            else:
                rotated = g[:, :k] @ basis
                total += float((_quotient(rotated, H) * rotated).sum())
            if bias:
                H = curvature + side.ridge_bias[part]
                total += float((_quotient(g[:, k], H) * g[:, k]).sum())
        return total, loss


def _blocks(rows: int) -> list[slice]:
    """Return slices of some thousand rows: float64 copies stay small."""
    return [slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK)]


def _point(problem: MatrixCompletion, U: NDArray[Any], V: NDArray[Any]) -> LowRankMatrix:
    k = problem.rank
    biases = (U[:, k].copy(), V[:, k].copy()) if problem.biases else (None, None)
    return LowRankMatrix(U[:, :k].copy(), V[:, :k].copy(), problem.offset, *biases)


def _indicator_product(side: _Side, F: NDArray[Any], k: int) -> NDArray[Any]:
    """Return the sums of the rows of `F` over each row's entries, padded like `F`."""
    rows = len(side.indptr) - 1
    out = kernels.factor_gradient(
        side.indptr,
        side.indices,
        np.ones(len(side.indices), F.dtype),
        F,
        np.zeros((rows, F.shape[1]), F.dtype),
        rank=k,
        ridge=0.0,
        n_threads=None,
    )
    out[:, :k] *= F.dtype.type(-0.5)  # the gradient at zero is minus twice the product
    out[:, k:] = 0
    return out


def _orthogonalize(F: NDArray[Any], X: NDArray[Any], k: int) -> None:
    """Give `F` orthogonal columns of unit mean square and keep the product ``X Fᵀ``."""
    roots = np.sqrt(kernels.rotate_factors(F, X, k)[:k])
    tiny = np.finfo(F.dtype).eps * max(float(roots.max(initial=0.0)), np.finfo(F.dtype).tiny)
    roots = np.where(roots > tiny, roots, 1.0).astype(F.dtype)
    F[:, :k] /= roots
    X[:, :k] *= roots


def _balance(U: NDArray[Any], V: NDArray[Any], k: int, cache: _Cache) -> None:
    """Minimise the ridge over ``U G, V G⁻¹``, which have the same product.

    Sweeps alone shift size from one factor to the other by a step of the ridge's order only.
    With A and B the ridge-weighted Gram matrices of the factors, ``tr(A G²) + tr(B G⁻²)`` is least
    at the geometric mean of A⁻¹ and B.
    """
    grams = []
    for X, ridge in ((U[:, :k], cache.rows.ridge), (V[:, :k], cache.cols.ridge)):
        with np.errstate(over="ignore", invalid="ignore"):
            gram = ((X * ridge[:, None]).T @ X).astype(np.float64)
            # Any positive G keeps the product; this keeps it far from singular.
            grams.append((gram, gram + 1e-8 * np.trace(gram) / k * np.eye(k)))
    (A, A_), (B, B_) = grams
    if not (0 < np.trace(A) < np.inf and 0 < np.trace(B) < np.inf):  # also when it overflows
        return
    root, inverse = _root(A_)
    middle, _ = _root(root @ B_ @ root)
    G, G_inverse = _root(inverse @ middle @ inverse)
    before = np.trace(A) + np.trace(B)
    after = np.trace(G @ A @ G) + np.trace(G_inverse @ B @ G_inverse)
    if after < before * (1.0 - 1e-9):
        U[:, :k] = U[:, :k] @ G.astype(U.dtype)
        V[:, :k] = V[:, :k] @ G_inverse.astype(V.dtype)


def _root(M: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the square root of a positive definite matrix, and its inverse."""
    values, W = np.linalg.eigh(M)
    roots = np.sqrt(np.maximum(values, np.finfo(float).tiny))
    return (W * roots) @ W.T, (W / roots) @ W.T


def _quotient(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _majorizer(
    problem: MatrixCompletion, errors: NDArray[Any], weights: NDArray[Any] | None
) -> NDArray[Any]:
    """Return ``w·rho'(e)/(2e)``: half the curvature of the touching quadratic."""
    if problem.loss == "huber":
        return kernels.robust_weights(errors, problem.huber_delta, weights=weights)
    # Where the residual is rounding, its quadratic is that of the rounding level.
    unit = problem.loss_at_zero / problem.observations.total_weight
    floor = 10.0 * float(np.finfo(errors.dtype).eps) * unit
    out = kernels.robust_weights(errors, floor, weights=weights)
    out *= errors.dtype.type(0.5 / floor)
    return out


def _loss(problem: MatrixCompletion, errors: NDArray[Any], weights: Any) -> float:
    size = np.abs(errors).astype(np.float64)
    if problem.loss == "huber":
        delta = problem.huber_delta
        size = np.where(size <= delta, size * size, delta * (2.0 * size - delta))
    return float(size.sum() if weights is None else size @ weights)
