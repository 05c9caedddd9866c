"""Lipschitz bounds of neural networks, certified radii, and interval bound propagation."""

from __future__ import annotations

from lowrank_opt.core.lazy import lazy_names
from lowrank_opt.core.registry import register_solvers

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "activations": ["Activation"],
        "convert": ["as_network"],
        "convolution": ["convolution_norm"],
        "eclipse": ["ECLipsE"],
        "estimators_certifier": ["LipschitzCertifier"],
        "estimators_ibp": ["IBPClassifier"],
        "exact": ["ExactLipschitz"],
        "front": ["lipschitz_bound"],
        "intervals": ["interval_bounds"],
        "layer_errors": ["UnsupportedLayerError"],
        "lip_diff": ["LipDiff"],
        "lip_lt": ["LipLT"],
        "lip_sdp": ["LipSDP"],
        "lip_sdp_group_sort": ["LipSDPGroupSort"],
        "network": ["Affine", "FeedForward", "Implicit", "Residual", "ResidualBlock"],
        "norm_product": ["NormProduct"],
        "problem": ["LipschitzProblem"],
        "proofs": ["BoundProof"],
        "regions": ["Ball", "Box"],
        "sampled": ["SampledLowerBound"],
        "tightness": ["propagation_tightness"],
    },
)

register_solvers(
    __name__,
    (
        "ECLipsE",
        "ExactLipschitz",
        "LipDiff",
        "LipLT",
        "LipSDP",
        "LipSDPGroupSort",
        "NormProduct",
        "SampledLowerBound",
    ),
)


def warmup() -> dict[str, float]:
    """Return no seconds: this family compiles nothing."""
    return {}
