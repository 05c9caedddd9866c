"""Optimal transport with a cap on the nonzeros of every column or row."""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.backend import Backend
from lowrank_opt.core.errors import (
    AccuracyWarning,
    InfeasibleError,
    ParameterError,
    ProblemError,
    ProblemTypeError,
)
from lowrank_opt.core.params import Interval, StrOptions, validate_parameters
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.numerics._arrays import real_array
from lowrank_opt.transport import canonical as rows_of
from lowrank_opt.transport.canonical import Canonical
from lowrank_opt.transport.certificates import Sides, dual_value, grade, independent_cost
from lowrank_opt.transport.costs import DenseCost, PointCost, SparseCost, restrict
from lowrank_opt.transport.plan import TransportPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = ["NNZ_THRESHOLD", "TransportProblem"]

# Entries up to this part of the mass of their column count as zero.
NNZ_THRESHOLD = 1e-12
# Less than this part of the range of costs is rounding.
_LEFT = 1e-9
# How far the totals of balanced masses may lie apart, by their precision.
_BALANCE = {8: 1e-8, 4: 1e-5}
_KINDS = {
    "exact": rows_of.EXACT,
    "upper": rows_of.UPPER,
    "l2": rows_of.L2,
    "kl": rows_of.KL,
}


@dataclass(frozen=True, eq=False, repr=False)
class TransportProblem(Problem):
    r"""Optimal transport with a quadratic term and at most k nonzeros in every column (or row).

    .. math:: \min_{T \ge 0}\; \langle C, T \rangle + \frac\gamma2 \|T\|_F^2
        \quad\text{s.t.}\quad T 1 = a,\; T^\top 1 = b,\; \|t_j\|_0 \le k .

    For k < m this is not convex. Solvers solve its convex relaxation, in which
    :math:`\|t_j\|^2` is replaced by the squared k-support norm; its optimal value is the largest
    lower bound that potentials give. Where the relaxed plan has at most k nonzeros a column, it
    solves the problem itself.

    Parameters
    ----------
    a : array-like of shape (m,) or None, default=None
        Masses of the sources (rows), at least 0; ``None``: 1/m each. They need not sum to 1.
    b : array-like of shape (n,) or None, default=None
        Masses of the targets (columns), at least 0; ``None``: 1/n each.
    C : array-like or scipy sparse of shape (m, n), or None, default=None
        Costs; ``+inf``: the pair is forbidden. Sparse: stored entries are the allowed pairs, all
        others are forbidden. float32 and float64 are kept, integers become float64.
    X, Y : array-like of shape (m, d) and (n, d), or None, default=None
        Points of sources and targets, instead of `C`: the cost matrix is never formed.
    metric : {"sqeuclidean", "euclidean"}, default="sqeuclidean"
        Cost of two points: the squared Euclidean distance, or the distance.
    gamma : float, default=1.0
        Strength of the quadratic term, at least 0. What matters is ``gamma`` times the mass of a
        column against the range of the costs, see `gamma_scale`. With 0 the relaxation is plain
        optimal transport, and the cap acts only when the plan is rounded.
    max_nnz : int or None, default=None
        The cap k, at least 1; ``None``: no cap. The problem is then the quadratically regularised
        one.
    axis : {0, 1}, default=0
        What is capped: every column (0) or every row (1).
    a_upper : bool, default=False
        Whether ``T 1 <= a`` is enough: partial transport, in which all of `b` must arrive but
        not all of `a` must leave. With ``axis=0``.
    b_upper : bool, default=False
        The same for the columns, ``T' 1 <= b``; with ``axis=1``.
    unbalanced : {"kl", "l2"} or None, default=None
        Replace the marginal constraint on the side without the cap (rows for ``axis=0``) by
        ``marginal_weight * KL(T 1 | a)`` or ``marginal_weight / 2 * ||T 1 - a||^2``.
    marginal_weight : float, default=1.0
        Weight of that penalty, positive; large ones approach the constraint.
    gamma_scale : {"absolute", "relative"}, default="absolute"
        ``"relative"``: multiply `gamma` by the range of the (finite) costs, less their row and
        column means, over the mean mass of a capped column, so that 1 is a strong regularisation
        whatever the units, and wherever points are.

    Attributes
    ----------
    shape : tuple of int
        ``(m, n)``.
    dtype : dtype
        float32 or float64, of costs or points; plans have it.
    cap : int
        The cap; the length of the capped columns without one.
    strength : float
        `gamma` in the units of the objective.

    Raises
    ------
    ProblemError
        Masses that are negative, not finite or of different totals; costs with NaN or ``-inf``;
        shapes that do not fit; neither or both of costs and points.
    InfeasibleError
        A mass without an allowed pair; fewer places than masses (``n k < m``).
    ParameterError
        A parameter is out of range.

    Warns
    -----
    AccuracyWarning
        A cap above the number of rows; a cap with ``gamma=0``; fewer places than a plan for
        masses in general position needs (``n k < m + n - 1``).

    Notes
    -----
    A point of the problem, ``Result.x``, is a
    :class:`~lowrank_opt.transport.TransportPlan`: a sparse plan with its potentials. The
    certificate's residual is the largest of the marginal residuals of the relaxed plan, relative
    to the total mass, and its relative Lagrangian gap. That is relative to the quadratic term (and
    penalty), plus the smaller of the plan's absolute costs and of what the plan costs less than
    ``a b' / sum(a)``, which does not look at the costs: numbers that are added to rows or columns
    of the costs count for nothing. The certificate's gap is the value of the plan itself minus a
    proved lower bound on the value of every feasible plan with at most k nonzeros a column.
    `C`, `X` and `Y` are kept, not copied: do not change them while the problem is in use.

    `auto_solver` is :class:`~lowrank_opt.transport.SparsityConstrainedOT`.

    References
    ----------
    .. [1] T. Liu, J. Puigcerver, M. Blondel, "Sparsity-Constrained Optimal Transport", ICLR 2023.
       :arxiv:`2209.15466`
    .. [2] M. Blondel, V. Seguy, A. Rolet, "Smooth and Sparse Optimal Transport", AISTATS 2018.
       :arxiv:`1710.06276`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.transport import TransportProblem
    >>> problem = TransportProblem([0.5, 0.5], [0.5, 0.5], np.array([[0.0, 1.0], [1.0, 0.0]]),
    ...                            max_nnz=1)
    >>> problem.shape, problem.cap
    ((2, 2), 1)
    >>> problem.objective(np.diag([0.5, 0.5]))
    0.25
    """

    a: Any = None
    b: Any = None
    C: Any = None
    _: KW_ONLY
    X: Any = None
    Y: Any = None
    metric: str = "sqeuclidean"
    gamma: float = 1.0
    max_nnz: int | None = None
    axis: int = 0
    a_upper: bool = False
    b_upper: bool = False
    unbalanced: str | None = None
    marginal_weight: float = 1.0
    gamma_scale: str = "absolute"

    def __post_init__(self) -> None:
        self._check_parameters()
        self._set_costs()
        m, n = self.shape
        for name, size in (("a", m), ("b", n)):
            object.__setattr__(self, name, _masses(name, getattr(self, name), size))
        self._check_totals()
        self._check_places()

    # -- checks -----------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        validate_parameters(
            "TransportProblem",
            {
                "metric": self.metric, "gamma": self.gamma, "max_nnz": self.max_nnz,
                "axis": self.axis, "a_upper": self.a_upper, "b_upper": self.b_upper,
                "unbalanced": self.unbalanced, "marginal_weight": self.marginal_weight,
                "gamma_scale": self.gamma_scale,
            },
            {
                "metric": [StrOptions({"sqeuclidean", "euclidean"})],
                "gamma": [Interval(Real, 0, None, closed="left")],
                "max_nnz": [None, Interval(Integral, 1, None, closed="left")],
                "axis": [Interval(Integral, 0, 1)],
                "a_upper": ["boolean"],
                "b_upper": ["boolean"],
                "unbalanced": [None, StrOptions({"kl", "l2"})],
                "marginal_weight": [Interval(Real, 0, None, closed="neither")],
                "gamma_scale": [StrOptions({"absolute", "relative"})],
            },
        )  # fmt: skip
        wrong, right = ("b_upper", "a_upper") if self.axis == 0 else ("a_upper", "b_upper")
        if getattr(self, wrong):
            raise ParameterError(
                f"TransportProblem: {wrong}=True with axis={self.axis}; only the side without the "
                f"cap can be an upper bound: give {right}, or axis={1 - self.axis}"
            )
        if self.unbalanced is not None and getattr(self, right):
            raise ParameterError(
                f"TransportProblem: {right}=True with unbalanced={self.unbalanced!r}; give one of "
                "them"
            )

    def _set_costs(self) -> None:
        points = self.X is not None or self.Y is not None
        if (self.C is not None) == points or (points and (self.X is None or self.Y is None)):
            given = [name for name in ("C", "X", "Y") if getattr(self, name) is not None]
            raise ProblemError(
                f"TransportProblem: got {', '.join(given) or 'neither C nor X and Y'}; give the "
                "costs C, or the points X and Y"
            )
        if points:
            X, Y = _points("X", self.X), _points("Y", self.Y)
            if X.shape[1] != Y.shape[1]:
                raise ProblemError(
                    f"X has shape {X.shape} and Y has shape {Y.shape}; the points must have the "
                    "same number of coordinates"
                )
            dtype = np.result_type(X, Y)
            object.__setattr__(self, "X", X.astype(dtype, copy=False))
            object.__setattr__(self, "Y", Y.astype(dtype, copy=False))
        else:
            object.__setattr__(self, "C", _costs(self.C))

    def _check_totals(self) -> None:
        with np.errstate(over="ignore"):
            total_a, total_b = float(np.sum(self.a)), float(np.sum(self.b))
        for name, total in (("a", total_a), ("b", total_b)):
            if not (np.isfinite(total) and total > 0):
                raise ProblemError(
                    f"{name} has total {total:g}; a positive, finite total is needed"
                )
        if self.unbalanced is not None:
            return
        free, fixed = ("a", "b") if self.axis == 0 else ("b", "a")
        totals = {"a": total_a, "b": total_b}
        slack = _BALANCE[min(getattr(self, n).dtype.itemsize for n in ("a", "b"))]
        if self.a_upper or self.b_upper:
            if totals[free] < totals[fixed] * (1.0 - slack):
                raise InfeasibleError(
                    f"sum({free}) = {totals[free]:.10g} is less than sum({fixed}) = "
                    f"{totals[fixed]:.10g}: all of {fixed} must be served from {free}; raise "
                    f"{free} or lower {fixed}"
                )
        elif abs(total_a - total_b) > slack * max(total_a, total_b):
            raise ProblemError(
                f"sum(a) = {total_a:.10g} and sum(b) = {total_b:.10g} differ; make them equal, "
                f"or let some mass stay ({free}_upper=True) or change (unbalanced='kl' or 'l2')"
            )

    def _check_places(self) -> None:
        m, n = (np.count_nonzero(v) for v in (self._oriented.a, self._oriented.b))
        length = self.shape[self.axis]
        row, column = ("row", "column") if self.axis == 0 else ("column", "row")
        if self.max_nnz is not None and self.max_nnz > length:
            _warn(
                f"max_nnz={self.max_nnz} is more than the {length} entries of a {column}: there "
                "is no cap"
            )
        self._check_allowed(row, column)
        k = self.cap
        if k >= length:
            return
        if self.strength == 0:
            why = "gamma=0" if self.gamma == 0 else "gamma relative to costs without a range"
            _warn(
                f"{why} with max_nnz={k}: the relaxation does not see the cap, which acts only "
                "when the plan is rounded; give gamma > 0"
            )
        if self.unbalanced is not None or self.a_upper or self.b_upper:
            return
        if n * k < m:
            raise InfeasibleError(
                f"max_nnz={k}: {n} {column}s with {k} places each cannot serve {m} {row}s of "
                f"positive mass; give max_nnz >= {-(-m // n)}"
            )
        masses = (v[v > 0] for v in (self._oriented.a, self._oriented.b))
        if n * k < m + n - 1 and not all(np.ptp(v) == 0 for v in masses):
            _warn(
                f"max_nnz={k}: {n * k} places are fewer than the {m + n - 1} that a plan for "
                "masses in general position needs: there may be no feasible plan; give max_nnz "
                f">= {-(-(m + n - 1) // n)}"
            )

    def _check_allowed(self, row: str, column: str) -> None:
        """Every positive mass needs a pair that is allowed."""
        if self.C is None:
            return
        live_a, live_b = self.a > 0, self.b > 0
        if self.unbalanced == "l2":  # a zero mass has a finite price there
            (live_a if self.axis == 0 else live_b)[:] = True
        if isinstance(self.C, np.ndarray):
            if np.isfinite(self.C).all():
                return
            allowed = np.isfinite(self.C)
            by_row, by_column = allowed[:, live_b].any(axis=1), allowed[live_a].any(axis=0)
        else:
            owner = np.repeat(np.arange(self.C.shape[1]), np.diff(self.C.indptr))
            live = live_a[self.C.indices] & live_b[owner]
            by_row, by_column = np.zeros(self.shape[0], bool), np.zeros(self.shape[1], bool)
            by_row[self.C.indices[live]] = True
            by_column[owner[live]] = True
        soft = self.unbalanced is not None or self.a_upper or self.b_upper
        for name, ok, masses, free in (
            ("a", by_row, self.a, soft and self.axis == 0),
            ("b", by_column, self.b, soft and self.axis == 1),
        ):
            stuck = np.flatnonzero(~ok & (masses > 0))
            if stuck.size and not free:
                raise InfeasibleError(
                    f"{name}[{stuck[0]}] = {masses[stuck[0]]:g} has no allowed pair: all its "
                    f"costs in C are infinite or not listed; allow one, or set {name}"
                    f"[{stuck[0]}] = 0"
                )

    # -- description ------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of sources and targets."""
        if self.C is None:
            return len(self.X), len(self.Y)
        return int(self.C.shape[0]), int(self.C.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of costs or points, and of plans."""
        return np.dtype((self.X if self.C is None else self.C).dtype)

    @property
    def cap(self) -> int:
        """Largest number of nonzeros of a column (or row)."""
        length = self.shape[self.axis]
        return length if self.max_nnz is None else min(int(self.max_nnz), length)

    @cached_property
    def strength(self) -> float:
        """`gamma` in the units of the objective."""
        if self.gamma_scale == "absolute":
            return float(self.gamma)
        masses = self._oriented.b
        return float(self.gamma) * self._cost_range() / float(np.mean(masses[masses > 0]))

    def _cost_range(self) -> float:
        """Range of the finite costs between positive masses, less the means of rows and columns.

        Such means do not change plans: points may be anywhere. Where nothing else is left, the
        range of the costs themselves.
        """
        sides = self._oriented
        rows, columns = np.flatnonzero(sides.a), np.flatnonzero(sides.b)
        a, b = sides.a[rows] / np.sum(sides.a), sides.b[columns] / np.sum(sides.b)
        width = max(1, (1 << 21) // len(sides.a))
        parts = [slice(first, first + width) for first in range(0, len(columns), width)]

        def read(part: slice) -> tuple[Any, Any]:
            targets = columns[part]
            block = sides.block(int(targets[0]), int(targets[-1]) + 1)
            block = block[targets - targets[0]][:, rows]
            return block, np.isfinite(block)

        def extend(limits: list[float], values: Any) -> None:
            if values.size:
                limits[:] = min(limits[0], float(values.min())), max(limits[1], float(values.max()))

        plain, rest = [np.inf, -np.inf], [np.inf, -np.inf]
        means, weights = np.zeros(len(rows)), np.zeros(len(rows))
        for part in parts:
            block, finite = read(part)
            extend(plain, block[finite])
            means += b[part] @ np.where(finite, block, 0.0)
            weights += b[part] @ finite
        means /= np.where(weights > 0, weights, 1.0)
        for part in parts:
            block, finite = read(part)
            block -= means
            totals = finite @ a
            of_columns = np.where(finite, block, 0.0) @ a / np.where(totals > 0, totals, 1.0)
            extend(rest, (block - of_columns[:, None])[finite])
        whole, left = (max(limits[1] - limits[0], 0.0) for limits in (plain, rest))
        rounding = max(_LEFT, 32.0 * float(np.finfo(self.dtype).eps))
        return left if left > rounding * whole else whole

    @property
    def row_kind(self) -> str:
        """What ties the sums of the side without the cap to its masses."""
        return "upper" if self.a_upper or self.b_upper else (self.unbalanced or "exact")

    def __repr__(self) -> str:
        cap = "" if self.max_nnz is None else f", max_nnz={self.max_nnz}, axis={self.axis}"
        rows = "" if self.row_kind == "exact" else f", {self.row_kind} marginals"
        return f"TransportProblem(shape={self.shape}, gamma={self.gamma:g}{cap}{rows})"

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape, parameters and a hash of the data."""
        costs = [self.C]
        if sp.issparse(self.C):
            costs = [self.C.data, self.C.indices, self.C.indptr]
        return {
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "gamma": float(self.gamma),
            "gamma_scale": self.gamma_scale,
            "cap": self.cap,
            "axis": int(self.axis),
            "rows": self.row_kind,
            "marginal_weight": float(self.marginal_weight),
            "metric": self.metric,
            "data": digest(self.a, self.b, *costs, self.X, self.Y),
        }

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """The proximal Newton method, for every cap."""
        return "SparsityConstrainedOT", {}

    # -- points -----------------------------------------------------------------------------------

    def point(self, x: Any) -> TransportPlan:
        """Return a plan with potentials from any form that a user may give.

        Parameters
        ----------
        x : TransportPlan, scipy sparse, array-like of shape (m, n), or tuple (plan, alpha)
            A plan; `alpha` are potentials of the side without the cap: of the sources, of shape
            (m,), for ``axis=0``, of the targets, of shape (n,), for ``axis=1``. Alternatively
            such an array alone, with an empty plan.

        Returns
        -------
        TransportPlan
            In float32 or float64; indices are sorted.

        Raises
        ------
        ProblemError
            A wrong shape, or numbers that are not finite.
        """
        alpha = None
        if isinstance(x, tuple) and len(x) == 2:
            x, alpha = x
        if not sp.issparse(x):
            dense, _ = real_array("x0", x)
            if dense.ndim == 1:
                alpha, x = dense, None
            else:
                x = sp.csc_array(dense)
        if x is None:
            plan = TransportPlan(self.shape, dtype=np.float64)
        elif isinstance(x, TransportPlan):
            plan = x
        else:
            plan = TransportPlan(sp.csc_array(x))
        potentials = []
        given = {"alpha": plan.alpha, "beta": plan.beta}
        if alpha is not None:
            given["alpha" if self.axis == 0 else "beta"] = alpha
        for (name, vector), size in zip(given.items(), self.shape, strict=True):
            potentials.append(None if vector is None else self._potential(name, vector, size))
        parts = self._plan("x0", plan), plan.relaxed
        if parts[1] is not None:
            parts = parts[0], self._plan("x0.relaxed", parts[1])
        old = plan, plan.relaxed, plan.alpha, plan.beta
        if all(one is other for one, other in zip((*parts, *potentials), old, strict=True)):
            return plan
        T = parts[0]
        arrays = (T.data, T.indices, T.indptr)
        return TransportPlan(
            arrays, shape=T.shape, alpha=potentials[0], beta=potentials[1], relaxed=parts[1]
        )

    @staticmethod
    def _potential(name: str, value: Any, size: int) -> Any:
        if np.shape(value) != (size,):
            raise ProblemError(
                f"x0: {name} has shape {np.shape(value)}; expected ({size},), one potential each"
            )
        vector, _ = real_array(f"x0: {name}", value, finite=False)
        if not np.isfinite(vector).all():
            raise ProblemError(f"x0: {name} has NaN or infinite potentials; give finite ones")
        return vector

    def _plan(self, name: str, part: Any) -> Any:
        """A sparse plan by columns, its entries listed once each, in order; a copy if need be."""
        if not sp.issparse(part):
            part, _ = real_array(name, part, finite=False)
        if part.shape != self.shape:
            raise ProblemError(
                f"{name} is a plan of shape {part.shape}; the problem has shape {self.shape}"
            )
        if not (sp.issparse(part) and part.format == "csc"):
            part = sp.csc_array(part)
        data, _ = real_array(name, part.data, finite=False)
        if not np.isfinite(data).all():
            raise ProblemError(f"{name} has NaN or infinite entries; give a finite plan")
        if data is not part.data:
            part = sp.csc_array((data, part.indices, part.indptr), shape=part.shape)
        if not part.has_canonical_format:
            # Two halves of an entry would count as two, with a smaller norm.
            part = sp.csc_array(part, copy=True)
            part.sum_duplicates()
        return part

    def objective(self, x: Any) -> float:
        """Return the objective with the convex penalty, ``inf`` on forbidden pairs.

        For a plan with at most k nonzeros in every column it is the objective of the problem;
        for others the quadratic term is half of gamma times the squared k-support norm.

        Parameters
        ----------
        x : object
            See :meth:`point`.

        Returns
        -------
        float
            Value.
        """
        T, alpha = self._turned(self.point(x))
        return self._grade(T, alpha)["relaxed_value"]

    def dual_value(self, alpha: ArrayLike) -> float:
        """Return a proved lower bound on the value of every feasible plan.

        Parameters
        ----------
        alpha : array-like of shape (m,)
            Any potentials of the side without the cap: of the sources for ``axis=0``; for
            ``axis=1`` of the targets, of shape (n,).

        Returns
        -------
        float
            The semi-dual objective, less a bound on its rounding errors.
        """
        alpha, _ = real_array("alpha", alpha)
        size = len(self._data.a)
        if alpha.shape != (size,):
            raise ProblemError(f"alpha has shape {alpha.shape}; expected ({size},)")
        return dual_value(self._data, alpha)[0]

    def certificate(self, x: Any) -> Certificate:
        """Grade a plan by its potentials, from the data alone.

        Parameters
        ----------
        x : object
            See :meth:`point`. Potentials that are missing count as 0.

        Returns
        -------
        Certificate
            ``residual`` and ``gap`` as in the Notes of the class. ``details``: ``dual_value``,
            ``relaxed_value``, ``lagrangian_gap``, ``relaxed_row_residual``,
            ``relaxed_col_residual`` of the relaxed plan; ``row_residual``, ``col_residual``,
            ``max_nnz``, ``cost`` of the plan itself, with residuals relative to the total mass.
            "Row" and "column" are those of the plan.
        """
        plan = self.point(x)
        T, alpha = self._turned(plan)
        own = self._grade(T, alpha)
        relaxed = own
        if plan.relaxed is not None:
            R, _ = self._turned(plan.with_potentials(plan.alpha, plan.beta), plan.relaxed)
            relaxed = self._grade(R, alpha)
        bound, _ = dual_value(self._data, alpha)
        gap = relaxed["relaxed_value"] - bound
        gap += relaxed["potential_term"]
        scale = relaxed["scale"] if relaxed["scale"] > 0 else 1.0
        slack = relaxed["complementarity"] / scale
        residual = max(
            relaxed["row_residual"] if self.unbalanced is None else 0.0,
            relaxed["col_residual"], relaxed["violation"],
            abs(gap) / scale if np.isfinite(scale) else np.inf, slack,
        )  # fmt: skip
        value = own["relaxed_value"]
        row, col = ("row", "col") if self.axis == 0 else ("col", "row")
        details = {
            "dual_value": bound,
            "relaxed_value": relaxed["relaxed_value"],
            "lagrangian_gap": gap,
            "scale": scale,
            f"relaxed_{row}_residual": relaxed["row_residual"],
            f"relaxed_{col}_residual": relaxed["col_residual"],
            f"{row}_residual": own["row_residual"],
            f"{col}_residual": own["col_residual"],
            "max_nnz": own["max_nnz"],
            "relaxed_max_nnz": relaxed["max_nnz"],
            "nnz_threshold": NNZ_THRESHOLD,
            "cost": own["cost"],
        }
        return Certificate(
            residual=residual if np.isfinite(residual) else np.inf,
            kind="largest of marginal residual and relative Lagrangian gap",
            objective=value,
            gap=value - bound,
            details=details,
        )

    def _grade(self, T: Any, alpha: Any) -> dict[str, float]:
        return grade(self._data, T, alpha, NNZ_THRESHOLD, self._independent)

    def _turned(self, plan: TransportPlan, T: Any = None) -> tuple[Any, NDArray[Any]]:
        """The plan with the cap on its columns, and the potentials of its rows."""
        T = plan if T is None else T
        alpha = plan.alpha
        if self.axis == 1:
            T, alpha = sp.csc_array(T.T), plan.beta
        alpha = np.zeros(T.shape[0]) if alpha is None else np.asarray(alpha, dtype=np.float64)
        return T, alpha

    # -- what solvers see -------------------------------------------------------------------------

    @cached_property
    def _oriented(self) -> Sides:
        """Masses and data with the cap on the columns; without `gamma`."""
        a, b, C, X, Y = self.a, self.b, self.C, self.X, self.Y
        if self.axis == 1:
            a, b, X, Y = b, a, Y, X
            C = None if C is None else sp.csc_array(C.T) if sp.issparse(C) else C.T
        return Sides(
            a.astype(np.float64), b.astype(np.float64), C, X, Y, self.metric == "sqeuclidean",
            0.0, self.cap, self.row_kind, float(self.marginal_weight),
        )  # fmt: skip

    @cached_property
    def _data(self) -> Sides:
        sides = self._oriented
        ratio = np.sum(sides.a) / np.sum(sides.b)
        # Equal totals, to the last bit that can be had; or enough for all targets.
        if self.row_kind == "exact" or (self.row_kind == "upper" and ratio < 1.0):
            sides = sides._replace(b=sides.b * ratio)
        return sides._replace(gamma=self.strength)

    @cached_property
    def _independent(self) -> tuple[float, Any]:
        """Cost and row sums of a plan that does not look at the costs: unit of relative gaps."""
        return independent_cost(self._data)

    @cached_property
    def canonical(self) -> Canonical:
        """The problem as solvers see it: cap on the columns, zero masses left out, total 1."""
        sides = self._data
        mass = float(np.sum(sides.b))
        # A soft constraint in squares has a price for rows of zero mass too, but a finite one.
        sources = np.arange(len(sides.a)) if sides.kind == "l2" else np.flatnonzero(sides.a)
        targets = np.flatnonzero(sides.b)
        b = sides.b[targets] / mass
        a = sides.a[sources] / mass
        if sides.kind == "exact":
            a /= np.sum(a)
        weight = sides.weight * mass if sides.kind == "l2" else sides.weight
        return Canonical(
            a=a, b=b / np.sum(b), cost=self._cost(sources, targets), gamma=sides.gamma * mass,
            k=min(sides.k, len(sources)), row_kind=_KINDS[sides.kind], row_weight=weight,
            mass=mass, sources=sources, targets=targets, independent=self._independent[0] / mass,
            independent_rows=self._independent[1][sources] / mass,
        )  # fmt: skip

    def _cost(self, sources: Any, targets: Any) -> DenseCost | PointCost | SparseCost:
        sides = self._oriented
        if sides.C is None:
            # Distances do not change with the origin; small coordinates keep their digits.
            center = np.mean(sides.X, axis=0, dtype=np.float64).astype(self.dtype)
            X, Y = (np.ascontiguousarray(P) for P in ((sides.X - center).T, sides.Y - center))
            cost: Any = PointCost(X, Y, bool(sides.squared))
        elif isinstance(sides.C, np.ndarray):
            C = np.ascontiguousarray(sides.C.T)
            cost = DenseCost(C if C.flags.writeable else C.copy())
        else:
            cost = SparseCost(
                sides.C.indptr.astype(np.int64), sides.C.indices.astype(np.int64),
                sides.C.data, int(sides.C.shape[0]),
            )  # fmt: skip
        if len(sources) == len(sides.a) and len(targets) == len(sides.b):
            return cost
        return restrict(cost, sources, targets)

    def lift(self, alpha: Any, plan: Any, tau: Any) -> TransportPlan:
        """Return the user's plan and potentials from those of :attr:`canonical`.

        Parameters
        ----------
        alpha : ndarray of shape (canonical.m,)
            Potentials of the sources.
        plan : tuple of ndarray
            ``(indptr, indices, values)`` of the plan, by columns, indices ascending.
        tau : ndarray of shape (canonical.n,)
            Thresholds of the columns; minus the potentials of the targets.

        Returns
        -------
        TransportPlan
            In the problem's dtype (potentials in float64), with zero masses restored: their
            potentials are such that no pair of theirs violates a dual constraint.
        """
        view, sides = self.canonical, self._oriented
        indptr, indices, values = plan
        counts = np.zeros(len(sides.b), np.int64)
        counts[view.targets] = np.diff(indptr)
        pointers = np.concatenate([[0], np.cumsum(counts)])
        parts = ((values * view.mass).astype(self.dtype), view.sources[indices], pointers)
        T = sp.csc_array(parts, shape=(len(sides.a), len(sides.b)))
        rows, cols = np.zeros(len(sides.a)), np.zeros(len(sides.b))
        rows[view.sources], cols[view.targets] = alpha, -np.asarray(tau)
        self._potentials_of_zeros(rows, cols)
        if self.axis == 1:
            return TransportPlan(sp.csc_array(T.T), alpha=cols, beta=rows)
        return TransportPlan(T, alpha=rows, beta=cols)

    def _potentials_of_zeros(self, rows: Any, cols: Any) -> None:
        """Potentials of zero masses by the c-transform, in place."""
        view, sides = self.canonical, self._oriented
        if len(view.targets) < len(cols):
            live = np.zeros(len(rows), bool)
            live[view.sources] = True
            for j in np.setdiff1d(np.arange(len(cols)), view.targets):
                cols[j] = _smallest(sides.block(j, j + 1)[0] - rows, live)
        if len(view.sources) < len(rows):
            dead = np.setdiff1d(np.arange(len(rows)), view.sources)
            least = np.full(len(dead), np.inf)
            width = max(1, (1 << 21) // len(rows))
            for first in range(0, len(cols), width):
                last = min(first + width, len(cols))
                part = sides.block(first, last)[:, dead] - cols[first:last, None]
                np.minimum(least, part.min(axis=0, initial=np.inf), out=least)
            rows[dead] = np.where(np.isfinite(least), least, 0.0)
            if sides.kind == "upper":
                rows[dead] = np.minimum(rows[dead], 0.0)

    def start(self, x0: Any) -> tuple[Any, Any] | None:
        """Return a warm start in the form of :attr:`canonical`.

        Parameters
        ----------
        x0 : object or None
            See :meth:`point`.

        Returns
        -------
        tuple or None
            ``(alpha, plan)``: potentials and ``(indptr, indices, values)``, either of which may
            be ``None``; ``None`` without a start.
        """
        if x0 is None:
            return None
        point, view = self.point(x0), self.canonical
        given = point.alpha if self.axis == 0 else point.beta
        T, alpha = self._turned(point, point.relaxed)
        T = sp.csc_array(T)
        if len(view.sources) < T.shape[0] or len(view.targets) < T.shape[1]:
            T = sp.csc_array(sp.csr_array(T)[view.sources][:, view.targets])
        T.sort_indices()
        plan = None
        if T.nnz:
            values = T.data.astype(np.float64) / view.mass
            plan = (T.indptr.astype(np.int64), T.indices.astype(np.int64), values)
        return (None if given is None else alpha[view.sources].copy()), plan


def _smallest(values: Any, live: Any) -> float:
    finite = values[live & np.isfinite(values)]
    return float(finite.min()) if finite.size else 0.0


def _warn(message: str) -> None:
    warnings.warn(message, AccuracyWarning, stacklevel=5)


def _host(value: Any) -> None:
    backend = Backend.of(value)
    if backend.name != "numpy":
        backend.kernels("transport")  # raises, with what works


def _masses(name: str, value: Any, size: int) -> NDArray[Any]:
    if value is None:
        return np.full(size, 1.0 / size)
    _host(value)
    masses, _ = real_array(name, value)
    if masses.shape != (size,):
        raise ProblemError(
            f"{name} has shape {masses.shape}; expected ({size},), one mass for each "
            f"{'row' if name == 'a' else 'column'}"
        )
    if np.any(masses < 0):
        first = int(np.argmax(masses < 0))
        raise ProblemError(
            f"{name}[{first}] = {masses[first]:g} is negative; masses must be at least 0"
        )
    return masses.copy()


def _points(name: str, value: Any) -> NDArray[Any]:
    _host(value)
    if sp.issparse(value):
        raise ProblemTypeError(f"{name} is sparse; points must be a dense array of shape (n, d)")
    points, _ = real_array(name, value)
    if points.ndim != 2 or 0 in points.shape:
        raise ProblemError(
            f"{name} has shape {points.shape}; expected (number of points, coordinates), neither 0"
        )
    return points


def _costs(value: Any) -> Any:
    _host(value)
    if sp.issparse(value):
        C = sp.csc_array(value, copy=True)
        C.sum_duplicates()
        C.data, _ = real_array("C", C.data, finite=False)
        data = C.data
    else:
        C, _ = real_array("C", value, finite=False)
        data = C
    if C.ndim != 2 or 0 in C.shape:
        raise ProblemError(f"C has shape {C.shape}; expected (m, n), neither 0")
    if np.any(np.isneginf(data)):
        raise ProblemError("C has -inf entries; costs must be finite, or +inf for forbidden pairs")
    if sp.issparse(C):
        if np.any(np.isposinf(C.data)):
            keep = np.isfinite(C.data)
            owner = np.repeat(np.arange(C.shape[1]), np.diff(C.indptr))[keep]
            C = sp.csc_array((C.data[keep], (C.indices[keep], owner)), shape=C.shape)
        C.sort_indices()
    return C
