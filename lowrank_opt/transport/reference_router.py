"""Routing in array-API code, for batches: choosers and options along the last two axes.

A chooser is an expert that takes tokens, or a token that takes experts; what is written here for
one serves the other with the axes exchanged.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from lowrank_opt.numerics._arrays import device, namespace

__all__ = ["DECAYS", "FLOOR", "Choice", "adam_step", "choose", "evaluate", "largest",
           "places_in_queue", "sinkhorn", "softmax"]  # fmt: skip

# Adam, as everybody runs it.
DECAYS, FLOOR = (0.9, 0.999), 1e-8


class Choice(NamedTuple):
    """What choosers take at given potentials of the options.

    Parameters
    ----------
    indices : array of int64, of shape (..., choosers, k)
        Options, ascending; -1 behind the last one.
    plan : array of shape (..., choosers, k)
        Masses of these, of the dtype of the gates; 0 behind the last one.
    sums : array of float64, of shape (..., options)
        Sums of the plan.
    psi : array of float64, of shape (...)
        Sum of the conjugates of the choosers.
    potentials : array of float64, of shape (..., options)
        The potentials.
    """

    indices: Any
    plan: Any
    sums: Any
    psi: Any
    potentials: Any


def softmax(logits: Any) -> Any:
    """Return the softmax along the last axis.

    Parameters
    ----------
    logits : array of shape (..., experts)
        Any finite numbers.

    Returns
    -------
    array of shape (..., experts)
        Positive numbers of sum 1, of the dtype of `logits`.
    """
    xp = namespace(logits)
    grown = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
    return grown / xp.sum(grown, axis=-1, keepdims=True)


def largest(scores: Any, k: int) -> Any:
    """Return the indices of the k largest, by decreasing score, ties by the lowest index.

    Parameters
    ----------
    scores : array of shape (..., options)
        Scores.
    k : int
        At most the number of options.

    Returns
    -------
    array of int64, of shape (..., k)
        Indices.
    """
    xp = namespace(scores)
    return xp.argsort(-scores, axis=-1, stable=True)[..., :k]


def evaluate(gates: Any, potentials: Any, k: int, mass: float, gamma: float) -> Choice:
    """Return the plan of the choosers: at most k options each, of sum `mass`.

    Parameters
    ----------
    gates : array of shape (..., choosers, options)
        Minus the costs.
    potentials : array of float64, of shape (..., options)
        Potentials of the options.
    k : int
        Cap, at most the number of options.
    mass : float
        Mass of a chooser.
    gamma : float
        Strength of the quadratic term, positive.

    Returns
    -------
    Choice
        The maximisers of ``scores't - gamma/2 |t|^2``, ``scores = gates + potentials``.
    """
    xp = namespace(gates)
    scores = gates + xp.astype(potentials, gates.dtype)[..., None, :]
    best = largest(scores, k)
    v = xp.astype(xp.take_along_axis(scores, best, axis=-1), xp.float64)
    top = v[..., :1]
    ranks = xp.astype(xp.arange(1, k + 1, device=device(gates)), xp.float64)
    trials = (xp.cumulative_sum(v - top, axis=-1) - gamma * mass) / ranks
    used = xp.sum(xp.astype(v - top > trials, xp.int64), axis=-1, keepdims=True)
    used = xp.where(used > 0, used, xp.ones_like(used))
    tau = xp.take_along_axis(trials, used - 1, axis=-1)
    chosen = xp.arange(k, device=device(gates)) < used
    values = xp.where(chosen, v - top - tau, xp.zeros_like(v)) / gamma
    psi = xp.sum((top + tau)[..., 0] * mass + 0.5 * gamma * xp.sum(values**2, axis=-1), axis=-1)
    # The same entries by increasing index, unused ones last.
    far = xp.where(chosen, best, best + gates.shape[-1])
    order = xp.argsort(far, axis=-1, stable=True)
    indices = xp.take_along_axis(xp.where(chosen, best, -xp.ones_like(best)), order, axis=-1)
    values = xp.take_along_axis(values, order, axis=-1)
    spread = xp.argsort(xp.argsort(-scores, axis=-1, stable=True), axis=-1) < used
    wide = xp.astype(scores, xp.float64) - top - tau
    sums = xp.sum(xp.where(spread, wide, xp.zeros_like(wide)), axis=-2) / gamma
    return Choice(indices, xp.astype(values, gates.dtype), sums, psi, potentials)


def adam_step(
    potentials: Any, moments: tuple[Any, Any], gradient: Any, step: int, rate: float
) -> tuple[Any, tuple[Any, Any]]:
    """Do one ascent step of Adam.

    Parameters
    ----------
    potentials : array of float64
        Where to step from.
    moments : tuple of array
        Averages of gradients and of their squares.
    gradient : array of float64
        Supergradient.
    step : int
        Number of this step, from 1.
    rate : float
        Size of a step.

    Returns
    -------
    array, tuple of array
        New potentials and moments.
    """
    xp = namespace(potentials)
    first = DECAYS[0] * moments[0] + (1.0 - DECAYS[0]) * gradient
    second = DECAYS[1] * moments[1] + (1.0 - DECAYS[1]) * gradient**2
    size = xp.sqrt(second / (1.0 - DECAYS[1] ** step)) + FLOOR
    return potentials + rate * (first / (1.0 - DECAYS[0] ** step)) / size, (first, second)


def choose(
    gates: Any, potentials: Any, k: int, mass: float, gamma: float, n_iter: int, rate: float
) -> Choice:
    """Raise the semi-dual by Adam, and return the choice at the last potentials.

    Parameters
    ----------
    gates : array of shape (..., choosers, options)
        Minus the costs.
    potentials : array of float64, of shape (..., options)
        Start.
    k : int
        Cap, at most the number of options.
    mass : float
        Mass of a chooser; options share the total evenly.
    gamma : float
        Strength of the quadratic term, positive.
    n_iter : int
        Steps.
    rate : float
        Size of a step.

    Returns
    -------
    Choice
        At the last potentials.
    """
    xp = namespace(gates)
    share = mass * gates.shape[-2] / gates.shape[-1]
    moments = (xp.zeros_like(potentials), xp.zeros_like(potentials))
    for step in range(1, n_iter + 1):
        gradient = share - evaluate(gates, potentials, k, mass, gamma).sums
        potentials, moments = adam_step(potentials, moments, gradient, step, rate)
    return evaluate(gates, potentials, k, mass, gamma)


def places_in_queue(experts: Any, order: Any, n_experts: int) -> Any:
    """Return how many come before each request at the same expert.

    Parameters
    ----------
    experts : array of int64, of shape (..., tokens, k)
        Requests of the tokens, the first choice first; -1: none.
    order : array of int64, of shape (..., tokens)
        Tokens in the order in which they are served. First choices of all come before second
        ones.
    n_experts : int
        Number of experts.

    Returns
    -------
    array of int64, of shape (..., tokens, k)
        Places, from 0; meaningless where there is no request.
    """
    xp = namespace(experts)
    k = experts.shape[-1]
    kinds = xp.arange(n_experts, dtype=experts.dtype, device=device(experts))
    before = xp.zeros(
        (*experts.shape[:-2], 1, n_experts), dtype=experts.dtype, device=device(experts)
    )
    back = xp.argsort(order, axis=-1)
    places = []
    for rank in range(k):
        asked = xp.take_along_axis(experts[..., rank], order, axis=-1)[..., None] == kinds
        asked = xp.astype(asked, experts.dtype)
        counted = xp.cumulative_sum(asked, axis=-2) - asked + before
        place = xp.sum(counted * asked, axis=-1)
        places.append(xp.take_along_axis(place, back, axis=-1))
        before = before + xp.sum(asked, axis=-2, keepdims=True)
    return xp.stack(places, axis=-1)


def sinkhorn(gates: Any, reg: float, n_iter: int) -> Any:
    """Return the logarithm of the balanced entropic plan, tokens of mass 1.

    Parameters
    ----------
    gates : array of shape (..., tokens, experts)
        Minus the costs.
    reg : float
        Strength of the entropy, positive.
    n_iter : int
        Sweeps. Sums of tokens are exact after each, those of experts approach their share.

    Returns
    -------
    array of shape (..., tokens, experts)
        Logarithm of the plan.
    """
    xp = namespace(gates)
    plan = gates / reg
    share = math.log(gates.shape[-2] / gates.shape[-1])
    plan = plan - _log_sum(plan, -1, xp)
    for _ in range(n_iter):
        plan = plan - _log_sum(plan, -2, xp) + share
        plan = plan - _log_sum(plan, -1, xp)
    return plan


def _log_sum(x: Any, axis: int, xp: Any) -> Any:
    top = xp.max(x, axis=axis, keepdims=True)
    return top + xp.log(xp.sum(xp.exp(x - top), axis=axis, keepdims=True))
