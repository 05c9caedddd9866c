"""Lower bounds of Lipschitz constants from Jacobians at inputs that a search finds."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.core.params import COUNT, Interval
from lowrank_opt.core.protocols import HasNetwork
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.lipschitz.bound_solver import bound_fields, check_start
from lowrank_opt.lipschitz.linearised import has_values
from lowrank_opt.lipschitz.proofs import BoundProof
from lowrank_opt.lipschitz.sampled_search import Search
from lowrank_opt.lipschitz.witness import witness_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.core.problem import Certificate
    from lowrank_opt.lipschitz.network import Network
    from lowrank_opt.lipschitz.problem import LipschitzProblem
    from lowrank_opt.lipschitz.regions import Region

    Values = NDArray[np.float64]

__all__ = ["SampledLowerBound", "sampled_lower_bound", "witness_bound"]


def sampled_lower_bound(
    network: Network, norm: str = "l2", region: Region | None = None, *,
    n_samples: int | None = None, n_ascent: int | None = None, random_state: Any = 0,
) -> tuple[float, Values | None]:  # fmt: skip
    """Return a lower bound of the Lipschitz constant, and an input that shows it.

    The Jacobian's norm at random inputs, then at inputs found by ascent from the best of them.

    Parameters
    ----------
    network : FeedForward, Residual or Implicit
        Implicit networks are taken to be well posed.
    norm : {"l2", "linf", "l1"}, default="l2"
        Norm of inputs and outputs: largest singular value, largest row sum or largest column sum
        of absolute values of the Jacobian.
    region : Ball, Box or None, default=None
        Where the inputs lie; ``None``: anywhere.
    n_samples : int or None, default=None
        Random inputs; ``None``: 8 to 64, fewer for larger networks.
    n_ascent : int or None, default=None
        Rounds of ascent, about 20 inputs each; ``None``: 0 to 8.
    random_state : int, numpy.random.Generator or None, default=0
        Source of the random inputs.

    Returns
    -------
    value : float
        Lower bound; 0.0 if an activation is known by its slopes only. It holds with rounding
        when ``witness_bound(network, norm, x, region)`` reaches it, as for all but very deep or
        large networks; for those it is the value in floating point, lowered by 1e-9.
    x : ndarray of shape (n_inputs,) or None
        The input; ``None`` if there is none.

    Notes
    -----
    By default a few milliseconds for small networks and under half a second for 10⁸ weights.
    """
    search = Search.start(network, norm, region, n_samples, random_state)
    rounds = search.default_rounds if n_ascent is None else n_ascent
    for _ in range(rounds):
        search.advance(network, norm, region)
    return search.best(network, norm, region)


@dataclass
class SampledState(State):
    """State of a search.

    Parameters
    ----------
    search : Search or None
        Inputs, and the source of random numbers.
    complete : bool
        Whether nothing is left to do.
    """

    search: Any = None
    complete: bool = False


class SampledLowerBound(Solver):
    r"""Lower bound of a Lipschitz constant: the largest Jacobian that a search finds.

    :math:`\max_k \|J(x_k)\|` over random inputs, and over inputs found from the best of them by
    ascent along the gradient of :math:`u^\top J(x) v` with smoothed slopes, and by random steps.
    It tells how far an upper bound can be from the truth; it is no upper bound itself.

    Parameters
    ----------
    n_samples : int, default=256
        Random inputs at the start.
    n_ascent : int, default=200
        Rounds of ascent, about 20 inputs each; searches that end at a local maximum start again.
    max_iter : int, default=100000
        Limit on rounds.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int, default=10
        Rounds between two checks.
    n_threads : int or None, default=None
        Limit on the threads of BLAS.
    random_state : int, numpy.random.Generator or None, default=0
        Source of the random inputs.

    See Also
    --------
    ExactLipschitz : The exact constant, of small networks.

    Notes
    -----
    ``Result.lower_bound`` is the bound and ``Result.witness`` the input; ``Result.fun`` is the
    product of the layers' norms. The bound holds with rounding: errors are subtracted (networks
    too deep for that analysis, beyond 10 layers: it is the value in floating point, lowered by
    1e-9). Activations known by their slopes only give 0, as the network cannot be evaluated.
    The run is complete after `n_ascent` rounds; there is no tolerance to reach.
    Cost of a round: about 100 passes over the weights, in a few dense products.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import LipschitzProblem, SampledLowerBound
    >>> problem = LipschitzProblem([np.array([[1.0], [1.0]]), np.array([[1.0, 1.0]])])
    >>> print(f"{SampledLowerBound().solve(problem).lower_bound:.6f}")
    2.000000
    """

    requires = (HasNetwork,)
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_samples": [COUNT],
        "n_ascent": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        n_samples: int = 256,
        n_ascent: int = 200,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int = 10,
        n_threads: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.n_samples = n_samples
        self.n_ascent = n_ascent
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads
        self.random_state = random_state

    def init(self, problem: Any, x0: Any = None) -> SampledState:
        """Return the state after the random inputs, and the input of a warm start."""
        state = SampledState()
        state.search = Search.start(
            problem.network, problem.norm, problem.region, self.n_samples, self.random_state
        )
        state.count(inputs=self.n_samples)
        if not has_values(problem.network):
            state.message = (
                "An activation is known by its slopes only, so the network cannot be evaluated: "
                "the lower bound is 0"
            )
            state.complete = True
        if x0 is not None:
            proofs = check_start(type(self).__name__, x0, problem)
            shown = [p for p in proofs if p.kind == "witness" and p.multipliers]
            for proof in shown:
                if np.shape(proof.multipliers[0]) != (problem.network.n_inputs,):
                    raise ProblemError(
                        f"{type(self).__name__}.solve: x0 has an input of shape "
                        f"{np.shape(proof.multipliers[0])}; the network has "
                        f"{problem.network.n_inputs} inputs"
                    )
                found = state.search.values.max(initial=0.0)
                value = state.search.add(
                    problem.network, problem.norm, problem.region, proof.multipliers[0]
                )
                state.complete |= value >= found  # the answer of an earlier run: nothing to do
        self._settle(state)
        return state

    def step(self, problem: Any, state: Any, n: int = 1) -> Any:
        """Do `n` rounds of ascent."""
        for _ in range(n):
            if state.complete:
                break
            state.search.advance(problem.network, problem.norm, problem.region)
            state.nit += 1
            state.count(inputs=20)
            self._settle(state)
        return state

    def _settle(self, state: Any) -> None:
        state.complete |= state.nit >= self.n_ascent
        state.residual = 0.0 if state.complete else 1.0

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Complete after `n_ascent` rounds."""
        return Status.CONVERGED if state.complete else None

    def point(self, problem: Any, state: Any) -> BoundProof:
        """Return the best input, as a proof of the lower bound."""
        value, x = state.search.best(problem.network, problem.norm, problem.region)
        one = BoundProof("witness", () if x is None else (x,), bound=value)
        if problem.n_parts == 1:
            return one
        return BoundProof("parts", parts=(one,) * problem.n_parts, bound=value)

    def fields(
        self, problem: LipschitzProblem, state: Any, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return the fields of a bound's result, and ``witness``, the input."""
        value, witness = state.search.best(problem.network, problem.norm, problem.region)
        out = bound_fields(problem, x, "product of norms")
        lower = min(max(value, out["lower_bound"]), float(problem.objective(x)))
        return {**out, "lower_bound": lower, "witness": witness}
