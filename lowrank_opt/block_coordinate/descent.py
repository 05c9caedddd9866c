"""Block coordinate descent: partitions, selection rules and update rules, by name."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.block_coordinate.plan import BLOCKS, Plan, choose_rules
from lowrank_opt.block_coordinate.positive import check_finite
from lowrank_opt.block_coordinate.selection import (
    GREEDY,
    SELECTIONS,
    next_block,
    plan_gradient,
    singles,
)
from lowrank_opt.block_coordinate.updates import UPDATES
from lowrank_opt.core.params import COUNT, Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasSmoothPart
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BlockCoordinateDescent", "DescentState"]

# Passes over the variables after which products are computed anew, against drift.
_FRESH = 500
# Updates of single variables, without randomness beyond their order, that one kernel can do.
_ONE_STEP = ("gradient", "matrix", "exact", "prox_gradient")
# Codes of greedy scores in kernels.
_KINDS = {"gs": 0, "gsl": 0, "gsd": 0, "gsq": 0, "gs-s": 0, "gs-r": 1, "gs-q": 2, "gsq-nn": 2}


@dataclass
class DescentState(State):
    """State of block coordinate descent.

    Parameters
    ----------
    x : ndarray of float64
        The point, flat.
    work : ndarray of float64
        Its products with the data: predictors, or ``A x``.
    gradient : ndarray of float64 or None
        Gradient of the smooth part at the point, if it is known.
    estimates : ndarray of float64 or None
        Lipschitz constants that "lipschitz_search" has found.
    permutation, queue : ndarray of int64 or None
        Order of the variables in this pass; what a greedy rule has chosen for the next updates.
    place : int
        Where in the cycle the next block is.
    since : int
        Variables updated since the products were computed anew.
    idle : int
        Updates since one that changed anything.
    """

    work: Any = None
    gradient: Any = None
    estimates: Any = None
    permutation: Any = None
    queue: Any = None
    place: int = 0
    since: int = 0
    idle: int = 0


class BlockCoordinateDescent(Solver):
    r"""Block coordinate descent with the selection and update rules of Nutini, Laradji, Schmidt.

    Solves

    .. math:: \min_x\; f(x) + \sum_b h_b(x_b)

    for every smooth part and penalty of this family: in each iteration a block b of variables is
    selected, and changed with the rest held fixed. Choose it for sparse quadratics (message
    passing on huge blocks), for smooth models, and to compare rules. For penalised linear models
    of many variables :class:`~lowrank_opt.block_coordinate.SparseGLMSolver` is faster.

    Parameters
    ----------
    block_size : int, "all" or None, default=None
        Variables of a block; a last fixed block may have fewer. ``None``: for linear models
        without a penalty all variables, at most 500; else 1. Not used where `blocks` says it.
    blocks : str, array-like of int, or list of arrays, default="auto"
        "variable": any variables make a block. Fixed blocks: "order" (consecutive variables),
        "sort" and "avg" (by Lipschitz constants: similar ones together, or mixed), "hsort" and
        "havg" (the same by row sums of the bound of the Hessian), "color" (uncoupled variables),
        "forest" (couplings without cycles), "groups" (those of the penalty), the label of every
        variable, or a list of blocks. "greedy_forest" and "random_forest" find a huge block
        without cycles in every iteration, "bounded_fill" one whose factor has at most
        `block_size` (by default 8) entries below the diagonal in a column. "auto": "groups" for
        ``GroupL1``; "order" for cycles of single variables; else "variable".
    selection : str, default="auto"
        How the next block is found; see the notes. "auto": for quadratics "gsd", with a penalty
        "gs-q"; "cyclic" for fixed blocks and for single variables of a linear model, where a
        greedy choice costs a pass over the data; without a bound of the Hessian "gs" and "gs-s".
    update : str, default="auto"
        How the variables of a block change; see the notes. "auto": "exact" for quadratics,
        "forest" on forests; of the others "newton" or, for single variables, "gradient"; with a
        penalty "prox_newton", for single variables, groups, blocks of a graph, MCP and SCAD
        "prox_gradient". Without a bound of the Hessian "newton", "prox_newton" or
        "lipschitz_search".
    bound : {"lipschitz", "tau", "rowsum"}, default="lipschitz"
        Diagonal D of "gsd", and of "gs-q" and "gs-r" for variable blocks: the Lipschitz constants
        (of single variables: no bound for blocks), these times the size of the block, or the sums
        of absolute values of the rows of a bound of the Hessian.
    block_norm : {"l2", "l1"}, default="l2"
        Whether the score of a fixed block is a sum of squares, as in the theory, or of absolute
        values, as in the paper's experiments.
    greedy_refresh : int, default=1
        Blocks that a greedy rule chooses at once, from one gradient.
    armijo : float, default=1e-4
        Part of the decrease that the slope promises which line searches demand, in (0, 1).
    tol : float, default=1e-6
        Stops when the residual is at most `tol`: as ``problem.measure`` says, the duality gap
        over ``problem.scale``, or the largest distance to the subdifferential (for smooth
        problems: derivative) over ``problem.null_gradient``.
    max_iter : int, default=1_000_000
        Limit on iterations: updates of a block.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int, "auto" or None, default=None
        Iterations between two checks of residual and limits. ``None``: one pass over the
        variables, at most 10 iterations where each of them needs the gradient by all variables.
    n_threads : int or None, default=1
        Threads of BLAS; blocks are updated one after the other.
    random_state : int, Generator or None, default=0
        Seed of random rules.

    Notes
    -----
    Selection rules, with derivatives g (with a penalty, the subgradient of least norm), Lipschitz
    constants L and a bound H of the Hessian:

    ============  ==================================================================
    "random"      uniform
    "lipschitz"   with probability proportional to L
    "cyclic"      one after the other; variable blocks: slices of a permutation, a new one a pass
    "gs"          largest \|g_b\|; "gs-s" is the same
    "gsl"         largest \|g_b\|^2 / L_b; variable blocks: row sums instead of L
    "gsd"         largest sum of g_i^2 / D_i, see `bound`
    "gsq"         largest g_b' H_b^-1 g_b, fixed blocks or single variables
    "gsq-iht"     the same for variable blocks, by iterative hard thresholding
    "gsq-omp"     the same, by adding the variable of the largest gain in turn
    "mi"          largest decrease of the objective, down to its rounding; solves every fixed block
    "gs-r"        largest proximal step
    "gs-q"        largest decrease of a proximal step's model
    "gsq-nn"      the same for ``NonNegative``
    ============  ==================================================================

    Update rules: "gradient" (step 1 / L_b), "lipschitz_search" (the same with an estimate of L_b
    that is doubled where it is too small), "matrix" (bound H_b), "newton" (Hessian, line search),
    "cubic" (Hessian and its Lipschitz constant, no line search), "exact" (quadratics), "forest"
    (the same by elimination along trees); with a penalty "prox_gradient", "prox_newton" (a model
    by coordinate descent, line search), "tmp" (two-metric projection: Newton on the variables
    that are not held at a bound or at 0, search along the projected arc), "lipschitz_search",
    "exact". On blocks of one colour proximal steps are exact, each variable having its own
    constant.

    With "gs-s", "gs-q" or "gsq-nn", blocks of at least as many variables as are not at a kink in
    the end, and "prox_newton" or "tmp", the last phase converges superlinearly; for quadratics
    and the squared loss it ends after finitely many steps.

    Cost per iteration: single variables with a rule that does not look at all derivatives: two
    passes over a column, compiled; greedy rules on sparse quadratics: a row and a heap; else the
    gradient by all variables for greedy rules, and the update: ``n tau^2`` flops for a Hessian of
    tau variables, ``tau^3`` to factorise it (kept for fixed blocks where it is constant), linear
    for forests.

    Guarantee: every update decreases the objective; see [1]_ for the rates.

    References
    ----------
    .. [1] J. Nutini, I. Laradji, M. Schmidt, "Let's Make Block Coordinate Descent Converge
       Faster", JMLR 23, 2022. :arxiv:`1712.08859`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import BlockCoordinateDescent, QuadraticProblem
    >>> problem = QuadraticProblem([[2.0, 1.0], [1.0, 2.0]], [3.0, 3.0])
    >>> BlockCoordinateDescent(tol=1e-9).solve(problem).x.round(6)
    array([1., 1.])
    """

    requires: ClassVar[tuple[type, ...]] = (HasSmoothPart,)
    citation: ClassVar[str | None] = (
        "@article{nutini2022let, title={Let's Make Block Coordinate Descent Converge Faster: "
        "Faster Greedy Rules, Message-Passing, Active-Set Complexity, and Superlinear "
        "Convergence}, author={Nutini, Julie and Laradji, Issam and Schmidt, Mark}, "
        "journal={Journal of Machine Learning Research}, volume={23}, number={131}, year={2022}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints,
        "block_size": [None, COUNT, StrOptions({"all"})],
        "blocks": [StrOptions(BLOCKS), "array"],
        "selection": [StrOptions({"auto", *SELECTIONS})],
        "update": [StrOptions({"auto", *UPDATES})],
        "bound": [StrOptions({"lipschitz", "tau", "rowsum"})],
        "block_norm": [StrOptions({"l1", "l2"})],
        "greedy_refresh": [Interval(Integral, 1, None, closed="left")],
        "armijo": [Interval(Real, 0, 1, closed="neither")],
        "check_every": [None, COUNT, StrOptions({"auto"})],
    }

    def __init__(
        self,
        *,
        block_size: Any = None,
        blocks: Any = "auto",
        selection: str = "auto",
        update: str = "auto",
        bound: str = "lipschitz",
        block_norm: str = "l2",
        greedy_refresh: int = 1,
        armijo: float = 1e-4,
        tol: float = 1e-6,
        max_iter: int = 1_000_000,
        max_time: float | None = None,
        check_every: int | str | None = None,
        n_threads: int | None = 1,
        random_state: Any = 0,
    ) -> None:
        self.block_size = block_size
        self.blocks = blocks
        self.selection = selection
        self.update = update
        self.bound = bound
        self.block_norm = block_norm
        self.greedy_refresh = greedy_refresh
        self.armijo = armijo
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads
        self.random_state = random_state

    def check(self, problem: Any) -> None:
        """Raise if a parameter is out of range, or rules do not go together; see the class."""
        super().check(problem)
        choose_rules(self, problem)

    def check_interval(self, problem: Any) -> int | str:
        """Return the iterations between two checks."""
        if self.check_every is not None:
            return self.check_every
        choice, smooth = choose_rules(self, problem), problem.smooth
        if choice.kind in ("color", "forest", "greedy_forest", "random_forest", "bounded_fill"):
            return 1
        passed = -(-smooth.n_variables // choice.size)
        single = choice.size == 1 and choice.kind != "groups"
        if choice.kind == "labels":
            listed = any(np.ndim(b) for b in choice.blocks)
            passed = len(choice.blocks) if listed else int(np.max(choice.blocks)) + 1
            single = False
        looks = choice.selection in GREEDY and smooth.coupling is None
        return max(1, min(passed, passed if single and not looks else 10))

    def init(self, problem: Any, x0: Any = None) -> DescentState:
        """Return the first state; see :class:`Solver`."""
        plan = Plan(self, problem)
        x = np.zeros(plan.n) if x0 is None else problem.flat(x0)
        state = DescentState(x=plan.penalty.feasible(x), rng=make_rng(self.random_state))
        state.cache = plan
        state.work = plan.smooth.start(state.x)
        if plan.choice.update == "lipschitz_search":
            state.estimates = np.ones(plan.n)
        state.residual = _residual(plan, state)
        return state

    def step(self, problem: Any, state: Any, n: int = 1) -> DescentState:
        """Update `n` blocks; see :class:`Solver`."""
        if state.cache is None:
            state.cache = Plan(self, problem)
        plan: Plan = state.cache
        fused, done = _has_kernel(plan), 0
        while done < n:
            count = 1
            if fused:
                count = min(n - done, max(1, _FRESH * plan.n - state.since))
                _run_kernel(plan, state, count)
            else:
                _update_block(plan, state)
            done += count
            state.nit += count
            state.count(updates=count)
            if state.since >= _FRESH * plan.n:
                state.work, state.since = plan.smooth.start(state.x), 0
                state.gradient = None
            if state.idle >= _patience(plan):
                break
        state.residual = _residual(plan, state)
        return state

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Return why to stop; ``STALLED`` where updates no longer change anything."""
        status = super().terminate(problem, state)
        if status is not None:
            return status
        plan = state.cache
        if plan is not None and state.idle >= _patience(plan):
            state.message = "Updates no longer change the point: rounding limits the accuracy"
            return Status.STALLED
        return None

    def point(self, problem: Any, state: Any) -> Any:
        """Return the point in the problem's shape and dtype, within the bounds of the penalty."""
        x = problem.smooth.shaped(state.x)
        if x.dtype == np.float64:
            return x
        return _inside(problem.penalty, x)


def _patience(plan: Plan) -> float:
    """Updates without change after which there will be none."""
    rule = plan.choice.selection
    if rule in GREEDY:
        return 2 * plan.options.greedy_refresh
    if rule == "lipschitz":  # some blocks may come very rarely
        return np.inf
    return (2 if rule == "cyclic" else 50) * plan.n_blocks


def _update_block(plan: Plan, state: Any) -> None:
    """Select a block and change it."""
    smooth, waiting = plan.smooth, state.queue is not None and state.queue.size > 0
    looks = plan.choice.selection in GREEDY and plan.choice.selection != "mi" and not waiting
    k, b = next_block(plan, state)
    # Which of two ways to round is taken must not depend on whether a check came in between.
    if looks or b.size == plan.n:
        g = plan_gradient(plan, state)[b]
    else:
        g = smooth.block_gradient(state.work, state.x, b)
    target, direction = UPDATES[plan.choice.update](plan, state, k, b, g)
    check_finite(target, "a step")
    d = target - state.x[b]
    if d.any():
        smooth.move(state.work, state.x, b, d, direction)
        state.x[b] = target  # exactly: a kink is a number, not a neighbourhood
        state.gradient = None
        state.idle = 0
    else:
        state.idle += 1
    state.since += b.size


# -- runs of single variables, compiled ------------------------------------------------------------


def _has_kernel(plan: Plan) -> bool:
    """Whether updates are steps of single variables that a kernel can do by itself."""
    smooth, choice = plan.smooth, plan.choice
    if plan.singles is None or not plan.penalty.separable:
        return False
    second = choice.update in ("newton", "prox_newton") and plan.quadratic
    if not (choice.update in _ONE_STEP or second) or not np.isfinite(smooth.lipschitz).all():
        return False
    if hasattr(smooth, "A"):
        if choice.selection in ("random", "lipschitz", "cyclic"):
            return True
        plain = choice.selection in ("gs-r", "gs-q", "gsq-nn") or plan.penalty.absent
        return choice.selection in _KINDS and plain and plan.options.greedy_refresh == 1
    ordered = choice.selection in ("random", "lipschitz", "cyclic")
    return ordered and hasattr(smooth, "X") and smooth.y.ndim == 1


def _run_kernel(plan: Plan, state: Any, n: int) -> None:
    """Update `n` variables."""
    from lowrank_opt.block_coordinate import kernels_descent as kernels

    smooth, penalty = plan.smooth, plan.penalty
    L, pen, m = plan.lipschitz, penalty.penalty, penalty.n_penalized
    x, work = state.x, state.work
    before = x.copy()
    greedy = plan.choice.selection in _KINDS
    order = np.empty(n, np.int64) if greedy else singles(plan, state, n)
    if hasattr(smooth, "A"):
        sparse = smooth.coupling is not None
        A = smooth.A
        if sparse:
            parts: tuple[Any, ...] = (A.data, A.indices, A.indptr)
        else:
            parts = (A if A.flags.c_contiguous else A.T,)
        if greedy:
            run = kernels.greedy_quadratic_csr if sparse else kernels.greedy_quadratic_dense
            kind = _KINDS[plan.choice.selection]
            run(*parts, smooth.b, work, x, L, plan.divisors, kind, pen, m, n, order)
        else:
            run = kernels.sweep_quadratic_csr if sparse else kernels.sweep_quadratic_dense
            run(*parts, smooth.b, work, x, L, order, pen, m)
    else:
        X = smooth.X
        weights = np.empty(0) if smooth.sample_weight is None else smooth.sample_weight
        tail = (smooth.y, weights, work, x, L, order, smooth.l2, smooth.loss, pen, m)
        if isinstance(X, np.ndarray):
            kernels.sweep_glm_dense(X, *tail)
        else:
            kernels.sweep_glm_csc(X.data, X.indices, X.indptr, *tail)
    state.gradient = None
    if not np.isfinite(x).all():
        state.x, state.work = before, smooth.start(before)  # the last point that can be graded
        raise np.linalg.LinAlgError(
            "steps grow without end: the objective is not bounded below, or not convex"
        )
    state.idle = state.idle + n if np.array_equal(x, before) else 0
    state.since += n


# -- residual --------------------------------------------------------------------------------------


def _residual(plan: Plan, state: Any) -> float:
    """What the problem's certificate measures, from the products at hand."""
    problem, smooth, penalty = plan.problem, plan.smooth, plan.penalty
    if problem.measure == "gap":
        from lowrank_opt.block_coordinate.certificates import lower_bound

        w = problem.coefficients(state.x)
        bound, _ = lower_bound(smooth, problem.penalty, state.work, w)
        value = float(smooth.value_at(state.work, state.x)) + penalty.value(
            plan.everything, state.x
        )
        return max(value - bound, 0.0) / float(problem.scale)
    g = plan_gradient(plan, state)
    pseudo = penalty.subgradient(plan.everything, state.x, g)
    return penalty.largest(plan.everything, pseudo) / float(problem.null_gradient)


def _inside(penalty: Any, x: NDArray[Any]) -> NDArray[Any]:
    """Move float32 numbers that rounding brought out of a box back into it."""
    low, high = getattr(penalty, "low", None), getattr(penalty, "high", None)
    if low is None or high is None:
        return x
    wide = x.astype(np.float64)
    x = np.where(wide < low, np.nextafter(x, np.float32(np.inf)), x)
    return np.where(wide > high, np.nextafter(x, np.float32(-np.inf)), x)
