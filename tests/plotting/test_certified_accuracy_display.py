"""Curves of certified accuracy."""

import numpy as np
import pytest

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.plotting import CertifiedAccuracyDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def agg():
    plt.switch_backend("agg")
    yield
    plt.close("all")


class Grid:
    """An estimator that knows a curve only."""

    eps = 0.2

    def certified_accuracy(self, X, y, eps):
        return np.clip(1.0 - np.asarray(eps), 0.0, 1.0)


class Radii:
    """An estimator that knows radii."""

    norm = "l2"

    def certified_radius(self, X, y):
        return np.asarray(X)[:, 0]


def test_radii_give_the_curve_of_their_distribution():
    radii = np.array([0.0, 0.3, 0.1, 0.3, np.inf])
    display = CertifiedAccuracyDisplay.from_radii(radii)
    assert display.eps.tolist() == [0.0, 0.1, 0.3]
    np.testing.assert_allclose(display.accuracy, [(radii > e).mean() for e in (0.0, 0.1, 0.3)])


def height_at(line, x):
    """The height of a drawn step curve."""
    X, Y = line.get_xdata(), line.get_ydata()
    k = np.searchsorted(X, x)  # X[k - 1] < x <= X[k]
    return {"steps-pre": Y[k], "steps-post": Y[k - 1]}[line.get_drawstyle()]


def test_the_drawn_curve_is_exact_for_radii_and_below_for_grids():
    exact = CertifiedAccuracyDisplay.from_radii([0.1, 0.2, 0.4, 0.4]).plot()
    assert height_at(exact.line_, 0.3) == 0.5
    grid = CertifiedAccuracyDisplay([0.0, 0.2, 0.4], [1.0, 0.5, 0.0]).plot()
    assert height_at(grid.line_, 0.3) == 0.0


def test_estimators_of_both_kinds():
    X = np.array([[0.1], [0.4]])
    display = CertifiedAccuracyDisplay.from_estimator(Radii(), X, [0, 1])
    assert display.eps.tolist() == [0.0, 0.1, 0.4]
    assert (display.name, display.norm) == ("Radii", "l2")
    display = CertifiedAccuracyDisplay.from_estimator(Grid(), X, [0, 1])
    assert display.eps[-1] == 0.4
    assert display.norm == "linf"
    some = CertifiedAccuracyDisplay.from_estimator(Grid(), X, [0, 1], eps=[0.0, 0.5], name="mine")
    assert some.accuracy.tolist() == [1.0, 0.5]
    assert some.name == "mine"


def test_two_curves_share_axes():
    first = CertifiedAccuracyDisplay([0.0, 1.0], [0.9, 0.2], name="a", norm="l2").plot(color="red")
    second = CertifiedAccuracyDisplay([0.0, 1.0], [0.8, 0.3]).plot(first.ax_, name="b")
    assert second.ax_ is first.ax_
    assert first.figure_ is first.ax_.figure
    assert first.line_.get_color() == "red"
    assert [t.get_text() for t in first.ax_.get_legend().get_texts()] == ["a", "b"]
    assert first.ax_.get_xlabel() == "radius of perturbations (l2)"
    assert first.ax_.get_ylim()[0] == 0.0
    bare = CertifiedAccuracyDisplay([0.0], [0.9]).plot()
    assert bare.ax_.get_legend() is None


@pytest.mark.parametrize(
    ("eps", "accuracy", "message"),
    [
        ([0.0, 1.0], [0.5], "expected the same"),
        ([], [], "at least one"),
        ([1.0, 0.0], [0.5, 0.2], "must increase"),
        ([-1.0, 0.0], [0.5, 0.2], "must increase"),
        ([0.0, 1.0], [0.5, 1.2], "in .0, 1."),
        ([0.0, 1.0], [0.5, 0.6], "rises with eps"),
        ([0.0, np.nan], [0.5, 0.4], "finite"),
        (0.5, 0.4, "vector"),
    ],
)
def test_bad_curves(eps, accuracy, message):
    with pytest.raises(ParameterError, match=message):
        CertifiedAccuracyDisplay(eps, accuracy)


def test_bad_radii():
    with pytest.raises(ParameterError, match="radii"):
        CertifiedAccuracyDisplay.from_radii([0.1, -0.1])
    with pytest.raises(ParameterError, match="radii"):
        CertifiedAccuracyDisplay.from_radii([])
