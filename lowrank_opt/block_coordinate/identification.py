"""Active sets: which variables stay at a kink of the penalty, and after how many iterations.

A variable is at a kink where the subdifferential of its penalty is an interval [l, u]: at 0 for
absolute values, at a bound for boxes. At a solution minus the derivative g lies in it; how far
inside, the margin, decides how near the solution descent methods must come until the variable
lands on its kink exactly, and stays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.block_coordinate.block_penalty import BlockPenalty
from lowrank_opt.core.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ActiveSet",
    "active_set",
    "descent_identification",
    "identification_radius",
    "prox_gradient_identification",
]


class ActiveSet(NamedTuple):
    """What is known about the kinks at a point.

    Parameters
    ----------
    at_kink : ndarray of bool, of the shape of the point
        Which variables are at one.
    n_free : int
        Number of those that are not: the size of the blocks with which second-order updates of
        variable blocks converge superlinearly.
    margin : float
        Smallest distance of minus a derivative to an end of its interval; negative at a point that
        is no solution. Infinite without kinks.
    """

    at_kink: NDArray[Any]
    n_free: int
    margin: float

    @property
    def degenerate(self) -> bool:
        """Whether some variable could leave its kink at no cost: identification may fail."""
        return not self.margin > 0.0


def active_set(problem: Any, x: Any) -> ActiveSet:
    """Return which variables are at a kink, and by what margin they stay there.

    Parameters
    ----------
    problem : CompositeProblem
        The problem.
    x : array-like
        A solution, to good accuracy.

    Returns
    -------
    ActiveSet
        Kinks and margin. The variables of a group are at a kink together, at 0.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem
    >>> from lowrank_opt.block_coordinate import active_set
    >>> from lowrank_opt.numerics import L1
    >>> problem = CompositeProblem(GLMProblem(np.eye(2), [3.0, 0.25]), L1(1.0))
    >>> found = active_set(problem, np.array([2.0, 0.0]))
    >>> found.at_kink, found.n_free, found.margin
    (array([False,  True]), 1, 0.75)
    """
    penalty, smooth = BlockPenalty(problem), problem.smooth
    flat = problem.flat(x)
    g = smooth.gradient_at(smooth.start(flat), flat)
    everything = np.arange(flat.size)
    if penalty.separable:
        low, high = penalty.slopes(everything, flat)
        at_kink = low < high
        margins = np.minimum(-g - low, high + g)[at_kink]
    else:
        at_kink, margins = _groups(penalty, flat, g)
    margin = float(margins.min(initial=np.inf))
    return ActiveSet(at_kink.reshape(problem.x_shape), int(np.sum(~at_kink)), margin)


def _groups(penalty: Any, x: NDArray[Any], g: NDArray[Any]) -> tuple[Any, Any]:
    n, groups = penalty.n_penalized, penalty.groups
    count = int(groups.max()) + 1
    outward = np.minimum(g[:n], 0.0) if penalty.penalty.positive else g[:n]
    empty = np.bincount(groups, np.abs(x[:n]), minlength=count) == 0
    norms = np.sqrt(np.bincount(groups, outward**2, minlength=count))
    at_kink = np.zeros(x.size, bool)
    kinked = empty & (penalty.weights > 0)
    at_kink[:n] = kinked[groups]
    return at_kink, (penalty.weights - norms)[kinked]


def identification_radius(margin: float, lipschitz: float) -> float:
    """Return how near the solution a proximal gradient step puts every variable on its kink.

    Parameters
    ----------
    margin : float
        See :class:`ActiveSet`; positive.
    lipschitz : float
        The step is one over it; at least the Lipschitz constant of the gradient.

    Returns
    -------
    float
        ``margin / (2 lipschitz)``. Within this distance the argument of the proximal operator is
        off by less than the margin: half by the point, half by its derivative.
    """
    _positive(margin=margin, lipschitz=lipschitz)
    return margin / (2.0 * lipschitz)


def prox_gradient_identification(
    lipschitz: float, mu: float, distance: float, margin: float
) -> int:
    """Bound the iterations until proximal gradient steps have found the active set.

    Parameters
    ----------
    lipschitz, mu : float
        Lipschitz constant of the gradient, and constant of strong convexity.
    distance : float
        From the start to the solution.
    margin : float
        See :class:`ActiveSet`.

    Returns
    -------
    int
        ``lipschitz / mu * log(2 lipschitz distance / margin)``, rounded up.
    """
    _positive(lipschitz=lipschitz, mu=mu, margin=margin)
    ratio = 2.0 * lipschitz * distance / margin
    return math.ceil(lipschitz / mu * math.log(ratio)) if ratio > 1.0 else 0


def descent_identification(
    lipschitz: float, mu: float, gap: float, margin: float, rate: float, *, n_blocks: int,
    order: str = "cyclic", failure: float = 0.05,
) -> int:  # fmt: skip
    """Bound the iterations until block coordinate descent has found the active set.

    Parameters
    ----------
    lipschitz, mu : float
        Lipschitz constant of the gradient, and constant of strong convexity.
    gap : float
        Objective at the start above the optimal value.
    margin : float
        See :class:`ActiveSet`.
    rate : float
        Factor by which an iteration reduces the distance to the optimal value, in [0, 1).
    n_blocks : int
        Number of blocks.
    order : {"cyclic", "random"}, default="cyclic"
        Whether blocks come in turn, or at random with equal probabilities.
    failure : float, default=0.05
        Probability that the bound fails, for "random".

    Returns
    -------
    int
        Iterations until the point is, and stays, within :func:`identification_radius`, and then
        until every block has been updated.
    """
    _positive(lipschitz=lipschitz, mu=mu, margin=margin)
    if not 0.0 <= rate < 1.0:
        raise ParameterError(f"descent_identification: rate={rate!r} must be in [0, 1)")
    if order not in ("cyclic", "random"):
        raise ParameterError(
            f"descent_identification: order={order!r} must be 'cyclic' or 'random'"
        )
    ratio = 8.0 * lipschitz**2 * gap / (mu * margin**2)
    near = math.log(ratio) / (1.0 - rate) if ratio > 1.0 else 0.0
    rest = n_blocks if order == "cyclic" else n_blocks * math.log(n_blocks / failure)
    return math.ceil(near) + math.ceil(rest)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0.0:
            raise ParameterError(f"{name}={value!r} must be above 0")
