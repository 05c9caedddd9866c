from lowrank_opt.transport.plan import TransportPlan as TransportPlan
from lowrank_opt.transport.problems import TransportProblem as TransportProblem

def warmup() -> dict[str, float]: ...
