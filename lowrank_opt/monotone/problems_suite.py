"""Problems with known answers, for papers, benchmarks and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.monotone.inclusion import MonotoneInclusion
from lowrank_opt.monotone.matrix_game import MatrixGame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["ouyang_xu", "policeman_burglar", "quadratic_game", "random_game", "suite"]


def policeman_burglar(n: int = 500, orientation: str = "columns") -> MatrixGame:
    """Return the policeman and burglar game: who breaks in where, who watches where.

    Parameters
    ----------
    n : int, default=500
        Number of houses.
    orientation : {"columns", "rows"}, default="columns"
        "columns": ``A_ij = w_j (1 - exp(-0.8 |i - j|))`` with wealth w, the published form, whose
        minimising player nearly has one best house; "rows": ``w_i`` instead, the harder game.

    References
    ----------
    .. [1] A. Nemirovski, "Mini-course on convex programming algorithms", 2013.
    """
    if orientation not in ("columns", "rows"):
        raise ParameterError(f"orientation={orientation!r}; expected 'columns' or 'rows'")
    wealth = np.abs(np.random.RandomState(1).standard_normal(n))
    house = np.arange(n)
    caught = 1.0 - np.exp(-0.8 * np.abs(house[:, None] - house[None, :]))
    return MatrixGame((wealth[:, None] if orientation == "rows" else wealth[None, :]) * caught)


def random_game(m: int, n: int, seed: int = 0) -> MatrixGame:
    """Return a game with normal payoffs.

    Parameters
    ----------
    m, n : int
        Numbers of rows and columns.
    seed : int, default=0
        Of the payoffs.
    """
    return MatrixGame(np.random.default_rng(seed).standard_normal((m, n)))


def ouyang_xu(n: int = 200) -> tuple[MonotoneInclusion, NDArray[np.float64]]:
    """Return the saddle form of the worst equality-constrained quadratic program, and its answer.

    Minimise x Hx / 2 - h x subject to Ax = b, with F = (Hx - h - A'y, Ax - b), A bidiagonal along
    the other diagonal, H = 2 A'A, b = 1/4 and h = e_n / 4.

    Parameters
    ----------
    n : int, default=200
        Number of variables, and of constraints.

    Returns
    -------
    problem, answer : MonotoneInclusion, ndarray of shape (2 n,)
        The problem with the start 1/n, and its only solution, by a linear solve.

    References
    ----------
    .. [1] Y. Ouyang, Y. Xu, "Lower complexity bounds of first-order methods for convex-concave
       bilinear saddle-point problems", Mathematical Programming 185, 2021.
    """
    A = np.zeros((n, n))
    row = np.arange(n)
    A[row, n - 1 - row] = 0.25
    A[row[:-1], n - 2 - row[:-1]] = -0.25
    H, b, h = 2.0 * A.T @ A, np.full(n, 0.25), np.r_[np.zeros(n - 1), 0.25]
    M = np.block([[H, -A.T], [A, np.zeros((n, n))]])
    q = np.concatenate([-h, -b])
    x = np.linalg.solve(A, b)
    answer = np.concatenate([x, np.linalg.solve(A.T, H @ x - h)])
    return MonotoneInclusion((M, q), np.full(2 * n, 1.0 / n)), answer


def quadratic_game(
    n: int = 40, curvature: float = 0.1, seed: int = 0
) -> tuple[MonotoneInclusion, NDArray[np.float64]]:
    """Return the saddle of x Px / 2 + y Bx - y Py / 2 + linear terms, and its answer.

    Parameters
    ----------
    n : int, default=40
        Variables of each player.
    curvature : float, default=0.1
        P is this multiple of a random matrix of norm about 1; 0: bilinear.
    seed : int, default=0
        Of the data.
    """
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((n, n)) / np.sqrt(n)
    C = rng.standard_normal((n, n)) / np.sqrt(n)
    P = curvature * (C @ C.T) / 4.0
    M, q = np.block([[P, B.T], [-B, P]]), rng.standard_normal(2 * n)
    return MonotoneInclusion((M, q), np.zeros(2 * n)), np.linalg.solve(M, -q)


def suite(scale: int = 1) -> Iterator[tuple[str, Any]]:
    """Yield twenty problems by name: games, saddles, cocoercive and skew operators.

    Parameters
    ----------
    scale : int, default=1
        Multiplies sizes.
    """
    for k in (1, 2):
        n = 20 * k * scale
        yield f"policeman-burglar columns {n}", policeman_burglar(n)
        yield f"policeman-burglar rows {n}", policeman_burglar(n, "rows")
        yield f"random game {n}", random_game(n, n, k)
        yield f"random game {n}x{2 * n}", random_game(n, 2 * n, k)
        yield f"Ouyang-Xu {n}", ouyang_xu(n)[0]
        for curvature in (0.0, 0.1, 1.0):
            yield f"quadratic game {n}, {curvature}", quadratic_game(n, curvature, k)[0]
        rng = np.random.default_rng(k)
        B = rng.standard_normal((2 * n, n)) / np.sqrt(n)
        yield (
            f"least squares {n}",
            MonotoneInclusion((B.T @ B, rng.standard_normal(n)), np.zeros(n)),
        )
        C = (B.T @ B) * np.outer(*2 * [np.logspace(0, 1.5, n)])
        yield f"spread quadratic {n}", MonotoneInclusion((C, rng.standard_normal(n)), np.zeros(n))
