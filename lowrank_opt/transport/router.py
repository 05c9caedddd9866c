"""Routing of tokens to experts by sparse transport, and the usual alternatives."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from lowrank_opt.core.backend import Backend
from lowrank_opt.core.errors import (
    AccuracyWarning,
    ConvergenceWarning,
    ParameterError,
    ProblemError,
    UnsupportedBackendError,
)
from lowrank_opt.core.params import COUNT, Interval, StrOptions, validate_parameters
from lowrank_opt.numerics._arrays import device, kernel_input, namespace, real_array
from lowrank_opt.transport import reference_router as reference
from lowrank_opt.transport.functions import expert_capacity
from lowrank_opt.transport.problems import TransportProblem
from lowrank_opt.transport.sparsity_constrained import SparsityConstrainedOT

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Routing", "TopKRouter"]

_POSITIVE = Interval(Real, 0, None, closed="neither")
_CONSTRAINTS = {
    "method": [
        StrOptions({"sparse", "exact", "topk", "expert_choice", "sinkhorn", "balanced"}),
    ],
    "choose": [StrOptions({"experts", "tokens"})],
    "n_chosen": [COUNT],
    "capacity": [None, COUNT],
    "capacity_factor": [None, _POSITIVE],
    "multiple_of": [COUNT],
    "priority": [StrOptions({"order", "gates"})],
    "scores": [StrOptions({"logits", "gates"})],
    "gamma": [_POSITIVE],
    "reg": [_POSITIVE],
    "n_iter": [Interval(Integral, 0, None, closed="left")],
    "step_size": [_POSITIVE],
    "n_threads": [None, COUNT],
}
# Who chooses, where the method leaves no choice.
_CHOOSERS = {
    "topk": "tokens", "expert_choice": "experts", "sinkhorn": "tokens", "balanced": "tokens",
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Routing:
    """Which token goes to which expert, for one group of tokens or several.

    Arrays have the library, device and float dtype of the logits (float32 for float16, float64
    for integers); ``...`` is the axis of groups, or nothing. A chooser is an expert when experts
    choose tokens, a token when tokens choose.

    Parameters
    ----------
    indices : array of int64, of shape (..., choosers, k)
        What each chooser is given, ascending: tokens of an expert, or experts of a token; -1
        fills up.
    weights : array of shape (..., choosers, k)
        Combine weights: the gates of these pairs, 0 where there is none. They are the gates as
        they are, and those of a token do not sum to 1; for matrices that do, divide the rows of
        :meth:`dispatch`, see there.
    plan : array of shape (..., choosers, k)
        Masses of the transport plan, in units of a token.
    load : array of int64, of shape (..., experts)
        Tokens that each expert gets.
    n_experts : array of int64, of shape (..., tokens)
        Experts that each token gets.
    row_residual : array of float64, of shape (...)
        How far the sums of the plan of the side that does not choose are off: sum of absolute
        errors over the number of tokens. Before a capacity drops anything.
    dual_value : array of float64, of shape (...), or None
        A lower bound on the value of every plan with the cap, up to rounding; ``None`` for
        methods without potentials.
    potentials : array of float64, of shape (..., options), or None
        Potentials of the side that does not choose.
    choose : {"experts", "tokens"}
        Who chooses.
    """

    indices: Any
    weights: Any
    plan: Any
    load: Any
    n_experts: Any
    row_residual: Any
    dual_value: Any
    potentials: Any
    choose: str

    @property
    def dropped(self) -> Any:
        """Mask of the tokens that no expert gets, of shape (..., tokens)."""
        return self.n_experts == 0

    @property
    def gate_sum(self) -> Any:
        """Sum of the gates of all pairs, of shape (...)."""
        xp = namespace(self.weights)
        return xp.sum(xp.sum(xp.astype(self.weights, xp.float64), axis=-1), axis=-1)

    def dispatch(self) -> Any:
        """Return the combine weights as sparse matrices on the host.

        Returns
        -------
        csr_array of shape (tokens, experts), or list of csr_array
            One matrix a group; stored entries are the pairs, also where a gate is 0.

        Notes
        -----
        Rows sum to the gates that a token was given. For weights of sum 1 a token divide by that,
        where it is not 0:

        >>> import numpy as np
        >>> from lowrank_opt.transport import TopKRouter
        >>> W = TopKRouter("topk", n_chosen=2).route(np.array([[2.0, 1.0, 0.0]])).dispatch()
        >>> sums = W.sum(axis=1)
        >>> W.data /= np.repeat(np.where(sums > 0, sums, 1.0), np.diff(W.indptr))
        >>> W.sum(axis=1)
        array([1.])
        """
        backend = Backend.of(self.indices)
        indices, weights = (backend.to_numpy(part) for part in (self.indices, self.weights))
        single = indices.ndim == 2
        if single:
            indices, weights = indices[None], weights[None]
        shape = self.n_experts.shape[-1], self.load.shape[-1]
        out = [self._matrix(i, w, shape) for i, w in zip(indices, weights, strict=True)]
        return out[0] if single else out

    def _matrix(self, indices: Any, weights: Any, shape: tuple[int, int]) -> sp.csr_array:
        used = indices >= 0
        pointers = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
        parts = (weights[used], indices[used], pointers)
        if self.choose == "tokens":
            return sp.csr_array(parts, shape=shape)
        return sp.csr_array(sp.csc_array(parts, shape=shape))

    def __repr__(self) -> str:
        groups = "" if self.load.ndim == 1 else f"{self.load.shape[0]} groups of "
        return (
            f"Routing({groups}{self.n_experts.shape[-1]} tokens to {self.load.shape[-1]} experts, "
            f"{self.choose} choose)"
        )


class TopKRouter(BaseEstimator):
    r"""Route tokens to experts by sparsity-constrained optimal transport.

    Tokens have mass 1, experts share it evenly, the cost of a pair is minus its gate. A cap of k
    tokens for every expert (``choose="experts"``), or of k experts for every token
    (``choose="tokens"``), makes the plan a dispatch: balanced up to what the iterations leave,
    without an auxiliary loss. The groups of a batch are independent.

    Parameters
    ----------
    method : str, default="sparse"
        "sparse": the semi-dual of the capped plan, raised by `n_iter` steps of Adam from 0.
        "exact": the same problem solved to the end by
        :class:`~lowrank_opt.transport.SparsityConstrainedOT`. For comparison: "topk" (tokens
        take their best experts), "expert_choice" (experts take their best tokens), "sinkhorn"
        (tokens take the largest entries of their row of the balanced entropic plan), "balanced"
        (every token one expert, each expert its share, rounded down or up, with the largest sum
        of gates).
    choose : {"experts", "tokens"}, default="experts"
        Whose number of choices is capped, for "sparse" and "exact"; the other methods decide
        themselves.
    n_chosen : int, default=1
        Most experts of a token, where tokens choose; at most the number of experts. 1 for
        "balanced" and where experts choose: how many experts want a token is up to them.
    capacity : int or None, default=None
        Most tokens of an expert. ``None``: :func:`~lowrank_opt.transport.expert_capacity` with
        the next two parameters, for ``n_chosen`` times the tokens where tokens choose. Where
        tokens choose, an expert that is full drops what comes later.
    capacity_factor : float or None, default=1.0
        Capacity of all experts together, over what is needed. ``None``: no limit where tokens
        choose.
    multiple_of : int, default=4
        The capacity is raised to a multiple of this.
    priority : {"order", "gates"}, default="order"
        Whom a full expert drops: what comes later in the order of the tokens, or tokens whose
        largest gate is smaller. First choices of all tokens come before second ones.
    scores : {"logits", "gates"}, default="logits"
        Whether the input goes through a softmax over the experts ("logits"), or is the gates,
        which are at least 0.
    gamma : float, default=1.0
        Strength of the quadratic term of "sparse" and "exact".
    reg : float, default=0.05
        Strength of the entropy of "sinkhorn".
    n_iter : int, default=20
        Steps of Adam; sweeps of "sinkhorn".
    step_size : float, default=0.01
        Step of Adam.
    n_threads : int or None, default=1
        Threads over the groups of numpy arrays; ``None``: as many as numba may use. The result
        is the same.

    Attributes
    ----------
    routing_ : Routing
        Everything about the tokens of ``fit``.
    dispatch_ : csr_array of shape (n_tokens, n_experts)
        Combine weights of the pairs.
    n_features_in_ : int
        Number of experts.
    feature_names_in_ : ndarray of str
        Their names, when the logits have some.

    Notes
    -----
    A router has nothing to learn: :meth:`route` needs no ``fit``. There is no ``transform``: where
    a token goes depends on the other tokens of its group.

    For numpy arrays the groups run in compiled code; for other libraries the same steps are
    batched array operations where the logits live. "exact" and "balanced" are for numpy only.

    Cost of "sparse": ``n_iter + 1`` passes over the gates. "balanced" solves an assignment
    problem with as many rows and columns as there are tokens.

    References
    ----------
    .. [1] T. Liu, J. Puigcerver, M. Blondel, "Sparsity-Constrained Optimal Transport", ICLR 2023.
       :arxiv:`2209.15466`
    .. [2] Y. Zhou et al., "Mixture-of-Experts with Expert Choice Routing", NeurIPS 2022.
       :arxiv:`2202.09368`
    .. [3] M. Lewis et al., "BASE Layers: Simplifying Training of Large, Sparse Models",
       ICML 2021. :arxiv:`2103.16716`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.transport import TopKRouter
    >>> logits = np.array([[2.0, 0.0], [1.5, 0.0], [1.0, 0.0], [0.5, 0.0]])
    >>> routing = TopKRouter(capacity=2).route(logits)
    >>> routing.load.tolist(), routing.dropped.tolist()
    ([2, 2], [False, False, False, False])
    >>> TopKRouter(method="topk", capacity=2).route(logits).dropped.tolist()
    [False, False, True, True]
    """

    def __init__(
        self,
        method: str = "sparse",
        *,
        choose: str = "experts",
        n_chosen: int = 1,
        capacity: int | None = None,
        capacity_factor: float | None = 1.0,
        multiple_of: int = 4,
        priority: str = "order",
        scores: str = "logits",
        gamma: float = 1.0,
        reg: float = 0.05,
        n_iter: int = 20,
        step_size: float = 1e-2,
        n_threads: int | None = 1,
    ) -> None:
        self.method = method
        self.choose = choose
        self.n_chosen = n_chosen
        self.capacity = capacity
        self.capacity_factor = capacity_factor
        self.multiple_of = multiple_of
        self.priority = priority
        self.scores = scores
        self.gamma = gamma
        self.reg = reg
        self.n_iter = n_iter
        self.step_size = step_size
        self.n_threads = n_threads

    def fit(self, X: ArrayLike, y: Any = None) -> TopKRouter:
        """Route one group of tokens and keep the outcome.

        Parameters
        ----------
        X : array-like of shape (n_tokens, n_experts)
            Logits, or gates.
        y : None
            Ignored.

        Returns
        -------
        TopKRouter
            Itself.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], allow_nd=True)
        if X.ndim > 2:
            raise ProblemError(
                f"X has shape {X.shape}; fit takes one group, of shape (n_tokens, n_experts): "
                "use route(X) for a batch of groups"
            )
        self.routing_ = self.route(X)
        self.dispatch_ = self.routing_.dispatch()
        return self

    def fit_transform(self, X: ArrayLike, y: Any = None) -> sp.csr_array:
        """Route one group of tokens, and return the combine weights.

        Parameters
        ----------
        X : array-like of shape (n_tokens, n_experts)
            Logits, or gates.
        y : None
            Ignored.

        Returns
        -------
        csr_array of shape (n_tokens, n_experts)
            Combine weights of the pairs.
        """
        return self.fit(X).dispatch_

    def route(self, logits: Any, *, potentials: Any = None) -> Routing:
        """Route one group of tokens, or a batch of groups.

        Parameters
        ----------
        logits : array of shape (n_tokens, n_experts) or (n_groups, n_tokens, n_experts)
            Logits, or gates, of any array-API library. Integers become float64, float16 becomes
            float32.
        potentials : array of shape (..., n_options) or None, default=None
            Where "sparse" starts, instead of 0: potentials of an earlier
            :class:`~lowrank_opt.transport.router.Routing`. When tokens choose they belong to the
            experts, and those of one batch serve the next.

        Returns
        -------
        Routing
            Pairs, combine weights, loads, dropped tokens, residual and bound.

        Raises
        ------
        ProblemError
            Logits that are not finite, empty, or of another number of axes; negative gates.
        ParameterError
            A parameter out of range, or ``n_chosen`` above 1 where it has no meaning.
        UnsupportedBackendError
            The method is for numpy only.
        """
        validate_parameters("TopKRouter", self.get_params(deep=False), _CONSTRAINTS)
        logits, xp = real_array("logits", logits)
        if logits.ndim not in (2, 3) or 0 in logits.shape:
            raise ProblemError(
                f"logits has shape {tuple(logits.shape)}; expected (tokens, experts) or (groups, "
                "tokens, experts), none of them 0"
            )
        tokens, experts = logits.shape[-2:]
        choose = _CHOOSERS.get(self.method, self.choose)
        if choose == "tokens" and self.n_chosen > experts:
            raise ParameterError(
                f"TopKRouter: n_chosen={self.n_chosen} with {experts} experts; expected at most "
                "as many"
            )
        if self.n_chosen > 1 and (choose == "experts" or self.method == "balanced"):
            if self.method == "balanced":
                why = "gives every token one expert"
            else:
                why = "lets experts choose, and their number of tokens is capacity"
            cure = ", or choose='tokens'" if self.method in ("sparse", "exact") else ""
            raise ParameterError(
                f"TopKRouter: n_chosen={self.n_chosen} with method={self.method!r}, which {why}; "
                f"leave it at 1{cure}, or take method='topk'"
            )
        if self.scores == "gates":
            negative = logits < 0
            if bool(xp.any(negative)):
                raise ProblemError(
                    f"logits{_first_position(negative, xp)} is negative with scores='gates'; gates "
                    "are at least 0: take scores='logits', or apply a softmax first"
                )
        if potentials is not None and self.method != "sparse":
            raise ParameterError(
                f"TopKRouter: potentials with method={self.method!r}; only 'sparse' starts "
                "somewhere"
            )
        if xp is not np and self.method in ("exact", "balanced"):
            raise UnsupportedBackendError(
                f"TopKRouter: method={self.method!r} works with numpy arrays only; convert the "
                "logits first, or take another method"
            )
        capacity = self._capacity(tokens, experts, choose)
        single = logits.ndim == 2
        if single:
            logits = logits[None, ...]
        options = tokens if choose == "experts" else experts
        start = xp.zeros(
            (logits.shape[0], options),
            dtype=xp.float64,
            device=None if xp is np else device(logits),
        )
        if potentials is not None:
            potentials, _ = real_array("potentials", potentials, like=start)
            if tuple(potentials.shape) not in (tuple(start.shape), tuple(start.shape[1:])):
                raise ProblemError(
                    f"potentials has shape {tuple(potentials.shape)}; expected "
                    f"{tuple(start.shape)}: one for every {_other(choose)}"
                )
            start = start + potentials
        if xp is np and self.method == "sparse":
            parts = self._compiled(logits, choose, capacity, start)
        else:
            parts = self._batched(logits, choose, capacity, start)
        routing = self._finish(*parts, choose, capacity, (tokens, experts))
        return _without_groups(routing) if single else routing

    def _capacity(self, tokens: int, experts: int, choose: str) -> int:
        if self.capacity is not None:
            return min(int(self.capacity), tokens)
        if self.capacity_factor is None:
            return tokens
        requests = self.n_chosen if choose == "tokens" else 1
        factor = float(self.capacity_factor) * requests
        return min(expert_capacity(tokens, experts, factor, int(self.multiple_of)), tokens)

    def _gates(self, logits: Any) -> Any:
        return reference.softmax(logits) if self.scores == "logits" else logits

    # -- the compiled path ------------------------------------------------------------------------

    def _compiled(
        self, logits: Any, choose: str, capacity: int, potentials: Any
    ) -> tuple[Any, ...]:
        """Return gates and choice of every group, in threads."""
        from lowrank_opt.transport.kernels_router import GROUP, choose_group

        groups, tokens, experts = logits.shape
        choosers, options = (experts, tokens) if choose == "experts" else (tokens, experts)
        k = capacity if choose == "experts" else int(self.n_chosen)
        mass = tokens / choosers
        width = GROUP * -(-options // GROUP)
        indices = np.empty((groups, choosers, k), np.int64)
        plan = np.empty((groups, choosers, k), logits.dtype)
        weights = np.zeros_like(plan)
        sums, psi = np.empty((groups, options)), np.empty(groups)

        def run(g: int) -> None:
            gates = self._gates(logits[g])
            turned = gates.T if choose == "experts" else gates
            if width == options:
                wide = kernel_input(turned)
            else:
                wide = np.full((choosers, width), -np.inf, logits.dtype)
                wide[:, :options] = turned
            psi[g] = choose_group(
                wide, k, mass, float(self.gamma), int(self.n_iter), float(self.step_size),
                potentials[g], sums[g], indices[g], plan[g],
            )  # fmt: skip
            weights[g] = np.take_along_axis(wide, np.maximum(indices[g], 0), axis=1)

        n_threads = _thread_count(self.n_threads)
        if n_threads == 1 or groups == 1:
            for g in range(groups):
                run(g)
        else:
            with ThreadPoolExecutor(min(n_threads, groups)) as pool:
                list(pool.map(run, range(groups)))
        weights[indices < 0] = 0
        return None, weights, reference.Choice(indices, plan, sums, psi, potentials)

    # -- array operations -------------------------------------------------------------------------

    def _batched(self, logits: Any, choose: str, capacity: int, potentials: Any) -> tuple[Any, ...]:
        gates = self._gates(logits)
        xp = namespace(gates)
        turned = xp.permute_dims(gates, (0, 2, 1)) if choose == "experts" else gates
        k = capacity if choose == "experts" else int(self.n_chosen)
        choosers, options = turned.shape[-2:]
        mass = gates.shape[-2] / choosers
        if self.method == "sparse":
            choice = reference.choose(
                turned, potentials, k, mass, float(self.gamma), int(self.n_iter),
                float(self.step_size),
            )  # fmt: skip
        elif self.method == "exact":
            choice = self._exact(turned, k, mass)
        else:
            scores = turned
            if self.method == "sinkhorn":
                scores = reference.sinkhorn(gates, float(self.reg), int(self.n_iter))
            if self.method == "balanced":
                best = np.stack([_balanced(group) for group in gates])
            else:
                best = reference.largest(scores, k)
            indices = xp.sort(best, axis=-1)
            each = mass / indices.shape[-1]
            plan = xp.full_like(xp.take_along_axis(turned, indices, axis=-1), each)
            sums = each * xp.astype(_counts(indices, options), xp.float64)
            choice = reference.Choice(indices, plan, sums, None, None)
        safe = xp.where(choice.indices >= 0, choice.indices, xp.zeros_like(choice.indices))
        weights = xp.take_along_axis(turned, safe, axis=-1)
        return gates, xp.where(choice.indices >= 0, weights, xp.zeros_like(weights)), choice

    def _exact(self, turned: Any, k: int, mass: float) -> reference.Choice:
        groups, choosers, options = turned.shape
        a, b = np.full(options, mass * choosers / options), np.full(choosers, mass)
        indices = np.full((groups, choosers, k), -1, np.int64)
        plan = np.zeros((groups, choosers, k), turned.dtype)
        sums, potentials = np.zeros((groups, options)), np.zeros((groups, options))
        bounds = np.zeros(groups)
        for g in range(groups):
            with warnings.catch_warnings():  # places are few by design
                warnings.simplefilter("ignore", AccuracyWarning)
                problem = TransportProblem(a, b, -turned[g].T, max_nnz=k, gamma=float(self.gamma))
                solver = SparsityConstrainedOT(rounding="columns", n_threads=self.n_threads)
                result = solver.solve(problem)
            if not result.success:
                warnings.warn(
                    f"TopKRouter: group {g}: {result.message.rstrip('.')}. Take "
                    "method='sparse', or another gamma.",
                    ConvergenceWarning,
                    stacklevel=5,
                )
            T = _capped(result.x, k)
            for c in range(choosers):
                own = slice(T.indptr[c], T.indptr[c + 1])
                count = own.stop - own.start
                indices[g, c, :count], plan[g, c, :count] = T.indices[own], T.data[own]
            sums[g], potentials[g] = np.asarray(T.sum(axis=1)).ravel(), result.alpha
            bounds[g] = result.dual_value
        psi = np.sum(potentials * a, axis=1) - bounds
        return reference.Choice(indices, plan, sums, psi, potentials)

    # -- what both paths end with -----------------------------------------------------------------

    def _finish(
        self, gates: Any, weights: Any, choice: reference.Choice, choose: str, capacity: int,
        shape: tuple[int, int],
    ) -> Routing:  # fmt: skip
        tokens, experts = shape
        xp = namespace(weights)
        indices, plan = choice.indices, choice.plan
        share = tokens / choice.sums.shape[-1]
        residual = xp.sum(xp.abs(choice.sums - share), axis=-1) / tokens
        bound = None
        if choice.psi is not None:
            bound = share * xp.sum(choice.potentials, axis=-1) - choice.psi
        if choose == "tokens" and capacity < tokens:
            indices = self._within_capacity(indices, weights, capacity, experts)
            kept = indices >= 0
            weights, plan = (xp.where(kept, x, xp.zeros_like(x)) for x in (weights, plan))
        taken = _counts(indices, tokens if choose == "experts" else experts)
        own = xp.sum(xp.astype(indices >= 0, xp.int64), axis=-1)
        load, n_experts = (own, taken) if choose == "experts" else (taken, own)
        return Routing(
            indices, weights, plan, load, n_experts, residual, bound, choice.potentials, choose
        )

    def _within_capacity(self, indices: Any, weights: Any, capacity: int, experts: int) -> Any:
        """Drop the requests of tokens that come when their expert is full."""
        xp = namespace(weights)
        # First choices first, whatever their index.
        rank = xp.argsort(xp.where(indices >= 0, -weights, xp.inf * xp.ones_like(weights)),
                          axis=-1, stable=True)  # fmt: skip
        requests = xp.take_along_axis(indices, rank, axis=-1)
        top = xp.take_along_axis(weights, rank[..., :1], axis=-1)[..., 0]
        keys = -top if self.priority == "gates" else xp.zeros_like(top)
        order = xp.argsort(keys, axis=-1, stable=True)
        if xp is np:
            from lowrank_opt.transport.kernels_router import places_in_group

            places = np.empty_like(requests)
            for group in range(len(requests)):
                places_in_group(requests[group], order[group], experts, places[group])
        else:
            places = reference.places_in_queue(requests, order, experts)
        back = xp.argsort(rank, axis=-1)
        fits = xp.take_along_axis(places, back, axis=-1) < capacity
        return xp.where((indices >= 0) & fits, indices, -xp.ones_like(indices))


def _first_position(mask: Any, xp: Any) -> list[int]:
    """Return the indices of the first true entry."""
    flat = int(xp.argmax(xp.astype(xp.reshape(mask, (-1,)), xp.int32)))
    return [int(i) for i in np.unravel_index(flat, tuple(mask.shape))]


def _other(choose: str) -> str:
    return "token" if choose == "experts" else "expert"


def _thread_count(n_threads: int | None) -> int:
    if n_threads is not None:
        return int(n_threads)
    import numba

    return int(numba.get_num_threads())


def _counts(indices: Any, options: int) -> Any:
    """How often each option occurs in a group; -1 does not count."""
    xp = namespace(indices)
    flat = xp.reshape(indices, (indices.shape[0], -1))
    if xp is np:
        shifted = flat + 1 + (options + 1) * np.arange(len(flat))[:, None]
        counts = np.bincount(shifted.ravel(), minlength=(options + 1) * len(flat))
        return counts.reshape(len(flat), options + 1)[:, 1:]
    # In a sorted list an option begins where everything smaller ends.
    limits = xp.arange(options + 1, dtype=flat.dtype, device=device(flat))
    rows = [xp.sort(flat[g, :]) for g in range(flat.shape[0])]
    ends = xp.stack([xp.searchsorted(row, limits) for row in rows])
    return xp.astype(ends[:, 1:] - ends[:, :-1], xp.int64)


def _capped(plan: Any, k: int) -> sp.csc_array:
    """The k largest entries of every column, in the order of their indices."""
    columns = []
    for j in range(plan.shape[1]):
        own = slice(plan.indptr[j], plan.indptr[j + 1])
        best = np.sort(np.argsort(-plan.data[own], kind="stable")[:k])
        columns.append((plan.indices[own][best], plan.data[own][best]))
    pointers = np.concatenate([[0], np.cumsum([len(i) for i, _ in columns])])
    data, places = (
        np.concatenate(part) for part in ([t for _, t in columns], [i for i, _ in columns])
    )
    return sp.csc_array((data, places, pointers), shape=plan.shape)


def _balanced(gates: Any) -> Any:
    """Expert of every token; the numbers of tokens of two experts differ by at most 1."""
    from scipy.optimize import linear_sum_assignment

    tokens, experts = gates.shape
    share, more = divmod(tokens, experts)
    gains = np.tile(np.asarray(gates, np.float64), (1, share + (more > 0)))
    if more:
        # More than what moving a token can cost: the places of the rounded-down share fill first.
        gains[:, : experts * share] += 2.0 * np.ptp(gates) + 1.0
    _, chosen = linear_sum_assignment(gains, maximize=True)
    return (chosen % experts)[:, None]


def _without_groups(routing: Routing) -> Routing:
    fields = {name: getattr(routing, name) for name in routing.__dataclass_fields__}
    return Routing(**{
        name: value if value is None or isinstance(value, str) else value[0, ...]
        for name, value in fields.items()
    })  # fmt: skip
