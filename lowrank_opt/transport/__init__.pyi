from lowrank_opt.transport.functions import expert_capacity as expert_capacity
from lowrank_opt.transport.functions import k_support_norm as k_support_norm
from lowrank_opt.transport.functions import prox_k_support as prox_k_support
from lowrank_opt.transport.functions import (
    sparse_simplex_projection as sparse_simplex_projection,
)
from lowrank_opt.transport.plan import TransportPlan as TransportPlan
from lowrank_opt.transport.problems import TransportProblem as TransportProblem
from lowrank_opt.transport.sparsity_constrained import (
    SparsityConstrainedOT as SparsityConstrainedOT,
)

def warmup() -> dict[str, float]: ...
