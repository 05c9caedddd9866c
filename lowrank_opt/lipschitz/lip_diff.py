"""LipDiff: LipSDP as an eigenvalue problem without constraints, solved by gradient steps."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.linalg as la

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import COUNT, Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasNetwork
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.lipschitz.bound_solver import bound_fields, check_start
from lowrank_opt.lipschitz.forms import Chain
from lowrank_opt.lipschitz.penalty import Penalty
from lowrank_opt.lipschitz.penalty_checks import LARGEST, penalty_bound
from lowrank_opt.lipschitz.proofs import BoundProof

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.core.problem import Certificate
    from lowrank_opt.lipschitz.problem import LipschitzProblem

    Values = NDArray[np.float64]

__all__ = ["LipDiff"]

DECAY, PIECES, FLOOR = 0.95, 50, 0.1  # of the step size, in a group of epochs
SHRINK = 0.2  # of the step size from group to group, for starts near the minimum
BETA1, BETA2 = 0.9, 0.999  # Adam's


@dataclass
class LipDiffState(State):
    """State of a run.

    Parameters
    ----------
    upper : float
        Best bound so far, with the scale.
    proof : BoundProof or None
        Its proof.
    theta : ndarray of shape (N + 2,)
        Logarithms of λ, κ_0 and κ_1 in units of their start.
    slack : ndarray of shape (N,)
        κ_h in units of the start of κ_0 over the sum of the bounds of squares.
    base : ndarray of shape (N + 2,)
        λ, κ_0 and κ_1 at the start.
    moments : ndarray of shape (2, 2 N + 2)
        Adam's moments.
    vector : ndarray
        Last eigenvector.
    group_step : int
        Steps since the moments were last set to zero.
    best_theta, best_slack : ndarray
        Where the best bound was found.
    complete : bool
        Whether nothing is left to do.
    """

    upper: float = math.inf
    proof: Any = None
    theta: Any = None
    slack: Any = None
    base: Any = None
    moments: Any = None
    vector: Any = None
    group_step: int = 0
    best_theta: Any = None
    best_slack: Any = None
    complete: bool = False
    counts: dict[str, int] = field(default_factory=dict)


class LipDiff(Solver):
    r"""Lipschitz bound by gradient steps on the exact penalty of LipSDP (LipDiff).

    Minimises, without constraints but signs,

    .. math:: \tfrac12 \bigl( \kappa_0 + (2 + \textstyle\sum_j m_j)
        \max(0, \lambda_{\max}(C(\lambda, \kappa))) \bigr),

    which is a bound at every point and whose minimum is that of LipSDP [1]_. Eigenvectors come
    from a few Lanczos steps, so that weights are only multiplied with; the bounds that count are
    made exact by a factorisation. Starts at the product of norms and keeps the best bound, hence
    never worse. For feed-forward networks with element-wise activations and the norm "l2";
    :class:`LipSDP` reaches the minimum, usually in less time.

    Parameters
    ----------
    n_epochs : int, default=300
        Gradient steps; published: 1000.
    n_groups : int, default=3
        Groups of steps; each starts with a large step size and Adam's moments at zero, at the best
        point so far.
    step_size : float or None, default=None
        Of Adam, in logarithms of λ, κ_0 and κ_1; for κ_h five times that. In a group it is
        multiplied by 0.95 fifty times, but not below a tenth. ``None``: 0.04, as published, from
        the product of norms; else 0.01, and a fifth of that from group to group.
    n_lanczos : int, default=20
        Lanczos steps; matrices of order up to 160 are decomposed exactly.
    record_every : int, default=20
        Steps between two exact evaluations; the last four of a group are always evaluated.
    start : {"first_order", "product"}, default="first_order"
        Point of departure: multipliers of the first-order method for LipSDP, which are close to
        the minimum, or the product of norms, as published.
    repair : bool, default=True
        Whether an exact evaluation also takes the best κ for the given λ, which removes the
        penalty. ``False``: as published.
    tol : float, default=1e-6
        A warm start that exact evaluation improves by less than this is taken as the answer.
    max_iter : int, default=100000
        Limit on steps.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int, default=10
        Steps between two checks.
    n_threads : int or None, default=None
        Limit on the threads of BLAS.
    random_state : int, numpy.random.Generator or None, default=0
        Source of what is added to the first Lanczos vectors.

    Raises
    ------
    ParameterError
        More than 8000 inputs and neurons, where the final factorisation would be too large.

    See Also
    --------
    LipSDP : The same bound by interior points.
    ECLipsE : For deeper and wider networks.

    Notes
    -----
    Deviations from [1]_: several outputs are allowed (a vector u of unit length stands where the
    border of the matrix is); slopes between α and 1; steps are taken in logarithms, as multipliers
    of deep networks differ by orders of magnitude; exact evaluations repair κ.
    The run is complete after `n_epochs` steps; no gap is proved.
    Cost of a step: `n_lanczos` products with all weights and their transposes; of an exact
    evaluation: about 15 times Σ n_i³ flops.

    References
    ----------
    .. [1] Z. Wang, B. Hu, A. J. Havens, A. Araujo, Y. Zheng, Y. Chen, S. Jha, "On the scalability
       and memory efficiency of semidefinite programs for Lipschitz constant estimation of neural
       networks", ICLR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import LipDiff, LipschitzProblem
    >>> rng = np.random.default_rng(0)
    >>> widths = [4, 10, 1]
    >>> weights = [rng.standard_normal((n, m)) / m**0.5 for m, n in zip(widths, widths[1:])]
    >>> result = LipDiff().solve(LipschitzProblem(weights))
    >>> print(f"{result.fun:.1f}, certified: {result.certified}")
    1.1, certified: True
    """

    requires = (HasNetwork,)
    citation = (
        "@inproceedings{wang2024lipdiff, title={On the scalability and memory efficiency of "
        "semidefinite programs for Lipschitz constant estimation of neural networks}, "
        "author={Wang, Zi and Hu, Bin and Havens, Aaron J. and Araujo, Alexandre and Zheng, Yang "
        "and Chen, Yudong and Jha, Somesh}, booktitle={ICLR}, year={2024}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_epochs": [Interval(Integral, 0, None, closed="left")],
        "n_groups": [COUNT],
        "step_size": [None, Interval(Real, 0, None, closed="neither")],
        "n_lanczos": [COUNT],
        "record_every": [COUNT],
        "start": [StrOptions({"product", "first_order"})],
        "repair": ["boolean"],
    }

    def __init__(
        self,
        *,
        n_epochs: int = 300,
        n_groups: int = 3,
        step_size: float | None = None,
        n_lanczos: int = 20,
        record_every: int = 20,
        start: str = "first_order",
        repair: bool = True,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int = 10,
        n_threads: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.n_epochs = n_epochs
        self.n_groups = n_groups
        self.step_size = step_size
        self.n_lanczos = n_lanczos
        self.record_every = record_every
        self.start = start
        self.repair = repair
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads
        self.random_state = random_state

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Feed-forward networks with element-wise activations, norm "l2"."""
        missing = []
        if problem.family != "slopes":
            missing.append("a feed-forward network with element-wise activations")
        if problem.norm != "l2":
            missing.append("norm='l2' (LipSDP has the others)")
        if not missing and not isinstance(problem.part(0).form, Chain):
            missing.append("slopes that differ for every neuron (LipSDP takes affine ones)")
        return missing

    def check(self, problem: Any) -> None:
        """Raise also when the network is too large for the final factorisation."""
        super().check(problem)
        form = problem.part(0).form
        order = sum(W.shape[1] for W in form.weights) + len(form.weights[-1])
        if order > LARGEST:
            raise ParameterError(
                f"LipDiff: a matrix of order {order} for inputs, neurons and outputs is too large "
                f"(limit {LARGEST}): use ECLipsE, or LipSDP(method='first_order')"
            )

    def init(self, problem: Any, x0: Any = None) -> LipDiffState:
        """Return the state at the start, with the product of norms as its bound."""
        state = LipDiffState(rng=make_rng(self.random_state))
        part = problem.part(0)
        state.upper = part.product
        state.proof = BoundProof("unproved", bound=part.product)
        form = part.form
        if len(form.weights) == 1 or part.product == 0.0:
            state.complete = True
            self._settle(state)
            return state
        penalty = self._penalty(problem, state)
        lam, kappa = penalty.product_start()
        if self.start == "first_order":
            lam, kappa = self._first_order(form, lam, kappa)
        slack = np.zeros(form.n_hidden)
        warm = None
        if x0 is not None:
            warm = check_start(type(self).__name__, x0, problem)[0]
            _check_penalty(warm, [len(v) for v in lam])
            lam, kappa, slack = _from_proof(form, warm, lam, kappa, slack)
        state.base = np.concatenate([*lam, kappa])
        state.theta = np.zeros(len(state.base))
        state.slack = slack * (penalty.total / kappa[0])
        state.moments = np.zeros((2, 2 * form.n_hidden + 2))
        state.vector = np.ones(penalty.order)
        state.best_theta, state.best_slack = state.theta.copy(), state.slack.copy()
        if warm is not None and warm.kind == "penalty":
            before = penalty_bound(form, warm.multipliers) * form.scale
            if before < state.upper:
                state.upper, state.proof = before, warm
            self._record(problem, state)
            state.complete = state.upper >= before * (1.0 - self.tol)
        else:
            self._record(problem, state)
        self._settle(state)
        return state

    def _first_order(self, form: Chain, lam: list[Values], kappa: Values) -> Any:
        from lowrank_opt.lipschitz import first_order

        begin = time.perf_counter()
        limit = math.inf if self.max_time is None else 0.5 * self.max_time
        run = first_order.start(form, tol=1e-3)
        for _ in range(100):
            if run.done or time.perf_counter() - begin >= limit:
                break
            first_order.advance(form, run)
        if run.multipliers is None or not math.isfinite(run.upper):
            return lam, kappa
        proof = BoundProof("multipliers", run.multipliers)
        return _from_proof(form, proof, lam, kappa, np.zeros(form.n_hidden), run.upper)[:2]

    def _penalty(self, problem: Any, state: Any) -> Penalty:
        if state.cache is None:
            state.cache = Penalty(problem.part(0).form)
        cache: Penalty = state.cache
        return cache

    def _point(self, penalty: Penalty, state: Any) -> tuple[list[Values], Values]:
        """Return λ and κ at the current point."""
        values = state.base * np.exp(state.theta)
        lam = np.split(values[:-2], np.cumsum([len(m) for m in penalty.m])[:-1])
        slack = state.slack * (state.base[-2] / penalty.total)
        return lam, np.concatenate([values[-2:], slack])

    def step(self, problem: Any, state: Any, n: int = 1) -> Any:
        """Do `n` gradient steps."""
        penalty = self._penalty(problem, state)
        for _ in range(n):
            if state.complete:
                break
            with np.errstate(all="ignore"):
                self._descend(penalty, state)
            state.nit += 1
            length = self._group_length()
            ending = state.nit % length >= length - 4 or state.nit > self.n_epochs - 4
            if ending or state.nit % self.record_every == 0:
                self._record(problem, state)
            if state.nit % length == 0:
                state.theta, state.slack = state.best_theta.copy(), state.best_slack.copy()
                state.moments[:] = 0.0
                state.group_step = 0
            self._settle(state)
        return state

    def _group_length(self) -> int:
        return max(1, -(-self.n_epochs // self.n_groups))

    def _first_step(self, nit: int) -> float:
        """Return the step size at the start of a group."""
        far = self.start == "product"
        size = self.step_size if self.step_size is not None else (0.04 if far else 0.01)
        group = min(nit // self._group_length(), self.n_groups - 1)
        return float(size) * (1.0 if far else SHRINK**group)

    def _descend(self, penalty: Penalty, state: Any) -> None:
        lam, kappa = self._point(penalty, state)
        noise = state.rng.standard_normal(penalty.order) / math.sqrt(penalty.order)
        first = state.vector / np.linalg.norm(state.vector) + 0.1 * noise
        try:
            top, v = penalty.top(lam, kappa, first, self.n_lanczos)
        except np.linalg.LinAlgError:
            top, v = math.nan, first
        state.count(eigenvectors=1)
        if not math.isfinite(top) or not np.all(np.isfinite(v)):  # back to where it was good
            state.theta, state.slack = state.best_theta.copy(), state.best_slack.copy()
            state.moments[:] = 0.0
            state.group_step = 0
            state.vector = np.ones(penalty.order)
            return
        state.vector = v
        unit = state.base[-2]
        values = np.concatenate([*lam, kappa[:2]])
        g = np.zeros(state.moments.shape[1])
        g[len(values) - 2] = 1.0
        if top > 0:
            g_lam, g_kappa = penalty.gradient(v)
            g[: len(values)] += penalty.total * np.concatenate([*g_lam, g_kappa[:2]])
            g[len(values) :] = g_kappa[2:]  # in units of the slack
        g[: len(values)] *= values / unit
        state.group_step += 1
        k = state.group_step
        m, s = state.moments
        m[:] = BETA1 * m + (1.0 - BETA1) * g
        s[:] = BETA2 * s + (1.0 - BETA2) * g * g
        move = (m / (1.0 - BETA1**k)) / (np.sqrt(s / (1.0 - BETA2**k)) + 1e-8)
        piece = PIECES * (k - 1) // self._group_length()
        rate = self._first_step(state.nit) * max(DECAY**piece, FLOOR)
        n = len(values)
        state.theta = np.clip(state.theta - rate * move[:n], -200.0, 200.0)
        state.slack = np.maximum(state.slack - 5.0 * rate * move[n:], 0.0)

    def _record(self, problem: Any, state: Any) -> None:
        """Evaluate the point exactly, and keep it if it is the best."""
        penalty = self._penalty(problem, state)
        form = problem.part(0).form
        lam, kappa = self._point(penalty, state)
        state.count(evaluations=1)
        with np.errstate(all="ignore"):
            if self.repair:
                k0, k1, t = penalty.repair(lam, float(kappa[1]))
                if math.isfinite(k0):
                    lam = [t * v for v in lam]
                    kappa = np.concatenate([[k0, k1], np.zeros(form.n_hidden)])
            value = self._value(penalty, lam, kappa)
        if not value * form.scale < state.upper:
            return
        multipliers = (*lam, kappa)
        upper = penalty_bound(form, multipliers) * form.scale
        if upper < state.upper:
            state.upper = upper
            state.proof = BoundProof("penalty", multipliers, bound=upper)
            state.best_theta = np.log(np.concatenate([*lam, kappa[:2]]) / state.base)
            state.best_slack = kappa[2:] * (penalty.total / state.base[-2])

    def _value(self, penalty: Penalty, lam: list[Values], kappa: Values) -> float:
        if not np.any(kappa[2:]):
            least = penalty.least_bound(lam, float(kappa[1]))
            if least <= kappa[0] * (1.0 + 1e-12):
                return 0.5 * float(kappa[0])
        n = penalty.order
        top = float(la.eigvalsh(penalty.matrix(lam, kappa), subset_by_index=[n - 1, n - 1])[0])
        return 0.5 * (float(kappa[0]) + penalty.total * max(0.0, top))

    def _settle(self, state: Any) -> None:
        state.complete = bool(state.complete or state.nit >= self.n_epochs)
        state.residual = 0.0 if state.complete else 1.0

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Complete after `n_epochs` steps."""
        return Status.CONVERGED if state.complete else None

    def point(self, problem: Any, state: Any) -> BoundProof:
        """Return the proof of the best bound so far."""
        proof: BoundProof = copy.deepcopy(state.proof)
        return proof

    def fields(
        self, problem: LipschitzProblem, state: Any, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return the fields of a bound's result."""
        name = "LipDiff" if state.proof.kind == "penalty" else "product of norms"
        return bound_fields(problem, x, name)


def _check_penalty(proof: BoundProof, widths: list[int]) -> None:
    """Raise if a warm start has multipliers of another network."""
    found = [np.shape(v) for v in proof.multipliers]
    expected = [(n,) for n in (*widths, 2 + sum(widths))]
    if proof.kind == "penalty" and found != expected:
        raise ProblemError(
            f"LipDiff.solve: x0 has multipliers of shapes {found}, the problem needs {expected}; "
            "give the x of a result of this problem"
        )


def _from_proof(
    form: Chain, proof: BoundProof, lam: list[Values], kappa: Values, slack: Values,
    bound: float | None = None,
) -> tuple[list[Values], Values, Values]:  # fmt: skip
    """Return λ, (κ_0, κ_1) and κ_h of a proof; those given if it has other shapes.

    Multipliers of LipSDP, divided by ρ, are λ divided by the bound L, with κ_0 = 2 L and κ_1 = L.
    """
    widths = [len(v) for v in lam]
    given = [np.asarray(v, dtype=np.float64) for v in proof.multipliers]
    if proof.kind == "penalty" and [v.size for v in given] == [*widths, 2 + sum(widths)]:
        k = given[-1]
        floor = 1e-12 * max(float(v.max(initial=0.0)) for v in given[:-1]) + 1e-300
        if k[0] > 0 and k[1] > 0:
            return [np.maximum(v, floor) for v in given[:-1]], k[:2].copy(), k[2:].copy()
    if proof.kind == "multipliers" and [v.size for v in given] == widths:
        if bound is None:
            from lowrank_opt.lipschitz.certificates import chain_upper

            bound = chain_upper(form, given)
        if math.isfinite(bound) and bound > 0:
            floor = 1e-12 * max(float(v.max(initial=0.0)) for v in given) + 1e-300
            return (
                [bound * np.maximum(v, floor) for v in given],
                np.array([2.0, 1.0]) * bound,
                slack,
            )
    return lam, kappa, slack
