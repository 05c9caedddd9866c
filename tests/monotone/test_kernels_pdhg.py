"""The fused passes of Halpern PDHG against plain array code."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.monotone import kernels_pdhg as kernels
from lowrank_opt.monotone import reference_pdhg as reference
from lowrank_opt.monotone.pdhg_engine import borders
from lowrank_opt.monotone.scaling import compressed

TIGHT = {np.float64: 1e-12, np.float32: 2e-5}


def make_program(seed=0, m=9, n=13, dtype=np.float64, quadratic=False):
    """Rows and columns of every kind of bounds, an empty row and an empty column."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.4)
    A[2], A[:, 3] = 0.0, 0.0
    A = A.astype(dtype)
    low, high = np.sort(rng.standard_normal((2, m)), axis=0)
    low[0] = high[0]
    low[1], high[2], low[3], high[3] = -np.inf, np.inf, -np.inf, np.inf
    lower, upper = np.sort(rng.standard_normal((2, n)), axis=0)
    lower[0] = upper[0]
    lower[1], upper[2], lower[4], upper[4] = -np.inf, np.inf, -np.inf, np.inf
    B = rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.3)
    data = {"c": rng.standard_normal(n), "lower": lower, "upper": upper}
    data |= {"row_lower": low, "row_upper": high}
    return SimpleNamespace(
        A=A, Q=(B @ B.T).astype(dtype) if quadratic else None,
        **{name: part.astype(dtype) for name, part in data.items()},
    )  # fmt: skip


def run_kernel(p, x, y, tau, sigma, g, n, *, first=False, last=False, inner=0, parts=0):
    """Iterate from a copy of (x, y), which is the anchor too."""
    kind = p.c.dtype.type
    x, y, anchors = x.copy(), y.copy(), (x.copy(), y.copy())
    hats, move, out = (np.zeros_like(x), np.zeros_like(y)), np.zeros_like(y), np.zeros(4)
    by_rows, by_columns = sp.csr_array(p.A), sp.csr_array(p.A.T)
    columns, rows = compressed(by_columns, p.A.dtype), compressed(by_rows, p.A.dtype)
    bounds = (p.lower, p.upper, p.row_lower, p.row_upper)
    rest = (
        x, y, *anchors, np.empty_like(x), *hats, move, kind(tau), kind(sigma), kind(g), inner, n,
        first, last, out,
    )  # fmt: skip
    data = (*columns.parts, *rows.parts)
    if p.Q is not None:
        quadratic = compressed(sp.csr_array(p.Q), p.A.dtype)
        kernels.iterate_quadratic(*data, *quadratic.parts, p.c, np.empty_like(x), *bounds, *rest)
    elif parts:
        cuts = borders(columns.ptr, parts), borders(rows.ptr, parts)
        kernels.iterate_parallel(*data, p.c, *bounds, *rest, y, np.inf, *cuts)
    else:
        assert kernels.iterate(*data, p.c, *bounds, *rest, y, np.inf) == n
    return x, y, *hats, move, out


def run_reference(p, x, y, tau, sigma, g, n, inner=0):
    anchors = x, y
    for k in range(inner, inner + n):
        q = p if p.Q is None else SimpleNamespace(**{**vars(p), "c": p.c + p.Q @ x})
        hats = reference.pdhg_map(q, p.A, x, y, tau, sigma)
        moves = hats[0] - x, hats[1] - y
        x, y = (
            reference.halpern_step(z, hat, anchor, g, k)
            for z, hat, anchor in zip((x, y), hats, anchors, strict=True)
        )
    return x, y, *hats, moves


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("g", [1.0, 0.6])
def test_iterations_equal_the_reference(dtype, g):
    p, rng = make_program(dtype=dtype), np.random.default_rng(1)
    x, y = rng.standard_normal(13).astype(dtype), rng.standard_normal(9).astype(dtype)
    ours = run_kernel(p, x, y, 0.3, 0.2, g, 7, last=True, inner=2)
    theirs = run_reference(p, x, y, 0.3, 0.2, g, 7, inner=2)
    for a, b in zip(ours[:4], theirs[:4], strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=TIGHT[dtype])
    np.testing.assert_allclose(ours[4], theirs[4][1], rtol=0, atol=TIGHT[dtype])
    squares = [float(d.astype(np.float64) @ d) for d in theirs[4]]
    np.testing.assert_allclose(ours[5][2:], squares, rtol=1e3 * TIGHT[dtype])


def test_iterations_with_a_quadratic_term_equal_the_reference():
    p, rng = make_program(quadratic=True), np.random.default_rng(2)
    x, y = rng.standard_normal(13), rng.standard_normal(9)
    ours = run_kernel(p, x, y, 0.1, 0.2, 0.75, 5, first=True, last=True)
    theirs = run_reference(p, x, y, 0.1, 0.2, 0.75, 5)
    for a, b in zip(ours[:4], theirs[:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_threads_and_kept_iterations_change_no_bit():
    p, rng = make_program(m=40, n=60), np.random.default_rng(3)
    x, y = rng.standard_normal(60), rng.standard_normal(40)
    plain = run_kernel(p, x, y, 0.1, 0.1, 1.0, 6)
    for options in ({"first": True, "last": True}, {"parts": 2}, {"parts": 3, "last": True}):
        other = run_kernel(p, x, y, 0.1, 0.1, 1.0, 6, **options)
        np.testing.assert_array_equal(other[0], plain[0])
        np.testing.assert_array_equal(other[1], plain[1])


def test_first_and_last_moves_are_those_of_these_iterations():
    p, rng = make_program(), np.random.default_rng(4)
    x, y = rng.standard_normal(13), rng.standard_normal(9)
    out = run_kernel(p, x, y, 0.3, 0.2, 1.0, 4, first=True, last=True)[5]
    for n, part in ((1, out[:2]), (4, out[2:])):
        dx, dy = run_reference(p, x, y, 0.3, 0.2, 1.0, n)[4]
        np.testing.assert_allclose(part, [dx @ dx, dy @ dy], rtol=1e-12)


def test_borders_share_the_numbers():
    rng = np.random.default_rng(0)
    ptr = np.concatenate([[0], np.cumsum(rng.integers(0, 50, 400))]).astype(np.uint32)
    for parts in (1, 2, 3, 7):
        cuts = borders(ptr, parts)
        assert cuts[0] == 0
        assert cuts[-1] == 400
        assert len(cuts) == parts + 1
        shares = np.diff(ptr[cuts].astype(int))
        assert shares.max() <= 1.1 * ptr[-1] / parts + 50
    np.testing.assert_array_equal(borders(np.zeros(1, np.uint32), 2), [0, 0, 0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_measures_equal_the_reference(dtype):
    p, rng = make_program(dtype=dtype), np.random.default_rng(5)
    x = np.clip(rng.standard_normal(13).astype(dtype), p.lower, p.upper)
    y = rng.standard_normal(9)
    y[(y > 0) & np.isinf(p.row_lower)] = 0.0
    y[(y < 0) & np.isinf(p.row_upper)] = 0.0
    y = y.astype(dtype)
    unit, size = rng.random(9) + 0.5, rng.random(9)
    out = np.empty(3)
    rows = compressed(sp.csr_array(p.A), dtype)
    kernels.measure_rows(*rows.parts, x, y, p.row_lower, p.row_upper, unit, size, out)
    p64 = SimpleNamespace(**{k: np.asarray(v, np.float64) for k, v in vars(p).items() if k != "Q"})
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    expected = reference.measure_rows(p64.A, x64, y64, p64.row_lower, p64.row_upper, unit, size)
    np.testing.assert_allclose(out, expected, rtol=1e-10)

    unit, size, out = rng.random(13) + 0.5, rng.random(13), np.empty(5)
    cost = (p.c + rng.standard_normal(13)).astype(dtype)
    columns = compressed(sp.csr_array(p.A.T), dtype)
    kernels.measure_columns(
        *columns.parts, cost, y, x, p.c, p.lower, p.upper, unit, size, out
    )  # fmt: skip
    expected = reference.measure_columns(
        p64.A, cost.astype(np.float64), y64, x64, p64.c, p64.lower, p64.upper, unit, size
    )
    np.testing.assert_allclose(out, expected, rtol=1e-10)


def test_the_face_and_its_norm_equal_the_reference():
    p, rng = make_program(m=12, n=15), np.random.default_rng(6)
    x = np.clip(2.0 * rng.standard_normal(15), p.lower, p.upper)
    anchor = np.where(rng.random(15) < 0.5, x, x + 1.0)
    y = np.where(rng.random(12) < 0.5, 0.0, 1.0)
    columns, rows = np.empty(15, bool), np.empty(12, bool)
    counts = kernels.mark_face(
        x, anchor, p.lower, p.upper, y, p.row_lower, p.row_upper, columns, rows
    )
    expected = reference.mark_face(p, x, anchor, y)
    np.testing.assert_array_equal(columns, expected[0])
    np.testing.assert_array_equal(rows, expected[1])
    assert counts == (columns.sum(), rows.sum())
    assert 0 < columns.sum() < 15
    by_columns = compressed(sp.csr_array(p.A.T))
    norm = kernels.face_norm(
        *by_columns.parts, columns, rows, rng.standard_normal(12), np.empty(12), 300
    )
    assert norm == pytest.approx(reference.face_norm(p.A, columns, rows), rel=1e-6)
    nothing = np.zeros(15, bool)
    assert kernels.face_norm(*by_columns.parts, nothing, rows, np.ones(12), np.empty(12), 5) == 0.0


def weighted(p, tau, sigma, dx, dy, sign=1.0):
    """The square of the norm in which T is firmly nonexpansive."""
    return dx @ dx / tau + dy @ dy / sigma + sign * 2.0 * dy @ (p.A @ dx)


def expansions(sign):
    """Largest ratios of distances after and before T and 2T - I, on random pairs."""
    worst = np.zeros(2)
    for seed in range(20):
        p, rng = make_program(seed), np.random.default_rng(seed)
        step, weight = 0.998 / np.linalg.norm(p.A, 2), np.exp(rng.standard_normal())
        tau, sigma = step / weight, step * weight
        for _ in range(30):
            scale = 10.0 ** rng.uniform(-2, 1)
            z = [(rng.standard_normal(13), rng.standard_normal(9))]
            z.append(tuple(part + scale * rng.standard_normal(len(part)) for part in z[0]))
            hats = [reference.pdhg_map(p, p.A, x, y, tau, sigma) for x, y in z]
            d = [a - b for a, b in zip(*z, strict=True)]
            t = [a - b for a, b in zip(*hats, strict=True)]
            r = [2.0 * a - b for a, b in zip(t, d, strict=True)]
            before = weighted(p, tau, sigma, *d, sign)
            worst[0] = max(worst[0], weighted(p, tau, sigma, *t, sign) / before)
            worst[1] = max(worst[1], weighted(p, tau, sigma, *r, sign) / before)
    return worst


def test_the_map_and_its_reflection_are_nonexpansive_with_the_right_sign_only():
    assert np.all(expansions(1.0) <= 1.0 + 1e-9)
    assert np.all(expansions(-1.0) > 1.0 + 1e-3)


def test_reflection_with_a_quadratic_term_is_nonexpansive_up_to_three_quarters():
    """Condat-Vu with 1/tau - sigma |A|^2 >= |Q| is averaged with constant 2/3."""
    worst = {0.75: 0.0, 1.0: 0.0}
    for seed in range(20):
        p, rng = make_program(seed, quadratic=True), np.random.default_rng(seed)
        step, weight = 0.998 / np.linalg.norm(p.A, 2), np.exp(rng.standard_normal())
        tau, sigma = 1.0 / (weight / step + np.linalg.norm(p.Q, 2)), step * weight
        for _ in range(30):
            z = [(rng.standard_normal(13), rng.standard_normal(9)) for _ in range(2)]
            hats = []
            for x, y in z:
                q = SimpleNamespace(**{**vars(p), "c": p.c + p.Q @ x})
                hats.append(reference.pdhg_map(q, p.A, x, y, tau, sigma))
            d = [a - b for a, b in zip(*z, strict=True)]
            t = [a - b for a, b in zip(*hats, strict=True)]
            for g in worst:
                r = [b + 2.0 * g * (a - b) for a, b in zip(t, d, strict=True)]
                ratio = weighted(p, tau, sigma, *r) / weighted(p, tau, sigma, *d)
                worst[g] = max(worst[g], ratio)
    assert worst[0.75] <= 1.0 + 1e-9
