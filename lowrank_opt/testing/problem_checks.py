"""What every problem must do: one public function per requirement."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core import (
    Certificate,
    HasEqualityConstraints,
    HasFiniteSum,
    HasGradient,
    HasMonotoneOperator,
    HasProx,
    ParameterError,
)
from lowrank_opt.testing._points import (
    difference,
    flatten,
    is_array,
    leaves,
    snapshot,
    to_host,
    unflatten,
)
from lowrank_opt.testing._report import NotApplicable, run_checks
from lowrank_opt.testing._runs import require, same
from lowrank_opt.testing.cases import ProblemCase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lowrank_opt.testing._report import CheckReport

__all__ = [
    "PROBLEM_CHECKS",
    "assert_certificate",
    "check_certificate",
    "check_constraint_jacobian",
    "check_copies",
    "check_fingerprint",
    "check_frozen",
    "check_gradient",
    "check_monotone_operator",
    "check_objective",
    "check_oracles_are_pure",
    "check_problem",
    "check_prox",
    "check_sample_gradient",
]

_REPR_LIMIT = 10_000  # characters; every Result carries the text


def assert_certificate(problem: Any, x: Any, tol: float) -> Certificate:
    """Assert that the problem grades `x` with a finite residual of at most `tol`.

    Parameters
    ----------
    problem : Problem
        Grades the point.
    x : object
        A point in the problem's natural form.
    tol : float
        Largest residual, >= 0.

    Returns
    -------
    Certificate
        For further assertions on ``gap`` or ``details``.

    Raises
    ------
    AssertionError
        With the certificate's text.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.testing import assert_certificate
    >>> from lowrank_opt.testing.example import Quadratic
    >>> problem = Quadratic(2.0 * np.eye(2), np.array([2.0, 4.0]))
    >>> assert_certificate(problem, np.array([1.0, 2.0]), tol=1e-12).objective
    -5.0
    """
    certificate = problem.certificate(x)
    require(
        isinstance(certificate, Certificate),
        f"certificate() returned a {type(certificate).__name__}, expected a Certificate",
    )
    require(
        certificate.finite and certificate.residual <= tol,
        f"{certificate}; expected a residual of at most {tol:.1e}",
    )
    return certificate


def check_frozen(case: ProblemCase) -> None:
    """No attribute can be assigned.

    Parameters
    ----------
    case : ProblemCase
        The problem and points.

    Raises
    ------
    AssertionError
        If one can; so for all checks of this module.
    """
    problem = copy.copy(case.problem)
    for name in list(getattr(problem, "__dict__", ())):
        try:
            setattr(problem, name, None)
        except (AttributeError, TypeError):
            continue
        raise AssertionError(f"problem.{name} can be assigned: use a frozen dataclass")


def check_objective(case: ProblemCase) -> None:
    """``objective`` returns a finite Python float, the same each time.

    Parameters
    ----------
    case : ProblemCase
        The problem and points.
    """
    for x in case.points:
        value = case.problem.objective(x)
        require(
            isinstance(value, float),
            f"objective(x) is a {type(value).__name__}, expected a float",
        )
        require(math.isfinite(value), f"objective(x) is {value}")
        again = case.problem.objective(x)
        require(again == value, f"objective(x) is first {value!r}, then {again!r}")


def check_certificate(case: ProblemCase) -> None:
    """``certificate`` returns a finite, non-negative :class:`Certificate` with the objective.

    Parameters
    ----------
    case : ProblemCase
        The problem and points, which must not be optimal.
    """
    for x in case.points:
        certificate = assert_certificate(case.problem, x, math.inf)
        require(certificate.residual > 0, f"{certificate}: the points must not be optimal")
        require(bool(certificate.kind), "certificate(x).kind must say what the residual is")
        value = case.problem.objective(x)
        require(
            abs(certificate.objective - value) <= 1e-8 * max(1.0, abs(value)),
            f"certificate(x).objective is {certificate.objective!r}, objective(x) is {value!r}",
        )
        require(
            certificate.gap is None or certificate.gap >= -1e-9 * max(1.0, abs(value)),
            f"certificate(x).gap is {certificate.gap}: a lower bound lies above the objective",
        )
        for name, number in certificate.details.items():
            require(isinstance(number, float), f"certificate(x).details[{name!r}] is {number!r}")
        same(case.problem.certificate(x), certificate, "certificate(x) twice")


def _oracle_calls(case: ProblemCase, x: Any) -> dict[str, Callable[[], Any]]:
    problem = case.problem
    calls: dict[str, Callable[[], Any]] = {
        "objective": lambda: problem.objective(x),
        "certificate": lambda: problem.certificate(x),
    }
    if isinstance(problem, HasGradient):
        calls["gradient"] = lambda: problem.gradient(x)
    if isinstance(problem, HasProx):
        calls["prox"] = lambda: problem.prox(x, 0.5)
    if isinstance(problem, HasMonotoneOperator):
        calls["operator"] = lambda: problem.operator(x)
    if isinstance(problem, HasFiniteSum):
        calls["sample_gradient"] = lambda: problem.sample_gradient(x, 0)
    if isinstance(problem, HasEqualityConstraints):
        calls["constraint"] = lambda: problem.constraint(x)
        calls["constraint_jacobian"] = lambda: problem.constraint_jacobian(x)
    return calls


def check_oracles_are_pure(case: ProblemCase) -> None:
    """No oracle changes the problem or the point, and the point may be read-only.

    Parameters
    ----------
    case : ProblemCase
        The problem and points.
    """
    for original in case.points:
        for frozen in (False, True):
            x = copy.deepcopy(original)
            if frozen:
                for _, leaf in leaves(x):
                    if isinstance(leaf, np.ndarray):
                        leaf.flags.writeable = False
            for name, call in _oracle_calls(case, x).items():
                before = snapshot(case.problem)
                value = call()
                after = snapshot(case.problem)
                changed = [path for path in before if after.get(path) != before[path]]
                require(not changed, f"{name}(x) changes problem{', '.join(changed)}")
                found = difference(x, original)
                require(found is None, f"{name}(x) changes x: {found}")
                require(
                    not (frozen and _shares_memory(value, x)),
                    f"{name}(x) returns x itself or a view of it; return a copy",
                )


def _shares_memory(a: Any, b: Any) -> bool:
    left, right = ([leaf for _, leaf in leaves(v) if isinstance(leaf, np.ndarray)] for v in (a, b))
    return any(np.shares_memory(p, q) for p in left for q in right)


def _directions(x: Any, rng: np.random.Generator, n: int = 5) -> list[np.ndarray]:
    size = flatten(x).size
    return [d / np.linalg.norm(d) for d in rng.standard_normal((n, size))]


def _double(x: Any) -> None:
    for _, leaf in leaves(x):
        if is_array(leaf) and to_host(leaf).dtype.kind in "fc":
            require(
                to_host(leaf).dtype == np.float64,
                "differences are taken in float64: give points in float64",
            )


def check_gradient(case: ProblemCase) -> None:
    """``gradient`` agrees with central differences of the objective's smooth part.

    Parameters
    ----------
    case : ProblemCase
        The problem and points in float64; ``smooth`` where the objective has a ``prox`` too.
    """
    problem, smooth = case.problem, case.smooth
    if not isinstance(problem, HasGradient):
        raise NotApplicable("the problem has no gradient")
    if smooth is None:
        if isinstance(problem, HasProx):
            raise NotApplicable("the objective has a non-smooth part and no smooth= was given")
        smooth = problem.objective
    rng = np.random.default_rng(0)
    for x in case.points:
        _double(x)
        at, gradient = flatten(x), flatten(problem.gradient(x))
        require(
            gradient.shape == at.shape,
            f"gradient(x) has {gradient.size} numbers, x has {at.size}",
        )
        h = 1e-5 * max(1.0, float(np.linalg.norm(at)))
        for d in _directions(x, rng):
            ahead, behind = (smooth(unflatten(x, at + s * d)) for s in (h, -h))
            slope, expected = float(gradient @ d), (ahead - behind) / (2.0 * h)
            # Truncation is O(h^2), rounding eps * |f| / h.
            slack = 1e-5 * float(np.linalg.norm(gradient)) + 1e-9 * max(1.0, abs(ahead))
            require(
                abs(slope - expected) <= slack,
                f"the gradient's slope along a direction is {slope!r}, central differences give "
                f"{expected!r}",
            )


def check_prox(case: ProblemCase) -> None:
    """``prox`` is firmly non-expansive, and optimal when ``nonsmooth`` is given.

    Parameters
    ----------
    case : ProblemCase
        The problem and points.
    """
    problem = case.problem
    if not isinstance(problem, HasProx):
        raise NotApplicable("the problem has no prox")
    rng = np.random.default_rng(0)
    for x in case.points:
        at = flatten(x)
        for step in (0.1, 1.0, 10.0):
            p = flatten(problem.prox(x, step))
            require(p.shape == at.shape, f"prox(x) has {p.size} numbers, x has {at.size}")
            for d in _directions(x, rng):
                other = at + d * max(1.0, float(np.linalg.norm(at)))
                q = flatten(problem.prox(unflatten(x, other), step))
                left, right = float((p - q) @ (p - q)), float((p - q) @ (at - other))
                require(
                    left <= right + 1e-9 * max(1.0, abs(right)),
                    f"prox with step {step} is not firmly non-expansive: |p - q|^2 = {left!r} > "
                    f"<p - q, x - y> = {right!r}",
                )
            if case.nonsmooth is None:
                continue

            def merit(z: np.ndarray, step: float = step, at: np.ndarray = at, x: Any = x) -> float:
                distance2 = float((z - at) @ (z - at))
                return case.nonsmooth(unflatten(x, z)) + distance2 / (2.0 * step)

            lowest = merit(p)
            for scale in (1e-3, 1e-1, 1.0):
                for d in _directions(x, rng, 10):
                    value = merit(p + scale * d)
                    require(
                        lowest <= value + 1e-9 * max(1.0, abs(value)),
                        f"prox with step {step} is not optimal: {lowest!r} there, {value!r} at a "
                        f"distance of {scale}",
                    )


def check_monotone_operator(case: ProblemCase) -> None:
    """``operator`` is monotone: <F(x) - F(y), x - y> >= 0.

    Parameters
    ----------
    case : ProblemCase
        The problem and points.
    """
    problem = case.problem
    if not isinstance(problem, HasMonotoneOperator):
        raise NotApplicable("the problem has no operator")
    rng = np.random.default_rng(0)
    for x in case.points:
        at = flatten(x)
        for d in _directions(x, rng, 20):
            change = flatten(problem.operator(unflatten(x, at + d))) - flatten(problem.operator(x))
            product = float(change @ d)
            require(
                product >= -1e-9 * max(1.0, float(np.linalg.norm(change))),
                f"the operator is not monotone: <F(x) - F(y), x - y> = {product!r}",
            )


def check_sample_gradient(case: ProblemCase) -> None:
    """The mean of ``sample_gradient`` over all terms is the gradient.

    Parameters
    ----------
    case : ProblemCase
        The problem and points.
    """
    problem = case.problem
    if not (isinstance(problem, HasFiniteSum) and isinstance(problem, HasGradient)):
        raise NotApplicable("the problem has no sample_gradient with a gradient")
    for x in case.points:
        terms = [flatten(problem.sample_gradient(x, i)) for i in range(problem.n_terms)]
        mean, gradient = np.mean(terms, axis=0), flatten(problem.gradient(x))
        error = float(np.linalg.norm(mean - gradient))
        require(
            error <= 1e-8 * max(1.0, float(np.linalg.norm(gradient))),
            f"the mean of the sample gradients misses the gradient by {error:.3e}",
        )


def check_constraint_jacobian(case: ProblemCase) -> None:
    """``constraint_jacobian`` agrees with central differences of ``constraint``.

    Parameters
    ----------
    case : ProblemCase
        The problem and points in float64.
    """
    problem = case.problem
    if not isinstance(problem, HasEqualityConstraints):
        raise NotApplicable("the problem has no equality constraints")
    rng = np.random.default_rng(0)
    for x in case.points:
        _double(x)
        at = flatten(x)
        jacobian = np.asarray(problem.constraint_jacobian(x))
        h = 1e-5 * max(1.0, float(np.linalg.norm(at)))
        for d in _directions(x, rng):
            ahead, behind = (flatten(problem.constraint(unflatten(x, at + s * d))) for s in (h, -h))
            error = float(np.linalg.norm(jacobian @ d - (ahead - behind) / (2.0 * h)))
            require(
                error <= 1e-5 * max(1.0, float(np.linalg.norm(jacobian))),
                f"the Jacobian misses central differences along a direction by {error:.3e}",
            )


def check_fingerprint(case: ProblemCase) -> None:
    """``fingerprint`` is JSON, the same for equal data and different for other data.

    Parameters
    ----------
    case : ProblemCase
        The problem and points; ``other`` for the last part.
    """
    fingerprint = dict(case.problem.fingerprint())
    try:
        text = json.dumps(fingerprint, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"fingerprint() is not made of JSON values: {error}") from error
    copied = copy.deepcopy(case.problem)
    for what, problem in (("again", case.problem), ("of a copy", copied)):
        found = json.dumps(dict(problem.fingerprint()), sort_keys=True)
        require(found == text, f"fingerprint() {what} is {found}, was {text}")
    if case.other is not None:
        found = json.dumps(dict(case.other.fingerprint()), sort_keys=True)
        require(found != text, f"problems with different data have one fingerprint: {text}")


def check_copies(case: ProblemCase) -> None:
    """``pickle`` and ``deepcopy`` keep the objective; ``repr`` is short.

    Parameters
    ----------
    case : ProblemCase
        The problem and points.
    """
    problem = case.problem
    text = repr(problem)
    require(
        type(problem).__name__ in text and len(text) <= _REPR_LIMIT,
        f"repr(problem) has {len(text)} characters; name the class, shapes and parameters in "
        f"at most {_REPR_LIMIT}",
    )
    copies = {
        "pickle": pickle.loads(pickle.dumps(problem)),
        "deepcopy": copy.deepcopy(problem),
        "copy": copy.copy(problem),
    }
    for name, other in copies.items():
        for x in case.points:
            same(other.objective(x), problem.objective(x), f"objective after {name}")


PROBLEM_CHECKS: dict[str, Callable[[ProblemCase], None]] = {
    "frozen": check_frozen,
    "objective": check_objective,
    "certificate": check_certificate,
    "oracles_are_pure": check_oracles_are_pure,
    "gradient": check_gradient,
    "prox": check_prox,
    "monotone_operator": check_monotone_operator,
    "sample_gradient": check_sample_gradient,
    "constraint_jacobian": check_constraint_jacobian,
    "fingerprint": check_fingerprint,
    "copies": check_copies,
}


def check_problem(
    problem: Any, *points: Any, checks: Iterable[str] | None = None, **hooks: Any
) -> CheckReport:
    """Run the checks that every problem of the library passes.

    Parameters
    ----------
    problem : Problem
        What to check; a class of one's own needs no base class.
    *points
        One or more points in the form of ``Result.x``, not optimal.
    checks : iterable of str or None, default=None
        Keys of ``PROBLEM_CHECKS``; ``None``: all.
    **hooks
        Further fields of :class:`ProblemCase`: ``other``, ``smooth``, ``nonsmooth``.

    Returns
    -------
    CheckReport
        What passed, and what did not apply and why.

    Raises
    ------
    AssertionError
        Lists all checks that failed.
    ParameterError
        No point was given, or a check does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.testing import check_problem
    >>> from lowrank_opt.testing.example import make_quadratic
    >>> print(check_problem(make_quadratic(n=2), np.ones(2), checks=["gradient", "prox"]))
    Quadratic: 1 checks passed
      passed          gradient
      not applicable  prox: the problem has no prox
    """
    if not points:
        raise ParameterError("check_problem: give at least one point")
    names = list(PROBLEM_CHECKS) if checks is None else list(checks)
    case = ProblemCase(problem, points, **hooks)
    return run_checks(type(problem).__name__, case, names, PROBLEM_CHECKS, {})
