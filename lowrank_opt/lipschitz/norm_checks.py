"""Check of the bound that follows from norms of products of layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lowrank_opt.lipschitz.forms import Chain
from lowrank_opt.lipschitz.rigorous import UNIT, gamma, norm_upper

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Form

__all__ = ["lip_lt_bound"]

# Terms below this part of the sum may have their Frobenius norm.
_NEGLIGIBLE = 1e-15


def lip_lt_bound(form: Form) -> float:
    """Return the bound of the LipLT recursion, with all rounding errors added.

    With C = (1 + A) / 2 and E = (1 - A) / 2 an activation is C z + r with abs(r) <= E abs(z), entry
    by entry; so z_{k+1} grows by at most the norm of W_{k+1} C_k W_k ⋯ C_1 W_1 plus, for each
    layer j before, the norm of W_{k+1} C_k ⋯ W_{j+1} E_j times the growth of z_j.

    Parameters
    ----------
    form : Form
        The network.

    Returns
    -------
    float
        In units of the form without its scale; infinity for forms other than `Chain`.

    Notes
    -----
    Cost: L² / 2 products and norms of matrices of a layer's size.
    """
    if not isinstance(form, Chain):
        return math.inf
    weights = form.weights
    norms = [norm_upper(W) for W in weights]
    grown = [norms[0]]
    # Products, and bounds of their errors in the spectral norm.
    products: list[tuple[NDArray[np.float64], float]] = [(weights[0], 0.0)]
    for W, size, a in zip(weights[1:], norms[1:], form.alpha, strict=True):
        C, E = 0.5 * (1.0 + a), 0.5 * (1.0 - a)
        top = float(np.abs(C).max()) * (1.0 + 2.0 * UNIT)
        spread = float(np.linalg.norm(W)) * (1.0 + gamma(W.size + 2))
        rounding = gamma(W.shape[1] + 4)
        following = []
        for P, error in products:
            right = C[:, None] * P
            at_most = float(np.linalg.norm(right)) * (1.0 + gamma(right.size + 2))
            new = W @ right
            following.append((new, size * top * error * 1.0001 + rounding * spread * at_most))
        # C and E carry a rounding each; the product with E has one more.
        following.append((W * E, 4.0 * UNIT * spread))
        products = following
        grown.append(_sum_of_norms(products, grown))
    return grown[-1]


def _sum_of_norms(products: list[tuple[NDArray[np.float64], float]], grown: list[float]) -> float:
    """Return ‖P_0‖ + Σ ‖P_j‖ m_j, rounded up."""
    factors = [1.0, *grown]
    rough = [
        (float(np.linalg.norm(P)) * (1.0 + gamma(P.size + 2)) + error) * m
        for (P, error), m in zip(products, factors, strict=True)
    ]
    order = np.argsort(rough)[::-1]
    total = 0.0
    for k in order:
        P, error = products[k]
        term = rough[k]
        if term > _NEGLIGIBLE * total:
            term = min(term, (norm_upper(P) + error) * factors[k])
        total += term
    return total * (1.0 + gamma(4 * len(rough) + 8))
