"""Every documented method of the front door runs with its defaults."""

import numpy as np
import pytest

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz import lipschitz_bound


def test_sampled_takes_no_tolerance():
    weights = [np.ones((3, 2)), np.ones((1, 3))]
    result = lipschitz_bound(weights, method="sampled")
    assert result.lower_bound == pytest.approx(3 * 2**0.5)


def test_list_of_outputs_names_the_pair():
    with pytest.raises(ProblemError, match=r"a margin is output=\(3, 8\)"):
        lipschitz_bound([np.ones((10, 2))], output=[3, 8])
