"""LipSDP with quadratic constraints for GroupSort, MaxMin and Householder activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import StrOptions
from lowrank_opt.lipschitz.bound_solver import BoundSolver
from lowrank_opt.lipschitz.canonical import coupled_form
from lowrank_opt.lipschitz.forms import GroupChain

if TYPE_CHECKING:
    from types import ModuleType

    from lowrank_opt.lipschitz.canonical import Part
    from lowrank_opt.lipschitz.forms import Form
    from lowrank_opt.lipschitz.problem import LipschitzProblem

__all__ = ["LipSDPGroupSort"]

# Flops of an iteration, about 40 n³ for each layer, up to which interior points are chosen.
_LARGEST_INTERIOR_POINT = 3e11


class LipSDPGroupSort(BoundSolver):
    r"""Lipschitz bound of networks with GroupSort, MaxMin or Householder activations.

    Solves, with one pair of multipliers for each group,

    .. math:: \min \rho \quad\text{s.t.}\quad T_{i-1} - W_i^\top T_i W_i \succeq 0,\quad
        i = 1, …, L,\qquad T_i = \operatorname{blkdiag}_g(\lambda_g I + \gamma_g E_g),

    with :math:`\lambda_g \ge 0`, free :math:`\gamma_g`, :math:`T_0 = \rho I`,
    :math:`T_L = I` and bound :math:`\sqrt\rho` for the norm "l2" [1]_. E is :math:`11^\top` for
    GroupSort and :math:`I - vv^\top` for Householder: the part that the activation keeps. For
    "linf", :math:`T_0 = \operatorname{diag}(\mu)` and the last inequality is bordered. The
    optimum is the smallest weighted product of norms
    :math:`\prod_i \|T_i^{1/2} W_i T_{i-1}^{-1/2}\|`, so the bound is never above the product of
    norms. Networks that also have element-wise activations are for :class:`LipSDP`.

    Parameters
    ----------
    structure : {"separate", "coupled"}, default="separate"
        ``"separate"``: the published program above, whose inequalities are one for each layer.
        ``"coupled"``: one inequality for the whole network, with what the activation keeps
        substituted (the sum of a group, or its part orthogonal to v, is the same before and after
        it) and one multiplier for each group. Never looser, on random MaxMin networks 0.2 to 0.8
        of the published bound, and much more work: O(d³) for an iteration with d variables, one
        for each input and about one for every two neurons of a MaxMin network.
    method : str, default="auto"
        One of "auto", "interior_point", "first_order", "clarabel", "scs", "mosek" and "sdpa".
        ``"interior_point"``: the primal-dual method of this library, whose cost is linear in
        depth. ``"first_order"``: descent over weighted products, for networks with layers of
        thousands of neurons; proves gaps of about 1e-2 to 1e-4. The others call a conic solver,
        as a check. ``"auto"``: interior point up to 3·10¹¹ flops for an iteration (seven layers of
        1000 neurons, say), then first order.
    each_output : bool, default=False
        For the norms "linf" and "l1": bring the bound of every output (input) to `tol`, for
        ``Result.per_output``, instead of only the largest.
    tol : float, default=1e-6
        Relative gap of the bound: ``1 - lower / upper``, with the dual value of the program as
        lower bound.
    max_iter : int, default=2000
        Limit on iterations, over all parts; interior points take 8 to 20 for each.
    max_time : float or None, default=None
        Limit on seconds.
    n_threads : int or None, default=None
        Limit on the threads of BLAS; layers of up to 1000 neurons use one.

    See Also
    --------
    lipschitz_bound : Chooses the method.
    LipSDP : Element-wise activations, and mixed networks.

    Notes
    -----
    Cost of an interior point iteration: about 20 products of n × n matrices for each layer of
    width n, and the Cholesky factorisation of a block tridiagonal matrix. Guarantee:
    ``Result.fun`` is an upper bound of the Lipschitz constant, rounding included, at whatever
    point the run ends.

    References
    ----------
    .. [1] P. Pauli, A. Havens, A. Araujo, S. Garg, F. Khorrami, F. Allgöwer, B. Hu, "Novel
       quadratic constraints for extending LipSDP beyond slope-restricted activations", ICLR 2024.
       :arxiv:`2401.14033`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import LipSDPGroupSort, LipschitzProblem
    >>> problem = LipschitzProblem([np.eye(2), np.eye(2)], activation="maxmin")
    >>> result = LipSDPGroupSort().solve(problem)
    >>> print(f"{result.fun:.6f}, certified: {result.certified}")
    1.000000, certified: True
    """

    citation = (
        "@inproceedings{pauli2024novel, title={Novel quadratic constraints for extending LipSDP "
        "beyond slope-restricted activations}, author={Pauli, Patricia and Havens, Aaron and "
        'Araujo, Alexandre and Garg, Siddharth and Khorrami, Farshad and Allg{\\"o}wer, Frank '
        "and Hu, Bin}, booktitle={ICLR}, year={2024}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "structure": [StrOptions({"separate", "coupled"})],
        "method": [
            StrOptions(
                {"auto", "interior_point", "first_order", "clarabel", "scs", "mosek", "sdpa"}
            )
        ],
        "each_output": ["boolean"],
    }

    def __init__(
        self,
        *,
        structure: str = "separate",
        method: str = "auto",
        each_output: bool = False,
        tol: float = 1e-6,
        max_iter: int = 2000,
        max_time: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.structure = structure
        self.method = method
        self.each_output = each_output
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.n_threads = n_threads

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Only networks whose activations all act on groups."""
        if problem.family != "groups":
            return ["activations that all act on groups (LipSDP is for any)"]
        return []

    def check(self, problem: Any) -> None:
        """Raise also for a method that does not solve the coupled program."""
        super().check(problem)
        if self.structure == "coupled" and self.method == "first_order":
            raise ParameterError(
                "LipSDPGroupSort: method='first_order' solves structure='separate' only; use "
                "method='interior_point' (or 'auto')"
            )

    @property
    def proof_kind(self) -> str:
        """Which program the multipliers belong to."""
        return "coupled_multipliers" if self.structure == "coupled" else "multipliers"

    def form(self, part: Part) -> Form:
        """Return the form that the engine works on."""
        if self.structure == "coupled" and isinstance(part.form, GroupChain):
            return coupled_form(part.form)
        return part.form

    def chosen(self, part: Part) -> str:
        """Return the method for a part.

        Parameters
        ----------
        part : Part
            Part of a problem.
        """
        if self.method != "auto" or not isinstance(part.form, GroupChain):
            return self.method
        if self.structure == "coupled":
            return "interior_point"
        flops = sum(40.0 * W.shape[1] ** 3 for W in part.form.weights)
        return "interior_point" if flops <= _LARGEST_INTERIOR_POINT else "first_order"

    def engine(self, problem: LipschitzProblem, part: Part) -> tuple[ModuleType, dict[str, Any]]:
        """Return the engine for a part and its options."""
        from lowrank_opt.lipschitz import group_conic, group_first_order, group_interior_point

        if not isinstance(part.form, GroupChain):  # a zero network
            from lowrank_opt.lipschitz import chain_interior_point

            return chain_interior_point, {}
        method = self.chosen(part)
        if self.structure == "coupled":
            from lowrank_opt.lipschitz import conic, lmi_interior_point

            if method == "interior_point":
                return lmi_interior_point, {}
            return conic, {"solver": method}
        if method == "interior_point":
            return group_interior_point, {}
        if method == "first_order":
            return group_first_order, {}
        return group_conic, {"solver": method}

    def method_name(self, problem: LipschitzProblem, part: Part) -> str:
        """Return what `Result.method` says."""
        kind = "coupled " if self.structure == "coupled" else ""
        return f"LipSDP with {kind}group constraints, {self.chosen(part).replace('_', ' ')}"
