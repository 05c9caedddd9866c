from lowrank_opt.transport.estimators import SparseOTMapper as SparseOTMapper
from lowrank_opt.transport.front import RegularizationPath as RegularizationPath
from lowrank_opt.transport.front import TransportGradients as TransportGradients
from lowrank_opt.transport.front import ot_regularization_path as ot_regularization_path
from lowrank_opt.transport.front import ot_value_and_grad as ot_value_and_grad
from lowrank_opt.transport.front import sparse_ot as sparse_ot
from lowrank_opt.transport.functions import expert_capacity as expert_capacity
from lowrank_opt.transport.functions import k_support_norm as k_support_norm
from lowrank_opt.transport.functions import prox_k_support as prox_k_support
from lowrank_opt.transport.functions import (
    sparse_simplex_projection as sparse_simplex_projection,
)
from lowrank_opt.transport.plan import TransportPlan as TransportPlan
from lowrank_opt.transport.problems import TransportProblem as TransportProblem
from lowrank_opt.transport.router import Routing as Routing
from lowrank_opt.transport.router import TopKRouter as TopKRouter
from lowrank_opt.transport.sparsity_constrained import (
    SparsityConstrainedOT as SparsityConstrainedOT,
)

def warmup() -> dict[str, float]: ...
