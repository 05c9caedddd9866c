"""Bounds of networks of groups, against closed forms and the published inequality in cvxpy."""

from __future__ import annotations

import copy
import pickle
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.optimize import approx_fprime

from lowrank_opt.lipschitz import (
    Affine,
    FeedForward,
    LipschitzProblem,
    LipSDP,
    LipSDPGroupSort,
    Residual,
    ResidualBlock,
)
from lowrank_opt.lipschitz import group_conic as conic
from lowrank_opt.lipschitz import group_first_order as first_order
from lowrank_opt.lipschitz import group_interior_point as interior_point
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.certificates import group_upper
from lowrank_opt.lipschitz.certificates_dual import group_lower
from lowrank_opt.lipschitz.forms import Group, GroupChain
from lowrank_opt.lipschitz.group_structure import (
    diagonals,
    expand,
    lower_bound,
    tied_chain,
    upper_bound,
)

if TYPE_CHECKING:
    from types import ModuleType


def gaussian(rng: np.random.Generator, widths: list[int]) -> list[np.ndarray]:
    weights = [rng.standard_normal((n, m)) for m, n in pairwise(widths)]
    return [W / np.linalg.norm(W, 2) for W in weights]


def units(rng: np.random.Generator, groups: int, size: int) -> np.ndarray:
    v = rng.standard_normal((groups, size))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def chain(widths: list[int], sizes: list[int], *, norm: str = "l2", kind: str = "sort",
          seed: int = 0) -> GroupChain:  # fmt: skip
    rng = np.random.default_rng(seed)
    weights = gaussian(rng, widths)
    groups = [
        Group(s, units(rng, n // s, s) if kind == "householder" else None)
        for n, s in zip(widths[1:-1], sizes, strict=True)
    ]
    return GroupChain(tuple(weights), tuple(groups), norm)


def run(form: GroupChain, engine: ModuleType = interior_point, **options):
    state = engine.start(form, **{"tol": 1e-7, **options})
    while not state.done and state.nit < 500:
        engine.advance(form, state)
    return state


def published(form: GroupChain, *, gamma: bool = True) -> float:
    """The theorem's inequalities in λ, γ, μ and ρ, nothing eliminated, solved by Clarabel."""
    weights = form.weights
    rho = cp.Variable(nonneg=True)
    mu = cp.Variable(weights[0].shape[1], nonneg=True)
    T = cp.diag(mu) if form.norm == "linf" else rho * np.eye(weights[0].shape[1])
    constraints = []
    for W, group in zip(weights[:-1], form.groups, strict=True):
        m = len(W) // group.size
        lam, gam = cp.Variable(m, nonneg=True), cp.Variable(m)
        after = cp.diag(np.kron(np.eye(m), np.ones((group.size, 1))) @ lam)
        if gamma:
            for g in range(m):
                E = np.ones((group.size, group.size))
                if group.direction is not None:
                    E = np.eye(group.size) - np.outer(group.direction[g], group.direction[g])
                place = np.zeros((m, m))
                place[g, g] = 1.0
                after = after + gam[g] * np.kron(place, E)
        M = T - W.T @ after @ W
        constraints.append(0.5 * (M + M.T) >> 0)
        T = after
    W = weights[-1]
    if form.norm == "l2":
        constraints.append(T - W.T @ W >> 0)
    else:
        corner = cp.reshape(2 * rho - cp.sum(mu), (1, 1), order="C")
        constraints.append(cp.bmat([[T, W.T], [W, corner]]) >> 0)
    problem = cp.Problem(cp.Minimize(rho), constraints)
    with warnings.catch_warnings():
        # Tolerances below what it can reach on some processors: the value is compared to 2e-6.
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return float(np.sqrt(rho.value)) if form.norm == "l2" else float(rho.value)


SMALL = {
    "maxmin": chain([3, 6, 4, 2], [2, 2]),
    "groups of 3": chain([4, 6, 9, 3], [3, 3], seed=1),
    "groups of 4": chain([5, 8, 4, 5], [4, 4], seed=2),
    "full sort": chain([4, 5, 7, 2], [5, 7], seed=3),
    "different sizes": chain([6, 4, 9, 6, 1], [2, 3, 1], seed=4),
    "householder": chain([4, 6, 6, 3], [2, 3], kind="householder", seed=5),
    "householder of 1 and 4": chain([3, 5, 8, 2], [1, 4], kind="householder", seed=6),
    "maxmin, linf": chain([3, 6, 4, 1], [2, 2], norm="linf", seed=7),
    "groups of 3, linf": chain([7, 6, 9, 1], [3, 3], norm="linf", seed=8),
    "householder, linf": chain([4, 6, 6, 1], [2, 3], norm="linf", kind="householder", seed=9),
}


@pytest.mark.parametrize("name", SMALL)
def test_value_is_that_of_the_published_inequality(name: str) -> None:
    form = SMALL[name]
    state = run(form)
    assert state.done == "converged"
    np.testing.assert_allclose([state.upper, state.lower], published(form), rtol=2e-6)
    assert 0.0 <= state.upper - state.lower <= 1e-7 * state.upper


@pytest.mark.parametrize("name", SMALL)
def test_proofs_hold_for_the_independent_check(name: str) -> None:
    form = SMALL[name]
    state = run(form)
    np.testing.assert_allclose(group_upper(form, state.multipliers), state.upper, rtol=1e-8)
    np.testing.assert_allclose(group_lower(form, state.dual), state.lower, rtol=1e-8)


@pytest.mark.parametrize("name", SMALL)
def test_layout_of_the_results(name: str) -> None:
    """What the module's documentation says of multipliers and dual blocks, with plain matrices."""
    form = SMALL[name]
    state = run(form)
    rest = list(state.multipliers)
    T = np.eye(form.weights[0].shape[1])
    if form.norm == "linf":
        mu = rest.pop(0)
        np.testing.assert_allclose(mu.sum(), 1.0, rtol=1e-12)
        T = np.diag(mu)
    log, X = 0.0, state.dual
    np.testing.assert_allclose([np.trace(block) for block in X], 1.0, rtol=1e-12)
    first = np.diagonal(X[0])
    log -= np.log(first.max() if form.norm == "linf" else first.sum())
    for i, (W, group, pair) in enumerate(zip(form.weights[:-1], form.groups, rest, strict=True)):
        assert pair.shape == (2, len(W) // group.size)
        assert np.all(pair[0] >= 0.0)
        blocks, ratios = [], []
        for g, (lam, gam) in enumerate(pair.T):
            s = group.size
            E = np.ones((s, s))
            if group.direction is not None:
                E = np.eye(s) - np.outer(group.direction[g], group.direction[g])
            blocks.append(lam * np.eye(s) + gam * E)
            window = slice(g * s, (g + 1) * s)
            have = (W @ X[i] @ W.T)[window, window]
            kept = E / np.linalg.norm(E, 2) if E.any() else E
            for projection in (kept, np.eye(s) - kept):
                need = np.vdot(projection, X[i + 1][window, window])
                if np.trace(projection) > 0.5:
                    ratios.append(np.vdot(projection, have) / need)
        after = block_diag(*blocks)
        assert np.linalg.eigvalsh(T - W.T @ after @ W)[0] >= -1e-15 * np.abs(T).max()
        np.testing.assert_allclose(ratios, min(ratios), rtol=1e-6)
        log += np.log(min(ratios))
        T = after
    W = form.weights[-1] / state.upper
    assert np.linalg.eigvalsh(T - W.T @ W)[0] >= -1e-15 * np.abs(T).max()
    value = np.exp(log) * np.trace(form.weights[-1] @ X[-1] @ form.weights[-1].T)
    np.testing.assert_allclose(np.sqrt(value), state.lower, rtol=1e-8)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("package", ["clarabel", "scs"])
def test_cone_solvers_agree(norm: str, package: str) -> None:
    form = chain([5, 8, 6, 1], [2, 3], norm=norm, seed=10)
    tol = 1e-6 if package == "clarabel" else 1e-3
    state = run(form, conic, solver=package, tol=tol)
    assert state.done == "converged"
    assert state.counts[f"{package}_iterations"] > 0
    np.testing.assert_allclose(state.upper, run(form).upper, rtol=tol)


@pytest.mark.parametrize("kind", ["sort", "householder"])
@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_single_activation_gives_one(kind: str, size: int) -> None:
    rng = np.random.default_rng(size)
    direction = units(rng, 6 // size, size) if kind == "householder" else None
    form = GroupChain((np.eye(6), np.eye(6)), (Group(size, direction),))
    state = run(form)
    np.testing.assert_allclose([state.upper, state.lower], 1.0, rtol=1e-7)


def test_residual_rectifiers_for_the_same_activation_give_the_root_of_two() -> None:
    # max and min of (a, b) are b + relu(a - b) and b - relu(b - a) up to the order.
    W = np.array([[-1.0, 1.0], [1.0, -1.0]])
    H = np.array([[0.0, 1.0], [0.0, 1.0]])
    G = np.array([[-1.0, 0.0], [0.0, 1.0]])
    u = np.random.default_rng(0).standard_normal((50, 2))
    rewritten = u @ H.T + np.maximum(u @ W.T, 0.0) @ G.T
    np.testing.assert_allclose(np.sort(rewritten, axis=1), np.sort(u, axis=1), atol=1e-14)
    network = Residual((ResidualBlock(W, "relu", skip=H, output=G),))
    loose = LipSDP().solve(LipschitzProblem(network)).fun
    np.testing.assert_allclose(loose, np.sqrt(2.0), rtol=1e-5)
    tight = LipSDPGroupSort().solve(LipschitzProblem([np.eye(2), np.eye(2)], activation="maxmin"))
    np.testing.assert_allclose(tight.fun, 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["maxmin", "groups of 3", "householder"])
def test_unit_multipliers_give_the_product_of_norms(name: str) -> None:
    form = SMALL[name]
    tied = tied_chain(form)
    value = upper_bound(tied, expand(tied, [np.zeros(len(s)) for s in tied.starts]))[0]
    product = np.prod([np.linalg.norm(W, 2) for W in form.weights])
    np.testing.assert_allclose(value, product, rtol=1e-9)
    assert run(form).upper <= product


def test_without_the_kept_part_the_bound_is_looser() -> None:
    form = chain([8] * 7 + [1], [2] * 6, seed=11)
    tight, loose = published(form), published(form, gamma=False)
    np.testing.assert_allclose(run(form).upper, tight, rtol=1e-6)
    assert loose > 1.05 * tight


@pytest.mark.parametrize("kind", ["sort", "householder"])
def test_the_quadratic_constraint_holds_for_the_activation(kind: str) -> None:
    rng = np.random.default_rng(12)
    for size in (1, 2, 3, 4):
        groups = 3
        v = units(rng, groups, size)
        phi = Activation("group_sort", group_size=size)
        if kind == "householder":
            phi = Activation("householder", direction=v)
        n = groups * size
        u, w = rng.standard_normal((2, 2000, n))
        w[:1000] = u[:1000] + 0.3 * w[:1000]
        before, after = u - w, phi.apply(u) - phi.apply(w)
        for _ in range(5):
            lam, gam = rng.exponential(size=groups), 10.0 * rng.standard_normal(groups)
            blocks = []
            for g in range(groups):
                E = np.ones((size, size))
                if kind == "householder":
                    E = np.eye(size) - np.outer(v[g], v[g])
                blocks.append(lam[g] * np.eye(size) + gam[g] * E)
            T = block_diag(*blocks)
            form_before = np.einsum("ni,ij,nj->n", before, T, before)
            form_after = np.einsum("ni,ij,nj->n", after, T, after)
            assert np.all(form_before - form_after >= -1e-10 * np.abs(T).max() * n)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_gradient_of_the_smoothed_product(norm: str) -> None:
    for form in (
        chain([5, 6, 4, 1], [3, 2], norm=norm, seed=13),
        chain([3, 6, 8, 1], [2, 4], norm=norm, kind="householder", seed=14),
    ):
        tied = tied_chain(form)
        logs = first_order.balanced_logs(tied)
        rng = np.random.default_rng(0)
        x = first_order.join(tied, logs)
        x = x + 0.3 * rng.standard_normal(x.size)
        found = first_order.smoothed_product(tied, x, 3).gradient
        numeric = approx_fprime(
            x, lambda z, t=tied: first_order.smoothed_product(t, z, 3).value, 1e-7
        )
        np.testing.assert_allclose(found, numeric, atol=3e-6)


def test_smoothed_products_are_bounds_and_tend_to_the_product() -> None:
    form = chain([5, 6, 4, 3], [3, 2], seed=15)
    tied = tied_chain(form)
    x = first_order.join(tied, first_order.balanced_logs(tied))
    exact = upper_bound(tied, expand(tied, first_order.split(tied, x)))[0]
    values = [np.exp(0.5 * first_order.smoothed_product(tied, x, k).value) for k in (1, 3, 6, 12)]
    assert np.all(np.diff(values) < 0)
    assert values[-1] >= exact * (1.0 - 1e-9)
    np.testing.assert_allclose(values[-1], exact, rtol=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_first_order_method_bounds_from_both_sides(norm: str) -> None:
    form = chain([8, 12, 6, 12, 1], [2, 3, 4], norm=norm, seed=16)
    best = run(form)
    state = run(form, first_order)
    assert state.lower <= best.upper
    assert best.lower <= state.upper
    assert state.upper <= best.upper * (1.0 + 3e-3)
    assert state.lower >= best.lower * (1.0 - 3e-2)
    np.testing.assert_allclose(group_upper(form, state.multipliers), state.upper, rtol=1e-8)
    assert group_lower(form, state.dual) <= best.upper


def test_any_dual_point_is_below_and_any_multipliers_are_above() -> None:
    rng = np.random.default_rng(17)
    for name in ("groups of 3", "householder, linf"):
        form = SMALL[name]
        tied = tied_chain(form)
        best = published(form)
        for _ in range(20):
            X = []
            for W in tied.weights:
                n = W.shape[1]
                B = rng.standard_normal((n, rng.integers(1, n + 1)))
                X.append(B @ B.T + 1e-9 * np.eye(n))
            assert lower_bound(tied, X)[0] <= best * (1.0 + 1e-6)
            logs = [rng.standard_normal(len(s)) for s in tied.starts]
            assert upper_bound(tied, expand(tied, logs))[0] >= best * (1.0 - 1e-6)


def test_multipliers_of_groups_are_diagonal_in_the_coordinates() -> None:
    rng = np.random.default_rng(18)
    for kind in ("sort", "householder"):
        form = chain([4, 6, 8, 3], [3, 2], kind=kind, seed=19)
        tied = tied_chain(form)
        logs = [rng.standard_normal(len(s)) for s in tied.starts]
        multipliers = expand(tied, logs)
        T = diagonals(tied, multipliers)
        for i, (group, pair) in enumerate(zip(form.groups, multipliers, strict=True)):
            blocks = []
            for g, (lam, gam) in enumerate(pair.T):
                E = np.ones((group.size, group.size))
                if group.direction is not None:
                    E = np.eye(group.size) - np.outer(group.direction[g], group.direction[g])
                blocks.append(lam * np.eye(group.size) + gam * E)
            raw = block_diag(*blocks)
            W, V = form.weights[i], tied.full[i]
            found, wanted = (V.T * T[i + 1]) @ V, W.T @ raw @ W
            # The inputs of the second layer are in other coordinates too.
            np.testing.assert_allclose(
                np.linalg.eigvalsh(found), np.linalg.eigvalsh(wanted), atol=1e-12
            )


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_invariances(norm: str) -> None:
    form = chain([5, 6, 9, 1], [2, 3], norm=norm, seed=20)
    value = run(form).upper
    rng = np.random.default_rng(21)
    inside = np.concatenate([2 * g + rng.permutation(2) for g in rng.permutation(3)])
    second = np.concatenate([3 * g + rng.permutation(3) for g in rng.permutation(3)])
    W1, W2, W3 = form.weights
    if norm == "l2":
        Q = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    else:
        Q = np.diag(rng.choice([-1.0, 1.0], 5))[rng.permutation(5)]
    moved = GroupChain(
        ((W1 @ Q)[inside], W2[np.ix_(second, inside)], -3.0 * W3[:, second]), form.groups, norm
    )
    np.testing.assert_allclose(run(moved).upper, 3.0 * value, rtol=3e-7)
    # The activations commute with positive factors: a factor may wander through the network.
    scaled = GroupChain((1e-8 * W1, 1e5 * W2, 1e3 * W3), form.groups, norm)
    np.testing.assert_allclose(run(scaled).upper, value, rtol=3e-7)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_quotient_of_differences_exceeds_the_bound(norm: str) -> None:
    rng = np.random.default_rng(22)
    widths = [6, 12, 8, 1 if norm == "linf" else 4]
    weights = gaussian(rng, widths)
    for phi in (
        [Activation("maxmin"), Activation("group_sort", group_size=4)],
        [Activation("householder", direction=units(rng, 4, 3)), Activation("group_sort")],
    ):
        biases = [0.1 * rng.standard_normal(len(W)) for W in weights]
        layers = [Affine(weights[0], biases[0]), phi[0], Affine(weights[1], biases[1]), phi[1]]
        network = FeedForward((*layers, Affine(weights[2], biases[2])))
        result = LipSDPGroupSort().solve(LipschitzProblem(network, norm=norm))
        assert result.certified
        assert result.gap <= 1e-6
        x = rng.standard_normal((5000, 6))
        step = 10.0 ** rng.uniform(-4, 0, (5000, 1)) * rng.choice([-1.0, 1.0], (5000, 6))
        outputs = network.forward(x + step) - network.forward(x)
        if norm == "linf":
            quotient = np.abs(outputs[:, 0]) / np.abs(step).max(axis=1)
        else:
            quotient = np.linalg.norm(outputs, axis=1) / np.linalg.norm(step, axis=1)
        assert quotient.max() <= result.fun
        assert result.lower_bound <= result.fun


def test_groups_of_one_are_merged() -> None:
    weights = gaussian(np.random.default_rng(23), [5, 7, 4, 3])
    one = Activation("group_sort", group_size=1)
    problem = LipschitzProblem(weights, activation=one)
    exact = np.linalg.norm(weights[2] @ weights[1] @ weights[0], 2)
    np.testing.assert_allclose(LipSDP().solve(problem).fun, exact, rtol=1e-9)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_neurons_that_nothing_writes_or_reads(norm: str) -> None:
    rng = np.random.default_rng(24)
    W1, W2, W3 = (W.copy() for W in gaussian(rng, [4, 6, 6, 1]))
    W1[1] = W1[0]  # no difference in the first pair
    W2[:, 5] = -W2[:, 4]  # the sum of the last pair is not read
    W2[2:4] = 0.0  # a pair of the second layer that nothing writes
    W1[:, 3] = 0.0  # an input that nothing reads
    form = GroupChain((W1, W2, W3), (Group(2), Group(2)), norm)
    state = run(form, tol=1e-6)
    assert state.done == "converged"
    with warnings.catch_warnings():  # the infimum is not attained
        warnings.simplefilter("ignore", UserWarning)
        np.testing.assert_allclose(state.upper, published(form), rtol=2e-4)
    np.testing.assert_allclose(group_upper(form, state.multipliers), state.upper, rtol=1e-6)
    np.testing.assert_allclose(group_lower(form, state.dual), state.lower, rtol=1e-6)


def test_nothing_passes() -> None:
    W1 = np.array([[1.0, 2.0], [1.0, 2.0]])
    W2 = np.array([[1.0, -1.0]])
    for engine in (interior_point, first_order):
        state = run(GroupChain((W1, W2), (Group(2),)), engine)
        assert state.done == "stalled"
        assert state.upper <= 3e-3  # the product of norms is 4.5
        np.testing.assert_allclose(
            group_upper(GroupChain((W1, W2), (Group(2),)), state.multipliers),
            state.upper,
            rtol=1e-2,
        )


def test_deep_networks_of_small_layers_keep_their_digits() -> None:
    rng = np.random.default_rng(25)
    weights = tuple(0.1 * W for W in gaussian(rng, [6] * 41))
    form = GroupChain(weights, (Group(2),) * 39)
    state = run(form)
    assert state.done == "converged"
    assert state.nit <= 25
    assert state.upper < 1e-41  # the product is 1e-40
    large = GroupChain(tuple(10.0 * W for W in weights), form.groups)
    np.testing.assert_allclose(run(large).upper, 1e40 * state.upper, rtol=3e-7)


@pytest.mark.parametrize("engine", [interior_point, first_order])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_resumed_runs_are_the_same(engine: ModuleType, norm: str) -> None:
    form = chain([6, 8, 8, 1], [2, 4], norm=norm, seed=26)
    whole = engine.start(form, tol=1e-7)
    for _ in range(3):
        engine.advance(form, whole)
    other = pickle.loads(pickle.dumps(whole))
    assert other.cache is None
    third = copy.deepcopy(whole)
    for _ in range(5):
        for state in (whole, other, third):
            engine.advance(form, state)
    for state in (other, third):
        assert (state.upper, state.lower, state.nit) == (whole.upper, whole.lower, whole.nit)
        for a, b in zip(state.dual, whole.dual, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("engine", [interior_point, first_order, conic])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_start_at_the_answer_is_an_answer(engine: ModuleType, norm: str) -> None:
    form = chain([6, 9, 8, 1], [3, 4], norm=norm, kind="householder", seed=27)
    best = run(form, tol=1e-7)
    state = engine.start(form, tol=1.5e-7, multipliers=best.multipliers, dual=best.dual)
    assert (state.done, state.nit) == ("converged", 0)
    # Multipliers alone are a start, not an answer.
    again = interior_point.start(form, tol=1e-7, multipliers=best.multipliers)
    assert again.upper <= best.upper * (1.0 + 1e-9)
    assert not again.done


def test_tight_tolerances_are_reached_or_said_not_to_be() -> None:
    for seed in range(3):
        form = chain([8, 16, 16, 16, 4], [2, 4, 8], seed=30 + seed)
        assert run(form, tol=1e-9).done == "converged"
        state = run(form, tol=1e-15)
        assert state.done == "stalled"
        assert state.lower <= state.upper * (1.0 + 1e-10)
        assert 1.0 - state.lower / state.upper < 1e-9


def test_solver_methods_and_limits() -> None:
    rng = np.random.default_rng(40)
    weights = gaussian(rng, [20, 16, 16, 5])
    problem = LipschitzProblem(weights, activation="maxmin")
    best = LipSDPGroupSort(tol=1e-7).solve(problem)
    assert best.success
    assert best.fun <= problem.part(0).product
    for method in ("clarabel", "first_order"):
        result = LipSDPGroupSort(method=method).solve(problem)
        np.testing.assert_allclose(result.fun, best.fun, rtol=2e-2)
        assert result.fun >= best.relaxation_bound
    early = LipSDPGroupSort(max_iter=1, tol=1e-12).solve(problem)
    assert not early.success
    assert early.certified
    assert best.fun <= early.fun <= problem.part(0).product
    again = LipSDPGroupSort(tol=1e-6).solve(problem, x0=best.x)
    assert again.nit == 0
    assert again.success


def test_each_output_in_the_norm_linf() -> None:
    rng = np.random.default_rng(41)
    weights = gaussian(rng, [5, 6, 4, 3])
    problem = LipschitzProblem(weights, norm="linf", activation="maxmin")
    result = LipSDPGroupSort(each_output=True, tol=1e-7).solve(problem)
    for k in range(3):
        form = GroupChain((*weights[:2], weights[2][k : k + 1]), (Group(2), Group(2)), "linf")
        rows = np.prod([np.abs(W).sum(axis=1).max() for W in form.weights])
        np.testing.assert_allclose(result.per_output[k], min(published(form), rows), rtol=1e-6)


def test_networks_with_other_activations_are_refused() -> None:
    problem = LipschitzProblem([np.eye(2), np.eye(2)])
    with pytest.raises(TypeError, match="groups"):
        LipSDPGroupSort().solve(problem)


def test_cost_is_linear_in_depth() -> None:
    """Every further layer adds the same number of factorised entries."""
    sizes = []
    for depth in (4, 6, 8):
        form = chain([8] * (depth + 1), [2] * (depth - 1), seed=42)
        state = run(form)
        blocks = state.cache[1]
        schur = blocks.schur(state.X, [np.eye(len(X)) for X in state.X])
        sizes.append(sum(f.size for f in schur.factors) + sum(f.size for f in schur.links[1:]))
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] == 2 * (64 + 64)


@pytest.mark.slow
def test_wide_and_deep_networks_converge() -> None:
    for widths, sizes, norm in (
        ([100] * 20 + [10], [2] * 19, "l2"),
        ([300, 64, 64, 64, 1], [4, 2, 64], "linf"),
        ([200, 200, 200, 1], [20, 8], "l2"),
        ([10] * 60 + [1], [5] * 59, "l2"),
    ):
        for kind in ("sort", "householder"):
            state = run(chain(widths, sizes, norm=norm, kind=kind, seed=43), tol=5e-7)
            assert state.done == "converged"
            assert state.nit <= 30
