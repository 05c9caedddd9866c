"""The smallest problem and solver that pass every check: a template to copy from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from lowrank_opt.core.backend import Backend
from lowrank_opt.core.errors import ProblemError
from lowrank_opt.core.params import Interval
from lowrank_opt.core.problem import Certificate, Problem
from lowrank_opt.core.protocols import HasGradient
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State

__all__ = ["GradientDescent", "GradientDescentState", "Quadratic", "make_quadratic"]


@dataclass(frozen=True, eq=False)
class Quadratic(Problem):
    """Minimise ``x.A x / 2 - b.x``.

    Parameters
    ----------
    A : array of shape (n, n)
        Symmetric positive definite; float32 or float64, of any supported library.
    b : array of shape (n,)
        Linear term, not zero.
    """

    A: Any
    b: Any

    def __post_init__(self) -> None:
        backend = Backend.of(self.A, self.b)
        A, b = backend.to_numpy(self.A), backend.to_numpy(self.b)
        if A.shape != (b.size, b.size):
            raise ProblemError(f"A has shape {A.shape}, b {b.shape}; expected (n, n) and (n,)")
        if not np.isfinite(A).all() or not np.isfinite(b).all():
            raise ProblemError("A and b must be finite: remove NaN and infinity first")
        if not b.any():
            raise ProblemError("b is zero: the residual is relative to it, and the answer is 0")

    def _host(self, x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        to_numpy = Backend.of(self.A).to_numpy
        return tuple(to_numpy(v).astype(np.float64) for v in (self.A, self.b, x))  # type: ignore[return-value]

    def objective(self, x: Any) -> float:
        """Objective at `x`, in float64."""
        A, b, z = self._host(x)
        return float(z @ (0.5 * (A @ z) - b))

    def gradient(self, x: Any, out: Any = None) -> Any:
        """Return ``A x - b``."""
        gradient = self.A @ x - self.b
        if out is None:
            return gradient
        out[...] = gradient
        return out

    def certificate(self, x: Any) -> Certificate:
        """Grade `x` by ``|A x - b| / |b|``."""
        A, b, z = self._host(x)
        residual = np.linalg.norm(A @ z - b) / np.linalg.norm(b)
        return Certificate(residual, "relative gradient", self.objective(x))

    def fingerprint(self) -> dict[str, Any]:
        """Shape, dtype and hash of the data."""
        to_numpy = Backend.of(self.A).to_numpy
        digest = hashlib.sha256(to_numpy(self.A).tobytes() + to_numpy(self.b).tobytes())
        return {
            "shape": list(self.A.shape), "dtype": str(self.A.dtype), "hash": digest.hexdigest(),
        }  # fmt: skip


def make_quadratic(dtype: Any = np.float64, seed: int = 0, xp: Any = np, n: int = 5) -> Quadratic:
    """Return a random quadratic with eigenvalues between 1 and 10.

    Parameters
    ----------
    dtype : dtype, default=numpy.float64
        Of the data.
    seed : int, default=0
        Of the random numbers.
    xp : module, default=numpy
        Array library of the data.
    n : int, default=5
        Number of variables.
    """
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = (Q * np.linspace(1.0, 10.0, n)) @ Q.T
    b = rng.standard_normal(n)
    return Quadratic(*(xp.asarray(np.ascontiguousarray(v, dtype=dtype)) for v in (A, b)))


@dataclass
class GradientDescentState(State):
    """State with the gradient at the iterate.

    Parameters
    ----------
    gradient : array of shape (n,)
        At ``x``.
    """

    gradient: Any = None


class GradientDescent(Solver):
    """Gradient descent for :class:`Quadratic`, with a constant step.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when ``|A x - b| <= tol |b|``.
    max_iter, max_time, check_every
        See :class:`lowrank_opt.core.Solver`.
    step_size : float, default=0.1
        Converges for steps below 2 / (largest eigenvalue); decreases monotonely.

    Notes
    -----
    Cost per iteration: one product with A. ``counts["gradients"]`` is ``nit + 1``.
    """

    requires = (HasGradient,)
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "step_size": [Interval(Real, 0, None, closed="neither")]
    }

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 1000,
        max_time: float | None = None,
        check_every: int | str = 1,
        step_size: float = 0.1,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.step_size = step_size

    def init(self, problem: Any, x0: Any = None) -> GradientDescentState:
        """Start at zero or at a copy of `x0`."""
        if x0 is not None and tuple(x0.shape) != tuple(problem.b.shape):
            raise ProblemError(
                f"x0 has shape {tuple(x0.shape)}, expected {tuple(problem.b.shape)}: "
                "start from a point of this problem"
            )
        state = GradientDescentState(x=0.0 * problem.b if x0 is None else 1.0 * x0)
        return self._grade(problem, state)

    def step(self, problem: Any, state: State, n: int = 1) -> State:
        """Do `n` iterations."""
        for _ in range(n):
            state.x -= self.step_size * state.gradient  # type: ignore[attr-defined]
            state.nit += 1
            self._grade(problem, state)
        return state

    def _grade(self, problem: Any, state: Any) -> Any:
        state.gradient = problem.gradient(state.x)
        state.count(gradients=1)
        to_numpy = Backend.of(problem.b).to_numpy
        state.residual = float(
            np.linalg.norm(to_numpy(state.gradient)) / np.linalg.norm(to_numpy(problem.b))
        )
        return state
