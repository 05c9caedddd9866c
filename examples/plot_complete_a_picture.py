"""
Fill in the missing pixels of a photograph
==========================================

Four fifths of the pixels of a photograph are removed at random. A picture is not of low rank, but
its singular values decay, so that few directions explain most of what is missing.
"""

# %%
# The photograph comes with scikit-learn. Missing pixels are NaN.

import matplotlib.pyplot as plt
import numpy as np

from lowrank_opt.datasets import psnr, sample_image_observations
from lowrank_opt.recovery import AlternatingMinimization, GibbsFactorization, MatrixCompletion

image = sample_image_observations("china", missing=0.8, size=(214, 320), random_state=0)
missing = ~image.mask

# %%
# One row and one column mean explain the large differences; the factors do the rest. The ridge is
# scaled by the number of pixels in a row or column, so that it does not depend on how many are
# missing.

problem = MatrixCompletion.from_dense(
    image.matrix, rank=16, reg=0.01, reg_bias=0.001, reg_scaling="count", biases=True
)
fitted = AlternatingMinimization(tol=1e-3, max_iter=30).solve(problem)

# %%
# The certificate is computed by the problem, not by the solver: zero at a stationary point.

print(fitted.status, fitted.certificate)

# %%
# The Gibbs sampler needs no ridge. It averages over the posterior, and says how sure it is of every
# pixel: the deviation is the predictive one, noise included.

sampled = GibbsFactorization(max_iter=60, random_state=0).solve(problem)
rows, cols = np.nonzero(missing)
_, deviation = sampled.x.predict(rows, cols, return_std=True)
uncertainty = np.zeros(missing.shape)
uncertainty[rows, cols] = deviation

# %%
# Peak signal-to-noise ratios are those of the missing pixels only.

pictures = {"observed": image.observed}
for name, x in {"AlternatingMinimization": fitted.x, "GibbsFactorization": sampled.x}.items():
    filled = np.clip(x.to_dense(), 0.0, 1.0)
    pictures[f"{name}, {psnr(image.truth, filled, mask=missing):.1f} dB"] = filled
pictures["predictive deviation of the second"] = uncertainty / uncertainty.max()

figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    axis.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()
plt.show()
