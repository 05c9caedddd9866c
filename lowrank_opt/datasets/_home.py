"""Where data sets are looked for and kept."""

from __future__ import annotations

import os
from pathlib import Path

from lowrank_opt.core.errors import LowRankOptError

__all__ = ["DatasetError", "data_home", "find_data"]

DATA_VARIABLE = "LOWRANK_OPT_DATA"


class DatasetError(LowRankOptError, OSError):
    """A data set cannot be had: download failed, checksum wrong, or the file is unreadable."""


def data_home(folder: str | os.PathLike[str] | None = None) -> Path:
    """Folder in which data sets are looked for and kept.

    Parameters
    ----------
    folder : str or path-like or None, default=None
        The folder; ``None`` takes the environment variable ``LOWRANK_OPT_DATA``, and without it
        ``lowrank_opt`` in the user's cache folder (``XDG_CACHE_HOME`` or ``~/.cache``).

    Returns
    -------
    pathlib.Path
        The folder; it is not created.
    """
    if folder is None:
        folder = os.environ.get(DATA_VARIABLE) or None
    if folder is None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(cache) / "lowrank_opt"
    return Path(folder).expanduser()


def find_data(name: str, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Path of a data file or folder, if it is there.

    Parameters
    ----------
    name : str
        Path below the data folder, such as ``"netlib/afiro.mps.gz"``.
    folder : str or path-like or None, default=None
        Passed to :func:`data_home`.

    Returns
    -------
    pathlib.Path or None
        ``None`` when nothing of that name exists.
    """
    path = data_home(folder) / name
    return path if path.exists() else None
