"""Euclidean projections, along an axis of a batch, for the arrays of any array-API library.

numpy arrays go through compiled kernels where that pays (simplex, l1 ball); everything else is
array-API code. No function changes its arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.numerics import reference
from lowrank_opt.numerics._arrays import count, kernel_input, namespace, real_array

__all__ = [
    "project_box",
    "project_halfspace",
    "project_hyperplane",
    "project_l1_ball",
    "project_l2_ball",
    "project_psd",
    "project_simplex",
]


def project_simplex(x: Any, total: Any = 1.0, *, axis: int | None = -1) -> Any:
    r"""Project on the simplex :math:`\{y \ge 0, \sum_i y_i = \text{total}\}`.

    Parameters
    ----------
    x : array-like of float
        Vector, or a batch of vectors along `axis`. Finite.
    total : float or array, default=1.0
        Sum of the result, at least 0; an array has one entry for each vector (the shape of `x`
        without `axis`).
    axis : int or None, default=-1
        Axis of the vectors; None: all entries are one vector.

    Returns
    -------
    array
        Shape, dtype and library of `x`.

    Raises
    ------
    ProblemError
        `x` or `total` is not finite, `total` is negative or of a wrong shape, or the vectors are
        empty and `total` is not 0.

    Notes
    -----
    numpy: Newton's method on the threshold over a shrinking set, exact, O(n) expected and
    O(n log(n / eps)) at worst. Other libraries: a sort, exact, O(n log n). Both work with
    differences from the maximum in float64, so the sum is right to rounding whatever the size of
    the entries. One copy if `axis` is not the last one or `x` is not contiguous.

    References
    ----------
    .. [1] L. Condat, "Fast projection onto the simplex and the l1 ball", Mathematical
       Programming 158, 2016.

    Examples
    --------
    >>> from lowrank_opt.numerics import project_simplex
    >>> project_simplex([0.8, 0.6, -0.4])
    array([0.6, 0.4, 0. ])
    """
    x, xp = real_array("x", x)
    work, restore = _vectors(x, axis)
    totals = _per_vector("total", total, work, xp)
    if work.shape[-1] == 0:
        if bool(xp.any(totals > 0)):
            raise ProblemError("x is empty: no vector of length 0 has a sum above 0; give total=0")
        return restore(work)
    if xp is np:
        return restore(_by_rows("project_simplex_rows", work, totals))
    return restore(reference.project_simplex(work, totals))


def project_l1_ball(x: Any, radius: Any = 1.0, *, axis: int | None = -1) -> Any:
    r"""Project on the ball :math:`\{\sum_i |y_i| \le \text{radius}\}`.

    Parameters
    ----------
    x : array-like of float
        Vector, or a batch of vectors along `axis`. Finite.
    radius : float or array, default=1.0
        At least 0; an array has one entry for each vector.
    axis : int or None, default=-1
        Axis of the vectors; None: all entries are one vector.

    Returns
    -------
    array
        Shape, dtype and library of `x`.

    Raises
    ------
    ProblemError
        `x` or `radius` is not finite, or `radius` is negative or of a wrong shape.

    Notes
    -----
    A projection of the absolute values on a simplex; cost as for :func:`project_simplex`.

    References
    ----------
    .. [1] J. Duchi et al., "Efficient projections onto the l1-ball for learning in high
       dimensions", ICML 2008.

    Examples
    --------
    >>> from lowrank_opt.numerics import project_l1_ball
    >>> project_l1_ball([2.0, -1.0, 0.0], 2.0)
    array([ 1.5, -0.5,  0. ])
    """
    x, xp = real_array("x", x)
    work, restore = _vectors(x, axis)
    radii = _per_vector("radius", radius, work, xp)
    if work.shape[-1] == 0:
        return restore(work)
    if xp is np:
        return restore(_by_rows("project_l1_ball_rows", work, radii))
    return restore(reference.project_l1_ball(work, radii))


def project_l2_ball(x: Any, radius: Any = 1.0, *, center: Any = None, axis: int | None = -1) -> Any:
    r"""Project on the ball :math:`\{\|y - \text{center}\|_2 \le \text{radius}\}`.

    Parameters
    ----------
    x : array-like of float
        Vector, or a batch of vectors along `axis`. Finite.
    radius : float or array, default=1.0
        At least 0; an array has one entry for each vector.
    center : array or None, default=None
        Of a shape that broadcasts to `x`; None is the origin.
    axis : int or None, default=-1
        Axis of the vectors; None: all entries are one vector.

    Returns
    -------
    array
        Shape, dtype and library of `x`.

    Raises
    ------
    ProblemError
        An argument is not finite or has a wrong shape, or `radius` is negative.

    Notes
    -----
    Cost: O(n). Norms neither overflow nor underflow.

    Examples
    --------
    >>> from lowrank_opt.numerics import project_l2_ball
    >>> project_l2_ball([3.0, 4.0])
    array([0.6, 0.8])
    """
    x, xp = real_array("x", x)
    if center is not None:
        center = _broadcast("center", center, x, xp)
        return center + project_l2_ball(x - center, radius, axis=axis)
    work, restore = _vectors(x, axis)
    return restore(reference.project_l2_ball(work, _per_vector("radius", radius, work, xp)))


def project_box(x: Any, low: Any, high: Any) -> Any:
    r"""Project on the box :math:`\{\text{low} \le y \le \text{high}\}`.

    Parameters
    ----------
    x : array-like of float
        Finite.
    low, high : float, array or None
        Bounds that broadcast to the shape of `x`, ``low <= high``; infinite entries and None mean
        no bound.

    Returns
    -------
    array
        Shape, dtype and library of `x`.

    Raises
    ------
    ProblemError
        `x` is not finite, a bound is NaN or of a wrong shape, or ``low > high`` somewhere.

    Notes
    -----
    Cost: O(n). float64 bounds are rounded to the dtype of `x` first.

    Examples
    --------
    >>> from lowrank_opt.numerics import project_box
    >>> project_box([-2.0, 0.5, 3.0], 0.0, [1.0, 1.0, 2.0])
    array([0. , 0.5, 2. ])
    """
    x, xp = real_array("x", x)
    lower = None if low is None else _broadcast("low", low, x, xp, finite=False)
    upper = None if high is None else _broadcast("high", high, x, xp, finite=False)
    if lower is not None and upper is not None and bool(xp.any(lower > upper)):
        raise ProblemError("low exceeds high somewhere: the box is empty; exchange the bounds")
    y = x + 0.0 if lower is None else xp.where(x < lower, lower, x)
    return y if upper is None else xp.where(y > upper, upper, y)


def project_halfspace(x: Any, a: Any, b: Any, *, axis: int | None = -1) -> Any:
    r"""Project on the half-space :math:`\{a^\top y \le b\}`.

    Parameters
    ----------
    x : array-like of float
        Vector, or a batch of vectors along `axis`. Finite.
    a : array-like of float
        Normal, of shape ``(n,)`` or of the shape of `x`; not 0.
    b : float or array
        Offset; an array has one entry for each vector.
    axis : int or None, default=-1
        Axis of the vectors; None: all entries are one vector.

    Returns
    -------
    array
        Shape, dtype and library of `x`.

    Raises
    ------
    ProblemError
        An argument is not finite or has a wrong shape, or a normal is 0.

    Notes
    -----
    Cost: O(n).

    Examples
    --------
    >>> from lowrank_opt.numerics import project_halfspace
    >>> project_halfspace([2.0, 2.0], [1.0, 1.0], 2.0)
    array([1., 1.])
    """
    return _project_flat(reference.project_halfspace, x, a, b, axis)


def project_hyperplane(x: Any, a: Any, b: Any, *, axis: int | None = -1) -> Any:
    r"""Project on the hyperplane :math:`\{a^\top y = b\}`.

    Parameters
    ----------
    x : array-like of float
        Vector, or a batch of vectors along `axis`. Finite.
    a : array-like of float
        Normal, of shape ``(n,)`` or of the shape of `x`; not 0.
    b : float or array
        Offset; an array has one entry for each vector.
    axis : int or None, default=-1
        Axis of the vectors; None: all entries are one vector.

    Returns
    -------
    array
        Shape, dtype and library of `x`.

    Raises
    ------
    ProblemError
        An argument is not finite or has a wrong shape, or a normal is 0.

    Notes
    -----
    Cost: O(n).

    Examples
    --------
    >>> from lowrank_opt.numerics import project_hyperplane
    >>> project_hyperplane([0.0, 0.0], [3.0, 4.0], 5.0)
    array([0.6, 0.8])
    """
    return _project_flat(reference.project_hyperplane, x, a, b, axis)


def project_psd(x: Any, *, rank: int | None = None) -> Any:
    """Project on the positive semidefinite matrices, in the Frobenius norm.

    Parameters
    ----------
    x : array-like of shape (..., n, n)
        Square matrices, all entries given. Finite. A matrix that is not symmetric counts by its
        symmetric part, whose projection is that of the matrix.
    rank : int or None, default=None
        At most this rank, at least 0. Then the set is not convex; the result is a nearest
        matrix, unique unless eigenvalues tie.

    Returns
    -------
    array of shape (..., n, n)
        Symmetric to the last bit, in dtype and library of `x`.

    Raises
    ------
    ProblemError
        `x` is not finite or not square.
    ParameterError
        `rank` is not an integer of at least 0.

    Notes
    -----
    Cost: an eigendecomposition, about 9 n^3 flops, and 2 n^3; O(n^2) memory.

    References
    ----------
    .. [1] N. J. Higham, "Computing a nearest symmetric positive semidefinite matrix", Linear
       Algebra and its Applications 103, 1988.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.numerics import project_psd
    >>> bool(np.allclose(project_psd([[0.0, 2.0], [2.0, 0.0]]), 1.0, rtol=0, atol=1e-14))
    True
    """
    x, xp = real_array("x", x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ProblemError(f"x has shape {tuple(x.shape)}; square matrices (..., n, n) are needed")
    if rank is not None:
        rank = count("rank", rank, 0)
    if rank == 0 or 0 in x.shape:
        return xp.zeros_like(x)
    return reference.project_psd(x, rank)


def _vectors(x: Any, axis: int | None) -> tuple[Any, Any]:
    """The vectors along the last axis, and the way back."""
    xp = namespace(x)
    if axis is None:
        return xp.reshape(x, (-1,)), lambda y: xp.reshape(y, x.shape)
    if x.ndim == 0 or not -x.ndim <= axis < x.ndim:
        raise ParameterError(f"axis is {axis} but x has {x.ndim} dimensions; give an axis of x")
    return xp.moveaxis(x, axis, -1), lambda y: xp.moveaxis(y, -1, axis)


def _per_vector(name: str, value: Any, work: Any, xp: Any, low: float | None = 0.0) -> Any:
    """`value` as an array with an axis of length 1 behind, one entry for each vector."""
    value, _ = real_array(name, value, like=work)
    if low is not None and bool(xp.any(value < low)):
        raise ProblemError(f"{name} has a negative entry; it must be at least {low:g}")
    batch = tuple(work.shape[:-1])
    if value.ndim and tuple(value.shape) != batch:
        raise ProblemError(
            f"{name} has shape {tuple(value.shape)}; a number or shape {batch} is needed, one "
            "entry for each vector"
        )
    return xp.expand_dims(xp.broadcast_to(value, batch), axis=-1)


def _broadcast(name: str, value: Any, x: Any, xp: Any, *, finite: bool = True) -> Any:
    value, _ = real_array(name, value, finite=finite, like=x)
    try:
        return xp.broadcast_to(value, x.shape)
    except (ValueError, RuntimeError) as error:
        raise ProblemError(
            f"{name} has shape {tuple(value.shape)}, which does not broadcast to that of x, "
            f"{tuple(x.shape)}"
        ) from error


def _by_rows(kernel: str, work: np.ndarray, values: np.ndarray) -> np.ndarray:
    from lowrank_opt.numerics import kernels  # numba: only when numpy arrays come

    rows = kernel_input(work).reshape(-1, work.shape[-1])
    out = np.empty(rows.shape, rows.dtype)
    getattr(kernels, kernel)(rows, values.reshape(-1).astype(np.float64), out)
    return out.reshape(work.shape)


def _project_flat(project: Any, x: Any, a: Any, b: Any, axis: int | None) -> Any:
    x, xp = real_array("x", x)
    work, restore = _vectors(x, axis)
    a, _ = real_array("a", a, like=x)
    if axis is None or a.ndim == x.ndim:
        a, _ = _vectors(a, axis)
    if a.ndim == 0 or a.shape[-1] != work.shape[-1] or a.ndim not in (1, work.ndim):
        raise ProblemError(
            f"a has shape {tuple(a.shape)}; ({work.shape[-1]},) or the shape of x, "
            f"{tuple(x.shape)}, is needed"
        )
    offsets = _per_vector("b", b, work, xp, low=None)
    if work.shape[-1] == 0 or bool(xp.any(xp.all(a == 0, axis=-1))):
        raise ProblemError("a is 0: the half-space has no boundary; give a nonzero normal")
    return restore(project(work, a, offsets))
