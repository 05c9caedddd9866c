"""Capabilities: what a solver may ask of a problem.

Structural types. A user's own problem class fits a solver as soon as it has the methods; no base
class is needed. A solver lists the protocols it needs in ``requires``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from lowrank_opt.core.problem import Certificate

__all__ = [
    "Array",
    "HasBlocks",
    "HasCertificate",
    "HasEqualityConstraints",
    "HasFiniteSum",
    "HasFixedPointMap",
    "HasGradient",
    "HasLinearConstraints",
    "HasMeasurements",
    "HasMonotoneOperator",
    "HasNetwork",
    "HasObjective",
    "HasObservations",
    "HasOperatorSum",
    "HasProx",
    "HasResolvent",
    "HasSmoothPart",
    "HasTransport",
]

Array: TypeAlias = Any  # an array of any array-API library


@runtime_checkable
class HasObjective(Protocol):
    """``objective(x) -> float``."""

    def objective(self, x: Any) -> float: ...


@runtime_checkable
class HasCertificate(Protocol):
    """``certificate(x) -> Certificate``."""

    def certificate(self, x: Any) -> Certificate: ...


@runtime_checkable
class HasGradient(Protocol):
    """``gradient(x, out=None)`` of the smooth part, in the shape of `x`."""

    def gradient(self, x: Any, out: Any = None) -> Any: ...


@runtime_checkable
class HasProx(Protocol):
    """``prox(x, step)`` of the non-smooth part: argmin over z of g(z) + ‖z - x‖² / (2 step)."""

    def prox(self, x: Any, step: float) -> Any: ...


@runtime_checkable
class HasSmoothPart(Protocol):
    """``smooth``: the smooth part, with oracles by block; ``penalty``: the rest, or ``None``.

    The smooth part has a Lipschitz constant, a gradient and a Hessian of every block of variables,
    and keeps what moves cost little to update; see
    :class:`lowrank_opt.block_coordinate.GLMProblem`.
    """

    @property
    def smooth(self) -> Any: ...
    @property
    def penalty(self) -> Any: ...


@runtime_checkable
class HasMonotoneOperator(Protocol):
    """``operator(z, out=None)``: a monotone, Lipschitz operator."""

    def operator(self, z: Any, out: Any = None) -> Any: ...


@runtime_checkable
class HasFixedPointMap(Protocol):
    """``fixed_point_map(z)``: a nonexpansive map, whose fixed points are sought."""

    def fixed_point_map(self, z: Any) -> Any: ...


@runtime_checkable
class HasResolvent(Protocol):
    """``resolvent(z, step)``: the inverse of I + step G at z, for a maximal monotone G."""

    def resolvent(self, z: Any, step: float) -> Any: ...


@runtime_checkable
class HasOperatorSum(Protocol):
    """``n_terms``, ``sample_operator`` and ``sample_difference``: an operator that is a mean.

    ``sample_operator(z, index, probabilities)`` is an unbiased estimate of the operator from the
    terms in `index`, drawn with `probabilities` (``None``: all the same);
    ``sample_difference(z, w, index, probabilities)`` the same of the difference between two points.
    """

    n_terms: int

    def sample_operator(self, z: Any, index: Any, probabilities: Any = None) -> Any: ...
    def sample_difference(self, z: Any, w: Any, index: Any, probabilities: Any = None) -> Any: ...


@runtime_checkable
class HasLinearConstraints(Protocol):
    """A linear or convex quadratic program, by its data.

    Minimise ``c x + x Q x / 2`` (``Q`` may be ``None``) subject to
    ``constraint_lower <= A x <= constraint_upper`` and ``lower <= x <= upper``.
    """

    @property
    def c(self) -> Any: ...
    @property
    def Q(self) -> Any: ...  # noqa: N802
    @property
    def A(self) -> Any: ...  # noqa: N802
    @property
    def constraint_lower(self) -> Any: ...
    @property
    def constraint_upper(self) -> Any: ...
    @property
    def lower(self) -> Any: ...
    @property
    def upper(self) -> Any: ...


@runtime_checkable
class HasNetwork(Protocol):
    """``network``, and ``part(index)``: what a bound of its Lipschitz constant depends on.

    ``n_parts`` bounds make up the answer, the largest of them; ``part_bounds(x)`` says what a
    proof shows of each.
    """

    @property
    def network(self) -> Any: ...
    @property
    def n_parts(self) -> int: ...
    def part(self, index: int) -> Any: ...
    def part_bounds(self, x: Any) -> Any: ...


@runtime_checkable
class HasFiniteSum(Protocol):
    """``n_terms`` and ``sample_gradient(x, index)``: the mean over the terms is the gradient."""

    n_terms: int

    def sample_gradient(self, x: Any, index: Any) -> Any: ...


@runtime_checkable
class HasEqualityConstraints(Protocol):
    """``constraint(x)`` and ``constraint_jacobian(x)`` for constraint(x) = 0."""

    def constraint(self, x: Any) -> Any: ...
    def constraint_jacobian(self, x: Any) -> Any: ...


@runtime_checkable
class HasBlocks(Protocol):
    """``blocks``: index arrays that partition the variables."""

    @property
    def blocks(self) -> Any: ...


@runtime_checkable
class HasObservations(Protocol):
    """``observations``: the observed entries of a matrix, by row and by column."""

    @property
    def observations(self) -> Any: ...


@runtime_checkable
class HasMeasurements(Protocol):
    """``measurements`` of a matrix, an operator whose values should be ``targets``.

    The operator has ``apply``, ``adjoint`` and ``linearize`` on points given as factors;
    ``symmetric`` says whether both factors are one.
    """

    symmetric: bool

    @property
    def measurements(self) -> Any: ...
    @property
    def targets(self) -> Any: ...


@runtime_checkable
class HasTransport(Protocol):
    """``canonical``: masses, costs and cap of a transport problem in the form solvers use.

    ``lift(alpha, plan, tau)`` turns their answer into the user's plan, ``start(x0)`` a user's
    plan into theirs.
    """

    @property
    def canonical(self) -> Any: ...
    def lift(self, alpha: Any, plan: Any, tau: Any) -> Any: ...
    def start(self, x0: Any) -> Any: ...
