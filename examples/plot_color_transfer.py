"""
Give a photograph the colours of another
========================================

Two photographs are reduced to palettes of 256 colours. A transport plan says which colours of the
one become which colours of the other; a cap says how many a colour may be mixed from.
"""

# %%
# The photographs come with scikit-learn. A palette is the centres of k-means, its masses are the
# shares of the pixels.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans

from lowrank_opt.datasets import sample_image_observations
from lowrank_opt.plotting import TransportPlanDisplay
from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem

pictures, colors, masses, labels = {}, {}, {}, {}
for name in ("china", "flower"):
    picture = sample_image_observations(name, missing=0.0, color=True, size=(214, 320)).truth
    model = KMeans(256, n_init=1, random_state=0).fit(picture.reshape(-1, 3))
    pictures[name], colors[name], labels[name] = picture, model.cluster_centers_, model.labels_
    masses[name] = np.bincount(model.labels_, minlength=256) / len(model.labels_)

# %%
# Without a cap the plan is the quadratically regularised one; its columns have as many entries as
# they happen to have. With ``max_nnz=2`` every colour of the flower is mixed from at most two
# colours of the temple. The cost, the squared distance of two colours, is computed from the points.

plans = {}
for k in (None, 4, 2):
    problem = TransportProblem(
        masses["china"], masses["flower"], X=colors["china"], Y=colors["flower"],
        gamma=1.0, max_nnz=k,
    )  # fmt: skip
    result = SparsityConstrainedOT(rounding="columns").solve(problem)
    plans["no cap" if k is None else f"at most {k} a column"] = result.x
    print(
        f"cap {k}: {result.status.name}, plan {result.plan_status!r}, "
        f"longest column {result.x.counts().max()}, nonzero {result.x.nnz / 256**2:.2%}, "
        f"error of the row sums {result.row_residual:.1e}"
    )

# %%
# ``rounding="columns"`` keeps the cap and the sums of the columns, and lets those of the rows be
# off by what is printed. A colour of the temple moves to the mean of where its mass goes, and takes
# its pixels along.


def transfer(plan):
    """Move every pixel with its palette entry."""
    sums = plan.sum(axis=1)
    goal = plan @ colors["flower"] / np.maximum(sums, 1e-300)[:, None]
    step = np.where(sums[:, None] > 0, goal - colors["china"], 0.0)
    moved = pictures["china"].reshape(-1, 3) + step[labels["china"]]
    return np.clip(moved, 0.0, 1.0).reshape(pictures["china"].shape)


shown = {"china": pictures["china"], "flower": pictures["flower"]}
shown |= {name: transfer(plan) for name, plan in plans.items()}

figure, axes = plt.subplots(2, 3, figsize=(10, 5), layout="constrained")
for axis, (title, picture) in zip(axes.flat, shown.items(), strict=False):
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()

# %%
# The plan with the smallest cap as a picture of the matrix, palettes sorted by brightness.

order = {name: np.argsort(colors[name].sum(axis=1)) for name in colors}
plan = plans["at most 2 a column"].tocsr()[order["china"]][:, order["flower"]]
TransportPlanDisplay(plan).plot(axes[1, 2])
axes[1, 2].set_title("plan, at most 2 a column", fontsize=10)
plt.show()
