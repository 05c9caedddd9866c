"""The error for layers that no bound covers."""

from __future__ import annotations

from typing import Any

from lowrank_opt.core.errors import ProblemError

__all__ = ["UnsupportedLayerError"]


class UnsupportedLayerError(ProblemError):
    """A model has a layer that cannot be converted; nothing is skipped or guessed.

    Parameters
    ----------
    layer : str
        The layer, its position where there is one, and what about it is not covered.
    cure : str
        What to do instead.
    """

    def __init__(self, layer: str, cure: str) -> None:
        self.layer, self.cure = layer, cure
        super().__init__(f"network: {layer} is not supported; {cure}")

    def __reduce__(self) -> Any:
        return type(self), (self.layer, self.cure)
