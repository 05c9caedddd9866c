"""Random low-rank matrices seen at some of their entries."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.datasets._entries import ObservedEntries, draw_cells, power_law

if TYPE_CHECKING:
    from lowrank_opt.core.protocols import Array

__all__ = ["LowRankObservations", "make_low_rank_observations"]


@dataclass(frozen=True, eq=False, repr=False)
class LowRankObservations(ObservedEntries):
    """Observed entries of a matrix ``U @ V.T`` that is known.

    Parameters
    ----------
    rows, cols : ndarray of shape (n_observations,), int32
        Zero-based positions.
    values : ndarray of shape (n_observations,), float
        Observed values, noise and outliers included.
    shape : tuple of int
        Shape of the matrix.
    U : ndarray of shape (n_rows, rank)
        Left factor of the truth; its Gram matrix is that of `V`.
    V : ndarray of shape (n_cols, rank)
        Right factor of the truth.
    outliers : ndarray of shape (n_observations,), bool
        Which of the values were corrupted.
    """

    U: Array
    V: Array
    outliers: Array = field(metadata={"per_entry": True})

    @property
    def rank(self) -> int:
        """Rank of the truth."""
        return self.U.shape[1]

    def clean_values(self) -> Array:
        """Values without noise and outliers.

        Returns
        -------
        ndarray of shape (n_observations,)
            Entries of ``U @ V.T``. Cost: ``2 * n_observations * rank`` flops.
        """
        return products(self.U, self.V, self.rows, self.cols)

    def relative_error(self, U: Array, V: Array) -> float:
        """Distance of ``U @ V.T`` from the truth, relative to the truth, in Frobenius norm.

        Parameters
        ----------
        U : ndarray of shape (n_rows, k)
            Left factor.
        V : ndarray of shape (n_cols, k)
            Right factor.

        Returns
        -------
        float
            ``|U V^T - U* V*^T|_F / |U* V*^T|_F``, from QR factors of the stacked factors: accurate
            to rounding. Cost: O((n_rows + n_cols) (k + rank)^2), no dense matrix.
        """
        left = np.linalg.qr(np.hstack([np.float64(U), -np.float64(self.U)]), mode="r")
        right = np.linalg.qr(np.hstack([np.float64(V), np.float64(self.V)]), mode="r")
        own = slice(np.shape(U)[1], None)
        norm = np.linalg.norm(left[:, own] @ right[:, own].T)
        return float(np.linalg.norm(left @ right.T) / norm)


def products(U: Array, V: Array, rows: Array, cols: Array, chunk: int = 16384) -> Array:
    """Entries of ``U @ V.T``, a cache-sized chunk of gathered rows at a time."""
    out = np.empty(len(rows), np.result_type(U, V))
    for lo in range(0, len(rows), chunk):
        part = slice(lo, lo + chunk)
        np.einsum("ij,ij->i", U[rows[part]], V[cols[part]], out=out[part])
    return out


def _orthonormal(rng: np.random.Generator, n: int, k: int, mu: float | None) -> Array:
    """Random orthonormal columns whose largest row norm is ``mu * sqrt(k / n)``."""
    Q = np.linalg.qr(rng.standard_normal((n, k))).Q
    if mu is None:
        return Q
    bound = mu * math.sqrt(k / n)
    # Too coherent: alternate between the row bound and the nearest orthonormal matrix (a tight
    # frame with bounded rows is their common point); usually a handful of rounds.
    for _ in range(300):
        norms = np.linalg.norm(Q, axis=1)
        if norms.max() <= bound * (1.0 + 1e-6):
            break
        Q *= np.minimum(1.0, bound / np.maximum(norms, 1e-300))[:, None]
        values, W = np.linalg.eigh(Q.T @ Q)
        Q = Q @ (W / np.sqrt(values)) @ W.T
    norms = np.linalg.norm(Q, axis=1)
    if norms.max() >= bound * (1.0 - 1e-3):
        return Q
    # Too flat: scaling row i by t changes its squared norm l to t^2 l / (1 - l + t^2 l) after
    # orthonormalisation and shortens all other rows, so one row can be lifted to the bound.
    i = int(rng.integers(n))
    level, target = norms[i] ** 2, bound**2
    Q[i] *= math.sqrt(target * (1.0 - level) / (level * max(1.0 - target, 1e-15)))
    return np.linalg.qr(Q).Q


def make_low_rank_observations(
    n_rows: int,
    n_cols: int,
    rank: int,
    *,
    n_observations: int | None = None,
    oversampling: float | None = None,
    condition_number: float = 1.0,
    incoherence: float | None = None,
    noise: float = 0.0,
    outlier_fraction: float = 0.0,
    outlier_scale: float = 1.0,
    degrees: str = "uniform",
    degree_exponent: float = 0.7,
    dtype: Any = np.float64,
    random_state: Any = None,
) -> LowRankObservations:
    r"""Random matrix of given rank, observed at distinct random entries.

    The truth is :math:`M = U_0 \Sigma V_0^\top` with random orthonormal :math:`U_0, V_0`, singular
    values in geometric progression, scaled so that the root mean square of all entries is 1.
    The dense matrix is never formed.

    Parameters
    ----------
    n_rows, n_cols : int
        Shape of the matrix.
    rank : int
        Rank, from 1 to ``min(n_rows, n_cols)``.
    n_observations : int or None, default=None
        Number of distinct observed entries, from 1 to ``n_rows * n_cols``.
    oversampling : float or None, default=None
        The same as a multiple of the degrees of freedom ``rank * (n_rows + n_cols - rank)``. Give
        one of the two; with neither, ``oversampling=5`` (at most all entries).
    condition_number : float, default=1.0
        Largest over smallest singular value, at least 1.
    incoherence : float or None, default=None
        With a number ``mu``, the largest row norm of :math:`U_0` is ``mu * sqrt(rank / n_rows)``
        (within 1 %), and likewise for :math:`V_0`; from 1 to ``sqrt(n / rank)`` for both sizes.
        A high value comes from a single row of each factor. ``None``: whatever Gaussian factors
        give, about ``sqrt(1 + 2 log(n) / rank)``.
    noise : float, default=0.0
        Standard deviation of Gaussian noise on the observed values (entries have size 1).
    outlier_fraction : float, default=0.0
        Share of the observed values that are corrupted, in [0, 1].
    outlier_scale : float, default=1.0
        An outlier adds a uniform number of size up to `outlier_scale` times the largest clean
        observed value.
    degrees : {"uniform", "heavy-tailed"}, default="uniform"
        How observed entries spread over rows and columns: all positions equally likely, or the
        probability of the row (column) of rank ``s`` proportional to ``s ** -degree_exponent``, in
        random order.
    degree_exponent : float, default=0.7
        Exponent for ``degrees="heavy-tailed"``, at least 0.
    dtype : {float32, float64}, default=float64
        Type of values and factors.
    random_state : int, Generator or None, default=None
        Seed. One seed gives the same truth and positions in both dtypes, up to rounding.

    Returns
    -------
    LowRankObservations
        Positions, values, shape, true factors and the outlier mask.

    Raises
    ------
    ParameterError
        A parameter is out of its range.

    Notes
    -----
    Cost: O(n_observations (rank + log n_observations)) time and O(n_observations + (n_rows +
    n_cols) rank) memory.

    Examples
    --------
    >>> from lowrank_opt.datasets import make_low_rank_observations
    >>> data = make_low_rank_observations(60, 50, 3, oversampling=4, random_state=0)
    >>> data
    LowRankObservations(60 x 50, 1284 entries, density 0.428, float64)
    >>> data.relative_error(data.U, data.V) < 1e-12
    True
    """
    m, n, k = (int(v) for v in (n_rows, n_cols, rank))
    if m < 1 or n < 1:
        raise ParameterError(f"shape is ({n_rows}, {n_cols}); expected positive sizes")
    if not 1 <= k <= min(m, n):
        raise ParameterError(f"rank is {rank!r}; expected 1 <= rank <= min(shape) = {min(m, n)}")
    if n_observations is not None and oversampling is not None:
        raise ParameterError("give n_observations or oversampling, not both")
    freedom = k * (m + n - k)
    if n_observations is None:
        factor = 5.0 if oversampling is None else float(oversampling)
        size = min(round(factor * freedom), m * n)
        if not size >= 1:
            raise ParameterError(f"oversampling is {oversampling!r}; expected a positive number")
    else:
        size = int(n_observations)
        if not 1 <= size <= m * n:
            raise ParameterError(
                f"n_observations is {n_observations!r}; expected 1 to n_rows * n_cols = {m * n}"
            )
    if not condition_number >= 1.0:
        raise ParameterError(f"condition_number is {condition_number!r}; expected at least 1")
    if incoherence is not None and not 1.0 <= incoherence <= math.sqrt(min(m, n) / k):
        raise ParameterError(
            f"incoherence is {incoherence!r}; expected 1 to sqrt(min(shape) / rank) = "
            f"{math.sqrt(min(m, n) / k):.4g}"
        )
    for name, value, upper in (
        ("noise", noise, math.inf),
        ("outlier_fraction", outlier_fraction, 1.0),
        ("outlier_scale", outlier_scale, math.inf),
        ("degree_exponent", degree_exponent, math.inf),
    ):
        if not 0.0 <= value <= upper:
            raise ParameterError(f"{name} is {value!r}; expected a number from 0 to {upper}")
    if degrees not in ("uniform", "heavy-tailed"):
        raise ParameterError(f"degrees is {degrees!r}; expected 'uniform' or 'heavy-tailed'")
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ParameterError(f"dtype is {dtype}; expected float32 or float64")

    truth, places, disturbance = np.random.default_rng(random_state).spawn(3)
    singular = np.geomspace(1.0, 1.0 / condition_number, k)
    singular *= math.sqrt(m * n / np.sum(singular**2))
    U = (_orthonormal(truth, m, k, incoherence) * np.sqrt(singular)).astype(dtype)
    V = (_orthonormal(truth, n, k, incoherence) * np.sqrt(singular)).astype(dtype)

    weights: list[Array | None] = [None, None]
    if degrees == "heavy-tailed":
        weights = [power_law(places, length, degree_exponent) for length in (m, n)]
    rows, cols = draw_cells(places, (m, n), size, *weights)

    values = products(U, V, rows, cols)
    outliers = np.zeros(size, dtype=bool)
    n_outliers = round(outlier_fraction * size)
    largest = float(np.abs(values).max())
    if noise > 0:
        values += (noise * disturbance.standard_normal(size)).astype(dtype)
    if n_outliers:
        bad = disturbance.choice(size, n_outliers, replace=False)
        outliers[bad] = True
        bound = outlier_scale * largest
        values[bad] += disturbance.uniform(-bound, bound, n_outliers).astype(dtype)
    return LowRankObservations(rows, cols, values, (m, n), U, V, outliers)
