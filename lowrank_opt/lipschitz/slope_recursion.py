"""The bound that multipliers give a chain, as a smooth function without constraints.

With X_0 = I and, for each hidden layer, W = W_i, slopes between a and 1 and multipliers λ,

    Y = W X_{i-1}⁻¹ Wᵀ,    X_i = 2 Λ - (1 + A) Λ (Y⁻¹ + 2 A Λ)⁻¹ Λ (1 + A),

the multipliers prove the squared bound λ_max(W_L X_{L-1}⁻¹ W_Lᵀ) whenever all X_i are positive
definite. Eliminating the other block first shows that this holds for X_i if and only if
Λ (1 - A)² / 2 < Y⁻¹, for every slope in [-1, 1). So for all real θ and τ

    λ = exp(θ) s / ((1 - a)² ‖D Y D‖),    D = diag(exp(θ/2)),    s = 2 / (1 + exp(-τ)) < 2

is feasible, with any norm that is at least the spectral one. The Schatten norm of order 2ᵏ + 1
needs k squarings and is differentiable; θ = 0, τ = 0 and the spectral norm give the closed form
of ECLipsE-Fast. Everything is computed after division by the norms, whose logarithms are added
up, so that depth neither overflows nor underflows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

from lowrank_opt.lipschitz.factorisations import cholesky

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain

__all__ = ["Evaluation", "SlopeRecursion"]

# Beyond it s equals 2 in floating point and X_i has no Cholesky factor.
_LARGEST_TAU = 30.0
# Trials of the guess; s = 1.24, 1.46 and 1.64.
_TAUS = (0.5, 1.0, 1.5)
# Largest s of a given point.
_LARGEST_S = 2.0 - 1e-6


class Evaluation(NamedTuple):
    """What one pass over the layers finds.

    Parameters
    ----------
    value : float
        Twice the logarithm of a bound, with Schatten norms; ``inf``: rounding made it infeasible.
    gradient : ndarray of shape (size,)
        Its gradient.
    log_bound : float
        Logarithm of the bound that these multipliers give, at most ``value / 2``.
    log_multipliers : tuple of ndarray of shape (n_i,)
        Logarithms of the multipliers, which are those divided by ρ.
    """

    value: float
    gradient: NDArray[np.float64]
    log_bound: float
    log_multipliers: tuple[NDArray[np.float64], ...]


class _Layer(NamedTuple):
    """What the backward pass needs of a layer."""

    factor: Any
    T: Any
    ratio: Any  # Y over its norm; with slopes that are not zero (Y⁻¹ + 2 A Λ)⁻¹ times the norm
    plain: Any  # Y over its norm
    root: Any
    power: Any
    leading: Any
    norm: float
    multipliers: Any
    s: float


def _schatten(M: NDArray[np.float64], k: int) -> tuple[float, Any, Any, Any]:
    """Return the logarithm of ‖M‖_p, p = 2ᵏ + 1, M^(p-1) / tr M^p and the diagonal of M^p / tr."""
    first = float(np.sqrt(np.vdot(M, M)))
    if not 0.0 < first < np.inf:
        return np.nan, None, None, None
    A = base = M / first
    exponent = 0.0
    for _ in range(k):
        A = A @ A.T
        f = float(np.sqrt(np.vdot(A, A)))
        A *= 1.0 / f
        exponent = 2.0 * exponent + np.log(f)
    diagonal = np.einsum("ij,ij->i", A, base)
    trace = float(diagonal.sum())
    norm = np.log(first) + (exponent + np.log(trace)) / (2**k + 1)
    return norm, A, 1.0 / (trace * first), diagonal / trace


class SlopeRecursion:
    """Value, gradient and multipliers of a `Chain` at any point (θ, τ).

    Parameters
    ----------
    chain : Chain
        The network, with at least one hidden layer.

    Notes
    -----
    Cost of an evaluation: per layer of width n about ``(8 + k) n³`` flops, half as much again
    where slopes are not zero; memory about ``6 n²`` numbers per layer.
    """

    def __init__(self, chain: Chain) -> None:
        last = chain.weights[-1]
        if last.shape[0] > last.shape[1]:  # only W_LᵀW_L matters
            last = np.asarray(np.linalg.qr(last, mode="r"))
        self.weights = (*chain.weights[:-1], np.ascontiguousarray(last))
        self.alpha = tuple(a if np.any(a) else None for a in chain.alpha)
        self.shrink = tuple(
            0.0 if a is None else -2.0 * np.log1p(-a) for a in self.alpha
        )  # -log (1 - a)²
        self.widths = tuple(W.shape[0] for W in chain.weights[:-1])
        self.n_hidden = sum(self.widths)
        self.n_layers = len(self.widths)
        self.size = self.n_hidden + self.n_layers

    def split(self, x: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return θ of each layer, as views.

        Parameters
        ----------
        x : ndarray of shape (size,)
            First θ of all layers, then τ.
        """
        ends = np.cumsum(self.widths)
        return [x[e - n : e] for e, n in zip(ends, self.widths, strict=True)]

    def evaluate(self, x: NDArray[np.float64], k: int) -> Evaluation:
        """Return value, gradient, bound and multipliers.

        Parameters
        ----------
        x : ndarray of shape (size,)
            First θ of all layers, then τ of each.
        k : int
            Squarings; the Schatten norms have order 2ᵏ + 1.

        Returns
        -------
        Evaluation
            With value ``inf`` where rounding leaves no positive definite X_i.
        """
        with np.errstate(all="ignore"):
            passed = self._forward(x, k)
            if passed is None or not np.isfinite(passed[0]):
                return Evaluation(np.inf, np.zeros_like(x), np.inf, ())
            value, log_bound, multipliers, layers, Ybar = passed
            gradient = self._backward(layers, Ybar)
            if not np.all(np.isfinite(gradient)):
                return Evaluation(np.inf, np.zeros_like(x), np.inf, ())
        return Evaluation(value, gradient, log_bound, multipliers)

    def guess(self, k: int) -> NDArray[np.float64]:
        """Return a point that is far better than zero for deep networks.

        θ is half the logarithm of what reads a neuron over what drives it, both as sums of squared
        weights over paths; s is the best of a few.

        Parameters
        ----------
        k : int
            Squarings.

        Returns
        -------
        ndarray of shape (size,)
            The point.

        Notes
        -----
        Cost: three evaluations without gradient.
        """
        squares = [W * W for W in self.weights]
        readers = [squares[-1].sum(axis=0)]
        for S in reversed(squares[1:-1]):
            readers.append((readers[-1] / readers[-1].mean()) @ S)
        drive = np.ones(squares[0].shape[1])
        thetas = []
        for S, read in zip(squares[:-1], reversed(readers), strict=True):
            drive = S @ (drive / drive.mean())
            thetas.append(0.5 * (np.log(read) - np.log(drive)))
        theta = np.nan_to_num(np.concatenate(thetas), posinf=0.0, neginf=0.0)
        best, best_value = np.zeros(self.size), np.inf
        for tau in _TAUS:
            x = np.concatenate([theta, np.full(self.n_layers, tau)])
            with np.errstate(all="ignore"):
                passed = self._forward(x, k)
            if passed is not None and passed[0] < best_value:
                best, best_value = x, passed[0]
        return best

    def locate(self, multipliers: Sequence[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
        """Return the point (θ, τ) of given multipliers.

        Parameters
        ----------
        multipliers : sequence of ndarray of shape (n_i,)
            Multipliers divided by ρ, positive; those too near to the boundary for the Schatten
            norm are moved inwards.
        k : int
            Squarings.

        Returns
        -------
        ndarray of shape (size,)
            The point; zero where that fails.
        """
        x = np.zeros(self.size)
        with np.errstate(all="ignore"):
            self._forward(x, k, [np.log(lam) for lam in multipliers])
        return x if np.all(np.isfinite(x)) else np.zeros(self.size)

    def _forward(self, x: NDArray[np.float64], k: int, given: Any = None) -> Any:
        """Go through the layers; with `given` logarithms of multipliers write their point to x."""
        total, factor = 0.0, None
        layers, multipliers = [], []
        taus = np.minimum(x[self.n_hidden :], _LARGEST_TAU)
        thetas = self.split(x)
        for i, (W, a, shrink) in enumerate(
            zip(self.weights[:-1], self.alpha, self.shrink, strict=True)
        ):
            T = W.T if factor is None else blas.dtrsm(1.0, factor, W.T, lower=1)
            Y = T.T @ T
            theta, tau = thetas[i], taus[i]
            if given is not None:
                theta[:] = given[i] + (total - shrink)
            root = np.exp(0.5 * theta)
            log_norm, power, leading, diagonal = _schatten(root[:, None] * Y * root, k)
            norm = np.exp(log_norm)
            if not 0.0 < norm < np.inf:
                return None
            total += log_norm
            if given is not None:
                tau = x[self.n_hidden + i] = -np.log(2.0 / min(norm, _LARGEST_S) - 1.0)
            s = 2.0 / (1.0 + np.exp(-tau))
            log_lam = theta + (np.log(s) + shrink)
            lam = np.exp(log_lam)
            Y *= 1.0 / norm
            if a is None:
                ratio, ell = Y, lam
            else:
                H = (T * (2.0 * a * lam / norm)) @ T.T
                H.flat[:: len(H) + 1] += 1.0
                inner = cholesky(H, overwrite=True)
                if inner is None:
                    return None
                R = blas.dtrsm(norm**-0.5, inner, T, lower=1)
                ratio, ell = R.T @ R, (1.0 + a) * lam
            X = ratio * -ell
            X *= ell[:, None]
            X.flat[:: len(X) + 1] += 2.0 * lam
            layers.append(
                _Layer(factor, T, ratio, Y, root, power, (leading, diagonal), norm, lam, s)
            )
            multipliers.append(log_lam - total)
            factor = cholesky(X, overwrite=True)
            if factor is None:
                return None
        T = blas.dtrsm(1.0, factor, self.weights[-1].T, lower=1)
        Y = T.T @ T
        if len(Y) == 1:
            top = total + np.log(Y[0, 0])
            value, Ybar = top, 1.0 / Y
        else:
            log_norm, power, leading, _ = _schatten(Y, k)
            if power is None:
                return None
            value, Ybar = total + log_norm, power * leading
            largest = lapack.dsyevr(Y.T, compute_v=0, range="I", il=len(Y), iu=len(Y))
            top = total + np.log(largest[0][0])
        layers.append(_Layer(factor, T, None, None, None, None, None, 1.0, None, 0.0))
        return value, 0.5 * top, tuple(multipliers), layers, Ybar

    def _backward(self, layers: list[_Layer], Ybar: NDArray[np.float64]) -> NDArray[np.float64]:
        gradient = np.empty(self.size)
        end = self.n_hidden
        for i in range(self.n_layers, 0, -1):
            after, layer, a = layers[i], layers[i - 1], self.alpha[i - 1]
            G = blas.dtrsm(1.0, after.factor, after.T, lower=1, trans_a=1)
            Xbar = (G @ Ybar) @ G.T
            Xbar *= -1.0
            lam, ratio = layer.multipliers, layer.ratio
            ell = lam if a is None else (1.0 + a) * lam
            lbar = np.einsum("ij,ij,j->i", ratio, Xbar, ell)
            lbar *= -2.0 if a is None else -2.0 * (1.0 + a)
            lbar += 2.0 * Xbar.diagonal()
            Xbar *= -ell
            Xbar *= ell[:, None]
            qbar = Xbar
            if a is not None:
                b = 2.0 * a * lam
                U = qbar @ ratio
                V = ratio @ U
                lbar -= 2.0 * a * V.diagonal()
                U *= b
                V *= b
                V *= b[:, None]
                qbar = qbar - U - U.T + V
            direct = lbar * lam
            rest = 1.0 - float(np.vdot(qbar, layer.plain))
            scale, diagonal = layer.leading
            gradient[end - len(lam) : end] = direct + rest * diagonal
            gradient[self.n_hidden + i - 1] = direct.sum() * (1.0 - 0.5 * layer.s)
            end -= len(lam)
            if i > 1:
                root = layer.root
                Ybar = layer.power * (rest * scale)
                Ybar *= root
                Ybar *= root[:, None]
                qbar *= 1.0 / layer.norm
                Ybar += qbar
        return gradient
