"""TopKRouter: against brute force, other libraries, and the bounds of the transport problem."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.core.errors import (
    ConvergenceWarning,
    ParameterError,
    ProblemError,
    ProblemTypeError,
    UnsupportedBackendError,
)
from lowrank_opt.transport import TopKRouter, TransportProblem, router
from lowrank_opt.transport import kernels_router as kernels
from lowrank_opt.transport import reference_router as reference

CONFIGURATIONS = [
    TopKRouter(),
    TopKRouter(choose="tokens"),
    TopKRouter(choose="tokens", capacity_factor=None),
    TopKRouter("exact", capacity=200),
    TopKRouter("topk"),
    TopKRouter("expert_choice"),
    TopKRouter("sinkhorn"),
    TopKRouter("balanced"),
]
# Checks that are known to fail, with a reason each: none.
EXPECTED_FAILURES: dict[str, str] = {}
# How many checks scikit-learn 1.9 collects: a tag that hides checks would go unnoticed otherwise.
N_CHECKS = 41
METHODS = ["sparse", "topk", "expert_choice", "sinkhorn"]


def logits(shape=(3, 48, 8), seed=0, dtype=np.float64):
    """Logits for experts of which some are popular."""
    rng = np.random.default_rng(seed)
    popular = rng.standard_normal(shape[-1])
    return (1.5 * rng.standard_normal(shape) + popular).astype(dtype)


def softmax(X):
    grown = np.exp(X - X.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def dense(routing, group):
    """Pairs of a group as a mask, from the indices."""
    mask = np.zeros((routing.n_experts.shape[-1], routing.load.shape[-1]), bool)
    for chooser, row in enumerate(routing.indices[group]):
        for i in row[row >= 0]:
            mask[(i, chooser) if routing.choose == "experts" else (chooser, i)] = True
    return mask


def compiled(gates, k, mass, gamma, n_iter, rate=1e-2, start=None):
    """Run the kernel as the router does."""
    choosers, options = gates.shape
    width = kernels.GROUP * -(-options // kernels.GROUP)
    wide = np.full((choosers, width), -np.inf, gates.dtype)
    wide[:, :options] = gates
    potentials = np.zeros(options) if start is None else start.copy()
    sums = np.empty(options)
    indices, plan = np.empty((choosers, k), np.int64), np.empty((choosers, k), gates.dtype)
    psi = kernels.choose_group(wide, k, mass, gamma, n_iter, rate, potentials, sums, indices, plan)
    return reference.Choice(indices, plan, sums, psi, potentials)


@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=lambda _: EXPECTED_FAILURES)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.skipif(
    tuple(int(n) for n in sklearn.__version__.split(".")[:2]) != (1, 9),
    reason="the number of checks is that of scikit-learn 1.9",
)
@pytest.mark.parametrize("estimator", CONFIGURATIONS, ids=str)
def test_no_check_is_hidden(estimator):
    checks = estimator_checks_generator(clone(estimator), legacy=True)
    assert sum(1 for _ in checks) == N_CHECKS


CASES = {
    "random": (6, 200, 9, 1.0),
    "many choosers": (70, 7, 2, 1.0),
    "first guess": (4, 700, 32, 1.0),
    "one chooser": (1, 90, 5, 1.0),
    "one option": (5, 1, 1, 1.0),
    "cap of one": (9, 40, 1, 1.0),
    "no cap": (4, 66, 66, 1.0),
    "strong": (5, 130, 12, 100.0),
    "weak": (5, 130, 12, 1e-3),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_reference(case, dtype):
    choosers, options, k, gamma = CASES[case]
    rng = np.random.default_rng(1)
    gates = softmax(2.0 * rng.standard_normal((choosers, options))).astype(dtype)
    start = 0.1 * rng.standard_normal(options)
    ours = compiled(gates, k, options / choosers, gamma, 15, start=start)
    theirs = reference.choose(gates, start, k, options / choosers, gamma, 15, 1e-2)
    eps = 1e-12 if dtype is np.float64 else 1e-5
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_allclose(ours.plan, theirs.plan, rtol=0, atol=eps * options)
    np.testing.assert_allclose(ours.sums, theirs.sums, rtol=0, atol=eps * options)
    np.testing.assert_allclose(ours.potentials, theirs.potentials, rtol=0, atol=eps)
    np.testing.assert_allclose(ours.psi, theirs.psi, rtol=10 * eps)


@pytest.mark.parametrize("options", [5, 64, 300])
def test_kernel_equals_reference_on_ties(options):
    rng = np.random.default_rng(2)
    levels = rng.integers(0, 3, (7, options)) / 4.0
    for gates in (np.zeros((3, options)), levels):
        k = min(4, options)
        ours = compiled(gates, k, 2.0, 0.5, 0)
        theirs = reference.choose(gates, np.zeros(options), k, 2.0, 0.5, 0, 1e-2)
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        np.testing.assert_allclose(ours.plan, theirs.plan, atol=1e-15)
    np.testing.assert_array_equal(compiled(np.zeros((3, options)), k, 2.0, 0.5, 0).indices,
                                  np.tile(np.arange(k), (3, 1)))  # fmt: skip


def test_kernel_recovers_from_a_guess_that_is_too_high():
    # The first guess looks at every fourth score only: here these are the large ones.
    gates = np.zeros((2, 1024))
    gates[:, ::4] = 1.0 + np.arange(256)
    gates[:, 1::4] = 0.5
    ours = compiled(gates, 40, 3.0, 100.0, 3)
    theirs = reference.choose(gates, np.zeros(1024), 40, 3.0, 100.0, 3, 1e-2)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    gates[:, :] = 0.0
    gates[:, :160:4] = 1.0  # fewer than k above the guess
    ours = compiled(gates, 41, 3.0, 100.0, 3)
    theirs = reference.choose(gates, np.zeros(1024), 41, 3.0, 100.0, 3, 1e-2)
    np.testing.assert_array_equal(ours.indices, theirs.indices)


@pytest.mark.parametrize("priority", ["order", "gates"])
def test_queue_kernel_equals_reference(priority):
    rng = np.random.default_rng(3)
    requests = rng.integers(-1, 6, (4, 50, 3))
    order = np.argsort(rng.random((4, 50)), axis=1) if priority == "gates" else None
    order = np.tile(np.arange(50), (4, 1)) if order is None else order
    theirs = reference.places_in_queue(requests, order, 6)
    for group in range(4):
        places = np.empty((50, 3), np.int64)
        kernels.places_in_group(requests[group], order[group], 6, places)
        asked = requests[group] >= 0
        np.testing.assert_array_equal(places[asked], theirs[group][asked])


@pytest.mark.parametrize("choose", ["experts", "tokens"])
@pytest.mark.parametrize("gamma", [0.2, 1.0])
def test_bound_and_residual_are_those_of_the_transport_problem(choose, gamma):
    X = logits()
    routing = TopKRouter(
        choose=choose, gamma=gamma, capacity=6 if choose == "experts" else 48
    ).route(X)
    axis, k = (0, 6) if choose == "experts" else (1, 1)
    for g in range(len(X)):
        problem = TransportProblem(
            np.ones(48), np.full(8, 6.0), -softmax(X[g]), max_nnz=k, gamma=gamma, axis=axis
        )
        bound = problem.dual_value(routing.potentials[g])
        np.testing.assert_allclose(routing.dual_value[g], bound, rtol=1e-10)
        T = np.zeros((48, 8))
        for chooser in range(routing.indices.shape[1]):
            used = routing.indices[g, chooser] >= 0
            at = routing.indices[g, chooser][used]
            rows, cols = (at, chooser) if axis == 0 else (chooser, at)
            T[rows, cols] = routing.plan[g, chooser][used]
        certificate = problem.certificate(T).details
        kept, off = ("col", "row") if axis == 0 else ("row", "col")
        assert certificate[f"{kept}_residual"] < 1e-12
        np.testing.assert_allclose(routing.row_residual[g], certificate[f"{off}_residual"])
        assert certificate["max_nnz"] <= k


@pytest.mark.parametrize(("choose", "k"), [("experts", 3), ("tokens", 2)])
def test_many_steps_approach_the_optimum(choose, k):
    """The conic program of the relaxation is the oracle."""
    cp = pytest.importorskip("cvxpy")
    X = logits((12, 4), seed=4)
    C, a, b = -softmax(X), np.ones(12), np.full(4, 3.0)
    if choose == "tokens":
        C, a, b = C.T, b, a
    T, Z, R = (cp.Variable(C.shape, nonneg=True) for _ in range(3))
    cones = [
        cp.SOC((R + Z)[i, j], cp.hstack([2 * T[i, j], (R - Z)[i, j]]))
        for i, j in np.ndindex(*C.shape)
    ]
    constraints = [T @ np.ones(len(b)) == a, T.T @ np.ones(len(a)) == b, Z <= 1]
    program = cp.Problem(
        cp.Minimize(cp.sum(cp.multiply(C, T)) + 0.5 * cp.sum(R)),
        [*constraints, cp.sum(Z, axis=0) <= k, *cones],
    )
    optimum = program.solve(solver="CLARABEL")
    options = {"choose": choose, "capacity": 3, "n_chosen": 2 if choose == "tokens" else 1}
    few = TopKRouter(**options, multiple_of=1).route(X).dual_value
    many = TopKRouter(**options, n_iter=3000).route(X).dual_value
    exact = TopKRouter("exact", **options).route(X).dual_value
    assert few < many <= optimum + 1e-6
    np.testing.assert_allclose(many, optimum, rtol=0, atol=5e-3)
    np.testing.assert_allclose(exact, optimum, rtol=0, atol=1e-4)


@pytest.mark.parametrize("priority", ["order", "gates"])
@pytest.mark.parametrize("n_chosen", [1, 3])
def test_topk_drops_what_comes_when_an_expert_is_full(n_chosen, priority):
    X = logits()
    routing = TopKRouter("topk", n_chosen=n_chosen, capacity=5, priority=priority).route(X)
    for g, gates in enumerate(softmax(X)):
        best = np.argsort(-gates, axis=1, kind="stable")[:, :n_chosen]
        order = range(48) if priority == "order" else np.argsort(-gates.max(axis=1), kind="stable")
        mask, load = np.zeros((48, 8), bool), np.zeros(8, int)
        for rank in range(n_chosen):
            for token in order:
                j = best[token, rank]
                if load[j] < 5:
                    mask[token, j], load[j] = True, load[j] + 1
        np.testing.assert_array_equal(dense(routing, g), mask)
        np.testing.assert_array_equal(routing.load[g], load)
        np.testing.assert_array_equal(routing.dropped[g], ~mask.any(axis=1))
        np.testing.assert_allclose(routing.gate_sum[g], gates[mask].sum())


def test_expert_choice_takes_the_best_tokens():
    X = logits()
    routing = TopKRouter("expert_choice", capacity=5).route(X)
    for g, gates in enumerate(softmax(X)):
        mask = np.zeros((48, 8), bool)
        for j in range(8):
            mask[sorted(range(48), key=lambda i: -gates[i, j])[:5], j] = True
        np.testing.assert_array_equal(dense(routing, g), mask)


def test_expert_choice_is_what_sparse_begins_with():
    X = logits()
    first = TopKRouter(n_iter=0, capacity=5).route(X)
    other = TopKRouter("expert_choice", capacity=5).route(X)
    np.testing.assert_array_equal(first.indices, other.indices)


def test_balanced_is_the_best_assignment():
    X = logits((2, 6, 2), seed=5)
    routing = TopKRouter("balanced", capacity=3).route(X)
    for g, gates in enumerate(softmax(X)):
        sums = [
            sum(gates[i, j] for i, j in enumerate(choice))
            for choice in product(range(2), repeat=6)
            if sum(choice) == 3
        ]
        np.testing.assert_allclose(routing.gate_sum[g], max(sums), rtol=1e-12)
    np.testing.assert_array_equal(routing.load, 3)
    assert not routing.dropped.any()


@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("shape", [(7, 3), (5, 3), (6, 4), (3, 5)])
def test_balanced_is_the_best_when_experts_do_not_divide_tokens(shape, scale):
    tokens, experts = shape
    gates = scale * softmax(3.0 * logits(shape, seed=9))
    routing = TopKRouter("balanced", scores="gates").route(gates)
    sums = []
    for choice in product(range(experts), repeat=tokens):
        load = np.bincount(choice, minlength=experts)
        if load.max() - load.min() <= 1:
            sums.append(sum(gates[i, j] for i, j in enumerate(choice)))
    assert np.ptp(routing.load) == 1
    np.testing.assert_allclose(routing.gate_sum, max(sums), rtol=1e-12)
    assert not routing.dropped.any()


def test_balanced_gives_every_expert_its_share():
    for seed in range(5):
        load = TopKRouter("balanced").route(logits((9, 8), seed=seed)).load
        assert sorted(load) == [1] * 7 + [2]
    routing = TopKRouter("balanced").route(logits((12, 4)))
    np.testing.assert_allclose([routing.plan.sum(), routing.row_residual], [12.0, 0.0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "balanced"}, "n_chosen=2 with method='balanced', which gives every token one"),
        ({}, "n_chosen=2 with method='sparse', which lets experts choose.*choose='tokens'"),
        ({"method": "exact"}, "n_chosen=2 with method='exact'.*choose='tokens'"),
        ({"method": "expert_choice"}, "n_chosen=2 with method='expert_choice'.*method='topk'"),
    ],
)
def test_n_chosen_that_would_do_nothing_is_refused(params, message):
    with pytest.raises(ParameterError, match=message):
        TopKRouter(**params, n_chosen=2).route(logits())


@pytest.mark.parametrize("library", ["numpy", "array_api_strict", "torch"])
def test_negative_gates_are_refused(library):
    xp = pytest.importorskip(library)
    X = softmax(logits())
    X[1, 2, 3] = X[2, 0, 0] = -0.5
    with pytest.raises(ProblemError, match=r"logits\[1, 2, 3\] is negative with scores='gates'"):
        TopKRouter(scores="gates").route(xp.asarray(X))


def test_fit_points_to_route_for_a_batch():
    with pytest.raises(ProblemError, match=r"X has shape \(3, 48, 8\).*route\(X\)"):
        TopKRouter().fit(logits())


def test_weights_can_be_made_to_sum_to_one():
    routing = TopKRouter("topk", n_chosen=2).route(logits((48, 8)))
    W = routing.dispatch()
    sums = W.sum(axis=1)
    assert (sums < 1.0).all()
    W.data /= np.repeat(np.where(sums > 0, sums, 1.0), np.diff(W.indptr))
    np.testing.assert_allclose(W.sum(axis=1), ~routing.dropped)


def test_sinkhorn_plan_has_its_marginals():
    plan = np.exp(reference.sinkhorn(softmax(logits()), 0.2, 200))
    np.testing.assert_allclose(plan.sum(axis=2), 1.0, rtol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=1), 6.0, rtol=1e-6)


@pytest.mark.parametrize("choose", ["experts", "tokens"])
def test_exact_solves_the_problem_that_sparse_approaches(choose):
    X = logits()
    few = TopKRouter(choose=choose).route(X)
    exact = TopKRouter("exact", choose=choose).route(X)
    assert (few.dual_value < exact.dual_value).all()
    assert (exact.row_residual < few.row_residual).all()
    assert exact.indices.shape == few.indices.shape


def test_exact_says_when_it_did_not_finish(monkeypatch):
    class Impatient(router.SparsityConstrainedOT):
        def __init__(self, *, rounding="columns", max_iter=1, method="lbfgs", n_threads=1):
            super().__init__(
                rounding=rounding, max_iter=max_iter, method=method, n_threads=n_threads
            )
            self.max_iter = 1

    monkeypatch.setattr(router, "SparsityConstrainedOT", Impatient)
    with pytest.warns(ConvergenceWarning, match="TopKRouter: group 0"):
        TopKRouter("exact", capacity=6).route(logits((48, 8)))


def test_sparse_drops_fewer_tokens_than_topk():
    X = logits((2, 256, 8), seed=6)
    ours, theirs = (TopKRouter(method).route(X) for method in ("sparse", "topk"))
    assert (ours.dropped.sum(axis=1) < 0.5 * theirs.dropped.sum(axis=1)).all()
    assert (ours.row_residual < TopKRouter("expert_choice").route(X).row_residual).all()


@pytest.mark.parametrize("method", [*METHODS, "exact", "balanced"])
def test_dispatch_weights_loads_and_counts_agree(method):
    X = logits(dtype=np.float32)
    routing = TopKRouter(method, capacity=7).route(X)
    assert routing.weights.dtype == routing.plan.dtype == np.float32
    for g, matrix in enumerate(routing.dispatch()):
        assert isinstance(matrix, sp.csr_array)
        assert matrix.shape == (48, 8)
        mask = dense(routing, g)
        np.testing.assert_array_equal(matrix.toarray(), np.where(mask, softmax(X)[g], 0.0))
        np.testing.assert_array_equal(routing.load[g], mask.sum(axis=0))
        np.testing.assert_array_equal(routing.n_experts[g], mask.sum(axis=1))
        assert mask.sum(axis=0).max() <= 7


def test_capacity_of_tokens_that_choose():
    X = logits()
    free = TopKRouter(choose="tokens", n_chosen=2, capacity_factor=None).route(X)
    full = TopKRouter(choose="tokens", n_chosen=2, capacity=4).route(X)
    assert free.load.max() > 4
    assert full.load.max() == 4
    np.testing.assert_array_equal(free.potentials, full.potentials)
    assert (free.n_experts <= 2).all()
    used = full.indices >= 0
    np.testing.assert_array_equal(full.indices[used], free.indices[used])
    assert not full.weights[~used].any()
    assert not full.plan[~used].any()


def test_groups_are_independent_and_threads_do_not_matter():
    X = logits((5, 64, 8))
    for choose in ("experts", "tokens"):
        batch = TopKRouter(choose=choose).route(X)
        threads = TopKRouter(choose=choose, n_threads=2).route(X)
        for g in range(5):
            alone = TopKRouter(choose=choose).route(X[g])
            assert alone.load.shape == (8,)
            for name in ("indices", "plan", "weights", "potentials", "row_residual"):
                np.testing.assert_array_equal(getattr(batch, name)[g], getattr(alone, name))
                np.testing.assert_array_equal(getattr(batch, name), getattr(threads, name))


def test_potentials_go_on_where_another_run_ended():
    X = logits()
    first = TopKRouter(choose="tokens").route(X)
    again = TopKRouter(choose="tokens", n_iter=0).route(X, potentials=first.potentials)
    np.testing.assert_array_equal(again.indices, first.indices)
    np.testing.assert_array_equal(again.plan, first.plan)
    more = TopKRouter(choose="tokens").route(X, potentials=first.potentials)
    assert (more.dual_value > first.dual_value).all()
    shared = TopKRouter(choose="tokens", n_iter=0).route(X, potentials=first.potentials[0])
    np.testing.assert_array_equal(shared.indices[0], first.indices[0])


@pytest.mark.parametrize("library", ["array_api_strict", "torch", "cupy"])
@pytest.mark.parametrize("method", METHODS)
def test_other_libraries_give_the_same(library, method):
    xp = pytest.importorskip(library)
    X = logits()
    n_chosen = 1 if method == "expert_choice" else 2
    for options in (
        {}, {"choose": "tokens", "n_chosen": n_chosen}, {"priority": "gates", "capacity": 4},
    ):  # fmt: skip
        model = TopKRouter(method, **options)
        ours, theirs = model.route(X), model.route(xp.asarray(X))
        for name in ("indices", "load", "n_experts", "weights", "plan", "row_residual"):
            value = getattr(theirs, name)
            assert type(value).__module__.startswith(library)
            value = np.asarray(getattr(value, "_array", value))
            np.testing.assert_allclose(value, getattr(ours, name), rtol=0, atol=1e-12)
        for a, b in zip(ours.dispatch(), theirs.dispatch(), strict=True):
            np.testing.assert_allclose(a.toarray(), b.toarray(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            np.asarray(getattr(theirs.gate_sum, "_array", theirs.gate_sum)), ours.gate_sum
        )


def test_gates_are_taken_as_they_are():
    X = logits()
    a = TopKRouter(scores="gates").route(softmax(X))
    b = TopKRouter().route(X)
    np.testing.assert_array_equal(a.indices, b.indices)
    everything = TopKRouter("expert_choice", scores="gates", capacity=48).route(X**2)
    np.testing.assert_array_equal(everything.weights, np.swapaxes(X**2, 1, 2))


def test_fit_keeps_one_group():
    X = logits((48, 8))
    model = TopKRouter(capacity=6).fit(X)
    route = model.route(X)
    np.testing.assert_array_equal(model.dispatch_.toarray(), route.dispatch().toarray())
    np.testing.assert_array_equal(model.routing_.load, route.load)
    assert model.n_features_in_ == 8
    np.testing.assert_array_equal(
        TopKRouter(capacity=6).fit_transform(X).toarray(), model.dispatch_.toarray()
    )
    assert repr(route) == "Routing(48 tokens to 8 experts, experts choose)"
    assert repr(model.route(X[None])) == (
        "Routing(1 groups of 48 tokens to 8 experts, experts choose)"
    )


def test_inputs_are_not_changed():
    X = logits()
    X.flags.writeable = False
    start = np.zeros((3, 48))
    start.flags.writeable = False
    for method in METHODS:
        TopKRouter(method).route(X)
    TopKRouter().route(X, potentials=start)


def test_extreme_logits_give_no_nan():
    X = np.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    for method in (*METHODS, "balanced"):
        routing = TopKRouter(method, capacity=2).route(X.astype(np.float32))
        for name in ("weights", "plan", "row_residual"):
            assert np.isfinite(getattr(routing, name)).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "spares"}, "Did you mean 'sparse'"),
        ({"choose": "both"}, "choose='both'"),
        ({"capacity": 0}, "capacity=0"),
        ({"capacity_factor": -1.0}, "capacity_factor=-1.0"),
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"n_iter": -1}, "n_iter=-1"),
        ({"n_chosen": True}, "n_chosen=True"),
        ({"choose": "tokens", "n_chosen": 9}, "n_chosen=9 with 8 experts"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ParameterError, match=message):
        TopKRouter(**params).route(logits())


def test_bad_logits():
    X = logits()
    with pytest.raises(ProblemError, match=r"logits has shape \(8,\)"):
        TopKRouter().route(X[0, 0])
    with pytest.raises(ProblemError, match=r"logits has shape \(0, 8\)"):
        TopKRouter().route(X[0, :0])
    with pytest.raises(ProblemTypeError, match="logits has dtype complex128"):
        TopKRouter().route(X + 1j)
    with pytest.raises(ProblemError, match=r"potentials has shape \(3,\); expected \(3, 48\)"):
        TopKRouter().route(X, potentials=np.zeros(3))
    with pytest.raises(ParameterError, match="potentials with method='topk'"):
        TopKRouter("topk").route(X, potentials=np.zeros(8))
    X[1, 2, 3] = np.nan
    with pytest.raises(ProblemError, match=r"logits\[1, 2, 3\] is NaN"):
        TopKRouter().route(X)


@pytest.mark.parametrize("method", ["exact", "balanced"])
def test_methods_for_numpy_only_say_so(method):
    xp = pytest.importorskip("array_api_strict")
    with pytest.raises(UnsupportedBackendError, match=f"method='{method}' works with numpy"):
        TopKRouter(method).route(xp.asarray(logits()))
