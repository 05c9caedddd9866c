"""The display of transport plans: what is drawn is what the plan says."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core import MissingDependencyError, ParameterError, Result
from lowrank_opt.plotting import TransportPlanDisplay
from lowrank_opt.transport import TransportPlan

PLAN = np.array([[0.25, 0.0, 0.25], [0.0, 0.5, 0.0]])
X, Y = np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [2.0, 0.5], [1.0, 1.0]])


@pytest.fixture
def axes():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from matplotlib.figure import Figure

    return Figure().subplots()


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.coo_matrix, TransportPlan])
def test_picture_shows_the_matrix_and_leaves_zeros_blank(axes, form):
    display = TransportPlanDisplay(form(PLAN)).plot(axes)
    shown = display.image_.get_array()
    np.testing.assert_array_equal(shown.filled(0.0), PLAN)
    np.testing.assert_array_equal(shown.mask, PLAN == 0)
    assert display.lines_ is None
    assert display.image_.get_clim() == (0.0, 0.5)
    assert display.ax_ is axes
    assert display.figure_ is axes.figure
    # row i and column j have their centre at (j, i), the first row on top
    assert axes.get_xlim() == (-0.5, 2.5)
    assert axes.get_ylim() == (1.5, -0.5)


def test_lines_join_the_points_and_are_as_opaque_as_their_mass(axes):
    display = TransportPlanDisplay(PLAN, X=X, Y=Y).plot(axes, color="red", linewidths=3)
    segments = {tuple(map(tuple, s)) for s in display.lines_.get_segments()}
    assert segments == {
        ((0.0, 0.0), (1.0, 0.0)), ((0.0, 0.0), (1.0, 1.0)), ((0.0, 1.0), (2.0, 0.5))
    }  # fmt: skip
    colors = display.lines_.get_colors()
    np.testing.assert_array_equal(colors[:, :3], np.tile([1.0, 0.0, 0.0], (3, 1)))
    np.testing.assert_array_equal(colors[:, 3], display.plan.data / 0.5)
    assert display.lines_.get_linewidths() == [3]
    sources, targets = display.points_
    np.testing.assert_array_equal(sources.get_offsets(), X)
    np.testing.assert_array_equal(targets.get_offsets(), Y)
    assert display.image_ is None


def test_kind_image_wins_over_points(axes):
    display = TransportPlanDisplay(PLAN, X=X, Y=Y).plot(axes, kind="image", cmap="magma")
    assert display.image_.get_cmap().name == "magma"
    assert display.lines_ is None


def pixel_axes(height, width):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 100, height / 100), dpi=100).add_axes((0.0, 0.0, 1.0, 1.0))


def sparse_plan(m, n, density):
    rng = np.random.default_rng(0)
    return sp.random_array(
        (m, n), density=density, rng=rng, data_sampler=lambda size: np.ones(size)
    )


def test_large_plans_are_summed_over_blocks_of_two_pixels():
    m, n = 2500, 4000
    T = sparse_plan(m, n, 1e-3)
    axes = pixel_axes(2000, 2000)
    shown = TransportPlanDisplay(T).plot(axes).image_.get_array().filled(0.0)
    assert shown.shape == (1000, 1000)
    # columns: blocks of exactly 4; rows: the first 5 fall into the first two blocks
    expected = T.toarray().reshape(m, 1000, 4).sum(axis=2)
    np.testing.assert_array_equal(shown.sum(axis=0), expected.sum(axis=0))
    np.testing.assert_array_equal(shown[:2].sum(axis=0), expected[:5].sum(axis=0))


@pytest.mark.parametrize(("aspect", "shape"), [("auto", (200, 100)), ("equal", (100, 50))])
def test_blocks_follow_the_part_of_the_axes_that_the_picture_takes(aspect, shape):
    display = TransportPlanDisplay(sparse_plan(4000, 2000, 1e-3))
    axes = pixel_axes(400, 200) if aspect == "auto" else pixel_axes(200, 200)
    assert display.plot(axes, aspect=aspect).image_.get_array().shape == shape


def test_no_entry_of_a_large_plan_gets_lost_on_the_screen():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    axes = pixel_axes(370, 496)
    TransportPlanDisplay(sp.eye_array(3000, 2500)).plot(axes, cmap="gray_r", vmin=-1.0)
    axes.set_axis_off()
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    dark = np.asarray(canvas.buffer_rgba())[:, :, 0] < 250
    # the diagonal ends at row 2500 of 3000, and every column of pixels has a part of it
    assert dark.any(axis=0).all()
    assert dark[: 370 * 2500 // 3000 - 2].any(axis=1).all()


def test_a_plan_without_mass_can_be_drawn(axes):
    empty = TransportPlanDisplay(np.zeros((2, 3)), X=X, Y=Y)
    assert empty.plot(axes).lines_.get_segments() == []
    assert empty.plot(axes, kind="image").image_.get_array().mask.all()


def test_only_the_heaviest_lines_are_drawn(axes):
    plan = np.array([[0.25, 0.0, 0.2], [0.0, 0.5, 0.05]])
    display = TransportPlanDisplay(plan, X=X, Y=Y)
    display.plot(axes, max_lines=2)
    segments = {tuple(map(tuple, s)) for s in display.lines_.get_segments()}
    assert segments == {((0.0, 0.0), (1.0, 0.0)), ((0.0, 1.0), (2.0, 0.5))}
    np.testing.assert_array_equal(display.lines_.get_colors()[:, 3], [0.5, 1.0])
    np.testing.assert_allclose(display.shown_, 0.75, rtol=1e-12)
    assert len(display.plot(axes, max_lines=None).lines_.get_segments()) == 4
    assert display.shown_ == 1.0


def test_many_lines_are_thin_and_many_points_small(axes):
    rng = np.random.default_rng(0)
    few = TransportPlanDisplay(PLAN, X=X, Y=Y).plot(axes)
    many = TransportPlanDisplay(
        sparse_plan(1000, 900, 3e-3), X=rng.normal(size=(1000, 2)), Y=rng.normal(size=(900, 2))
    ).plot(axes)
    assert many.lines_.get_linewidths()[0] < few.lines_.get_linewidths()[0] / 2
    assert many.points_[0].get_sizes()[0] < few.points_[0].get_sizes()[0] / 2


def test_the_legend_names_sources_and_targets(axes):
    display = TransportPlanDisplay(PLAN, X=X, Y=Y)
    display.plot(axes, legend=False)
    assert axes.get_legend() is None
    display.plot(axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["sources", "targets"]


def test_stored_zeros_are_no_lines_and_the_plan_is_not_touched(axes):
    given = sp.csc_array(PLAN)
    given.data[0] = 0.0
    before = given.copy()
    display = TransportPlanDisplay(given, X=X, Y=Y).plot(axes)
    assert len(display.lines_.get_segments()) == 2
    assert given.nnz == before.nnz == 3
    np.testing.assert_array_equal(given.data, before.data)


def test_from_result_shows_the_plan_or_the_relaxed_one():
    plan = TransportPlan(PLAN, relaxed=sp.csc_array(np.full((2, 3), 1 / 6)))
    result = Result(x=plan)
    assert TransportPlanDisplay.from_result(result).plan.nnz == 3
    assert TransportPlanDisplay.from_result(result, relaxed=True).plan.nnz == 6
    np.testing.assert_array_equal(TransportPlanDisplay.from_result(result, X=X, Y=Y).Y, Y)
    own = Result(x=TransportPlan(PLAN))
    assert TransportPlanDisplay.from_result(own, relaxed=True).plan.nnz == 3


def test_without_axes_a_figure_is_made():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    import matplotlib.pyplot as plt

    display = TransportPlanDisplay(PLAN).plot()
    assert plt.fignum_exists(display.figure_.number)
    plt.close(display.figure_)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match=r"lowrank_opt\[plot\]"):
        TransportPlanDisplay(PLAN).plot()


@pytest.mark.parametrize(
    ("plan", "points", "message"),
    [
        (np.zeros(3), {}, "plan has shape"),
        (np.zeros((0, 3)), {}, "plan has shape"),
        (-PLAN, {}, "negative or not finite"),
        (PLAN * np.nan, {}, "negative or not finite"),
        (PLAN, {"X": X}, "both X and Y"),
        (PLAN, {"X": Y, "Y": Y}, r"X has shape \(3, 2\); expected \(2, 2\).* row"),
        (PLAN, {"X": X, "Y": Y[:, :1]}, r"Y has shape \(3, 1\); expected \(3, 2\).* column"),
    ],
)
def test_bad_data(plan, points, message):
    with pytest.raises(ParameterError, match=message):
        TransportPlanDisplay(plan, **points)


def test_bad_kind(axes):
    with pytest.raises(ParameterError, match="must be one of auto, image, lines"):
        TransportPlanDisplay(PLAN).plot(axes, kind="dots")
    with pytest.raises(ParameterError, match="needs the points X and Y"):
        TransportPlanDisplay(PLAN).plot(axes, kind="lines")
    with pytest.raises(ParameterError, match="max_lines=0 must be at least 1"):
        TransportPlanDisplay(PLAN, X=X, Y=Y).plot(axes, max_lines=0)
