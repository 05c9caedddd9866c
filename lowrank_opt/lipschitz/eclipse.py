"""ECLipsE: bounds of deep networks layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lowrank_opt.core.params import StrOptions
from lowrank_opt.lipschitz.bound_solver import BoundSolver
from lowrank_opt.lipschitz.lip_lt import chain_needs

if TYPE_CHECKING:
    from types import ModuleType

    from lowrank_opt.lipschitz.canonical import Part
    from lowrank_opt.lipschitz.problem import LipschitzProblem

__all__ = ["ECLipsE"]


class ECLipsE(BoundSolver):
    r"""Lipschitz bound layer by layer: the multipliers of one layer, those before it fixed.

    Goes through the network once, with the matrix

    .. math:: X_i = 2 \Lambda_i - (1 + A_i) \Lambda_i (Y_i^{-1} + 2 A_i \Lambda_i)^{-1}
        \Lambda_i (1 + A_i), \qquad Y_i = W_i X_{i-1}^{-1} W_i^\top, \quad X_0 = I,

    where A has the smallest slopes and the largest are one, and bounds the constant by
    :math:`\lambda_{\max}(W_L X_{L-1}^{-1} W_L^\top)^{1/2}` [1]_. The cost is linear in the depth.
    Choose it for networks that are too deep and wide for :class:`LipSDP`, whose bound is never
    above this one.

    Parameters
    ----------
    mode : {"fast", "sdp", "best"}, default="fast"
        ``"fast"``: the multipliers :math:`\lambda_j = (1 - a_j)^{-2} / \lambda_{\max}(Y_i)`, in
        closed form; never above the product of norms when slopes start at zero. ``"sdp"``: also
        those that are best for the next layer, by a semidefinite program with as many unknowns as
        the layer has neurons; exact for one hidden layer. ``"best"``: also the best of several
        closed forms in each layer, each with its best factor; on deep random networks that is
        tighter than the programs, which look one layer ahead only. The smallest bound counts.
    tol : float, default=1e-6
        Relative gap of the programs, at most 1e-7. Nothing is said about how far the bound is
        from that of LipSDP.
    max_iter : int, default=100000
        Limit on layers, over all passes.
    max_time : float or None, default=None
        Limit on seconds; before the first pass is complete the bound is the product of norms.
    n_threads : int or None, default=None
        Limit on the threads of BLAS.

    See Also
    --------
    LipSDP : All multipliers at once.
    LipLT : From norms alone.

    Notes
    -----
    For feed-forward networks with element-wise activations and the norm "l2". The paper's closed
    form needs slopes of one sign, because it drops the term of the constraint with the product of
    slopes; here the term is kept, which allows any slopes.
    Where a program fails, that layer has the closed form.
    Cost of the closed form: 7/3 n³ flops for a layer of width n, of the list of closed forms about
    fifty times that, of a program some 10 to 20 iterations of O(n³).
    Guarantee: ``Result.fun`` is an upper bound of the Lipschitz constant, rounding included.

    References
    ----------
    .. [1] Y. Xu, S. Sivaranjani, "ECLipsE: Efficient compositional Lipschitz constant estimation
       for deep neural networks", NeurIPS 2024. :arxiv:`2404.04375`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import ECLipsE, LipschitzProblem
    >>> problem = LipschitzProblem([np.array([[1.0], [1.0]]), np.array([[1.0, -1.0]])])
    >>> print(f"{ECLipsE(mode='sdp').solve(problem).fun:.6f}")
    1.000000
    """

    citation = (
        "@inproceedings{xu2024eclipse, title={ECLipsE: Efficient compositional Lipschitz constant "
        "estimation for deep neural networks}, author={Xu, Yuezhu and Sivaranjani, S.}, "
        "booktitle={NeurIPS}, year={2024}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "mode": [StrOptions({"fast", "sdp", "best"})],
    }

    def __init__(
        self,
        *,
        mode: str = "fast",
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.mode = mode
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.n_threads = n_threads

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Feed-forward networks with element-wise activations, in the Euclidean norm."""
        return chain_needs(problem)

    def engine(self, problem: LipschitzProblem, part: Part) -> tuple[ModuleType, dict[str, Any]]:
        """Return the passes over the layers and the mode."""
        from lowrank_opt.lipschitz import eclipse_stages

        return eclipse_stages, {"mode": self.mode}

    def method_name(self, problem: LipschitzProblem, part: Part) -> str:
        """Return the mode."""
        return f"ECLipsE-{self.mode}"
