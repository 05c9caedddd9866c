"""The contract: problems, solvers, states, results. Knows no family."""

from __future__ import annotations

from lowrank_opt.core.lazy import lazy_names

# The modules need scipy, whose import is not free.
__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "backend": ["Backend", "register_kernels"],
        "checkpoint": ["Checkpoint"],
        "errors": [
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
            "ProblemTypeError",
            "SolverFailure",
            "UnsupportedBackendError",
            "UnsupportedProblemError",
        ],
        "history": ["History"],
        "params": [
            "Interval",
            "Parameters",
            "StrOptions",
            "did_you_mean",
            "instantiate",
            "make_rng",
            "validate_parameters",
        ],
        "problem": ["Certificate", "Problem"],
        "progress": ["Progress"],
        "protocols": [
            "HasBlocks",
            "HasCertificate",
            "HasEqualityConstraints",
            "HasFiniteSum",
            "HasGradient",
            "HasMeasurements",
            "HasMonotoneOperator",
            "HasObjective",
            "HasObservations",
            "HasProx",
            "HasSmoothPart",
            "HasTransport",
        ],
        "registry": [
            "register_solvers",
            "registered_solvers",
            "solve",
            "solver_class",
            "solvers_for",
        ],
        "result": ["Result"],
        "serialize": ["register_serializable"],
        "solver": ["Solver"],
        "state": ["State", "Status"],
        "stepsize": [
            "Armijo",
            "BarzilaiBorwein",
            "Constant",
            "Geometric",
            "LinearDecay",
            "Polyak",
            "PowerDecay",
            "StepSize",
        ],
        "threads": ["thread_limit"],
        "compilation": ["warmup"],
    },
)
