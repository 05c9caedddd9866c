"""Linear cone programs min qᵀx s.t. A x + s = b, s in a product of cones, by other packages.

The cones are one nonnegative orthant, then symmetric matrices whose upper triangles are stacked
column by column, entries off the diagonal times √2.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ConeData", "ConeSolution", "installed_solvers", "mat", "solve_cone_program", "svec"]

_PACKAGES = {"clarabel": "clarabel", "scs": "scs", "mosek": "mosek", "sdpa": "sdpap"}


class ConeData(NamedTuple):
    """A linear cone program.

    Parameters
    ----------
    q : ndarray of shape (n,)
        Costs.
    A : csc_array of shape (m, n)
        Rows of the orthant first, then those of each matrix.
    b : ndarray of shape (m,)
        Right-hand side.
    n_nonnegative : int
        Size of the orthant.
    orders : tuple of int
        Orders of the matrices.
    """

    q: NDArray[np.float64]
    A: sp.csc_array
    b: NDArray[np.float64]
    n_nonnegative: int
    orders: tuple[int, ...]


class ConeSolution(NamedTuple):
    """What a package returned; nothing of it is trusted.

    Parameters
    ----------
    x : ndarray of shape (n,)
        Variables.
    duals : list of ndarray
        Matrices of the dual.
    status : str
        In the package's words.
    iterations : int
        Its iterations.
    """

    x: NDArray[np.float64]
    duals: list[NDArray[np.float64]]
    status: str
    iterations: int


def _triangle(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the upper triangle, column by column."""
    columns, rows = np.tril_indices(n)
    return rows, columns


def svec(S: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stack the upper triangle of a symmetric matrix, entries off the diagonal times √2.

    Parameters
    ----------
    S : ndarray of shape (n, n)
        Symmetric.

    Returns
    -------
    ndarray of shape (n * (n + 1) / 2,)
        The inner product of two such vectors is that of the matrices.
    """
    rows, columns = _triangle(len(S))
    return S[rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))


def mat(v: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Inverse of :func:`svec`.

    Parameters
    ----------
    v : ndarray of shape (n * (n + 1) / 2,)
        Stacked triangle.
    n : int
        Order of the matrix.

    Returns
    -------
    ndarray of shape (n, n)
        Symmetric matrix.
    """
    rows, columns = _triangle(n)
    S = np.zeros((n, n))
    S[rows, columns] = v * np.where(rows == columns, 1.0, np.sqrt(0.5))
    S[columns, rows] = S[rows, columns]
    return S


def installed_solvers() -> list[str]:
    """Return the names of the packages that can be used.

    Returns
    -------
    list of str
        Of "clarabel", "scs", "mosek" and "sdpa".
    """
    return [name for name, module in _PACKAGES.items() if importlib.util.find_spec(module)]


def check_solver(solver: str) -> None:
    """Refuse unknown or missing packages with the list of those that are there."""
    there = ", ".join(repr(n) for n in installed_solvers()) or "none"
    if solver not in _PACKAGES:
        raise ParameterError(
            f"solver={solver!r} is not one of {', '.join(map(repr, _PACKAGES))}; installed: {there}"
        )
    if solver not in installed_solvers():
        raise ParameterError(
            f"solver={solver!r} needs the package {_PACKAGES[solver]!r}, which is not installed; "
            f"installed: {there}. Install it, or choose another one"
        )


def solve_cone_program(data: ConeData, solver: str, accuracy: float) -> ConeSolution:
    """Solve once.

    Parameters
    ----------
    data : ConeData
        The program, with numbers near one.
    solver : {"clarabel", "scs", "mosek", "sdpa"}
        The package; the latter two through cvxpy.
    accuracy : float
        Relative accuracy asked for.

    Returns
    -------
    ConeSolution
        With zeros where the package found nothing.
    """
    check_solver(solver)
    if solver == "clarabel":
        return _clarabel(data, accuracy)
    if solver == "scs":
        return _scs(data, accuracy)
    return _through_cvxpy(data, solver.upper())


def _split(data: ConeData, z: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    matrices, first = [], data.n_nonnegative
    for n in data.orders:
        size = n * (n + 1) // 2
        matrices.append(mat(z[first : first + size], n))
        first += size
    return matrices


def _clarabel(data: ConeData, accuracy: float) -> ConeSolution:
    clarabel: Any = importlib.import_module("clarabel")

    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_iter = 200
    for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas"):
        setattr(settings, name, accuracy)
    cones: list[Any] = [clarabel.PSDTriangleConeT(n) for n in data.orders]
    if data.n_nonnegative:
        cones.insert(0, clarabel.NonnegativeConeT(data.n_nonnegative))
    n = data.q.size
    empty = sp.csc_matrix((n, n))
    A = sp.csc_matrix(data.A)
    answer = clarabel.DefaultSolver(empty, data.q, A, data.b, cones, settings).solve()
    x, z = np.array(answer.x, dtype=np.float64), np.array(answer.z, dtype=np.float64)
    return ConeSolution(x, _split(data, z), str(answer.status), int(answer.iterations))


def _scs(data: ConeData, accuracy: float) -> ConeSolution:
    scs: Any = importlib.import_module("scs")

    # Lower triangles column by column: the same entries in another order.
    order, first = [np.arange(data.n_nonnegative)], data.n_nonnegative
    for n in data.orders:
        size = n * (n + 1) // 2
        rows, columns = _triangle(n)
        order.append(first + np.lexsort((columns, rows)))
        first += size
    permutation = np.concatenate(order)
    program = {
        "A": sp.csc_matrix(data.A.tocsr()[permutation]),
        "b": data.b[permutation],
        "c": data.q,
    }
    cone = {"l": data.n_nonnegative, "s": list(data.orders)}
    answer = scs.SCS(
        program, cone, verbose=False, eps_abs=accuracy, eps_rel=accuracy, max_iters=20_000
    ).solve()
    z = np.zeros_like(data.b)
    z[permutation] = answer["y"]
    info = answer["info"]
    return ConeSolution(
        np.nan_to_num(answer["x"]), _split(data, np.nan_to_num(z)), info["status"], info["iter"]
    )


def _through_cvxpy(data: ConeData, solver: str) -> ConeSolution:
    import warnings

    cp: Any = importlib.import_module("cvxpy")

    x = cp.Variable(data.q.size)
    rest = data.b - data.A @ x
    first = data.n_nonnegative
    constraints = [rest[:first] >= 0] if first else []
    matrices = []
    for n in data.orders:
        size = n * (n + 1) // 2
        rows, columns = _triangle(n)
        weights = np.where(rows == columns, 1.0, np.sqrt(0.5))
        positions = np.arange(size)
        lift = sp.csc_array(
            (
                np.concatenate([weights, weights[rows != columns]]),
                (
                    np.concatenate([rows * n + columns, (columns * n + rows)[rows != columns]]),
                    np.concatenate([positions, positions[rows != columns]]),
                ),
            ),
            shape=(n * n, size),
        )
        matrix = cp.reshape(lift @ rest[first : first + size], (n, n), order="C")
        matrices.append(matrix >> 0)
        first += size
    program = cp.Problem(cp.Minimize(data.q @ x), constraints + matrices)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.solve(solver=solver)
    except (cp.error.SolverError, ValueError, ArithmeticError) as error:
        zeros = [np.zeros((n, n)) for n in data.orders]
        return ConeSolution(np.zeros(data.q.size), zeros, f"{type(error).__name__}: {error}", 0)
    found = np.zeros(data.q.size) if x.value is None else np.asarray(x.value, dtype=np.float64)
    duals = []
    for n, c in zip(data.orders, matrices, strict=True):
        dual = np.zeros((n, n)) if c.dual_value is None else np.asarray(c.dual_value)
        duals.append(0.5 * (dual + dual.T))
    stats = program.solver_stats
    iterations = 0 if stats is None or stats.num_iters is None else int(stats.num_iters)
    return ConeSolution(found, duals, str(program.status), iterations)
