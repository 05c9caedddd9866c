"""Pictures of transport plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import MissingDependencyError, ParameterError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.core.result import Result

__all__ = ["TransportPlanDisplay"]

# Blocks of a picture are at least so many pixels wide and high. With one pixel a block, axes that
# a layout makes smaller later would leave some of them out.
_BLOCK = 2.0
# Points and lines get smaller where there are more.
_POINT_SIZES, _LINE_WIDTHS = (2.0, 18.0), (0.25, 1.5)


class TransportPlanDisplay:
    """A transport plan, as a picture of the matrix or as lines between two clouds of points.

    Parameters
    ----------
    plan : array-like or scipy sparse of shape (m, n)
        Masses that go from source i to target j, at least 0.
    X, Y : array-like of shape (m, 2) and (n, 2), or None, default=None
        Points of sources and targets. With both, lines can be drawn.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        Their figure.
    image_ : matplotlib.image.AxesImage or None
        The picture of the matrix.
    lines_ : matplotlib.collections.LineCollection or None
        The lines, in the order of ``plan.data``; the more opaque, the more mass.
    shown_ : float
        Share of the mass that the picture shows: 1, unless lines were left out.
    points_ : tuple of matplotlib.collections.PathCollection, or None
        Sources and targets.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.plotting import TransportPlanDisplay
    >>> display = TransportPlanDisplay(np.diag([0.25, 0.75]))
    >>> display.plan.nnz
    2
    """

    def __init__(
        self, plan: Any, *, X: ArrayLike | None = None, Y: ArrayLike | None = None
    ) -> None:
        if not sp.issparse(plan):
            plan = np.asarray(plan, dtype=np.float64)
        if len(plan.shape) != 2 or 0 in plan.shape:
            raise ParameterError(
                f"TransportPlanDisplay: plan has shape {plan.shape}; expected (sources, targets)"
            )
        T = sp.csc_array(plan)
        if not np.isfinite(T.data).all() or np.any(T.data < 0):
            raise ParameterError(
                "TransportPlanDisplay: plan has entries that are negative or not finite; masses "
                "are at least 0"
            )
        T = T.copy()
        T.eliminate_zeros()
        self.plan = T
        if (X is None) != (Y is None):
            raise ParameterError("TransportPlanDisplay: give both X and Y, or neither")
        self.X = _points("X", X, T.shape[0])
        self.Y = _points("Y", Y, T.shape[1])

    @classmethod
    def from_result(
        cls,
        result: Result,
        *,
        X: ArrayLike | None = None,
        Y: ArrayLike | None = None,
        relaxed: bool = False,
    ) -> TransportPlanDisplay:
        """Make a display from the result of a transport problem.

        Parameters
        ----------
        result : Result
            What a solver of :class:`~lowrank_opt.transport.TransportProblem` returned.
        X, Y : array-like of shape (m, 2) and (n, 2), or None, default=None
            Points, to draw lines.
        relaxed : bool, default=False
            Show the plan of the convex relaxation where it is another one.
        """
        plan = result.x
        if relaxed and plan.relaxed is not None:
            plan = plan.relaxed
        return cls(plan, X=X, Y=Y)

    def plot(
        self,
        ax: Any = None,
        *,
        kind: str = "auto",
        color: Any = "C0",
        max_lines: int | None = 1000,
        legend: bool = True,
        **options: Any,
    ) -> TransportPlanDisplay:
        """Draw the plan.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; ``None``: a new figure.
        kind : {"auto", "image", "lines"}, default="auto"
            "image": the matrix, pairs without mass left blank; a plan with more rows or columns
            than half the pixels of the axes is summed over blocks. "lines": a line for every pair
            with mass. "auto": lines when there are points.
        color : matplotlib color, default="C0"
            Colour of the lines.
        max_lines : int or None, default=1000
            Draw only so many lines, those with the largest masses; ``None``: all.
        legend : bool, default=True
            Say, beside lines, which points are sources and which are targets.
        **options
            For ``Axes.imshow`` or ``matplotlib.collections.LineCollection``. Without
            ``linewidths`` lines are the thinner the more there are.

        Returns
        -------
        TransportPlanDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        ParameterError
            Another `kind`, lines without points, or no lines.
        """
        if kind not in ("auto", "image", "lines"):
            raise ParameterError(f"kind={kind!r} must be one of auto, image, lines")
        if kind == "lines" and self.X is None:
            raise ParameterError("kind='lines' needs the points X and Y of the display")
        if max_lines is not None and max_lines < 1:
            raise ParameterError(f"max_lines={max_lines!r} must be at least 1, or None")
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise MissingDependencyError(
                    "matplotlib", "plot", "TransportPlanDisplay.plot"
                ) from error
            _, ax = plt.subplots()
        self.image_ = self.lines_ = self.points_ = None
        self.shown_ = 1.0
        if self.X is None or kind == "image":
            self._image(ax, options)
        else:
            self._lines(ax, color, max_lines, legend, options)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _image(self, ax: Any, options: dict[str, Any]) -> None:
        m, n = self.plan.shape
        options = {
            "cmap": "viridis", "vmin": 0.0, "aspect": "auto", "interpolation": "nearest", **options
        }  # fmt: skip
        box = ax.get_window_extent()
        height, width = box.height, box.width
        if options["aspect"] == "equal":
            side = min(height / m, width / n)
            height, width = side * m, side * n
        sums = _block_sums(self.plan, int(height / _BLOCK), int(width / _BLOCK))
        # The edges of pixels are between the numbers of rows and columns.
        self.image_ = ax.imshow(
            np.ma.masked_equal(sums, 0.0), extent=(-0.5, n - 0.5, m - 0.5, -0.5), **options
        )
        ax.grid(visible=False)
        ax.set_xlabel("target")
        ax.set_ylabel("source")

    def _lines(
        self, ax: Any, color: Any, max_lines: int | None, legend: bool, options: dict[str, Any]
    ) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.colors import to_rgb

        mass, rows = self.plan.data, self.plan.indices
        cols = np.repeat(np.arange(self.plan.shape[1]), np.diff(self.plan.indptr))
        if max_lines is not None and len(mass) > max_lines:
            heaviest = np.sort(np.argsort(-mass, kind="stable")[:max_lines])
            self.shown_ = float(mass[heaviest].sum() / mass.sum())
            mass, rows, cols = mass[heaviest], rows[heaviest], cols[heaviest]
        colors = np.empty((len(rows), 4))
        colors[:, :3] = to_rgb(color)
        colors[:, 3] = mass / mass.max(initial=0.0)
        width = np.clip(15.0 / np.sqrt(max(1, len(mass))), *_LINE_WIDTHS)
        options = {"linewidths": float(width), "zorder": 1, **options}
        segments = np.stack([self.X[rows], self.Y[cols]], axis=1)
        self.lines_ = LineCollection(segments, colors=colors, **options)
        ax.add_collection(self.lines_)
        size = float(np.clip(3600.0 / max(self.plan.shape), *_POINT_SIZES))
        self.points_ = (
            ax.scatter(*self.X.T, s=size, color="C1", zorder=2, label="sources"),
            ax.scatter(*self.Y.T, s=size, color="C2", zorder=2, label="targets"),
        )
        if legend:
            # With a fixed place: to find the best one takes long where there are many points.
            ax.legend(handles=self.points_, loc="upper left")


def _points(name: str, value: ArrayLike | None, size: int) -> NDArray[np.float64] | None:
    if value is None:
        return None
    points = np.asarray(value, dtype=np.float64)
    if points.shape != (size, 2):
        raise ParameterError(
            f"TransportPlanDisplay: {name} has shape {points.shape}; expected ({size}, 2), a point "
            f"of the plane for each {'row' if name == 'X' else 'column'} of the plan"
        )
    return points


def _block_sums(plan: Any, height: int, width: int) -> NDArray[np.float64]:
    """Masses as a dense array with at most so many rows and columns."""
    m, n = plan.shape
    height, width = min(m, max(1, height)), min(n, max(1, width))
    cols = np.repeat(np.arange(n), np.diff(plan.indptr))
    place = (plan.indices.astype(np.int64) * height // m) * width + cols * width // n
    return np.bincount(place, weights=plan.data, minlength=height * width).reshape(height, width)
