"""Bayesian matrix factorisation by Gibbs sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from lowrank_opt.core.params import Interval, make_rng
from lowrank_opt.core.protocols import HasCertificate, HasObjective, HasObservations
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.recovery import kernels
from lowrank_opt.recovery.lowrank import LowRankMatrix, LowRankSamples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.recovery.problems import MatrixCompletion

__all__ = ["GibbsFactorization"]

# Entries on which the Monte Carlo error is watched while the sampler runs.
_WATCHED = 20_000
# Draws below which that error is not believed.
_LEAST_DRAWS = 20


class _Cache(NamedTuple):
    values: NDArray[Any]  # without the offset, by rows
    csc_values: NDArray[Any]
    errors: NDArray[Any]
    rows: NDArray[Any]  # watched positions
    cols: NDArray[Any]
    scale: float  # root mean square of the watched values


@dataclass
class GibbsState(State):
    """Present draw, hyper-parameters of the priors, and the draws that were kept."""

    U: Any = None
    V: Any = None
    alpha: float = 1.0
    draws_u: Any = None
    draws_v: Any = None
    draws_alpha: Any = None
    watched: Any = None  # predictions of the kept draws at the watched entries
    draws_nit: Any = None  # numbers of the kept draws; at most 0 for those given as a start
    n_kept: int = 0
    spacing: int = 1  # every so many draws one is kept


class GibbsFactorization(Solver):
    r"""Posterior of a Bayesian matrix factorisation by Gibbs sampling.

    Model: :math:`M_{ij} = \mu + b_i + c_j + u_i \cdot v_j + \varepsilon`,
    :math:`\varepsilon \sim N(0, 1/(\alpha w_{ij}))`; each column of each factor (and the biases)
    has a normal prior with a mean and a precision of its own, which are drawn as well, as is
    :math:`\alpha`. The ridge of the problem is not used: there is nothing to tune. The prediction
    is the mean over the draws after burn-in, with its standard deviation.

    Parameters
    ----------
    tol : float, default=1e-2
        Stops when the Monte Carlo standard error of the predictions, relative to the root mean
        square of the centred values, is at most `tol`: half the difference of the means of the
        first and the second half of the draws, as in
        :meth:`~lowrank_opt.recovery.MatrixCompletion.certificate`. At least 20 draws are taken.
    max_iter : int, default=200
        Limit on draws, burn-in included.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int, default=1
        Draws between two checks.
    burn_in : float, default=0.1
        First part of the draws that is dropped, in [0, 1). A chain that goes on from earlier
        draws has no burn-in.
    n_kept : int, default=100
        Largest number of draws kept, evenly spaced, at least 2: when there are more, every
        second one is dropped.
    max_bytes : int, default=2**30
        Limit on the bytes of the draws kept: `n_kept` is lowered to what fits, to 2 at least.
    n_threads : int or None, default=None
        Threads; the result has the same bits for every number.
    random_state : int, Generator or None, default=None
        Seed.

    Notes
    -----
    Cost per draw: ``2·N·k²`` flops, as a sweep of exact alternating minimisation, plus one pass
    for :math:`\alpha`. Memory: a draw takes ``(m + n)·(k + 1)`` numbers (without biases
    ``(m + n)·k``); the draws lie in the state, and the answer is a copy of those after burn-in, so
    that a run takes up to twice `max_bytes`.

    Guarantee: each draw has the exact conditional distribution given the others; the chain's
    stationary distribution is the posterior. The reported standard error measures mixing on the
    scale of the run and cannot exclude modes that the chain has not visited.

    Small ranks (5 to 20) are usual: draws are averaged, so that rank is not the only capacity.

    References
    ----------
    .. [1] Salakhutdinov, Mnih, "Bayesian Probabilistic Matrix Factorization using Markov Chain
       Monte Carlo", ICML 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import GibbsFactorization, MatrixCompletion
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 30))
    >>> X += 0.1 * rng.standard_normal(X.shape)
    >>> problem = MatrixCompletion.from_dense(X, rank=2)
    >>> result = GibbsFactorization(random_state=0).solve(problem)
    >>> mean, std = result.x.predict([0, 1], [0, 1], return_std=True)
    >>> bool((std > 0.05).all() and (std < 0.2).all())
    True
    """

    requires: ClassVar[tuple[type, ...]] = (HasObservations, HasObjective, HasCertificate)
    blas_threads = 1
    monotone = False
    citation = (
        "@inproceedings{salakhutdinov2008bayesian,\n"
        "  title={Bayesian Probabilistic Matrix Factorization using Markov Chain Monte Carlo},\n"
        "  author={Salakhutdinov, Ruslan and Mnih, Andriy},\n"
        "  booktitle={International Conference on Machine Learning},\n"
        "  year={2008}\n}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "burn_in": [Interval(Real, 0, 1, closed="left")],
        "n_kept": [Interval(Integral, 2, None)],
        "max_bytes": [Interval(Integral, 1, None)],
    }

    def __init__(
        self,
        *,
        tol: float = 1e-2,
        max_iter: int = 200,
        max_time: float | None = None,
        check_every: int = 1,
        burn_in: float = 0.1,
        n_kept: int = 100,
        max_bytes: int = 1 << 30,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.burn_in = burn_in
        self.n_kept = n_kept
        self.max_bytes = max_bytes
        self.n_threads = n_threads
        self.random_state = random_state

    # -- the three parts of the contract ---------------------------------------------------------

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """The squared loss and the ridge form, without constraints."""
        wanted = {"penalty": "ridge", "loss": "squared", "nonnegative": False, "implicit_weight": 0}
        return [f"{k}={v!r}" for k, v in wanted.items() if getattr(problem, k, None) != v]

    def init(self, problem: MatrixCompletion, x0: Any = None) -> GibbsState:
        """Return the first state; `x0` is a matrix to start the chain from, or earlier draws.

        Earlier draws count as this chain's own: they stay in the answer and are thinned with it.
        """
        state = GibbsState(rng=make_rng(self.random_state))
        rng, k, dtype, bias = state.rng, problem.rank, problem.dtype, problem.biases
        assert rng is not None
        sizes, width = problem.shape, k + int(bias)
        fitting = self.max_bytes // (sum(sizes) * width * dtype.itemsize)
        room = max(2, min(self.n_kept, fitting))
        state.draws_u, state.draws_v = (np.zeros((room, size, width), dtype) for size in sizes)
        state.draws_alpha = np.zeros(room)
        state.draws_nit = np.zeros(room, dtype=np.int64)
        cache = self._prepare(problem, state)
        state.watched = np.zeros((room, len(cache.rows)), dtype)
        state.alpha = 2.0 / max(float(np.mean(np.square(cache.values, dtype=np.float64))), 1e-300)
        draws = x0 if isinstance(x0, LowRankSamples) else None
        last = draws[-1] if draws is not None else x0
        if last is None:
            spread = 0.1 * cache.scale**0.5 if cache.scale else 0.1
            factors = [spread * rng.standard_normal((size, k)) for size in sizes]
            biases: list[Any] = [np.zeros(size) for size in sizes]
        else:
            last = problem.start(last)
            missing = k - last.rank
            factors = [
                np.hstack([F, 0.1 * rng.standard_normal((len(F), missing))])
                for F in (last.U, last.V)
            ]
            biases = [
                np.zeros(size) if b is None else b
                for size, b in zip(sizes, (last.row_bias, last.col_bias), strict=True)
            ]
        state.U, state.V = (
            kernels.pad_factor(F.astype(dtype), b.astype(dtype) if bias else None)
            for F, b in zip(factors, biases, strict=True)
        )
        if draws is not None:
            for s in range(max(0, draws.n_samples - room), draws.n_samples):
                self._keep(problem, state, cache, problem.start(draws[s]), float(draws.alpha[s]))
                state.draws_nit[state.n_kept - 1] = s - draws.n_samples + 1  # …, -1, 0
            state.alpha = float(draws.alpha[-1])
            self._measure(state, cache)
        return state

    def step(self, problem: MatrixCompletion, state: State, n: int = 1) -> State:
        """Take `n` draws."""
        assert isinstance(state, GibbsState)
        assert state.rng is not None
        cache = self._prepare(problem, state)
        obs, k, bias = problem.observations, problem.rank, problem.biases
        rows = (obs.indptr, obs.indices, cache.values, obs.weights)
        cols = (obs.csc_indptr, obs.csc_indices, cache.csc_values, obs.csc_weights)
        # Squares of factor entries are as large as values, squares of biases as their squares.
        scale = cache.scale or 1.0
        rate = np.array([scale] * k + [scale**2] * int(bias))
        for _ in range(n):
            for (indptr, indices, values, weights), F, X in (
                (cols, state.U, state.V),
                (rows, state.V, state.U),
            ):
                mean, precision = _draw_prior(X[:, : k + bias], state.rng, rate)
                kernels.sample_rows(
                    indptr,
                    indices,
                    values,
                    F,
                    X,
                    rank=k,
                    bias=bias,
                    alpha=state.alpha,
                    precision=precision,
                    mean=mean,
                    normals=state.rng.standard_normal((len(X), k + bias), dtype=X.dtype),
                    weights=weights,
                    n_threads=None,
                )
            _, square = kernels.residuals(
                *rows[:3],
                state.V,
                state.U,
                rank=k,
                bias=bias,
                weights=obs.weights,
                out=cache.errors,
                n_threads=None,
            )
            state.alpha = state.rng.gamma(0.5 * obs.nnz + 1.0, 1.0 / (0.5 * square + 1e-300))
            state.nit += 1
            if state.nit % state.spacing == 0:
                self._keep(problem, state, cache, _matrix(problem, state), state.alpha)
        state.count(draws=n, passes=3 * n)
        self._measure(state, cache)
        return state

    def terminate(self, problem: MatrixCompletion, state: State) -> Status | None:
        """Return the status to stop with, or ``None``; no verdict before enough draws."""
        assert isinstance(state, GibbsState)
        if not math.isfinite(state.alpha) or not np.isfinite(state.U[0]).all():
            return Status.DIVERGED
        if state.residual <= self.tol and state.n_kept >= min(_LEAST_DRAWS, len(state.draws_nit)):
            return Status.CONVERGED
        return None

    def point(self, problem: MatrixCompletion, state: State) -> LowRankSamples:
        """Return the draws kept so far; before the first one, the present draw."""
        assert isinstance(state, GibbsState)
        k, bias = problem.rank, problem.biases
        if state.n_kept:
            used = slice(self._first_used(state), state.n_kept)
            U, V, alpha = state.draws_u[used], state.draws_v[used], state.draws_alpha[used]
        else:
            U, V, alpha = state.U[None], state.V[None], np.array([state.alpha])
        biases = (U[:, :, k].copy(), V[:, :, k].copy()) if bias else (None, None)
        return LowRankSamples(
            U[:, :, :k].copy(), V[:, :, :k].copy(), alpha.copy(), problem.offset, *biases
        )

    # -- pieces ----------------------------------------------------------------------------------

    def _prepare(self, problem: MatrixCompletion, state: GibbsState) -> _Cache:
        """Return centred data and the watched entries."""
        if state.cache is None:
            obs = problem.observations
            offset = problem.dtype.type(problem.offset)
            values, csc_values = obs.values, obs.csc_values
            if offset:
                values, csc_values = values - offset, csc_values - offset
            watched = np.arange(0, obs.nnz, max(1, -(-obs.nnz // _WATCHED)))
            rows = np.searchsorted(obs.indptr, watched, side="right") - 1
            state.cache = _Cache(
                values,
                csc_values,
                np.empty(obs.nnz, problem.dtype),
                rows,
                obs.indices[watched],
                float(np.sqrt(np.mean(np.square(values[watched], dtype=np.float64)))),
            )
        return state.cache

    def _keep(
        self,
        problem: MatrixCompletion,
        state: GibbsState,
        cache: _Cache,
        draw: LowRankMatrix,
        alpha: float,
    ) -> None:
        """Add a draw to those that make the prediction."""
        if state.n_kept == len(state.draws_nit):
            _halve(state)
            if state.nit % state.spacing:
                return
        k, s = problem.rank, state.n_kept
        for kept, factor, bias in (
            (state.draws_u, draw.U, draw.row_bias),
            (state.draws_v, draw.V, draw.col_bias),
        ):
            kept[s, :, :k] = factor
            if bias is not None:
                kept[s, :, k] = bias
        state.draws_alpha[s] = alpha
        state.draws_nit[s] = state.nit
        state.watched[s] = draw.predict(cache.rows, cache.cols)
        state.n_kept += 1

    def _first_used(self, state: GibbsState) -> int:
        """Return the number of kept draws that belong to the burn-in."""
        if state.n_kept == 0 or state.draws_nit[0] <= 0:  # a start from draws has no burn-in
            return 0
        return int(np.searchsorted(state.draws_nit[: state.n_kept], self.burn_in * state.nit))

    def _measure(self, state: GibbsState, cache: _Cache) -> None:
        """Set the residual: the Monte Carlo standard error on the watched entries."""
        first = self._first_used(state)
        half = (state.n_kept - first) // 2
        if half == 0:
            return
        difference = state.watched[first : first + half].mean(axis=0, dtype=np.float64)
        difference -= state.watched[first + half : state.n_kept].mean(axis=0, dtype=np.float64)
        scale = cache.scale or 1.0
        state.residual = 0.5 * float(np.sqrt(np.mean(difference**2))) / scale


def _matrix(problem: MatrixCompletion, state: GibbsState) -> LowRankMatrix:
    k = problem.rank
    biases = (state.U[:, k], state.V[:, k]) if problem.biases else (None, None)
    return LowRankMatrix(state.U[:, :k], state.V[:, :k], problem.offset, *biases)


def _draw_prior(
    X: NDArray[Any], rng: np.random.Generator, rate: NDArray[np.float64]
) -> tuple[Any, Any]:
    """Draw mean and precision of each column's prior, given the column.

    Conjugate normal-gamma: one pseudo-row at 0 for the mean, shape 1 and the given rate for the
    precision.
    """
    size = len(X)
    X = X.astype(np.float64)
    total, square = X.sum(axis=0), np.square(X).sum(axis=0)
    center = total / (size + 1.0)
    spread = square - (size + 1.0) * center**2  # squares about the centre, pseudo-row included
    precision = rng.gamma(0.5 * size + 1.0, 1.0 / (0.5 * np.maximum(spread, 0.0) + rate))
    mean = center + rng.standard_normal(X.shape[1]) / np.sqrt((size + 1.0) * precision)
    return mean, precision


def _halve(state: GibbsState) -> None:
    """Make room: keep every second draw, and from now on draws at twice the distance."""
    state.spacing *= 2
    stay = np.flatnonzero(state.draws_nit % state.spacing == 0)
    for kept in (
        state.draws_u,
        state.draws_v,
        state.draws_alpha,
        state.draws_nit,
        state.watched,
    ):
        kept[: len(stay)] = kept[stay]
    state.n_kept = len(stay)
