"""The robust row kernels against their NumPy twins."""

import numpy as np
import pytest

from lowrank_opt.recovery import Observations, kernels, kernels_robust, reference_robust
from lowrank_opt.recovery.kernels_robust import Weighting

ROWS, COLUMNS = 30, 26
EMPTY_ROW, SHORT_ROW = 3, 5
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-11}


class Case:
    """Random entries with gross errors, an empty row and one with fewer entries than unknowns."""

    def __init__(self, dtype, rank, weighted, seed=0):
        rng = np.random.default_rng(seed)
        mask = rng.random((ROWS, COLUMNS)) < 0.6
        mask[EMPTY_ROW], mask[SHORT_ROW] = False, False
        mask[SHORT_ROW, [2, 9]] = True
        rows, cols = np.nonzero(mask)
        values = rng.standard_normal(len(rows))
        values[::7] *= 30.0
        weights = rng.uniform(0.2, 2.0, len(rows)).astype(dtype) if weighted else None
        self.obs = Observations.from_coo(
            rows, cols, values.astype(dtype), mask.shape, weights=weights
        )
        self.dtype, self.rank = dtype, rank
        self.U, self.V = (
            kernels.pad_factor(rng.standard_normal((length, rank)).astype(dtype))
            for length in mask.shape
        )
        self.residual = np.empty(len(rows), dtype)
        kernels_robust.refresh(*self.data("rows"), self.residual, self.V, self.U)

    def data(self, side):
        o = self.obs if side == "rows" else self.obs.T
        return o.indptr, o.indices, o.values

    def factors(self, side):
        return (self.V, self.U) if side == "rows" else (self.U, self.V)

    def options(self, side):
        o = self.obs if side == "rows" else self.obs.T
        return {"weights": o.weights, "perm": None if side == "rows" else self.obs.perm}


grid = pytest.mark.parametrize(("rank", "weighted"), [(1, False), (3, True), (7, False), (9, True)])
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
sides = pytest.mark.parametrize("side", ["rows", "cols"])
weightings = pytest.mark.parametrize(
    "weighting",
    [
        Weighting(1e6),
        Weighting(0.7),
        Weighting(0.7, 2),
        Weighting(0.1, 1, 6),
        Weighting(0.1, 2, 40),
        Weighting(0.7, 1, 0, 12345, 1 << 61),
    ],
    ids=["least squares", "huber", "welsch", "six kept", "all kept", "held out"],
)


def close(actual, expected, dtype):
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@dtypes
def test_refresh_is_values_minus_prediction(dtype):
    case = Case(dtype, 5, False)
    products = np.einsum("ij,ij->i", case.U[case.obs.rows(), :5], case.V[case.obs.indices, :5])
    close(case.residual, case.obs.values - products, dtype)


@dtypes
@grid
@sides
@weightings
def test_sweep_equals_the_reference(dtype, rank, weighted, side, weighting):
    case = Case(dtype, rank, weighted)
    F, X = case.factors(side)
    arguments, options = (*case.data(side), case.residual), case.options(side)
    expected = reference_robust.sweep_rows(*arguments, F, X, weighting, rank=rank, **options)
    before = case.residual.copy(), X.copy()
    measured = kernels_robust.sweep_rows(
        *arguments, F, X, weighting, rank=rank, apply=False, **options
    )
    np.testing.assert_array_equal(case.residual, before[0])
    np.testing.assert_array_equal(X, before[1])
    report = kernels_robust.sweep_rows(*arguments, F, X, weighting, rank=rank, **options)
    assert report == measured
    # A damped row has fewer entries than unknowns: its fit is compared, not its factor.
    full = np.ones(len(X), dtype=bool)
    counts = case.obs.row_counts if side == "rows" else case.obs.col_counts
    order = np.arange(case.obs.nnz) if side == "rows" else case.obs.perm
    owner = np.repeat(np.arange(len(counts)), counts)
    live = ~reference_robust.held_mask(case.obs.nnz, weighting)[order]
    full[np.bincount(owner, live, len(counts)) < rank + 3] = False
    close(X[full, :rank], expected[0][full], dtype)
    assert not X[:, rank:].any()
    loose = 30.0 if weighting.delta < 1e3 else 1.0
    assert report.damped == expected[2].damped
    assert report.failed == 0
    np.testing.assert_allclose(report.mass, expected[2].mass, rtol=10 * TOLERANCE[dtype])
    np.testing.assert_allclose(
        report.decrement, expected[2].decrement, rtol=1e-3 if dtype == np.float32 else 1e-7
    )
    keep = np.isin(owner, np.flatnonzero(full))
    scale = loose * max(1.0, float(np.abs(expected[1]).max()))
    np.testing.assert_allclose(
        case.residual[order][keep], expected[1][order][keep], rtol=0, atol=TOLERANCE[dtype] * scale
    )


@dtypes
def test_the_residual_has_the_bits_of_a_refresh(dtype):
    """A run that is resumed computes it anew."""
    case = Case(dtype, 5, True)
    for side in ("rows", "cols"):
        kernels_robust.sweep_rows(
            *case.data(side), case.residual, *case.factors(side), Weighting(0.5), rank=5,
            **case.options(side),
        )  # fmt: skip
    again = np.empty_like(case.residual)
    kernels_robust.refresh(*case.data("rows"), again, case.V, case.U)
    np.testing.assert_array_equal(case.residual, again)


@dtypes
def test_short_and_empty_rows(dtype):
    case = Case(dtype, 6, False)
    report = kernels_robust.sweep_rows(
        *case.data("rows"), case.residual, case.V, case.U, Weighting(1e6), rank=6
    )
    assert not case.U[EMPTY_ROW].any()
    short = slice(*case.obs.indptr[SHORT_ROW : SHORT_ROW + 2])
    # Two equations, six unknowns: the row fits its entries but for the damping.
    assert np.abs(case.residual[short]).max() < (2e-2 if dtype == np.float32 else 1e-6)
    assert report.damped == 1


@dtypes
def test_a_singular_row_is_damped_and_stays_finite(dtype):
    case = Case(dtype, 4, False)
    case.V[:, 3] = case.V[:, 2]  # two equal columns: every system is singular
    kernels_robust.refresh(*case.data("rows"), case.residual, case.V, case.U)
    before = np.square(case.residual).sum()
    report = kernels_robust.sweep_rows(
        *case.data("rows"), case.residual, case.V, case.U, Weighting(1e6), rank=4
    )
    assert report.damped == ROWS - 1
    assert report.failed == 0
    assert np.isfinite(case.U).all()
    assert np.square(case.residual).sum() < before


def test_rows_that_are_not_finite_are_left_alone():
    case = Case(np.float64, 3, False)
    case.residual[case.obs.indptr[7]] = np.nan
    before = case.U[7].copy()
    report = kernels_robust.sweep_rows(
        *case.data("rows"), case.residual, case.V, case.U, Weighting(0.5), rank=3
    )
    assert report.failed == 1
    np.testing.assert_array_equal(case.U[7], before)


@dtypes
@sides
def test_clipped_product_equals_the_reference(dtype, side):
    case = Case(dtype, 5, True)
    F, _ = case.factors(side)
    data = (*case.data(side)[:2], case.residual, F)
    weighting = Weighting(0.7, salt=99, bound=1 << 61)
    actual = kernels_robust.clipped_product(*data, weighting, **case.options(side))
    close(actual, reference_robust.clipped_product(*data, weighting, **case.options(side)), dtype)


def test_held_out_entries():
    weighting = Weighting(1.0, salt=7, bound=int(0.05 * 2**64))
    places = kernels_robust.held_out(20_000, weighting.salt, weighting.bound, 10**6)
    mask = reference_robust.held_mask(20_000, weighting)
    np.testing.assert_array_equal(places, np.flatnonzero(mask))
    # A binomial number of mean 1000 and deviation 31, spread over all columns of any width.
    assert abs(len(places) - 1000) < 150
    assert len(np.unique(places % 20)) == 20
    fewer = kernels_robust.held_out(20_000, weighting.salt, weighting.bound, 100)
    assert len(fewer) <= 100
    assert np.isin(fewer, places).all()


def test_threads_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(kernels, "_PARALLEL_ENTRIES", 0)
    results = []
    for n_threads in (1, 2):
        case = Case(np.float64, 5, True)
        reports = [
            kernels_robust.sweep_rows(
                *case.data(side), case.residual, *case.factors(side), Weighting(0.5), rank=5,
                n_threads=n_threads, **case.options(side),
            )
            for side in ("rows", "cols")
        ]  # fmt: skip
        results.append((case.U, case.V, case.residual, reports))
    for a, b in zip(*results, strict=True):
        assert a == b if isinstance(a, list) else np.array_equal(a, b)
