"""Generalised linear models: a loss of linear predictors, with oracles by block of variables."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate import design
from lowrank_opt.block_coordinate.losses import (
    Huber,
    Logistic,
    Poisson,
    Softmax,
    Squared,
    loss_curvature,
    loss_slope,
    total_loss,
    weigh,
)
from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import Interval, did_you_mean, validate_parameters
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.numerics._arrays import real_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["GLMProblem"]

_LOSSES = {
    "squared": Squared,
    "logistic": Logistic,
    "softmax": Softmax,
    "huber": Huber,
    "poisson": Poisson,
}
# Largest third derivative of the logistic function, log(1 + exp(z)).
_THIRD = 1.0 / (6.0 * np.sqrt(3.0))


@dataclass(frozen=True, eq=False, repr=False)
class GLMProblem(Problem):
    r"""Generalised linear model: a smooth sum of losses.

    .. math:: \min_{w, b}\; \sum_i s_i\, \ell(y_i, x_i^\top w + b) + \frac{\lambda_2}2 \|w\|^2

    A sum, not a mean: an estimator's penalty ``alpha`` is ``n * alpha`` here. Add a penalty with
    :class:`~lowrank_opt.block_coordinate.CompositeProblem`.

    Parameters
    ----------
    X : array-like or scipy sparse of shape (n_samples, n_features)
        The design. float32 and float64 are kept, other numbers become float64. A Fortran-ordered
        array or a ``csc_array`` is used as it is, anything else is copied once.
    y : array-like of shape (n_samples,), or (n_samples, n_outputs) for the squared loss
        Targets: real for "squared" and "huber", -1 and 1 for "logistic", classes 0, 1, ..., k-1
        for "softmax", counts (real, at least 0) for "poisson".
    loss : {"squared", "logistic", "softmax", "huber", "poisson"} or named tuple, default="squared"
        The loss; ``Huber(delta)`` for another width than 1.35.

        ==========  ==================================================================
        "squared"   :math:`\tfrac12 (z - y)^2`
        "logistic"  :math:`\log(1 + e^{-y z})`
        "softmax"   :math:`\log \sum_c e^{z_c} - z_y`
        "huber"     quadratic up to ``delta``, then linear with slope ``delta``
        "poisson"   :math:`e^z - y z`
        ==========  ==================================================================
    l2 : float, default=0.0
        Weight of the squared norm of the coefficients, at least 0.
    sample_weight : array-like of shape (n_samples,) or None, default=None
        Weights of the samples, at least 0.
    fit_intercept : bool, default=False
        Whether there is an intercept. It is never penalised.

    Attributes
    ----------
    smooth, penalty : GLMProblem, None
        Itself, and no penalty.
    shape : tuple of int
        ``(n_samples, n_features)``.
    n_outputs : int
        Columns of coefficients.
    x_shape : tuple of int
        Shape of a point: ``(n_features,)``, with `fit_intercept` ``(n_features + 1,)`` and the
        intercept last; with several outputs ``(n_features [+ 1], n_outputs)``.
    n_variables : int
        Numbers in a point.
    scale : float
        Loss of the null model (all coefficients 0, the best intercept) above the smallest loss
        there is: the unit of relative gaps.
    null_gradient : float
        Largest absolute derivative by a coefficient at the null model: the unit of relative
        gradients, and the smallest weight of an L1 penalty for which all coefficients are 0.
    dtype : dtype
        float32 or float64, that of `X` and of points.

    Raises
    ------
    ProblemError
        Data that are not finite, empty, of shapes that do not fit, or not targets of the loss; a
        single class; weights that are negative or all 0.
    ParameterError
        An unknown loss; a negative `l2`.

    Notes
    -----
    The oracles by block number the variables of a point row by row: variable ``i`` of a point of
    shape ``(rows, k)`` is in row ``i // k`` and output ``i % k``. They work on a point ``x``,
    flat and in float64, and on its predictors ``z``, which :meth:`start` makes and :meth:`move`
    keeps up to date.

    The certificate's residual is the largest derivative over `null_gradient`.
    `X` is kept, not copied where it need not be: do not change it while the problem is in use.

    `auto_solver` is :class:`~lowrank_opt.block_coordinate.BlockCoordinateDescent`.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import GLMProblem
    >>> problem = GLMProblem(np.eye(2), [1.0, 3.0])
    >>> problem.objective(np.zeros(2)), problem.null_gradient
    (5.0, 3.0)
    """

    X: Any
    y: Any
    loss: Any = "squared"
    _: KW_ONLY
    l2: float = 0.0
    sample_weight: Any = None
    fit_intercept: bool = False

    def __post_init__(self) -> None:
        validate_parameters(
            "GLMProblem",
            {"l2": self.l2, "fit_intercept": self.fit_intercept},
            {"l2": [Interval(Real, 0, None, closed="left")], "fit_intercept": ["boolean"]},
        )
        put = object.__setattr__
        put(self, "loss", _as_loss(self.loss))
        put(self, "l2", float(self.l2))
        put(self, "fit_intercept", bool(self.fit_intercept))
        put(self, "X", design.as_design("X", self.X))
        put(self, "sample_weight", _weights(self.sample_weight, self.X.shape[0]))
        put(self, "y", self._targets(self.y))
        if isinstance(self.loss, Squared) and self.y.ndim == 1:
            from lowrank_opt.block_coordinate.squared_design import visit

            # One visit for the check, and for what the solver starts from.
            first = visit(self)
            design.check_squares("X", self.X, first.raw)
            put(self, "first_visit", first)
            squares = first.raw
        else:
            squares = design.column_squares("X", self.X, self.sample_weight)
        put(self, "column_squares", squares)

    def _targets(self, y: Any) -> NDArray[Any]:
        n = self.X.shape[0]
        y = np.array(real_array("y", y)[0], np.float64)
        many = isinstance(self.loss, Squared) and y.ndim == 2
        if len(y.shape) == 0 or len(y) != n or not (y.ndim == 1 or many):
            expected = f"({n},)" + (
                f" or ({n}, n_outputs)" if isinstance(self.loss, Squared) else ""
            )
            raise ProblemError(f"y has shape {y.shape}; X has {n} samples: expected {expected}")
        if many and y.shape[1] == 0:
            raise ProblemError(f"y has shape {y.shape}; give at least one output")
        live = y if self.sample_weight is None else y[self.sample_weight > 0]
        if isinstance(self.loss, Logistic):
            _check_values("y", y, (y == 1) | (y == -1), "-1 or 1 for the logistic loss")
            if np.ptp(live) == 0:
                raise ProblemError(
                    f"y has a single class, {live[0]:g}, among the samples of positive weight; "
                    "two are needed"
                )
        elif isinstance(self.loss, Poisson):
            _check_values("y", y, y >= 0, "at least 0 for the Poisson loss")
            if not live.any() and self.fit_intercept:
                raise ProblemError(
                    "y is 0 throughout: the best intercept of a Poisson model is minus infinity"
                )
        elif isinstance(self.loss, Softmax):
            whole = (y >= 0) & (y == np.floor(y))
            _check_values("y", y, whole, "one of the classes 0, 1, ... for the softmax loss")
            k = int(y.max()) + 1
            missing = np.setdiff1d(np.arange(max(k, 2)), live)
            if missing.size:
                raise ProblemError(
                    f"y has no sample (of positive weight) of class {missing[0]}; number the "
                    "classes 0, 1, ..., k-1 and give at least two"
                )
            y = (y[:, None] == np.arange(k)).astype(np.float64)
        return np.ascontiguousarray(y)

    # -- description ----------------------------------------------------------------------------

    @property
    def smooth(self) -> GLMProblem:
        """The problem itself."""
        return self

    @property
    def penalty(self) -> None:
        """No penalty."""
        return

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of samples and features."""
        return int(self.X.shape[0]), int(self.X.shape[1])

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return self.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.shape[1]

    @property
    def n_outputs(self) -> int:
        """Columns of coefficients."""
        return 1 if self.y.ndim == 1 else int(self.y.shape[1])

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of a point."""
        rows = self.n_features + self.fit_intercept
        return (rows,) if self.y.ndim == 1 else (rows, self.n_outputs)

    @property
    def n_variables(self) -> int:
        """Numbers in a point."""
        return (self.n_features + self.fit_intercept) * self.n_outputs

    @property
    def n_coefficients(self) -> int:
        """Numbers in a point without the intercept; they come first."""
        return self.n_features * self.n_outputs

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of design and points."""
        return np.dtype(self.X.dtype)

    @property
    def measure(self) -> str:
        """What the certificate's residual measures."""
        return "subgradient"

    def __repr__(self) -> str:
        kind = "sparse " if sp.issparse(self.X) else ""
        text = f"GLMProblem({kind}{self.n_samples}x{self.n_features}, {self.loss!r}"
        for name, default in (("l2", 0.0), ("fit_intercept", False)):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)!r}"
        return text + (", weighted)" if self.sample_weight is not None else ")")

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape, parameters and a hash of the data."""
        X = [self.X.data, self.X.indices, self.X.indptr] if sp.issparse(self.X) else [self.X.T]
        return {
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "loss": repr(self.loss),
            "l2": self.l2,
            "fit_intercept": self.fit_intercept,
            "hash": digest(*X, self.y, self.sample_weight),
        }

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Block coordinate descent; see the class."""
        return "BlockCoordinateDescent", {}

    # -- the null model ---------------------------------------------------------------------------

    @cached_property
    def null_intercept(self) -> NDArray[Any]:
        """Best intercepts of the model without coefficients, of shape (n_outputs,)."""
        if not self.fit_intercept:
            return np.zeros(self.n_outputs)
        s = np.ones(self.n_samples) if self.sample_weight is None else self.sample_weight
        mean = np.atleast_1d(s @ self.y / s.sum())
        if isinstance(self.loss, Logistic):
            return np.log((1.0 + mean) / (1.0 - mean))
        if isinstance(self.loss, (Softmax, Poisson)):
            return np.log(mean)
        if isinstance(self.loss, Huber):
            return np.array([_huber_location(self.y, s, self.loss.delta)])
        return mean

    def _null_predictors(self) -> NDArray[Any]:
        z = np.broadcast_to(self.null_intercept, (self.n_samples, self.n_outputs))
        return z.reshape(self.y.shape)

    @cached_property
    def scale(self) -> float:
        """Loss of the null model above the smallest loss there is; positive."""
        least, y = 0.0, self.y
        if isinstance(self.loss, Poisson):
            rates = y - y * np.log(np.where(y > 0, y, 1.0))
            least = float(
                np.sum(rates if self.sample_weight is None else self.sample_weight @ rates)
            )
        value = self._loss(self._null_predictors()) - least
        squares = (
            np.sum(y * y) if self.sample_weight is None else np.sum(self.sample_weight @ (y * y))
        )
        # Constant targets leave rounding; what is below it is not a unit.
        return max(value, 1e-28 * float(squares)) or 1.0

    @cached_property
    def null_gradient(self) -> float:
        """Largest absolute derivative by a coefficient at the null model; positive."""
        slope = self.slopes(self._null_predictors())
        products = -design.transposed_times(self.X, slope)
        if products.ndim == 1:  # solvers start from them
            self.__dict__.setdefault("null_products", products)
        gradient = float(np.abs(products).max())
        norm = float(np.sqrt(self.column_squares.max()))
        floor = 1e-15 * norm * float(np.linalg.norm(slope))
        return max(gradient, floor) or 1.0

    # -- points -----------------------------------------------------------------------------------

    def flat(self, x: Any) -> NDArray[Any]:
        """Return a point as a flat float64 array of its own.

        Parameters
        ----------
        x : array-like of shape `x_shape`
            A point.

        Raises
        ------
        ProblemError
            Another shape, or numbers that are not finite.
        """
        array = real_array("x", x)[0]
        if array.shape != self.x_shape:
            last = ", with the intercept last" if self.fit_intercept else ""
            raise ProblemError(
                f"x has shape {array.shape}; a point of {self!r} has shape {self.x_shape}{last}"
            )
        return np.array(array, np.float64).reshape(-1)

    def shaped(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return a flat point in the problem's shape and dtype, as an array of its own."""
        return np.array(x, self.dtype).reshape(self.x_shape)

    def split(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return views of coefficients ``(p,)`` or ``(p, k)`` and intercepts ``(k,)``.

        Parameters
        ----------
        x : ndarray
            A point, flat or shaped; its intercepts are empty for models without.
        """
        x = x.reshape(self.x_shape)
        return x[: self.n_features], np.atleast_1d(x[self.n_features :].reshape(-1))

    def predictor(self, x: Any) -> NDArray[Any]:
        """Return ``X w + b`` in float64, of the shape of ``y``.

        Parameters
        ----------
        x : array-like of shape `x_shape`
            A point.
        """
        return self.start(self.flat(x))

    def objective(self, x: Any) -> float:
        """Objective at `x`."""
        flat = self.flat(x)
        return self.value_at(self.start(flat), flat)

    def gradient(self, x: Any, out: Any = None) -> NDArray[Any]:
        """Gradient at `x`, in its shape and dtype."""
        flat = self.flat(x)
        g = self.shaped(self.gradient_at(self.start(flat), flat))
        if out is None:
            return g
        out[...] = g
        return out

    def certificate(self, x: Any) -> Certificate:
        """Grade `x` by the largest derivative relative to that of the null model."""
        from lowrank_opt.block_coordinate.certificates import grade

        return grade(self, None, x)

    # -- oracles by block -------------------------------------------------------------------------

    def start(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the predictors of a flat point."""
        w, b = self.split(x)
        z = design.times(self.X, w)
        if self.fit_intercept:
            z += b if z.ndim == 2 else b[0]
        return z

    def value_at(self, work: NDArray[Any], x: NDArray[Any]) -> float:
        """Return the objective at a flat point with predictors `work`."""
        w = x[: self.n_coefficients]
        ridge = 0.5 * self.l2 * float(w @ w) if self.l2 else 0.0
        return self._loss(work) + ridge

    def _loss(self, z: NDArray[Any]) -> float:
        return total_loss(self.loss, self.y, z, self.sample_weight)

    def _by_sample(self, v: NDArray[Any]) -> NDArray[Any]:
        """Numbers of samples, to be multiplied with arrays of the shape of ``y``."""
        return v if self.y.ndim == 1 else v[:, None]

    def slopes(self, work: NDArray[Any]) -> NDArray[Any]:
        """Return the weighted derivatives of the losses by the predictors, in their shape."""
        return weigh(loss_slope(self.loss, self.y, work), self.sample_weight)

    def gradient_at(self, work: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient, flat, at a flat point with predictors `work`."""
        slope = self.slopes(work)
        g = np.empty(self.n_variables)
        m = self.n_coefficients
        g[:m] = design.transposed_times(self.X, slope).reshape(-1)
        if self.l2:
            g[:m] += self.l2 * x[:m]
        if self.fit_intercept:
            g[m:] = slope.sum(axis=0)
        return g

    def _rows(self, b: NDArray[Any]) -> tuple[Any, NDArray[Any], NDArray[Any]]:
        """Columns of the design of a block; for each variable which of them, and its output."""
        k = self.n_outputs
        rows, which = np.unique(np.asarray(b) // k, return_inverse=True)
        return design.columns(self.X, rows, self.fit_intercept), which, np.asarray(b) % k

    def _ridge(self, b: NDArray[Any]) -> NDArray[Any]:
        return np.where(np.asarray(b) < self.n_coefficients, self.l2, 0.0)

    def block_gradient(self, work: NDArray[Any], x: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        """Return the derivatives by the variables `b`."""
        A, which, output = self._rows(b)
        g = np.asarray(A.T @ self.slopes(work))
        g = g[which] if g.ndim == 1 else g[which, output]
        return g + self._ridge(b) * x[b] if self.l2 else g

    def block_hessian(self, work: NDArray[Any], x: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        """Return the Hessian of the variables `b`, of shape (len(b), len(b))."""
        A, which, output = self._rows(b)
        s = self.sample_weight
        if isinstance(self.loss, Softmax):
            H = self._softmax_hessian(A, which, output, work)
        elif isinstance(self.loss, Squared):
            H = design.gram(A, s)[np.ix_(which, which)] * (output[:, None] == output)
        else:
            h = loss_curvature(self.loss, self.y, work)
            H = design.gram(A, h if s is None else h * s)[np.ix_(which, which)]
        H[np.diag_indices(len(b))] += self._ridge(b)
        return H

    def _softmax_hessian(self, A: Any, which: Any, output: Any, z: NDArray[Any]) -> NDArray[Any]:
        P = np.exp(z - z.max(axis=1, keepdims=True))
        P /= P.sum(axis=1, keepdims=True)
        dense = A.toarray() if sp.issparse(A) else A
        columns = dense[:, which]
        weighted = columns * P[:, output]
        s = 1.0 if self.sample_weight is None else self.sample_weight[:, None]
        same = output[:, None] == output
        H: NDArray[Any] = np.where(same, columns.T @ (s * weighted), 0.0)
        H -= weighted.T @ (s * weighted)
        return H

    def block_bound(self, b: NDArray[Any]) -> NDArray[Any]:
        """Return a matrix that is above the Hessian of the variables `b` at every point.

        Raises
        ------
        ParameterError
            For the Poisson loss, whose Hessian has no bound.
        """
        A, which, output = self._rows(b)
        H = design.gram(A, self.sample_weight)[np.ix_(which, which)]
        if isinstance(self.loss, Softmax):
            k = min(self.n_outputs, len(np.unique(output)) + 1)
            H = H * (0.5 * ((output[:, None] == output) - 1.0 / k))
        elif isinstance(self.loss, Squared):
            H = H * (output[:, None] == output)
        else:
            H = H * self._curvature_bound()
        H[np.diag_indices(len(b))] += self._ridge(b)
        return H

    def _curvature_bound(self) -> float:
        if isinstance(self.loss, Poisson):
            raise ParameterError(
                "the Hessian of the Poisson loss has no bound: choose update='newton', or "
                "'lipschitz_search'"
            )
        return 0.25 if isinstance(self.loss, (Logistic, Softmax)) else 1.0

    @cached_property
    def lipschitz(self) -> NDArray[Any]:
        """Lipschitz constants of the partial derivatives; infinite for the Poisson loss."""
        squares = np.append(self.column_squares, self._total) if self.fit_intercept else (
            self.column_squares
        )  # fmt: skip
        factor = np.inf if isinstance(self.loss, Poisson) else self._curvature_bound()
        with np.errstate(invalid="ignore"):
            constants = np.nan_to_num(factor * squares, nan=0.0, posinf=np.inf)
        constants[: self.n_features] += self.l2
        return np.repeat(constants, self.n_outputs)

    @property
    def _total(self) -> float:
        if self.sample_weight is None:
            return float(self.n_samples)
        return float(self.sample_weight.sum())

    def third_order(self, b: NDArray[Any]) -> float:
        """Return a Lipschitz constant of the Hessian of the variables `b`; infinite without one."""
        if isinstance(self.loss, Squared):
            return 0.0
        if not isinstance(self.loss, (Logistic, Softmax)):
            return np.inf
        A, _, output = self._rows(b)
        squares = np.asarray((A.multiply(A) if sp.issparse(A) else A * A).sum(axis=1)).ravel()
        # A random variable of range r has a third central moment of at most r^3 / (6 sqrt 3).
        spread = 1.0 if isinstance(self.loss, Logistic) or len(np.unique(output)) == 1 else 2.0
        s = 1.0 if self.sample_weight is None else self.sample_weight
        return float(np.sum(s * (spread * squares) ** 1.5)) * _THIRD

    def direction(self, b: NDArray[Any], d: NDArray[Any]) -> NDArray[Any]:
        """Return the change of the predictors for a step `d` of the variables `b`."""
        A, which, output = self._rows(b)
        if self.n_outputs == 1 and self.y.ndim == 1:
            step = np.zeros(A.shape[1])
            np.add.at(step, which, d)
        else:
            step = np.zeros((A.shape[1], self.n_outputs))
            np.add.at(step, (which, output), d)
        return np.asarray(A @ step)

    def value_along(
        self, work: NDArray[Any], x: NDArray[Any], b: NDArray[Any], d: NDArray[Any],
        direction: NDArray[Any], t: float,
    ) -> float:  # fmt: skip
        """Return the objective at ``x + t d`` on the variables `b`; costs one pass over samples.

        Parameters
        ----------
        work, x : ndarray
            Predictors and flat point.
        b, d : ndarray
            Variables and their step.
        direction : ndarray
            What :meth:`direction` returns for them.
        t : float
            Length.
        """
        value = self._loss(work + t * direction)
        if self.l2:
            w, ridge = x[: self.n_coefficients], self._ridge(b)
            cross = float(ridge @ (x[b] * d)) * t + 0.5 * t * t * float(ridge @ (d * d))
            value += 0.5 * self.l2 * float(w @ w) + cross
        return value

    def move(
        self, work: NDArray[Any], x: NDArray[Any], b: NDArray[Any], d: NDArray[Any],
        direction: NDArray[Any] | None = None,
    ) -> None:  # fmt: skip
        """Add `d` to the variables `b` of `x`, and its effect to `work`, in place."""
        x[b] += d
        work += self.direction(b, d) if direction is None else direction

    @cached_property
    def bound_row_sums(self) -> NDArray[Any]:
        """Sums over a row of absolute values of the bound of the whole Hessian.

        Cost: one product of the design with itself, in blocks.
        """
        p = self.n_features + self.fit_intercept
        everything = design.columns(self.X, np.arange(p), self.fit_intercept)
        sums = np.empty(p)
        width = max(1, (1 << 22) // p)
        for first in range(0, p, width):
            part = everything[:, first : first + width]
            sums[first : first + width] = np.abs(
                design.gram(part, self.sample_weight, everything)
            ).sum(axis=1)
        if isinstance(self.loss, Softmax):
            sums *= 1.0 - 1.0 / self.n_outputs
        else:
            sums *= self._curvature_bound()
        sums[: self.n_features] += self.l2
        return np.repeat(sums, self.n_outputs)

    def bound_matvec(self, v: NDArray[Any]) -> NDArray[Any]:
        """Return the product of the bound of the whole Hessian with a flat vector."""
        s = self.sample_weight
        z = self.start(v)
        if s is not None:
            z *= self._by_sample(s)
        out = np.empty(self.n_variables)
        m = self.n_coefficients
        out[:m] = design.transposed_times(self.X, z).reshape(-1)
        if self.fit_intercept:
            out[m:] = z.sum(axis=0)
        if isinstance(self.loss, Softmax):
            table = out.reshape(-1, self.n_outputs)
            out = (0.5 * (table - table.mean(axis=1, keepdims=True))).reshape(-1)
        else:
            out *= self._curvature_bound()
        out[:m] += self.l2 * v[:m]
        return out

    @property
    def coupling(self) -> None:
        """Pattern of the Hessian: not sparse in general."""
        return


def _as_loss(loss: Any) -> Any:
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise ParameterError(
                f"loss={loss!r} must be one of {', '.join(_LOSSES)}." + did_you_mean(loss, _LOSSES)
            )
        return _LOSSES[loss]()
    if not isinstance(loss, tuple(_LOSSES.values())):
        raise ParameterError(
            f"loss={loss!r} must be one of {', '.join(_LOSSES)}, or a named tuple such as "
            "Huber(1.0)"
        )
    if isinstance(loss, Huber) and not (np.isfinite(loss.delta) and loss.delta > 0):
        raise ParameterError(f"Huber: delta={loss.delta!r} must be a finite number above 0")
    return loss


def _weights(weights: Any, n: int) -> NDArray[Any] | None:
    if weights is None:
        return None
    array = np.array(real_array("sample_weight", weights)[0], np.float64)
    if array.shape != (n,):
        raise ProblemError(
            f"sample_weight has shape {array.shape}; X has {n} samples: expected ({n},)"
        )
    _check_values("sample_weight", array, array >= 0, "at least 0")
    if not array.any():
        raise ProblemError("sample_weight is 0 for all samples; give some a positive weight")
    return array


def _check_values(name: str, values: NDArray[Any], good: NDArray[Any], expected: str) -> None:
    if not good.all():
        i = int(np.argmin(good))
        raise ProblemError(f"{name}[{i}] = {values[i]:g}; it must be {expected}")


def _huber_location(y: NDArray[Any], s: NDArray[Any], delta: float) -> float:
    """Minimiser over b of the weighted Huber losses of ``b - y``: the root of a rising function."""
    low, high = float(y.min()), float(y.max())
    b = float(np.median(y))
    for _ in range(200):
        r = b - y
        slope = float(s @ np.clip(r, -delta, delta))
        low, high = (low, b) if slope > 0 else (b, high)
        curvature = float(s @ (np.abs(r) < delta))
        step = b - slope / curvature if curvature > 0 else low - 1.0
        new = step if low <= step <= high else 0.5 * (low + high)
        if new == b or slope == 0.0:
            break
        b = new
    return b
