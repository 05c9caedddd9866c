"""When Halpern PDHG restarts, and with which weight and step it goes on."""

from __future__ import annotations

import math
from typing import Any

from lowrank_opt.monotone.kernels_pdhg import face_norm, mark_face

__all__ = ["face_step", "hpr_weight", "pid_weight", "restart_due"]

SUFFICIENT, NECESSARY = 0.2, 0.6  # drops of the fixed-point error
LONG, LONG_OF_LARGE, LARGE = 0.2, 0.36, 100_000  # share of all iterations, nonzeros
FACE_STEPS = 15
FACE_SAFETY, FACE_LIMIT = 0.9, 30.0
FORGET = 0.05  # of the best weight


def restart_due(state: Any, error: float, nnz: int) -> bool:
    """Return whether to restart at a check.

    After a sufficient drop of the fixed-point error, after a smaller one that is being lost again,
    or when the epoch has become a good part of the whole run.
    """
    if state.restarts == 0:
        return True
    if error <= SUFFICIENT * state.first_error:
        return True
    if error <= NECESSARY * state.first_error and error > state.last_error:
        return True
    share = LONG_OF_LARGE if nnz > LARGE else LONG
    return bool(state.inner >= share * state.nit)


def hpr_weight(state: Any, quality: float, dx: float, dy: float) -> float:
    """Return the weight from the last epoch's moves, held near the best one so far.

    Parameters
    ----------
    state : PDHGState
        Has the weight, the best one and its quality.
    quality : float
        Largest relative residual now.
    dx, dy : float
        Lengths of the moves since the anchor.
    """
    if quality < state.best_quality:
        state.best_quality, state.best_weight = quality, state.weight
    if not (1e-16 < dx < 1e12 and 1e-16 < dy < 1e12):
        return float(state.best_weight)
    trust = math.exp(-FORGET * quality / state.best_quality) if state.best_quality > 0 else 1.0
    log = trust * math.log(dy / dx) + (1.0 - trust) * math.log(state.best_weight)
    return math.exp(log)


def pid_weight(state: Any, primal: float, dual: float, dx: float, dy: float) -> float:
    """Return the weight by the proportional and integral rule of cuPDLPx.

    Parameters
    ----------
    state : PDHGState
        Has the weight, the best one and the sum of errors.
    primal, dual : float
        Relative residuals.
    dx, dy : float
        Lengths of the moves since the anchor.
    """
    balance = abs(math.log10(dual / primal)) if primal > 0 and dual > 0 else math.inf
    if balance < state.best_quality:
        state.best_quality, state.best_weight = balance, state.weight
    if not (1e-16 < dx < 1e12 and 1e-16 < dy < 1e12 and balance < 8.0):
        state.error_sum = 0.0
        return float(state.best_weight)
    error = math.log(dy) - math.log(dx) - math.log(state.weight)
    state.error_sum = 0.3 * state.error_sum + error
    return float(state.weight * math.exp(0.99 * error + 0.01 * state.error_sum))


def face_step(work: Any, state: Any, x_hat: Any, y_hat: Any) -> float:
    """Return a step for the face on which the iterates move.

    The norm of the constraints between the columns that move or are off their bounds and the rows
    that are equalities or have multipliers is often many times smaller than that of all.

    Parameters
    ----------
    work : Work
        Of the program.
    state : PDHGState
        Has the anchor, how far the step has been shrunk, and the source of randomness.
    x_hat, y_hat : ndarray
        The point of restart.
    """
    p, safe = work.program, work.safe_step
    columns, rows = work.face
    mark_face(
        x_hat, state.x_anchor, p.lower, p.upper, y_hat, p.row_lower, p.row_upper, columns, rows
    )
    v = state.rng.standard_normal(len(rows))
    norm = face_norm(*p.columns.parts, columns, rows, v, work.spare, FACE_STEPS)
    if not norm > 0.0:
        return float(safe)
    step = state.shrink * FACE_SAFETY / norm
    return float(min(max(step, safe), FACE_LIMIT * safe))
