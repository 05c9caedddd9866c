"""Slow and obvious twins of the kernels."""

from __future__ import annotations

import re

__all__ = ["parse_ratings"]


def parse_ratings(text, users, items, stars, times):
    """Twin of :func:`lowrank_opt.datasets.kernels.parse_ratings`."""
    count = 0
    for number, line in enumerate(bytes(text).split(b"\n")):
        line = line.replace(b"\r", b"").lstrip(b"\t,:")
        if not line:
            continue
        found = re.fullmatch(
            rb"(\d{1,18})[\t,:]+(\d{1,18})[\t,:]+(\d+\.?\d*)[\t,:]+(\d{1,18})", line
        )
        if found is None:
            return -1 - number
        users[count], items[count], times[count] = (int(found[i]) for i in (1, 2, 4))
        stars[count] = float(found[3])
        count += 1
    return count
