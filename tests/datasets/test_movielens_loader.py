"""The loader against archives of a dozen ratings, served on the loopback address."""

from __future__ import annotations

import hashlib
import http.server
import io
import sys
import threading
import zipfile

import numpy as np
import pytest

from lowrank_opt.core.errors import MissingDependencyError, ParameterError
from lowrank_opt.datasets import (
    DatasetError,
    _movielens,
    data_home,
    fetch_movielens,
    find_data,
    reference,
)
from lowrank_opt.datasets import kernels as compiled

RATINGS = [  # user, item, stars, time: neither sorted nor contiguous
    (7, 40, 3.0, 881250949),
    (2, 1193, 5.0, 978300760),
    (7, 2, 4.0, 881250950),
    (943, 40, 1.0, 874071805),
    (2, 40, 2.0, 978302109),
]
HALF_STARS = [(u, i, s - 0.5, t) for u, i, s, t in RATINGS]


def _text(rows, sep, header=b"", end=b"\n"):
    return header + b"".join(
        sep.join(b"%g" % v if k == 2 else b"%d" % v for k, v in enumerate(row)) + end
        for row in rows
    )


FORMS = {
    "100k": (RATINGS, b"\t", b""),
    "1m": (RATINGS, b"::", b""),
    "10m": (HALF_STARS, b"::", b""),
    "25m": (HALF_STARS, b",", b"userId,movieId,rating,timestamp\r\n"),
}


@pytest.fixture
def server(monkeypatch):
    """Serve `files`, count the requests, answer 404 for the rest."""
    files, requests = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        url = f"http://127.0.0.1:{httpd.server_port}/mirror"
        monkeypatch.setenv("LOWRANK_OPT_MIRROR", url)
        yield files, requests, url
        httpd.shutdown()
        thread.join()


def _publish(server, monkeypatch, name):
    """Put an archive of release `name` on the server and let its checksum be the right one."""
    rows, sep, header = FORMS[name]
    archive = _movielens.ARCHIVES[name]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        text = _text(rows, sep, header, b"\r\n" if header else b"\n")
        zipped.writestr(archive.member, text)
        zipped.writestr("other/README", "nothing")
    body = buffer.getvalue()
    sha256 = hashlib.sha256(body).hexdigest()
    monkeypatch.setitem(
        _movielens.ARCHIVES, name, archive._replace(sha256=sha256, n_ratings=len(rows))
    )
    server[0][f"/mirror/ml-{name}.zip"] = body
    return body


@pytest.mark.parametrize("name", list(FORMS))
def test_every_release_is_read(name, server, monkeypatch, tmp_path):
    pytest.importorskip("pooch")
    _publish(server, monkeypatch, name)
    ratings = fetch_movielens(name, folder=tmp_path)
    assert ratings.shape == (3, 3)
    np.testing.assert_array_equal(ratings.user_ids, [2, 7, 943])
    np.testing.assert_array_equal(ratings.item_ids, [2, 40, 1193])
    found = zip(
        ratings.user_ids[ratings.rows],
        ratings.item_ids[ratings.cols],
        ratings.values,
        ratings.timestamps,
        strict=True,
    )
    assert sorted(tuple(float(v) for v in row) for row in found) == sorted(
        tuple(float(v) for v in row) for row in FORMS[name][0]
    )
    assert np.all(np.diff(ratings.rows * 3 + ratings.cols) > 0)
    assert ratings.values.dtype == np.float32


def test_second_call_needs_neither_network_nor_archive(server, monkeypatch, tmp_path):
    pytest.importorskip("pooch")
    _publish(server, monkeypatch, "1m")
    first = fetch_movielens("1m", folder=tmp_path)
    (tmp_path / "movielens" / "ml-1m.zip").unlink()
    monkeypatch.setitem(sys.modules, "pooch", None)
    second = fetch_movielens("1m", folder=tmp_path, download=False)
    assert server[1] == ["/mirror/ml-1m.zip"]
    for name in ("rows", "cols", "values", "user_ids", "item_ids", "timestamps"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.shape == second.shape


def test_archive_that_is_there_is_used_and_checked(server, monkeypatch, tmp_path):
    body = _publish(server, monkeypatch, "100k")
    (tmp_path / "movielens").mkdir()
    archive = tmp_path / "movielens" / "ml-100k.zip"
    archive.write_bytes(body[:-1])
    with pytest.raises(DatasetError, match=r"ml-100k.zip has SHA-256 .* Remove the file"):
        fetch_movielens("100k", folder=tmp_path)
    archive.write_bytes(body)
    monkeypatch.setenv("LOWRANK_OPT_DATA", str(tmp_path))
    assert len(fetch_movielens("100k")) == 5
    assert server[1] == []


def test_wrong_checksum_leaves_nothing_behind(server, monkeypatch, tmp_path):
    pytest.importorskip("pooch")
    _publish(server, monkeypatch, "100k")
    server[0]["/mirror/ml-100k.zip"] += b"x"
    with pytest.raises(DatasetError, match=r"does not have the expected SHA-256 .* mirror"):
        fetch_movielens("100k", folder=tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_failed_download_says_so_and_leaves_nothing_behind(server, tmp_path):
    pytest.importorskip("pooch")
    with pytest.raises(DatasetError, match=r"ml-100k.zip could not be downloaded: 404"):
        fetch_movielens("100k", folder=tmp_path, base_url=server[2])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_no_download_without_leave(tmp_path):
    with pytest.raises(DatasetError, match="download=False; allow the download"):
        fetch_movielens("100k", folder=tmp_path, download=False)
    with pytest.raises(ParameterError, match="name is '20m'; expected one of '100k', '1m'"):
        fetch_movielens("20m", folder=tmp_path)


def test_missing_pooch_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingDependencyError, match=r"pooch: pip install \"lowrank_opt\[data\]"):
        fetch_movielens("100k", folder=tmp_path)


@pytest.mark.parametrize("damage", ["not a zip", "no member", "bad line"])
def test_damaged_archive_with_the_right_checksum(damage, server, monkeypatch, tmp_path):
    (tmp_path / "movielens").mkdir()
    path = tmp_path / "movielens" / "ml-100k.zip"
    if damage == "not a zip":
        path.write_bytes(b"plain text")
    else:
        with zipfile.ZipFile(path, "w") as zipped:
            member = "ml-100k/u.data" if damage == "bad line" else "other"
            zipped.writestr(member, b"1\t2\t3\t4\n1\t2\tx\t4\n")
    archive = _movielens.ARCHIVES["100k"]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(_movielens.ARCHIVES, "100k", archive._replace(sha256=sha256))
    message = "line 1 after rating 0 is not" if damage == "bad line" else "cannot be read"
    with pytest.raises(DatasetError, match=message):
        fetch_movielens("100k", folder=tmp_path)
    assert list(path.parent.iterdir()) == [path]


def test_damaged_copy_is_replaced(server, monkeypatch, tmp_path, caplog):
    body = _publish(server, monkeypatch, "100k")
    (tmp_path / "movielens").mkdir()
    (tmp_path / "movielens" / "ml-100k.zip").write_bytes(body)
    first = fetch_movielens("100k", folder=tmp_path)
    (copy,) = tmp_path.rglob("*.npz")
    copy.write_bytes(copy.read_bytes()[:200])
    second = fetch_movielens("100k", folder=tmp_path)
    assert "the archive is parsed again" in caplog.text
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(np.load(copy)["values"], first.values)


def test_chunk_borders_do_not_matter(server, monkeypatch, tmp_path):
    body = _publish(server, monkeypatch, "10m")
    (tmp_path / "movielens").mkdir()
    (tmp_path / "movielens" / "ml-10m.zip").write_bytes(body)
    whole = fetch_movielens("10m", folder=tmp_path)
    for chunk in (1, 7, 25):
        monkeypatch.setattr(_movielens, "CHUNK", chunk)
        (copy,) = tmp_path.rglob("*.npz")
        copy.unlink()
        parts = fetch_movielens("10m", folder=tmp_path)
        np.testing.assert_array_equal(whole.values, parts.values)
        np.testing.assert_array_equal(whole.timestamps, parts.timestamps)


def test_read_only_folder_is_no_error(server, monkeypatch, tmp_path):
    body = _publish(server, monkeypatch, "100k")
    (tmp_path / "movielens").mkdir()
    (tmp_path / "movielens" / "ml-100k.zip").write_bytes(body)

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(_movielens.tempfile, "mkstemp", refuse)
    assert len(fetch_movielens("100k", folder=tmp_path)) == 5
    assert list(tmp_path.rglob("*.npz")) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"1\t2\t3\t4",
        b"1\t2\t3\t4\n\n7::8::4.25::9\r\n",
        b"1,2,3.5,4\n,,\n5,6,0.5,999999999999\n",
        b"1,2,3,4\n1,2,3\n",
        b"1,2,3,4,5\n",
        b"1,2,3,4,\n",
        b"1,2.0,3,4\n",
        b"1,2,.5,4\n",
        b"1,2,3.,4\n",
        b"1,2,3..5,4\n",
        b"1,2,-3,4\n",
        b"1,2,3,1234567890123456789\n",
        b"a,2,3,4\n",
    ],
)
def test_kernel_agrees_with_its_reference(text):
    results = []
    for parse in (compiled.parse_ratings, reference.parse_ratings):
        columns = [np.zeros(8, t) for t in (np.int64, np.int64, np.float32, np.int64)]
        count = parse(np.frombuffer(text, np.uint8), *columns)
        results.append((count, [c[: max(count, 0)].tolist() for c in columns]))
    assert results[0] == results[1]


def test_published_releases_have_distinct_checksums():
    sums = [archive.sha256 for archive in _movielens.ARCHIVES.values()]
    assert len(set(sums)) == 4
    assert all(len(bytes.fromhex(s)) == 32 for s in sums)


def test_data_folder(monkeypatch, tmp_path):
    assert data_home(tmp_path) == tmp_path
    monkeypatch.setenv("LOWRANK_OPT_DATA", str(tmp_path))
    assert data_home() == tmp_path
    (tmp_path / "netlib").mkdir()
    assert find_data("netlib") == tmp_path / "netlib"
    assert find_data("netlib/afiro.mps.gz") is None
    monkeypatch.delenv("LOWRANK_OPT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_home() == tmp_path / "cache" / "lowrank_opt"
