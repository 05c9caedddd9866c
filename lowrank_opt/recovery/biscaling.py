"""Around a completion: scale rows and columns before it, refit the singular values after it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core import errors
from lowrank_opt.core.errors import ParameterError
from lowrank_opt.recovery.lowrank import LowRankMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.recovery.problems import MatrixCompletion

__all__ = ["BiScaling", "biscale", "debias"]

_CHUNK = 1 << 20


class BiScaling(NamedTuple):
    """What `biscale` returns: ``M_ij = a_i + b_j + s_i t_j Z_ij``, centres a, b, scales s, t.

    Parameters
    ----------
    problem : MatrixCompletion
        The scaled problem, with data Z and without offset.
    row_center : ndarray of shape (m,)
        float64, like the others.
    col_center : ndarray of shape (n,)
        Zero when columns were not centred.
    row_scale : ndarray of shape (m,)
        Positive.
    col_scale : ndarray of shape (n,)
        Positive.
    nit : int
        Iterations done.
    """

    problem: MatrixCompletion
    row_center: NDArray[np.float64]
    col_center: NDArray[np.float64]
    row_scale: NDArray[np.float64]
    col_scale: NDArray[np.float64]
    nit: int

    def restore(self, x: LowRankMatrix) -> LowRankMatrix:
        """Completion of the original matrix from one of the scaled matrix.

        Parameters
        ----------
        x : LowRankMatrix
            Answer to `problem`, without biases.

        Returns
        -------
        LowRankMatrix
            The centres are its biases.
        """
        return LowRankMatrix(
            x.U * self.row_scale[:, None],
            x.V * self.col_scale[:, None],
            0.0,
            self.row_center,
            self.col_center,
        ).astype(x.dtype)


def biscale(
    problem: MatrixCompletion,
    *,
    row_center: bool = True,
    col_center: bool = True,
    row_scale: bool = True,
    col_scale: bool = True,
    tol: float = 1e-9,
    max_iter: int = 1000,
) -> BiScaling:
    r"""Centre and scale rows and columns of the observed entries at once.

    Alternates, as in [1]_, between row centres, column centres, row scales and column scales of
    :math:`Z_{ij} = (M_{ij} - \alpha_i - \beta_j) / (\tau_i \gamma_j)` until every row and column of
    Z has mean 0 and variance 1 over its observed entries (weighted, with weights).

    Parameters
    ----------
    problem : MatrixCompletion
        Its observations are scaled; its `reg` and `rank` are kept, `center` is set to False.
    row_center, col_center, row_scale, col_scale : bool, default=True
        What to do.
    tol : float, default=1e-9
        Stops when all means and variances - 1 of Z are at most `tol` in size (those asked for).
    max_iter : int, default=1000
        Limit on rounds.

    Returns
    -------
    BiScaling
        The scaled problem and the maps back.

    Warns
    -----
    ConvergenceWarning
        `tol` was not reached. Rows and columns with few entries may admit no such scaling.

    Notes
    -----
    A row or column whose entries are all equal after centring (one entry, for instance) keeps
    scale 1. Memory: five float64 arrays of N entries. Cost: ``O(N)`` a round.

    References
    ----------
    .. [1] T. Hastie, R. Mazumder, J. Lee, R. Zadeh, "Matrix completion and low-rank SVD via fast
       alternating least squares", JMLR 16, 2015, section 4.
    """
    if not tol > 0 or max_iter < 1:
        raise ParameterError(f"tol={tol!r}, max_iter={max_iter!r}; expected tol > 0, max_iter >= 1")
    obs = problem.observations
    m, n = obs.shape
    i, j = obs.rows(), obs.indices
    x = obs.values.astype(np.float64)
    w = np.ones(obs.nnz) if obs.weights is None else obs.weights.astype(np.float64)
    sizes = (obs.row_weights, obs.col_weights)
    ids, counts = (i, j), (m, n)
    centers = [np.zeros(m), np.zeros(n)]
    scales = [np.ones(m), np.ones(n)]
    centering, scaling = (row_center, col_center), (row_scale, col_scale)
    spread = float(np.sqrt(np.average(np.square(x - np.average(x, weights=w)), weights=w))) or 1.0

    def sums(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
        return np.bincount(ids[side], values, counts[side])

    def residual() -> NDArray[np.float64]:
        return x - centers[0][i] - centers[1][j]

    error = np.inf
    for nit in range(1, max_iter + 1):  # noqa: B007
        error = 0.0
        for side in (0, 1):
            if centering[side]:
                # Mean 0 of Z in the row: weights w / (the scale of the other side).
                a = w / scales[1 - side][ids[1 - side]]
                shift = _ratio(sums(a * residual(), side), sums(a, side), 0.0)
                centers[side] += shift
                error = max(error, float(np.abs(shift / scales[side]).max()))
        for side in (0, 1):
            if scaling[side]:
                z = residual() / scales[1 - side][ids[1 - side]]
                variance = _ratio(sums(w * z * z, side), sizes[side], 1.0)
                # Rounding of the centring is no spread.
                flat = variance <= (1e-12 * spread / np.median(scales[1 - side])) ** 2
                scale = np.where(flat, 1.0, np.sqrt(variance))
                error = max(error, float(np.abs(np.square(scale / scales[side]) - 1.0).max()))
                scales[side] = scale
        if error <= tol:
            break
    else:
        import warnings

        warnings.warn(
            f"biscale: largest change {error:.1e} after max_iter={max_iter} rounds is above "
            f"tol={tol:.1e}: rows or columns with few entries may admit no such scaling; scale "
            "one side only, or drop those rows and columns",
            errors.ConvergenceWarning,  # scikit-learn's: imported when it is needed
            stacklevel=2,
        )
    z = (residual() / (scales[0][i] * scales[1][j])).astype(obs.dtype)
    scaled = dataclasses.replace(problem, observations=_with_values(obs, z), center=False)
    return BiScaling(scaled, centers[0], centers[1], scales[0], scales[1], nit)


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64], empty: float) -> NDArray[np.float64]:
    return np.divide(a, b, out=np.full_like(a, empty), where=b > 0)


def _with_values(obs: Any, values: NDArray[Any]) -> Any:
    """The same positions and weights with other values."""
    return dataclasses.replace(obs, values=values, csc_values=values[obs.perm])


def debias(problem: MatrixCompletion, x: LowRankMatrix) -> LowRankMatrix:
    """Refit the singular values of a completion by least squares on the observed entries.

    The nuclear norm shrinks them all by about `reg`; the singular vectors are kept.

    Parameters
    ----------
    problem : MatrixCompletion
        The data.
    x : LowRankMatrix
        A completion, of `SoftImpute` for instance. Offset and biases are kept.

    Returns
    -------
    LowRankMatrix
        ``U`` = left singular vectors times the new values, ``V`` orthonormal. A value may turn
        out negative.

    Notes
    -----
    Cost: ``N k²`` flops; memory a few megabytes and ``k²`` numbers.
    """
    from lowrank_opt.recovery._nuclear import orthonormal_form

    x = problem.point(x)
    U, _, V = orthonormal_form(x.U.astype(np.float64), x.V.astype(np.float64))
    k = U.shape[1]
    rest = LowRankMatrix(np.zeros((x.shape[0], 0)), np.zeros((x.shape[1], 0)), x.offset)
    rest = dataclasses.replace(rest, row_bias=x.row_bias, col_bias=x.col_bias)
    obs = problem.observations
    gram, right = np.zeros((k, k)), np.zeros(k)
    rows, chunk = obs.rows(), max(1, _CHUNK // max(k, 1))
    for a in range(0, obs.nnz, chunk):
        part = slice(a, a + chunk)
        i, j = rows[part], obs.indices[part]
        F = U[i] * V[j]
        y = obs.values[part] - rest.predict(i, j)
        weighted = F if obs.weights is None else F * obs.weights[part, None]
        gram += weighted.T @ F
        right += weighted.T @ y
    values = np.linalg.lstsq(gram, right, rcond=None)[0]
    order = np.argsort(-np.abs(values), kind="stable")
    return LowRankMatrix(
        (U * values)[:, order].astype(x.dtype),
        V[:, order].astype(x.dtype),
        x.offset,
        x.row_bias,
        x.col_bias,
    )
