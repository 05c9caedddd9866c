"""Public names are pinned, documented and importable, and imports point in one direction."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import lowrank_opt

PACKAGE = Path(lowrank_opt.__file__).parent

# A name that appears or disappears here is a decision: it belongs into the changelog too.
PUBLIC = {
    "": """
        FAMILIES __version__ block_coordinate complete core datasets lipschitz monotone numerics
        papers
        plotting recovery
        show_versions solve testing transport warmup
    """,
    "core": """
        AccuracyWarning Armijo Backend BarzilaiBorwein Certificate Checkpoint
        CheckpointError Constant ConvergenceWarning did_you_mean EfficiencyWarning
        ExperimentalWarning Geometric HasBlocks HasCertificate HasEqualityConstraints
        HasFiniteSum HasFixedPointMap HasGradient HasLinearConstraints HasMeasurements
        HasMonotoneOperator HasNetwork HasObjective HasObservations HasOperatorSum HasProx
        HasResolvent HasSmoothPart HasTransport History InfeasibleError instantiate
        Interval LinearDecay LowRankOptError make_rng MissingDependencyError ParameterError
        Parameters Polyak PowerDecay Problem ProblemError ProblemTypeError Progress register_kernels
        register_serializable
        register_solvers registered_solvers Result solve Solver solver_class
        SolverFailure solvers_for State Status StepSize StrOptions thread_limit
        UnsupportedBackendError UnsupportedProblemError validate_parameters warmup
    """,
    "numerics": """
        Box coordinate_penalty CountSketch ElasticNet GaussianSketch GroupL1 GroupL2 Huber L1
        L1Ball L2Ball MCP NonNegative project_box project_halfspace project_hyperplane
        project_l1_ball project_l2_ball project_psd project_simplex prox prox_conjugate
        prox_into randomized_svd SCAD Simplex Sketch SparseSignSketch SquaredL2 SRHT
        StreamingTopK SVD TopK topk value WeightedL1
    """,
    "block_coordinate": """
        active_set ActiveSet BlockCoordinateDescent bounded_fill BoundOptimizer
        CompositeProblem descent_identification ElasticNet Forest GLMProblem
        greedy_forest GroupLasso Huber identification_radius is_forest knn_affinity
        LabelPropagation LaplacianKMeans LaplacianPrototypeProblem LaplacianShot Lasso
        lasso_path Logistic NonNegativeLeastSquares Poisson PrototypeAssignments
        prox_gradient_identification QuadraticProblem random_forest rectified_prototypes
        red_black Softmax solve_forest solve_tasks SparseGLMSolver
        SparseLogisticRegression Squared TaskAssignments tree_partition
    """,
    "lipschitz": """
        Activation Affine as_network Ball BoundProof Box convolution_norm ECLipsE ExactLipschitz
        FeedForward IBPClassifier Implicit interval_bounds LipDiff LipLT lipschitz_bound
        LipschitzCertifier LipschitzProblem LipSDP LipSDPGroupSort NormProduct
        propagation_tightness Residual ResidualBlock SampledLowerBound UnsupportedLayerError
    """,
    "monotone": """
        AnchoredExtraGradient Anderson CvxpyHalpernPDHG ExtraGradient FastExtraGradient
        FixedPointProblem GameInteriorPoint Halpern HalpernPDHG InexactHalpern KrasnoselskiiMann
        L1Regressor LinearProgram linprog MatrixGame MonotoneInclusion OptimisticGradient
        PrimalDual QuadraticProgram Ray read_mps RobustRegressor solve_batch
        VarianceReducedExtraGradient VarianceReducedHalpern write_mps
    """,
    "transport": """
        expert_capacity k_support_norm ot_regularization_path ot_value_and_grad prox_k_support
        RegularizationPath Routing sparse_ot SparseOTMapper sparse_simplex_projection
        SparsityConstrainedOT
        TopKRouter TransportGradients TransportPlan TransportProblem
    """,
    "datasets": """
        data_home DatasetError fetch_maxmin_network fetch_movielens find_data ImageObservations
        LinearProgramData load_digits_network LowRankObservations make_basis_pursuit_lp
        make_eclipse_network make_gaussian_network make_infeasible_lp make_l1_regression_lp
        make_low_rank_observations make_markov_decision_lp make_multicommodity_lp make_pagerank_lp
        make_planted_lp make_ratings make_transport_lp make_unbounded_lp make_uniform_network
        NetworkData ObservedEntries psnr Ratings sample_image_observations
    """,
    "plotting": """
        CertifiedAccuracyDisplay ConvergenceDisplay TransportPlanDisplay
    """,
    "testing": """
        assert_certificate BadInput check_backends check_bad_inputs
        check_callback_cannot_corrupt check_certificate check_certificate_agrees
        check_clone_and_pickle check_constraint_jacobian check_copies
        check_deterministic check_does_not_touch_inputs check_dtypes check_fingerprint
        check_frozen check_gradient check_history_excluded_from_time
        check_kernel_equals_reference check_limits check_monotone_operator
        check_monotone_or_documented check_objective check_oracles_are_pure
        check_problem check_prox check_repr_roundtrip check_resume_is_bit_identical
        check_sample_gradient check_scale_invariance check_solver check_solver_unchanged
        check_warm_start_not_worse check_work_count check_zero_iterations_at_solution
        CheckReport NotApplicable point_distance PROBLEM_CHECKS ProblemCase
        SOLVER_CHECKS SolverCase
    """,
    "papers": """
        draw Figure Image pictures Report reproduce Reproduction REPRODUCTIONS Row
        SCALES Section Table
    """,
    "recovery": """
        AlternatingMinimization biscale complete debias FactorSGD GibbsFactorization
        HuberALS LowRankImputer LowRankMatrix LowRankPlusSparse LowRankSamples MatrixCompletion
        MatrixFactorization MatrixSensing Observations RobustMatrixFactorization RobustPCA
        ScaledGD ScaledSubgradientMethod soft_impute_path SoftImpute SubgradientMethod
    """,
}


def importable(room: str):
    return importlib.import_module(f"lowrank_opt.{room}" if room else "lowrank_opt")


@pytest.mark.parametrize("room", PUBLIC)
def test_public_names_are_pinned(room):
    assert sorted(importable(room).__all__) == sorted(PUBLIC[room].split())


@pytest.mark.parametrize("room", PUBLIC)
def test_public_names_exist_and_are_listed(room):
    module = importable(room)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("room", PUBLIC)
def test_public_names_have_docstrings(room):
    module = importable(room)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), f"{module.__name__}.{name} has no docstring"


@pytest.mark.parametrize("room", PUBLIC)
def test_unknown_name_raises_attribute_error(room):
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importable(room).no_such_name


@pytest.mark.parametrize("stub", sorted(PACKAGE.rglob("__init__.pyi")), ids=lambda p: p.parent.name)
def test_stub_lists_the_public_names(stub):
    """Editors and type checkers read the stub, Python the lazy table: they must agree."""
    room = "" if stub.parent == PACKAGE else stub.parent.name
    listed = set()
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            listed |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.AnnAssign):
            listed.add(node.target.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            listed.add(node.name)
    assert set(PUBLIC[room].split()) <= listed


def test_the_version_is_static():
    """An archive without git history must know its version."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    values = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    ]
    assert values == [lowrank_opt.__version__]


def imported_rooms(source: str, package: str) -> set[str]:
    """Rooms of lowrank_opt that a module of `package` imports, inside functions too."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            paths = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for path in paths:
            parts = path.split(".")
            if parts[0] == "lowrank_opt" and len(parts) > 1:
                rooms.add(parts[1])
    return rooms - set(CONSTANTS)


CONSTANTS = ("FAMILIES", "__version__")


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import lowrank_opt.papers.report", {"papers"}),
        ("from lowrank_opt import cli, __version__", {"cli"}),
        ("from lowrank_opt.core.errors import ProblemError", {"core"}),
        ("def f():\n    from lowrank_opt.distributed import map", {"distributed"}),
        ("from ..numerics import prox", {"numerics"}),
        ("from .. import papers", {"papers"}),
        ("from . import problems", {"recovery"}),
        ("from .problems import MatrixCompletion", {"recovery"}),
        ("import numpy\nfrom lowrank_optimisation import core", set()),
    ],
)
def test_the_walk_sees_every_form_of_import(source, rooms):
    assert imported_rooms(source, "lowrank_opt.recovery") == rooms


def allowed(room: str) -> set[str] | None:
    """Rooms that a module of `room` may import; None: everything."""
    if room == "core":
        return {"core"}
    if room in ("numerics", *lowrank_opt.FAMILIES):
        return {"core", "numerics", room}
    if room in ("", "cli", "__main__"):
        return None
    everything = {path.stem for path in PACKAGE.iterdir()}
    if room == "papers":
        return everything - {"cli", "distributed"}
    return everything - {"papers", "cli", "distributed"} | {room}


@pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_imports_point_in_one_direction(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    room = parts[0] if len(parts) > 1 or parts[0] != "__init__" else ""
    package = ".".join(["lowrank_opt", *parts[:-1]])
    permitted = allowed(room)
    if permitted is not None:
        wrong = imported_rooms(path.read_text(encoding="utf-8"), package) - permitted
        assert not wrong, f"{room or 'lowrank_opt'} must not import {', '.join(sorted(wrong))}"
