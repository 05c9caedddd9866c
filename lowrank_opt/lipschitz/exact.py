"""Exact Lipschitz constants of small networks, by enumeration and by branch and bound."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasNetwork
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.lipschitz import exact_bounds as bounds
from lowrank_opt.lipschitz.bound_solver import bound_fields, check_start
from lowrank_opt.lipschitz.exact_enumeration import CHUNK, ascend, best_of, n_patterns
from lowrank_opt.lipschitz.exact_network import (
    ONE_KINK,
    domain_of,
    pattern_network,
    target_of,
)
from lowrank_opt.lipschitz.network import Affine, FeedForward
from lowrank_opt.lipschitz.pattern_checks import (
    covers,
    exactly_refuted,
    integers,
    pattern_bound,
    pattern_lower,
)
from lowrank_opt.lipschitz.proofs import BoundProof
from lowrank_opt.lipschitz.witness import contains, witness_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.core.problem import Certificate
    from lowrank_opt.lipschitz.exact_network import Domain, PatternNetwork, Target
    from lowrank_opt.lipschitz.problem import LipschitzProblem

    Values = NDArray[np.float64]

__all__ = ["ExactLipschitz"]

LIVE, SETTLED, REFUTED = 0, 1, 2
_ARRAYS = ("patterns", "bounds", "parts", "kinds", "branches", "refutations")
LARGEST = 2000  # neurons for branch and bound
# Which patterns count: those that inputs reach; all; all, checked by going through them again.
REACHED, ANYWHERE, ENUMERATED = 0, 1, 2


@dataclass
class ExactState(State):
    """State of an exact run: the leaves of a tree of partial choices.

    Parameters
    ----------
    patterns : ndarray of int8 of shape (m, n_neurons)
        Choices of every leaf.
    bounds : ndarray of shape (m,)
        Bound of every leaf.
    parts, kinds, branches : ndarray of int of shape (m,)
        The part that a leaf belongs to; whether it is live, settled or refuted; the neuron to
        branch on, -1 before the leaf is graded.
    refutations : ndarray of shape (m, n_neurons + 2 n_inputs)
        Multipliers that refute leaves.
    size : int
        Leaves in use.
    lower : float
        Best proved value of a pattern (of an input, when only patterns that occur count).
    witness : ndarray or None
        Input of that value.
    best_pattern : ndarray of shape (n_neurons,) or None
        Pattern of that value.
    uppers : list of float
        Bounds of the parts, for enumeration.
    position, part : int
        What enumeration does next.
    part_best : float
        Best norm of a pattern of that part so far.
    finished : list of bool
        Parts that enumeration has gone through.
    """

    patterns: Any = None
    bounds: Any = None
    parts: Any = None
    kinds: Any = None
    branches: Any = None
    refutations: Any = None
    size: int = 0
    lower: float = 0.0
    witness: Any = None
    best_pattern: Any = None
    uppers: list[float] = field(default_factory=list)
    position: int = 0
    part: int = -1
    part_best: float = 0.0
    finished: list[bool] = field(default_factory=list)


class ExactLipschitz(Solver):
    r"""Exact Lipschitz constant of a small network, or its largest Jacobian over all patterns.

    With ``feasible=False`` the largest norm of :math:`W_L D_{L-1} \cdots D_1 W_1` over all
    diagonal matrices of extreme slopes, whether inputs produce them or not (the formal global
    constant, FGL); for sorting activations, over all orders. With ``feasible=True`` only patterns
    that inputs of the problem's region produce count, which gives the true constant of networks
    of ReLU, leaky ReLU and absolute values. Every run ends with an upper bound; to have it equal
    to the constant, the network must be small.

    Parameters
    ----------
    feasible : bool, default=False
        Whether only patterns that occur count.
    method : {"auto", "enumeration", "branch_and_bound"}, default="auto"
        ``"enumeration"``: all patterns, in blocks of dense products; for ``feasible=False``.
        ``"branch_and_bound"``: partial patterns with interval bounds of the Jacobian; with
        ``feasible=True`` partial patterns that no input produces are refuted by linear
        inequalities. ``"auto"``: enumeration up to ``2**max_neurons`` patterns.
    max_neurons : int, default=20
        Largest base-2 logarithm of the number of patterns that are enumerated; at most 26.
    tol : float, default=1e-9
        Relative gap between the bound and the best pattern.
    max_iter : int, default=20000
        Limit on steps: branchings, or blocks of 4096 patterns.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int, default=20
        Steps between two checks.
    n_threads : int or None, default=None
        Limit on the threads of BLAS.
    random_state : int, numpy.random.Generator or None, default=0
        Source of the starts of the search for good patterns.

    Raises
    ------
    ParameterError
        Too many patterns for ``method="enumeration"``, or too many neurons; the message has the
        numbers and what to do.

    See Also
    --------
    SampledLowerBound : Lower bounds of networks of any size.
    LipSDP : Upper bounds of networks of any size.

    Notes
    -----
    ``Result.fun`` is an upper bound, rounding included, whenever the run ends;
    ``Result.relaxation_bound`` is the best pattern found, which for ``feasible=True`` is that of
    an input and so equals ``Result.lower_bound``. Patterns that only inputs on kinks produce
    cannot be told from others in floating point: they count, and where one is the largest the gap
    stays open (status ``STALLED``).
    Cost: enumeration 2^N patterns at about 10⁶ a second for N = 20; branching about 2000 a second.
    On the whole space every pattern occurs if there are no more neurons than inputs.

    References
    ----------
    .. [1] A. Bhowmick, M. D'Souza, G. S. Raghavan, "LipBaB: computing exact Lipschitz constant of
       ReLU networks", ICANN 2021. :arxiv:`2105.05495`

    Examples
    --------
    The bound over all patterns, and the constant itself, of relu(x) - relu(x - 1) + relu(x - 2):

    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import Affine, Activation, ExactLipschitz, FeedForward
    >>> from lowrank_opt.lipschitz import LipschitzProblem
    >>> network = FeedForward([Affine([[1.0], [1.0], [1.0]], [0.0, -1.0, -2.0]),
    ...                        Activation("relu"), Affine([[1.0, -1.0, 1.0]])])
    >>> problem = LipschitzProblem(network)
    >>> for feasible in (False, True):
    ...     print(f"{ExactLipschitz(feasible=feasible).solve(problem).fun:.6f}")
    2.000000
    1.000000
    """

    requires = (HasNetwork,)
    citation = (
        "@inproceedings{bhowmick2021lipbab, title={LipBaB: computing exact Lipschitz constant of "
        "ReLU networks}, author={Bhowmick, Aritra and D'Souza, Meenakshi and Raghavan, G. "
        "Srinivasa}, booktitle={ICANN}, year={2021}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "feasible": ["boolean"],
        "method": [StrOptions({"auto", "enumeration", "branch_and_bound"})],
        "max_neurons": [Interval(Integral, 0, 26)],
    }

    def __init__(
        self,
        *,
        feasible: bool = False,
        method: str = "auto",
        max_neurons: int = 20,
        tol: float = 1e-9,
        max_iter: int = 20_000,
        max_time: float | None = None,
        check_every: int = 20,
        n_threads: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.feasible = feasible
        self.method = method
        self.max_neurons = max_neurons
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads
        self.random_state = random_state

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Feed-forward networks."""
        return [] if isinstance(problem.network, FeedForward) else ["a feed-forward network"]

    def check(self, problem: Any) -> None:
        """Raise also when the network is too large, or has no finite number of patterns."""
        super().check(problem)
        if self.feasible:
            if self.method == "enumeration":
                raise ParameterError(
                    "ExactLipschitz: feasible=True needs method='branch_and_bound' (or 'auto'), "
                    "got method='enumeration'"
                )
            kinds = {a.kind for a in problem.network.layers if not isinstance(a, Affine)}
            other = sorted(kinds - {*ONE_KINK, "identity"})
            if other:
                raise ParameterError(
                    f"ExactLipschitz: feasible=True needs activations among "
                    f"{', '.join(ONE_KINK)}; the network has {', '.join(other)}. Use "
                    "feasible=False, an upper bound"
                )
        net = pattern_network(problem.network)
        count = sum(math.log2(c) for c in net.n_choices)
        if self.chosen(net) == "enumeration":
            if count > self.max_neurons:
                cure = "use LipSDPGroupSort" if net.grouped else "use method='branch_and_bound'"
                raise ParameterError(
                    f"ExactLipschitz: the network has 2^{count:.0f} patterns, more than the "
                    f"2^{self.max_neurons} of max_neurons={self.max_neurons}: {cure}"
                    + ("" if count > 26 else f", or max_neurons={math.ceil(count)}")
                )
        elif net.n_neurons > LARGEST:
            raise ParameterError(
                f"ExactLipschitz: {net.n_neurons} hidden neurons are too many (limit {LARGEST}): "
                "use LipSDP for an upper bound and SampledLowerBound for a lower one"
            )

    def chosen(self, net: Any) -> str:
        """Return the method for a network."""
        if net.grouped:
            return "enumeration"
        if self.method != "auto":
            return self.method
        small = sum(math.log2(c) for c in net.n_choices) <= self.max_neurons
        return "enumeration" if small and not self.feasible else "branch_and_bound"

    def _tools(self, problem: Any, state: Any) -> _Tools:
        if state.cache is None:
            slopes = None
            if problem.region is not None and not self.feasible:
                from lowrank_opt.lipschitz.local_slopes import slopes_on

                slopes = slopes_on(problem.network, problem.region)
            net = pattern_network(problem.network, slopes, problem.region)
            domain = domain_of(net, problem.region) if self.feasible else None
            numbers = integers(net) if self.feasible else None
            targets = [target_of(problem, k) for k in range(problem.n_parts)]
            slack = [bounds.rounding(net, t) for t in targets]
            spans = _spans(net)
            state.cache = _Tools(
                net,
                domain,
                targets,
                slack,
                numbers,
                spans,
                _importance(net, spans),
                self.chosen(net),
            )
        tools: _Tools = state.cache
        return tools

    def init(self, problem: Any, x0: Any = None) -> ExactState:
        """Return the state with all choices open, or with the leaves of an earlier run."""
        state = ExactState()
        tools = self._tools(problem, state)
        net, targets, slack = tools.net, tools.targets, tools.slack
        state.uppers = [problem.part(k).product for k in range(problem.n_parts)]
        state.finished = [u == 0.0 for u in state.uppers]
        rng = make_rng(self.random_state)
        if self.feasible:
            self._sample(problem, state, rng)
        elif not net.grouped:
            for k in np.argsort(state.uppers)[::-1]:
                if state.uppers[k] <= state.lower:
                    break
                value, pattern = ascend(net, targets[k], rng)
                if value - slack[k] > state.lower:
                    state.lower, state.best_pattern = value - slack[k], pattern
        if self.chosen(net) == "enumeration":
            self._next_part(state)
        else:
            m, N = problem.n_parts, net.n_neurons
            state.patterns = np.full((m, N), bounds.OPEN, dtype=np.int8)
            state.refutations = np.zeros((m, N + 2 * problem.network.n_inputs))
            state.parts = np.arange(m)
            state.bounds = np.array(state.uppers)
            state.kinds = np.zeros(m, dtype=np.int8)
            state.branches = np.full(m, -1)
            state.size = m
        if x0 is not None:
            self._resume_from(problem, state, check_start(type(self).__name__, x0, problem))
        self._settle(problem, state)
        return state

    def _sample(self, problem: Any, state: Any, rng: Any) -> None:
        from lowrank_opt.lipschitz.sampled import sampled_lower_bound

        value, x = sampled_lower_bound(
            problem.network, problem.norm, problem.region, n_ascent=20, random_state=rng
        )
        if x is not None and witness_bound(problem.network, problem.norm, x, problem.region) > 0:
            state.lower, state.witness = value, x

    def _resume_from(self, problem: Any, state: Any, proofs: Any) -> None:
        """Take over the leaves of a proof, each graded again, if they are of the same kind."""
        net = self._tools(problem, state).net
        N, n = net.n_neurons, problem.network.n_inputs
        own = [p.multipliers for p in proofs if p.kind == "patterns"]
        for arrays in own:
            found = [np.shape(v)[-1:] for v in arrays]
            if found != [(1,), (N,), (N + 2 * n,), (max(N, n),)]:
                raise ProblemError(
                    f"ExactLipschitz.solve: x0 has arrays whose last shapes are {found}; the "
                    f"problem has {n} inputs and {N} neurons: give the x of a result of it"
                )
        mode = REACHED if self.feasible else ANYWHERE
        if self.chosen(net) == "enumeration":
            for k, p in enumerate(proofs):
                if p.kind == "patterns" and np.array_equal(p.multipliers[0], [ENUMERATED]):
                    upper = pattern_bound(problem, k, p.multipliers)
                    state.lower = max(state.lower, pattern_lower(problem, k, p.multipliers))
                    state.uppers[k], state.finished[k] = min(upper, state.uppers[k]), True
            self._next_part(state)
            return
        if len(own) < len(proofs) or any(
            not np.array_equal(arrays[0], [mode]) or not covers(arrays[1]) for arrays in own
        ):
            return
        for arrays in own:
            self._try_input(problem, state, arrays[3][:n] if self.feasible else None)
        state.patterns = np.concatenate([arrays[1] for arrays in own]).astype(np.int8)
        state.size = len(state.patterns)
        state.parts = np.repeat(np.arange(len(own)), [len(arrays[1]) for arrays in own])
        state.refutations = np.zeros((state.size, N + 2 * n))
        state.kinds = np.zeros(state.size, dtype=np.int8)
        state.branches = np.full(state.size, -1)
        state.bounds = np.array(state.uppers)[state.parts]
        for i in range(state.size):
            self._grade(problem, state, i)

    # ------------------------------------------------------------ steps

    def step(self, problem: Any, state: Any, n: int = 1) -> Any:
        """Branch `n` times at the leaf of the largest bound, or go through `n` blocks."""
        method = self._tools(problem, state).method
        for _ in range(n):
            if method == "enumeration":
                if state.part < 0:
                    break
                self._block(problem, state)
            elif not self._branch(problem, state):
                break
            state.nit += 1
        self._settle(problem, state)
        return state

    def _next_part(self, state: Any) -> None:
        floor = max([u for u, f in zip(state.uppers, state.finished, strict=True) if f], default=0)
        waiting = [k for k, f in enumerate(state.finished) if not f and state.uppers[k] > floor]
        state.part = max(waiting, key=lambda k: state.uppers[k]) if waiting else -1
        state.position, state.part_best = 0, 0.0

    def _block(self, problem: Any, state: Any) -> None:
        tools = self._tools(problem, state)
        net, targets, slack = tools.net, tools.targets, tools.slack
        k, total = state.part, n_patterns(net)
        count = min(CHUNK, total - state.position)
        best = best_of(net, targets[k], state.position, count, state.part_best)
        state.part_best = best
        state.position += count
        state.count(patterns=count)
        state.lower = max(state.lower, best - slack[k])
        if state.position >= total:
            state.uppers[k] = min(state.uppers[k], (best + slack[k]) * (1.0 + 1e-15))
            state.finished[k] = True
            self._next_part(state)

    def _branch(self, problem: Any, state: Any) -> bool:
        live = np.flatnonzero(state.kinds[: state.size] == LIVE)
        floor = state.lower * (1.0 + 0.5 * self.tol)
        live = live[state.bounds[live] > floor]
        if not len(live):
            return False
        i = int(live[state.bounds[live].argmax()])
        if state.bounds[i] <= self._proved_floor(state):
            return False  # what is settled already cannot be improved
        if state.branches[i] < 0:
            self._grade(problem, state, i)
            if state.kinds[i] != LIVE or state.bounds[i] <= floor:
                return True
        j = int(state.branches[i])
        self._grow(state)
        new = state.size
        state.size += 1
        for name in _ARRAYS:
            array = getattr(state, name)
            array[new] = array[i]
        state.patterns[i, j], state.patterns[new, j] = 0, 1
        state.count(branchings=1)
        for leaf in (i, new):
            self._grade(problem, state, leaf)
        return True

    def _proved_floor(self, state: Any) -> float:
        settled = state.kinds[: state.size] == SETTLED
        return float(state.bounds[: state.size][settled].max(initial=0.0))

    def _grow(self, state: Any) -> None:
        if state.size < len(state.bounds):
            return
        for name in _ARRAYS:
            array = getattr(state, name)
            setattr(state, name, np.concatenate([array, np.zeros_like(array)]))

    def _grade(self, problem: Any, state: Any, i: int) -> None:
        """Bound or refute a leaf, and choose the neuron to branch on."""
        tools = self._tools(problem, state)
        net, targets, slack = tools.net, tools.targets, tools.slack
        k = int(state.parts[i])
        pattern = state.patterns[i]
        state.count(bounds=1)
        if not self.feasible:
            low, high = chosen_slopes(net, pattern)
            value, _ = bounds.jacobian_bound(net, targets[k], low, high)
            undecided = np.flatnonzero((pattern == bounds.OPEN) & (tools.spans > 0))
            if not len(undecided) and value - slack[k] > state.lower:
                state.lower = value - slack[k]
                state.best_pattern = np.where(pattern == 1, 1, 0)
        else:
            domain, numbers = tools.domain, tools.numbers
            assert domain is not None
            node = bounds.look_at(net, domain, pattern)
            at = np.append(node.chosen, np.arange(len(pattern), state.refutations.shape[1]))

            def exactly(y: Values) -> bool:
                state.count(exact=1)
                whole = np.zeros(state.refutations.shape[1])
                whole[at] = y
                return exactly_refuted(net, numbers, domain, pattern, whole)

            y = bounds.refute(node, domain, exactly)
            if y is not None:
                state.kinds[i], state.bounds[i] = REFUTED, 0.0
                state.refutations[i, at] = y
                state.count(refuted=1)
                return
            value, _ = bounds.jacobian_bound(net, targets[k], node.low, node.high)
            undecided = node.undecided
            if not len(undecided) and value > state.lower:
                self._try_input(problem, state, bounds.interior_point(node, domain))
        state.bounds[i] = min(state.bounds[i] or math.inf, (value + slack[k]) * (1.0 + 1e-15))
        if not len(undecided):
            state.kinds[i] = SETTLED
            return
        state.branches[i] = undecided[tools.importance[undecided].argmax()]

    def _try_input(self, problem: Any, state: Any, x: Any) -> None:
        """Raise the lower bound by the Jacobian at an input."""
        if x is None:
            return
        if problem.region is not None and not contains(problem.region, x):
            for _ in range(200):  # a positively homogeneous network around the origin
                x = 0.5 * x
                if contains(problem.region, x):
                    break
        value = witness_bound(problem.network, problem.norm, x, problem.region)
        if value > state.lower:
            state.lower, state.witness = value, x

    # ------------------------------------------------------------ results

    def _upper(self, state: Any) -> float:
        if state.bounds is None:
            return max(state.uppers, default=0.0)
        return float(state.bounds[: state.size].max(initial=0.0))

    def _upper_of(self, state: Any, k: int) -> float:
        if state.bounds is None:
            return float(state.uppers[k])
        own = state.parts[: state.size] == k
        return float(state.bounds[: state.size][own].max(initial=0.0))

    def _settle(self, problem: Any, state: Any) -> None:
        upper = self._upper(state)
        state.residual = 0.0 if upper == 0.0 else max(0.0, 1.0 - state.lower / upper)

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Converged when the best pattern reaches the bound; stalled when nothing is open."""
        if state.residual <= self.tol:
            return Status.CONVERGED
        if state.bounds is None:
            ended = state.part < 0
        else:
            live = state.kinds[: state.size] == LIVE
            ended = float(state.bounds[: state.size][live].max(initial=0.0)) <= max(
                self._proved_floor(state), state.lower * (1.0 + 0.5 * self.tol)
            )
        if not ended:
            return None
        state.message = (
            "The largest pattern occurs, if at all, only at inputs on kinks or in a region as thin "
            "as rounding; the bound holds"
            if self.feasible
            else "Rounding limits the gap"
        )
        return Status.STALLED

    def point(self, problem: Any, state: Any) -> BoundProof:
        """Return the leaves, as a proof."""
        net = self._tools(problem, state).net
        n = problem.network.n_inputs
        best = np.zeros(max(net.n_neurons, n))  # the input, or the pattern, of the best value
        if self.feasible and state.witness is not None:
            best[:n] = state.witness
        elif not self.feasible and state.best_pattern is not None:
            best[: net.n_neurons] = state.best_pattern
        proofs = []
        for k in range(problem.n_parts):
            numbers: Any
            if state.bounds is None:
                if not state.finished[k] or state.uppers[k] == 0.0:
                    proofs.append(BoundProof("unproved", bound=state.uppers[k]))
                    continue
                whole = np.full((1, net.n_neurons), bounds.OPEN, dtype=np.int8)
                none = np.zeros((1, net.n_neurons + 2 * problem.network.n_inputs))
                numbers = (np.array([ENUMERATED]), whole, none, best)
            else:
                own = np.flatnonzero(state.parts[: state.size] == k)
                numbers = (
                    np.array([REACHED if self.feasible else ANYWHERE]), state.patterns[own].copy(),
                    state.refutations[own].copy(), best,
                )  # fmt: skip
            proofs.append(BoundProof("patterns", numbers, bound=self._upper_of(state, k)))
        if problem.n_parts == 1:
            return proofs[0]
        return BoundProof("parts", parts=tuple(proofs), bound=self._upper(state))

    def fields(
        self, problem: LipschitzProblem, state: Any, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return the fields of a bound's result, with the best pattern as relaxation's bound."""
        name = "exact constant" if self.feasible else "largest pattern"
        out = bound_fields(problem, x, name)
        upper = float(problem.objective(x))
        best = min(state.lower, upper)
        out["relaxation_bound"] = best if best > 0 else None
        out["gap"] = 0.0 if upper == 0.0 else max(0.0, 1.0 - best / upper)
        if self.feasible:
            out["lower_bound"] = min(max(out["lower_bound"], best), upper)
            out["witness"] = state.witness
        return out


@dataclass
class _Tools:
    """What follows from the problem: layers, inputs, targets, rounding, ends of slopes."""

    net: PatternNetwork
    domain: Domain | None
    targets: list[Target]
    slack: list[float]
    numbers: Any
    spans: Values
    importance: Values
    method: str


def _spans(net: PatternNetwork) -> Values:
    """Return the length of the range of every neuron's slopes."""
    return np.concatenate(
        [np.abs(p - q) for p, q in zip(net.on, net.off, strict=True)] or [np.zeros(0)]
    )


def _importance(net: PatternNetwork, spans: Values) -> Values:
    """Return how much each neuron matters: what it reads times what reads it."""
    if net.grouped:
        return spans
    sizes = [
        np.linalg.norm(W, axis=1) * np.linalg.norm(V, axis=0)
        for W, V in zip(net.weights[:-1], net.weights[1:], strict=True)
    ]
    return np.concatenate(sizes or [np.zeros(0)]) * spans + 1e-300


def chosen_slopes(net: Any, pattern: Any) -> tuple[list[Values], list[Values]]:
    """Return the ranges of the slopes of every layer under a pattern."""
    low, high, at = [], [], 0
    for p, q in zip(net.off, net.on, strict=True):
        own = pattern[at : at + len(p)]
        low.append(np.where(own == 0, p, np.where(own == 1, q, np.minimum(p, q))))
        high.append(np.where(own == 0, p, np.where(own == 1, q, np.maximum(p, q))))
        at += len(p)
    return low, high
