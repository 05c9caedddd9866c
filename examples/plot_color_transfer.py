"""
Give a photograph the colours of another
========================================

Two photographs are reduced to palettes of 256 colours. A transport plan says which colours of the
one become which colours of the other; a cap says from how many a new colour may be mixed.
"""

# %%
# The photographs come with scikit-learn. A palette is the centres of k-means, its masses are the
# shares of the pixels.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans

from lowrank_opt.datasets import sample_image_observations
from lowrank_opt.plotting import TransportPlanDisplay
from lowrank_opt.transport import SparseOTMapper, SparsityConstrainedOT

pictures, colors, masses = {}, {}, {}
for name in ("china", "flower"):
    picture = sample_image_observations(name, missing=0.0, color=True, size=(214, 320)).truth
    model = KMeans(256, n_init=1, random_state=0).fit(picture.reshape(-1, 3))
    pictures[name], colors[name] = picture, model.cluster_centers_
    masses[name] = np.bincount(model.labels_, minlength=256) / len(model.labels_)

# %%
# Without a cap the plan is the quadratically regularised one; its rows have as many entries as they
# happen to have. With ``max_nnz=2`` every colour of the temple becomes a mixture of at most two
# colours of the flower. ``gamma`` counts in the range of the costs, the squared distances of two
# colours. ``rounding="columns"`` keeps the cap and lets the shares of the flower's colours be off
# by what is printed; the default keeps the shares, at the price of far-fetched colours. For small
# caps that error is large, and expected to be: every colour of the temple picks its few colours by
# itself, and nothing makes the picks add up to the shares of the flower.

mappers = {}
for k in (None, 4, 2):
    mapper = SparseOTMapper(max_nnz=k, solver=SparsityConstrainedOT(rounding="columns"))
    mapper.fit(
        colors["china"], colors["flower"],
        sample_weight=masses["china"], target_weight=masses["flower"],
    )  # fmt: skip
    mappers["no cap" if k is None else f"at most {k} a colour"] = mapper
    result = mapper.result_
    print(
        f"cap {k}: {result.status.name}, plan {result.plan_status!r}, "
        f"nonzero {mapper.plan_.nnz / 256**2:.2%}, error of the shares {result.col_residual:.1e}"
    )

# %%
# A colour of the palette moves to the mean of where its mass goes, and a pixel moves as the nearest
# colour of the palette does.

shown = {"china": pictures["china"], "flower": pictures["flower"]}
for title, mapper in mappers.items():
    moved = mapper.transform(pictures["china"].reshape(-1, 3))
    shown[title] = np.clip(moved, 0.0, 1.0).reshape(pictures["china"].shape)

figure, axes = plt.subplots(2, 3, figsize=(10, 5), layout="constrained")
for axis, (title, picture) in zip(axes.flat, shown.items(), strict=False):
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()

# %%
# The plan with the smallest cap as a picture of the matrix, palettes sorted by brightness.

order = {name: np.argsort(colors[name].sum(axis=1)) for name in colors}
plan = mappers["at most 2 a colour"].plan_.tocsr()[order["china"]][:, order["flower"]]
TransportPlanDisplay(plan).plot(axes[1, 2])
axes[1, 2].set_title("plan, at most 2 a colour", fontsize=10)
plt.show()
