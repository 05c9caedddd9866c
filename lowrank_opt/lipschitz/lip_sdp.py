"""LipSDP: the semidefinite bound of networks with slope-restricted activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import StrOptions
from lowrank_opt.lipschitz.bound_solver import BoundSolver
from lowrank_opt.lipschitz.forms import Chain

if TYPE_CHECKING:
    from types import ModuleType

    from lowrank_opt.lipschitz.canonical import Part
    from lowrank_opt.lipschitz.problem import LipschitzProblem

__all__ = ["LipSDP"]

# Hidden neurons up to which the interior point method is chosen; its memory grows like 10 d².
LARGEST_INTERIOR_POINT = 4500

_INVALID = (
    "structure={value!r} is not a bound: multipliers that couple neurons use a property of "
    "repeated nonlinearities that does not hold for differences of inputs. For "
    "f(x) = relu(x) - relu(x - 1), whose Lipschitz constant is 1, they give 0 (Pauli, Koch, "
    "Berberich, Kohler, Allgower, 2021). Use structure='neuron', the tightest valid one"
)
_COUPLED = ("network", "network-rand", "network-dec-vars")


class LipSDP(BoundSolver):
    r"""Lipschitz bound by semidefinite programming (LipSDP), with a gap proved on both sides.

    Solves, for networks whose activations have slopes between :math:`\alpha_j` and
    :math:`\beta_j`,

    .. math:: \min_{\rho, \lambda \ge 0} \rho \quad \text{s.t.} \quad
        \rho E + \sum_j \lambda_j (p_j q_j^\top + q_j p_j^\top) - W_L^\top W_L \succeq 0,
        \qquad L = \sqrt\rho,

    with :math:`p_j = e_j - \alpha_j w_j`, :math:`q_j = e_j - \beta_j w_j` and the weights
    :math:`w_j` of neuron j [1]_. Choose it whenever the network has up to some thousand neurons;
    :class:`ECLipsE` is much cheaper and looser, :class:`LipSDPGroupSort` is for sorting
    activations. Residual, implicit and mixed networks, local regions and the norms "linf" and
    "l1" are solved as dense matrix inequalities of the same kind.

    Parameters
    ----------
    structure : {"neuron", "layer"}, default="neuron"
        One multiplier for each neuron, or one for each layer (looser, cheaper). The published
        "network" structure is not a bound and is refused.
    method : str, default="auto"
        One of "auto", "interior_point", "first_order", "clarabel", "scs", "mosek" and "sdpa".
        ``"interior_point"``: the primal-dual method of this library, which uses that every
        constraint matrix has rank two and, for feed-forward networks, that the matrix is block
        tridiagonal. ``"first_order"``: descent over multipliers that are always feasible; proves
        no gap. The others call a conic solver, as a check. ``"auto"``: interior point up to 4500
        hidden neurons, then first order.
    chordal : bool, default=True
        For the conic solvers: one small inequality for each layer instead of a large one.
    each_output : bool, default=False
        For the norms "linf" and "l1": bring the bound of every output (input) to `tol`, for
        ``Result.per_output``, instead of only the largest.
    tol : float, default=1e-6
        Relative gap of the bound: ``1 - lower / upper``, with the dual value of the program as
        lower bound. For ``"first_order"``: relative decrease at which it stops.
    max_iter : int, default=2000
        Limit on iterations, over all parts; interior points take 8 to 20 for each.
    max_time : float or None, default=None
        Limit on seconds.
    n_threads : int or None, default=None
        Threads of BLAS; ``None``: one. More pay for layers of several hundred neurons on a
        machine that is not busy; on a busy one they are many times as slow.

    Raises
    ------
    ParameterError
        ``structure="network"`` and its variants, which are no bounds.
    SolverNotAvailable
        A conic solver that is not installed.

    See Also
    --------
    lipschitz_bound : Chooses the method.
    ECLipsE : Layer by layer, for very deep or wide networks.

    Notes
    -----
    Cost of an interior point iteration with N hidden neurons, d = N + n_0 variables and layers
    of width n: N³/3 + O(d² n) flops; 8 to 20 iterations. Memory: about 10 arrays of d² numbers.
    Guarantee: ``Result.fun`` is an upper bound of the Lipschitz constant, rounding included, at
    whatever point the run ends.

    References
    ----------
    .. [1] M. Fazlyab, A. Robey, H. Hassani, M. Morari, G. J. Pappas, "Efficient and accurate
       estimation of Lipschitz constants for deep neural networks", NeurIPS 2019.
       :arxiv:`1906.04893`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import LipSDP, LipschitzProblem
    >>> rng = np.random.default_rng(0)
    >>> widths = [4, 10, 1]
    >>> weights = [rng.standard_normal((n, m)) / m**0.5 for m, n in zip(widths, widths[1:])]
    >>> result = LipSDP().solve(LipschitzProblem(weights))
    >>> print(f"{result.fun:.5f}, certified: {result.certified}")
    1.12017, certified: True
    """

    citation = (
        "@inproceedings{fazlyab2019lipsdp, title={Efficient and accurate estimation of Lipschitz "
        "constants for deep neural networks}, author={Fazlyab, Mahyar and Robey, Alexander and "
        "Hassani, Hamed and Morari, Manfred and Pappas, George J.}, booktitle={NeurIPS}, "
        "year={2019}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "structure": [StrOptions({"neuron", "layer"})],
        "method": [
            StrOptions(
                {"auto", "interior_point", "first_order", "clarabel", "scs", "mosek", "sdpa"}
            )
        ],
        "chordal": ["boolean"],
        "each_output": ["boolean"],
    }

    def __init__(
        self,
        *,
        structure: str = "neuron",
        method: str = "auto",
        chordal: bool = True,
        each_output: bool = False,
        tol: float = 1e-6,
        max_iter: int = 2000,
        max_time: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.structure = structure
        self.method = method
        self.chordal = chordal
        self.each_output = each_output
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.n_threads = n_threads

    def check(self, problem: Any) -> None:
        """Raise also for the multipliers that are no bounds."""
        if self.structure in _COUPLED:
            raise ParameterError(f"LipSDP: {_INVALID.format(value=self.structure)}")
        super().check(problem)
        if self.structure == "layer" and self.method not in ("auto", "interior_point"):
            raise ParameterError(
                f"LipSDP: structure='layer' is solved by method='interior_point' (or 'auto'), not "
                f"by {self.method!r}"
            )
        if self.structure == "layer" and problem.family != "slopes":
            raise ParameterError(
                "LipSDP: structure='layer' is for feed-forward networks with element-wise "
                "activations; use structure='neuron'"
            )

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Everything but networks whose activations all act on groups."""
        if problem.family == "groups":
            return ["element-wise activations (LipSDPGroupSort is for groups)"]
        return []

    def chosen(self, part: Part) -> str:
        """Return the method for a part.

        Parameters
        ----------
        part : Part
            Part of a problem.
        """
        if self.method != "auto":
            return self.method
        large = isinstance(part.form, Chain) and part.form.n_hidden > LARGEST_INTERIOR_POINT
        if large and self.structure == "neuron":
            return "first_order"
        return "interior_point"

    def engine(self, problem: LipschitzProblem, part: Part) -> tuple[ModuleType, dict[str, Any]]:
        """Return the engine for a part and its options."""
        form, method = part.form, self.chosen(part)
        if method == "interior_point" and isinstance(form, Chain):
            from lowrank_opt.lipschitz import chain_interior_point

            return chain_interior_point, {"structure": self.structure}
        if method == "first_order" and isinstance(form, Chain):
            from lowrank_opt.lipschitz import first_order

            return first_order, {}
        if method in ("interior_point", "first_order"):
            from lowrank_opt.lipschitz import lmi_interior_point

            return lmi_interior_point, {}
        from lowrank_opt.lipschitz import conic

        return conic, {"solver": method, "chordal": self.chordal}

    @property
    def proof_kind(self) -> str:
        """Which program the multipliers belong to."""
        return "layer_multipliers" if self.structure == "layer" else "multipliers"

    def method_name(self, problem: LipschitzProblem, part: Part) -> str:
        """Return the structure and the method."""
        return f"LipSDP-{self.structure.capitalize()}, {self.chosen(part).replace('_', ' ')}"
