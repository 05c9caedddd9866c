"""
Coefficients along a path, with a certified gap at every point
==============================================================

Which features does a sparse regression take first? A path of lasso solutions from the strength at
which everything is 0 down to a hundredth of it answers that. Every point of this path carries the
duality gap that its certificate proves.
"""

# %%
# The diabetes data of scikit-learn with all products of two features: 65 columns, many of them
# nearly the same.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem, SparseGLMSolver, lasso_path
from lowrank_opt.numerics import MCP

data = load_diabetes()
expansion = PolynomialFeatures(2, include_bias=False)
X = StandardScaler().fit_transform(expansion.fit_transform(data.data))
y = data.target - data.target.mean()
names = expansion.get_feature_names_out(data.feature_names)

alphas, lasso, gaps = lasso_path(X, y, eps=1e-2, n_alphas=60)
print(f"largest gap on the path: {gaps.max():.1e}, in units of the objective")

# %%
# A non-convex penalty, MCP, shrinks large coefficients less. Its path is followed from above, each
# point starting from the one before.

smooth = GLMProblem(X, y)
x, mcp = None, []
for alpha in alphas:
    problem = CompositeProblem(smooth, MCP(len(y) * alpha, 3.0 / len(y)))
    result = SparseGLMSolver(tol=1e-5).solve(problem, x0=x)
    x = result.x
    mcp.append(x)
mcp = np.array(mcp).T

figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for ax, coefs, title in zip(axes, (lasso, mcp), ("lasso", "MCP"), strict=True):
    ax.semilogx(alphas, coefs.T, linewidth=1)
    ax.invert_xaxis()
    ax.set_xlabel("strength of the penalty")
    ax.set_title(title)
largest = np.argsort(-np.abs(lasso[:, 30]))[:4]
for j in largest:
    axes[0].annotate(names[j], (alphas[-1], lasso[j, -1]), fontsize=8)
axes[0].set_ylabel("coefficient")

# %%
# How many features each of them uses for the same error on the data.

error = {
    "lasso": np.mean((y[:, None] - X @ lasso) ** 2, axis=0),
    "MCP": np.mean((y[:, None] - X @ mcp) ** 2, axis=0),
}
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for (title, values), coefs in zip(error.items(), (lasso, mcp), strict=True):
    ax.plot(np.count_nonzero(coefs, axis=0), values, "o-", markersize=3, label=title)
ax.set_xlabel("features")
ax.set_ylabel("mean squared error")
ax.legend()
plt.show()
