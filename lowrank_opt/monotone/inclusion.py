"""Monotone inclusions 0 in F(x) + G(x)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from lowrank_opt.core.errors import AccuracyWarning, ParameterError, ProblemError, ProblemTypeError
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.monotone.certificates_operators import grade_inclusion
from lowrank_opt.monotone.fixed_point import checked_point, checked_value, flat_point
from lowrank_opt.numerics._arrays import count, real_array, scalar, sparse_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["MonotoneInclusion"]

_PAIRS, _SEED = 16, 0
_CHUNK = 1024  # terms evaluated at once
_MARGIN = 1.5  # of a Lipschitz constant that was only sampled
_DENSE = 1500  # order up to which norms of matrices are computed exactly


@dataclass(frozen=True, eq=False, repr=False)
class MonotoneInclusion(Problem):
    r"""Monotone inclusion: find x with :math:`0 \in F(x) + G(x)`.

    F is single-valued, monotone and Lipschitz continuous, possibly a mean
    :math:`F = \frac1n \sum_i F_i`; G is maximal monotone and known by its resolvent
    :math:`(I + tG)^{-1}`, a projection or a proximal operator. A saddle point
    :math:`\min_x \max_y \Phi(x, y)` is one with :math:`F = (\nabla_x \Phi, -\nabla_y \Phi)`.

    Parameters
    ----------
    F : callable, tuple or None
        ``F(x) -> array`` of the shape of `x`, which it must not modify; or a pair ``(M, q)`` for
        the affine operator ``M x + q``, M dense or sparse of shape (d, d): then constants are
        computed, and resolvents of F are exact. ``None``: the mean of `components`.
    x_start : array-like
        Where solvers start, and what residuals are relative to; its shape and its dtype (float32
        or float64) are those of all points.
    components : callable or None, default=None
        ``components(x, index) -> array`` of shape ``(len(index), d)``: the values of the terms
        F_i for an integer array `index`; their mean over all i must be F. ``None``: one term, and
        for a pair ``(M, q)`` d terms ``d (M_i: x + q_i) e_i``, of one equation each.
    n_terms : int or None, default=None
        Number of terms; needed with `components`.
    prox : callable or None, default=None
        ``prox(x, step) -> array``: the resolvent of G. ``None``: G = 0.
    lipschitz : float or None, default=None
        Lipschitz constant of F. ``None``: computed for a pair ``(M, q)``; otherwise sampled, and
        multiplied by 1.5.
    mean_lipschitz : float or None, default=None
        L with ``mean_i ‖F_i(x) - F_i(y)‖² <= L² ‖x - y‖²``; ``None``: measured when needed.
    cocoercive : bool or None, default=None
        Whether ``<F(x) - F(y), x - y> >= ‖F(x) - F(y)‖² / lipschitz``, as gradients of convex
        functions are. ``None``: decided for a pair ``(M, q)``, otherwise taken to be false.

    Attributes
    ----------
    size : int
        Number of variables d.
    x_shape : tuple of int
        Shape of a point.
    dtype : dtype
        Type of points.
    affine : tuple or None
        The pair ``(M, q)`` when F was given so.

    Raises
    ------
    ProblemError
        A function returns another shape, or numbers that are not finite, at `x_start`.
    ParameterError
        A constant out of its range.

    Warns
    -----
    AccuracyWarning
        Sampled pairs contradict the monotonicity of F.

    See Also
    --------
    MatrixGame : Bilinear games over simplices.
    VarianceReducedHalpern, InexactHalpern : Solvers for means of many terms.

    Notes
    -----
    The certificate's residual is the natural residual ``‖x - (I + tG)^{-1}(x - tF(x))‖ / t`` with
    t = 1 / lipschitz over that at `x_start`; with G = 0 it is the norm of F.
    ``details["inclusion_residual_after_a_step"]`` is the norm of an element of (F + G) at the point
    where that step ends.

    `auto_solver` takes exact resolvents for affine operators without prox of up to 5000 variables;
    else it chooses between deterministic methods (safeguarded extrapolation for cocoercive
    operators, extragradient steps for others) and a variance-reduced one by measured constants.
    The choice is logged.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import MonotoneInclusion
    >>> rotation = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> problem = MonotoneInclusion((rotation, np.zeros(2)), np.ones(2))
    >>> problem.lipschitz, problem.cocoercive, problem.certificate([0.0, 0.0]).residual
    (1.0, False, 0.0)
    """

    F: Any
    x_start: Any
    components: Callable[[Any, Any], Any] | None = None
    n_terms: Any = None
    prox: Callable[[Any, float], Any] | None = None
    lipschitz: Any = None
    mean_lipschitz: float | None = None
    cocoercive: bool | None = None
    affine: Any = field(default=None, init=False)
    _unit: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "x_start", checked_point("x_start", self.x_start))
        for name in ("components", "prox"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ProblemTypeError(f"{name} is a {type(value).__name__}; a function is needed")
        if isinstance(self.F, tuple):
            put(self, "affine", self._affine(self.F))
        elif self.F is None and self.components is None:
            raise ProblemError("F is None: give F, a pair (M, q), or components")
        elif self.F is not None and not callable(self.F):
            raise ProblemTypeError(
                f"F is a {type(self.F).__name__}; a function of x or a pair (M, q) is needed"
            )
        if self.components is not None:
            if self.n_terms is None:
                raise ProblemError("components without n_terms: give the number of terms")
            put(self, "n_terms", count("n_terms", self.n_terms, 1))
        else:
            put(self, "n_terms", self.size if self.affine is not None else 1)
        for name in ("lipschitz", "mean_lipschitz"):
            value = getattr(self, name)
            if value is not None:
                put(self, name, scalar(name, value, low=0.0, strict=True))
        z = self.start()
        mean = None if self.components is None else self._mean_of_terms(z)
        at_start = self.operator(z)
        if not np.all(np.isfinite(at_start)):
            raise ProblemError("F returned NaN or infinity at x_start; start where F is defined")
        if not np.all(np.isfinite(self.resolvent(z, 1.0))):
            raise ProblemError("prox returned NaN or infinity at x_start")
        if mean is not None:
            _check_mean(self, np.asarray(at_start, np.float64), *mean)
        sampled = self._sample_pairs()
        if self.affine is not None:
            norm = matrix_norm(self.affine[0])
            if self.cocoercive is None:
                put(self, "cocoercive", _is_cocoercive(self.affine[0], norm))
            if self.lipschitz is None:
                put(self, "lipschitz", norm if norm > 0 else 1.0)
        if self.cocoercive is None:
            put(self, "cocoercive", False)
        if self.lipschitz is None:
            put(self, "lipschitz", _MARGIN * sampled if sampled > 0 else 1.0)
        put(self, "_unit", self._natural(z))

    def _affine(self, pair: tuple[Any, ...]) -> tuple[Any, NDArray[Any]]:
        if len(pair) != 2:
            raise ProblemError(f"F has {len(pair)} parts; a pair (M, q) is needed")
        M, q = pair
        if hasattr(M, "tocsr"):
            M = sparse_matrix("M", M).astype(self.dtype)
        else:
            M = np.array(real_array("M", M)[0], self.dtype)
        q = np.array(real_array("q", q)[0], self.dtype).reshape(-1)
        if M.shape != (self.size, self.size) or q.shape != (self.size,):
            raise ProblemError(
                f"M has shape {M.shape} and q has shape {q.shape}; for x_start of size "
                f"{self.size} they need ({self.size}, {self.size}) and ({self.size},)"
            )
        return M, q

    def _mean_of_terms(self, z: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
        """Return the mean of all terms and their largest entry; raise if some do not exist."""
        total, largest = np.zeros(self.size), 0.0
        for begin in range(0, self.n_terms, _CHUNK):
            index = np.arange(begin, min(begin + _CHUNK, self.n_terms))
            try:
                values = np.asarray(self._terms(z, index), np.float64)
            except IndexError as error:
                raise ProblemError(
                    "components cannot be evaluated for all indices up to n_terms - 1 = "
                    f"{self.n_terms - 1}: {error}"
                ) from error
            total += values.sum(axis=0)
            largest = max(largest, float(np.abs(values).max(initial=0.0)))
        return total / self.n_terms, largest

    def _sample_pairs(self) -> float:
        """Return the largest ratio of changes; warn when F is seen not to be monotone."""
        rng = np.random.default_rng(_SEED)
        z = self.start()
        scale = max(1.0, float(np.linalg.norm(z))) / math.sqrt(z.size)
        worst, largest = 0.0, 0.0
        for k in range(_PAIRS):
            u, v = (z + scale * rng.standard_normal(z.size).astype(z.dtype) for _ in range(2))
            if k % 2 or self.prox is not None:  # F need not be defined where G is not
                u, v = self.resolvent(u, 1.0), self.resolvent(v, 1.0)
            d = np.asarray(u - v, np.float64)
            change = np.asarray(self.operator(u) - self.operator(v), np.float64)
            length, size = float(np.linalg.norm(d)), float(np.linalg.norm(change))
            if not length > 0 or not math.isfinite(size):
                continue
            largest = max(largest, size / length)
            if size > 0:
                worst = min(worst, float(change @ d) / (size * length))
        if worst < -100.0 * float(np.finfo(self.dtype).eps) * math.sqrt(z.size):
            warnings.warn(
                "F is not monotone: <F(x) - F(y), x - y> is negative (cosine "
                f"{worst:.1e}) for sampled points; check the sign of the part of the variables "
                "that maximise. Methods may not converge",
                AccuracyWarning,
                stacklevel=5,
            )
        return largest

    # -- description ----------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of variables."""
        return int(self.x_start.size)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of a point."""
        return tuple(self.x_start.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of points."""
        return np.dtype(self.x_start.dtype)

    def __repr__(self) -> str:
        terms = f", {self.n_terms} terms" if self.n_terms > 1 else ""
        return f"MonotoneInclusion({self.size} variables{terms})"

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape, dtype, and a hash of the start and F there; functions themselves have none."""
        z = self.start()
        values = [np.ascontiguousarray(self.operator(z))]
        if self.affine is not None:
            M = self.affine[0]
            values.append(M.data if sp.issparse(M) else M)
        return {
            "shape": list(self.x_shape), "dtype": str(self.dtype), "terms": self.n_terms,
            "hash": digest(z, *values),
        }  # fmt: skip

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Deterministic or variance-reduced, by measured constants; see the class."""
        from lowrank_opt.monotone.constants import choose_method

        return choose_method(self)

    # -- points and oracles -----------------------------------------------------------------------

    def start(self) -> NDArray[Any]:
        """Return the start as a flat array of its own."""
        return np.array(self.x_start).reshape(-1)

    def flat(self, x: Any) -> NDArray[Any]:
        """Return a point as a flat array of its own, in the problem's dtype.

        Parameters
        ----------
        x : array-like
            A point.
        """
        return flat_point(self, x)

    def shaped(self, z: Any) -> NDArray[Any]:
        """Return a flat array as a point, an array of its own."""
        return np.array(z, self.dtype).reshape(self.x_shape)

    def operator(self, z: Any, out: Any = None) -> NDArray[Any]:
        """Return F at a point, flat for a flat one.

        Parameters
        ----------
        z : ndarray of shape (size,) or `x_shape`
            A point.
        out : ndarray or None, default=None
            Where to write the result.
        """
        z = np.asarray(z)
        if self.affine is not None:
            M, q = self.affine
            value = M @ z.reshape(-1) + q
        elif self.F is not None:
            value = checked_value("F", self.F(z.reshape(self.x_shape)), self.x_shape)
        else:
            value = self._terms(z, np.arange(self.n_terms)).mean(axis=0)
        value = value.reshape(z.shape)
        if out is None:
            return value
        out[...] = value
        return out

    def resolvent(self, z: Any, step: float) -> NDArray[Any]:
        """Return the resolvent of G at a flat point; the point itself when G is 0.

        Parameters
        ----------
        z : ndarray of shape (size,)
            A point.
        step : float
            Positive.
        """
        if self.prox is None:
            return np.array(z)
        value = self.prox(np.asarray(z).reshape(self.x_shape), step)
        return checked_value("prox", value, self.x_shape)

    def _terms(self, z: Any, index: Any) -> NDArray[Any]:
        """Return the values of terms, of shape (len(index), size)."""
        if self.components is not None:
            value = np.asarray(self.components(np.asarray(z).reshape(self.x_shape), index))
            if value.shape != (len(index), self.size) and value.shape != (
                len(index), *self.x_shape
            ):  # fmt: skip
                raise ProblemError(
                    f"components returned shape {value.shape} for {len(index)} indices and a "
                    f"point of shape {self.x_shape}; expected ({len(index)}, {self.size})"
                )
            return value.reshape(len(index), self.size)
        value = np.zeros((len(index), self.size), self.dtype)
        if self.affine is None:
            value[:] = self.operator(np.asarray(z).reshape(-1))
        else:
            M, q = self.affine
            value[np.arange(len(index)), index] = self.size * (M[index] @ z + q[index])
        return value

    def sample_operator(self, z: Any, index: Any, probabilities: Any = None) -> NDArray[Any]:
        """Return an unbiased estimate of F at a flat point from the terms in `index`.

        Parameters
        ----------
        z : ndarray of shape (size,)
            A point.
        index : ndarray of int
            Drawn terms.
        probabilities : ndarray of shape (n_terms,) or None, default=None
            With which they were drawn; ``None``: all the same.
        """
        return self._weighted(self._terms(z, index), index, probabilities)

    def sample_difference(
        self, z: Any, w: Any, index: Any, probabilities: Any = None
    ) -> NDArray[Any]:
        """Return an unbiased estimate of F(z) - F(w) from the terms in `index`.

        Parameters
        ----------
        z, w : ndarray of shape (size,)
            Points.
        index : ndarray of int
            Drawn terms.
        probabilities : ndarray of shape (n_terms,) or None, default=None
            With which they were drawn; ``None``: all the same.
        """
        return self._weighted(self._terms(z, index) - self._terms(w, index), index, probabilities)

    def _weighted(self, values: Any, index: Any, probabilities: Any) -> NDArray[Any]:
        if probabilities is None:
            return np.asarray(values.mean(axis=0), self.dtype)
        weights = 1.0 / (self.n_terms * np.asarray(probabilities)[index])
        return np.asarray(weights @ values / len(index), self.dtype)

    def _natural(self, z: Any, value: Any = None) -> float:
        value = self.operator(z) if value is None else value
        if self.prox is None:
            return float(np.linalg.norm(value))
        step = 1.0 / self.lipschitz
        moved = self.resolvent(z - step * value, step)
        return float(np.linalg.norm(z - moved)) / step

    @property
    def unit(self) -> float:
        """Natural residual at the start; 1 when that is 0."""
        return self._unit if self._unit > 0 else 1.0

    def measure(self, z: Any, value: Any = None) -> float:
        """Return the residual of a flat point in its own precision, for solvers.

        Parameters
        ----------
        z : ndarray of shape (size,)
            A point.
        value : ndarray or None, default=None
            ``operator(z)``, if known.
        """
        norm = self._natural(z, value)
        return norm / self._unit if self._unit > 0 else norm

    def objective(self, x: Any) -> float:
        """Natural residual of a point: an inclusion has no objective."""
        return self._natural(np.asarray(self.flat(x), np.float64))

    def certificate(self, x: Any) -> Certificate:
        """Grade a point by its natural residual, relative to that of the start."""
        return grade_inclusion(self, np.asarray(self.flat(x), np.float64))


def _check_mean(problem: Any, F: Any, mean: Any, largest: float) -> None:
    """Raise when the mean of the terms at the start is not F there."""
    difference = float(np.abs(mean - F).max())
    scale = largest + float(np.abs(F).max())
    if difference > 10.0 * math.sqrt(float(np.finfo(problem.dtype).eps)) * scale:
        raise ProblemError(
            f"the mean of the {problem.n_terms} components at x_start is not F there: they differ "
            f"by {difference:.3g} of {scale:.3g}; F must be the mean of the terms, not their sum, "
            "and n_terms their number"
        )


def matrix_norm(M: Any) -> float:
    """Return the spectral norm of a matrix, exactly up to an order of 1500."""
    if max(M.shape) <= _DENSE:
        dense = M.toarray() if sp.issparse(M) else M
        return float(np.linalg.norm(dense, 2)) if dense.size else 0.0
    rng = np.random.default_rng(_SEED)
    v = rng.standard_normal(M.shape[1])
    size = 0.0
    for _ in range(300):
        v /= np.linalg.norm(v)
        v = M.T @ (M @ v)
        before, size = size, float(np.linalg.norm(v))
        if abs(size - before) <= 1e-7 * size:
            break
    return 1.01 * math.sqrt(size)


def _is_cocoercive(M: Any, norm: float) -> bool:
    """Return whether <Mx, x> >= ‖Mx‖² / ‖M‖ for all x."""
    if norm == 0.0:
        return True
    difference = abs(M - M.T).max()
    if difference <= 1e-12 * norm:  # symmetric: cocoercive exactly when monotone
        return True
    if M.shape[0] > _DENSE:
        return False
    dense = np.asarray(M.toarray() if sp.issparse(M) else M, np.float64)
    gap = 0.5 * (dense + dense.T) - dense.T @ dense / norm
    return bool(np.linalg.eigvalsh(gap)[0] >= -1e-10 * norm)


def affine_resolvent(problem: MonotoneInclusion, step: float) -> Callable[[Any], Any]:
    """Return the function z -> (I + step F)^{-1} z of an affine F, factorised once.

    Parameters
    ----------
    problem : MonotoneInclusion
        With ``affine``.
    step : float
        Positive.

    Raises
    ------
    ParameterError
        F is not affine, or G is not 0.
    """
    import scipy.linalg as la

    if problem.affine is None or problem.prox is not None:
        raise ParameterError(
            "an exact resolvent needs F=(M, q) and no prox; use InexactHalpern or FastExtraGradient"
        )
    M, q = problem.affine
    if sp.issparse(M):
        factor = spla.splu(sp.csc_array(sp.eye_array(M.shape[0]) + step * M, dtype=np.float64))
        solve = factor.solve
    else:
        lu = la.lu_factor(np.eye(len(q)) + step * np.asarray(M, np.float64))

        def solve(b: Any) -> Any:
            return la.lu_solve(lu, b)

    shift = step * np.asarray(q, np.float64)
    return lambda z: np.asarray(solve(np.asarray(z, np.float64) - shift), z.dtype)
