"""The forms in which networks reach the solvers: what a bound depends on, and nothing else.

Biases are gone, affine layers are merged, layers are scaled to norm one, dead neurons are deleted
and wide inputs are compressed (see :mod:`lowrank_opt.lipschitz.canonical`). A bound for the form,
times its `scale`, is a bound for the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

__all__ = ["Chain", "Form", "Group", "GroupChain", "LowRankLMI"]


@dataclass(frozen=True, eq=False)
class Chain:
    """Feed-forward network with slope-restricted activations, for the norm l2 → l2.

    Every product W_L D_{L-1} W_{L-1} … D_1 W_1 with diagonal D_i whose entries lie between
    ``alpha[i-1]`` and 1 is possible; a bound holds for all of them.

    Parameters
    ----------
    weights : tuple of ndarray of shape (n_i, n_{i-1})
        W_1, …, W_L in float64, C order, of spectral norm about one, L >= 1; n_0 <= n_1 if L > 1.
        No row of a hidden layer and no column that reads one is zero.
    alpha : tuple of ndarray of shape (n_i,)
        Smallest slope of each neuron of the hidden layers 1, …, L-1, in [-1, 1); the largest is
        one.
    scale : float
        Factor between this form and the network, rounded up.
    """

    weights: tuple[NDArray[np.float64], ...]
    alpha: tuple[NDArray[np.float64], ...]
    scale: float = 1.0

    @property
    def widths(self) -> tuple[int, ...]:
        """n_0, n_1, …, n_{L-1}: inputs and hidden layers."""
        return tuple(W.shape[1] for W in self.weights)

    @property
    def n_hidden(self) -> int:
        """Number of hidden neurons N."""
        return sum(self.widths[1:])


@dataclass(frozen=True, eq=False)
class Group:
    """Groups of neurons of one hidden layer that an activation rearranges.

    Parameters
    ----------
    size : int
        Neurons in a group; the layer's width is a multiple of it.
    direction : ndarray of shape (n_groups, size) or None
        ``None``: GroupSort, which keeps the sum over each group. Otherwise Householder with these
        unit vectors v, which keeps the part orthogonal to v.
    """

    size: int
    direction: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class GroupChain:
    """Feed-forward network whose activations all sort or reflect groups of neurons.

    Parameters
    ----------
    weights : tuple of ndarray of shape (n_i, n_{i-1})
        W_1, …, W_L, of spectral norm about one.
    groups : tuple of Group
        Of the hidden layers 1, …, L-1.
    norm : {"l2", "linf"}
        "linf": inputs are measured by their largest entry and W_L has one row.
    scale : float
        Factor between this form and the network, rounded up.
    """

    weights: tuple[NDArray[np.float64], ...]
    groups: tuple[Group, ...]
    norm: str = "l2"
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class LowRankLMI:
    r"""Any other network: one dense linear matrix inequality with terms of rank two.

    .. math:: \min \rho \quad \text{s.t.} \quad \rho E + \sum_k y_k A_k - C \succeq 0, \quad
        y_k \ge 0 \text{ unless free}, \qquad
        A_k = \sum_m M_{mk} (p_m q_m^\top + q_m p_m^\top) .

    Variables of the matrix are increments of inputs and neurons; with an input norm "linf" the
    last variable is the border 1.

    Parameters
    ----------
    E : ndarray of shape (d,)
        Diagonal of E: one on the inputs ("l2"), two on the border ("linf").
    P, Q : ndarray of shape (d, m)
        Columns p_m and q_m.
    M : csr_array of shape (m, k)
        Which pairs belong to which multiplier.
    free : ndarray of bool of shape (k,)
        Multipliers of any sign.
    C : ndarray of shape (d, d)
        GᵀG with the output map G ("l2"), or -(w eᵀ + e wᵀ) with the border e ("linf").
    norm : {"l2", "linf"}
        The bound is sqrt(ρ) for "l2" and ρ for "linf".
    scale : float
        Factor between this form and the network, rounded up.
    """

    E: NDArray[np.float64]
    P: NDArray[np.float64]
    Q: NDArray[np.float64]
    M: sp.csr_array
    free: NDArray[np.bool_]
    C: NDArray[np.float64]
    norm: str = "l2"
    scale: float = 1.0


Form: TypeAlias = Chain | GroupChain | LowRankLMI
