"""What a run of block coordinate descent needs besides its state."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.block_coordinate.block_penalty import BlockPenalty
from lowrank_opt.block_coordinate.partition import PARTITIONS, Partition, make_partition
from lowrank_opt.block_coordinate.positive import inverse_root
from lowrank_opt.core.errors import ParameterError
from lowrank_opt.numerics.penalties import MCP, SCAD, GroupL1, NonNegative

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["BLOCKS", "Choice", "Plan", "choose_rules"]

# Blocks that are no partition.
_VARIABLE = ("variable", "greedy_forest", "random_forest", "bounded_fill")
BLOCKS = ("auto", *_VARIABLE, *PARTITIONS)
_GRAPH = ("greedy_forest", "random_forest", "bounded_fill")
# Rules that need Lipschitz constants or a bound of the Hessian.
_BOUNDED_RULES = ("lipschitz", "gsl", "gsd", "gsq", "gsq-iht", "gsq-omp", "gs-r", "gs-q", "gsq-nn")
_BOUNDED_UPDATES = ("gradient", "matrix", "prox_gradient", "cubic")
_SMOOTH_UPDATES = ("gradient", "matrix", "newton", "cubic", "forest")
_SMOOTH_RULES = ("gsq", "gsq-iht", "gsq-omp")
# The largest dense Hessian of a block that is made without being asked for.
_DENSE = 500
# Entries of a column of the factor of a block with bounded fill.
_FILL = 8
# Numbers kept in factors of fixed blocks.
_KEPT = 50_000_000


class Choice(NamedTuple):
    """The rules of a run, without "auto"; `kind` is the name of `blocks`, or "labels"."""

    kind: str
    blocks: Any
    size: int
    selection: str
    update: str


def _refuse(text: str) -> ParameterError:
    return ParameterError(f"BlockCoordinateDescent: {text}")


def choose_rules(solver: Any, problem: Any) -> Choice:
    """Return the rules for a problem.

    Parameters
    ----------
    solver : BlockCoordinateDescent
        Parameters.
    problem : GLMProblem, QuadraticProblem or CompositeProblem
        The problem.

    Returns
    -------
    Choice
        Names without "auto".

    Raises
    ------
    ParameterError
        Rules that do not go together, or not with the problem.
    """
    smooth, penalty = problem.smooth, problem.penalty
    blocks, selection, update = solver.blocks, solver.selection, solver.update
    kind = blocks if isinstance(blocks, str) else "labels"
    if kind == "auto" and isinstance(penalty, GroupL1):
        kind = "groups"
    size = _block_size(solver, smooth, penalty, kind)
    if selection == "auto":
        selection = _auto_selection(smooth, penalty, kind, size)
    if kind == "auto":
        kind = "order" if size == 1 and selection == "cyclic" else "variable"
    # The same blocks, in forms that keep factors or that rules for fixed blocks can take.
    whole = size == smooth.n_variables and penalty is None
    if kind == "variable" and (whole or (size == 1 and selection == "mi")):
        kind = "order"
    variable = kind in _VARIABLE
    if update == "auto":
        update = _auto_update(smooth, penalty, kind, size)
    choice = Choice(kind, blocks if kind == "labels" else kind, size, selection, update)
    _check_selection(solver, smooth, penalty, choice, variable)
    _check_update(smooth, penalty, choice)
    return choice


def _block_size(solver: Any, smooth: Any, penalty: Any, kind: str) -> int:
    n, size = smooth.n_variables, solver.block_size
    if size is None:
        if kind == "bounded_fill":
            return _FILL
        plain = penalty is None and not hasattr(smooth, "A")
        return min(n, _DENSE) if plain and kind not in ("groups", "labels") else 1
    if size == "all":
        return int(n)
    if size > n:
        raise _refuse(f"block_size={size} with {n} variables; at most {n}, or 'all'")
    return int(size)


def _bounded(smooth: Any) -> bool:
    return bool(np.isfinite(smooth.lipschitz).all())


def is_quadratic(smooth: Any) -> bool:
    """Whether the Hessian is constant."""
    return bool(smooth.third_order(np.zeros(1, np.int64)) == 0.0)


def _auto_selection(smooth: Any, penalty: Any, kind: str, size: int) -> str:
    if kind in _GRAPH:
        return "random" if kind == "random_forest" else "gsd"
    if kind not in ("auto", "variable") or size >= smooth.n_variables:
        return "cyclic"
    if hasattr(smooth, "A"):
        return "gsd" if penalty is None else "gs-q"
    if size == 1:
        return "cyclic"
    if penalty is None:
        return "gsd" if _bounded(smooth) else "gs"
    return "gs-q" if _bounded(smooth) else "gs-s"


def _auto_update(smooth: Any, penalty: Any, kind: str, size: int) -> str:
    if kind in ("forest", "color", *_GRAPH):
        if penalty is not None:
            return "prox_gradient"
        return "exact" if kind == "bounded_fill" else "forest"
    single = size == 1 and kind not in ("groups", "labels")
    if penalty is None:
        if is_quadratic(smooth):
            return "exact"
        return "gradient" if single and _bounded(smooth) else "newton"
    if isinstance(penalty, (GroupL1, MCP, SCAD)):
        return "prox_gradient" if _bounded(smooth) else "lipschitz_search"
    return "prox_gradient" if single and _bounded(smooth) else "prox_newton"


def _check_selection(
    solver: Any, smooth: Any, penalty: Any, choice: Choice, variable: bool
) -> None:
    rule, size, kind = choice.selection, choice.size, choice.kind
    if kind in _GRAPH:
        allowed = ("random",) if kind == "random_forest" else ("gs", "gsd")
        if rule not in allowed:
            raise _refuse(
                f"selection={rule!r} with blocks={kind!r}; expected "
                + " or ".join(repr(a) for a in allowed)
            )
    elif variable and size > 1 and rule in ("gsq", "mi"):
        cure = "'gsq-iht' or 'gsq-omp', which approximate it" if rule == "gsq" else "'gsq-omp'"
        raise _refuse(
            f"selection={rule!r} with variable blocks: the best of all blocks of {size} variables "
            f"is NP-hard to find; choose selection={cure}, or fixed blocks such as blocks='sort'"
        )
    if not variable and rule in ("gsq-iht", "gsq-omp"):
        raise _refuse(
            f"selection={rule!r} finds variable blocks; with fixed blocks selection='gsq' is exact"
        )
    if rule in _BOUNDED_RULES and not _bounded(smooth):
        raise _refuse(
            f"selection={rule!r} needs a bound of the Hessian, which {smooth!r} does not have; "
            "choose 'random', 'cyclic', 'gs' or 'gs-s'"
        )
    if rule in _SMOOTH_RULES and penalty is not None:
        raise _refuse(
            f"selection={rule!r} is for problems without a penalty; choose 'gs-q', 'gs-r' or 'gs-s'"
        )
    if rule == "gsq-nn" and not isinstance(penalty, NonNegative):
        raise _refuse("selection='gsq-nn' is for the penalty NonNegative; 'gs-q' is for any")
    several = rule in ("gsq-iht", "gsq-omp", "mi") or kind in _GRAPH
    if solver.greedy_refresh > 1 and several:
        raise _refuse(
            f"greedy_refresh={solver.greedy_refresh} with selection={rule!r}, blocks={kind!r}: "
            "they choose one block at a time; set greedy_refresh=1"
        )
    if isinstance(penalty, GroupL1) and variable:
        raise _refuse(
            f"blocks={kind!r} with the penalty GroupL1: blocks are made of whole groups; set "
            "blocks='groups'"
        )


def _check_update(smooth: Any, penalty: Any, choice: Choice) -> None:
    rule = choice.update
    if rule in _SMOOTH_UPDATES and penalty is not None:
        cure = "prox_gradient" if rule == "gradient" else "prox_newton"
        raise _refuse(
            f"update={rule!r} is for problems without a penalty; with "
            f"{type(penalty).__name__} set update={cure!r}"
        )
    if rule in _BOUNDED_UPDATES and not _bounded(smooth):
        raise _refuse(
            f"update={rule!r} needs a bound of the Hessian, which {smooth!r} does not have; set "
            "update='newton', 'prox_newton' or 'lipschitz_search'"
        )
    if rule == "cubic" and not np.isfinite(smooth.third_order(np.zeros(1, np.int64))):
        raise _refuse(
            f"update='cubic' needs a Lipschitz constant of the Hessian, which {smooth!r} does not "
            "have; set update='newton'"
        )
    if rule == "exact" and not is_quadratic(smooth):
        raise _refuse(
            f"update='exact' is for quadratics and the squared loss, not {smooth!r}; set "
            "update='newton' or 'prox_newton'"
        )
    second = rule in ("exact", "prox_newton", "tmp")
    if second and isinstance(penalty, (GroupL1, MCP, SCAD)):
        raise _refuse(
            f"update={rule!r} is for convex penalties of single variables, not "
            f"{type(penalty).__name__}; set update='prox_gradient'"
        )
    if rule == "forest" and choice.kind == "variable" and choice.size > 1:
        raise _refuse(
            "update='forest' with blocks='variable': such a block may have a cycle; set "
            "blocks='greedy_forest', 'random_forest' or 'forest'"
        )
    if rule == "forest" and choice.kind == "bounded_fill":
        raise _refuse("update='forest' with blocks='bounded_fill': set update='exact'")


class Plan:
    """What follows from the problem and the parameters, the same for the whole run.

    Parameters
    ----------
    solver : BlockCoordinateDescent
        Parameters.
    problem : GLMProblem, QuadraticProblem or CompositeProblem
        The problem.

    Attributes
    ----------
    problem, smooth, penalty
        The problem, its smooth part, its penalty by block.
    n, size : int
        Number of variables; variables of a block.
    everything : ndarray
        All variables, as a block.
    partition : Partition or None
        Fixed blocks; ``None``: variable ones.
    """

    def __init__(self, solver: Any, problem: Any) -> None:
        self.choice = choose_rules(solver, problem)
        self.options = solver
        self.problem, self.smooth = problem, problem.smooth
        self.penalty = BlockPenalty(problem)
        self.n, self.size = int(problem.smooth.n_variables), self.choice.size
        self.everything = np.arange(self.n)
        self.quadratic = is_quadratic(self.smooth)
        self.partition: Partition | None = None
        if self.choice.kind not in _VARIABLE:
            self.partition = make_partition(
                self.choice.blocks, self.smooth, problem.penalty, self.size
            )
        if self.penalty.groups is not None:
            self._check_groups()
        if self.choice.update == "forest":
            self._check_forests()
        self._kept: dict[tuple[str, int], Any] = {}
        self._used = 0

    def _check_groups(self) -> None:
        assert self.partition is not None
        labels = self.partition.labels[: self.penalty.n_penalized]
        groups = self.penalty.groups
        first = np.zeros(int(groups.max()) + 1, np.int64)
        first[groups] = labels
        if (first[groups] != labels).any():
            split = int(groups[np.argmax(first[groups] != labels)])
            raise _refuse(
                f"blocks split group {split} of the penalty GroupL1; blocks are made of whole "
                "groups: set blocks='groups'"
            )

    def _check_forests(self) -> None:
        from lowrank_opt.block_coordinate.forests import is_forest
        from lowrank_opt.block_coordinate.partition import coupling

        matrix = coupling(self.smooth, "update='forest'")
        for number, block in enumerate([] if self.partition is None else self.partition.blocks):
            if block.size > 2 and not is_forest(matrix, block):
                raise _refuse(
                    f"update='forest', but the couplings of block {number} have a cycle; set "
                    "blocks='forest', or update='exact'"
                )

    @property
    def n_blocks(self) -> int:
        """Blocks of a pass."""
        if self.partition is None:
            return 1 if self.choice.kind in _GRAPH else -(-self.n // self.size)
        return len(self.partition.blocks)

    @cached_property
    def singles(self) -> NDArray[Any] | None:
        """The variables in the order of their blocks, if blocks are single variables."""
        if self.partition is None:
            return self.everything if self.size == 1 and self.choice.kind == "variable" else None
        blocks = self.partition.blocks
        return np.concatenate(blocks) if len(blocks) == self.n else None

    @cached_property
    def lipschitz(self) -> NDArray[Any]:
        """Lipschitz constants of the derivatives, positive: a trace of the largest for zeros."""
        constants = self.smooth.lipschitz
        finite = constants[np.isfinite(constants)]
        top = float(finite.max(initial=0.0)) or 1.0
        return np.where(constants > 0, constants, 1e-30 * top)

    @cached_property
    def block_lipschitz(self) -> NDArray[Any]:
        """Lipschitz constants of the gradients by the fixed blocks."""
        assert self.partition is not None
        if self.singles is not None:
            return self.lipschitz[np.concatenate(self.partition.blocks)]
        return np.array([self.bound_of(b) for b in self.partition.blocks])

    def bound_of(self, b: NDArray[Any]) -> float:
        """Largest eigenvalue of the bound of the Hessian of a block."""
        if b.size == 1:
            return float(self.lipschitz[b[0]])
        if b.size == self.n and self.n > 200:
            return self.largest_eigenvalue
        if self.smooth.coupling is not None and b.size > 200:
            part = self.smooth.coupling[b][:, b]
            top = _largest_eigenvalue(lambda v: part @ v, b.size)
        else:
            H = self.smooth.block_bound(b)
            if b.size <= 200:
                top = float(np.linalg.eigvalsh(H)[-1])
            else:
                top = _largest_eigenvalue(lambda v: H @ v, b.size)
        return max(top, float(self.lipschitz[b].min()))

    @cached_property
    def inverse_roots(self) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """For every size of the fixed blocks: numbers, variables, and R with ``R'R = H_b^-1``."""
        assert self.partition is not None
        blocks = self.partition.blocks
        sizes = np.array([b.size for b in blocks])
        found = []
        for size in np.unique(sizes):
            numbers = np.flatnonzero(sizes == size)
            variables = np.array([blocks[k] for k in numbers])
            roots = np.zeros((numbers.size, size, size))
            for root, b in zip(roots, variables, strict=True):
                R = inverse_root(self.smooth.block_bound(b))
                root[: len(R)] = R
            found.append((numbers, variables, roots))
        return found

    @cached_property
    def largest_eigenvalue(self) -> float:
        """Largest eigenvalue of the bound of the whole Hessian."""
        return _largest_eigenvalue(self.smooth.bound_matvec, self.n)

    @cached_property
    def row_sums(self) -> NDArray[Any]:
        """Row sums of the absolute bound of the Hessian, positive."""
        return np.maximum(self.smooth.bound_row_sums, self.lipschitz)

    @cached_property
    def divisors(self) -> NDArray[Any]:
        """Diagonal bounds D of the selection rule."""
        rule, fixed = self.choice.selection, self.partition is not None
        if rule in ("gs", "gs-s"):
            return np.ones(self.n)
        if self.singles is not None and rule != "gsd":
            return self.lipschitz
        if fixed and rule != "gsd":
            assert self.partition is not None
            return self.block_lipschitz[self.partition.labels]
        bound = "rowsum" if rule == "gsl" else self.options.bound
        if bound == "rowsum":
            return self.row_sums
        if bound == "lipschitz":
            return self.lipschitz
        if self.partition is None:
            return self.lipschitz * self.size
        sizes = np.array([b.size for b in self.partition.blocks])
        return self.lipschitz * sizes[self.partition.labels]

    @cached_property
    def bound_diagonal(self) -> NDArray[Any]:
        """Diagonal of the bound of the whole Hessian.

        For several classes it is not that of the bounds of single variables, but a multiple.
        """
        ridge = float(getattr(self.smooth, "l2", 0.0))
        i = int(np.argmax(self.smooth.lipschitz[: self.smooth.n_coefficients]))
        unit = np.zeros(self.n)
        unit[i] = 1.0
        top = float(self.smooth.lipschitz[i]) - ridge
        ratio = (float(self.smooth.bound_matvec(unit)[i]) - ridge) / top if top > 0 else 1.0
        ridges = np.where(self.everything < self.smooth.n_coefficients, ridge, 0.0)
        return ratio * (self.smooth.lipschitz - ridges) + ridges

    def keep(self, kind: str, number: int, size: int, make: Callable[[], Any]) -> Any:
        """Return what belongs to a fixed block, made once while memory lasts.

        Parameters
        ----------
        kind : str
            What it is.
        number : int
            The block; below 0 nothing is kept.
        size : int
            Numbers that it takes.
        make : callable
            Makes it.
        """
        if number < 0:
            return make()
        key = (kind, number)
        if key not in self._kept:
            made = make()
            if self._used + size > _KEPT:
                return made
            self._used += size
            self._kept[key] = made
        return self._kept[key]


def _largest_eigenvalue(matvec: Any, n: int) -> float:
    """Largest eigenvalue of a positive semi-definite operator, from above by its accuracy."""
    if n <= 200:
        columns = [matvec(row) for row in np.eye(n)]
        return float(np.linalg.eigvalsh(np.array(columns))[-1])
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = LinearOperator((n, n), matvec=matvec, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(n)
    top = eigsh(operator, k=1, which="LA", v0=start, tol=1e-5, return_eigenvectors=False)
    return float(top[0]) * (1.0 + 1e-4)
