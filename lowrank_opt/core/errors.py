"""Exceptions and warnings.

Every message has three parts: which argument is wrong and how, what was expected, what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AccuracyWarning",
    "CheckpointError",
    "ConvergenceWarning",
    "EfficiencyWarning",
    "ExperimentalWarning",
    "InfeasibleError",
    "LowRankOptError",
    "MissingDependencyError",
    "ParameterError",
    "ProblemError",
    "SolverFailure",
    "UnsupportedBackendError",
    "UnsupportedProblemError",
]

# Capabilities of problems in words; `core.protocols` has the methods.
_CAPABILITIES = {
    "HasBlocks": "variables in blocks",
    "HasCertificate": "a certificate of a point",
    "HasEqualityConstraints": "equality constraints",
    "HasFiniteSum": "an objective that is a sum over data",
    "HasFixedPointMap": "a nonexpansive map",
    "HasGradient": "a gradient",
    "HasLinearConstraints": "linear constraints and a linear or quadratic objective",
    "HasMeasurements": "linear measurements of a matrix",
    "HasTransport": "masses and costs of a transport problem",
    "HasMonotoneOperator": "a monotone operator",
    "HasNetwork": "a network whose Lipschitz constant is sought",
    "HasObjective": "an objective",
    "HasObservations": "observed entries of a matrix",
    "HasPrototypes": "prototypes and an affinity of points",
    "HasOperatorSum": "an operator that is a mean of terms",
    "HasProx": "a proximal operator",
    "HasResolvent": "a resolvent (a prox or a projection)",
    "HasSmoothPart": "a smooth part with oracles by block",
}


def in_words(capability: str) -> str:
    """Return the name of a capability with what it means.

    Parameters
    ----------
    capability : str
        Name of a protocol; other texts are returned as they are.

    Returns
    -------
    str
        Such as ``"HasGradient (a gradient)"``.
    """
    meaning = _CAPABILITIES.get(capability)
    return capability if meaning is None else f"{capability} ({meaning})"


class LowRankOptError(Exception):
    """Base class of all errors raised on purpose by this library."""


class ProblemError(LowRankOptError, ValueError):
    """The data of a problem are unusable; the message names the argument and the cure."""


class ProblemTypeError(ProblemError, TypeError):
    """The data of a problem have a type that cannot be used (object arrays, complex values)."""


class InfeasibleError(ProblemError):
    """Data for which no feasible point exists, as far as construction can tell."""


class ParameterError(LowRankOptError, ValueError):
    """A solver or estimator parameter is out of its range."""


class UnsupportedProblemError(LowRankOptError, TypeError):
    """The solver needs something that the problem does not offer.

    Parameters
    ----------
    solver : str
        Name of the solver.
    missing : iterable of str
        Names of the capabilities (protocols of :mod:`lowrank_opt.core.protocols`) that the
        problem lacks.
    problem : str
        Name of the problem's class.
    alternatives : iterable of str, default=()
        Names of solvers that accept the problem.
    """

    def __init__(
        self, solver: str, missing: Iterable[str], problem: str, alternatives: Iterable[str] = ()
    ) -> None:
        self.solver, self.problem = solver, problem
        self.missing, self.alternatives = tuple(missing), tuple(alternatives)
        words = ", ".join(in_words(n) for n in self.missing)
        text = f"{solver} cannot solve {problem}: it lacks {words}."
        if self.alternatives:
            text += f" Solvers that accept it: {', '.join(self.alternatives)}."
        else:
            text += f" Give {problem} the methods that these capabilities name."
        super().__init__(text)

    def __reduce__(self) -> Any:
        return type(self), (self.solver, self.missing, self.problem, self.alternatives)


class UnsupportedBackendError(LowRankOptError, TypeError):
    """No implementation for this array library or device, or libraries were mixed."""


class MissingDependencyError(LowRankOptError, ImportError):
    """An optional package is needed.

    Parameters
    ----------
    package : str
        The package that could not be imported.
    extra : str
        The extra of lowrank_opt that installs it.
    purpose : str
        What it is needed for.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra, self.purpose = package, extra, purpose
        super().__init__(f'{purpose} needs {package}: pip install "lowrank_opt[{extra}]"')

    def __reduce__(self) -> Any:
        return type(self), (self.package, self.extra, self.purpose)


class CheckpointError(LowRankOptError, ValueError):
    """A checkpoint, a result file or a state cannot be used; the message says what differs."""


class SolverFailure(LowRankOptError, RuntimeError):
    """Raised by :meth:`Result.raise_for_status`; ``.result`` holds the result.

    Parameters
    ----------
    message : str
        The result's message.
    result : Result or None, default=None
        The result.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        self.result = result
        super().__init__(message)

    def __reduce__(self) -> Any:
        return type(self), (self.args[0], self.result)


class EfficiencyWarning(UserWarning):
    """The computation is right but slower or larger than it need be."""


class AccuracyWarning(UserWarning):
    """Ill-conditioning or data limit the accuracy of the answer."""


class ExperimentalWarning(UserWarning):
    """The interface may still change."""


def __getattr__(name: str) -> Any:
    # scikit-learn's own class, so that users' warning filters work; importing scikit-learn takes
    # over a second, hence only when somebody asks.
    if name == "ConvergenceWarning":
        from sklearn.exceptions import ConvergenceWarning

        return ConvergenceWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
