"""Steps inside the cone of definite matrices, with few factorisations.

A factorisation that fails hands out a vector v with vᵀMv <= 0. For the matrix M + t (D_1 + s D_2 +
r D_3) of any other step t and weights s, r the same vector gives a bound on t in closed form, so
that most candidates of a search are refused without a factorisation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack, solve_triangular

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ConeSteps"]

_NEAR = 0.9  # a step that passes is long enough at this share of one that does not
_BISECTIONS = 3
_BELOW = 0.98


class ConeSteps:
    """Tests of M + t (D_1 + s D_2 + r D_3) for definiteness.

    Parameters
    ----------
    M : ndarray of shape (d, d)
        Positive definite.
    counts : dict of str to int
        ``"factorisations"`` is raised.
    """

    def __init__(self, M: NDArray[np.float64], counts: dict[str, int]) -> None:
        self.M, self.counts = M, counts
        self.parts: list[NDArray[np.float64]] = []
        self.vectors: list[NDArray[np.float64]] = []
        self.forms = np.zeros((0, 4))  # vᵀMv, vᵀD_1v, vᵀD_2v, vᵀD_3v

    def add(self, D: NDArray[np.float64]) -> None:
        """Add the next part of the direction."""
        self.parts.append(D)
        column = len(self.parts)
        for row, v in zip(self.forms, self.vectors, strict=True):
            row[column] = v @ D @ v

    def bound(self, s: float, r: float) -> float:
        """Return a step that is known to be too long, or infinity."""
        slopes = self.forms[:, 1] + s * self.forms[:, 2] + r * self.forms[:, 3]
        down = slopes < 0.0
        return float(np.min(-self.forms[down, 0] / slopes[down], initial=math.inf))

    def direction(self, s: float, r: float) -> NDArray[np.float64]:
        """Return D_1 + s D_2 + r D_3 of the parts that there are."""
        D = self.parts[0]
        for weight, part in zip((s, r), self.parts[1:], strict=False):
            if weight != 0.0:
                D = D + weight * part
        return D

    def passes(self, D: NDArray[np.float64], t: float) -> bool:
        """Whether M + t D is definite; remembers why if not."""
        self.counts["factorisations"] = self.counts.get("factorisations", 0) + 1
        trial = t * D
        trial += self.M
        factor, info = lapack.dpotrf(trial.T, lower=1, clean=0)
        if info == 0:
            return math.isfinite(float(factor.diagonal().sum()))
        if info > 0:
            self._remember(factor, trial, info - 1)
        return False

    def _remember(self, factor: NDArray[np.float64], trial: NDArray[np.float64], i: int) -> None:
        v = np.zeros(len(trial))
        v[i] = 1.0
        if i:
            L = factor[:i, :i]
            half = solve_triangular(L, trial[i, :i], lower=True, check_finite=False)
            v[:i] = -solve_triangular(L, half, lower=True, trans=1, check_finite=False)
        v /= float(np.linalg.norm(v))
        if not np.all(np.isfinite(v)):
            return
        row = np.zeros(4)
        for column, A in enumerate((self.M, *self.parts)):
            row[column] = v @ A @ v
        if row[0] > 0.0:
            self.vectors.append(v)
            self.forms = np.vstack([self.forms, row])

    def inside(self, s: float, r: float, t: float) -> bool:
        """Whether step t with weights s and r stays definite."""
        return self.bound(s, r) > t and self.passes(self.direction(s, r), t)

    def length(self, s: float, r: float, most: float, factor: float) -> float:
        """Return a step of at most `most` and one that keeps `factor` of the distance.

        Parameters
        ----------
        s, r : float
            Weights of the second and third part.
        most : float
            Distance to other boundaries.
        factor : float
            Share of the distance that is used.
        """
        most = min(1.0, factor * most)
        D = self.direction(s, r)
        high = math.inf
        low = min(most / factor, _BELOW * self.bound(s, r))
        while low >= 1e-9 and not self.passes(D, low):
            high = min(low, self.bound(s, r))
            low = min(_BELOW * high, 0.99 * low)
        if low < 1e-9:
            return 0.0
        high = min(high, self.bound(s, r))
        for _ in range(_BISECTIONS):
            if low >= most / factor or low >= _NEAR * high:
                break
            middle = min(0.5 * (low + high), most / factor)
            if self.passes(D, middle):
                low = middle
            else:
                high = min(middle, self.bound(s, r))
        return min(most, factor * low)
