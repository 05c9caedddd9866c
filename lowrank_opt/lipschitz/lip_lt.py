"""LipLT: a bound from norms of products of layers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.lipschitz.bound_solver import BoundSolver
from lowrank_opt.lipschitz.eclipse_stages import top_eigenvalue
from lowrank_opt.lipschitz.engine import EngineState
from lowrank_opt.lipschitz.forms import Chain

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.canonical import Part
    from lowrank_opt.lipschitz.problem import LipschitzProblem

__all__ = ["LipLT", "LipLTState", "advance", "start"]


@dataclass
class LipLTState(EngineState):
    """The recursion under way.

    Parameters
    ----------
    grown : list of float
        Bounds of the growth up to each layer.
    products : list of ndarray
        Products of the layers up to now, the first from the input.
    """

    multipliers: tuple[Any, ...] | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"norms": 0})
    grown: list[float] = field(default_factory=list)
    products: list[Any] = field(default_factory=list)


def start(form: Chain, *, tol: float, multipliers: Any = None, dual: Any = None) -> LipLTState:
    """Begin the recursion with the first layer's norm.

    Parameters
    ----------
    form : Chain
        The network.
    tol : float
        Not used: there is nothing to approximate.
    multipliers : tuple or None, default=None
        That of an earlier run, which was complete: all layers are done at once.
    dual : None
        Not used.

    Returns
    -------
    LipLTState
        The state.
    """
    state = LipLTState()
    first = form.weights[0]
    state.products = [first]
    state.grown = [_norm(first, state)]
    _end(form, state)
    while multipliers is not None and not state.done:
        advance(form, state)
    return state


def advance(form: Chain, state: LipLTState) -> None:
    """Go on by one layer, in place.

    Parameters
    ----------
    form : Chain
        The network.
    state : LipLTState
        The recursion.
    """
    state.nit += 1
    W, a = form.weights[len(state.grown)], form.alpha[len(state.grown) - 1]
    mean, half = 0.5 * (1.0 + a), 0.5 * (1.0 - a)
    state.products = [W @ (mean[:, None] * P) for P in state.products]
    state.products.append(W * half)
    factors = [1.0, *state.grown]
    rough = [float(np.linalg.norm(P)) * m for P, m in zip(state.products, factors, strict=True)]
    total = 0.0
    for k in np.argsort(rough)[::-1]:
        exact = rough[k] > 1e-15 * total
        total += _norm(state.products[k], state) * factors[k] if exact else rough[k]
    state.grown.append(total)
    _end(form, state)


def _end(form: Chain, state: LipLTState) -> None:
    if len(state.grown) == len(form.weights):
        state.upper, state.multipliers = state.grown[-1], ()
        state.done, state.products = "converged", []


def _norm(P: NDArray[np.float64], state: LipLTState) -> float:
    state.counts["norms"] += 1
    return float(np.sqrt(top_eigenvalue(P @ P.T if P.shape[0] <= P.shape[1] else P.T @ P)))


class LipLT(BoundSolver):
    r"""Lipschitz bound by the LipLT recursion: norms of products of layers, no optimisation.

    An activation with slopes between :math:`\alpha` and :math:`\beta` is its mean slope c times
    the identity and a remainder of slope at most :math:`\eta = (\beta - \alpha) / 2`. So with
    :math:`m_1 = \|W_1\|`

    .. math:: m_{k+1} = c^k \|W_{k+1} \cdots W_1\|
        + \eta \sum_{j \le k} c^{k-j} \|W_{k+1} \cdots W_{j+1}\| m_j

    bounds the network up to layer k + 1 [1]_. For slopes between 0 and 1 it equals the average
    over all sets of cuts of the products of norms between cuts [2]_. Never above the product of
    norms, never below :class:`LipSDP`. Slopes of each neuron are inside the norms.

    Parameters
    ----------
    tol : float, default=1e-6
        Not used: there is nothing to approximate.
    max_iter : int, default=100000
        Limit on layers; before the last one the bound is the product of norms.
    max_time : float or None, default=None
        Limit on seconds.
    n_threads : int or None, default=None
        Limit on the threads of BLAS.

    See Also
    --------
    ECLipsE : Tighter at little more cost for deep networks.
    NormProduct : Looser, for any network.

    Notes
    -----
    For feed-forward networks with element-wise activations and the norm "l2".
    Cost: L² / 2 products and norms of matrices of a layer's size.
    Guarantee: ``Result.fun`` is an upper bound, rounding included.

    References
    ----------
    .. [1] M. Fazlyab, T. Entesari, A. Roy, R. Chellappa, "Certified robustness via dynamic margin
       maximization and improved Lipschitz regularization", NeurIPS 2023. :arxiv:`2310.00116`
    .. [2] P. L. Combettes, J.-C. Pesquet, "Lipschitz certificates for layered network structures
       driven by averaged activation operators", SIAM J. Math. Data Sci. 2, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import LipLT, LipschitzProblem
    >>> problem = LipschitzProblem([np.array([[1.0], [1.0]]), np.array([[1.0, -1.0]])])
    >>> print(f"{LipLT().solve(problem).fun:.6f}")
    1.000000
    """

    citation = (
        "@inproceedings{fazlyab2023certified, title={Certified robustness via dynamic margin "
        "maximization and improved Lipschitz regularization}, author={Fazlyab, Mahyar and "
        "Entesari, Taha and Roy, Aniket and Chellappa, Rama}, booktitle={NeurIPS}, year={2023}}"
    )
    proof_kind = "lip_lt"
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

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Feed-forward networks with element-wise activations, in the Euclidean norm."""
        return chain_needs(problem)

    def engine(self, problem: LipschitzProblem, part: Part) -> tuple[ModuleType, dict[str, Any]]:
        """Return this module."""
        return sys.modules[__name__], {}

    def method_name(self, problem: LipschitzProblem, part: Part) -> str:
        """Return the name of the recursion."""
        return "LipLT"


def chain_needs(problem: LipschitzProblem) -> list[str]:
    """Return what a problem lacks for methods that work on chains.

    Parameters
    ----------
    problem : LipschitzProblem
        The problem.
    """
    if problem.family != "slopes":
        return ["a feed-forward network with element-wise activations"]
    if problem.norm != "l2":
        return ["norm='l2' (LipSDP and NormProduct know the others)"]
    if not isinstance(problem.part(0).form, Chain):
        return ["neurons none of which is affine (LipSDP eliminates those)"]
    return []
