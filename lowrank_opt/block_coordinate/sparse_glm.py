"""The production solver of sparse generalised linear models: one interface, three engines."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.block_coordinate.glm import GLMProblem
from lowrank_opt.block_coordinate.losses import Softmax, Squared
from lowrank_opt.core.params import StrOptions
from lowrank_opt.core.protocols import HasSmoothPart
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import Status
from lowrank_opt.numerics.penalties import SquaredL2

if TYPE_CHECKING:
    from lowrank_opt.block_coordinate.sparse_state import SparseState

__all__ = ["SparseGLMSolver"]

# Which module does a problem; each has check(solver, problem), init(solver, problem, x0, previous),
# step(solver, problem, state) and point(problem, state).
_ENGINES = {
    "squared": "lowrank_opt.block_coordinate.squared",
    "prox_newton": "lowrank_opt.block_coordinate.prox_newton",
    "block": "lowrank_opt.block_coordinate.block_working_set",
}


class SparseGLMSolver(Solver):
    r"""Working sets, screening and second-order steps for penalised linear models.

    Solves :class:`~lowrank_opt.block_coordinate.CompositeProblem` with a
    :class:`~lowrank_opt.block_coordinate.GLMProblem`,

    .. math:: \min_{w, b}\; \sum_i s_i\, \ell(y_i, x_i^\top w + b) + h(w),

    for every loss and penalty of these classes. An iteration reads the whole design once, finds
    the duality gap and the coefficients that can matter, and solves the problem restricted to
    those to a part of the gap.

    ===========================================  ===================================================
    squared loss, L1 / elastic net / w >= 0      coordinate descent on the working set; on the
                                                 support, in Gram form, Newton steps that end with
                                                 the exact solution once its signs are right [1]_
    logistic, Huber, Poisson loss, same          proximal Newton steps on the working set, line
    penalties                                    search on the objective [2]_
    everything else: groups, several outputs,    block coordinate descent on the working set,
    softmax, boxes, MCP, SCAD                    extrapolated [3]_, Newton steps on the support
    ===========================================  ===================================================

    Parameters
    ----------
    working_set : bool, default=True
        Whether to restrict inner iterations to the coefficients that can matter.
    screening : {"gap_safe", "none"}, default="gap_safe"
        Whether to discard for good the coefficients that the duality gap proves to be 0. It
        changes the time, not the answer; problems without a gap have none.
    acceleration : {"anderson", "none"}, default="anderson"
        Whether to extrapolate coordinate descent where it is what limits the speed.
    newton_phase : bool, default=True
        Whether to take Newton steps on the support.
    gram : {"auto", "always", "never"}, default="auto"
        Whether coordinate descent on the support works on products of columns instead of
        residuals; "auto": by what both cost. "never" leaves out the Newton steps of the squared
        loss too, which need these products.
    tol : float, default=1e-6
        Stops when the residual is at most `tol`: the duality gap over ``problem.scale``, or, for
        problems without one (``problem.measure``), the largest distance to the subdifferential
        over ``problem.null_gradient``.
    max_iter : int, default=1000
        Limit on iterations, which read the whole design.
    max_time : float or None, default=None
        Limit on seconds, checked after each iteration.
    check_every : int or "auto", default=1
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=1
        Threads of BLAS; coordinate descent is sequential. ``None``: all that BLAS may use.

    Notes
    -----
    ``Result.x`` is an array of the problem's ``x_shape``, the intercept last. For paths see
    :func:`~lowrank_opt.block_coordinate.lasso_path`.

    Cost per iteration: one pass over the design, less what screening has discarded, and the
    inner iterations, which read the working set only. Memory beyond the data:
    ``O(n_samples + n_features)`` and, in Gram form, the square of the largest support, at most
    4000 columns.

    Without a new least residual for 40 iterations, or when ten in a row find no step, the status
    is ``STALLED``: rounding, or a nearly flat objective, allows no more.

    Guarantee: for convex problems every answer with status ``CONVERGED`` has the accuracy that
    its certificate says, whatever the steps were. For MCP and SCAD it is a stationary point.

    References
    ----------
    .. [1] J. Nutini, I. Laradji, M. Schmidt, "Let's Make Block Coordinate Descent Converge
       Faster", JMLR 23, 2022. :arxiv:`1712.08859`
    .. [2] J. Lee, Y. Sun, M. Saunders, "Proximal Newton-type methods for minimizing composite
       functions", SIAM Journal on Optimization 24, 2014. :arxiv:`1206.1623`
    .. [3] Q. Bertrand, M. Massias, "Anderson acceleration of coordinate descent", AISTATS 2021.
       :arxiv:`2011.10065`
    .. [4] E. Ndiaye, O. Fercoq, A. Gramfort, J. Salmon, "Gap Safe screening rules for sparsity
       enforcing penalties", JMLR 18, 2017. :arxiv:`1611.05780`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem, SparseGLMSolver
    >>> from lowrank_opt.numerics import L1
    >>> problem = CompositeProblem(GLMProblem(np.eye(3), [3.0, -2.0, 0.5]), L1(1.0))
    >>> SparseGLMSolver().solve(problem).x
    array([ 2., -1.,  0.])
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
        "working_set": ["boolean"],
        "screening": [StrOptions({"gap_safe", "none"})],
        "acceleration": [StrOptions({"anderson", "none"})],
        "newton_phase": ["boolean"],
        "gram": [StrOptions({"auto", "always", "never"})],
    }

    def __init__(
        self,
        *,
        working_set: bool = True,
        screening: str = "gap_safe",
        acceleration: str = "anderson",
        newton_phase: bool = True,
        gram: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 1000,
        max_time: float | None = None,
        check_every: int | str = 1,
        n_threads: int | None = 1,
    ) -> None:
        self.working_set = working_set
        self.screening = screening
        self.acceleration = acceleration
        self.newton_phase = newton_phase
        self.gram = gram
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Return what keeps the method from solving a problem with a smooth part."""
        lacking = []
        if not isinstance(problem.smooth, GLMProblem):
            lacking.append("a generalised linear model as its smooth part")
        if problem.penalty is None or isinstance(problem.penalty, SquaredL2):
            lacking.append("a penalty with kinks or bounds")
        return lacking

    def engine(self, problem: Any) -> Any:
        """Return the module that solves a problem.

        Parameters
        ----------
        problem : CompositeProblem
            The problem.
        """
        smooth = problem.smooth
        name = "block"
        if smooth.y.ndim == 1 and problem.l1_form() is not None:
            name = "squared" if isinstance(smooth.loss, Squared) else "prox_newton"
        if isinstance(smooth.loss, Softmax):
            name = "block"
        return importlib.import_module(_ENGINES[name])

    def init(self, problem: Any, x0: Any = None) -> SparseState:
        """Return the first state; see :class:`Solver`."""
        engine = self.engine(problem)
        engine.check(self, problem)
        state: SparseState = engine.init(self, problem, x0)
        return state

    def follow(self, problem: Any, previous: SparseState) -> SparseState:
        """Return the first state of a problem with the same data and another penalty.

        Parameters
        ----------
        problem : CompositeProblem
            The problem.
        previous : State
            Last state of the run on the other penalty; it is used up.
        """
        state: SparseState = self.engine(problem).init(self, problem, None, previous)
        state.idle, state.failures, state.best_residual = 0, 0, np.inf
        return state

    def step(self, problem: Any, state: Any, n: int = 1) -> SparseState:
        """Do `n` iterations; see :class:`Solver`."""
        engine = self.engine(problem)
        for _ in range(n):
            state = engine.step(self, problem, state)
            state.look()
            if self.terminate(problem, state) is not None:
                break
        return state

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Return why to stop: ``STALLED`` where rounding, or the method, allows no progress."""
        status = super().terminate(problem, state)
        return Status.STALLED if status is None and state.stalled else status

    def point(self, problem: Any, state: Any) -> Any:
        """Return coefficients and intercept."""
        return self.engine(problem).point(problem, state)
