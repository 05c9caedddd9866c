"""One adapter per system: the same three calls for ours and for every peer.

``prepare`` brings the data into the form that the system's interface takes (outside the clock: it
is the user's part), ``fit`` is what is timed, ``factors`` hands out the model as
``(U, V, offset, row_bias, col_bias)`` so that one code grades all systems. All ALS systems get the
same objective; the ridge is per rating (``reg_scaling="count"``) unless a job says otherwise.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from typing import Any, ClassVar

import numpy as np

__all__ = ["SYSTEMS", "System", "unavailable"]


class System:
    """Base of the adapters; parameters are those of a job."""

    name: ClassVar[str]
    package: ClassVar[str]
    note: ClassVar[str] = ""

    def __init__(
        self,
        *,
        rank: int = 50,
        reg: float = 0.08,
        reg_bias: float | None = None,
        scaled: bool = True,
        biases: bool = True,
        dtype: str = "float32",
        threads: int = 1,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.rank, self.reg, self.biases = rank, reg, biases
        self.reg_bias = reg if reg_bias is None else reg_bias
        self.scaled = scaled
        self.dtype, self.threads, self.seed, self.options = np.dtype(dtype), threads, seed, options

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.package)

    def prepare(self, entries, shape) -> None:
        rows, cols, values = entries
        self.data = rows, cols, values.astype(self.dtype), shape

    def fit(self, n: int) -> None:
        """`n` sweeps (passes, samples) from scratch."""
        raise NotImplementedError

    def factors(self):
        raise NotImplementedError


# -- ours -----------------------------------------------------------------------------------------


class Ours(System):
    package = "lowrank_opt"

    @classmethod
    def version(cls) -> str:
        import lowrank_opt

        return lowrank_opt.__version__

    def problem(self):
        from lowrank_opt.recovery import MatrixCompletion

        return MatrixCompletion.from_coo(
            *self.data,
            rank=self.rank,
            reg=self.reg,
            reg_bias=self.reg_bias,
            reg_scaling="count" if self.scaled else "none",
            biases=self.biases,
            center=True,
        )

    def solver(self, n: int):
        raise NotImplementedError

    def fit(self, n: int) -> None:
        self.result = self.solver(n).solve(self.problem())

    def factors(self):
        x = self.result.x
        return x.U, x.V, x.offset, x.row_bias, x.col_bias


class OursALS(Ours):
    inner: ClassVar[str]

    def solver(self, n: int):
        from lowrank_opt.recovery import AlternatingMinimization

        # One check at the end: the peers have none.
        options = {"check_every": n, **self.options}
        return AlternatingMinimization(
            inner=self.inner, tol=0.0, max_iter=n, random_state=self.seed, n_threads=self.threads,
            **options,
        )  # fmt: skip


class OursExact(OursALS):
    name, inner = "ours exact", "cholesky"


class OursCG(OursALS):
    name, inner = "ours CG", "cg"


class OursSketch(OursALS):
    name, inner = "ours sketch", "sketch"


class OursSGD(Ours):
    name = "ours SGD"

    def solver(self, n: int):
        from lowrank_opt.recovery import FactorSGD

        options = {"check_every": n, **self.options}
        return FactorSGD(
            tol=0.0, max_iter=n, random_state=self.seed, n_threads=self.threads, **options
        )


class OursAdaGrad(OursSGD):
    name = "ours SGD, AdaGrad"

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**{"schedule": "adagrad", **parameters})


class OursGibbs(Ours):
    name = "ours Gibbs"

    def solver(self, n: int):
        from lowrank_opt.recovery import GibbsFactorization

        return GibbsFactorization(
            tol=0.0, max_iter=n, check_every=n, random_state=self.seed, n_threads=self.threads,
            **self.options,
        )  # fmt: skip

    def factors(self):
        return self.result.x  # the kept draws; their mean is the prediction


# -- peers ----------------------------------------------------------------------------------------


class CmfRec(System):
    package = "cmfrec"
    cg: ClassVar[bool]

    def prepare(self, entries, shape) -> None:
        from scipy.sparse import coo_matrix

        rows, cols, values = entries
        self.data = coo_matrix((values.astype(self.dtype), (rows, cols)), shape=shape)

    def fit(self, n: int) -> None:
        from cmfrec import CMF

        ridge = np.array([self.reg_bias, self.reg_bias, self.reg, self.reg, self.reg, self.reg])
        # As its documentation advises for speed: sparse input, float, nothing precomputed.
        self.model = CMF(
            k=self.rank,
            method="als",
            use_cg=self.cg,
            finalize_chol=self.options.get("finalize", True),
            lambda_=ridge,
            scale_lam=self.scaled,
            user_bias=self.biases,
            item_bias=self.biases,
            center=True,
            niter=n,
            use_float=self.dtype == np.float32,
            precompute_for_predictions=False,
            produce_dicts=False,
            handle_interrupt=False,
            nthreads=self.threads,
            random_state=self.seed,
            verbose=False,
        ).fit(self.data)

    def factors(self):
        m = self.model
        bias = (m.user_bias_, m.item_bias_) if self.biases else (None, None)
        return m.A_, m.B_, float(m.glob_mean_), *bias


class CmfRecCholesky(CmfRec):
    name, cg = "cmfrec Cholesky", False


class CmfRecCG(CmfRec):
    name, cg = "cmfrec CG", True


class LibMF(System):
    name, package = "LIBMF", "libmf"
    note = "SGD with AdaGrad row scalars; float32; no biases"

    @classmethod
    def version(cls) -> str:
        import subprocess

        with contextlib.redirect_stdout(io.StringIO()):
            import libmf
            from libmf import mf
        del libmf
        # The build flags decide its speed by a factor of two to four: say what this build has.
        try:
            code = subprocess.run(
                ["objdump", "-d", mf.compiled_src], capture_output=True, text=True, check=True
            ).stdout
            simd = "AVX" if "ymm" in code else "no AVX"
        except (OSError, subprocess.CalledProcessError):
            simd = "vector instructions unknown"
        return f"{super().version()} ({simd})"

    def prepare(self, entries, shape) -> None:
        self.data = np.ascontiguousarray(np.column_stack(entries), dtype=np.float32)

    def fit(self, n: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            from libmf import mf
        self.model = mf.MF(
            k=self.rank,
            nr_threads=self.threads,
            nr_iters=n,
            # At least 2 threads + 1 per side; the default of 20 suits one thread as well.
            nr_bins=max(20, 2 * self.threads + 1),
            lambda_p2=self.reg,
            lambda_q2=self.reg,
            eta=self.options.get("eta", 0.1),
            quiet=True,
            copy_data=True,
        )
        self.model.fit(self.data)

    def factors(self):
        return self.model.p_factors(), self.model.q_factors(), 0.0, None, None


class Implicit(System):
    name, package = "implicit ALS-CG", "implicit"
    note = "another problem (implicit feedback: every cell counts, the rest as zeros); time only"

    def prepare(self, entries, shape) -> None:
        from scipy.sparse import csr_matrix

        rows, cols, values = entries
        self.data = csr_matrix((values.astype(np.float32), (rows, cols)), shape=shape)

    def fit(self, n: int) -> None:
        from implicit.als import AlternatingLeastSquares

        self.model = AlternatingLeastSquares(
            factors=self.rank, regularization=self.reg, iterations=n, num_threads=self.threads,
            use_gpu=False, use_cg=True, dtype=self.dtype.type, random_state=self.seed,
        )  # fmt: skip
        self.model.fit(self.data, show_progress=False)

    def factors(self):
        return None


class Surprise(System):
    name, package = "Surprise SVD", "scikit-surprise"
    note = "SGD in Cython, one thread; its own ridge (0.02) and step (0.005)"

    def prepare(self, entries, shape) -> None:
        from surprise.trainset import Trainset

        rows, cols, values = entries
        by_row: dict[int, list] = {}
        by_col: dict[int, list] = {}
        for i, j, v in zip(rows.tolist(), cols.tolist(), values.tolist(), strict=True):
            by_row.setdefault(i, []).append((j, v))
            by_col.setdefault(j, []).append((i, v))
        ids = ({i: i for i in range(size)} for size in shape)
        self.shape = shape
        # Every row and column is listed, so that its inner numbers are ours.
        for i in range(shape[0]):
            by_row.setdefault(i, [])
        for j in range(shape[1]):
            by_col.setdefault(j, [])
        self.data = Trainset(by_row, by_col, *shape, len(values), (1, 5), *ids)

    def fit(self, n: int) -> None:
        from surprise import SVD

        self.model = SVD(n_factors=self.rank, n_epochs=n, random_state=self.seed)
        self.model.fit(self.data)

    def factors(self):
        m = self.model
        return m.pu, m.qi, m.trainset.global_mean, m.bu, m.bi


# -- nuclear norm ---------------------------------------------------------------------------------


class OursSoftImpute(Ours):
    name = "ours SoftImpute"

    def problem(self):
        from lowrank_opt.recovery import MatrixCompletion

        return MatrixCompletion.from_coo(
            *self.data, rank=self.rank, reg=self.reg, penalty="nuclear", center=True
        )

    def solver(self, n: int):
        from lowrank_opt.recovery import SoftImpute

        return SoftImpute(
            tol=0.0, max_iter=n, check_every=n, random_state=self.seed, n_threads=self.threads,
            **self.options,
        )  # fmt: skip


class FancySoftImpute(System):
    name, package = "fancyimpute SoftImpute", "fancyimpute"
    note = "works on the dense matrix"

    def prepare(self, entries, shape) -> None:
        rows, cols, values = entries
        self.offset = float(np.mean(values, dtype=np.float64))
        self.dense = np.full(shape, np.nan, self.dtype)
        self.dense[rows, cols] = values - self.offset

    def fit(self, n: int) -> None:
        from fancyimpute import SoftImpute, soft_impute

        # It calls scikit-learn's check_array by an argument that 1.8 removed.
        soft_impute.check_array = lambda X, force_all_finite=True: np.asarray(X)
        model = SoftImpute(
            shrinkage_value=self.reg, convergence_threshold=0.0, max_iters=n, verbose=False
        )
        missing = np.isnan(self.dense)
        # `fit_transform` puts the observed values back in place of the fit: the last step of the
        # method itself is needed to grade it.
        filled = model.solve(np.where(missing, self.dtype.type(0), self.dense), missing)
        self.fitted = model._svd_step(filled, self.reg)[0]

    def factors(self):
        U, s, Vt = np.linalg.svd(self.fitted, full_matrices=False)
        k = max(1, min(self.rank, int(np.sum(s > 1e-6 * s[0]))))
        root = np.sqrt(s[:k])
        return U[:, :k] * root, Vt[:k].T * root, self.offset, None, None


SYSTEMS: dict[str, type[System]] = {
    s.name: s
    for s in (
        OursExact,
        OursCG,
        OursSketch,
        OursSGD,
        OursAdaGrad,
        OursGibbs,
        OursSoftImpute,
        CmfRecCholesky,
        CmfRecCG,
        LibMF,
        Implicit,
        Surprise,
        FancySoftImpute,
    )
}


def unavailable(name: str) -> str | None:
    """Why a system cannot run here, or ``None``."""
    try:
        SYSTEMS[name].version()
        if issubclass(SYSTEMS[name], CmfRec):
            import cmfrec  # noqa: F401
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
