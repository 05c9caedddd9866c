"""as_network: lists, mappings, scikit-learn and files, against the values of the originals."""

import pickle
import warnings
from itertools import pairwise

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from scipy.special import expit, softmax
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.convert import UnsupportedLayerError, as_network
from lowrank_opt.lipschitz.convert_files import read_nnet
from lowrank_opt.lipschitz.network import Affine, FeedForward, Implicit, Residual, ResidualBlock


def weights(*sizes, seed=0):
    g = np.random.default_rng(seed)
    return [g.standard_normal((n, m)) for m, n in pairwise(sizes)]


def affine_maps(net):
    return [layer for layer in net.layers if isinstance(layer, Affine)]


# --- lists ---------------------------------------------------------------------------------------


def test_a_list_of_weights_is_evaluated_as_written():
    W1, W2, W3 = weights(4, 5, 3, 2)
    X = np.random.default_rng(1).standard_normal((7, 4))
    expected = np.maximum(np.maximum(X @ W1.T, 0) @ W2.T, 0) @ W3.T
    for obj in ([W1, W2, W3], (W1, W2, W3), [W1.tolist(), W2.tolist(), W3.tolist()]):
        np.testing.assert_allclose(as_network(obj).forward(X), expected, rtol=1e-13, atol=1e-13)


def test_activations_one_for_each_layer_and_pairs_with_biases():
    W1, W2, W3 = weights(4, 6, 3, 2)
    b1, b3 = np.arange(6.0), np.array([[1.0], [2.0]])
    X = np.random.default_rng(1).standard_normal((7, 4))
    z = X @ W1.T + b1
    expected = np.tanh(np.where(z > 0, z, 0.2 * z) @ W2.T) @ W3.T + [1.0, 2.0]
    net = as_network(
        [(W1, b1), (W2, None), [W3, b3]], activation=[Activation("leaky_relu", 0.2), "tanh"]
    )
    np.testing.assert_allclose(net.forward(X), expected, rtol=1e-13)


def test_activations_in_place():
    W1, W2, W3 = weights(4, 6, 3, 2)
    X = np.random.default_rng(1).standard_normal((7, 4))
    net = as_network([Affine(W1, np.ones(6)), "relu", W2, W3, Activation("sigmoid")])
    expected = expit(np.maximum(X @ W1.T + 1.0, 0) @ W2.T @ W3.T)
    np.testing.assert_allclose(net.forward(X), expected, rtol=1e-13)
    leading = as_network(["relu", W1], input_shape=4)
    np.testing.assert_allclose(leading.forward(X), np.maximum(X, 0) @ W1.T, rtol=1e-13)
    with pytest.raises(ProblemError, match="input_shape"):
        as_network(["relu", W1])


def test_a_pair_is_told_from_a_matrix_with_two_rows():
    assert as_network([[[1, 2], [3, 4]], [[1, 1]]]).widths == (2,)
    pair = as_network([([[1, 2], [3, 4]], [5, 6]), [[1, 1]]])
    np.testing.assert_array_equal(affine_maps(pair)[0].bias, [5.0, 6.0])


def test_sparse_stacked_and_single_weights():
    W1, W2 = weights(4, 4, 4)
    sparse = as_network([sp.csr_array(W1), sp.coo_matrix(W2)])
    assert all(sp.issparse(a.weight) for a in affine_maps(sparse))
    X = np.random.default_rng(1).standard_normal((7, 4))
    np.testing.assert_allclose(sparse.forward(X), as_network([W1, W2]).forward(X), rtol=1e-13)
    assert as_network(np.stack([W1, W2])).widths == (4,)
    for one in (W1, sp.csr_array(W1), [W1], Affine(W1)):
        np.testing.assert_allclose(as_network(one).forward(X), X @ W1.T, rtol=1e-13)


def test_types_become_float64_without_loss():
    W = (np.arange(6).reshape(2, 3) / 7).astype(np.float32)
    for value in (W, W.astype(np.float16), np.arange(6).reshape(2, 3), np.eye(2, 3) > 0):
        got = affine_maps(as_network([value]))[0].weight
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, value)


def test_weights_are_copied_and_inputs_untouched():
    W1, W2 = weights(4, 5, 2)
    W1.flags.writeable = False
    net = as_network([W1, W2])
    W2[:] = 0.0
    assert affine_maps(net)[1].weight.any()


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ([np.ones((3, 2)), np.ones((2, 4))], r"layer 1 .*\(2, 4\).* 3 values"),
        ([np.ones((3, 2)), np.ones((3, 1))], "transposed weight would fit"),
        ([np.ones((3, 2)), [[1, np.nan, 1]]], "layer 1: .*NaN"),
        ([[[np.inf, 1]], [[1]]], "layer 0: .*infinite"),
        ([np.ones((3, 2)), [[1j, 1, 1]]], "layer 1: .*complex"),
        ([np.array([["a", "b"]])], "layer 0: .*dtype"),
        ([np.array([[None, 1.0]], dtype=object)], "layer 0: .*object"),
        ([np.ones((3, 2)), np.ones((0, 3))], "layer 1: .*empty"),
        ([np.ones(3)], "layer 0: .*1 dimensions"),
        ([(np.ones((3, 2)), np.ones(2))], "layer 0: bias has 2 entries"),
        ([[[1, 2], [3]]], "layer 0: .*rectangular"),
        ([sp.csr_array(np.array([[1j]]))], "layer 0: .*complex"),
        ([], "list is empty"),
        ({}, "no arrays"),
        ({1: np.eye(2)}, "must be strings"),
        ({"W1": np.eye(2), "running_mean1": np.ones(2)}, "'running_mean1' is not understood"),
        ("relu", "'' are not read"),
        (np.float64(3.0), "one ndarray|float64 is not"),
        (3, "int is not understood"),
        (None, "NoneType is not understood"),
        ([np.ones((3, 2)), 7], "layer 1: .*0 dimensions"),
    ],
)  # fmt: skip
def test_bad_lists(obj, message):
    with pytest.raises(ProblemError, match=message):
        as_network(obj)


def test_arrays_that_do_not_become_numpy_arrays():
    class OnDevice:
        ndim = 2

        def __array__(self, dtype=None, copy=None):
            raise TypeError("no implicit conversion")

    with pytest.raises(ProblemError, match=r"layer 1: .*OnDevice.*no implicit.*numpy\(\)"):
        as_network([np.eye(2), OnDevice()])


def test_bad_activations_and_shapes():
    W = weights(4, 6, 3, 2)
    with pytest.raises(ProblemError, match="1 given for 2 hidden layers"):
        as_network(W, activation=["relu"])
    with pytest.raises(ProblemError, match="unknown kind 'rellu'"):
        as_network(W, activation="rellu")
    with pytest.raises(ProblemError, match="is not an activation"):
        as_network(W, activation=np.tanh)
    with pytest.raises(ProblemError, match=r"hidden layer 2.* multiple"):
        as_network(W, activation=["relu", "maxmin"])
    for shape in (0, (3, -1), (2.5,), (True, 2)):
        with pytest.raises(ProblemError, match="positive integers"):
            as_network(W, input_shape=shape)
    with pytest.raises(ProblemError, match="5 values come"):
        as_network(W, input_shape=5)


def test_networks_pass_through():
    W1, W2 = weights(3, 3, 3)
    block = ResidualBlock(W1)
    for net in (as_network([W1, W2]), Residual((block,)), Implicit(0.1 * W1, W2, W2)):
        assert as_network(net) is net


def test_estimators_of_this_library_give_their_network():
    class Own(MLPClassifier):
        network_ = as_network(weights(3, 2))

    own = Own()
    assert as_network(own) is own.network_
    X = np.random.default_rng(0).standard_normal((20, 3))
    pipe = make_pipeline(StandardScaler().fit(X), own)
    np.testing.assert_allclose(
        as_network(pipe).forward(X), own.network_.forward(pipe[:-1].transform(X)), atol=1e-13
    )


# --- scikit-learn --------------------------------------------------------------------------------


def data(n_classes=3, seed=0):
    g = np.random.default_rng(seed)
    X = g.standard_normal((60, 5)) * [1.0, 10.0, 0.1, 3.0, 1.0] + [0.0, 5.0, 1.0, -2.0, 0.0]
    return X, np.arange(60) % n_classes


def fitted(model, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_classifier_gives_the_values_before_the_softmax(activation):
    X, y = data()
    model = fitted(MLPClassifier((7, 4), activation=activation, max_iter=3, random_state=0), X, y)
    net = as_network(model)
    np.testing.assert_allclose(
        softmax(net.forward(X), axis=1), model.predict_proba(X), rtol=1e-10, atol=1e-13
    )
    assert net.widths == (7, 4)


def test_binary_classifier_with_and_without_its_logistic_output():
    X, y = data(2)
    model = fitted(MLPClassifier((6,), max_iter=3, random_state=0), X, y)
    p = model.predict_proba(X)[:, 1]
    plain, whole = as_network(model), as_network(model, include_output=True)
    np.testing.assert_allclose(expit(plain.forward(X)[:, 0]), p, rtol=1e-10)
    np.testing.assert_allclose(whole.forward(X)[:, 0], p, rtol=1e-10)
    assert isinstance(plain.layers[-1], Affine)
    assert whole.layers[-1].slopes(1)[1][0] == 0.25


def test_a_softmax_cannot_be_included():
    X, y = data()
    model = fitted(MLPClassifier((6,), max_iter=2, random_state=0), X, y)
    with pytest.raises(UnsupportedLayerError, match=r"softmax.*include_output=False"):
        as_network(model, include_output=True)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_regressor_in_float32(n_outputs):
    X, _ = data()
    y = X[:, :n_outputs].astype(np.float32)
    model = MLPRegressor(hidden_layer_sizes=(6, 5), max_iter=3, random_state=0)
    fitted(model, X.astype(np.float32), y.ravel() if n_outputs == 1 else y)
    assert model.coefs_[0].dtype == np.float32
    net = as_network(model, include_output=True)
    np.testing.assert_array_equal(affine_maps(net)[0].weight, model.coefs_[0].T)
    np.testing.assert_allclose(
        net.forward(X).reshape(60, -1), model.predict(X.astype(np.float32)).reshape(60, -1),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_the_exponential_of_a_poisson_regressor_is_left_out():
    pytest.importorskip("sklearn", "1.7", reason="the loss came with scikit-learn 1.7")
    X, y = data()
    model = MLPRegressor(loss="poisson", hidden_layer_sizes=(4,), max_iter=3, random_state=0)
    fitted(model, X, y)
    log_mean = as_network(model).forward(X)[:, 0]
    np.testing.assert_allclose(np.exp(log_mean), model.predict(X), rtol=1e-10)
    with pytest.raises(UnsupportedLayerError, match="'exp'"):
        as_network(model, include_output=True)


@pytest.mark.parametrize(
    "scalers",
    [
        [StandardScaler()],
        [StandardScaler(with_mean=False)],
        [StandardScaler(with_std=False)],
        [StandardScaler(with_mean=False, with_std=False)],
        [MinMaxScaler((-1, 2))],
        [MaxAbsScaler()],
        [RobustScaler()],
        [RobustScaler(with_centering=False, with_scaling=False)],
        [StandardScaler(), MinMaxScaler(), "passthrough", None],
        [PCA(3)],
        [StandardScaler(), PCA(4, whiten=True), MaxAbsScaler()],
    ],
    ids=str,
)
def test_scalers_before_a_perceptron_are_folded(scalers):
    X, y = data()
    model = make_pipeline(*scalers, MLPClassifier((6,), max_iter=3, random_state=0))
    fitted(model, X, y)
    net = as_network(model)
    p = model.predict_proba(X)
    np.testing.assert_allclose(softmax(net.forward(X), axis=1), p, rtol=1e-9, atol=1e-12)
    if not any(isinstance(s, PCA) for s in scalers):
        assert len(affine_maps(net)) == 2


def test_refusals_of_scikit_learn_models():
    X, y = data()
    with pytest.raises(ProblemError, match="MLPClassifier is not fitted; call fit"):
        as_network(MLPClassifier())
    with pytest.raises(ProblemError, match="StandardScaler is not fitted"):
        as_network(make_pipeline(StandardScaler(), MLPClassifier()))
    with pytest.raises(UnsupportedLayerError, match=r"RandomForestClassifier.*MLPClassifier"):
        as_network(RandomForestClassifier())
    model = fitted(MLPClassifier((4,), max_iter=2, random_state=0), X, y)
    clip = MinMaxScaler(clip=True).fit(X)
    with pytest.raises(UnsupportedLayerError, match=r"'minmaxscaler'.*clip=True.*pipeline\[k:\]"):
        as_network(make_pipeline(clip, model))
    with pytest.raises(UnsupportedLayerError, match="PolynomialFeatures"):
        as_network(make_pipeline(PolynomialFeatures().fit(X), model))
    model.activation = "swish"
    with pytest.raises(UnsupportedLayerError, match="'swish'"):
        as_network(model)


def test_the_error_survives_pickling():
    error = UnsupportedLayerError("a layer", "a cure")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and copy.layer == "a layer" and copy.cure == "a cure"
    assert isinstance(error, ValueError)


# --- files ---------------------------------------------------------------------------------------


W = weights(4, 5, 3, 2, seed=3)
B = [np.arange(5.0), np.arange(3.0), np.arange(2.0)]


def check(net, biases=True, relu=True):
    X = np.random.default_rng(9).standard_normal((6, 4))
    h = X
    for k, weight in enumerate(W):
        h = h @ weight.T + (B[k] if biases else 0.0)
        h = np.maximum(h, 0) if relu and k < 2 else h
    np.testing.assert_allclose(net.forward(X), h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
@pytest.mark.parametrize(
    "names",
    [("W{}", "b{}"), ("weight_{}", "bias_{}"), ("fc{}.weight", "fc{}.bias"), ("{}.W", "{}.b"),
     ("layers.{}.kernel", "layers.{}.bias")],
)  # fmt: skip
def test_numbered_names(tmp_path, suffix, names):
    # With 9, 10 and 11, an order by letters would put the first layer last.
    arrays = {names[0].format(k + 9): w for k, w in enumerate(W)}
    arrays |= {names[1].format(k + 9): b for k, b in enumerate(B)}
    if suffix == ".mat":
        arrays = {n.replace(".", "_"): a for n, a in arrays.items()}
        arrays = {n if n[0].isalpha() else f"x_{n}": a for n, a in arrays.items()}
        scipy.io.savemat(tmp_path / "net.mat", arrays)
    else:
        np.savez(tmp_path / "net.npz", **arrays)
    check(as_network(tmp_path / f"net{suffix}"))
    check(as_network(arrays))


def test_arrays_without_names(tmp_path):
    np.savez(tmp_path / "a.npz", *W)
    check(as_network(str(tmp_path / "a.npz")), biases=False)
    np.savez(tmp_path / "b.npz", *[a for pair in zip(W, B, strict=True) for a in pair])
    check(as_network(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", np.ones(3), *W)
    with pytest.raises(ProblemError, match="array 0 has one dimension"):
        as_network(tmp_path / "c.npz")


def cells(values):
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def test_cell_arrays_of_matlab(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"weights": cells(W)})
    check(as_network(tmp_path / "a.mat"), biases=False)
    scipy.io.savemat(tmp_path / "b.mat", {"weights": cells(W), "biases": cells(B)})
    check(as_network(tmp_path / "b.mat"))
    check(as_network(tmp_path / "b.mat", activation="identity"), relu=False)
    # Equal shapes: a stack instead of a cell array; a sparse weight.
    same = weights(3, 3, 3, 3)
    scipy.io.savemat(tmp_path / "c.mat", {"weights": np.stack(same), "biases": np.ones((3, 3))})
    stacked = as_network(tmp_path / "c.mat")
    for layer, expected in zip(affine_maps(stacked), same, strict=True):
        np.testing.assert_array_equal(layer.weight, expected)
        np.testing.assert_array_equal(layer.bias, np.ones(3))
    scipy.io.savemat(tmp_path / "d.mat", {"weights": cells([sp.csc_matrix(W[0]), W[1]])})
    assert sp.issparse(affine_maps(as_network(tmp_path / "d.mat"))[0].weight)
    scipy.io.savemat(tmp_path / "e.mat", {"weights": W[0]})
    assert as_network(tmp_path / "e.mat").layers[0].weight.shape == (5, 4)
    scipy.io.savemat(tmp_path / "f.mat", {"weights": cells(W), "biases": cells(B[:2])})
    with pytest.raises(ProblemError, match="3 weights and 2 biases"):
        as_network(tmp_path / "f.mat")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ProblemError, match="no file"):
        as_network(tmp_path / "missing.npz")
    (tmp_path / "x.npz").write_text("no archive")
    with pytest.raises(ProblemError, match=r"x\.npz"):
        as_network(tmp_path / "x.npz")
    np.save(tmp_path / "y.npy", W[0])
    (tmp_path / "y.npy").rename(tmp_path / "y.npz")
    with pytest.raises(ProblemError, match=r"not a \.npz archive"):
        as_network(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", weights=cells(W))
    with pytest.raises(ProblemError, match="pickle"):
        as_network(tmp_path / "z.npz")
    (tmp_path / "x.mat").write_bytes(b"no matlab file" * 20)
    with pytest.raises(ProblemError, match="not a MATLAB file"):
        as_network(tmp_path / "x.mat")
    # The header of version 7.3: the text, and 0x0200 as version.
    (tmp_path / "v.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(99))
    with pytest.raises(ProblemError, match="-v7"):
        as_network(tmp_path / "v.mat")
    with pytest.raises(ProblemError, match=r"'\.pt' are not read.*give the object"):
        as_network(tmp_path / "model.pt")
    np.savez(tmp_path / "w.npz", W1=W[0], other=W[1])
    with pytest.raises(ProblemError, match=r"'other' is not understood.*w\.npz"):
        as_network(tmp_path / "w.npz")
    with pytest.raises(ProblemError, match="two arrays are the weight of layer 1"):
        as_network({"W1": W[0], "kernel1": W[1]})
    with pytest.raises(ProblemError, match="layer 2 has a bias but no weight"):
        as_network({"W1": W[0], "b2": B[1]})


def nnet_text(means, ranges):
    lines = ["// a comment, with commas", "3, 4, 2, 5,", "4,5,3,2,", "0,"]
    lines += ["-1,-1,-1,-1,", "1,1,1,1,"]
    lines += [",".join(map(repr, map(float, v))) + "," for v in (means, ranges)]
    for w, b in zip(W, B, strict=True):
        lines += [",".join(map(repr, map(float, row))) + "," for row in w]
        lines += [f"{float(v)!r}," for v in b]
    return "\n".join(lines) + "\n"


def test_the_nnet_format(tmp_path):
    path = tmp_path / "net.nnet"
    path.write_text(nnet_text([0] * 5, [1] * 5))
    check(as_network(path))
    means, ranges = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 4.0, 0.5, 3.0, 7.0]
    path.write_text(nnet_text(means, ranges))
    X = np.random.default_rng(9).standard_normal((6, 4))
    inside = as_network(list(zip(W, B, strict=True))).forward((X - means[:4]) / ranges[:4])
    np.testing.assert_allclose(as_network(path).forward(X), 7.0 * inside + 5.0, rtol=1e-12)
    check(as_network(list(read_nnet(path, normalize=False))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:-30], "ends before|is the file complete|expected"),
        (lambda t: t.replace("4,5,3,2,", "4,5,x,2,"), "no number"),
        (lambda t: t.replace("4,5,3,2,", "4,5,3,"), "sizes of the layers has 3 entries"),
        (lambda t: t.replace("3, 4, 2, 5,", "0,"), "declares no layers"),
        (lambda t: t.replace("1.0,1.0,1.0,1.0,1.0,", "1.0,1.0,0.0,1.0,1.0,"), "range of zero"),
        (lambda t: "", "ends before the sizes"),
    ],
)
def test_bad_nnet_files(tmp_path, change, message):
    path = tmp_path / "net.nnet"
    path.write_text(change(nnet_text([0] * 5, [1] * 5)))
    with pytest.raises(ProblemError, match=message):
        as_network(path)


def test_a_feed_forward_is_what_comes_back():
    assert isinstance(as_network(W), FeedForward)
