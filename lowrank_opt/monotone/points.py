"""What the answers of saddle-point problems are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lowrank_opt.core.serialize import register_serializable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PrimalDual"]


class PrimalDual(NamedTuple):
    """A primal and a dual point: unpack it, ``x, y = result.x``.

    Parameters
    ----------
    x : ndarray of shape (n,)
        Primal variables; of a game, the mixed strategy of the player who minimises.
    y : ndarray of shape (m,)
        Dual variables, one a constraint; of a game, the strategy of the player who maximises.
    """

    x: NDArray[Any]
    y: NDArray[Any]


register_serializable(PrimalDual)
