"""Bounds of a chain layer by layer: closed forms, and small semidefinite programs.

Going forward through the layers, the multipliers of one layer are chosen with those before it
fixed. What the layers before mean for the next is one matrix X (see
:mod:`lowrank_opt.lipschitz.slope_recursion`), so the cost is linear in the depth. X is kept
divided by its size, whose logarithm is added up: depth neither overflows nor underflows.

The term of the quadratic constraint that a product of slopes multiplies is kept, where the
method's paper drops it, so that slopes of either sign are covered.

References
----------
.. [1] Xu, Sivaranjani, "ECLipsE: Efficient Compositional Lipschitz Constant Estimation for Deep
   Neural Networks", NeurIPS 2024. :arxiv:`2404.04375`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg as la
from scipy.linalg import blas
from scipy.sparse.linalg import ArpackError, eigsh

from lowrank_opt.lipschitz.engine import EngineState
from lowrank_opt.lipschitz.factorisations import cholesky
from lowrank_opt.lipschitz.forms import Chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["StageState", "advance", "start", "top_eigenvalue"]

_PASSES = {"fast": ("closed",), "sdp": ("closed", "program"), "best": ("closed", "list", "program")}
# Work, in multiplications, up to which a start from an answer is compared with it at once.
_AT_ONCE = 1e9
_WORK = {"closed": 3.0, "list": 150.0, "program": 1000.0}
# Above this order the largest eigenvalue comes from Lanczos iterations.
_DENSE = 250
_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)
_TRIALS = 7


@dataclass
class StageState(EngineState):
    """Passes over the layers under way.

    Parameters
    ----------
    passes : tuple of {"closed", "list", "program"}
        What is done: closed form of the paper, the best of several closed forms in each layer,
        a semidefinite program in each layer.
    current : int
        Pass under way.
    layer : int
        Next hidden layer.
    complement : ndarray of shape (n_i, n_i) or None
        X of the layer before, divided by its size; ``None``: the identity.
    log_size : float
        Sum of the logarithms of the sizes.
    found : list of ndarray
        Logarithms of the multipliers of this pass.
    failed : list of int
        Layers whose program failed.
    """

    counts: dict[str, int] = field(default_factory=lambda: {"layers": 0, "inner_iterations": 0})
    passes: tuple[str, ...] = ("closed",)
    current: int = 0
    layer: int = 0
    complement: Any = None
    log_size: float = 0.0
    found: list[Any] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


def start(
    form: Chain,
    *,
    tol: float,
    multipliers: Sequence[Values] | None = None,
    dual: Any = None,
    mode: str = "fast",
) -> StageState:
    """Begin the passes.

    Parameters
    ----------
    form : Chain
        The network.
    tol : float
        Relative gap of the programs of the layers.
    multipliers : sequence of ndarray of shape (n_i,) or None, default=None
        Those of an earlier run. They do not help, but unless the network is large all passes are
        done at once.
    dual : None
        Not used.
    mode : {"fast", "sdp", "best"}, default="fast"
        Closed form; closed form, then a program for each layer; also the list of closed forms.

    Returns
    -------
    StageState
        Without a bound yet, unless there is a single layer.
    """
    state = StageState(tol=min(tol, 1e-7), passes=_PASSES[mode])
    if len(form.weights) == 1:
        state.upper = state.lower = np.sqrt(top_eigenvalue(_gram(form.weights[0])))
        state.done = "converged"
    work = sum(_WORK[kind] * W.shape[0] ** 3.0 for kind in state.passes for W in form.weights[:-1])
    while multipliers is not None and work <= _AT_ONCE and not state.done:
        advance(form, state)
    state.nit = 0
    return state


def advance(form: Chain, state: StageState) -> None:
    """Do one layer, in place.

    Parameters
    ----------
    form : Chain
        The network.
    state : StageState
        The passes.

    Notes
    -----
    Cost: ``7/3 n³`` flops for the closed form of a layer of width n.
    """
    state.nit += 1
    with np.errstate(all="ignore"):
        _one_layer(form, state, state.passes[state.current])


def _one_layer(form: Chain, state: StageState, kind: str) -> None:
    i = state.layer
    W, a = form.weights[i], form.alpha[i]
    factor = None
    if state.complement is not None:
        factor = cholesky(state.complement)
        if factor is None:
            _end_pass(form, state)
            return
    T = W.T if factor is None else blas.dtrsm(1.0, factor, W.T, lower=1)
    state.complement = None  # memory
    Y = T.T @ T
    size = top_eigenvalue(Y)
    if not 0.0 < size < np.inf:
        _end_pass(form, state)
        return
    Y *= 1.0 / size
    T = T * size**-0.5  # not in place: T may be a view of the weights
    ones = np.ones(len(a)) / (1.0 - a) ** 2
    lam = ones
    if kind == "list":
        lam = _best_of_list(Y, T, a, form.weights[i + 1])
    elif kind == "program":
        solved = _program(T, a, form.weights[i + 1], state)
        if solved is not None and _complement(Y, T, a, solved) is not None:
            lam = solved
        else:
            state.failed.append(i + 1)
    X = _complement(Y, T, a, lam)
    if X is None:
        _end_pass(form, state)
        return
    scale = float(np.exp2(np.round(np.log2(lam.max()))))
    state.log_size += np.log(size) - np.log(scale)
    state.found.append(np.log(lam) - (state.log_size + np.log(scale)))
    X *= 1.0 / scale
    state.complement = X
    state.layer += 1
    state.counts["layers"] += 1
    if state.layer == len(form.weights) - 1:
        _end_pass(form, state)


def _end_pass(form: Chain, state: StageState) -> None:
    """Take the bound of a complete pass, and go to the next pass."""
    if len(state.found) == len(form.weights) - 1 and state.complement is not None:
        rest = _output_eigenvalue(state.complement, form.weights[-1])
        upper = float(np.exp(0.5 * (state.log_size + np.log(rest))))
        if 0.0 < upper < state.upper:
            state.upper = upper
            state.multipliers = tuple(np.exp(log) for log in state.found)
    if state.failed:
        state.message = (
            "the program failed for hidden layers "
            f"{', '.join(map(str, state.failed))}, which have the closed form"
        )
    state.current += 1
    state.layer, state.log_size, state.complement = 0, 0.0, None
    state.found, state.failed = [], []
    if state.current == len(state.passes):
        state.done = "converged" if np.isfinite(state.upper) else "failed"
        if state.done == "failed":
            state.message = "no multipliers were feasible in double precision"


def _gram(W: Values) -> Values:
    return W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W


def top_eigenvalue(S: Values) -> float:
    """Return the largest eigenvalue of a symmetric matrix, to about ten digits.

    Parameters
    ----------
    S : ndarray of shape (n, n)
        Symmetric, positive semidefinite.

    Returns
    -------
    float
        From Lanczos iterations with a residual, which is added, for large orders.
    """
    n = len(S)
    if n == 1:
        return float(S[0, 0])
    if not np.all(np.isfinite(np.einsum("ij->i", S))):
        return np.inf
    if n > _DENSE:
        v = 1.0 + 0.5 * np.sin(np.arange(1.0, n + 1.0))
        try:
            value, vector = eigsh(S, k=1, which="LA", v0=v, tol=1e-9, ncv=24)
        except ArpackError:
            pass
        else:
            u = vector[:, 0]
            return float(value[0] + np.linalg.norm(S @ u - value[0] * u))
    return float(la.eigvalsh(S, subset_by_index=[n - 1, n - 1], check_finite=False)[0])


def _output_eigenvalue(X: Values, W: Values) -> float:
    """Return the largest eigenvalue of W X⁻¹ Wᵀ; X is overwritten. Infinite without a factor."""
    factor = cholesky(X, overwrite=True)
    if factor is None:
        return np.inf
    T = blas.dtrsm(1.0, factor, W.T, lower=1)
    return top_eigenvalue(T.T @ T if T.shape[1] <= T.shape[0] else T @ T.T)


def _complement(Y: Values, T: Values, a: Values, lam: Values) -> Values | None:
    """Return X of a layer; ``None``: not positive definite.

    Parameters
    ----------
    Y : ndarray of shape (n, n)
        W X⁻¹ Wᵀ, X of the layer before.
    T : ndarray of shape (m, n)
        With Y = TᵀT.
    a, lam : ndarray of shape (n,)
        Slopes and multipliers.
    """
    ell = lam
    if np.any(a):
        ell = (1.0 + a) * lam
        H = (T * (2.0 * a * lam)) @ T.T
        H.flat[:: len(H) + 1] += 1.0
        inner = cholesky(H, overwrite=True)
        if inner is None:
            return None
        R = blas.dtrsm(1.0, inner, T, lower=1)
        Y = R.T @ R
    X = Y * -ell
    X *= ell[:, None]
    X.flat[:: len(X) + 1] += 2.0 * lam
    return X if np.all(X.diagonal() > 0) else None


def _best_of_list(Y: Values, T: Values, a: Values, W: Values) -> Values:
    """Return the best multipliers of a list of closed forms, each with its best factor."""
    diagonal = np.maximum(Y.diagonal(), 1e-30)
    absolute = np.abs(Y)
    columns = np.maximum(np.einsum("ij,ij->j", W, W), 1e-30)
    q = 1.0 / np.sqrt(diagonal)
    shapes = [
        np.ones(len(a)),
        1.0 / absolute.sum(axis=1),
        1.0 / diagonal,
        q / (absolute @ q) * np.mean(q),
        np.sqrt(columns / diagonal),
    ]
    best, best_value = None, np.inf
    for d in shapes:
        root = np.sqrt(d / d.max())
        base = root * root / (top_eigenvalue(Y * root * root[:, None]) * (1.0 - a) ** 2)

        def cost(s: float, base: Values = base) -> float:
            X = _complement(Y, T, a, s * base)
            return np.inf if X is None else _output_eigenvalue(X, W)

        s, value = _golden(cost)
        if best is None or value < best_value:
            best, best_value = s * base, value
    assert best is not None
    return best


def _golden(cost: Callable[[float], float]) -> tuple[float, float]:
    """Minimise a unimodal function on (0, 2); the start, 1, is among the trials."""
    low, high = 0.0, 2.0
    best = (1.0, cost(1.0))
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(_TRIALS):
        best = min(best, (left, at_left), (right, at_right), key=lambda pair: pair[1])
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = cost(right)
    return best


def _program(T: Values, a: Values, W: Values, state: StageState) -> Values | None:
    """Solve the two-layer network that a layer and the next make; ``None``: it failed."""
    from lowrank_opt.lipschitz import chain_interior_point as engine

    first = T if T.shape[0] <= T.shape[1] else np.asarray(np.linalg.qr(T, mode="r"))
    last = W if W.shape[0] <= W.shape[1] else np.asarray(np.linalg.qr(W, mode="r"))
    norm = np.sqrt(top_eigenvalue(_gram(last)))
    # Neurons that the next layer does not read have no place in a form.
    live = np.any(last, axis=0) & np.any(first, axis=0)
    if not norm > 0 or not live.any():
        return None
    first, last = first[:, live], last[:, live] / norm
    if first.shape[0] > first.shape[1]:
        first = np.asarray(np.linalg.qr(first, mode="r"))
    small = Chain(
        (np.ascontiguousarray(first.T), np.ascontiguousarray(last)),
        (np.ascontiguousarray(a[live]),),
    )
    inner = engine.start(small, tol=state.tol)
    while not inner.done and inner.nit < 60:
        engine.advance(small, inner)
    state.counts["inner_iterations"] += inner.nit
    if not np.isfinite(inner.upper) or not inner.multipliers:
        return None
    lam = np.full(len(a), np.min(inner.multipliers[0]) * 1e-3)
    lam[live] = inner.multipliers[0]
    return lam if np.all(np.isfinite(lam)) and np.all(lam > 0) else None
