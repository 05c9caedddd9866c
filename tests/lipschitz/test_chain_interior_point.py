"""The interior point for chains against dense algebra, another solver, and known values."""

from __future__ import annotations

import copy
import itertools
import pickle

import cvxpy as cp
import numpy as np
import pytest

from lowrank_opt.core.serialize import decode, encode
from lowrank_opt.lipschitz import chain_blocks as blocks
from lowrank_opt.lipschitz import chain_interior_point as engine
from lowrank_opt.lipschitz import reference_chain as dense
from lowrank_opt.lipschitz.chain_operator import ChainOperator
from lowrank_opt.lipschitz.chain_scaling import fast_multipliers, squared_bound
from lowrank_opt.lipschitz.forms import Chain

TOL = 5e-7


def gaussian(dims, seed=0):
    g = np.random.default_rng(seed)
    return [g.standard_normal((m, n)) / np.sqrt(n) for n, m in itertools.pairwise(dims)]


def chain(weights, alpha=0.0):
    """Layers of norm one, the input compressed if it is wide."""
    norms = [np.linalg.norm(W, 2) for W in weights]
    weights = [W / s for W, s in zip(weights, norms, strict=True)]
    if len(weights) > 1 and weights[0].shape[1] > weights[0].shape[0]:
        weights[0] = np.ascontiguousarray(np.linalg.qr(weights[0].T, mode="r").T)
    if np.isscalar(alpha):
        alpha = [np.full(len(W), alpha) for W in weights[:-1]]
    return Chain(tuple(weights), tuple(alpha), float(np.prod(norms)))


def solve(form, *, tol=TOL, max_iter=60, **options):
    state = engine.start(form, tol=tol, **options)
    while not state.done and state.nit < max_iter:
        engine.advance(form, state)
    return state


def bound(weights, alpha=0.0, **options):
    form = chain(weights, alpha)
    state = solve(form, **options)
    assert state.done == "converged", state.message
    return state.upper * form.scale


def tridiagonal(sizes, seed, shift=None):
    """Random symmetric block tridiagonal matrix; `shift`: its smallest eigenvalue."""
    g = np.random.default_rng(seed)
    at = np.concatenate([[0], np.cumsum(sizes)])
    A = g.standard_normal((at[-1], at[-1]))
    A = A + A.T
    for i, j in itertools.product(range(len(sizes)), repeat=2):
        if abs(i - j) > 1:
            A[at[i] : at[i + 1], at[j] : at[j + 1]] = 0.0
    if shift is not None:
        A += (shift - np.linalg.eigvalsh(A)[0]) * np.eye(len(A))
    return A


def to_blocks(A, sizes):
    at = np.concatenate([[0], np.cumsum(sizes)])
    cut = [slice(a, b) for a, b in itertools.pairwise(at)]
    low = [A[:0]] + [np.ascontiguousarray(A[r, c]) for c, r in itertools.pairwise(cut)]
    return [np.ascontiguousarray(A[c, c]) for c in cut], low


SIZES = ([3, 4, 5, 2, 4], [3, 4], [2, 3, 4], [1, 1, 1, 1], [5, 1, 7, 1])


class TestBlocks:
    """Recursions over layers equal dense products and inverses."""

    @pytest.fixture(params=SIZES, ids=str)
    def case(self, request):
        sizes = request.param
        S, R = tridiagonal(sizes, 1, 1.0), tridiagonal(sizes, 2, 0.5)
        Z, X, D = np.linalg.inv(S), np.linalg.inv(R), tridiagonal(sizes, 3)
        S_blocks = to_blocks(S, sizes)
        inverse = blocks.invert(*S_blocks, blocks.factor(*S_blocks))
        g = np.random.default_rng(4)
        weights = [g.standard_normal((m, n)) for n, m in itertools.pairwise([1, *sizes])]
        scale = [g.standard_normal(n) for n in sizes]
        low = [
            A if i == 0 else -s[:, None] * W
            for i, (A, s, W) in enumerate(zip(to_blocks(D, sizes)[1], scale, weights, strict=True))
        ]
        at = np.concatenate([[0], np.cumsum(sizes)])
        for i in range(1, len(sizes)):
            r, c = slice(at[i], at[i + 1]), slice(at[i - 1], at[i])
            D[r, c], D[c, r] = low[i], low[i].T
        diagonal = None
        if request.param[0] != 5:
            D[: at[1], : at[1]] = 0.3 * np.eye(at[1])
            D[at[-2] :, at[-2] :] = np.diag(scale[-1])
            diagonal = (0.3, scale[-1])
        d = blocks.Direction(to_blocks(D, sizes)[0], low, scale, diagonal)
        t = blocks.transfers(*to_blocks(X, sizes), inverse, weights)
        return sizes, X, Z, D, d, inverse, t

    def test_inverse(self, case):
        sizes, _, Z, _, _, inverse, _ = case
        expected, expected_low = to_blocks(Z, sizes)
        for A, B in zip(inverse.Z + inverse.Z_low[1:], expected + expected_low[1:], strict=True):
            np.testing.assert_allclose(A, B, rtol=1e-9, atol=1e-12)

    def test_products(self, case):
        sizes, X, Z, D, d, _, t = case
        p = blocks.product(t, d, whole=True)
        part = blocks.product(t, d, whole=False)
        K = blocks.corrector(t, *to_blocks(X, sizes), d, p)
        full = X @ D @ Z
        second = (-X - 0.5 * (full + full.T)) @ D @ Z
        second = 0.5 * (second + second.T)
        at = np.concatenate([[0], np.cumsum(sizes)])
        for i in range(len(sizes) - 1):
            c = slice(at[i], at[i + 2])
            np.testing.assert_allclose(p.full[i], full[c, c], rtol=1e-8, atol=1e-9)
            expected = second[c, c]
            if i > 0:  # the block that is also the last one of the matrix before
                n = sizes[i]
                expected[:n, :n] = K[i][:n, :n] = 0.0
                np.testing.assert_array_equal(part.full[i][:n, :n], 0.0)
                part.full[i][:n, :n] = p.full[i][:n, :n]
            np.testing.assert_allclose(part.full[i], p.full[i], rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(K[i], expected, rtol=1e-8, atol=1e-8)

    def test_indefinite_has_no_factor(self):
        S = to_blocks(tridiagonal([3, 4, 5], 1, -0.1), [3, 4, 5])
        assert blocks.factor(*S) is None


CHAINS = [
    ([3, 4, 5, 2, 4, 2], 0.0),
    ([3, 4, 5, 2, 4, 2], "mixed"),
    ([3, 4, 1], 0.0),
    ([3, 4, 1], 0.3),
    ([2, 3, 4, 3], -0.4),
    ([1, 1, 1, 1], 0.0),
    ([2, 6, 6, 1], "partly"),
]


def slopes(dims, alpha):
    g = np.random.default_rng(5)
    if alpha == "mixed":
        return [g.uniform(-1.0, 0.9, n) for n in dims[1:-1]]
    if alpha == "partly":
        return [np.zeros(dims[1]), *(g.uniform(-0.5, 0.5, n) for n in dims[2:-1])]
    return [np.full(n, alpha) for n in dims[1:-1]]


class TestOperator:
    """Operations on blocks equal the program written out densely."""

    @pytest.fixture(params=CHAINS, ids=str)
    def case(self, request):
        dims, alpha = request.param
        form = Chain(tuple(gaussian(dims)), tuple(slopes(dims, alpha)))
        sizes = form.widths
        X = np.linalg.inv(tridiagonal(sizes, 2, 0.5))
        return form, sizes, X

    def test_matrix_and_values(self, case):
        form, sizes, X = case
        op = ChainOperator(form.weights, form.alpha)
        lam = np.random.default_rng(1).uniform(0.5, 1.0, form.n_hidden)
        S = to_blocks(dense.lmi_matrix(form, 2.0, lam), sizes)
        for A, B in zip(op.blocks(2.0, lam), S, strict=True):
            for a, b in zip(A[1:], B[1:], strict=True):
                np.testing.assert_allclose(a, b, atol=1e-12)
        np.testing.assert_allclose(
            op.values(*to_blocks(X, sizes)), dense.constraint_values(form, X), atol=1e-12
        )
        big = 1e3 * lam
        rho = np.linalg.norm(dense.output_matrix(form)) + 1e6
        assert op.positive(rho, big) == (
            np.linalg.eigvalsh(dense.lmi_matrix(form, rho, big))[0] > 0.0
        )
        assert not op.positive(1e-9, lam)

    @pytest.mark.parametrize("structure", ["neuron", "layer"])
    def test_schur_matrix(self, case, structure):
        form, sizes, X = case
        op = ChainOperator(form.weights, form.alpha, structure)
        S = tridiagonal(sizes, 1, 1.0)
        S_blocks = to_blocks(S, sizes)
        inverse = blocks.invert(*S_blocks, blocks.factor(*S_blocks))
        t = blocks.transfers(*to_blocks(X, sizes), inverse, op.W)
        B = op.schur(t, *to_blocks(X, sizes))
        expected = dense.schur_matrix(form, X, np.linalg.inv(S))
        expected = 0.5 * (expected + expected.T)
        if structure == "layer":
            G = np.zeros((len(sizes), 1 + form.n_hidden))
            G[0, 0] = 1.0
            for i, (a, b) in enumerate(itertools.pairwise(np.cumsum(sizes) - sizes[0] + 1)):
                G[i + 1, a:b] = 1.0
            expected = G @ expected @ G.T
        np.testing.assert_allclose(np.tril(B), np.tril(expected), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("structure", ["neuron", "layer"])
    def test_repaired_dual_is_feasible(self, case, structure):
        form, sizes, X = case
        op = ChainOperator(form.weights, form.alpha, structure)
        value, new, new_low = op.lower(*to_blocks(X, sizes))
        values = op.values(new, new_low)
        assert values[0] == pytest.approx(1.0, abs=1e-12)
        assert values[1:].max() <= 1e-10
        for K in blocks.cliques(new, new_low):
            assert np.linalg.eigvalsh(K)[0] >= -1e-10
        assert value <= np.prod([np.linalg.norm(W, 2) for W in form.weights]) ** 2 * 1e3

    def test_closed_form_is_feasible(self, case):
        form, _, _ = case
        for per_layer in (False, True):
            lam = fast_multipliers(form, per_layer=per_layer)
            rho = squared_bound(form, lam)
            best = dense.best_constant(form, np.concatenate(lam))
            assert np.sqrt(rho) == pytest.approx(best, rel=1e-9)
            norms = np.prod([np.linalg.norm(W, 2) for W in form.weights])
            if not any(np.any(a) for a in form.alpha):
                assert np.sqrt(rho) <= norms * (1 + 1e-12)


def clarabel_bound(weights, alpha, structure="neuron"):
    """The inequality as published: [A; B]ᵀ [[-2 a T, (1 + a) T], [·, -2 T]] [A; B] + … <= 0."""
    sizes = [W.shape[1] for W in weights]
    at = np.concatenate([[0], np.cumsum(sizes)])
    N, d = int(sum(sizes[1:])), int(at[-1])
    A, B = np.zeros((N, d)), np.zeros((N, d))
    B[:, sizes[0] :] = np.eye(N)
    row = 0
    for i, W in enumerate(weights[:-1]):
        A[row : row + len(W), at[i] : at[i + 1]] = W
        row += len(W)
    a = np.concatenate(alpha)
    G = np.zeros((N, len(sizes) - 1))
    for i, (s, e) in enumerate(itertools.pairwise(np.cumsum([0, *sizes[1:]]))):
        G[s:e, i] = 1.0
    free = cp.Variable(N if structure == "neuron" else G.shape[1], nonneg=True)
    T = cp.diag(free if structure == "neuron" else G @ free)
    rho = cp.Variable()
    last = np.zeros((d, d))
    last[at[-2] :, at[-2] :] = weights[-1].T @ weights[-1]
    first = np.zeros((d, d))
    first[: sizes[0], : sizes[0]] = np.eye(sizes[0])
    Da = np.diag(a)
    M = (
        -2.0 * A.T @ Da @ T @ A
        + A.T @ (np.eye(N) + Da) @ T @ B
        + B.T @ T @ (np.eye(N) + Da) @ A
        - 2.0 * B.T @ T @ B
        - rho * first
        + last
    )
    M = 0.5 * (M + M.T)
    problem = cp.Problem(cp.Minimize(rho), [M << 0])
    problem.solve(solver="CLARABEL")
    assert problem.status == "optimal"
    return float(np.sqrt(rho.value))


class TestAnotherSolver:
    """Clarabel on the inequality as published, without any preparation of the weights."""

    @pytest.mark.parametrize("structure", ["neuron", "layer"])
    @pytest.mark.parametrize(
        ("dims", "alpha"),
        [
            ([3, 6, 5, 2], 0.0),
            ([5, 4, 3, 2], 0.0),
            ([3, 6, 5, 2], 0.1),
            ([3, 6, 5, 2], -0.13),
            ([2, 5, 4, 4, 1], "mixed"),
            ([2, 6, 6, 3], "partly"),
            ([1, 1, 1, 1], 0.5),
            ([4, 8, 3], -1.0),
        ],
        ids=str,
    )
    def test_same_value(self, dims, alpha, structure):
        weights, alpha = gaussian(dims, 3), slopes(dims, alpha)
        expected = clarabel_bound(weights, alpha, structure)
        form = chain(weights, alpha)
        state = solve(form, tol=1e-7, structure=structure)
        assert state.done == "converged"
        assert state.upper * form.scale == pytest.approx(expected, rel=2e-6)
        assert state.lower <= state.upper
        # What the state claims, from the dense program: the multipliers and the dual matrix.
        lam = np.concatenate(state.multipliers)
        assert dense.best_constant(form, lam) == pytest.approx(state.upper, rel=1e-7)
        n = len(form.weights)
        X, X_low = list(state.dual[:n]), [None, *(A.T for A in state.dual[n:])]
        op = ChainOperator(form.weights, form.alpha, structure)
        values = op.values(X, X_low)
        assert values[0] == pytest.approx(1.0, abs=1e-12)
        assert values[1:].max() <= 1e-12 * max(1.0, max(np.trace(A) for A in X))
        assert np.sqrt(op.output_value(X)) == pytest.approx(state.lower, rel=1e-12)
        for K in blocks.cliques(X, X_low):
            assert np.linalg.eigvalsh(K)[0] >= -1e-12 * np.trace(K)


# Gaussian networks of the specification: certified lower and upper values of the bound.
KNOWN = {
    (2, 10): (1.12016614, 1.12016622),
    (5, 40): (4.47370878, 4.47370929),
    (10, 40): (16.3751645, 16.3751675),
    (20, 20): (97.7379776, 97.7379867),
    (30, 10): (309.81788, 309.817894),
    (30, 20): (886.26822, 886.268246),
}


class TestKnownValues:
    @pytest.mark.parametrize(("depth", "width"), KNOWN)
    def test_gaussian(self, depth, width):
        form = chain(gaussian([4, *[width] * (depth - 1), 1]))
        state = solve(form)
        low, high = KNOWN[depth, width]
        assert state.done == "converged"
        assert state.nit <= 15
        assert 1.0 - state.lower / state.upper <= TOL
        # Two intervals that hold the same number.
        assert state.lower * form.scale <= high * (1 + 1e-8)
        assert state.upper * form.scale >= low * (1 - 1e-8)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("depth", "width", "low", "high"),
        [
            (10, 100, 22.4477093, 22.4477102),
            (30, 60, 6422.30688, 6422.30715),
            (64, 64, 110754456.0, 110754475.0),
        ],
    )
    def test_large_gaussian(self, depth, width, low, high):
        form = chain(gaussian([4, *[width] * (depth - 1), 1]))
        state = solve(form)
        assert state.done == "converged"
        assert state.lower * form.scale <= high * (1 + 1e-8)
        assert state.upper * form.scale >= low * (1 - 1e-8)

    def test_one_layer_is_its_norm(self):
        for dims in ([5, 3], [3, 5], [1, 4]):
            W = gaussian(dims)[0]
            state = engine.start(Chain((W,), ()))
            expected = np.linalg.svd(W, compute_uv=False)[0]
            assert state.done == "converged"
            assert state.nit == 0
            assert state.upper == pytest.approx(expected, rel=1e-12)
            assert state.lower == pytest.approx(expected, rel=1e-12)
            v = np.linalg.svd(W)[2][0]
            np.testing.assert_allclose(state.dual[0], np.outer(v, v), atol=1e-12)

    def test_difference_of_two_neurons(self):
        """relu(x) - relu(x - 1) has constant one, and so says the bound."""
        assert bound([np.ones((2, 1)), np.array([[1.0, -1.0]])]) == pytest.approx(1.0, rel=1e-6)

    def test_chain_of_single_neurons(self):
        weights = [np.array([[w]]) for w in (0.5, -2.0, 3.0, 0.1)]
        assert bound(weights) == pytest.approx(0.3, rel=1e-6)

    def test_identities_and_rotations_have_norm_one(self):
        assert bound([np.eye(6)] * 5) == pytest.approx(1.0, rel=1e-6)
        g = np.random.default_rng(0)
        rotations = [np.linalg.qr(g.standard_normal((8, 8)))[0] for _ in range(6)]
        assert bound(rotations) == pytest.approx(1.0, rel=1e-6)

    def test_between_all_patterns_and_product(self):
        """One input and small hidden layers: the largest norm over all on/off patterns."""
        for seed in range(3):
            weights = gaussian([1, 4, 4, 2], seed)
            patterns = list(itertools.product((0.0, 1.0), repeat=4))
            exact = max(
                np.linalg.norm(weights[2] @ np.diag(b) @ weights[1] @ np.diag(a) @ weights[0], 2)
                for a in patterns
                for b in patterns
            )
            neuron = bound(weights)
            layer = bound(weights, structure="layer")
            product = np.prod([np.linalg.norm(W, 2) for W in weights])
            assert exact <= neuron * (1 + 1e-9)
            assert neuron <= layer * (1 + 1e-6)
            assert layer <= product * (1 + 1e-6)


class TestInvariances:
    @pytest.fixture
    def weights(self):
        return gaussian([4, 12, 9, 7, 3], 11)

    def test_order_of_neurons(self, weights):
        g = np.random.default_rng(2)
        p, q = g.permutation(12), g.permutation(9)
        moved = [weights[0][p], weights[1][q][:, p], weights[2][:, q], weights[3]]
        assert bound(moved) == pytest.approx(bound(weights), rel=2 * TOL)

    def test_rotations_of_input_and_output(self, weights):
        g = np.random.default_rng(2)
        U, V = (np.linalg.qr(g.standard_normal((n, n)))[0] for n in (3, 4))
        turned = [weights[0] @ V, *weights[1:3], U @ weights[3]]
        assert bound(turned) == pytest.approx(bound(weights), rel=2 * TOL)

    def test_scaled_layers(self, weights):
        scaled = [1e3 * weights[0], 1e-5 * weights[1], -weights[2], 2.0 * weights[3]]
        assert bound(scaled) == pytest.approx(0.02 * bound(weights), rel=2 * TOL)

    @pytest.mark.parametrize("alpha", [0.0, 0.2])
    def test_scaled_neurons(self, weights, alpha):
        D = np.exp(np.random.default_rng(3).uniform(-3.0, 3.0, 12))
        moved = [D[:, None] * weights[0], weights[1] / D, *weights[2:]]
        assert bound(moved, alpha) == pytest.approx(bound(weights, alpha), rel=2 * TOL)

    def test_unused_outputs_and_inputs(self, weights):
        wide = [np.hstack([weights[0], np.zeros((12, 3))]), *weights[1:3]]
        wide.append(np.vstack([weights[3], np.zeros((20, 7))]))
        assert bound(wide) == pytest.approx(bound(weights), rel=2 * TOL)


def awkward():
    g = np.random.default_rng(7)
    yield "few neurons between many", gaussian([3, 60, 5, 60, 2])
    yield "single neurons", gaussian([4, 1, 20, 1, 20, 1])
    yield "one hidden layer", gaussian([30, 30, 30])
    yield "wide input", gaussian([300, 25, 10])
    yield "many outputs", gaussian([4, 10, 5, 200])
    yield (
        "uniform",
        [g.uniform(0.0, 1.0, (m, n)) / 2.0 for n, m in itertools.pairwise([2, 10, 30, 20])]
        + [g.uniform(0.0, 1.0, (2, 20)) / 2.0],
    )
    weights = gaussian([6, 20, 20, 4])
    yield "rank one", [weights[0], np.outer(weights[1][:, 0], weights[1][0]), weights[2]]
    yield "columns of all sizes", [weights[0], weights[1] * np.logspace(-8, 0, 20), weights[2]]
    yield (
        "rows of all sizes",
        [weights[0], weights[1] * np.logspace(-8, 0, 20)[:, None], weights[2]],
    )
    yield "twins", [weights[0], np.vstack([weights[1][:10]] * 2), weights[2]]
    yield "ones", [np.ones((5, 5))] * 4
    yield "deep", gaussian([4] * 60)
    yield "tiny neurons", [np.eye(4), np.diag([1.0, 1.0, 1e-12, 1e-160]), np.eye(4)]


class TestRobustness:
    @pytest.mark.parametrize(
        ("name", "weights"), list(awkward()), ids=lambda v: v if isinstance(v, str) else ""
    )
    def test_converges(self, name, weights):
        form = chain(weights)
        state = solve(form, max_iter=80)
        assert state.done == "converged", (name, state.message)
        assert 0.0 < state.lower <= state.upper * (1 + 1e-12)
        assert dense.best_constant(form, np.concatenate(state.multipliers)) <= state.upper * (
            1 + 1e-6
        )

    @pytest.mark.parametrize("alpha", [-1.0, -0.5, 0.01, 0.5, 0.9])
    def test_slopes(self, alpha):
        state = solve(chain(gaussian([4, 20, 20, 20, 3]), alpha))
        assert state.done == "converged"

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [0, 1, 2])
    @pytest.mark.parametrize("width", [10, 20, 40, 60])
    @pytest.mark.parametrize("depth", [2, 5, 10, 20, 30])
    def test_hard_grid(self, depth, width, seed):
        state = solve(chain(gaussian([4, *[width] * (depth - 1), 1], seed)))
        assert state.done == "converged"
        assert state.nit <= 30


class TestEngine:
    """What a driver relies on."""

    @pytest.fixture
    def form(self):
        return chain(gaussian([4, 15, 15, 2]))

    def test_answer_takes_no_iteration(self, form):
        done = solve(form)
        again = engine.start(form, tol=TOL, multipliers=done.multipliers, dual=done.dual)
        assert again.done == "converged"
        assert again.nit == 0
        assert 1.0 - again.lower / again.upper <= TOL

    def test_only_true_duals_count(self, form):
        done = solve(form)
        indefinite = tuple(
            A - (0.1 * np.eye(len(A)) if i < 3 else 0.0) for i, A in enumerate(done.dual)
        )
        state = engine.start(form, tol=TOL, multipliers=done.multipliers, dual=indefinite)
        assert not state.done
        doubled = tuple(2.0 * A if i == 2 else A for i, A in enumerate(done.dual))
        state = engine.start(form, tol=TOL, multipliers=done.multipliers, dual=doubled)
        assert state.lower <= done.upper * (1 + 1e-12)

    def test_start_from_near_the_answer(self, form):
        done = solve(form)
        g = np.random.default_rng(0)
        near = tuple(lam * np.exp(0.01 * g.standard_normal(len(lam))) for lam in done.multipliers)
        cold, warm = solve(form), solve(form, multipliers=near)
        assert warm.done == "converged"
        assert warm.nit <= cold.nit
        useless = tuple(np.full(len(lam), 1e9) for lam in done.multipliers)
        assert solve(form, multipliers=useless).done == "converged"

    @pytest.mark.parametrize("how", ["copy", "pickle", "stored"])
    def test_resume_is_bit_identical(self, form, how):
        whole = solve(form)
        state = engine.start(form, tol=TOL)
        while not state.done:
            if how == "copy":
                state = copy.deepcopy(state)
            elif how == "pickle":
                state = pickle.loads(pickle.dumps(state))
            else:
                arrays = {}
                state.cache = None
                state = decode(encode(state, arrays), arrays)
            assert state.cache is None
            engine.advance(form, state)
        assert state.nit == whole.nit
        assert (state.upper, state.lower) == (whole.upper, whole.lower)
        for a, b in zip(state.multipliers + state.X, whole.multipliers + whole.X, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_bounds_never_get_worse(self, form):
        state = engine.start(form, tol=TOL)
        seen = [(state.upper, state.lower)]
        while not state.done:
            engine.advance(form, state)
            seen.append((state.upper, state.lower))
        upper, lower = np.transpose(seen)
        assert np.all(np.diff(upper) <= 0.0)
        assert np.all(np.diff(lower) >= 0.0)
        assert np.all(lower <= upper[-1] * (1 + 1e-12))

    def test_weights_are_not_touched(self):
        form = chain(gaussian([4, 8, 8, 2]), 0.1)
        before = copy.deepcopy(form)
        for a in (*form.weights, *form.alpha):
            a.flags.writeable = False
        assert solve(form).done == "converged"
        for a, b in zip(form.weights, before.weights, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_unreachable_tolerance_ends(self, form):
        state = solve(form, tol=1e-16, max_iter=100)
        assert state.done in ("stalled", "failed", "converged")
        assert state.message
        assert 1.0 - state.lower / state.upper <= 1e-9
