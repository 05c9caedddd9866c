"""The product of the layers' norms: a bound that every network has."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.lipschitz.bound_solver import BoundSolver
from lowrank_opt.lipschitz.engine import EngineState

if TYPE_CHECKING:
    from types import ModuleType

    from lowrank_opt.lipschitz.canonical import Part
    from lowrank_opt.lipschitz.forms import Form
    from lowrank_opt.lipschitz.problem import LipschitzProblem
    from lowrank_opt.lipschitz.proofs import BoundProof

__all__ = ["NormProduct", "ProductState", "advance", "start"]


@dataclass
class ProductState(EngineState):
    """One iteration takes over the product that every part of a problem comes with.

    Parameters
    ----------
    product : float
        What `upper` will be.
    """

    multipliers: tuple[Any, ...] | None = None
    product: float = np.inf


def start(
    form: Form, *, tol: float, product: float, multipliers: Any = None, dual: Any = None
) -> ProductState:
    """Begin.

    Parameters
    ----------
    form : Form
        Not used: the product of norms belongs to the network before it takes that form.
    tol : float
        Not used.
    product : float
        The product, in units of the form without its scale.
    multipliers : tuple or None, default=None
        That of an earlier run: nothing is left to do.
    dual : None
        Not used.

    Returns
    -------
    ProductState
        The state.
    """
    state = ProductState(product=product)
    if multipliers is not None:
        advance(form, state)
        state.nit = 0
    return state


def advance(form: Form, state: ProductState) -> None:
    """Take over the product.

    Parameters
    ----------
    form : Form
        Not used.
    state : ProductState
        The state.
    """
    state.nit += 1
    state.upper, state.multipliers, state.done = state.product, (), "converged"


class NormProduct(BoundSolver):
    r"""Lipschitz bound :math:`\prod_i \|W_i\|`: the loosest, for any network, at once.

    Residual blocks count with the norm of the skip plus the product of their norms, implicit
    networks with a contraction (others have no product). Norms are proved upper bounds: spectral
    norms from an eigenvalue of the smaller Gram matrix that a Cholesky factorisation confirms, for
    "linf" and "l1" the largest sum of absolute values of a row or column.

    Parameters
    ----------
    tol : float, default=1e-6
        Not used: there is nothing to approximate.
    max_iter : int, default=100000
        Limit on parts of the problem, each of which takes one iteration.
    max_time : float or None, default=None
        Not used.
    n_threads : int or None, default=None
        Limit on the threads of BLAS.

    See Also
    --------
    LipLT : Tighter, for feed-forward networks.
    ECLipsE : Tighter still.

    Notes
    -----
    Cost: O(n³) flops for a layer of width n in the norm "l2", O(n²) in the others.
    Guarantee: ``Result.fun`` is an upper bound, rounding included.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import LipschitzProblem, NormProduct
    >>> problem = LipschitzProblem([np.array([[3.0], [4.0]]), np.array([[0.6, 0.8]])])
    >>> print(f"{NormProduct().solve(problem).fun:.6f}")
    5.000000
    """

    proof_kind = "product"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.n_threads = n_threads

    def engine(self, problem: LipschitzProblem, part: Part) -> tuple[ModuleType, dict[str, Any]]:
        """Return this module and the product, which rounding must not raise."""
        scale = part.form.scale
        product = part.product / scale * (1.0 - 1e-15) if scale > 0.0 else 0.0
        return sys.modules[__name__], {"product": product}

    def point(self, problem: Any, state: Any) -> BoundProof:
        """Return the products, also of the parts that are not the largest."""
        proof: BoundProof = super().point(problem, state)
        if state.current >= 0:
            return proof
        parts = tuple(replace(p, kind=self.proof_kind) for p in proof.parts)
        return replace(proof, kind=proof.kind if parts else self.proof_kind, parts=parts)

    def method_name(self, problem: LipschitzProblem, part: Part) -> str:
        """Return what the bound is."""
        return "product of norms"
