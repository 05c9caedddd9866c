"""Arithmetic of a linear matrix inequality with terms of rank two: maps, certificates, bounds.

Notation: S(ρ, y) = ρ E + A*(y) - C with A*(y) = Σ_k y_k A_k, and A(X)_k = ⟨A_k, X⟩. The dual of
the program of :class:`~lowrank_opt.lipschitz.forms.LowRankLMI` is

    max ⟨C, X⟩   s.t.   X ⪰ 0,   ⟨E, X⟩ = 1,   A(X)_k <= 0 (= 0 for free multipliers).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh, eigvalsh, solve_triangular

from lowrank_opt.lipschitz.factorisations import cholesky

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import LowRankLMI

__all__ = ["Operator"]

_MARGIN = 1e-4  # least pivot with which a start is well inside
_SPARSE = 0.1  # share of nonzeros below which products with P use its zeros


class Operator:
    """The maps A, A* and the Schur matrix of one inequality, and what points of it prove.

    Parameters
    ----------
    form : LowRankLMI
        The inequality.
    """

    def __init__(self, form: LowRankLMI) -> None:
        self.E, self.C = form.E, form.C
        self.free, self.bounded = form.free, ~form.free
        self.norm = form.norm
        self.d, self.k = form.E.size, form.free.size
        self.Qt = np.ascontiguousarray(form.Q.T)
        P = np.ascontiguousarray(form.P.T)
        sparse = np.count_nonzero(P) < _SPARSE * P.size
        self.Pt: Any = sp.csr_array(P) if sparse else P
        M = form.M
        unit = M.shape[0] == M.shape[1] and M.nnz == M.shape[0]
        unit = unit and bool(np.all(M.diagonal() == 1.0))
        self.M: Any = None if unit else sp.csr_array(M)
        self.Mt: Any = None if unit else sp.csr_array(M.T)
        self.inputs = np.flatnonzero(self.E)
        self._G: NDArray[np.float64] | None = None

    def with_data(self, E: NDArray[np.float64], C: NDArray[np.float64]) -> Operator:
        """Return the same terms with another diagonal E and another matrix C."""
        other = object.__new__(Operator)
        other.__dict__.update(self.__dict__)
        other.E, other.C, other.inputs, other._G = E, C, np.flatnonzero(E), None
        return other

    def sizes(self) -> NDArray[np.float64]:
        """Return Σ_m |M_mk| ‖p_m‖ ‖q_m‖, about the norm of A_k."""
        p = np.sqrt(np.asarray((self.Pt * self.Pt).sum(axis=1)).ravel())
        w = p * np.linalg.norm(self.Qt, axis=1)
        w = w if self.Mt is None else np.asarray(abs(self.Mt) @ w)
        return np.where(w > 0.0, w, 1.0)

    # -- maps -------------------------------------------------------------------------------

    def adjoint(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return Σ_k y_k A_k. Cost: 2·d²·m flops."""
        w = y if self.M is None else self.M @ y
        T = np.asarray(self.Pt.T @ (w[:, None] * self.Qt))
        return T + T.T

    def slack(self, rho: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return S = ρ E + Σ_k y_k A_k - C."""
        S = self.adjoint(y)
        S -= self.C
        S.flat[:: self.d + 1] += rho * self.E
        return S

    def values(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ⟨A_k, X⟩ for all k. Cost: 2·d²·m flops."""
        a = 2.0 * np.einsum("ij,ij->i", np.asarray(self.Pt @ X), self.Qt)
        return a if self.Mt is None else np.asarray(self.Mt @ a)

    def trace(self, X: NDArray[np.float64]) -> float:
        """Return ⟨E, X⟩."""
        return float(self.E @ X.diagonal())

    def schur(self, X: NDArray[np.float64], Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the matrix of ⟨B_i, X B_j Z⟩ with B = (E, A_1, …, A_k).

        Cost: products with P and Q of 4·d²·m and 6·d·m² multiplications, 4·m² more for their
        entrywise products.
        """
        PX, QX = np.asarray(self.Pt @ X), self.Qt @ X
        PZ, QZ = (PX, QX) if Z is X else (np.asarray(self.Pt @ Z), self.Qt @ Z)
        mixed = np.asarray(self.Pt @ QX.T)  # p'Xq
        H = mixed * (mixed if Z is X else np.asarray(self.Pt @ QZ.T)).T
        H += H.T
        H += (self.Qt @ QX.T) * np.asarray(self.Pt @ PZ.T)
        H += np.asarray(self.Pt @ PX.T) * (self.Qt @ QZ.T)
        i, e = self.inputs, self.E[self.inputs]
        h = ((PX[:, i] * QZ[:, i] + QX[:, i] * PZ[:, i]) @ e).ravel()
        if self.M is not None:
            H = np.asarray(self.Mt @ np.asarray(self.Mt @ H).T)
            h = np.asarray(self.Mt @ h)
        B = np.empty((self.k + 1, self.k + 1))
        B[1:, 1:] = 0.5 * (H + H.T)
        B[0, 1:] = B[1:, 0] = h
        B[0, 0] = e @ (X[np.ix_(i, i)] * Z[np.ix_(i, i)]) @ e
        return B

    # -- what points prove -----------------------------------------------------------------

    def certify(self, u: NDArray[np.float64]) -> tuple[float, NDArray[np.float64] | None]:
        """Return the smallest ρ that multipliers prove, and the multipliers divided by it.

        Parameters
        ----------
        u : ndarray of shape (k,)
            Multipliers divided by some ρ. For the norm "linf" any multiple of them does as well,
            the best one is returned.

        Returns
        -------
        float, ndarray of shape (k,) or None
            ``inf, None``: they prove nothing.
        """
        if not np.all(np.isfinite(u)) or np.any(u[self.bounded] < 0.0):
            return math.inf, None
        return self._certify_border(u) if self.norm == "linf" else self._certify_inputs(u)

    def guess(self) -> tuple[float, NDArray[np.float64] | None]:
        """Return the best ρ that equal multipliers of some size prove, and them."""
        rho, best = math.inf, None
        for power in range(5):
            trial = 10.0**-power * self.bounded / self.sizes()
            r, u = self.certify(trial)
            if r < rho and self._margin(trial) > _MARGIN:
                rho, best = r, u
        return rho, best

    def _margin(self, u: NDArray[np.float64]) -> float:
        """Return the smallest pivot of E + A*(u), relative to its diagonal, without a border."""
        K = self.adjoint(u)
        K.flat[:: self.d + 1] += self.E
        if self.norm == "linf":
            rest = np.delete(np.arange(self.d), self.inputs[-1])
            K = K[np.ix_(rest, rest)]
        factor = cholesky(K)
        return 0.0 if factor is None else float(np.min(factor.diagonal() ** 2 / K.diagonal()))

    def _certify_inputs(self, u: NDArray[np.float64]) -> tuple[float, NDArray[np.float64] | None]:
        """Largest eigenvalue of C relative to E + A*(u)."""
        K = self.adjoint(u)
        K.flat[:: self.d + 1] += self.E
        factor = cholesky(K)
        if factor is None:
            return math.inf, None
        T = solve_triangular(factor, self.output_map.T, lower=True, check_finite=False)
        gram = T.T @ T if T.shape[1] <= T.shape[0] else T @ T.T
        rho = float(eigvalsh(gram, check_finite=False)[-1]) if gram.size else 0.0
        return (rho, u) if math.isfinite(rho) else (math.inf, None)

    def _certify_border(self, u: NDArray[np.float64]) -> tuple[float, NDArray[np.float64] | None]:
        """Best multiple t of u: 2ρ = min over t of (c + t v)ᵀ K⁻¹ (c + t v) / t + t s.

        K is the part of A*(u) without the border, v its column at the border, -s its corner, and
        c the column of -C.
        """
        border = int(self.inputs[-1])
        rest = np.delete(np.arange(self.d), border)
        K = self.adjoint(u)
        s, v, c = -K[border, border], K[rest, border], -self.C[rest, border]
        factor = cholesky(K[np.ix_(rest, rest)])
        if factor is None:
            return math.inf, None
        T = solve_triangular(factor, np.column_stack([c, v]), lower=True, check_finite=False)
        (cc, cv), (_, vv) = T.T @ T
        price = vv + s
        if not (price > 0.0 and math.isfinite(cc)):
            return math.inf, None
        if cc == 0.0:
            return 0.0, u
        rho = 2.0 * (math.sqrt(cc * price) + cv) / self.E[border]
        return (rho, (math.sqrt(cc / price) / rho) * u) if rho > 0.0 else (math.inf, None)

    @property
    def output_map(self) -> NDArray[np.float64]:
        """G with C = GᵀG, for the norm "l2"."""
        if self._G is None:
            self._G = self._factor()
        return self._G

    def _factor(self) -> NDArray[np.float64]:
        size = np.flatnonzero(np.any(self.C != 0.0, axis=0))
        G = np.zeros((0, self.d))
        if size.size:
            w, V = eigh(self.C[np.ix_(size, size)], check_finite=False)
            keep = w > 1e-15 * max(w[-1], 0.0)
            G = np.zeros((int(keep.sum()), self.d))
            G[:, size] = np.sqrt(w[keep])[:, None] * V[:, keep].T
        return G

    def dual_bound(self, X: NDArray[np.float64], rho_upper: float) -> float:
        r"""Return a lower bound on the optimal ρ that follows from a positive definite matrix.

        For the optimum (ρ, y, S) and any X ⪰ 0 with x = -A(X) >= 0 on the bounded multipliers
        and e = A(X) on the free ones, ⟨E, X⟩ ρ - ⟨C, X⟩ = ⟨S, X⟩ + Σ x_k y_k - Σ e_k y_k. All
        terms but the last are nonnegative. The free multipliers that leave e by rounding are
        bounded through the norm of Σ_free y_k A_k = S - ρ E - Σ_bounded y_k A_k + C measured by
        X, in which S is at most ⟨S, X⟩.

        Parameters
        ----------
        X : ndarray of shape (d, d)
            Symmetric.
        rho_upper : float
            A proven upper bound on the optimal ρ; used only with free multipliers.

        Returns
        -------
        float
            0.0: the matrix proves nothing.
        """
        total = self.trace(X)
        if not total > 0.0 or cholesky(X) is None:
            return 0.0
        X = X / total
        a = self.values(X)
        value = float(np.vdot(self.C, X))
        x, e = -a[self.bounded], np.abs(a[self.free])
        if np.any(x < 0.0) or not math.isfinite(value):
            return 0.0
        if e.size and e.any():
            value -= self._price_of_residuals(X, value, x, e, rho_upper)
        return max(value, 0.0) if math.isfinite(value) else 0.0

    def polished(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return X with ⟨A_k, X⟩ = 0 for free multipliers to rounding, changed relative to X."""
        if not self.free.any() or not np.all(np.isfinite(X)):
            return X
        for _ in range(2):
            F = self.schur(X, X)[1:, 1:][np.ix_(self.free, self.free)]
            root = np.sqrt(np.maximum(F.diagonal(), np.finfo(float).tiny))
            w, V = eigh(F / np.outer(root, root), check_finite=False)
            keep = w > 1e-12
            rest = (V.T @ (self.values(X)[self.free] / root))[keep] / w[keep]
            z = np.zeros(self.k)
            z[self.free] = (V[:, keep] @ rest) / root
            change = X @ self.adjoint(z) @ X
            X = X - 0.5 * (change + change.T)
        return X

    def margin_bound(self, X: NDArray[np.float64]) -> float:
        """Return what -ρ cannot exceed, of either sign; ``inf`` if the matrix proves nothing."""
        X = X / self.trace(X)
        a = self.values(X)
        feasible = np.all(a[self.bounded] <= 0.0) and np.all(np.abs(a[self.free]) <= 1e-9)
        return -float(np.vdot(self.C, X)) if feasible else math.inf

    def _price_of_residuals(
        self,
        X: NDArray[np.float64],
        value: float,
        x: NDArray[np.float64],
        e: NDArray[np.float64],
        rho_upper: float,
    ) -> float:
        """Bound Σ |e_k y_k| over the free multipliers of all optimal points."""
        if not math.isfinite(rho_upper) or np.any(x <= 0.0):
            return math.inf
        B = self.schur(X, X)
        sizes = np.sqrt(np.maximum(B.diagonal(), 0.0))
        F = B[1:, 1:][np.ix_(self.free, self.free)]
        root = np.sqrt(F.diagonal())
        if np.any(root <= 0.0):
            return math.inf
        w, V = eigh(F / np.outer(root, root), check_finite=False)
        keep = w > 1e-12  # multipliers of dependent terms can be chosen without the rest
        g = np.sqrt((V[:, keep] ** 2) @ (1.0 / w[keep])) / root
        CX = self.C @ X
        known = rho_upper * sizes[0] + math.sqrt(max(float(np.sum(CX * CX.T)), 0.0))
        steep = float(np.max(sizes[1:][self.bounded] / x, initial=1.0))
        weight = float(e @ g)
        if weight * steep >= 0.5:
            return math.inf
        gap = max(rho_upper - value, 0.0)
        t = (gap + weight * known) / (1.0 - weight * steep)
        return weight * (known + steep * t)
