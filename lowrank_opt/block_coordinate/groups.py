"""Groups of features, in the forms that users have them."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.block_coordinate.penalized import feature_weights
from lowrank_opt.core.errors import ProblemError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["group_labels", "group_weights"]


def group_labels(owner: str, groups: Any, n_features: int) -> NDArray[Any]:
    """Return the number of the group of each feature, from 0.

    Parameters
    ----------
    owner : str
        Who asks, for messages.
    groups : int, list of lists of int, or array-like of shape (n_features,)
        A size, members, or labels.
    n_features : int
        Number of features.

    Raises
    ------
    ProblemError
        Features in no group or in two, numbers out of range, or another number of labels.
    """
    if isinstance(groups, Integral):
        return np.arange(n_features) // int(groups)
    if any(np.ndim(part) > 0 for part in groups):
        return _from_members(owner, groups, n_features)
    labels = np.asarray(groups)
    if labels.shape != (n_features,):
        raise ProblemError(
            f"{owner}: groups has shape {labels.shape}; expected a label for each of the "
            f"{n_features} features, a list of lists of features, or the size of all groups"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ProblemError(f"{owner}: groups[{int(np.argmin(np.isfinite(labels)))}] is not finite")
    numbers: NDArray[Any] = np.unique(labels, return_inverse=True)[1]
    return numbers.reshape(-1)


def _from_members(owner: str, groups: Any, n_features: int) -> NDArray[Any]:
    labels = np.full(n_features, -1)
    for g, members in enumerate(groups):
        index = np.asarray(members)
        if index.ndim != 1 or index.size == 0 or index.dtype.kind not in "iu":
            raise ProblemError(
                f"{owner}: groups[{g}]={members!r} must be a list of one or more numbers of "
                "features"
            )
        out = (index < 0) | (index >= n_features)
        if out.any():
            raise ProblemError(
                f"{owner}: groups[{g}] has feature {index[out][0]}; features are numbered from 0 "
                f"to {n_features - 1}"
            )
        twice = (labels[index] >= 0) | (np.bincount(index, minlength=n_features)[index] > 1)
        if twice.any():
            raise ProblemError(
                f"{owner}: feature {index[twice][0]} is in group {g} and in another, or twice in "
                "it; groups must not overlap"
            )
        labels[index] = g
    if (labels < 0).any():
        raise ProblemError(
            f"{owner}: feature {int(np.argmin(labels))} is in none of the groups; give it one of "
            "its own, with weight 0 if it is to be unpenalised"
        )
    return labels


def group_weights(owner: str, weights: Any, labels: NDArray[Any]) -> NDArray[Any]:
    """Return the weights of groups: those given, or the square roots of their sizes.

    Parameters
    ----------
    owner : str
        Who asks, for messages.
    weights : array-like of shape (n_groups,) or None
        At least 0, infinite allowed.
    labels : ndarray of shape (n_features,)
        The group of each feature.
    """
    if weights is None:
        return np.sqrt(np.bincount(labels))
    return feature_weights(owner, weights, int(labels.max()) + 1, "groups")
