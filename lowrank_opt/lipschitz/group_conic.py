r"""The bound of networks of groups through a generic solver of cone programs.

How to call::

    state = start(form, tol=1e-6, solver="clarabel")
    while not state.done:
        advance(form, state)  # one call of the package

One cone for each layer's inequality, in the coordinates and the scaling of
:mod:`~lowrank_opt.lipschitz.group_structure`, so that all numbers are near one. Multipliers and
dual of the package are repaired in closed form; values that it reports are not used. The layout
of multipliers and dual is that of :mod:`~lowrank_opt.lipschitz.group_interior_point`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from lowrank_opt.lipschitz import group_interior_point
from lowrank_opt.lipschitz.conic_backends import (
    ConeData,
    check_solver,
    solve_cone_program,
    svec,
)
from lowrank_opt.lipschitz.group_interior_point import (
    GroupInteriorPointState,
    scaled_blocks,
    update_bounds,
)
from lowrank_opt.lipschitz.group_structure import tied_chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import GroupChain
    from lowrank_opt.lipschitz.group_blocks import Blocks

    Array = NDArray[np.float64]

__all__ = ["advance", "start"]

_CALLS = 2


def start(
    form: GroupChain,
    *,
    tol: float = 1e-6,
    multipliers: Sequence[Array] | None = None,
    dual: Sequence[Array] | None = None,
    solver: str = "clarabel",
) -> GroupInteriorPointState:
    """Return the state before the first call.

    Parameters
    ----------
    form : GroupChain
        The network.
    tol : float, default=1e-6
        Relative gap between `upper` and `lower` at which no more calls are made.
    multipliers, dual : sequence of ndarray, optional
        Where to start, in the layout of a proof.
    solver : {"clarabel", "scs", "mosek", "sdpa"}, default="clarabel"
        The package.

    Returns
    -------
    GroupInteriorPointState
        The state; already converged if the given pair is optimal within `tol`.
    """
    check_solver(solver)
    state = group_interior_point.start(form, tol=tol, multipliers=multipliers, dual=dual)
    state.solver = solver
    return state


def advance(form: GroupChain, state: GroupInteriorPointState) -> None:
    """Call the package once, in place.

    Parameters
    ----------
    form : GroupChain
        The network.
    state : GroupInteriorPointState
        The state.

    Notes
    -----
    Cost: that of the package; Clarabel stores a dense block of n²(n+1)²/8 numbers for a layer of
    width n, which is practical to n of about 100.
    """
    if state.done:
        return
    if state.cache is None:
        scaled_blocks(tied_chain(form), state)
    chain, blocks = state.cache
    accuracy = 1e-6 if state.solver == "scs" else min(1e-9, max(0.01 * state.tol, 1e-11))
    answer = solve_cone_program(_program(blocks), state.solver, accuracy)
    state.nit += 1
    name = f"{state.solver}_iterations"
    state.counts[name] = state.counts.get(name, 0) + answer.iterations
    ends = np.cumsum([len(s) for s in chain.starts])[:-1]
    state.y = np.split(answer.x, ends)
    state.X = [_definite(X) for X in answer.duals]
    with np.errstate(all="ignore"):
        if all(np.all(np.isfinite(a)) for a in (answer.x, *state.X)):
            update_bounds(chain, state)
    if not state.done and state.nit >= _CALLS:
        state.done = "stalled"
        state.message = f"{state.solver} said {answer.status!r}"
    elif not state.done:  # scaled by the better multipliers
        state.logs = [
            a + np.log(np.maximum(y, 1e-12)) for a, y in zip(state.logs, state.y, strict=True)
        ]
        scaled_blocks(chain, state)


def _definite(X: Array) -> Array:
    """The matrix plus the least multiple of the identity that makes it definite."""
    if not np.all(np.isfinite(X)):
        return X
    w = np.linalg.eigvalsh(X)
    return X + max(1e-13 * abs(float(w[-1])) - float(w[0]), 0.0) * np.eye(len(X))


def _program(blocks: Blocks) -> ConeData:
    """Min cᵀy_0 over the inequalities; the slack of each is its matrix."""
    chain = blocks.chain
    sizes = [len(s) for s in chain.starts]
    first = np.concatenate([[0], np.cumsum(sizes)])
    rows, right = [], []
    for i, A in enumerate(blocks.weights):
        n = A.shape[1]
        row: list[sp.csc_array | None] = [None] * len(sizes)
        own = np.zeros((n * (n + 1) // 2, n))
        diagonal = np.cumsum(np.arange(1, n + 1)) - 1
        own[diagonal, np.arange(n)] = -1.0
        row[i] = sp.csc_array(chain.total(own.T, i).T)
        if i + 1 < blocks.depth:
            outer = np.array([svec(np.outer(a, a)) for a in A])
            row[i + 1] = sp.csc_array(chain.total(outer, i + 1).T)
            right.append(np.zeros(n * (n + 1) // 2))
        else:
            right.append(-svec(A.T @ A))
        height = n * (n + 1) // 2
        rows.append(
            [sp.csc_array((height, k)) if r is None else r for r, k in zip(row, sizes, strict=True)]
        )
    cost = np.zeros(first[-1])
    cost[: sizes[0]] = blocks.cost
    return ConeData(
        cost,
        sp.csc_array(sp.block_array(rows)),
        np.concatenate(right),
        0,
        tuple(A.shape[1] for A in blocks.weights),
    )
