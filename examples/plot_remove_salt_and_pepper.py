"""
Remove salt and pepper from a photograph with holes
===================================================

Half of the pixels of a photograph are missing, and a fifth of the others are black or white, nobody
knows which. A least-squares fit follows the wrong pixels; robust losses leave them aside.
"""

# %%
# The photograph comes with scikit-learn. Missing pixels are NaN; ``outliers`` says which pixels are
# wrong, and is used to measure only.

import matplotlib.pyplot as plt
import numpy as np

from lowrank_opt.datasets import psnr, sample_image_observations
from lowrank_opt.recovery import (
    AlternatingMinimization,
    HuberALS,
    LowRankPlusSparse,
    MatrixCompletion,
)

image = sample_image_observations(
    "china", missing=0.5, outlier_fraction=0.2, size=(214, 320), random_state=0
)
damaged = ~image.mask | image.outliers

# %%
# Plain completion: a squared loss with biases and a ridge.

model = {"rank": 8, "biases": True, "reg_scaling": "count"}
plain = AlternatingMinimization(tol=1e-3, max_iter=30).solve(
    MatrixCompletion.from_dense(image.matrix, reg=0.03, reg_bias=0.003, **model)
)

# %%
# A low-rank matrix plus gross errors. The threshold between noise and gross errors follows the
# errors, and the rank is found on pixels that are held out.

split = LowRankPlusSparse.from_dense(image.matrix, rank="auto")
robust = HuberALS(tol=1e-3, random_state=0).solve(split)
print(robust.status, robust.certificate)

# %%
# A picture is only roughly of low rank, so that a low rank also leaves sound pixels aside. The
# Huber loss with a ridge allows a higher one. Its threshold is in units of the data: a twentieth
# of the range of a pixel.

huber = AlternatingMinimization(tol=1e-3, max_iter=30).solve(
    MatrixCompletion.from_dense(
        image.matrix, reg=0.003, reg_bias=0.0003, loss="huber", loss_scale=0.05, **model
    )
)

# %%
# Peak signal-to-noise ratios are those of the pixels that were missing or wrong.

pictures = {"observed": image.observed}
for name, result in {"squared loss": plain, "HuberALS": robust, "Huber loss, ridge": huber}.items():
    restored = image.image(result.x.to_dense())
    quality = psnr(image.truth, restored, mask=damaged)
    pictures[f"{name}, rank {result.x.rank}: {quality:.1f} dB"] = restored

figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    axis.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()

# %%
# The gross errors that the split found, beside the true ones.

found = split.sparse_part(robust.x).toarray() != 0
print(f"marked {np.mean(found[image.mask]):.0%} of the observed pixels")
print(f"wrong pixels among the marked: {np.mean(image.outliers[found]):.0%}")
print(f"marked among the wrong pixels: {np.mean(found[image.outliers]):.0%}")
plt.show()
