"""Random laws against their definitions, stored networks against the digits, a served file."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading

import numpy as np
import pytest
from scipy.io import savemat
from sklearn.neural_network import MLPClassifier

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.datasets import (
    DatasetError,
    _networks,
    fetch_maxmin_network,
    load_digits_network,
    make_eclipse_network,
    make_gaussian_network,
    make_uniform_network,
)
from lowrank_opt.datasets._train_networks import _gradients, train_maxmin

STORED = [
    *(((64, 32, 10), "relu", s) for s in range(3)),
    *(((64, 32, 32, 10), "relu", s) for s in range(3)),
    ((784, 50, 10), "relu", 0),
    ((64, 16, 10), "maxmin", 0),
    *(((64, *[32] * (d - 1), 10), "maxmin", 0) for d in (2, 5, 8, 18)),
]


def test_gaussian_law():
    weights = make_gaussian_network((4, 300, 200, 1), random_state=3)
    assert [W.shape for W in weights] == [(300, 4), (200, 300), (1, 200)]
    rng = np.random.default_rng(3)
    np.testing.assert_array_equal(weights[0], rng.standard_normal((300, 4)) / 2.0)
    assert weights[1].std() == pytest.approx(300**-0.5, rel=0.02)
    with pytest.raises(ParameterError, match="at least two positive"):
        make_gaussian_network((4,))


def test_uniform_law_is_positive():
    weights = make_uniform_network()
    assert [W.shape for W in weights] == [(10, 2), (30, 10), (20, 30), (2, 20)]
    assert all((W >= 0).all() and 0.4 < W.max() < 0.5 for W in weights)


def test_published_grid():
    """The first numbers of NumPy's legacy generator with the published seed, 7 w + 13 d."""
    weights = make_eclipse_network(2, 20)
    np.random.seed(166)  # noqa: NPY002 - as published
    norm = np.random.uniform(0.4, 1.8)  # noqa: NPY002
    first = np.random.randn(20, 4)  # noqa: NPY002
    np.testing.assert_allclose(weights[0], norm * first / np.linalg.norm(first, 2), rtol=1e-14)
    for W in make_eclipse_network(5, 20):
        assert 0.4 <= np.linalg.norm(W, 2) <= 1.8
    with pytest.raises(ParameterError, match="depth"):
        make_eclipse_network(1, 20)


@pytest.mark.parametrize(("widths", "activation", "seed"), STORED)
def test_stored_network_classifies_digits(widths, activation, seed):
    data = load_digits_network(widths, activation=activation, seed=seed)
    assert data.widths == widths
    assert data.accuracy > 0.93
    assert data.network.n_inputs == widths[0]
    assert len(data.X_test) == 360


def test_stored_relu_network_is_that_of_scikit_learn():
    """Outputs agree with scikit-learn's own forward pass of the same weights."""
    data = load_digits_network()
    X, y = data.X_test, data.y_test
    model = MLPClassifier((32,), max_iter=1, random_state=0)
    with pytest.warns(match="iteration"):
        model.fit(X, y)
    model.coefs_ = [W.T for W in data.weights]
    model.intercepts_ = list(data.biases)
    p = np.exp(data.network.forward(X))
    np.testing.assert_allclose(model.predict_proba(X), p / p.sum(axis=1, keepdims=True), rtol=1e-9)
    assert data.accuracy == model.score(X, y)


def test_unknown_network_lists_the_known():
    with pytest.raises(ParameterError, match=r"relu/784-50-10/0"):
        load_digits_network((64, 31, 10))


def test_gradients_of_maxmin_training_by_differences():
    rng = np.random.default_rng(0)
    sizes = [(6, 5), (4, 6), (3, 4)]
    weights = [rng.standard_normal(s) for s in sizes]
    biases = [rng.standard_normal(m) for m, _ in sizes]
    X, labels = rng.standard_normal((7, 5)), np.eye(3)[rng.integers(0, 3, 7)]

    def loss():
        h = X
        for k, (W, b) in enumerate(zip(weights, biases, strict=True)):
            h = h @ W.T + b
            if k < 2:
                h = np.sort(h.reshape(7, -1, 2), axis=2).reshape(h.shape)
        return -np.mean(np.sum(labels * (h - np.log(np.exp(h).sum(axis=1))[:, None]), axis=1))

    for p, g in zip(weights + biases, _gradients(weights, biases, X, labels), strict=True):
        for index in [(0,) * p.ndim, (-1,) * p.ndim]:
            old, values = p[index], []
            for step in (1e-6, -1e-6):
                p[index] = old + step
                values.append(loss())
            p[index] = old
            assert g[index] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_maxmin_training_learns():
    weights, biases = train_maxmin((64, 16, 10), 0, epochs=20)
    data = _networks.NetworkData(
        tuple(weights), tuple(biases), "maxmin", "a few epochs", *_networks.digits(8, 0)[1::2]
    )
    assert data.accuracy > 0.9


# -- published weights ----------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch):
    """Serve a file of the published form, with two small matrices."""
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((4, 6)), rng.standard_normal((3, 4))]
    cells = np.empty((1, 2), dtype=object)
    cells[0, :] = matrices
    buffer = io.BytesIO()
    savemat(buffer, {"W": cells})
    body, requests = buffer.getvalue(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            found = self.path == "/w/weights_l2_2fc_16.mat"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body) if found else 0))
            self.end_headers()
            self.wfile.write(body if found else b"")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        yield matrices, body, requests, f"http://127.0.0.1:{httpd.server_port}/w/"
        httpd.shutdown()
        thread.join()


def test_fetched_once_and_checked(published, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    matrices, body, requests, url = published
    with pytest.raises(DatasetError, match="SHA-256"):
        fetch_maxmin_network(folder=tmp_path, base_url=url)
    monkeypatch.setitem(_networks.MAXMIN_SHA256, (2, 16), hashlib.sha256(body).hexdigest())
    for _ in range(2):
        data = fetch_maxmin_network(folder=tmp_path, base_url=url)
    assert len(requests) == 2
    for W, expected in zip(data.weights, matrices, strict=True):
        np.testing.assert_array_equal(W, expected)
    assert data.accuracy is None
    with pytest.raises(DatasetError, match="could not be downloaded"):
        fetch_maxmin_network(2, 32, folder=tmp_path, base_url=url)


def test_fetch_refuses(tmp_path):
    with pytest.raises(ParameterError, match=r"\(18, 128\)"):
        fetch_maxmin_network(3, 16)
    with pytest.raises(DatasetError, match="download=False"):
        fetch_maxmin_network(folder=tmp_path, download=False)
