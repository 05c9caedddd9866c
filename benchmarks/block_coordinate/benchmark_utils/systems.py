"""One adapter per system: the same calls for ours and for every peer.

``prepare`` makes the estimator (outside the clock), ``fit`` is what is timed: the whole call that
a user makes, with checks, copies and centring. ``answer`` hands out coefficients and intercept.
``path`` fits all values of a list of penalties, ``answers`` hands out what it found.
``refuses`` says why a system has no answer to a problem, or is not asked; the report shows it.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any, ClassVar

import numpy as np

__all__ = ["SYSTEMS", "System", "unavailable"]

MANY = 1_000_000  # a limit of iterations that is never the one that ends a fit


class System:
    """Base of the adapters."""

    name: ClassVar[str]
    package: ClassVar[str]
    note: ClassVar[str] = ""
    # Ours stops at the gap it is asked for; peers get the loosest tolerance that leads there.
    tuned: ClassVar[bool] = True
    has_path: ClassVar[bool] = True

    def __init__(self, *, threads: int = 1) -> None:
        self.threads = threads

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.package)

    @classmethod
    def refuses(cls, case) -> str | None:
        """Why the system cannot solve a problem, or ``None``."""
        return None

    @classmethod
    def settings(cls, case) -> tuple:
        """What to search besides the tolerance: parameters of the estimator, as dictionaries."""
        return ({},)

    def prepare(self, case, setting=None) -> None:
        self.case = case
        self.model = self.make(case)
        if setting:
            self.model.set_params(**setting)

    def make(self, case):
        """Return the estimator."""
        raise NotImplementedError

    def fit(self, tol: float) -> None:
        self.model.set_params(tol=tol).fit(self.case.X, self.case.y)

    def answer(self):
        """Coefficients, with a row for every feature, and intercept."""
        w = np.asarray(self.model.coef_)
        if self.case.y.ndim == 2:
            return w.T, np.asarray(self.model.intercept_)
        return w.ravel(), float(np.ravel(self.model.intercept_)[0])

    def path(self, alphas, tol: float) -> None:
        raise NotImplementedError

    def answers(self):
        """Coefficients, with a column for every penalty, and intercepts."""
        return self.coefs, self.intercepts

    def _centred(self):
        """Data without means, for functions that know no intercept: made inside the clock."""
        X, y = self.case.X, self.case.y
        means, level = X.mean(axis=0), y.mean()
        if not self.case.sparse:
            X = X - means
        return X, y - level, np.asarray(means).ravel(), float(level)


def _kind(case) -> str:
    """What estimator a case needs."""
    if case.loss == "logistic":
        return "logistic"
    if case.y.ndim == 2:
        return "tasks"
    if case.groups is not None:
        return "groups"
    return "lasso" if case.l1_ratio == 1.0 else "elastic net"


# -- ours -----------------------------------------------------------------------------------------


class Ours(System):
    name = "ours"
    package = "lowrank_opt"
    note = "the estimators, at a tolerance of 1e-6; not tuned"
    tuned = False

    @classmethod
    def version(cls) -> str:
        import lowrank_opt

        return lowrank_opt.__version__

    def make(self, case):
        from lowrank_opt import block_coordinate as bc

        common: dict[str, Any] = {
            "alpha": case.alpha, "fit_intercept": case.fit_intercept, "n_threads": self.threads,
        }  # fmt: skip
        kind = _kind(case)
        if kind == "logistic":
            return bc.SparseLogisticRegression(**common)
        if kind == "groups":
            # All weights 1, as with the peers.
            weights = np.ones(case.groups.max() + 1)
            return bc.GroupLasso(groups=case.groups, weights=weights, **common)
        if kind == "tasks":
            return bc.GroupLasso(**common)
        if kind == "lasso":
            return bc.Lasso(positive=case.positive, **common)
        return bc.ElasticNet(l1_ratio=case.l1_ratio, positive=case.positive, **common)

    def path(self, alphas, tol: float) -> None:
        from lowrank_opt.block_coordinate import lasso_path

        _, self.coefs, _, self.intercepts = lasso_path(
            self.case.X, self.case.y, alphas=alphas, tol=tol, fit_intercept=True,
            n_threads=self.threads,
        )  # fmt: skip


class OursSolver(Ours):
    name = "ours, solver"
    note = "the same without an estimator: `SparseGLMSolver` on a problem, both made in the clock"
    has_path = False

    def make(self, case):
        return None

    def fit(self, tol: float) -> None:
        from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem, SparseGLMSolver
        from lowrank_opt.numerics import L1, ElasticNet, GroupL1, NonNegative

        case, n = self.case, len(self.case.y)
        smooth = GLMProblem(case.X, case.y, loss=case.loss, fit_intercept=case.fit_intercept)
        kind, strength = _kind(case), n * case.alpha
        if kind == "tasks":
            penalty = GroupL1(strength, np.arange(case.X.shape[1]))
        elif kind == "groups":
            penalty = GroupL1(strength, case.groups)
        elif case.positive:
            penalty = NonNegative(strength)
        elif kind == "elastic net":
            penalty = ElasticNet(strength, case.l1_ratio)
        else:
            penalty = L1(strength)
        solver = SparseGLMSolver(tol=tol, n_threads=self.threads)
        self.result = solver.solve(CompositeProblem(smooth, penalty))

    def answer(self):
        x = np.asarray(self.result.x)
        if self.case.fit_intercept:
            return x[:-1], x[-1]
        return x, np.zeros(x.shape[1:])


# -- peers ----------------------------------------------------------------------------------------


class Celer(System):
    name = "celer"
    package = "celer"
    note = (
        "its estimators; a path is `celer_path` on centred data (sparse: with its `X_offset`). Its "
        "`MultiTaskLasso` 0.7.4 calls what scikit-learn 1.6 removed: here its `mtl_path`"
    )

    @classmethod
    def refuses(cls, case) -> str | None:
        if case.loss == "logistic" and case.fit_intercept:
            return "its logistic regression has no intercept"
        if case.sparse and case.y.ndim == 2:
            return "its multi-task lasso wants dense data"
        if case.sparse and case.groups is not None:
            return "its group lasso wants dense data"
        return None

    @classmethod
    def settings(cls, case) -> tuple:
        if case.loss == "logistic":
            return ({"solver": "celer-pn"}, {"solver": "celer"})
        return super().settings(case)

    def make(self, case):
        import celer

        common: dict[str, Any] = {"max_iter": 1000, "fit_intercept": case.fit_intercept}
        kind = _kind(case)
        if kind == "logistic":
            return celer.LogisticRegression(C=1.0 / (len(case.y) * case.alpha), **common)
        if kind == "groups":
            return celer.GroupLasso(groups=10, alpha=case.alpha, **common)
        if kind == "tasks":
            return _CelerTasks(case.alpha)
        if kind == "lasso":
            return celer.Lasso(alpha=case.alpha, positive=case.positive, **common)
        return celer.ElasticNet(
            alpha=case.alpha, l1_ratio=case.l1_ratio, positive=case.positive, **common
        )

    def path(self, alphas, tol: float) -> None:
        from celer import celer_path

        X, y, means, level = self._centred()
        more = {"X_offset": means, "X_scale": np.ones(len(means))} if self.case.sparse else {}
        _, self.coefs, _ = celer_path(
            X, y, "lasso", alphas=alphas, tol=tol, prune=True, max_iter=1000, **more
        )
        self.intercepts = level - means @ self.coefs


class _CelerTasks:
    """What `celer.MultiTaskLasso.fit` does, with checks that scikit-learn still has."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def set_params(self, tol: float):
        self.tol = tol
        return self

    def fit(self, X, Y):
        from celer.homotopy import mtl_path
        from sklearn.utils import check_array

        X = check_array(X, dtype=np.float64, order="F", copy=True)
        Y = check_array(Y, dtype=np.float64, order="F")
        means, levels = X.mean(axis=0), Y.mean(axis=0)
        X -= means
        found = mtl_path(X, Y - levels, alphas=[self.alpha], max_iter=1000, tol=self.tol)[1]
        self.coef_ = found[..., 0]
        self.intercept_ = levels - self.coef_ @ means
        return self


class Skglm(System):
    name = "skglm"
    package = "skglm"
    note = (
        "its estimators, with the faster of its two scores for working sets; a path is `Lasso.path`"
    )

    @classmethod
    def refuses(cls, case) -> str | None:
        if case.sparse and case.groups is not None:
            return "its group lasso wants dense data"
        return None

    @classmethod
    def settings(cls, case) -> tuple:
        if case.loss == "logistic" or case.groups is not None:
            return ({},)
        return ({"ws_strategy": "subdiff"}, {"ws_strategy": "fixpoint"})

    def make(self, case):
        import skglm

        common: dict[str, Any] = {
            "alpha": case.alpha, "max_iter": 1000, "fit_intercept": case.fit_intercept,
        }  # fmt: skip
        kind = _kind(case)
        if kind == "logistic":
            return skglm.SparseLogisticRegression(**common)
        if kind == "groups":
            return skglm.GroupLasso(groups=10, **common)
        if kind == "tasks":
            return skglm.MultiTaskLasso(**common)
        if kind == "lasso":
            return skglm.Lasso(positive=case.positive, **common)
        return skglm.ElasticNet(l1_ratio=case.l1_ratio, positive=case.positive, **common)

    def path(self, alphas, tol: float) -> None:
        self.model.set_params(tol=tol)
        found = self.model.path(self.case.X, self.case.y, alphas)[1]
        self.coefs, self.intercepts = found[:-1], found[-1]


class ScikitLearn(System):
    name = "scikit-learn"
    package = "scikit-learn"
    note = (
        "its estimators, with the fastest of `selection` and `precompute`; a path is `lasso_path` "
        "on centred data (sparse: with its `X_offset`)"
    )

    @classmethod
    def refuses(cls, case) -> str | None:
        if case.groups is not None:
            return "it has no group lasso"
        if case.loss == "logistic":
            return "see liblinear and saga"
        return None

    @classmethod
    def settings(cls, case) -> tuple:
        both = ({"selection": "cyclic"}, {"selection": "random", "random_state": 0})
        if case.y.ndim == 2 or case.sparse or case.X.shape[0] < case.X.shape[1]:
            return both
        return (*both, {"precompute": True})

    def make(self, case):
        from sklearn import linear_model as lm

        common: dict[str, Any] = {
            "alpha": case.alpha, "max_iter": MANY, "fit_intercept": case.fit_intercept,
        }  # fmt: skip
        kind = _kind(case)
        if kind == "tasks":
            return lm.MultiTaskLasso(**common)
        if kind == "lasso":
            return lm.Lasso(positive=case.positive, **common)
        return lm.ElasticNet(l1_ratio=case.l1_ratio, positive=case.positive, **common)

    def path(self, alphas, tol: float) -> None:
        from sklearn.linear_model import lasso_path

        X, y, means, level = self._centred()
        more = {"X_offset": means, "X_scale": np.ones(len(means))} if self.case.sparse else {}
        _, self.coefs, _ = lasso_path(X, y, alphas=alphas, tol=tol, max_iter=MANY, **more)
        self.intercepts = level - means @ self.coefs


class Liblinear(System):
    name = "liblinear"
    package = "scikit-learn"
    note = (
        "scikit-learn's `LogisticRegression`. It penalises the intercept: with the fastest "
        "`intercept_scaling` that leads to the gap, which its documentation has against that"
    )
    has_path = False

    @classmethod
    def refuses(cls, case) -> str | None:
        return None if case.loss == "logistic" else "for classes only"

    @classmethod
    def settings(cls, case) -> tuple:
        if not case.fit_intercept:
            return ({},)
        return tuple({"intercept_scaling": 10.0**k} for k in range(2, 7))

    def make(self, case):
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(
            C=1.0 / (len(case.y) * case.alpha), l1_ratio=1.0, solver="liblinear", max_iter=5000,
            fit_intercept=case.fit_intercept, random_state=0,
        )  # fmt: skip


class Saga(Liblinear):
    name = "saga"
    note = "scikit-learn's `LogisticRegression`, which leaves the intercept without penalty"

    @classmethod
    def settings(cls, case) -> tuple:
        return ({},)

    def make(self, case):
        return super().make(case).set_params(solver="saga", max_iter=MANY)


SYSTEMS: dict[str, type[System]] = {
    s.name: s for s in (Ours, OursSolver, Celer, Skglm, ScikitLearn, Liblinear, Saga)
}


def unavailable(name: str) -> str | None:
    """Why a system cannot run here, or ``None``."""
    try:
        SYSTEMS[name].version()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
