"""MovieLens ratings, fetched from GroupLens on request and kept in the data folder."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import zipfile
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from lowrank_opt.core.errors import MissingDependencyError, ParameterError
from lowrank_opt.datasets._home import DatasetError, data_home
from lowrank_opt.datasets._ratings import Ratings

if TYPE_CHECKING:
    from pathlib import Path

    from lowrank_opt.core.protocols import Array

__all__ = ["fetch_movielens"]

log = logging.getLogger("lowrank_opt")

BASE_URL = "https://files.grouplens.org/datasets/movielens/"
MIRROR_VARIABLE = "LOWRANK_OPT_MIRROR"
CHUNK = 1 << 24


class Archive(NamedTuple):
    """A published archive: checksum, and the member that holds the ratings."""

    sha256: str
    member: str
    header: bool
    n_ratings: int


# GroupLens publishes MD5 sums beside the archives:
#   ml-100k 0e33842e24a9c977be4e0107933c0723    ml-1m  c4d9eecfca2ab87c1945afe126590906
#   ml-10m  ce571fd55effeba0271552578f2648bd    ml-25m 6b51fb2759a8657d3bfcbfc42b592ada
# The SHA-256 sums below are those that several independent public projects pin for the files with
# these MD5 sums.
ARCHIVES = {
    "100k": Archive(
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        "ml-100k/u.data",
        False,
        100_000,
    ),
    "1m": Archive(
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        "ml-1m/ratings.dat",
        False,
        1_000_209,
    ),
    "10m": Archive(
        "813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862",
        "ml-10M100K/ratings.dat",
        False,
        10_000_054,
    ),
    "25m": Archive(
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
        "ml-25m/ratings.csv",
        True,
        25_000_095,
    ),
}


def fetch_movielens(
    name: str = "100k",
    *,
    folder: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    download: bool = True,
    timeout: float = 60.0,
) -> Ratings:
    """Load the MovieLens ratings of one of the stable releases.

    The archive is downloaded once, its SHA-256 sum checked, and kept with a parsed copy in the
    data folder; later calls read the copy. An archive that is already there is used without any
    download. Users and movies without ratings do not occur; rows and columns are numbered in the
    order of the published identifiers.

    Parameters
    ----------
    name : {"100k", "1m", "10m", "25m"}, default="100k"
        Which release: 0.1, 1, 10 or 25 million ratings (4.9, 5.9, 66, 262 MB to download).
    folder : str or path-like or None, default=None
        Data folder, see :func:`data_home`; files lie in its subfolder ``movielens``.
    base_url : str or None, default=None
        Folder URL of a mirror that holds the same archives; ``None`` takes the environment
        variable ``LOWRANK_OPT_MIRROR``, and without it GroupLens.
    download : bool, default=True
        Whether the network may be used.
    timeout : float, default=60.0
        Seconds without an answer after which the download fails, positive.

    Returns
    -------
    Ratings
        Ratings in row-major order with user and movie identifiers and timestamps.

    Raises
    ------
    ParameterError
        Unknown `name`.
    DatasetError
        The archive is not there and `download` is false, the download failed, the checksum is
        wrong, or the file cannot be parsed. Nothing partial is left behind.
    MissingDependencyError
        A download is needed and pooch is not installed (extra ``data``).

    Notes
    -----
    The data are for research, may not be redistributed, and ask for the citation [1]_. Read the
    README in the archive.

    References
    ----------
    .. [1] F. M. Harper, J. A. Konstan, "The MovieLens Datasets: History and Context", ACM
       Transactions on Interactive Intelligent Systems 5(4), 2015. :doi:`10.1145/2827872`
    """
    if name not in ARCHIVES:
        raise ParameterError(f"name is {name!r}; expected one of {', '.join(map(repr, ARCHIVES))}")
    archive = ARCHIVES[name]
    home = data_home(folder) / "movielens"
    # The name carries the checksum: a copy of another archive is never taken for this one.
    parsed = home / f"ml-{name}-{archive.sha256[:12]}.npz"
    ratings = _load(parsed)
    if ratings is not None:
        return ratings
    path = home / f"ml-{name}.zip"
    if path.exists():
        _check(path, archive.sha256)
    elif download:
        url = base_url or os.environ.get(MIRROR_VARIABLE) or BASE_URL
        _download(f"{url.rstrip('/')}/{path.name}", archive.sha256, path, timeout)
    else:
        raise DatasetError(
            f"{path} does not exist and download=False; allow the download or put the archive there"
        )
    ratings = _parse(path, archive)
    _save(parsed, ratings)
    return ratings


def _check(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DatasetError(
            f"{path} has SHA-256 {found}; expected {sha256}. Remove the file and fetch it again"
        )


def _download(url: str, sha256: str, path: Path, timeout: float) -> None:
    try:
        import pooch
    except ImportError as error:
        raise MissingDependencyError("pooch", "data", "downloading data sets") from error

    log.info("downloading %s to %s", url, path)
    # pooch reports to the terminal by itself; this library does not.
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # pooch writes to a temporary file, checks it, and moves it to its name at the end.
        pooch.retrieve(
            url,
            known_hash=f"sha256:{sha256}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(timeout=timeout),
        )
    except ValueError as error:
        raise DatasetError(
            f"{url} does not have the expected SHA-256 {sha256}; nothing was kept. Try again, or "
            "use another mirror (base_url)"
        ) from error
    except OSError as error:  # the base of all errors of requests
        raise DatasetError(f"{url} could not be downloaded: {error}") from error
    finally:
        logger.setLevel(level)


def _parse(path: Path, archive: Archive) -> Ratings:
    try:
        with zipfile.ZipFile(path) as zipped, zipped.open(archive.member) as file:
            if archive.header:
                file.readline()
            users, items, stars, times = _read(file, archive.n_ratings, str(path))
    except (zipfile.BadZipFile, KeyError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    rows, user_ids = _compact(users)
    cols, item_ids = _compact(items)
    order = np.argsort(rows.astype(np.int64) * len(item_ids) + cols)
    return Ratings(
        rows[order],
        cols[order],
        stars[order],
        (len(user_ids), len(item_ids)),
        user_ids,
        item_ids,
        times[order],
    )


def _read(file: IO[bytes], expected: int, name: str) -> list[Array]:
    """Parse a stream chunk by chunk, so that the text is never in memory as a whole."""
    from lowrank_opt.datasets.kernels import parse_ratings

    columns = [np.empty(expected, t) for t in (np.int64, np.int64, np.float32, np.int64)]
    done = 0
    rest = b""
    while True:
        text = file.read(CHUNK)
        whole = rest + text
        cut = whole.rfind(b"\n") + 1 if text else len(whole)
        whole, rest = whole[:cut], whole[cut:]
        lines = whole.count(b"\n") + 1
        if done + lines > len(columns[0]):
            columns = [np.concatenate([c, np.empty(done + lines, c.dtype)]) for c in columns]
        count = parse_ratings(np.frombuffer(whole, np.uint8), *(c[done:] for c in columns))
        if count < 0:
            raise DatasetError(
                f"{name}: line {-1 - count} after rating {done} is not of the form user, item, "
                "rating, timestamp"
            )
        done += count
        if not text:
            break
    return [c[:done] for c in columns]


def _compact(ids: Array) -> tuple[Array, Array]:
    """Zero-based numbers of the identifiers that occur, in their order; identifiers are small."""
    present = np.zeros(int(ids.max(initial=0)) + 1, dtype=bool)
    present[ids] = True
    number = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return number[ids], np.flatnonzero(present)


_FIELDS = ("rows", "cols", "values", "user_ids", "item_ids", "timestamps")


def _load(path: Path) -> Ratings | None:
    if not path.exists():
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            fields = {name: file[name] for name in _FIELDS}
            return Ratings(shape=tuple(int(v) for v in file["shape"]), **fields)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s); the archive is parsed again", path, error)
        return None


def _save(path: Path, ratings: Ratings) -> None:
    """Write the parsed copy under its name in one step; a folder that forbids it is no error."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file, shape=ratings.shape, **{name: getattr(ratings, name) for name in _FIELDS}
            )
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        log.info("%s cannot be written: %s", path, error)
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
