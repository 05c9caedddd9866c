"""Cases on which plainer versions of the solver failed, each with the reason why it does not."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog

from lowrank_opt.core import Status
from lowrank_opt.core.errors import AccuracyWarning, ParameterError
from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem, starts
from lowrank_opt.transport.kernels_oracle import _threshold


def clouds(kind, size, d, rng):
    """Points of a kind, in d dimensions."""
    if kind == "rounded":  # many of them twice
        return np.round(rng.standard_normal((size, d)), 1)
    if kind == "sphere":
        X = rng.standard_normal((size, d))
        return X / np.linalg.norm(X, axis=1)[:, None]
    if kind == "clusters":
        return 3 * rng.standard_normal((5, d))[rng.integers(0, 5, size)] + 0.1 * clouds(
            "normal", size, d, rng
        )
    return rng.standard_t(2, (size, d)) if kind == "heavy" else rng.standard_normal((size, d))


def make(kinds, m, n, d, k, gamma, seed, *, masses="random", **options):
    """Two clouds, costs divided by the largest; few places are no news here."""
    rng = np.random.default_rng(seed)
    X, Y = clouds(kinds[0], m, d, rng), clouds(kinds[1], n, d, rng) + 1.0
    C = ((X[:, None] - Y) ** 2).sum(axis=2)
    draw = {
        "random": lambda size: rng.random(size) + 0.1,
        "equal": np.ones,
        "wild": lambda size: 10.0 ** rng.uniform(-4, 0, size),
    }[masses]
    a, b = draw(m), draw(n)
    a, b = a / a.sum(), b / b.sum()
    if options.get("a_upper"):
        a = 1.3 * a
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        return TransportProblem(a, b, C / C.max(), max_nnz=k, gamma=gamma, **options)


def certified(problem, newton_steps, tol=1e-6, **options):
    """Solve the relaxation within a number of Newton steps."""
    result = SparsityConstrainedOT(rounding="none", tol=tol, **options).solve(problem)
    assert result.status is Status.CONVERGED, result.message
    assert result.certificate.residual <= tol
    assert result.counts["newton_steps"] <= newton_steps
    return result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("kinds", "m", "n", "d", "k", "masses"),
    [
        (("heavy", "sphere"), 80, 80, 2, 2, "random"),
        (("rounded", "rounded"), 120, 120, 2, 2, "equal"),
        (("sphere", "sphere"), 150, 60, 10, 10, "wild"),
    ],
)
def test_upper_bounds_with_strong_regularisation(kinds, m, n, d, k, masses, seed):
    """What rows have left has a proximal term too: the subproblem is smooth, without bounds."""
    problem = make(kinds, m, n, d, k, 300.0, seed, masses=masses, a_upper=True)
    result = certified(problem, 2000)
    assert result.alpha.max() <= 0.0
    left = problem.a - np.asarray(result.x.sum(axis=1)).ravel()
    assert left.min() >= -1e-6


@pytest.mark.parametrize("seed", range(3))
def test_soft_marginals_to_many_digits(seed):
    """The weight of the proximal term goes on falling where 1 / gamma is far from its limit."""
    problem = make(
        ("clusters", "heavy"), 100, 300, 1, 2, 100.0, seed, masses="equal", unbalanced="kl",
        marginal_weight=10.0,
    )  # fmt: skip
    certified(problem, 800, tol=1e-8)


@pytest.mark.parametrize("seed", range(2))
def test_equal_masses_with_strong_regularisation(seed):
    """After a subproblem that was not solved its proximal term becomes stronger again."""
    certified(make(("normal", "normal"), 500, 500, 2, 2, 500.0, seed, masses="equal"), 1500)


def test_first_weight_is_not_that_of_weak_regularisation():
    """Where gamma times a mass is large against the costs, the first subproblems stay solvable."""
    problem = make(("sphere", "heavy"), 300, 400, 10, 3, 300.0, 0)
    certified(problem, 150)


# -- the same plan, whatever is added to rows and columns of the costs -----------------------------


@pytest.mark.parametrize(("method", "k"), [("ssnal", None), ("ssnal", 3), ("lbfgs", None)])
@pytest.mark.parametrize("form", ["points", "matrix"])
def test_translations_of_points_do_not_loosen_the_tolerance(form, method, k):
    """Squared distances of far clouds are large numbers of rows and columns, and little else."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((2, 80, 2))

    def problem(shift):
        data = {"X": X, "Y": Y + shift}
        if form == "matrix":
            data = {"C": ((X[:, None] - Y - shift) ** 2).sum(axis=2)}
        return TransportProblem(**data, max_nnz=k, gamma=0.1)

    near = problem(0.0)
    best = certified(near, 1000, tol=1e-8).dual_value
    for shift in (30.0, 3000.0) if method == "ssnal" else (30.0,):
        far = problem(shift)
        options = {"method": method, "max_iter": 3000}
        result = SparsityConstrainedOT(rounding="none", **options).solve(far)
        assert result.status is Status.CONVERGED
        assert near.objective(result.x) - best <= 2e-5 * best


@pytest.mark.parametrize("axis", [0, 1])
def test_relative_strength_does_not_depend_on_where_points_are(axis):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((2, 30, 3))
    a, b = rng.random(30), rng.random(30)
    a, b = a / a.sum(), b / b.sum()
    options = {"gamma": 0.1, "gamma_scale": "relative", "axis": axis}
    expected = TransportProblem(a, b, X=X, Y=Y, **options).strength
    C = ((X[:, None] - Y) ** 2).sum(axis=2)
    by_hand = C - (C @ b)[:, None]
    by_hand -= a @ by_hand
    mean = np.mean(b if axis == 0 else a)
    assert expected == pytest.approx(0.1 * np.ptp(by_hand) / mean, rel=1e-12)
    for data in ({"X": X + 50.0, "Y": Y}, {"C": C + rng.random((30, 1)) + 9.0 * rng.random(30)}):
        assert TransportProblem(a, b, **data, **options).strength == pytest.approx(expected)


def test_the_unit_of_the_gap_is_not_lost_in_constant_costs():
    """Numbers of rows plus numbers of columns: every plan costs the same."""
    rng = np.random.default_rng(0)
    C = 100.0 * (rng.random((7, 1)) + rng.random(5))
    for k, gamma in ((None, 0.3), (2, 0.3), (None, 0.0)):
        problem = TransportProblem(C=C, max_nnz=k, gamma=gamma)
        for start in ("zero", "auto"):
            certified(problem, 400, start=start)


def test_a_loose_tolerance_does_not_weaken_the_proximal_term_too_soon():
    """Marginals that are not exact enough are no reason for a larger weight."""
    rng = np.random.default_rng(22)
    X, Y = rng.standard_normal((13, 2)), rng.standard_normal((9, 2))
    C = ((X[:, None] - Y) ** 2).sum(axis=2)
    a, b = rng.random(13) + 0.1, rng.random(9) + 0.1
    for tol in (1e-4, 1e-5, 3e-6, 1e-6, 1e-9):
        problem = TransportProblem(a / a.sum(), b / b.sum(), C, gamma=0.0)
        certified(problem, 400, tol=tol, start="zero")


# -- rows of zero mass, totals that are nearly equal, starts ---------------------------------------


@pytest.mark.parametrize("method", ["ssnal", "lbfgs"])
@pytest.mark.parametrize("rows", ["exact", "upper", "l2", "kl"])
@pytest.mark.parametrize("cost", [-1.0, 5.0])
def test_a_row_of_zero_mass_is_the_limit_of_small_masses(method, rows, cost):
    """In squares such a row has a price, and may be worth it."""
    C = np.random.default_rng(0).random((6, 5))
    C[0] = cost
    a, b = np.array([0.0, 0.3, 0.2, 0.2, 0.2, 0.1]), np.full(5, 0.2)
    options = {"a_upper": True} if rows == "upper" else {}
    if rows in ("l2", "kl"):
        options = {"unbalanced": rows}

    def solve(mass, axis=0):
        masses = a.copy()
        masses[0] = mass
        if rows == "exact":
            masses /= masses.sum()
        solver = SparsityConstrainedOT(method=method, max_iter=5000, tol=1e-8, rounding="none")
        result = solver.solve(TransportProblem(masses, b, C, **options))
        assert result.status is Status.CONVERGED
        return result

    found, limit = solve(0.0), solve(1e-11)
    assert found.relaxed_value == pytest.approx(limit.relaxed_value, abs=1e-7)
    assert found.dual_value == pytest.approx(limit.dual_value, abs=1e-7)
    assert found.x.toarray()[0].sum() == pytest.approx(limit.x.toarray()[0].sum(), abs=1e-5)
    assert (found.x.toarray()[0].sum() > 0.01) == (rows == "l2" and cost < 0)


def test_upper_bounds_of_nearly_the_same_total_are_enough():
    a = np.full(8, 1 / 8, np.float32) * np.float32(1 - 8e-6)
    C = np.random.default_rng(0).random((8, 6))
    problem = TransportProblem(a, np.full(6, 1 / 6, np.float32), C, a_upper=True)
    result = certified(problem, 400)
    assert result.plan_status == "optimal"


def test_the_start_from_plain_transport_says_what_it_is_for():
    C = np.random.default_rng(0).random((6, 5))
    for options in ({"a_upper": True}, {"unbalanced": "l2"}):
        problem = TransportProblem(1.5 * np.ones(6) / 6, C=C, b=np.ones(5) / 5, **options)
        with pytest.raises(ParameterError, match="start='emd' is for balanced problems"):
            SparsityConstrainedOT(start="emd").solve(problem)


def test_points_never_become_a_matrix_unasked(monkeypatch):
    monkeypatch.setattr(starts, "emd_start", None)  # would raise
    X = np.random.default_rng(0).random((30, 2))
    for k, gamma in ((1, 1.0), (None, 0.0)):
        certified(TransportProblem(X=X, Y=X + 0.1, max_nnz=k, gamma=gamma), 400)


@pytest.mark.parametrize("axis", [0, 1])
def test_potentials_alone_are_those_of_the_side_without_the_cap(axis):
    problem = make(("normal", "normal"), 40, 30, 2, 3, 1.0, 0, axis=axis)
    result = certified(problem, 400)
    alpha = result.alpha if axis == 0 else result.beta
    assert problem.certificate((result.x, alpha)).residual <= 1e-6
    assert problem.certificate((result.x.toarray(), alpha)).residual <= 1e-6
    warm = SparsityConstrainedOT(rounding="none").solve(problem, x0=alpha)
    assert warm.counts["evaluations"] < 0.8 * result.counts["evaluations"]


# -- sizes and precisions -------------------------------------------------------------------------


def test_points_take_less_memory_than_their_matrix():
    """What a problem needs besides lists is a block of two million costs, with copies."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((2, 6000, 3))
    solver = SparsityConstrainedOT(rounding="none", tol=1e-3)
    solver.solve(TransportProblem(X=X[:300], Y=Y[:300], max_nnz=4, gamma=10.0))  # compiles
    tracemalloc.start()
    try:
        result = solver.solve(TransportProblem(X=X, Y=Y, max_nnz=4, gamma=10.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.status is Status.CONVERGED
    assert 10 * result.x.data.nbytes < peak < 8 * 6000 * 6000 / 2


@pytest.mark.parametrize("k", [3, None])
def test_float32_is_float64_to_its_digits(k):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((400, 2)), rng.standard_normal((300, 2)) + 1.0
    a, b = rng.random(400) + 0.1, rng.random(300) + 0.1
    a, b = a / a.sum(), b / b.sum()
    C = ((X[:, None] - Y) ** 2).sum(axis=2)
    C /= C.max()
    exact = certified(TransportProblem(a, b, C, max_nnz=k), 1000, tol=1e-7)
    for data in (
        {"C": C.astype(np.float32)},
        {"X": (X / 6).astype(np.float32), "Y": (Y / 6).astype(np.float32)},
    ):
        masses = a.astype(np.float32), b.astype(np.float32)
        result = SparsityConstrainedOT(tol=1e-5).solve(TransportProblem(*masses, **data, max_nnz=k))
        assert result.status is Status.CONVERGED
        assert result.x.dtype == np.float32
        assert np.isfinite(result.x.data).all()
        if "C" in data:
            assert result.relaxed_value == pytest.approx(exact.relaxed_value, rel=1e-4)


@pytest.mark.parametrize("gamma", [1e-6, 1e-3, 1.0])
def test_partial_transport_with_little_regularisation(gamma):
    """Against the linear program: the plan that leaves the dearest sources alone."""
    rng = np.random.default_rng(1)
    C = rng.random((60, 40))
    a, b = rng.random(60) + 0.1, rng.random(40) + 0.1
    a, b = 1.5 * a / a.sum(), b / b.sum()
    problem = TransportProblem(a, b, C, gamma=gamma, a_upper=True, max_nnz=8)
    result = certified(problem, 2000)
    sums = sp.kron(sp.eye_array(60), np.ones((1, 40))), sp.kron(np.ones((1, 60)), sp.eye_array(40))
    plain = linprog(C.ravel(), A_ub=sums[0], b_ub=a, A_eq=sums[1], b_eq=b, method="highs").fun
    assert plain * (1 - 1e-5) <= result.dual_value
    assert result.relaxed_value <= plain + 0.5 * gamma * float(b @ b) + 1e-6


# -- found by random problems ---------------------------------------------------------------------


def test_rounding_does_not_keep_a_threshold_from_settling():
    """Here the second score counts or not, depending on which of the two is counted first."""
    values = np.array([-0.07142857142857029, 0.0, -5.010611894344709])
    mass = 0.07142857142857142
    limit, _ = _threshold(values, 3, mass)
    assert np.maximum(values - limit, 0.0).sum() == pytest.approx(mass, rel=1e-12)


@pytest.mark.parametrize("missing", [1e-4, 0.005, 0.02, 0.08])
@pytest.mark.parametrize("dead", [False, True])
def test_proof_with_a_row_of_zero_mass_and_with_little_missing(missing, dead):
    rng = np.random.default_rng(1)
    C = rng.random((7, 6))
    C[3:6, :3] = np.inf
    a, b = np.append(np.full(6, 1 / 6), 0.0), np.full(6, 1 / 6)
    b[:3] += missing / 3
    b[3:] -= missing / 3
    rows = slice(0, 7 if dead else 6)
    for k, gamma in ((3, 1.0), (None, 0.0)):
        problem = TransportProblem(a[rows], b, C[rows], max_nnz=k, gamma=gamma)
        result = SparsityConstrainedOT().solve(problem)
        assert result.status is Status.INFEASIBLE
        assert result.dual_value > 1.0 + 0.5 * gamma * b @ b


@pytest.mark.parametrize("method", ["ssnal", "lbfgs"])
def test_a_difference_of_totals_that_is_accepted_is_no_proof(method):
    """Two blocks that share no pair, whose masses differ by what float32 cannot tell."""
    rng = np.random.default_rng(6)
    C = np.full((20, 20), np.inf)
    C[:10, :10], C[10:, 10:] = rng.random((10, 10)), 10.0 + rng.random((10, 10))
    a, b = np.full(20, 0.05), np.full(20, 0.05)
    b[0] += 3e-9
    b[11] -= 3e-9
    solver = SparsityConstrainedOT(method=method, rounding="none", tol=1e-10)
    result = solver.solve(TransportProblem(a, b, C, max_nnz=3, gamma=5.0))
    assert result.status is not Status.INFEASIBLE


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_numbers_of_rows_do_not_loosen_the_tolerance_where_pairs_are_forbidden(offset):
    rng = np.random.default_rng(0)
    C = rng.random((60, 60))
    C[rng.random((60, 60)) < 0.85] = np.inf
    np.fill_diagonal(C, rng.random(60))
    plain = TransportProblem(C=C, max_nnz=3)
    best = certified(plain, 2000, tol=1e-9).dual_value
    shifted = TransportProblem(C=C + offset * rng.standard_normal((60, 1)), max_nnz=3)
    result = certified(shifted, 2000)
    assert plain.objective(result.x) - best <= 1e-5 * best


def test_sources_of_zero_mass_may_be_the_only_ones_where_sums_are_soft():
    C = [[0.0, np.inf], [np.inf, 0.0]]
    for options in ({"axis": 0}, {"axis": 1}):
        masses = {"a": [1.0, 0.0], "b": [0.5, 0.5]}
        if options["axis"] == 1:
            masses = {"a": [0.5, 0.5], "b": [1.0, 0.0]}
        problem = TransportProblem(**masses, C=C, unbalanced="l2", gamma=0.1, **options)
        certified(problem, 100)


def test_plain_transport_of_one_target_with_far_costs():
    for a in ([0.6353593468666077, 0.36464065313339233], [0.7, 0.3]):
        problem = TransportProblem(a, [1.0], [[-10.57], [-51.08]], gamma=0.0)
        certified(problem, 100)


def test_the_pattern_of_listed_pairs_is_part_of_the_fingerprint():
    first = sp.csc_array([[1.0, 0, 3], [2, 1, 0], [0, 2, 1]])
    second = sp.csc_array([[1.0, 1, 0], [2, 0, 3], [0, 2, 1]])
    np.testing.assert_array_equal(first.data, second.data)
    prints = [TransportProblem(C=C).fingerprint() for C in (first, second)]
    assert prints[0] != prints[1]
