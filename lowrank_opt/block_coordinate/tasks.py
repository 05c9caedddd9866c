"""Many small transductive problems at once: few-shot episodes as one batch of arrays."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.block_coordinate import reference_prototypes as reference
from lowrank_opt.block_coordinate.affinity import in_threads
from lowrank_opt.core.errors import ProblemError
from lowrank_opt.core.params import COUNT, TOLERANCE, Interval, StrOptions, validate_parameters
from lowrank_opt.numerics._arrays import device, namespace, real_array

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TaskAssignments", "rectified_prototypes", "solve_tasks"]

# Distances of so many pairs are formed together; so many points are assigned together.
_PAIRS, _POINTS = 1 << 22, 4096
# Of cosines, in the weights of rectified prototypes.
_SHARPNESS = 10.0
_NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
_CONSTRAINTS: dict[str, list[Any]] = {
    "n_classes": [None, COUNT],
    "n_neighbors": [COUNT],
    "graph": [StrOptions({"query", "all"})],
    "lam": [_NOT_NEGATIVE],
    "temperature": [_NOT_NEGATIVE],
    "update_prototypes": ["boolean"],
    "rectify": ["boolean"],
    "psd_shift": [StrOptions({"auto"}), _NOT_NEGATIVE],
    "max_inner": [COUNT],
    "tol": [TOLERANCE],
    "max_iter": [Interval(Integral, 0, None, closed="left")],
    "n_threads": [None, COUNT],
}


class TaskAssignments(NamedTuple):
    """What :func:`solve_tasks` finds; arrays of the library, device and dtype of the features.

    Parameters
    ----------
    assignments : array of shape (n_tasks, n_points, n_classes)
        Rows on the simplex; those of labelled points are their labels.
    prototypes : array of shape (n_tasks, n_classes, n_features)
        One a class and task.
    residual : array of shape (n_tasks,)
        The largest change that the next update would make, as in
        :class:`~lowrank_opt.block_coordinate.BoundOptimizer`.
    nit : int
        Iterations.
    """

    assignments: Any
    prototypes: Any
    residual: Any
    nit: int

    @property
    def labels(self) -> Any:
        """The best class of every point, of shape (n_tasks, n_points)."""
        return namespace(self.assignments).argmax(self.assignments, axis=-1)


def solve_tasks(
    F: Any,
    labels: Any,
    n_classes: int | None = None,
    *,
    n_neighbors: int = 3,
    graph: str = "all",
    lam: float = 1.0,
    temperature: float = 1.0,
    update_prototypes: bool = False,
    rectify: bool = False,
    psd_shift: str | float = "auto",
    max_inner: int = 5,
    tol: float = 1e-6,
    max_iter: int = 1000,
    n_threads: int | None = 1,
) -> TaskAssignments:
    """Solve a batch of transductive few-shot tasks of one size.

    Each task is a :class:`~lowrank_opt.block_coordinate.LaplacianPrototypeProblem` with its own
    graph of nearest neighbours, and is solved by the updates of
    :class:`~lowrank_opt.block_coordinate.BoundOptimizer`.

    Parameters
    ----------
    F : array of shape (n_tasks, n_points, n_features)
        Features, support points and queries in any order, of any array-API library.
    labels : array of int of shape (n_tasks, n_points)
        Classes of the support points, -1 for queries; every task has each class.
    n_classes : int or None, default=None
        Number of classes; ``None``: one more than the largest label.
    n_neighbors : int, default=3
        Neighbours of a point in the graph, itself counted.
    graph : {"all", "query"}, default="all"
        Whether the graph joins support points too, or queries only, as in the paper.
    lam, temperature : float, default=1.0
        Weights of the affinity and of the entropy.
    update_prototypes : bool, default=False
        Whether prototypes are unknowns, or stay the means of the support.
    rectify : bool, default=False
        Whether to move queries to the mean of the support and to start from
        :func:`rectified_prototypes`.
    psd_shift : "auto" or float, default="auto"
        Added to the diagonal of the affinity.
    max_inner : int, default=5
        Updates of the assignments between two of the prototypes.
    tol : float, default=1e-6
        Largest residual at which a task is solved.
    max_iter : int, default=1000
        Limit on iterations. A task that is solved waits for the others as it is.
    n_threads : int or None, default=1
        Threads over the tasks of numpy arrays; ``None``: as many as numba may use.

    Returns
    -------
    TaskAssignments
        Assignments, prototypes and residuals.

    Raises
    ------
    ProblemError
        Features or labels that are not finite or of the wrong shape; a task in which a class has
        no support point.
    ParameterError
        A parameter is out of range.

    Notes
    -----
    numpy arrays are assigned by compiled code over the edges of the graphs, in float64; for other
    libraries affinities are dense, and everything is batched products where the features live.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import solve_tasks
    >>> F = np.array([[[0.0], [1.0], [0.2], [0.9]], [[3.0], [5.0], [4.9], [3.1]]])
    >>> solve_tasks(F, [[0, 1, -1, -1], [1, 0, -1, -1]]).labels.tolist()
    [[0, 1, 0, 1], [1, 0, 0, 1]]
    """
    options = {
        "n_classes": n_classes, "n_neighbors": n_neighbors, "graph": graph, "lam": lam,
        "temperature": temperature, "update_prototypes": update_prototypes, "rectify": rectify,
        "psd_shift": psd_shift, "max_inner": max_inner, "tol": tol, "max_iter": max_iter,
        "n_threads": n_threads,
    }  # fmt: skip
    validate_parameters("solve_tasks", options, _CONSTRAINTS)
    F, xp = real_array("F", F)
    if F.ndim != 3 or 0 in F.shape:
        raise ProblemError(
            f"F has shape {tuple(F.shape)}; features of shape (n_tasks, n_points, n_features) are "
            "needed, none of them 0"
        )
    known = _labels(labels, F, xp, n_classes)
    kind = F.dtype
    if xp is np:
        F = F.astype(np.float64, copy=False)
    K = int(xp.max(known)) + 1 if n_classes is None else n_classes
    classes = xp.arange(K, dtype=known.dtype, **_on(F, xp))
    targets = xp.astype(known[..., None] == classes, F.dtype)
    _check_support(targets, xp)
    m = reference.class_means(targets, F)
    if rectify:  # by angles, which depend on where the origin is
        F, m = rectified_prototypes(F, targets, m)
    # Sums of large numbers lose digits: around the mean of each task.
    centre = xp.mean(F, axis=1, keepdims=True)
    F, m = F - centre, m - centre
    run = _Tasks(F, targets, options)
    S, m, residual, nit = run.solve(m)
    return TaskAssignments(
        xp.astype(S, kind, copy=False), xp.astype(m + centre, kind, copy=False), residual, nit
    )


def rectified_prototypes(F: Any, targets: Any, prototypes: Any) -> tuple[Any, Any]:
    """Move queries to the mean of the support, and average the points that are like a prototype.

    Parameters
    ----------
    F : array of shape (..., n_points, n_features)
        Features.
    targets : array of shape (..., n_points, n_classes)
        One-hot labels of the support points, zero for queries.
    prototypes : array of shape (..., n_classes, n_features)
        Means of the support.

    Returns
    -------
    F : array of shape (..., n_points, n_features)
        Features with moved queries.
    prototypes : array of shape (..., n_classes, n_features)
        Means of the points that are most like a prototype, weighted by the softmax of ten times
        the cosines.

    Notes
    -----
    Deviation: support points count for their own class, wherever they would be predicted, and the
    weighted sum is divided by the sum of the weights.

    References
    ----------
    .. [1] J. Liu, L. Song, Y. Qin, "Prototype Rectification for Few-Shot Learning", ECCV 2020.
       :arxiv:`1911.10713`
    """
    xp = namespace(F)
    known = xp.sum(targets, axis=-1)[..., None]
    n_support = xp.sum(known, axis=-2, keepdims=True)
    n_query = F.shape[-2] - n_support
    support = xp.sum(known * F, axis=-2, keepdims=True) / n_support
    some = xp.where(n_query > 0, n_query, xp.ones_like(n_query))
    query = xp.sum((1.0 - known) * F, axis=-2, keepdims=True) / some
    F = F + (1.0 - known) * (support - query)
    cosines = _unit(F, xp) @ xp.matrix_transpose(_unit(prototypes, xp))
    best = xp.max(cosines, axis=-1, keepdims=True)
    weights = xp.exp(_SHARPNESS * (cosines - best))
    weights = weights / xp.sum(weights, axis=-1, keepdims=True)
    chosen = xp.argmax(cosines, axis=-1)[..., None]
    classes = xp.arange(targets.shape[-1], dtype=chosen.dtype, **_on(F, xp))
    member = xp.where(known > 0, targets, xp.astype(chosen == classes, F.dtype))
    return F, reference.class_means(member * weights, F)


def _unit(X: Any, xp: Any) -> Any:
    size = xp.sqrt(xp.sum(X * X, axis=-1, keepdims=True))
    return X / xp.where(size > 0, size, xp.ones_like(size))


def _on(x: Any, xp: Any) -> dict[str, Any]:
    return {} if xp is np else {"device": device(x)}


def _labels(labels: Any, F: Any, xp: Any, n_classes: int | None) -> Any:
    shape = tuple(F.shape[:2])
    labels = np.asarray(labels) if isinstance(labels, (list, tuple)) else labels
    if tuple(labels.shape) != shape:
        raise ProblemError(
            f"labels has shape {tuple(labels.shape)} and F has shape {tuple(F.shape)}; expected "
            f"{shape}, one label a point"
        )
    known = xp.astype(xp.asarray(labels, **_on(F, xp)), xp.int64)
    if bool(xp.any(xp.astype(known, xp.float64) != xp.astype(xp.asarray(labels), xp.float64))):
        raise ProblemError("labels must be integers; classes 0, 1, ... or -1 for queries")
    low, high = int(xp.min(known)), int(xp.max(known))
    if low < -1 or high < 0 or (n_classes is not None and high >= n_classes):
        top = "..." if n_classes is None else str(n_classes - 1)
        raise ProblemError(
            f"labels are from {low} to {high}; expected classes 0 to {top}, or -1 for queries"
        )
    return known


def _check_support(targets: Any, xp: Any) -> None:
    empty = xp.sum(targets, axis=1) == 0
    if bool(xp.any(empty)):
        flat = int(xp.argmax(xp.astype(xp.reshape(empty, (-1,)), xp.int32)))
        task, k = divmod(flat, empty.shape[1])
        raise ProblemError(
            f"labels[{task}] has no point of class {k} of {empty.shape[1]}; every class of every "
            "task needs a support point"
        )


class _Tasks:
    """The iteration over all tasks."""

    def __init__(self, F: Any, targets: Any, options: dict[str, Any]) -> None:
        self.F, self.targets, self.options = F, targets, options
        self.xp = xp = namespace(F)
        self.free = xp.sum(targets, axis=-1) == 0
        k = min(options["n_neighbors"], F.shape[1])
        member = self.free if options["graph"] == "query" else xp.ones_like(self.free)
        self.respond: Callable[[Any, Any], Any]
        if xp is np:
            self._sparse(k, member)
            self.respond = self._respond_sparse
        else:
            joined = member[..., None] & member[..., None, :]
            A = _neighbors(F, k, joined, xp)
            self.W = 0.5 * (A + xp.matrix_transpose(A))
            free = xp.astype(self.free, F.dtype)
            own = xp.sum(self.W * xp.eye(F.shape[1], dtype=F.dtype, **_on(F, xp)), axis=-1)
            self.shift = self._shift(
                xp.sum(self.W * free[..., None, :], axis=-1) - own * free, own, free
            )
            self.respond = self._respond_dense
        self.spread = xp.sqrt(xp.mean(xp.sum(F * F, axis=-1), axis=-1))
        self.spread = xp.where(self.spread > 0, self.spread, xp.ones_like(self.spread))

    def _shift(self, others: Any, own: Any, free: Any) -> Any:
        given, lam = self.options["psd_shift"], self.options["lam"]
        if given != "auto":
            return given * free
        paid = 2.0 * self.options["temperature"] / lam if lam > 0 else np.inf
        missing = others - own - paid
        return self.xp.where(missing > 0, missing, self.xp.zeros_like(missing)) * free

    # -- numpy: all tasks are one block-diagonal problem ------------------------------------------

    def _sparse(self, k: int, member: Any) -> None:
        from scipy import sparse

        T, n, _ = self.F.shape
        width = max(1, _PAIRS // (n * n))
        columns = np.empty((T, n, k), np.int64)
        good = np.empty((T, n, k), bool)
        for first in range(0, T, width):
            part = slice(first, min(first + width, T))
            D = _distances(self.F[part], np)
            D[~(member[part, :, None] & member[part, None, :])] = np.inf
            D[:, np.arange(n), np.arange(n)] = -np.inf
            near = np.argpartition(D, k - 1, axis=-1)[..., :k] if k < n else np.argsort(D, axis=-1)
            columns[part] = near + (n * np.arange(part.start, part.stop))[:, None, None]
            good[part] = np.take_along_axis(D, near, axis=-1) < np.inf
        rows = np.repeat(np.arange(T * n), k)[good.ravel()]
        columns = columns.ravel()[good.ravel()]
        A = sparse.csr_array((np.ones(rows.size), (rows, columns)), shape=(T * n, T * n))
        W = sparse.csr_array(0.5 * (A + A.T))
        W.sort_indices()
        self.W = sparse.csr_array(
            (W.data, W.indices.astype(np.int32), W.indptr.astype(np.int32)), shape=W.shape
        )
        free, own = self.free.ravel().astype(np.float64), W.diagonal()
        self.shift = self._shift(W @ free - own * free, own, free)
        self.fixed = np.where(self.free.ravel(), -1, 0)
        step = max(n, _POINTS // n * n)
        self.rows = [(first, min(first + step, T * n)) for first in range(0, T * n, step)]

    def _respond_sparse(self, S: Any, cost: Any) -> Any:
        from lowrank_opt.block_coordinate.kernels_prototypes import assign_rows

        K = S.shape[-1]
        flat, prices = S.reshape(-1, K), cost.reshape(-1, K)
        following = np.empty_like(flat)
        lam, temperature = float(self.options["lam"]), float(self.options["temperature"])

        def work(b: int) -> None:
            first, last = self.rows[b]
            assign_rows(
                self.W.indptr, self.W.indices, self.W.data, self.shift, prices, self.fixed, lam,
                temperature, flat, first, last, following,
            )  # fmt: skip

        in_threads(work, range(len(self.rows)), self.options["n_threads"])
        return following.reshape(S.shape)

    # -- other libraries --------------------------------------------------------------------------

    def _respond_dense(self, S: Any, cost: Any) -> Any:
        lam, temperature = float(self.options["lam"]), float(self.options["temperature"])
        following = reference.assign(S, cost, self.W @ S, lam, self.shift, temperature)
        return self.xp.where(self.free[..., None], following, self.targets)

    # -- iteration --------------------------------------------------------------------------------

    def _cost(self, m: Any) -> Any:
        xp = self.xp
        squares = xp.sum(self.F * self.F, axis=-1)[..., None] + xp.sum(m * m, axis=-1)[:, None, :]
        distances = squares - 2.0 * (self.F @ xp.matrix_transpose(m))
        return xp.where(distances > 0, distances, xp.zeros_like(distances))

    def _change(self, S: Any, following: Any) -> Any:
        return self.xp.max(self.xp.abs(self.xp.reshape(following - S, (S.shape[0], -1))), axis=-1)

    def solve(self, m: Any) -> tuple[Any, Any, Any, int]:
        """Return assignments, prototypes, residuals and the number of iterations."""
        xp, options = self.xp, self.options
        update, nit = options["update_prototypes"], 0
        cost = self._cost(m)
        nothing = xp.zeros_like(cost)
        zero = xp.zeros_like(cost[..., 0])
        S = reference.assign(nothing, cost, nothing, 0.0, zero, float(options["temperature"]))
        S = xp.where(self.free[..., None], S, self.targets)
        following = self.respond(S, cost)
        residual = self._change(S, following)
        if update:
            best = self._means(S, m)
            moved = xp.max(xp.sqrt(xp.sum((best - m) ** 2, axis=-1)), axis=-1) / self.spread
            residual = xp.where(moved > residual, moved, residual)
        while nit < options["max_iter"]:
            active = residual > options["tol"]
            if not bool(xp.any(active)):
                break
            here = active[:, None, None]
            S = xp.where(here, following, S)
            self._only(active)
            for _ in range(options["max_inner"] - 1):
                S = xp.where(here, self.respond(S, cost), S)
            if update:
                m = xp.where(here, self._means(S, m), m)
                cost = xp.where(here, self._cost(m), cost)
            following = self.respond(S, cost)
            residual = xp.where(active, self._change(S, following), residual)
            nit += 1
        return S, m, residual, nit

    def _only(self, active: Any) -> None:
        """Leave the assignments of solved tasks as they are."""
        if self.xp is np:
            self.fixed = np.where(self.free & active[:, None], -1, 0).ravel()

    def _means(self, S: Any, m: Any) -> Any:
        mass = self.xp.sum(S, axis=1)[..., None]
        sums = self.xp.matrix_transpose(S) @ self.F
        return self.xp.where(mass > 0, sums / self.xp.where(mass > 0, mass, 1.0 + mass), m)


def _distances(F: Any, xp: Any) -> Any:
    square = xp.sum(F * F, axis=-1)
    D = (-2.0 * F) @ xp.matrix_transpose(F)
    D += square[..., :, None]
    D += square[..., None, :]
    return D


def _neighbors(F: Any, k: int, joined: Any, xp: Any) -> Any:
    """The 0/1 matrices of the k nearest of the points that may be joined, each with itself."""
    D = _distances(F, xp)
    D = xp.where(joined, D, xp.inf * xp.ones_like(D))
    own = xp.eye(F.shape[1], dtype=F.dtype, **_on(F, xp)) > 0
    D = xp.where(own, -xp.inf * xp.ones_like(D), D)
    rank = xp.argsort(xp.argsort(D, axis=-1, stable=True), axis=-1)
    return xp.astype((rank < k) & (joined | own), F.dtype)
