"""Ratings on a star scale: the container, and synthetic ones of MovieLens shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.datasets._entries import ObservedEntries, draw_cells
from lowrank_opt.datasets._low_rank import products

if TYPE_CHECKING:
    from lowrank_opt.core.protocols import Array

__all__ = ["Ratings", "make_ratings"]


@dataclass(frozen=True, eq=False, repr=False)
class Ratings(ObservedEntries):
    """Ratings that users gave to items.

    Parameters
    ----------
    rows, cols : ndarray of shape (n_observations,), int32
        Zero-based positions: user and item.
    values : ndarray of shape (n_observations,), float
        Ratings.
    shape : tuple of int
        Shape of the matrix: users, items.
    user_ids, item_ids : ndarray or None, default=None
        Identifier of each row and of each column; ``None``: the index itself.
    timestamps : ndarray of shape (n_ratings,) or None, default=None
        Seconds since 1970, per rating.
    """

    user_ids: Array | None = None
    item_ids: Array | None = None
    timestamps: Array | None = field(default=None, metadata={"per_entry": True})


def _activity(rng: np.random.Generator, length: int, spread: float, floor: float) -> Array:
    """Log-normal probabilities, none below `floor` times the mean."""
    weights = np.exp(spread * rng.standard_normal(length))
    weights /= weights.mean()
    np.maximum(weights, floor, out=weights)
    return weights / weights.sum()


def make_ratings(
    n_users: int = 6040,
    n_items: int = 3706,
    n_ratings: int = 1_000_000,
    *,
    rank: int = 12,
    mean: float = 3.65,
    user_bias: float = 0.45,
    item_bias: float = 0.6,
    taste: float = 0.5,
    noise: float = 0.82,
    dtype: Any = np.float32,
    random_state: Any = None,
) -> Ratings:
    r"""Synthetic ratings from 1 to 5 stars; by default of the shape of MovieLens-1M.

    A rating is :math:`\mu + b_u + b_i + p_u \cdot q_i + \varepsilon`, rounded to whole stars and
    clipped to 1..5, at a random position. How many ratings a user or an item has is log-normal
    (medians and upper tails close to MovieLens-1M's, where the busiest have thousands and the
    median has about 100); every user and every item has at least one.

    Parameters
    ----------
    n_users, n_items : int, default=6040, 3706
        Shape.
    n_ratings : int, default=1000000
        Number of ratings, from ``n_users + n_items`` to half of all cells.
    rank : int, default=12
        Number of latent tastes, at least 1; their strength falls as ``1 / sqrt(index)``.
    mean : float, default=3.65
        Mean before rounding.
    user_bias, item_bias : float, default=0.45, 0.6
        Standard deviations of the biases, at least 0.
    taste : float, default=0.5
        Standard deviation of the products :math:`p_u \cdot q_i`, at least 0.
    noise : float, default=0.82
        Standard deviation of :math:`\varepsilon`, at least 0. With the defaults the standard
        deviation of the ratings, the error with biases alone and the error of a good
        factorisation are near those of MovieLens-1M (1.12, 0.91 and 0.85).
    dtype : {float32, float64}, default=float32
        Type of the ratings.
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    Ratings
        Ratings in row-major order.

    Raises
    ------
    ParameterError
        A parameter is out of its range.

    Notes
    -----
    Cost: O(n_ratings (rank + log n_ratings)) time, O(n_ratings) memory.

    Examples
    --------
    >>> from lowrank_opt.datasets import make_ratings
    >>> ratings = make_ratings(200, 100, 3000, random_state=0)
    >>> ratings
    Ratings(200 x 100, 3000 entries, density 0.15, float32)
    >>> sorted(set(ratings.values.tolist()))
    [1.0, 2.0, 3.0, 4.0, 5.0]
    """
    m, n, size = int(n_users), int(n_items), int(n_ratings)
    if m < 1 or n < 1:
        raise ParameterError(f"shape is ({n_users}, {n_items}); expected positive sizes")
    if not m + n <= size <= m * n // 2:
        raise ParameterError(
            f"n_ratings is {n_ratings!r}; expected n_users + n_items = {m + n} to "
            f"n_users * n_items / 2 = {m * n // 2}"
        )
    if rank < 1:
        raise ParameterError(f"rank is {rank!r}; expected at least 1")
    for name, value in (
        ("user_bias", user_bias),
        ("item_bias", item_bias),
        ("taste", taste),
        ("noise", noise),
    ):
        if not value >= 0.0:
            raise ParameterError(f"{name} is {value!r}; expected at least 0")

    rng = np.random.default_rng(random_state)
    users = _activity(rng, m, 1.15, 0.12)
    items = _activity(rng, n, 1.4, 0.0)
    # One rating for every user and every item, then the rest by activity.
    cover = np.concatenate(
        [
            np.arange(m) * n + rng.choice(n, m, p=items),
            rng.choice(m, n, p=users) * n + np.arange(n),
        ]
    )
    rows, cols = draw_cells(rng, (m, n), size, users, items, cover)

    strength = 1.0 / np.sqrt(np.arange(1, rank + 1))
    strength *= taste / np.sqrt(np.sum(strength**2))
    P = rng.standard_normal((m, rank)) * strength
    Q = rng.standard_normal((n, rank))
    stars = products(P, Q, rows, cols)
    stars += mean
    stars += (user_bias * rng.standard_normal(m))[rows]
    stars += (item_bias * rng.standard_normal(n))[cols]
    stars += noise * rng.standard_normal(size)
    np.clip(np.rint(stars), 1.0, 5.0, out=stars)
    return Ratings(rows, cols, stars.astype(np.dtype(dtype)), (m, n))
