"""
A game with a certified value: policeman and burglar
====================================================

A burglar picks one of the houses in a street, a policeman a place to wait. The burglar wins what
is in the house, times the probability that the policeman is too far away. Neither should be
predictable: the answer is a pair of distributions. The duality gap, which anyone can check, says
how far both are from the best.
"""

# %%
# A matrix game ``min_x max_y y'Ax``: the policeman has x, the burglar y. Row i of A belongs to
# house i.

import matplotlib.pyplot as plt
import numpy as np

from lowrank_opt.core import History
from lowrank_opt.monotone import ExtraGradient, FastExtraGradient, GameInteriorPoint, MatrixGame

n = 60
wealth = np.abs(np.random.default_rng(1).standard_normal(n)) + 0.2
distance = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :])
A = wealth[:, None] * (1.0 - np.exp(-0.8 * distance))
game = MatrixGame(A)

# %%
# Two methods that only multiply with A, one of them anchored as Halpern's iteration is, and an
# interior-point method that solves linear systems: the same stopping rule, and the same gap.

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for solver in (ExtraGradient, FastExtraGradient, GameInteriorPoint):
    history = History(every="log")
    result = solver(tol=1e-6, max_iter=2000).solve(game, history=history)
    table = history.to_dict()
    ax.loglog(np.array(table["nit"]) + 1, table["residual"], label=solver.__name__)
    print(f"{solver.__name__}: value {result.value:.6f}, gap {result.gap:.1e}")
ax.set_xlabel("iterations")
ax.set_ylabel("duality gap over the range of A")
ax.legend()

# %%
# The burglar spreads over houses so that waiting anywhere does not help; the policeman near the
# rich ones.

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.bar(np.arange(n), wealth / wealth.sum(), color="0.85", label="wealth (share)")
ax.step(np.arange(n), result.x.x, where="mid", label="policeman")
ax.step(np.arange(n), result.x.y, where="mid", label="burglar")
ax.set_xlabel("house")
ax.set_ylabel("probability")
ax.legend()
plt.show()
