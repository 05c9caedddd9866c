"""Projections, norms and proxes of sparse plans, for the arrays of any array-API library."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.numerics._arrays import count, kernel_input, real_array, scalar
from lowrank_opt.numerics.projections import _per_vector, _vectors
from lowrank_opt.transport import reference_functions as reference

__all__ = ["expert_capacity", "k_support_norm", "prox_k_support", "sparse_simplex_projection"]


def sparse_simplex_projection(V: Any, k: int, z: Any = 1.0, axis: int | None = 0) -> Any:
    r"""Project on the vectors of at most k nonzeros in :math:`\{y \ge 0, \sum_i y_i = z\}`.

    Parameters
    ----------
    V : array-like of float
        Vector, or a batch of vectors along `axis`. Finite.
    k : int
        Cap on the nonzeros of a vector, at least 1; from its length on it does nothing.
    z : float or array, default=1.0
        Sum of the result, at least 0; an array has one entry for each vector (the shape of `V`
        without `axis`).
    axis : int or None, default=0
        Axis of the vectors: 0 means columns, as ``axis=0`` of
        :class:`~lowrank_opt.transport.TransportProblem` does; None: all entries are one vector.

    Returns
    -------
    array
        Shape, dtype and library of `V`.

    Raises
    ------
    ProblemError
        `V` or `z` is not finite, `z` is negative or of a wrong shape, or the vectors are empty.
    ParameterError
        `k` is not an integer of at least 1, or `V` has no such axis.

    Notes
    -----
    The set is not convex; a closest point is the projection of the k largest entries on the
    simplex [1]_. Among equal entries those of the lowest index are kept.

    Cost: a pass over the entries and a sort of those within `z` of the largest; for libraries
    other than numpy a sort of all.

    References
    ----------
    .. [1] A. Kyrillidis, S. Becker, V. Cevher, C. Koch, "Sparse projections onto the simplex",
       ICML 2013. :arxiv:`1206.1529`

    Examples
    --------
    >>> from lowrank_opt.transport import sparse_simplex_projection
    >>> sparse_simplex_projection([0.5, 0.75, 0.25], 2)
    array([0.375, 0.625, 0.   ])
    """
    V, xp = real_array("V", V)
    k = count("k", k, 1)
    work, restore = _vectors(V, axis)
    totals = _per_vector("z", z, work, xp)
    _not_empty("V", work)
    if xp is not np:
        return restore(reference.sparse_simplex_projection(work, k, totals))
    from lowrank_opt.transport import kernels_functions  # numba: only when numpy arrays come

    rows = kernel_input(work).reshape(-1, work.shape[-1])
    out = np.empty(rows.shape, rows.dtype)
    kernels_functions.project_rows(rows, k, totals.reshape(-1).astype(np.float64), out)
    return restore(out.reshape(work.shape))


def k_support_norm(t: Any, k: int, axis: int | None = 0) -> Any:
    r"""Return the k-support norm.

    Its unit ball is the convex hull of the vectors of Euclidean length 1 with at most k nonzeros
    [1]_. It is the largest absolute value sum for ``k=1``, the Euclidean norm from the length of
    the vector on. The relaxation of sparsity-constrained transport penalises its square.

    Parameters
    ----------
    t : array-like of float
        Vector, or a batch of vectors along `axis`. Finite.
    k : int
        Cap, at least 1.
    axis : int or None, default=0
        Axis of the vectors; None: all entries are one vector.

    Returns
    -------
    array
        One norm a vector, of the dtype and library of `t`.

    Raises
    ------
    ProblemError
        `t` is not finite.
    ParameterError
        `k` is not an integer of at least 1, or `t` has no such axis.

    Notes
    -----
    Cost: a sort.

    References
    ----------
    .. [1] A. Argyriou, R. Foygel, N. Srebro, "Sparse prediction with the k-support norm",
       NeurIPS 2012. :arxiv:`1204.5043`

    Examples
    --------
    >>> from lowrank_opt.transport import k_support_norm
    >>> float(k_support_norm([3.0, -4.0, 0.0], 1)), float(k_support_norm([3.0, -4.0, 0.0], 2))
    (7.0, 5.0)
    """
    t, _ = real_array("t", t)
    work, _ = _vectors(t, axis)
    return reference.k_support_norm(work, count("k", k, 1))


def prox_k_support(v: Any, rho: float, k: int, sum: Any = None, axis: int | None = 0) -> Any:
    r"""Return the prox of half the squared k-support norm, or that on a scaled simplex.

    The minimiser of :math:`\tfrac12 \|t - v\|^2 + \tfrac\rho2 \|t\|_{(k)}^2` over all t, or, if
    `sum` is given, over the nonnegative t with that sum.

    Parameters
    ----------
    v : array-like of float
        Vector, or a batch of vectors along `axis`. Finite.
    rho : float
        Weight of the norm, at least 0.
    k : int
        Cap, at least 1.
    sum : float, array or None, default=None
        Sum of the result, at least 0; an array has one entry for each vector. ``None``: neither
        the sum nor the signs are constrained.
    axis : int or None, default=0
        Axis of the vectors; None: all entries are one vector.

    Returns
    -------
    array
        Shape, dtype and library of `v`.

    Raises
    ------
    ProblemError
        `v` or `sum` is not finite, `sum` is negative or of a wrong shape, or the vectors are
        empty.
    ParameterError
        `rho` is negative or not finite, `k` is not an integer of at least 1, or `v` has no such
        axis.

    Notes
    -----
    The solution has more than k nonzeros when entries around position k are close to each other:
    it is what resolves ties in the relaxation of sparsity-constrained transport.

    Cost: a sort, and a walk over the pieces of a piecewise linear equation.

    Examples
    --------
    >>> from lowrank_opt.transport import prox_k_support
    >>> prox_k_support([4.0, -2.0, 0.5], 1.0, 2)
    array([ 2., -1.,  0.])
    """
    v, xp = real_array("v", v)
    rho = scalar("rho", rho, low=0.0)
    k = count("k", k, 1)
    work, restore = _vectors(v, axis)
    _not_empty("v", work)
    totals = None if sum is None else _per_vector("sum", sum, work, xp)
    if xp is not np:
        return restore(reference.prox_k_support(work, rho, k, totals))
    from lowrank_opt.transport.kernels_prox import prox_of_rows

    rows = np.ascontiguousarray(work, dtype=np.float64).reshape(-1, work.shape[-1])
    sums = np.full(len(rows), -1.0)
    if totals is not None:
        sums = totals.reshape(-1).astype(np.float64)
    out = np.empty(rows.shape)
    prox_of_rows(rows if totals is not None else np.abs(rows), k, rho, sums, out)
    if totals is None:
        out = np.copysign(out, rows)
    return restore(out.reshape(work.shape).astype(v.dtype))


def expert_capacity(num_tokens: int, num_experts: int, factor: float, multiple_of: int = 4) -> int:
    """Return how many tokens an expert takes: a share of the tokens with some slack.

    Parameters
    ----------
    num_tokens, num_experts : int
        Numbers of tokens and experts, at least 1.
    factor : float
        Capacity of all experts together, in tokens; above 0. Taken as the decimal number that it
        is written as, so that 100 tokens, 10 experts and 1.1 mean 11 and not a rounded-up 12.
    multiple_of : int, default=4
        The capacity is raised to a multiple of this; at least 1.

    Returns
    -------
    int
        ``ceil(num_tokens * factor / num_experts)``, raised.

    Raises
    ------
    ParameterError
        An argument is out of its range.

    Examples
    --------
    >>> from lowrank_opt.transport import expert_capacity
    >>> expert_capacity(196, 32, 1.05)
    8
    """
    num_tokens = count("num_tokens", num_tokens, 1)
    num_experts = count("num_experts", num_experts, 1)
    multiple_of = count("multiple_of", multiple_of, 1)
    share = Fraction(repr(scalar("factor", factor, low=0.0, strict=True)))
    capacity = ceil(num_tokens * share / num_experts)
    return capacity + (-capacity) % multiple_of


def _not_empty(name: str, work: Any) -> None:
    if work.shape[-1] == 0:
        raise ProblemError(f"{name} is empty along the axis: vectors need at least one entry")
