"""Generic cone solvers behind certified bounds: against the raw inequality and reference values."""

from __future__ import annotations

import copy
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.serialize import decode, encode
from lowrank_opt.lipschitz import conic
from lowrank_opt.lipschitz.chain_scaling import fast_multipliers
from lowrank_opt.lipschitz.conic_backends import (
    ConeData,
    _through_cvxpy,
    installed_solvers,
    mat,
    solve_cone_program,
    svec,
)
from lowrank_opt.lipschitz.forms import Chain, Group
from lowrank_opt.lipschitz.lmi_builders import chain_lmi_linf, implicit_lmi, mixed_lmi

_SPEC = importlib.util.spec_from_file_location(
    "lipschitz_raw_inequalities", Path(__file__).with_name("raw_inequalities.py")
)
raw = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(raw)


def network(dims, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in itertools.pairwise(dims)]


def chain(weights, alpha=0.0):
    """Layers scaled to norm one."""
    sizes = [np.linalg.norm(W, 2) for W in weights]
    slopes = tuple(np.full(len(W), alpha) for W in weights[:-1])
    scaled = tuple(W / s for W, s in zip(weights, sizes, strict=True))
    return Chain(scaled, slopes, float(np.prod(sizes)))


def solve(form, **options):
    state = conic.start(form, **options)
    while not state.done:
        conic.advance(form, state)
    return state


def blocks(form, multipliers):
    """E + Σ y A of a chain, written block by block."""
    widths = form.widths
    ends = np.cumsum([0, *widths])
    K = np.zeros((ends[-1], ends[-1]))
    K[: widths[0], : widths[0]] = np.eye(widths[0])
    for i, (W, a, y) in enumerate(
        zip(form.weights[:-1], form.alpha, multipliers, strict=True), start=1
    ):
        p, q = slice(ends[i - 1], ends[i]), slice(ends[i], ends[i + 1])
        K[q, q] += np.diag(2.0 * y)
        K[q, p] -= ((1.0 + a) * y)[:, None] * W
        K[p, q] = K[q, p].T
        K[p, p] += 2.0 * W.T @ np.diag(a * y) @ W
    return K


def check(form, state, tol):
    """Recompute both bounds of a chain from what is handed out."""
    assert state.done == "converged", state.message
    K = blocks(form, state.multipliers)
    last = form.weights[-1]
    C = np.zeros_like(K)
    C[-last.shape[1] :, -last.shape[1] :] = last.T @ last
    D = 1.0 / np.sqrt(K.diagonal())  # multipliers of deep networks span many orders
    assert np.linalg.eigvalsh((K - C / state.upper**2) * np.outer(D, D))[0] >= -1e-10
    assert all(np.all(y >= 0.0) for y in state.multipliers)
    n = len(form.weights)
    diagonal, right = state.dual[:n], state.dual[n:]
    np.testing.assert_allclose(np.trace(diagonal[0]), 1.0, rtol=1e-12)
    for i, R in enumerate(right):
        pair = np.block([[diagonal[i], R], [R.T, diagonal[i + 1]]])
        w = np.linalg.eigvalsh(pair)
        assert w[0] >= -1e-12 * w[-1]
        W, a = form.weights[i], form.alpha[i]
        value = np.diag(diagonal[i + 1]) - (1.0 + a) * np.diag(W @ R)
        value = value + a * np.diag(W @ diagonal[i] @ W.T)
        assert np.all(value <= 1e-12 * np.abs(diagonal[i + 1]).max())
    np.testing.assert_allclose(
        state.lower, np.sqrt(np.trace(last @ diagonal[-1] @ last.T)), rtol=1e-9
    )
    assert state.lower <= state.upper
    assert 1.0 - state.lower / state.upper <= tol
    return state.upper * form.scale


@pytest.mark.parametrize("chordal", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.2, -0.3])
def test_chain_is_lipsdp_in_one_cone_and_in_several(alpha, chordal):
    W = network((3, 5, 6, 4, 2))
    form = chain(W, alpha)
    bound = check(form, solve(form, chordal=chordal, tol=1e-6), 1e-6)
    slopes = [np.full(len(V), alpha) for V in W[:-1]]
    reference = raw.lipsdp_optimum(W, slopes, [np.ones(len(V)) for V in W[:-1]])
    np.testing.assert_allclose(bound, reference, rtol=1e-6)


@pytest.mark.parametrize(
    ("depth", "reference"), [(20, 35.984774), pytest.param(30, 309.81790, marks=pytest.mark.slow)]
)
def test_deep_networks_on_which_unscaled_solvers_are_wrong(depth, reference):
    form = chain(network((4, *[10] * (depth - 1), 1)))
    state = solve(form, tol=5e-7)
    assert state.chordal
    np.testing.assert_allclose(check(form, state, 5e-7), reference, rtol=1e-7)


def test_first_order_solver_is_inexact_but_certified():
    W = network((3, 5, 6, 2))
    form = chain(W)
    state = solve(form, solver="scs", tol=1e-3)
    bound = check(form, state, 1e-3)
    reference = raw.lipsdp_optimum(W, [np.zeros(5), np.zeros(6)], [np.ones(5), np.ones(6)])
    assert reference * (1.0 - 1e-8) <= bound <= reference * (1.0 + 1e-3)
    assert state.counts["scs_iterations"] > 0


def test_no_hidden_layer():
    form = Chain((network((3, 4))[0],), ())
    state = conic.start(form)
    assert state.done == "converged"
    assert state.multipliers == ()
    np.testing.assert_allclose(state.upper, np.linalg.norm(form.weights[0], 2), rtol=1e-14)


@pytest.mark.parametrize("solver", ["clarabel", "scs"])
def test_largest_entry_of_the_input(solver):
    W = network((4, 5, 5, 1), seed=1)
    zeros, ones = [np.zeros(5), np.zeros(5)], [np.ones(5), np.ones(5)]
    state = solve(chain_lmi_linf(W[:2], zeros, ones, W[2]), solver=solver, tol=1e-6)
    reference = raw.lipsdp_optimum(W, zeros, ones, "linf")
    rtol = 1e-6 if solver == "clarabel" else 1e-3
    np.testing.assert_allclose(state.upper, reference, rtol=rtol)
    assert state.lower <= reference * (1.0 + 1e-8)
    assert state.lower >= reference * (1.0 - 2.0 * rtol)


@pytest.mark.parametrize("identities", ["eliminate", "multipliers"])
def test_free_multipliers_and_groups(identities):
    W = network((3, 4, 4, 2), seed=2)
    form = mixed_lmi(W, [(0.0, 1.0), Group(2)], identities=identities)
    state = solve(form, tol=1e-6)
    assert state.done == "converged"
    exact = max(
        raw.largest_over_slopes(lambda s, D=D: W[2] @ D @ W[1] @ (s[:, None] * W[0]), 4)
        for D in raw.sort_patterns(2)
    )
    assert exact <= state.upper * (1.0 + 1e-9)
    (X,) = state.dual
    M = form.M.toarray()
    for k in range(form.free.size):
        A = form.P @ np.diag(M[:, k]) @ form.Q.T
        value = 2.0 * np.vdot(A, X)
        assert (abs(value) if form.free[k] else value) <= 1e-12 * np.abs(X).max()


def test_ill_posed_implicit_network_has_no_bound():
    form = implicit_lmi(*(np.array([[v]]) for v in (1.5, 1.0, 1.0)), None, 0.0, 1.0)
    state = solve(form)
    assert state.done == "failed"
    assert state.upper == np.inf
    assert "clarabel" in state.message
    form = implicit_lmi(*(np.array([[v]]) for v in (0.5, 2.0, 1.5)), None, 0.0, 1.0)
    np.testing.assert_allclose(solve(form).upper, 6.0, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.2, -1.0])
def test_start_is_feasible_for_all_slopes(alpha):
    form = chain(network((3, 6, 6, 6, 6, 2), seed=3), alpha)
    y = fast_multipliers(form)
    K = blocks(form, y)
    D = 1.0 / np.sqrt(K.diagonal())
    assert np.linalg.eigvalsh(K * np.outer(D, D))[0] > 1e-6


def test_an_answer_needs_no_call():
    form = chain(network((3, 5, 6, 2)))
    state = solve(form)
    again = conic.start(form, multipliers=state.multipliers, dual=state.dual)
    assert again.done == "converged"
    assert again.nit == 0
    np.testing.assert_allclose(again.upper, state.upper, rtol=1e-12)


def test_useless_warm_starts_are_ignored():
    form = chain(network((3, 5, 6, 2)))
    cold = solve(form)
    shapes = [X.shape for X in cold.dual]
    starts = [
        ((np.ones(3),), (np.eye(2),)),
        ((np.full(5, np.nan), np.ones(6)), tuple(np.full(s, np.nan) for s in shapes)),
        ((-np.ones(5), np.ones(6)), tuple(-np.ones(s) for s in shapes)),
    ]
    for multipliers, dual in starts:
        state = solve(form, multipliers=multipliers, dual=dual)
        np.testing.assert_allclose(state.upper, cold.upper, rtol=1e-6)


def test_state_can_be_stored_between_calls():
    form = chain(network((4, *[10] * 10, 1)))
    straight = solve(form, tol=1e-9)
    state = conic.start(form, tol=1e-9)
    conic.advance(form, state)
    arrays = {}
    tree = encode(state, arrays)
    for copied in (copy.deepcopy(state), decode(tree, arrays)):
        assert copied.cache is None
        while not copied.done:
            conic.advance(form, copied)
        assert (copied.upper, copied.lower, copied.nit) == (
            straight.upper,
            straight.lower,
            straight.nit,
        )


def test_constant_output():
    form = mixed_lmi([np.ones((2, 2)), np.zeros((1, 2))], [(0.0, 1.0)])
    assert conic.start(form).upper == 0.0


def test_missing_and_unknown_solvers_are_named():
    form = chain(network((3, 5, 2)))
    with pytest.raises(ParameterError, match=r"'sedumi' is not one of .*installed: 'clarabel'"):
        conic.start(form, solver="sedumi")
    for solver in {"mosek", "sdpa"} - set(installed_solvers()):
        with pytest.raises(
            ParameterError, match=rf"{solver}.*not installed; installed: 'clarabel'"
        ):
            conic.start(form, solver=solver)


# -- data of cone programs --------------------------------------------------------------------


def test_stacked_triangles_keep_inner_products():
    rng = np.random.default_rng(4)
    A, B = (S + S.T for S in rng.standard_normal((2, 5, 5)))
    np.testing.assert_allclose(svec(A) @ svec(B), np.vdot(A, B), rtol=1e-13)
    np.testing.assert_allclose(mat(svec(A), 5), A, rtol=1e-14)
    # Upper triangle, column by column.
    np.testing.assert_allclose(svec(A)[[0, 2, 5]], A.diagonal()[:3], rtol=1e-15)


@pytest.mark.parametrize("solver", ["clarabel", "scs", "cvxpy"])
def test_smallest_eigenvalue_by_each_solver(solver):
    # max t with S - t I definite, and t <= 10 by the orthant; the dual is an eigenprojection.
    rng = np.random.default_rng(5)
    S = rng.standard_normal((4, 4))
    S = S + S.T
    rows = np.concatenate([[1.0], svec(np.eye(4))])
    data = ConeData(
        np.array([-1.0]), sp.csc_array(rows[:, None]), np.concatenate([[10.0], svec(S)]), 1, (4,)
    )
    answer = (
        _through_cvxpy(data, "CLARABEL")
        if solver == "cvxpy"
        else solve_cone_program(data, solver, 1e-8)
    )
    w, V = np.linalg.eigh(S)
    np.testing.assert_allclose(answer.x[0], w[0], atol=1e-6)
    np.testing.assert_allclose(answer.duals[0], np.outer(V[:, 0], V[:, 0]), atol=1e-5)
