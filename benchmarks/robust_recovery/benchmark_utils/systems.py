"""One adapter per system: the same calls for ours and for every peer.

``prepare`` brings the data into the form that the system's interface takes (outside the clock),
``fit`` is what is timed and calls ``look(get)`` at its iterates, where ``get()`` hands out the
low-rank part as ``(U, V)``, an object with ``U`` and ``V``, or a dense array. ``look`` stops its
clock while it looks, and may raise ``StopIteration`` to end the fit. ``low_rank`` is the answer.
"""

from __future__ import annotations

import importlib.metadata
import math
from typing import Any, ClassVar

import numpy as np

__all__ = ["SYSTEMS", "System", "unavailable"]


class System:
    """Base of the adapters; `options` are those of a job."""

    name: ClassVar[str]
    package: ClassVar[str]
    note: ClassVar[str] = ""

    def __init__(self, *, threads: int = 1, seed: int = 0, **options: Any) -> None:
        self.threads, self.seed, self.options = threads, seed, options

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.package)

    def prepare(self, case) -> None:
        self.case = case
        self.X = case.dense

    def fit(self, look=None) -> None:
        raise NotImplementedError

    def low_rank(self):
        return self.answer


# -- ours -----------------------------------------------------------------------------------------


class Ours(System):
    package = "lowrank_opt"
    rank_known: ClassVar[bool] = True

    @classmethod
    def version(cls) -> str:
        import lowrank_opt

        cls.solver_class()
        return lowrank_opt.__version__

    @classmethod
    def solver_class(cls):
        raise NotImplementedError

    def problem(self):
        from lowrank_opt.recovery import LowRankPlusSparse

        return LowRankPlusSparse.from_dense(
            self.X, rank=self.case.rank if self.rank_known else "auto"
        )

    def solver(self):
        parameters = {"n_threads": self.threads, "random_state": self.seed, **self.options}
        # A solver that draws nothing takes no seed.
        names = self.solver_class()().get_params()
        return self.solver_class()(**{k: v for k, v in parameters.items() if k in names})

    def fit(self, look=None) -> None:
        callback = None
        if look is not None:

            def callback(intermediate_result):
                look(lambda: intermediate_result.x)

        self.result = self.solver().solve(self.problem(), callback=callback)
        self.answer = self.result.x


class OursHuberAuto(Ours):
    name = "ours HuberALS, rank unknown"
    rank_known = False

    @classmethod
    def solver_class(cls):
        from lowrank_opt.recovery import HuberALS

        return HuberALS


class OursHuber(OursHuberAuto):
    name = "ours HuberALS"
    rank_known = True
    note = "rank given"


class OursScaledGD(Ours):
    name = "ours ScaledGD"
    note = "rank given, and 1.5 times the true share of gross errors as its bound"

    @classmethod
    def solver_class(cls):
        from lowrank_opt.recovery import ScaledGD

        return ScaledGD

    def problem(self):
        from lowrank_opt.recovery import LowRankPlusSparse

        return LowRankPlusSparse.from_dense(
            self.X, rank=self.case.rank, outlier_fraction=1.5 * self.case.outlier_fraction
        )


class OursSubgradient(Ours):
    name = "ours SubgradientMethod"
    note = "search rank: three times the rank"

    @classmethod
    def solver_class(cls):
        from lowrank_opt.recovery import SubgradientMethod

        return SubgradientMethod

    def problem(self):
        from lowrank_opt.recovery import LowRankPlusSparse

        return LowRankPlusSparse.from_dense(self.X, rank=3 * self.case.rank)


class OursAlternating(Ours):
    name = "ours AlternatingMinimization, huber"
    note = "completion with Huber loss from a spectral start, rank given"

    @classmethod
    def solver_class(cls):
        from lowrank_opt.recovery import AlternatingMinimization

        return AlternatingMinimization

    def problem(self):
        from lowrank_opt.recovery import MatrixCompletion

        return MatrixCompletion.from_dense(self.X, rank=self.case.rank, loss="huber")


class OursRobustPCA(Ours):
    name = "ours RobustPCA"
    note = "the estimator with its defaults, rank unknown"

    @classmethod
    def solver_class(cls):
        from lowrank_opt.recovery import RobustPCA

        return RobustPCA

    def fit(self, look=None) -> None:
        model = self.solver_class()(random_state=self.seed, n_threads=self.threads, **self.options)
        self.answer = model.fit(self.X).low_rank_.to_dense(max_bytes=None)
        if look is not None:
            look(lambda: self.answer)


# -- peers: principal component pursuit, min |L|_* + lam |P_Omega(X - L)|_1 -----------------------


class Pursuit(System):
    """Zeros where data are missing, a mask, and the weight of the l1 norm."""

    def prepare(self, case) -> None:
        super().prepare(case)
        missing = np.isnan(case.dense)
        self.mask = (~missing).astype(case.dense.dtype) if missing.any() else None
        self.X = np.where(missing, 0.0, case.dense)
        # 1/sqrt(max(m, n)); with the share p of entries seen, 1/sqrt(p max(m, n)).
        share = 1.0 - missing.mean() if self.options.get("share", True) else 1.0
        self.lam = self.options.get("lam", 1.0) / math.sqrt(share * max(case.shape))


class TensorLy(Pursuit):
    name, package = "tensorly robust_pca", "tensorly"
    note = (
        "iterates seen by wrapping its singular-value thresholding; l1 weight twice "
        "1/sqrt(p max(m, n)), because it sums the nuclear norms of both unfoldings; "
        "mu_init and learning_rate from the table of settings"
    )

    def fit(self, look=None) -> None:
        import importlib

        module = importlib.import_module("tensorly.decomposition.robust_decomposition")
        original = module.svd_thresholding
        calls = 0

        def watched(matrix, threshold):
            nonlocal calls
            calls += 1
            matrix = original(matrix, threshold)
            # The first of the two unfoldings is the matrix itself.
            if look is not None and calls % 2:
                self.answer = matrix
                look(lambda: matrix)
            return matrix

        step = self.options.get("mu_init", 1.25)
        module.svd_thresholding = watched
        try:
            self.answer, _ = module.robust_pca(
                self.X,
                mask=self.mask,
                reg_J=1.0,
                reg_E=self.options.get("weight", 2.0) * self.lam,
                mu_init=step / np.linalg.norm(self.X, 2) if step else 1e-4,
                learning_rate=self.options.get("learning_rate", 1.5),
                n_iter_max=self.options.get("n_iter_max", 1000),
                tol=1e-12 * np.linalg.norm(self.X),
                verbose=0,
            )
        except StopIteration:
            pass
        finally:
            module.svd_thresholding = original


class InexactALM(Pursuit):
    name, package = "inexact ALM, full SVD", "numpy"
    partial: ClassVar[bool] = False
    note = (
        "inexact augmented Lagrangian method of Lin, Chen and Ma with their starting values, in "
        "plain NumPy, as it is found in many places"
    )

    def fit(self, look=None) -> None:
        D, lam = self.X, self.lam
        weight = lam if self.mask is None else lam * self.mask
        spectral = np.linalg.norm(D, 2)
        Y = D / max(spectral, np.abs(D).max() / lam)
        mu, rho = 1.25 / spectral, self.options.get("learning_rate", 1.5)
        largest, size = 1e7 * mu, np.linalg.norm(D)
        A, E = np.zeros_like(D), np.zeros_like(D)
        predicted = 10
        try:
            for _ in range(self.options.get("n_iter_max", 1000)):
                T = D - A + Y / mu
                E = np.sign(T) * np.maximum(np.abs(T) - weight / mu, 0.0)
                U, s, Vt = self._svd(D - E + Y / mu, predicted)
                above = int(np.count_nonzero(s > 1.0 / mu))
                few = above < predicted
                predicted = above + 1 if few else above + round(0.05 * min(D.shape))
                predicted = min(predicted, min(D.shape))
                factors = U[:, :above] * (s[:above] - 1.0 / mu), Vt[:above].T
                A = self.answer = factors[0] @ factors[1].T
                if look is not None:
                    look(lambda A=A: A)
                Z = D - A - E
                Y = Y + mu * Z
                mu = min(rho * mu, largest)
                if np.linalg.norm(Z) <= 1e-12 * size:
                    break
        except StopIteration:
            pass

    def _svd(self, M, k):
        from scipy.sparse.linalg import svds

        if self.partial and k <= 0.1 * min(M.shape):
            U, s, Vt = svds(M, k=k, random_state=0)
            return U[:, ::-1], s[::-1], Vt[::-1]
        return np.linalg.svd(M, full_matrices=False)


class InexactALMPartial(InexactALM):
    name, package, partial = "inexact ALM, partial SVD", "scipy", True
    note = "the same with their prediction of the rank and SciPy's `svds`"


class ConvexOracle(Pursuit):
    package = "cvxpy"
    solver_name: ClassVar[str]
    levels: ClassVar[tuple]

    def fit(self, look=None) -> None:
        import cvxpy as cp

        level = self.options.get("level", self.levels[-1])
        L, S = cp.Variable(self.X.shape), cp.Variable(self.X.shape)
        mask = 1.0 if self.mask is None else self.mask
        problem = cp.Problem(
            cp.Minimize(cp.normNuc(L) + self.lam * cp.sum(cp.abs(S))),
            [cp.multiply(mask, L + S) == self.X],
        )
        problem.solve(solver=self.solver_name, **level)
        self.answer = L.value
        # Without what the modelling layer takes: the solver's own clock.
        self.solver_seconds = problem.solver_stats.solve_time


class Scs(ConvexOracle):
    name, solver_name = "cvxpy + SCS", "SCS"
    note = "the solver's own seconds, without cvxpy's compilation"
    levels = tuple(
        {"eps_abs": eps, "eps_rel": eps, "max_iters": 50_000} for eps in (1e-4, 1e-6, 1e-8)
    )


class Clarabel(ConvexOracle):
    name, solver_name = "cvxpy + Clarabel", "CLARABEL"
    note = "the solver's own seconds, without cvxpy's compilation"
    levels = ({},)


SYSTEMS: dict[str, type[System]] = {
    s.name: s
    for s in (
        OursHuberAuto,
        OursHuber,
        OursRobustPCA,
        OursScaledGD,
        OursSubgradient,
        OursAlternating,
        TensorLy,
        InexactALM,
        InexactALMPartial,
        Scs,
        Clarabel,
    )
}


def unavailable(name: str) -> str | None:
    """Why a system cannot run here, or ``None``."""
    try:
        SYSTEMS[name].version()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
