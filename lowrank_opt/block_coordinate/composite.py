"""A smooth part and a penalty of its coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.block_coordinate.glm import GLMProblem
from lowrank_opt.block_coordinate.losses import Squared
from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.problem import Certificate, Problem
from lowrank_opt.core.protocols import HasSmoothPart
from lowrank_opt.numerics.penalties import (
    L1,
    MCP,
    SCAD,
    Box,
    ElasticNet,
    GroupL1,
    NonNegative,
    SquaredL2,
    WeightedL1,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["CompositeProblem", "L1Form", "limits_of"]

_PENALTIES = (L1, WeightedL1, ElasticNet, Box, NonNegative, GroupL1, MCP, SCAD, SquaredL2)


def limits_of(alpha: float, weights: Any) -> NDArray[Any]:
    """Return ``alpha * weights``, where an infinite weight is infinite even times 0.

    Parameters
    ----------
    alpha : float
        At least 0.
    weights : array-like
        At least 0.
    """
    weights = np.asarray(weights, np.float64)
    fixed = np.isinf(weights)
    return np.where(fixed, np.inf, alpha * np.where(fixed, 1.0, weights))


class L1Form(NamedTuple):
    """``lam * sum weights_j |w_j| + mu / 2 |w|^2``, with w >= 0 if `positive`."""

    lam: float
    weights: Any
    mu: float
    positive: bool


@dataclass(frozen=True, eq=False, repr=False)
class CompositeProblem(Problem):
    r"""Smooth part plus penalty: :math:`\min_x\; f(x) + h(w)`, w the coefficients of x.

    Parameters
    ----------
    smooth : GLMProblem or QuadraticProblem
        The smooth part. Its intercept, if it has one, is not penalised.
    penalty : named tuple
        One of :mod:`lowrank_opt.numerics`: ``L1``, ``WeightedL1`` (a weight of 0 leaves its
        coefficient free, an infinite one keeps it at 0), ``ElasticNet``, ``SquaredL2``, ``Box``,
        ``NonNegative``, ``GroupL1``, and the non-convex ``MCP`` and ``SCAD``. Those of single
        numbers act on all numbers of several outputs; groups are of rows.

    Attributes
    ----------
    x_shape, dtype, scale, null_gradient
        Those of the smooth part.
    measure : {"gap", "subgradient"}
        What the certificate's residual is, see the notes.

    Raises
    ------
    ProblemError
        Weights or groups of a length that does not fit.
    ParameterError
        A parameter of the penalty is out of range, or it is none of those above.

    Notes
    -----
    The certificate's residual is the duality gap over ``scale`` where the dual has a point that
    is easily found: for a generalised linear model with a convex penalty whose weights are
    positive, or with a ridge term. The gap is then a true one: the objective minus a proved lower
    bound on the optimal value, up to rounding.

    Otherwise (quadratics; infinite bounds; ``NonNegative(0)``; coefficients without penalty, but
    not with the squared loss, where they are projected out; non-convex penalties) it is the
    largest distance of minus a derivative to the subdifferential of the penalty over
    ``null_gradient``. For ``GroupL1`` that distance is the norm over a group. For non-convex
    penalties it says that the point is stationary, no more.

    `auto_solver` is :class:`~lowrank_opt.block_coordinate.SparseGLMSolver` for generalised linear
    models and :class:`~lowrank_opt.block_coordinate.BlockCoordinateDescent` for quadratics and for
    ``SquaredL2``.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem
    >>> from lowrank_opt.numerics import L1
    >>> problem = CompositeProblem(GLMProblem(np.eye(2), [1.0, 3.0]), L1(1.0))
    >>> x = np.array([0.0, 2.0])
    >>> problem.objective(x), round(problem.certificate(x).gap, 12)
    (3.0, 0.0)
    """

    smooth: Any
    penalty: Any

    def __post_init__(self) -> None:
        if not isinstance(self.smooth, HasSmoothPart) or self.smooth.penalty is not None:
            raise ProblemError(
                f"smooth is {self.smooth!r}; a problem without a penalty is needed, such as "
                "GLMProblem(X, y) or QuadraticProblem(A, b)"
            )
        if not isinstance(self.penalty, _PENALTIES):
            raise ParameterError(
                f"penalty is {self.penalty!r}; expected one of "
                + ", ".join(p.__name__ for p in _PENALTIES)
                + " of lowrank_opt.numerics, such as L1(0.1)"
            )
        self.penalty.check()
        rows, k = self.smooth.n_coefficients // self.smooth.n_outputs, self.smooth.n_outputs
        pen = self.penalty
        if isinstance(pen, WeightedL1):
            weights = np.array(pen.weights, np.float64)
            if weights.shape not in ((rows,), self._coefficient_shape):
                raise ProblemError(
                    f"WeightedL1: weights have shape {weights.shape}; expected "
                    f"{self._coefficient_shape}, one for each coefficient"
                )
            if weights.ndim < len(self._coefficient_shape):
                weights = np.repeat(weights[:, None], k, axis=1)
            object.__setattr__(self, "penalty", WeightedL1(float(pen.alpha), weights))
        elif isinstance(pen, GroupL1):
            groups = np.asarray(pen.groups)
            if groups.shape != (rows,):
                raise ProblemError(
                    f"GroupL1: groups have shape {groups.shape}; expected ({rows},), the number "
                    "of its group for each " + ("row of coefficients" if k > 1 else "coefficient")
                )

    @property
    def _coefficient_shape(self) -> tuple[int, ...]:
        shape = self.smooth.x_shape
        return (shape[0] - self.smooth.fit_intercept, *shape[1:])

    # -- description ----------------------------------------------------------------------------

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of a point."""
        shape: tuple[int, ...] = self.smooth.x_shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the data and of points."""
        return np.dtype(self.smooth.dtype)

    @property
    def scale(self) -> float:
        """Unit of relative gaps."""
        return float(self.smooth.scale)

    @property
    def null_gradient(self) -> float:
        """Unit of relative gradients."""
        return float(self.smooth.null_gradient)

    def l1_form(self) -> L1Form | None:
        """Return weights of absolute values and squares, if the penalty has nothing else.

        Returns
        -------
        L1Form or None
            The ridge term of the smooth part is in ``mu``.
        """
        pen, mu = self.penalty, getattr(self.smooth, "l2", 0.0)
        if isinstance(pen, L1):
            return L1Form(float(pen.alpha), None, mu, False)
        if isinstance(pen, WeightedL1):
            if pen.weights.ndim > 1:
                return None
            return L1Form(float(pen.alpha), pen.weights, mu, False)
        if isinstance(pen, ElasticNet):
            ridge = float(pen.alpha * (1 - pen.l1_ratio))
            return L1Form(float(pen.alpha * pen.l1_ratio), None, mu + ridge, False)
        if isinstance(pen, NonNegative):
            return L1Form(float(pen.alpha), None, mu, True)
        return None

    @cached_property
    def measure(self) -> str:
        """What the certificate's residual is: ``"gap"`` or ``"subgradient"``."""
        smooth, pen = self.smooth, self.penalty
        if not isinstance(smooth, GLMProblem) or isinstance(pen, (MCP, SCAD)):
            return "subgradient"
        if smooth.l2 > 0 or isinstance(pen, SquaredL2):
            return "gap" if smooth.l2 > 0 or pen.alpha > 0 else "subgradient"
        if isinstance(pen, Box):
            return "gap" if np.isfinite(pen.low) and np.isfinite(pen.high) else "subgradient"
        if isinstance(pen, GroupL1):
            limits = limits_of(pen.alpha, 1.0 if pen.weights is None else pen.weights)
            return "gap" if np.min(limits) > 0 else "subgradient"
        form = self.l1_form()
        if form is not None and form.mu > 0:
            return "gap"
        if isinstance(pen, WeightedL1) and pen.alpha > 0 and (pen.weights == 0).any():
            projected = isinstance(smooth.loss, Squared) and smooth.y.ndim == 1
            return "gap" if projected and (pen.weights > 0).any() else "subgradient"
        return "gap" if pen.alpha > 0 else "subgradient"

    def __repr__(self) -> str:
        pen = self.penalty
        if isinstance(pen, WeightedL1):
            text = f"WeightedL1({pen.alpha:g}, {pen.weights.size} weights)"
        elif isinstance(pen, GroupL1):
            text = f"GroupL1({pen.alpha:g}, {int(np.max(pen.groups)) + 1} groups)"
        else:
            text = repr(pen)
        return f"CompositeProblem({self.smooth!r}, {text})"

    def fingerprint(self) -> Mapping[str, Any]:
        """That of the smooth part, and the penalty."""
        from lowrank_opt.core.problem import digest

        fields = {}
        for name, value in self.penalty._asdict().items():
            if value is None or isinstance(value, (bool, float, int)):
                fields[name] = value if value is None else float(value)
                if isinstance(value, float) and not np.isfinite(value):
                    fields[name] = repr(value)
            else:
                fields[name] = digest(np.asarray(value))
        return {**self.smooth.fingerprint(), "penalty": [type(self.penalty).__name__, fields]}

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Return working sets for generalised linear models, block descent for quadratics."""
        if isinstance(self.smooth, GLMProblem) and not isinstance(self.penalty, SquaredL2):
            return "SparseGLMSolver", {}
        return "BlockCoordinateDescent", {}

    def with_penalty(self, penalty: Any) -> CompositeProblem:
        """Return the problem with another penalty and the same smooth part, which is shared.

        Parameters
        ----------
        penalty : named tuple
            The penalty.
        """
        return CompositeProblem(self.smooth, penalty)

    # -- points -----------------------------------------------------------------------------------

    def flat(self, x: Any) -> NDArray[Any]:
        """Return a point as a flat float64 array of its own; see the smooth part.

        Parameters
        ----------
        x : array-like of shape `x_shape`
            A point.
        """
        flat: NDArray[Any] = self.smooth.flat(x)
        return flat

    def shaped(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return a flat point in the problem's shape and dtype, as an array of its own."""
        shaped: NDArray[Any] = self.smooth.shaped(x)
        return shaped

    def coefficients(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the part of a flat point that is penalised, in its shape: a view."""
        return x[: self.smooth.n_coefficients].reshape(self._coefficient_shape)

    def objective(self, x: Any) -> float:
        """Objective at `x`; infinite outside bounds."""
        flat = self.flat(x)
        smooth = float(self.smooth.value_at(self.smooth.start(flat), flat))
        return smooth + self.penalty_value(flat)

    def penalty_value(self, x: NDArray[Any]) -> float:
        """Return the penalty of a flat point."""
        return float(self.penalty.value(self.coefficients(x)))

    def gradient(self, x: Any, out: Any = None) -> NDArray[Any]:
        """Gradient of the smooth part at `x`, in its shape and dtype."""
        gradient: NDArray[Any] = self.smooth.gradient(x, out)
        return gradient

    def prox(self, x: Any, step: float) -> NDArray[Any]:
        """Proximal operator of the penalty at `x`; intercepts stay.

        Parameters
        ----------
        x : array-like of shape `x_shape`
            A point.
        step : float
            Above 0.
        """
        flat = self.flat(x)
        w = self.coefficients(flat)
        w[...] = self.penalty.prox(w.copy(), step)
        return self.shaped(flat)

    def certificate(self, x: Any) -> Certificate:
        """Grade `x` by its relative duality gap, or by its relative subgradient; see the class."""
        from lowrank_opt.block_coordinate.certificates import grade

        return grade(self.smooth, self.penalty, x, self.measure)
