from lowrank_opt.transport.plan import TransportPlan as TransportPlan
from lowrank_opt.transport.problems import TransportProblem as TransportProblem
from lowrank_opt.transport.sparsity_constrained import (
    SparsityConstrainedOT as SparsityConstrainedOT,
)

def warmup() -> dict[str, float]: ...
