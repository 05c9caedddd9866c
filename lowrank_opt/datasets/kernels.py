"""Compiled loops of the data sets."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["parse_ratings"]


@njit(cache=True, error_model="numpy")
def parse_ratings(text, users, items, stars, times):
    """Parse lines of the form ``user item rating timestamp``.

    Fields are unsigned decimal numbers, separated by any run of tabs, colons or commas; the rating
    may have decimals. Lines end in LF or CR LF; empty lines are skipped.

    Parameters
    ----------
    text : ndarray of uint8
        Whole lines.
    users, items, times : ndarray of int64
        Filled from the front; as long as the number of lines at least.
    stars : ndarray of float32
        Likewise.

    Returns
    -------
    int
        Number of lines parsed, or ``-1 - i`` when line `i` (zero-based) is not of that form.
        Cost: one pass over the text.
    """
    count = 0
    line = 0
    field = 0  # the field being read
    digits = 0  # digits seen in it
    value = 0
    scale = 0  # 0 before the decimal point, then ten to the number of decimals
    user = 0
    item = 0
    rating = 0.0
    for t in range(len(text) + 1):
        c = np.uint8(10) if t == len(text) else text[t]  # the last line may lack its end
        if 48 <= c <= 57:
            value = 10 * value + (np.int64(c) - 48)
            digits += 1
            if digits > 18:  # more would overflow
                return -1 - line
            if scale > 0:
                scale *= 10
        elif c == 46:
            if field != 2 or scale > 0 or digits == 0:
                return -1 - line
            scale = 1
        elif c == 9 or c == 44 or c == 58 or c == 10:
            if digits > 0:
                if field == 0:
                    user = value
                elif field == 1:
                    item = value
                elif field == 2:
                    rating = value / max(scale, 1)
                field += 1
                if c != 10 and field > 3:
                    return -1 - line
            if c == 10:
                if field == 4:
                    users[count] = user
                    items[count] = item
                    stars[count] = rating
                    times[count] = value
                    count += 1
                elif field != 0:
                    return -1 - line
                field = 0
                line += 1
            digits = 0
            value = 0
            scale = 0
        elif c != 13:
            return -1 - line
    return count
