"""The contract: problems, solvers, states, results. Knows no family."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowrank_opt.core.backend import Backend, register_kernels
    from lowrank_opt.core.checkpoint import Checkpoint
    from lowrank_opt.core.errors import (
        AccuracyWarning,
        CheckpointError,
        ConvergenceWarning,
        EfficiencyWarning,
        ExperimentalWarning,
        LowRankOptError,
        MissingDependencyError,
        ParameterError,
        ProblemError,
        ProblemTypeError,
        SolverFailure,
        UnsupportedBackendError,
        UnsupportedProblemError,
    )
    from lowrank_opt.core.history import History
    from lowrank_opt.core.params import (
        Interval,
        Parameters,
        StrOptions,
        did_you_mean,
        instantiate,
        make_rng,
        validate_parameters,
    )
    from lowrank_opt.core.problem import Certificate, Problem
    from lowrank_opt.core.progress import Progress
    from lowrank_opt.core.protocols import (
        HasBlocks,
        HasCertificate,
        HasEqualityConstraints,
        HasFiniteSum,
        HasGradient,
        HasMonotoneOperator,
        HasObjective,
        HasObservations,
        HasProx,
    )
    from lowrank_opt.core.registry import (
        register_solvers,
        registered_solvers,
        solve,
        solver_class,
        solvers_for,
    )
    from lowrank_opt.core.result import Result
    from lowrank_opt.core.serialize import register_serializable
    from lowrank_opt.core.solver import Solver
    from lowrank_opt.core.state import State, Status
    from lowrank_opt.core.stepsize import (
        Armijo,
        BarzilaiBorwein,
        Constant,
        Geometric,
        LinearDecay,
        Polyak,
        PowerDecay,
        StepSize,
    )
    from lowrank_opt.core.threads import thread_limit
    from lowrank_opt.core.compilation import warmup

# Names load when they are first used: the modules need scipy, whose import is not free.
_HOME = {
    "backend": ["Backend", "register_kernels"],
    "checkpoint": ["Checkpoint"],
    "errors": [
        "AccuracyWarning", "CheckpointError", "ConvergenceWarning", "EfficiencyWarning",
        "ExperimentalWarning", "LowRankOptError", "MissingDependencyError", "ParameterError",
        "ProblemError", "ProblemTypeError", "SolverFailure", "UnsupportedBackendError",
        "UnsupportedProblemError",
    ],
    "history": ["History"],
    "params": [
        "Interval", "Parameters", "StrOptions", "did_you_mean", "instantiate", "make_rng",
        "validate_parameters",
    ],
    "problem": ["Certificate", "Problem"],
    "progress": ["Progress"],
    "protocols": [
        "HasBlocks", "HasCertificate", "HasEqualityConstraints", "HasFiniteSum", "HasGradient",
        "HasMonotoneOperator", "HasObjective", "HasObservations", "HasProx",
    ],
    "registry": [
        "register_solvers", "registered_solvers", "solve", "solver_class", "solvers_for",
    ],
    "result": ["Result"],
    "serialize": ["register_serializable"],
    "solver": ["Solver"],
    "state": ["State", "Status"],
    "stepsize": [
        "Armijo", "BarzilaiBorwein", "Constant", "Geometric", "LinearDecay", "Polyak",
        "PowerDecay", "StepSize",
    ],
    "threads": ["thread_limit"],
    "compilation": ["warmup"],
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
