"""What every solver of the library must do: each registered solver against each common check.

A new solver is entered in ALL_SOLVERS; one that is missing makes a test fail.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from itertools import pairwise

import numba
import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse as sp
from scipy.optimize import linprog as scipy_linprog
from scipy.sparse.linalg import spsolve

from lowrank_opt.block_coordinate import (
    BlockCoordinateDescent,
    BoundOptimizer,
    CompositeProblem,
    GLMProblem,
    LaplacianPrototypeProblem,
    PrototypeAssignments,
    QuadraticProblem,
    SparseGLMSolver,
)
from lowrank_opt.core import (
    ParameterError,
    ProblemError,
    UnsupportedProblemError,
    registered_solvers,
)
from lowrank_opt.lipschitz import (
    Activation,
    Affine,
    ECLipsE,
    ExactLipschitz,
    FeedForward,
    LipDiff,
    LipLT,
    LipschitzProblem,
    LipSDP,
    LipSDPGroupSort,
    NormProduct,
    SampledLowerBound,
)
from lowrank_opt.monotone import (
    AnchoredExtraGradient,
    Anderson,
    ExtraGradient,
    FastExtraGradient,
    FixedPointProblem,
    GameInteriorPoint,
    Halpern,
    HalpernPDHG,
    InexactHalpern,
    KrasnoselskiiMann,
    LinearProgram,
    MatrixGame,
    MonotoneInclusion,
    OptimisticGradient,
    PrimalDual,
    QuadraticProgram,
    VarianceReducedExtraGradient,
    VarianceReducedHalpern,
)
from lowrank_opt.numerics import L1, MCP, Box, ElasticNet, GroupL1, NonNegative, WeightedL1
from lowrank_opt.recovery import (
    AlternatingMinimization,
    FactorSGD,
    GibbsFactorization,
    HuberALS,
    LowRankPlusSparse,
    MatrixCompletion,
    MatrixSensing,
    Observations,
    ScaledGD,
    ScaledSubgradientMethod,
    SoftImpute,
    SubgradientMethod,
    _nuclear,
    factor_sgd,
    kernels,
)
from lowrank_opt.testing import (
    SOLVER_CHECKS,
    BadInput,
    NotApplicable,
    SolverCase,
    check_backends,
    point_distance,
)
from lowrank_opt.testing.example import GradientDescent, make_quadratic
from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem, proximal

SHAPE, RANK = (12, 10), 2


def make_completion(dtype=np.float64, seed=0, xp=np, noise=0.1, **model):
    """Three quarters of the entries of a matrix of rank 2, none of its rows or columns empty."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((SHAPE[0], RANK)) @ rng.standard_normal((RANK, SHAPE[1]))
    X += noise * rng.standard_normal(SHAPE)
    mask = rng.random(SHAPE) < 2 / 3
    mask[:, :2], mask[:2, :] = True, True
    dense = np.where(mask, X, np.nan).astype(dtype)
    return MatrixCompletion.from_dense(
        dense if xp is np else xp.asarray(dense), **{"rank": RANK, "reg": 0.3, **model}
    )


def factory(**model):
    return functools.partial(_make, model)


def _make(model, dtype=np.float64, seed=0, xp=np):
    return make_completion(dtype, seed, xp, **model)


def _dense(observations):
    X = np.full(observations.shape, np.nan)
    rows = np.repeat(np.arange(observations.shape[0]), np.diff(observations.indptr))
    X[rows, observations.indices] = observations.values
    return X


def rebuilt(problem, X, reg):
    dtype = problem.dtype
    return MatrixCompletion.from_dense(
        X.astype(dtype), rank=problem.rank, reg=reg, penalty=problem.penalty,
        biases=problem.biases,
    )  # fmt: skip


def entries(x):
    """The matrix that an answer stands for; the mean over samples."""
    if isinstance(x, np.ndarray):
        return x
    return x.to_dense() if hasattr(x, "to_dense") else x.predict(*np.indices(SHAPE))


def distance_of_entries(x, y):
    return point_distance(entries(x), entries(y))


def permute(problem, rng):
    m, n = problem.shape
    rows, cols = rng.permutation(m), rng.permutation(n)
    X = _dense(problem.observations)[np.ix_(rows, cols)]
    return rebuilt(problem, X, problem.reg), lambda x: entries(x)[np.ix_(rows, cols)]


def transpose(problem, rng):
    return rebuilt(problem, _dense(problem.observations).T, problem.reg), lambda x: x.to_dense().T


def rescale(problem, rng):
    """Values times c and reg times c: the answer times c, in both forms of the problem."""
    X = 8.0 * _dense(problem.observations)
    return rebuilt(problem, X, 8.0 * problem.reg), lambda x: 8.0 * x.to_dense()


def sweeps(problem, solver, nit):
    # The check after each sweep has one pass, or two when the rows were not solved exactly.
    checks = 1 if solver.inner in ("auto", "cholesky", "dual") else 2
    return {"sweeps": nit, "passes": (2 + checks) * nit}


def plain_als(problem, solver, reg=None):
    """Alternating ridge regressions, row by row, in the plainest way."""
    X, reg = _dense(problem.observations), problem.reg if reg is None else reg
    seen = ~np.isnan(X)
    U, s, _ = np.linalg.svd(np.where(seen, X, 0.0), full_matrices=False)
    k = problem.rank
    U = U[:, :k] * np.sqrt(s[:k])
    for _ in range(200):
        V = _ridge_rows(X.T, seen.T, U, reg)
        U = _ridge_rows(X, seen, V, reg)
    return U @ V.T


def _ridge_rows(X, seen, F, reg):
    out = np.zeros((len(X), F.shape[1]))
    for i in range(len(X)):
        A = F[seen[i]]
        out[i] = np.linalg.solve(A.T @ A + reg * np.eye(F.shape[1]), A.T @ X[i, seen[i]])
    return out


def soft_thresholding(problem, solver):
    """Proximal gradient steps on the dense matrix: the method of the first SoftImpute."""
    X = _dense(problem.observations)
    seen, Z = ~np.isnan(X), np.zeros(X.shape)
    for _ in range(500):
        U, s, Vt = np.linalg.svd(np.where(seen, X, Z), full_matrices=False)
        Z = U * np.maximum(s - problem.reg, 0.0) @ Vt
    return Z


def single_row(**model):
    return lambda: MatrixCompletion.from_dense(
        np.array([[1.0, -2.0, 3.0]]), rank=1, **{"reg": 0.3, **model}
    )


def full_matrix(**model):
    return lambda: MatrixCompletion.from_dense(
        np.outer([1.0, 2.0, 3.0], [1.0, 0.5, -1.0]) + np.eye(3), rank=2, **{"reg": 0.3, **model}
    )


COMPLETION_INPUTS = (
    BadInput(
        "infinite value",
        lambda: MatrixCompletion.from_dense(np.array([[1.0, np.inf], [2.0, 3.0]]), rank=1),
        ProblemError,
        "finite|inf",
    ),
    BadInput(
        "column index out of range",
        lambda: Observations.from_coo([0, 1], [0, 5], [1.0, 2.0], shape=(2, 3)),
        ProblemError,
        "5",
    ),
    BadInput(
        "duplicate entries",
        lambda: Observations.from_coo([0, 0], [1, 1], [1.0, 2.0], shape=(2, 3)),
        ProblemError,
        "duplicate|twice|more than once",
    ),
    BadInput(
        "rank above the shape",
        lambda: MatrixCompletion.from_dense(np.ones((2, 3)), rank=3),
        ParameterError,
        "rank",
    ),
    BadInput(
        "object array",
        lambda: MatrixCompletion.from_dense(np.array([["a", "b"]], dtype=object), rank=1),
        ProblemError,
        "",
    ),
)


def make_robust(dtype=np.float64, seed=0, xp=np, *, rank=2, noise=0.02):
    """Rank 2 in three quarters of the entries, every twentieth of them off by 20."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((24, 2)) @ rng.standard_normal((2, 20))
    X += noise * rng.standard_normal(X.shape)
    X[rng.random(X.shape) < 0.05] += 20.0
    mask = rng.random(X.shape) < 0.75
    mask[:, :3], mask[:3] = True, True
    X = np.where(mask, X, np.nan).astype(dtype)
    return LowRankPlusSparse.from_dense(X if xp is np else xp.asarray(X), rank=rank)


def robust_rows(problem, solver):
    """Reweighted least squares, row by row, in the plainest way.

    It starts from least squares without the entries that are visibly off, since from the data
    themselves it ends anywhere.
    """
    X = _dense(problem.observations)
    seen = ~np.isnan(X)
    Y = np.where(seen, X, 0.0)
    W = np.where(np.abs(Y) < 10.0 * problem.value_size, seen, 0.0)
    U = np.linalg.svd(W * Y)[0][:, :2]
    V = np.zeros((X.shape[1], 2))
    for sweep in range(400):
        V = _weighted_rows(Y.T, W.T, U)
        U = _weighted_rows(Y, W, V)
        if sweep >= 100:
            E = np.abs(Y - U @ V.T)
            delta = 1.345 * 1.4826 * np.median(E[seen])
            W = np.where(seen, np.minimum(1.0, delta / E), 0.0)
    return U @ V.T


def _weighted_rows(Y, W, F):
    return np.array(
        [np.linalg.solve((F * w[:, None]).T @ F, F.T @ (w * y)) for y, w in zip(Y, W, strict=True)]
    )


def _robust_again(problem, X):
    return LowRankPlusSparse.from_dense(X, rank=problem.rank)


def permute_robust(problem, rng):
    rows, cols = (rng.permutation(s) for s in problem.shape)
    X = _dense(problem.observations)[np.ix_(rows, cols)]
    return _robust_again(problem, X), lambda x: entries(x)[np.ix_(rows, cols)]


def transpose_robust(problem, rng):
    return _robust_again(problem, _dense(problem.observations).T), lambda x: x.to_dense().T


def rescale_robust(problem, rng):
    return _robust_again(problem, 1e3 * _dense(problem.observations)), lambda x: 1e3 * x.to_dense()


ROBUST_TRANSFORMS = {
    "permute": permute_robust,
    "transpose": transpose_robust,
    "rescale": rescale_robust,
}
TRANSFORMS = {"permute": permute, "transpose": transpose, "rescale": rescale}
RIDGE = {
    "reference": plain_als,
    "degenerate": (single_row(), full_matrix()),
    "transforms": TRANSFORMS,
    "bad_inputs": COMPLETION_INPUTS,
    "float32_accuracy": 1e-3,
    "float32_tol": 1e-4,
}


def completion_case(name, solver, *, model=None, **hooks):
    return SolverCase(solver, factory(**(model or {})), name=name, **{**RIDGE, **hooks})


def make_sensing(dtype=np.float64, seed=0, xp=np, *, loss="l1", wrong=0.0):
    """Rank 2 in 6 x 5 from 180 normal measurements, a part of them wrong."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 5))
    A = rng.standard_normal((180, 6, 5))
    y = np.einsum("pij,ij->p", A, X)
    y[rng.random(180) < wrong] += 20.0
    A, y = A.astype(dtype), y.astype(dtype)
    return MatrixSensing.from_dense(xp.asarray(A), xp.asarray(y), rank=2, loss=loss)


def sensing_arrays(problem):
    m, n = problem.shape
    A = problem.measurements.A[:, : m * n].reshape(-1, m, n)
    return A.astype(np.float64), problem.targets.astype(np.float64)


def plain_sensing(problem, solver):
    """Alternating least squares on the measurement matrices; reweighted for the l1 loss."""
    A, y = sensing_arrays(problem)
    k = problem.rank
    U, _, Vt = np.linalg.svd(np.einsum("p,pij->ij", np.sign(y) if problem.loss == "l1" else y, A))
    U = U[:, :k]
    V, w = Vt[:k].T, np.ones(len(y))
    for _ in range(300):
        root = np.sqrt(w)
        B = np.einsum("pij,ik->pjk", A, U).reshape(len(y), -1) * root[:, None]
        V = np.linalg.lstsq(B, root * y)[0].reshape(V.shape)
        B = np.einsum("pij,jk->pik", A, V).reshape(len(y), -1) * root[:, None]
        U = np.linalg.lstsq(B, root * y)[0].reshape(U.shape)
        if problem.loss == "l1":
            e = np.abs(np.einsum("pij,ij->p", A, U @ V.T) - y)
            delta = max(float(np.median(e)), 1e-12)
            w = np.minimum(1.0, delta / np.maximum(e, delta))
    return U @ V.T


def _sensing_again(problem, A, y):
    return MatrixSensing.from_dense(A, y, rank=problem.rank, loss=problem.loss)


def permute_measurements(problem, rng):
    A, y = sensing_arrays(problem)
    order = rng.permutation(len(y))
    return _sensing_again(problem, A[order], y[order]), lambda x: x.to_dense()


def transpose_sensing(problem, rng):
    A, y = sensing_arrays(problem)
    return _sensing_again(problem, A.transpose(0, 2, 1).copy(), y), lambda x: x.to_dense().T


def rescale_sensing(problem, rng):
    A, y = sensing_arrays(problem)
    return _sensing_again(problem, 3.0 * A, 1e3 * y), lambda x: 1e3 / 3.0 * x.to_dense()


SENSING_INPUTS = (
    BadInput(
        "infinite measurement",
        lambda: MatrixSensing.from_dense(np.ones((2, 2, 2)), [1.0, np.inf]),
        ProblemError,
        "finite",
    ),
    BadInput(
        "rank above the shape",
        lambda: MatrixSensing.from_dense(np.ones((9, 2, 3)), np.ones(9), rank=3),
        ParameterError,
        "rank",
    ),
)


def _make_sensing(model, dtype=np.float64, seed=0, xp=np):
    return make_sensing(dtype, seed, xp, **model)


def sensing_case(name, solver, *, model=None, **hooks):
    """A solver of measurements; its checks cost passes over the data that are not counted."""
    return SolverCase(
        solver,
        functools.partial(_make_sensing, model or {}),
        name=name,
        **{
            "reference": plain_sensing,
            "degenerate": (
                lambda: MatrixSensing.from_dense(
                    np.ones((9, 1, 1)), np.full(9, 2.0), loss=(model or {}).get("loss", "l1")
                ),
            ),
            "transforms": {
                "permute": permute_measurements,
                "transpose": transpose_sensing,
                "rescale": rescale_sensing,
            },
            "bad_inputs": SENSING_INPUTS,
            "work": lambda problem, solver, nit: {"passes": nit},
            **hooks,
        },
    )


def make_transport(dtype=np.float64, seed=0, xp=np, **model):
    """Two clouds in the plane, with random masses."""
    rng = np.random.default_rng(seed)
    m, n = 14, 11
    X, Y = rng.standard_normal((m, 2)), rng.standard_normal((n, 2)) + 0.7
    C = ((X[:, None] - Y[None]) ** 2).sum(axis=2).astype(dtype)
    a, b = rng.random(m) + 0.2, rng.random(n) + 0.2
    return TransportProblem(
        a / a.sum(), b / b.sum(), C if xp is np else xp.asarray(C), **{"gamma": 2.0, **model}
    )


def distance_of_plans(x, y):
    """Between the plans of the relaxation, which is what is unique."""
    dense = [p if isinstance(p, np.ndarray) else relaxed_plan(p).toarray() for p in (x, y)]
    return point_distance(*dense)


def relaxed_plan(x):
    return x if x.relaxed is None else x.relaxed


def shake_plan(x, rng):
    alpha = x.alpha * (1.0 + 0.01 * rng.standard_normal(x.alpha.shape))
    return x.with_potentials(alpha, x.beta, x.relaxed)


def with_data(problem, a, b, C, gamma):
    return TransportProblem(
        a, b, C, gamma=gamma, max_nnz=problem.max_nnz, unbalanced=problem.unbalanced,
        marginal_weight=problem.marginal_weight, a_upper=problem.a_upper,
    )  # fmt: skip


def permute_masses(problem, rng):
    m, n = problem.shape
    rows, cols = rng.permutation(m), rng.permutation(n)
    other = with_data(
        problem, problem.a[rows], problem.b[cols], problem.C[np.ix_(rows, cols)], problem.gamma
    )
    return other, lambda x: relaxed_plan(x).toarray()[np.ix_(rows, cols)]


def rescale_masses(problem, rng):
    other = with_data(problem, 8 * problem.a, 8 * problem.b, problem.C, problem.gamma / 8)
    return other, lambda x: 8 * relaxed_plan(x).toarray()


def rescale_costs(problem, rng):
    other = with_data(problem, problem.a, problem.b, 1e4 * problem.C, 1e4 * problem.gamma)
    return other, lambda x: relaxed_plan(x).toarray()


def shift_costs(problem, rng):
    u, v = rng.standard_normal(problem.shape[0]), rng.standard_normal(problem.shape[1])
    C = problem.C + u[:, None] + v
    other = with_data(problem, problem.a, problem.b, C, problem.gamma)
    return other, lambda x: relaxed_plan(x).toarray()


def quadratic_program(problem, solver):
    """The quadratically regularised plan, by an interior-point method."""
    import cvxpy as cp

    T = cp.Variable(problem.shape, nonneg=True)
    objective = cp.sum(cp.multiply(problem.C, T)) + problem.gamma / 2 * cp.sum_squares(T)
    marginals = [cp.sum(T, axis=1) == problem.a, cp.sum(T, axis=0) == problem.b]
    cp.Problem(cp.Minimize(objective), marginals).solve(solver="CLARABEL")
    return T.value


TRANSPORT_INPUTS = (
    BadInput("negative mass", lambda: TransportProblem([1.0, -1.0], [0.0, 0.0],
             np.zeros((2, 2))), ProblemError, r"a\[1\]"),
    BadInput("NaN cost", lambda: TransportProblem(C=np.full((2, 2), np.nan)), ProblemError, "C"),
    BadInput("cap 0", lambda: make_transport(max_nnz=0), ParameterError, "max_nnz"),
    BadInput(
        "plan of another shape",
        lambda: SparsityConstrainedOT().solve(make_transport(), x0=np.zeros((3, 3))),
        ProblemError, "shape",
    ),
    BadInput(
        "unknown method", lambda: SparsityConstrainedOT(method="newton").solve(make_transport()),
        ParameterError, "method",
    ),
)  # fmt: skip


def transport_case(name, solver, *, model=None, **hooks):
    return SolverCase(
        solver,
        functools.partial(make_transport, **(model or {})),
        name=name,
        **{
            "distance": distance_of_plans, "perturb": shake_plan,
            "own_dtype": (".alpha", ".beta"), "bad_inputs": TRANSPORT_INPUTS,
            "transforms": {
                "permute": permute_masses, "masses": rescale_masses, "costs": rescale_costs,
                "shift": shift_costs,
            },
            **hooks,
        },
    )  # fmt: skip


def make_regression(dtype=np.float64, seed=0, xp=np, *, loss="squared", pen="l1", ratio=0.05):
    """Correlated columns, a sparse truth, an intercept; a penalty well below the largest."""
    rng = np.random.default_rng(seed)
    n, p = 30, 40
    X = rng.standard_normal((n, p)) + 0.7 * rng.standard_normal((n, 1))
    w = np.where(rng.random(p) < 0.15, rng.standard_normal(p), 0.0)
    z = X @ w + 0.5
    if loss == "multi":
        y = np.outer(z, [1.0, -0.5, 0.2]) + 0.3 * rng.standard_normal((n, 3))
    elif loss == "logistic":
        y = np.where(z + rng.logistic(size=n) > 0, 1.0, -1.0)
    elif loss == "softmax":
        y = np.concatenate([[0, 1, 2], np.digitize(z[3:], np.quantile(z, [0.3, 0.7]))])
    elif loss == "poisson":
        y = rng.poisson(np.exp(np.clip(0.4 * z, -2.0, 2.0))).astype(float)
    else:
        y = z + 0.3 * rng.standard_normal(n)
    X = X.astype(dtype)
    smooth = GLMProblem(
        X if xp is np else xp.asarray(X), y, "squared" if loss == "multi" else loss,
        fit_intercept=True,
    )  # fmt: skip
    return CompositeProblem(smooth, make_penalty(pen, ratio * smooth.null_gradient, p))


def make_penalty(pen, alpha, p):
    return {
        "l1": lambda: L1(alpha),
        "weighted": lambda: WeightedL1(alpha, 0.5 + np.arange(p) % 3),
        "elastic net": lambda: ElasticNet(alpha, 0.8),
        "non-negative": lambda: NonNegative(alpha),
        "groups": lambda: GroupL1(alpha, np.arange(p) // 4),
        "rows": lambda: GroupL1(alpha, np.arange(p)),
        "box": lambda: Box(-0.05, 0.1),
        "mcp": lambda: MCP(alpha, 3.0),
    }[pen]()


def proximal_gradient(problem, solver):
    """Accelerated proximal gradient steps with backtracking, restarted: a page of any textbook."""
    x = np.zeros(problem.x_shape)
    ahead, t, L = x.copy(), 1.0, 1.0
    for _ in range(20000):
        g, f = problem.smooth.gradient(ahead), problem.smooth.objective(ahead)
        while True:
            new = ahead - g / L if problem.penalty is None else problem.prox(ahead - g / L, 1 / L)
            d = new - ahead
            if problem.smooth.objective(new) <= f + np.sum(g * d) + L / 2 * np.sum(d * d) + 1e-13:
                break
            L *= 2.0
        if np.sum((ahead - new) * (new - x)) > 0:
            t, ahead = 1.0, x.copy()  # the momentum points uphill
            continue
        if np.max(np.abs(new - x)) <= 1e-8:
            break
        new_t = (1 + np.sqrt(1 + 4 * t * t)) / 2
        ahead, x, t = new + (t - 1) / new_t * (new - x), new, new_t
    return x


def permute_design(problem, rng):
    smooth = problem.smooth
    n, p = smooth.shape
    rows, cols = rng.permutation(n), rng.permutation(p)
    y = smooth.y[rows]
    if isinstance(problem.penalty, GroupL1):
        cols = np.arange(p)
    other = GLMProblem(
        smooth.X[np.ix_(rows, cols)], y.argmax(axis=1) if "Softmax" in repr(smooth.loss) else y,
        smooth.loss, fit_intercept=True,
    )  # fmt: skip
    pen = problem.penalty
    if isinstance(pen, WeightedL1):
        pen = WeightedL1(pen.alpha, pen.weights[cols])
    return CompositeProblem(other, pen), lambda x: x[np.append(cols, p)]


def rescale_design(problem, rng):
    """Columns over 8, penalty over 8: coefficients times 8."""
    smooth, pen = problem.smooth, problem.penalty
    y = smooth.y.argmax(axis=1) if "Softmax" in repr(smooth.loss) else smooth.y
    other = GLMProblem(smooth.X / 8, y, smooth.loss, fit_intercept=True)
    pen = pen._replace(alpha=pen.alpha / 8)

    def scaled(x):
        x = 8 * x
        x[-1] /= 8
        return x

    return CompositeProblem(other, pen), scaled


def make_lattice(dtype=np.float64, seed=0, xp=np):
    """A graph of 6 x 7 nodes with random weights, held by a spring at every node."""
    rng = np.random.default_rng(seed)
    nodes = np.arange(42).reshape(6, 7)
    pairs = np.concatenate([
        np.stack([nodes[:-1].ravel(), nodes[1:].ravel()], axis=1),
        np.stack([nodes[:, :-1].ravel(), nodes[:, 1:].ravel()], axis=1),
    ])  # fmt: skip
    W = sp.coo_array((rng.uniform(0.5, 2.0, len(pairs)), pairs.T), shape=(42, 42))
    W = sp.csr_array(W + W.T)
    A = sp.csr_array(sp.diags_array(W.sum(axis=1) + rng.uniform(0.1, 0.5, 42)) - W).astype(dtype)
    A = A if xp.__name__.endswith("numpy") else xp.asarray(A.toarray())
    return QuadraticProblem(A, rng.standard_normal(42))


def sparse_solution(problem, solver):
    return spsolve(problem.A.astype(float).tocsc(), problem.b)


def permute_lattice(problem, rng):
    order = rng.permutation(problem.n_variables)
    return QuadraticProblem(problem.A[order][:, order], problem.b[order]), lambda x: x[order]


def without_shift(x):
    x = np.array(x, float)
    x[-1] -= x[-1].mean()
    return x


def make_clusters(dtype=np.float64, seed=0, xp=np):
    """Two clouds, a few labels, neighbours joined along a chain."""
    rng = np.random.default_rng(seed)
    F = rng.standard_normal((20, 3)) + 3.0 * (np.arange(20) % 2)[:, None]
    labels = np.where(np.arange(20) < 4, np.arange(20) % 2, -1)
    W = np.eye(20, k=2) + np.eye(20, k=-2)
    F = F.astype(dtype)
    return LaplacianPrototypeProblem(
        F if xp is np else xp.asarray(F), sp.csr_array(W), lam=0.5, labels=labels
    )


def plain_bounds(problem, solver):
    """Assignments and means in turn, from the labelled means."""
    F, known = problem.F.astype(float), problem.known
    W = problem.affinity.toarray() + np.diag(problem.shift)
    fixed = np.eye(2)[np.maximum(known, 0)]
    m = np.array([F[known == k].mean(axis=0) for k in range(2)])
    S = np.full((20, 2), 0.5)
    for _ in range(3000):
        z = problem.lam * (W @ S) - ((F[:, None] - m) ** 2).sum(axis=2)
        S = np.exp(z - z.max(axis=1, keepdims=True))
        S /= S.sum(axis=1, keepdims=True)
        S = np.where(known[:, None] >= 0, fixed, S)
        m = S.T @ F / S.sum(axis=0)[:, None]
    return PrototypeAssignments(S, m)


def permute_points(problem, rng):
    order = rng.permutation(20)
    other = LaplacianPrototypeProblem(
        problem.F[order], problem.affinity[order][:, order], lam=problem.lam,
        labels=problem.known[order],
    )  # fmt: skip
    return other, lambda x: PrototypeAssignments(x.assignments[order], x.prototypes)


REGRESSION_INPUTS = (
    BadInput("NaN", lambda: GLMProblem([[np.nan]], [1.0]), ProblemError, r"X\[0, 0\]"),
    BadInput("lengths", lambda: GLMProblem(np.eye(3), [1.0]), ProblemError, r"\(1,\)"),
    BadInput("complex", lambda: GLMProblem(np.eye(2) * 1j, [1.0, 2.0]), ProblemError, "complex"),
    BadInput(
        "point of another shape",
        lambda: SparseGLMSolver().solve(make_regression(), x0=np.zeros(3)), ProblemError, "shape",
    ),
    BadInput(
        "unknown option", lambda: SparseGLMSolver(gram="some").solve(make_regression()),
        ParameterError, "gram",
    ),
)  # fmt: skip


def regression_case(name, solver, *, model=None, **hooks):
    return SolverCase(
        solver,
        functools.partial(make_regression, **(model or {})),
        name=name,
        **{
            "reference": proximal_gradient, "bad_inputs": REGRESSION_INPUTS,
            "float32_accuracy": 1e-3,
            "transforms": {"permute": permute_design, "rescale": rescale_design},
            **hooks,
        },
    )  # fmt: skip


ALL_SOLVERS = [
    completion_case(
        f"AlternatingMinimization-{inner}",
        AlternatingMinimization(inner=inner, tol=1e-7, max_iter=500, random_state=0),
        work=sweeps,
    )
    for inner in ("cholesky", "cg", "dual", "sketch")
] + [
    completion_case(
        "AlternatingMinimization-biases",
        AlternatingMinimization(tol=1e-6, max_iter=500, random_state=0),
        model={"biases": True},
        work=sweeps, reference=None, degenerate=(),
        transforms={"permute": permute, "transpose": transpose},
    ),
    *(
        completion_case(
            f"SoftImpute-{method}",
            SoftImpute(method=method, tol=tol, max_iter=3000),
            accuracy=accuracy,
            model={"penalty": "nuclear", "rank": min(SHAPE)},
            reference=soft_thresholding,
            degenerate=(single_row(penalty="nuclear"), full_matrix(penalty="nuclear")),
        )
        for method, tol, accuracy in (("exact", 1e-9, 1e-4), ("als", 1e-6, 3e-3))
    ),
    # Stochastic gradients vanish at the answer only when the model fits the data exactly.
    completion_case(
        "FactorSGD",
        FactorSGD(
            schedule="constant", step_size=0.2, tol=1e-4, max_iter=5000, check_every=1,
            decay_passes=1, n_threads=1, random_state=0,
        ),
        model={"noise": 0.0, "reg": 0.0},
        reference=lambda problem, solver: plain_als(problem, solver, reg=1e-12),
        degenerate=(), accuracy=3e-3, float32_accuracy=3e-3,
        work=lambda problem, solver, nit: {
            "passes": nit, "updates": nit * problem.observations.nnz,
        },
    ),
    completion_case(
        "GibbsFactorization",
        GibbsFactorization(tol=5e-2, random_state=0),
        # The mean of finitely many draws, with its Monte Carlo error.
        distance=distance_of_entries, accuracy=0.2, float32_accuracy=0.2, own_dtype=(".alpha",),
        reference=None, degenerate=(), transforms={"permute": permute},
        work=lambda problem, solver, nit: {"draws": nit, "passes": 3 * nit},
    ),
    *(
        SolverCase(
            HuberALS(tol=1e-7, max_iter=500, random_state=0),
            functools.partial(make_robust, rank=rank),
            name=f"HuberALS-{rank}",
            reference=robust_rows, transforms=ROBUST_TRANSFORMS, bad_inputs=COMPLETION_INPUTS,
            float32_tol=1e-4, float32_accuracy=1e-3,
            work=lambda problem, solver, nit: {"sweeps": nit},
        )
        for rank in (2, "auto")
    ),
    sensing_case(
        "SubgradientMethod",
        SubgradientMethod(alpha=1e-2, rho=0.85, eta0=0.2, patience=5, tol=1e-5),
        model={"wrong": 0.1},
        not_applicable={
            "resume_is_bit_identical": "the best of the checked points depends on which are "
            "checked; test_subgradient compares the states instead"
        },
    ),
    sensing_case(
        "SubgradientMethod-loss", SubgradientMethod(schedule="loss", alpha=1e-2, tol=1e-7)
    ),
    sensing_case(
        "ScaledSubgradientMethod",
        ScaledSubgradientMethod(schedule="polyak", f_min=0.0, tol=1e-7),
    ),
    sensing_case("ScaledGD", ScaledGD(tol=1e-7), model={"loss": "squared"}),
    # The template of the documentation, on every array library.
    SolverCase(GradientDescent(), make_quadratic, name="GradientDescent"),
]  # fmt: skip
ALL_SOLVERS += [
    transport_case(
        "SparsityConstrainedOT-ssnal",
        SparsityConstrainedOT(tol=1e-10, start="zero"),
        model={"max_nnz": 3},
    ),
    transport_case(
        "SparsityConstrainedOT-ssn",
        SparsityConstrainedOT(method="ssn", tol=1e-10, start="zero"),
        reference=quadratic_program,
    ),
    transport_case(
        "SparsityConstrainedOT-lbfgs",
        SparsityConstrainedOT(method="lbfgs", tol=1e-9, max_iter=2000),
        reference=quadratic_program,
    ),
    transport_case(
        "SparsityConstrainedOT-lbfgs-dual",
        SparsityConstrainedOT(method="lbfgs", formulation="dual", tol=1e-8, max_iter=5000),
        reference=quadratic_program,
        accuracy=1e-3,
    ),
    transport_case(
        "SparsityConstrainedOT-bcd",
        SparsityConstrainedOT(method="bcd", tol=1e-6, max_iter=5000),
        reference=quadratic_program,
        accuracy=3e-3,
        float32_accuracy=3e-3,
    ),
]

ALL_SOLVERS += [
    regression_case(f"SparseGLMSolver-{name}", SparseGLMSolver(tol=1e-10), model=model)
    for name, model in {
        "lasso": {},
        "weights": {"pen": "weighted"},
        "non-negative": {"pen": "non-negative", "ratio": 0.005},
        "logistic": {"loss": "logistic"},
        "huber": {"loss": "huber"},
        "poisson": {"loss": "poisson"},
        "groups": {"pen": "groups"},
        "logistic groups": {"loss": "logistic", "pen": "groups"},
        "rows of outputs": {"loss": "multi", "pen": "rows"},
    }.items()
]
ALL_SOLVERS += [
    regression_case(
        "SparseGLMSolver-softmax",
        SparseGLMSolver(tol=1e-10),
        model={"loss": "softmax"},
        # Adding a number to the intercepts of all classes changes nothing.
        distance=lambda x, y: point_distance(without_shift(x), without_shift(y)),
    ),
    regression_case(
        "SparseGLMSolver-box",
        SparseGLMSolver(tol=1e-10),
        model={"pen": "box"},
        transforms={"permute": permute_design},
    ),
    SolverCase(
        BoundOptimizer(tol=1e-9),
        make_clusters,
        name="BoundOptimizer",
        reference=plain_bounds,
        transforms={"permute": permute_points},
    ),
    regression_case(
        "SparseGLMSolver-mcp",
        SparseGLMSolver(tol=1e-9),
        model={"pen": "mcp"},
        reference=None,  # not convex: another method may find another stationary point
        transforms={"permute": permute_design},
    ),
    regression_case(
        "BlockCoordinateDescent-coordinates",
        BlockCoordinateDescent(tol=1e-9),
        model={"ratio": 0.2},
    ),
    regression_case(
        "BlockCoordinateDescent-active sets",
        BlockCoordinateDescent(
            block_size=12, blocks="variable", selection="gs-q", update="prox_newton", tol=1e-10
        ),
        model={"loss": "logistic", "ratio": 0.1},
    ),
    regression_case(
        "BlockCoordinateDescent-random",
        BlockCoordinateDescent(
            block_size=4, blocks="variable", selection="random", update="prox_gradient",
            tol=1e-8, max_iter=100_000,
        ),
        model={"pen": "box"},
        transforms={},
    ),
    SolverCase(
        BlockCoordinateDescent(tol=1e-9),
        make_lattice,
        name="BlockCoordinateDescent-quadratic",
        reference=sparse_solution,
        transforms={"permute": permute_lattice},
    ),
    SolverCase(
        BlockCoordinateDescent(blocks="greedy_forest", tol=1e-9),
        make_lattice,
        name="BlockCoordinateDescent-forests",
        reference=sparse_solution,
        transforms={"permute": permute_lattice},
    ),
]  # fmt: skip


def make_network(dtype=np.float64, seed=0, *, widths=(4, 8, 6, 3), activation="relu", **model):
    """Gaussian weights; what they are multiplied by matters for nothing but the scale."""
    rng = np.random.default_rng(seed)
    layers = []
    for k, (m, n) in enumerate(pairwise(widths)):
        W = (rng.standard_normal((n, m)) / np.sqrt(m)).astype(dtype)
        layers.append(Affine(W, rng.standard_normal(n)))
        if k < len(widths) - 2:
            layers.append(Activation(activation))
    return LipschitzProblem(FeedForward(layers), **model)


def distance_of_bounds(x, y):
    """Between the bounds: multipliers that prove the same bound may differ."""
    return abs(np.log(float(getattr(x, "bound", x)) / float(getattr(y, "bound", y))))


def shake_proof(x, rng):
    """Multipliers of a bound just above the one proved."""
    if x.kind == "parts":
        return replace(x, parts=tuple(shake_proof(p, rng) for p in x.parts))
    return replace(x, multipliers=tuple(0.999 * v for v in x.multipliers))


def lipschitz_reference(problem, solver):
    """The published inequality, unscaled and uncompressed, by an interior-point method."""
    import cvxpy as cp

    weights = [layer.dense for layer in problem.network.layers[::2]]
    n = [W.shape[1] for W in weights]
    starts = np.cumsum([0, *n])
    lam = [cp.Variable(k, nonneg=True) for k in n[1:]]
    blocks = [[np.zeros((a, b)) for b in n] for a in n]
    rho = cp.Variable()
    blocks[0][0] = rho * np.eye(n[0])
    for i, v in enumerate(lam, 1):
        blocks[i][i] = 2 * cp.diag(v)
        blocks[i][i - 1] = -cp.diag(v) @ weights[i - 1]
        blocks[i - 1][i] = blocks[i][i - 1].T
    blocks[-1][-1] = blocks[-1][-1] - weights[-1].T @ weights[-1]
    S = cp.bmat(blocks)
    assert S.shape == (starts[-1], starts[-1])
    program = cp.Problem(cp.Minimize(rho), [0.5 * (S + S.T) >> 0])
    return np.sqrt(program.solve(solver="CLARABEL"))


def permute_neurons(problem, rng):
    """Hidden neurons in another order, an orthogonal change of inputs and outputs."""
    a, f, b, g, c = problem.network.layers
    p, q = rng.permutation(a.n_outputs), rng.permutation(b.n_outputs)
    Q, R = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (a.n_inputs, c.n_outputs))
    layers = (
        Affine(a.weight[p] @ Q, a.bias[p]), f,
        Affine(b.weight[np.ix_(q, p)], b.bias[q]), g, Affine(R @ c.weight[:, q]),
    )  # fmt: skip
    return LipschitzProblem(FeedForward(layers)), lambda x: x.bound


def rescale_network(problem, rng):
    a, f, b, g, c = problem.network.layers
    layers = (a, f, b, g, Affine(1e6 * c.weight, c.bias))
    return LipschitzProblem(FeedForward(layers), problem.norm), lambda x: 1e6 * x.bound


NETWORK_INPUTS = (
    BadInput("columns", lambda: LipschitzProblem([np.ones((3, 2)), np.ones((1, 4))]),
             ProblemError, r"\(1, 4\)"),
    BadInput("NaN", lambda: LipschitzProblem([np.full((3, 2), np.nan)]), ProblemError, "NaN"),
    BadInput("norm", lambda: make_network(norm="l7"), ProblemError, "norm"),
    BadInput("structure", lambda: LipSDP(structure="network").solve(make_network()),
             ParameterError, "not a bound"),
    BadInput("start", lambda: LipSDP().solve(make_network(), x0=np.ones(3)), ProblemError, "x0"),
)  # fmt: skip
NETWORKS = {
    "dtypes": "bounds are computed in float64, whatever the precision of the weights",
    "backends": "bounds are computed with LAPACK on the processor",
    "solver_unchanged": "BLAS can be limited to one thread from the main thread only, and its sums "
    "differ in the last bits with two; the check compares bits",
}


def network_case(name, solver, *, model=None, **hooks):
    not_applicable = {**NETWORKS, **hooks.pop("not_applicable", {})}
    return SolverCase(
        solver,
        functools.partial(make_network, **(model or {})),
        name=name,
        **{
            "distance": distance_of_bounds, "perturb": shake_proof, "accuracy": 1e-5,
            "bad_inputs": NETWORK_INPUTS, "transforms": {"rescale": rescale_network},
            "not_applicable": not_applicable, **hooks,
        },
    )  # fmt: skip


NO_GAP = dict.fromkeys(
    ("certificate_agrees", "zero_iterations_at_solution", "warm_start_not_worse"),
    "no gap is proved: that a start is the answer cannot be known",
)
ONE_STEP = dict.fromkeys(
    (
        "zero_iterations_at_solution", "warm_start_not_worse", "resume_is_bit_identical", "limits",
        "callback_cannot_corrupt", "does_not_touch_inputs", "clone_and_pickle", "deterministic",
        "bad_inputs", "scale_invariance", "work_count",
    ),
    "one step: nothing lies between start and answer",
)  # fmt: skip
ALL_SOLVERS += [
    network_case(
        "LipSDP", LipSDP(n_threads=1), reference=lipschitz_reference,
        transforms={"permute": permute_neurons, "rescale": rescale_network},
    ),
    network_case(
        "LipSDP-linf", LipSDP(n_threads=1), model={"norm": "linf"},
        not_applicable={
            "solver_unchanged": "BLAS can be limited to one thread from the main thread only, and "
            "its sums differ in the last bits with two"
        },
    ),
    network_case("LipSDP-layer", LipSDP(structure="layer", n_threads=1)),
    network_case("LipSDP-tanh", LipSDP(n_threads=1), model={"activation": "gelu"}),
    network_case(
        "LipSDP-first order", LipSDP(method="first_order", tol=1e-4, n_threads=1), accuracy=5e-2,
        not_applicable=NO_GAP,
    ),
    network_case("LipSDPGroupSort", LipSDPGroupSort(n_threads=1), model={"activation": "maxmin"}),
    network_case(
        "LipSDPGroupSort-coupled", LipSDPGroupSort(structure="coupled", n_threads=1),
        model={"activation": "maxmin"},
        not_applicable={
            "certificate_agrees": "the start has multipliers and no dual yet: a proved bound, "
            "which says nothing of optimality",
            "solver_unchanged": "BLAS can be limited to one thread from the main thread only, and "
            "its sums differ in the last bits with two"
        },
    ),
    network_case(
        "LipSDPGroupSort-linf", LipSDPGroupSort(n_threads=1),
        model={"activation": "maxmin", "norm": "linf"},
    ),
    network_case(
        "ECLipsE-fast", ECLipsE(mode="fast"),
        not_applicable={"certificate_agrees": NO_GAP["certificate_agrees"]},
    ),
    network_case(
        "ECLipsE-sdp", ECLipsE(mode="sdp"),
        not_applicable={"certificate_agrees": NO_GAP["certificate_agrees"]},
    ),
    network_case(
        "LipDiff", LipDiff(n_epochs=100, start="product"),
        model={"widths": (4, 8, 6, 1)}, accuracy=1e-1,
        not_applicable={"certificate_agrees": NO_GAP["certificate_agrees"]},
    ),
    network_case("LipLT", LipLT()),
    network_case("NormProduct", NormProduct(), not_applicable=ONE_STEP),
    network_case("ExactLipschitz", ExactLipschitz()),
    network_case(
        "SampledLowerBound", SampledLowerBound(),
        not_applicable={"certificate_agrees": NO_GAP["certificate_agrees"]},
    ),
]  # fmt: skip


def make_linear_program(seed=0):
    """Equalities, ranges, one-sided rows; free, boxed, fixed and half-bounded variables.

    Costs are generic: the answer is unique.
    """
    rng = np.random.default_rng(seed)
    m, n = 8, 14
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.6)
    x = rng.standard_normal(n)
    activity = A @ x
    low, high = activity - rng.random(m), activity + rng.random(m)
    low[:3] = high[:3] = activity[:3]
    low[3], high[4] = -np.inf, np.inf
    lower, upper = x - rng.random(n), x + rng.random(n)
    lower[0], upper[0] = -np.inf, np.inf
    upper[1], lower[2] = np.inf, -np.inf
    lower[3] = upper[3] = x[3]
    y = rng.standard_normal(m) * (rng.random(m) < 0.7)
    y[3], y[4] = -abs(y[3]), abs(y[4])
    c = A.T @ y + np.where(rng.random(n) < 0.5, 0.0, rng.standard_normal(n))
    c[0] = A[:, 0] @ y
    c[1], c[2] = A[:, 1] @ y + rng.random(), A[:, 2] @ y - rng.random()
    return LinearProgram(c, sp.csr_array(A), low, high, lower, upper)


def by_highs(problem, solver):
    """SciPy's HiGHS, multipliers from its marginals."""
    A = problem.A.toarray()
    low, high = problem.constraint_lower, problem.constraint_upper
    equal = low == high
    above, below = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
    result = scipy_linprog(
        problem.c,
        np.vstack([A[above], -A[below]]),
        np.concatenate([high[above], -low[below]]),
        A[equal],
        low[equal],
        np.column_stack([problem.lower, problem.upper]),
        method="highs",
    )
    assert result.status == 0, result.message
    y = np.zeros(len(low))
    y[equal] = result.eqlin.marginals
    y[above] += result.ineqlin.marginals[: above.sum()]
    y[below] -= result.ineqlin.marginals[above.sum() :]
    return PrimalDual(result.x, y)


def permute_program(problem, rng):
    m, n = problem.shape
    rows, cols = rng.permutation(m), rng.permutation(n)
    A = problem.A.toarray()[np.ix_(rows, cols)]
    other = LinearProgram(
        problem.c[cols],
        A,
        problem.constraint_lower[rows],
        problem.constraint_upper[rows],
        problem.lower[cols],
        problem.upper[cols],
    )
    return other, lambda x: PrimalDual(x.x[cols], x.y[rows])


def rescale_program(problem, rng):
    """Right-hand sides times 8, costs times 4: exactly another scale."""
    other = LinearProgram(
        4.0 * problem.c,
        problem.A,
        8.0 * problem.constraint_lower,
        8.0 * problem.constraint_upper,
        8.0 * problem.lower,
        8.0 * problem.upper,
    )
    return other, lambda x: PrimalDual(8.0 * x.x, 4.0 * x.y)


def make_quadratic_program(seed=0):
    rng = np.random.default_rng(seed)
    n, m = 8, 4
    B = rng.standard_normal((n, n))
    A = rng.standard_normal((m, n))
    x = np.clip(rng.standard_normal(n), -1.0, 1.0)
    b = A @ x
    b_low = np.where(np.arange(m) < 2, b, b - 0.5)
    return QuadraticProgram(
        B @ B.T / n + 0.1 * np.eye(n), rng.standard_normal(n), A, b_low, b, -1.5, 1.5
    )


def rectangle():
    """No constraints but bounds."""
    return LinearProgram([1.0, -1.0, 2.0], None, None, None, [0.0, -1.0, -3.0], [1.0, 2.0, 5.0])


PROGRAM_INPUTS = (
    BadInput(
        "reflect of 0",
        lambda: HalpernPDHG(reflect=0.0).solve(make_linear_program()),
        ParameterError,
        "reflect=0.0",
    ),
    BadInput(
        "weight misspelt",
        lambda: HalpernPDHG(weight="hrp").solve(make_linear_program()),
        ParameterError,
        "hpr",
    ),
    BadInput("NaN in c", lambda: LinearProgram([np.nan, 1.0]), ProblemError, "c"),
    BadInput("shapes", lambda: LinearProgram([1.0, 1.0], np.ones((2, 3))), ProblemError, "shape"),
)

PROGRAMS = {
    "dtypes": "data and points are float64",
    "backends": "compiled passes over sparse matrices on the processor",
}
ALL_SOLVERS += [
    SolverCase(
        HalpernPDHG(tol=1e-8, presolve=False), make_linear_program, name="HalpernPDHG",
        not_applicable=PROGRAMS,
        reference=by_highs, bad_inputs=PROGRAM_INPUTS,
        transforms={"permuted": permute_program, "rescaled": rescale_program},
        work=lambda problem, solver, nit: {"iterations": nit},
    ),
    SolverCase(
        HalpernPDHG(tol=1e-8, presolve=False, finish=False, weight="pid", step_size="constant"),
        make_linear_program, name="HalpernPDHG-pid", not_applicable=PROGRAMS, reference=by_highs,
    ),
    SolverCase(
        HalpernPDHG(tol=1e-7, presolve=False, finish=False, first_phase="float32"),
        make_linear_program, name="HalpernPDHG-float32",
        not_applicable=PROGRAMS, reference=by_highs, accuracy=1e-3,
    ),
    SolverCase(
        HalpernPDHG(tol=1e-8), make_quadratic_program, name="HalpernPDHG-quadratic",
        not_applicable=PROGRAMS,
    ),
]  # fmt: skip

ARRAYS = {"backends": "the problem's functions and matrices are NumPy's"}


def operator_case(solver, factory, **hooks):
    not_applicable = {**ARRAYS, **hooks.pop("not_applicable", {})}
    return SolverCase(solver, factory, not_applicable=not_applicable, **hooks)


def make_map(dtype=np.float64, seed=0):
    """A contraction with factor 0.9 that turns."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    M, b = (0.9 * Q).astype(dtype), rng.standard_normal(6).astype(dtype)
    return FixedPointProblem(lambda u: M @ u + b, np.zeros(6, dtype))


def make_saddle(dtype=np.float64, seed=0):
    """x Hx / 2 + y Bx - y Hy / 2 - linear terms: strongly monotone."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((4, 4))
    M = np.block([[0.2 * np.eye(4), B.T], [-B, 0.2 * np.eye(4)]])
    return MonotoneInclusion(
        (M.astype(dtype), rng.standard_normal(8).astype(dtype)), np.zeros(8, dtype)
    )


def make_boxed(dtype=np.float64, seed=0):
    """A convex quadratic over the box [-1, 1]: cocoercive, with a prox."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((6, 6))
    M, q = (B @ B.T / 6 + 0.3 * np.eye(6)).astype(dtype), rng.standard_normal(6).astype(dtype)
    return MonotoneInclusion((M, q), np.zeros(6, dtype), prox=lambda x, t: np.clip(x, -1, 1))


def make_square_game(dtype=np.float64, seed=0):
    """A game with one answer."""
    A = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.5], [1.0, 1.0, -1.0]]) / 2
    return MatrixGame(A.astype(dtype))


def by_solving(problem, solver):
    M, q = problem.affine
    return la.solve(M, -q)


def fixed_by_solving(problem, solver):
    q = problem.T(np.zeros(problem.size))
    M = np.stack([problem.T(e) - q for e in np.eye(problem.size)], axis=1)
    return la.solve(np.eye(problem.size) - M, q)


def game_by_highs(problem, solver):
    m, n = problem.shape
    c = np.r_[np.zeros(n), 1.0]
    r = scipy_linprog(
        c,
        np.c_[problem.A, -np.ones(m)],
        np.zeros(m),
        [np.r_[np.ones(n), 0.0]],
        [1.0],
        [(0, None)] * n + [(None, None)],
    )
    return PrimalDual(r.x[:n], -r.ineqlin.marginals)


ALL_SOLVERS += [
    operator_case(Halpern(tol=1e-8), make_map, name="Halpern", reference=fixed_by_solving,
        bad_inputs=(
            BadInput("a rotation", lambda: Halpern().solve(make_square_game()),
                     UnsupportedProblemError, "cocoercive"),
            BadInput("a long step", lambda: Halpern(step_size=9.0).solve(make_boxed()),
                     ParameterError, "step_size=9.0"),
            BadInput("T of another shape", lambda: FixedPointProblem(lambda x: x[1:], np.ones(3)),
                     ProblemError, "shape"),
        ),
        work=lambda problem, solver, nit: {"map_calls": nit + 1},
    ),
    operator_case(Halpern(tol=1e-8), make_saddle, name="Halpern-resolvent", reference=by_solving),
    operator_case(Halpern(tol=1e-8), make_boxed, name="Halpern-forward-backward"),
    operator_case(KrasnoselskiiMann(tol=1e-8), make_map, name="KrasnoselskiiMann",
               reference=fixed_by_solving),
    operator_case(Anderson(tol=1e-8, memory=3), make_map, name="Anderson",
               reference=fixed_by_solving),
    operator_case(ExtraGradient(tol=1e-8), make_saddle, name="ExtraGradient", reference=by_solving,
        work=lambda problem, solver, nit: {"operator_calls": 2 * nit + 1}),
    operator_case(OptimisticGradient(tol=1e-8), make_saddle, name="OptimisticGradient",
        reference=by_solving,
        work=lambda problem, solver, nit: {"operator_calls": nit + 1}),
    operator_case(AnchoredExtraGradient(tol=1e-7, restart="adaptive"), make_saddle,
               name="AnchoredExtraGradient", reference=by_solving),
    operator_case(FastExtraGradient(tol=1e-7, restart="adaptive"), make_square_game,
               name="FastExtraGradient", reference=game_by_highs),
    operator_case(GameInteriorPoint(tol=1e-9), make_square_game, name="GameInteriorPoint",
               reference=game_by_highs),
]  # fmt: skip


def make_least_squares(dtype=np.float64, seed=0):
    """A mean of 20 gradients, as a cocoercive operator: known minimiser."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((20, 3)).astype(dtype)
    b = (a @ rng.standard_normal(3) + rng.standard_normal(20)).astype(dtype)

    def components(x, index):
        return a[index] * (a[index] @ x - b[index])[:, None]

    M, q = (a.T @ a / 20).astype(dtype), (-a.T @ b / 20).astype(dtype)
    return MonotoneInclusion((M, q), np.zeros(3, dtype), components=components, n_terms=20)


def make_diagonal_game(dtype=np.float64, seed=0):
    """A diagonal game, whose strategies are in proportion to 1 / a."""
    a = 1.0 + np.random.default_rng(seed).random(6)
    start = np.eye(6)[0]
    return MatrixGame(np.diag(a).astype(dtype), start_point=(start, start))


def least_squares_minimiser(problem, solver):
    M, q = problem.affine
    return -np.linalg.solve(M, q)


def strategies(problem, solver):
    x = 1.0 / np.diag(problem.A)
    return (x / x.sum(), x / x.sum())


ALL_SOLVERS += [
    operator_case(
        VarianceReducedHalpern(tol=1e-7, sampling="importance"), make_least_squares,
        accuracy=1e-5, reference=least_squares_minimiser,
    ),
    operator_case(
        VarianceReducedHalpern(tol=1e-6, eta=0.3, restart="adaptive"), make_least_squares,
        name="VarianceReducedHalpern, eta given", accuracy=1e-4, reference=least_squares_minimiser,
    ),
    operator_case(
        VarianceReducedExtraGradient(tol=1e-6), make_diagonal_game, accuracy=1e-3,
        float32_accuracy=1e-2, reference=strategies,
    ),
    operator_case(
        InexactHalpern(tol=1e-6, inner="variance_reduced"), make_diagonal_game, accuracy=1e-3,
        name="InexactHalpern, variance-reduced", float32_accuracy=1e-2, reference=strategies,
    ),
    operator_case(
        InexactHalpern(tol=1e-6, inner="deterministic", reflect=True), make_diagonal_game,
        accuracy=1e-3, name="InexactHalpern, deterministic", float32_accuracy=1e-2,
        reference=strategies,
    ),
    operator_case(
        InexactHalpern(tol=1e-7, inner="exact"), make_least_squares, accuracy=1e-5,
        name="InexactHalpern, exact", reference=least_squares_minimiser,
    ),
]  # fmt: skip

BY_NAME = {case.name: case for case in ALL_SOLVERS}
# No kernel of their own that has threads: measurements and the semi-dual are tested as such.
SERIAL = {
    "BoundOptimizer",
    # Threads from 1e5 nonzeros on: tests/monotone/test_kernels_pdhg.py compares their bits.
    *(
        name
        for name in BY_NAME
        if type(BY_NAME[name].solver).__module__.startswith("lowrank_opt.monotone")
    ),
    *(name for name in BY_NAME if name.startswith(("SparseGLMSolver", "BlockCoordinate"))),
    *(
        name
        for name in BY_NAME
        if getattr(BY_NAME[name].problem_factory, "func", None) is make_network
    ),
    "SparsityConstrainedOT-bcd",
    "SparsityConstrainedOT-lbfgs",
    "SparsityConstrainedOT-lbfgs-dual",
    "GradientDescent",
    "ScaledGD",
    "ScaledSubgradientMethod",
    "SubgradientMethod",
    "SubgradientMethod-loss",
}


def test_no_registered_solver_is_missing():
    """Enter a new solver in ALL_SOLVERS."""
    tested = {type(case.solver) for case in ALL_SOLVERS}
    missing = [name for name, cls in registered_solvers().items() if cls not in tested]
    assert missing == []


def test_a_missing_solver_is_noticed(monkeypatch):
    monkeypatch.setattr(
        "lowrank_opt.core.registry._SOLVERS",
        {
            "Quadratic": "lowrank_opt.testing.example",
            "GradientDescent": "lowrank_opt.testing.example",
        },
    )
    with pytest.raises(AssertionError, match="Quadratic"):
        test_no_registered_solver_is_missing()


@pytest.mark.parametrize("check", [name for name in SOLVER_CHECKS if name != "backends"])
@pytest.mark.parametrize("name", BY_NAME)
def test_common_check(name, check):
    case = BY_NAME[name]
    if check in case.not_applicable:
        pytest.skip(f"{check}: {case.not_applicable[check]}")
    try:
        SOLVER_CHECKS[check](case)
    except NotApplicable as reason:
        pytest.skip(f"{check}: {reason}")


@pytest.fixture
def parallel_calls(monkeypatch):
    """Let every kernel use threads, however small the data; return a list of its calls."""
    calls = []

    class Pool(kernels.ThreadPoolExecutor):
        def __init__(self, n_threads):
            calls.append(n_threads)
            super().__init__(n_threads)

    class Region:
        def __init__(self, region):
            self.region = region

        def __enter__(self):
            calls.append(numba.get_num_threads())
            return self.region.__enter__()

        def __exit__(self, *error):
            return self.region.__exit__(*error)

    monkeypatch.setattr(kernels, "_PARALLEL_ENTRIES", 0)
    monkeypatch.setattr(kernels, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(proximal, "_PARALLEL", 0)
    monkeypatch.setattr(proximal, "_LEAST_COLUMNS", 4)
    monkeypatch.setattr(proximal, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(_nuclear, "_PARALLEL_WORK", 0)
    monkeypatch.setattr(factor_sgd, "_TILE_ENTRIES", 1)
    for module in (_nuclear, factor_sgd):
        monkeypatch.setattr(module, "parallel_region", Region(module.parallel_region))
    return calls


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("check", ["deterministic", "solver_unchanged"])
@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in SERIAL])
def test_parallel_kernels(name, check, parallel_calls):
    case = BY_NAME[name]
    params = {**case.solver.get_params(deep=False), "n_threads": 2}
    if isinstance(case.solver, SoftImpute):  # bits are compared, which need not be accurate
        params["tol"] = 1e-3
    solver = type(case.solver)(**params)
    SOLVER_CHECKS[check](replace(case, solver=solver))
    assert parallel_calls.count(2) > 20


@pytest.mark.parametrize("name", BY_NAME)
def test_backends(name, xp):
    case = BY_NAME[name]
    if "backends" in case.not_applicable:
        pytest.skip(f"backends: {case.not_applicable['backends']}")
    check_backends(case, [xp])


def test_exemptions_name_checks():
    for case in ALL_SOLVERS:
        assert set(case.not_applicable) <= set(SOLVER_CHECKS)
    assert replace(ALL_SOLVERS[0], name="x").label == "x"
