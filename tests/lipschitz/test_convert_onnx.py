"""ONNX models: the converted network has the values of onnx's own reference evaluator."""

import sys

import numpy as np
import pytest

from lowrank_opt.core.errors import MissingDependencyError, ProblemError
from lowrank_opt.lipschitz.convert import UnsupportedLayerError, as_network
from lowrank_opt.lipschitz.network import Affine, FeedForward, Residual

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

F64 = TensorProto.DOUBLE


def drawn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def op(kind, inputs, output="y", **attributes):
    return helper.make_node(kind, inputs.split(), output.split(), name=f"n_{output}", **attributes)


def model(nodes, shape, constants=None, opset=21, output="y", domains=(), **graph_options):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", F64, shape)],
        [helper.make_tensor_value_info(o, F64, None) for o in output.split()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
        **graph_options,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets)


def check(proto, shape, tolerance=1e-10, **options):
    """Compare at random inputs, and return the network."""
    net = as_network(proto, **options)
    evaluator = ReferenceEvaluator(proto)
    for seed in range(3):
        x = 2.0 * drawn(*shape, seed=seed)
        expected = evaluator.run(None, {"x": x})[0]
        np.testing.assert_allclose(
            net.forward(x.ravel()), expected.ravel(), rtol=tolerance, atol=tolerance
        )
    return net


def affine_maps(net):
    return [layer for layer in net.layers if isinstance(layer, Affine)]


# --- chains --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "w", "c"),
    [
        ({}, (4, 3), (3,)),
        ({"transB": 1}, (3, 4), (1, 3)),
        ({"transB": 1, "alpha": 0.5, "beta": -2.0}, (3, 4), (3,)),
        ({"beta": 3.0}, (4, 3), (1,)),
        ({"alpha": 2.0}, (4, 3), None),
    ],
    ids=str,
)
def test_gemm(attributes, w, c):
    constants = {"w": drawn(*w)} | ({} if c is None else {"c": drawn(*c)})
    inputs = "x w" if c is None else "x w c"
    net = check(model([op("Gemm", inputs, **attributes)], ["n", 4], constants), (1, 4))
    assert len(net.layers) == 1


def test_gemm_of_a_transposed_input():
    nodes = [op("Transpose", "x", "t"), op("Gemm", "t w", transA=1)]
    check(model(nodes, [1, 4], {"w": drawn(4, 3)}), (1, 4))


ACTIVATIONS = [
    ("Relu", {}), ("LeakyRelu", {}), ("LeakyRelu", {"alpha": 0.3}), ("Tanh", {}), ("Sigmoid", {}),
    ("Elu", {}), ("Elu", {"alpha": 0.4}), ("Softplus", {}), ("Selu", {}), ("Selu", {"alpha": 1.2}),
    ("Celu", {"alpha": 0.6}), ("HardSigmoid", {}), ("HardSigmoid", {"alpha": 0.4, "beta": 0.1}),
    ("Gelu", {}), ("Abs", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "attributes"), ACTIVATIONS, ids=str)
def test_activations(kind, attributes):
    nodes = [
        op("MatMul", "x a", "h"), op("Add", "h b", "z"), op(kind, "z", "s", **attributes),
        op("MatMul", "s c", "t"), op("Sub", "t d", "y"),
    ]  # fmt: skip
    constants = {"a": drawn(4, 6), "b": drawn(6), "c": drawn(6, 3), "d": drawn(1, 3)}
    # Some evaluators compute their constants in float32.
    net = check(model(nodes, ["n", 4], constants), (1, 4), tolerance=1e-6)
    assert isinstance(net, FeedForward) and net.widths == (6,)


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(-1.0, 1.0, "hardtanh"), (-0.3, 2.0, "hardtanh"), (0.0, None, "relu"), (0.5, None, "relu"),
     (None, 0.7, "relu"), (0.0, 3.4e38, "relu")],
)  # fmt: skip
def test_clip(low, high, kind):
    constants = {n: np.float64(v) for n, v in (("lo", low), ("hi", high)) if v is not None}
    constants |= {"a": drawn(4, 6), "b": drawn(6, 2)}
    node = helper.make_node(
        "Clip", ["h", "lo" if low is not None else "", "hi" if high is not None else ""], ["s"]
    )
    nodes = [op("MatMul", "x a", "h"), node, op("MatMul", "s b")]
    net = check(model(nodes, ["n", 4], constants), (1, 4))
    assert net.layers[1].kind == kind


def test_prelu_with_one_slope_and_with_many():
    nodes = [op("MatMul", "x a", "h"), op("PRelu", "h s", "p"), op("MatMul", "p b")]
    constants = {"a": drawn(4, 3), "b": drawn(3, 2)}
    check(model(nodes, ["n", 4], constants | {"s": np.array([0.3])}), (1, 4))
    net = as_network(model(nodes, ["n", 4], constants | {"s": np.array([0.3, 2.0, -1.0])}))
    low, high = net.layers[1].slopes(3)
    np.testing.assert_array_equal(low, [0.3, 1.0, -1.0])
    np.testing.assert_array_equal(high, [1.0, 2.0, 1.0])


def test_silu_as_a_product():
    nodes = [
        op("MatMul", "x a", "h"), op("Sigmoid", "h", "g"), op("Mul", "h g", "s"),
        op("MatMul", "s b"),
    ]  # fmt: skip
    net = check(model(nodes, ["n", 4], {"a": drawn(4, 3), "b": drawn(3, 2)}), (1, 4))
    assert net.layers[1].kind == "silu" and len(net.layers) == 3


def test_swish_with_a_factor():
    nodes = [
        op("MatMul", "x a", "h"), op("Mul", "h c", "k"), op("Sigmoid", "k", "g"),
        op("Mul", "g h", "s"), op("MatMul", "s b"),
    ]  # fmt: skip
    constants = {"a": drawn(4, 3), "b": drawn(3, 2), "c": np.array(1.702)}
    assert check(model(nodes, ["n", 4], constants), (1, 4)).layers[1].kind == "silu"


@pytest.mark.parametrize("order", ["half last", "half first"])
def test_gelu_as_a_product(order):
    start = [op("MatMul", "x a", "h"), op("Div", "h r", "z"), op("Erf", "z", "e"),
             op("Add", "e one", "g")]  # fmt: skip
    if order == "half last":
        end = [op("Mul", "h g", "p"), op("Mul", "p half", "s")]
    else:
        end = [op("Mul", "h half", "p"), op("Mul", "p g", "s")]
    constants = {"a": drawn(4, 3), "b": drawn(3, 2), "one": 1.0, "half": 0.5,
                 "r": float(np.float32(np.sqrt(2)))}  # fmt: skip
    proto = model([*start, *end, op("MatMul", "s b")], ["n", 4], constants)
    net = check(proto, (1, 4), tolerance=1e-6)
    assert net.layers[1].kind == "gelu" and len(net.layers) == 3


def test_constants_around_an_input_of_four_dimensions():
    nodes = [
        op("Sub", "x mean", "c"), op("Div", "c size", "d"), op("Flatten", "d", "f", axis=1),
        op("MatMul", "f a", "m"), op("Add", "m b", "z"), op("Relu", "z", "s"),
        op("MatMul", "s c2", "t"), op("Neg", "t"),
    ]  # fmt: skip
    constants = {"mean": drawn(1, 1, 1, 5), "size": np.abs(drawn(1, 1, 1, 5)) + 1.0,
                 "a": drawn(5, 7), "b": drawn(7), "c2": drawn(7, 2)}  # fmt: skip
    net = check(model(nodes, [1, 1, 1, 5], constants), (1, 1, 1, 5))
    assert net.widths == (7,) and len(net.layers) == 3


def test_an_input_without_a_batch():
    nodes = [op("MatMul", "w x", "h"), op("Relu", "h", "s"), op("MatMul", "s v")]
    check(model(nodes, [4], {"w": drawn(5, 4), "v": drawn(5)}), (4,))


# --- shapes --------------------------------------------------------------------------------------


def test_operators_that_move_entries():
    nodes = [
        op("Reshape", "x to", "r"),  # (1, 2, 3, 4)
        op("Transpose", "r", "t", perm=[0, 2, 3, 1]),  # (1, 3, 4, 2)
        op("Slice", "t starts ends axes steps", "s"),  # (1, 3, 2, 2), backwards
        op("Gather", "s which", "g", axis=1),  # (1, 2, 2, 2)
        op("Unsqueeze", "g one", "u"),
        op("Squeeze", "u one", "q"),
        op("Split", "q sizes", "p1 p2", axis=3),
        op("Relu", "p1", "p3"),
        op("Concat", "p3 p2 k", "c", axis=3),
        op("Pad", "c pads value", "d"),
        op("ReduceMean", "d two", "m", keepdims=0),
        op("Flatten", "m", "f"),
        op("Mul", "f factors"),
    ]
    constants = {
        "to": np.array([0, 2, -1, 4]), "starts": np.array([3]), "ends": np.array([-5]),
        "axes": np.array([2]), "steps": np.array([-2]), "which": np.array([2, 0]),
        "one": np.array([1]), "two": np.array([2]), "sizes": np.array([1, 1]),
        "k": drawn(1, 2, 2, 1), "pads": np.array([0, 0, 0, 1, 0, 0, 0, 0]), "value": 0.75,
        "factors": drawn(8),
    }  # fmt: skip
    check(model(nodes, ["n", 24], constants), (1, 24))


def test_pads_that_mirror_and_sums_over_all():
    nodes = [op("Pad", "x pads", "d", mode="reflect"), op("Mul", "d w", "m"),
             op("ReduceSum", "m axes", "y", keepdims=1)]  # fmt: skip
    constants = {"pads": np.array([0, 2, 0, 1]), "w": drawn(8), "axes": np.array([1])}
    check(model(nodes, ["n", 5], constants), (1, 5))


def test_shapes_computed_inside_the_model():
    nodes = [
        op("Shape", "x", "s"), op("Gather", "s zero", "n"), op("Unsqueeze", "n zeros", "n1"),
        op("Concat", "n1 minus", "to", axis=0), op("Reshape", "x to", "r"),
        op("Constant", "", "c", value=numpy_helper.from_array(drawn(6, 2))),
        op("Mul", "c two", "w"), op("MatMul", "r w"),
    ]  # fmt: skip
    constants = {"zero": np.array(0), "zeros": np.array([0]), "minus": np.array([-1]), "two": 2.0}
    check(model(nodes, ["n", 2, 3], constants), (1, 2, 3))


def test_values_that_spread_over_larger_shapes():
    nodes = [op("Reshape", "x to", "c"), op("Add", "c k", "s"), op("Add", "s x", "y")]
    constants = {"to": np.array([3, 1]), "k": drawn(1, 3)}
    check(model(nodes, [1, 3], constants), (1, 3))


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 0, 1], "strides": [2, 1]},
        {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID"},
        {"group": 2},
    ],
    ids=str,
)
def test_convolutions(attributes):
    per_group = 4 // attributes.get("group", 1)
    constants = {"w": drawn(6, per_group, 3, 2), "b": drawn(6)}
    check(model([op("Conv", "x w b", **attributes)], ["n", 4, 6, 7], constants), (1, 4, 6, 7))


def test_transposed_convolutions():
    node = op("ConvTranspose", "x w b", strides=[2, 1], pads=[1, 0, 0, 1], output_padding=[1, 0])
    constants = {"w": drawn(2, 3, 3, 3), "b": drawn(3)}
    check(model([node], ["n", 2, 4, 5], constants), (1, 2, 4, 5))


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("AveragePool", {"kernel_shape": [2, 3], "strides": [2, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("MaxPool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 2]}),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
    ],
    ids=str,
)
def test_pooling(kind, attributes):
    check(model([op(kind, "x", **attributes)], ["n", 3, 6, 7]), (1, 3, 6, 7))


def test_batch_normalisation_is_folded():
    nodes = [
        op("Conv", "x w", "c"), op("BatchNormalization", "c s b m v", "n", epsilon=1e-3),
        op("Relu", "n", "r"), op("Flatten", "r", "f"), op("Gemm", "f g"),
    ]  # fmt: skip
    constants = {"w": drawn(3, 2, 2, 2), "s": drawn(3), "b": drawn(3), "m": drawn(3),
                 "v": np.abs(drawn(3)) + 0.1, "g": drawn(48, 2)}  # fmt: skip
    net = check(model(nodes, ["n", 2, 5, 5], constants), (1, 2, 5, 5))
    assert len(net.layers) == 3


def test_open_sizes_need_input_shape():
    node = op("Conv", "x w")
    proto = model([node], ["n", 2, "h", "w"], {"w": drawn(3, 2, 2, 2)})
    check(proto, (1, 2, 5, 4), input_shape=(2, 5, 4))
    with pytest.raises(ProblemError, match=r"open shape .*give input_shape"):
        as_network(proto)
    with pytest.raises(ProblemError, match=r"input_shape=\(3, 5, 4\) does not fit"):
        as_network(proto, input_shape=(3, 5, 4))
    fixed = model([op("MatMul", "x w")], [8, 3], {"w": drawn(3, 2)})
    with pytest.raises(ProblemError, match="batch of 8"):
        as_network(fixed)
    assert as_network(fixed, input_shape=3).layers[0].weight.shape == (2, 3)


# --- branches ------------------------------------------------------------------------------------


def residual_model(n_blocks, kind="Relu"):
    nodes, constants = [op("Gemm", "x first b", "h0")], {"first": drawn(6, 4), "b": drawn(4)}
    for k in range(n_blocks):
        constants |= {f"w{k}": drawn(4, 4, seed=k), f"b{k}": drawn(4, seed=k)}
        nodes += [
            op("Gemm", f"h{k} w{k} b{k}", f"z{k}"), op(kind, f"z{k}", f"s{k}"),
            op("Add", f"h{k} s{k}", f"h{k + 1}"),
        ]  # fmt: skip
    constants["last"] = drawn(4, 2)
    return model([*nodes, op("MatMul", f"h{n_blocks} last")], ["n", 6], constants), constants


@pytest.mark.parametrize("kind", ["Relu", "Tanh"])
def test_a_residual_network_keeps_its_form(kind):
    proto, constants = residual_model(3, kind)
    net = check(proto, (1, 6))
    assert isinstance(net, Residual) and len(net.blocks) == 3
    np.testing.assert_array_equal(net.first.weight, constants["first"].T)
    np.testing.assert_array_equal(net.last.weight, constants["last"].T)
    for k, block in enumerate(net.blocks):
        np.testing.assert_array_equal(block.weight, constants[f"w{k}"].T)
        np.testing.assert_array_equal(block.skip, np.eye(4))
        np.testing.assert_array_equal(block.output, np.eye(4))


def test_a_projection_beside_two_layers():
    nodes = [
        op("Gemm", "x a b", "z1"), op("Relu", "z1", "s1"), op("Gemm", "s1 c d", "z2"),
        op("Tanh", "z2", "s2"), op("MatMul", "s2 e", "u"), op("MatMul", "x p", "v"),
        op("Sub", "u v", "h"), op("Add", "h k", "h2"), op("Relu", "h2", "r"),
        op("Gemm", "r o q"),
    ]  # fmt: skip
    constants = {"a": drawn(4, 5), "b": drawn(5), "c": drawn(5, 3), "d": drawn(3),
                 "e": drawn(3, 6), "p": drawn(4, 6), "k": drawn(6), "o": drawn(6, 2),
                 "q": drawn(2)}  # fmt: skip
    net = check(model(nodes, ["n", 4], constants), (1, 4))
    assert isinstance(net, Residual) and net.widths == (5, 3, 6)


def test_equal_branches_are_one_layer():
    nodes = [
        op("MatMul", "x a", "z1"), op("Relu", "z1", "s1"), op("MatMul", "x b", "z2"),
        op("Relu", "z2", "s2"), op("Concat", "s1 s2", "c", axis=1), op("MatMul", "c d"),
    ]  # fmt: skip
    constants = {"a": drawn(4, 3), "b": drawn(4, 2), "d": drawn(5, 2)}
    net = check(model(nodes, ["n", 4], constants), (1, 4))
    assert isinstance(net, FeedForward) and net.widths == (5,)
    assert len(affine_maps(net)) == 2


def test_the_sum_of_two_linear_branches_is_one_map():
    nodes = [op("MatMul", "x a", "u"), op("MatMul", "x b", "v"), op("Sum", "u v x", "w"),
             op("Relu", "w")]  # fmt: skip
    net = check(model(nodes, ["n", 4], {"a": drawn(4, 4), "b": drawn(4, 4, seed=1)}), (1, 4))
    assert isinstance(net, FeedForward) and len(affine_maps(net)) == 1


def test_constants_behind_skips_are_carried_along():
    nodes, constants = [], {}
    for k in range(3):
        a = f"h{k}" if k else "x"
        constants |= {f"w{k}": drawn(3, 3, seed=k), f"k{k}": drawn(3, seed=k)}
        nodes += [
            op("MatMul", f"{a} w{k}", f"z{k}"), op("Relu", f"z{k}", f"s{k}"),
            op("Add", f"{a} s{k}", f"t{k}"), op("Add", f"t{k} k{k}", f"h{k + 1}"),
        ]  # fmt: skip
    net = check(model(nodes, ["n", 3], constants, output="h3"), (1, 3))
    np.testing.assert_array_equal(net.last.weight, np.eye(3))


def test_two_names_of_one_value():
    nodes = [op("MatMul", "x a", "h"), op("Identity", "h", "k"), op("Relu", "k", "r"),
             op("Add", "r h")]  # fmt: skip
    net = check(model(nodes, ["n", 4], {"a": drawn(4, 3)}), (1, 4))
    assert net.first.weight.shape == (3, 4) and len(net.blocks) == 1


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs(seed):
    g = np.random.default_rng(seed)
    names, nodes, constants = ["x"], [], {}
    for k in range(8):
        a, b = g.choice(names[-3:], 2)
        kind = g.choice(["Relu", "Tanh", "Add", "Sub", "MatMul", "Concat", "LeakyRelu"])
        out = f"v{k}"
        if kind in ("Add", "Sub"):
            nodes.append(op(kind, f"{a} {b}", out))
        elif kind == "MatMul":
            constants[f"c{k}"] = g.standard_normal((3, 3))
            nodes.append(op(kind, f"{a} c{k}", out))
        elif kind == "Concat":
            constants[f"c{k}"] = g.standard_normal((6, 3))
            nodes += [op(kind, f"{a} {b}", f"j{k}", axis=1), op("MatMul", f"j{k} c{k}", out)]
        else:
            nodes.append(op(kind, a, out))
        names.append(out)
    nodes.append(op("Sum", " ".join(names[-2:])))
    proto = model(nodes, ["n", 3], constants)
    net = check(proto, (1, 3))
    x = drawn(3, seed=seed)
    step = 1e-6
    ends = [net.forward(x + s * step * np.eye(3)) for s in (1, -1)]
    slope = (ends[0] - ends[1]).T / (2 * step)
    np.testing.assert_allclose(net.jacobian(x), slope, rtol=1e-5, atol=1e-5)


# --- formats -------------------------------------------------------------------------------------


def test_paths_and_types(tmp_path):
    w = drawn(3, 2).astype(np.float32)
    path = tmp_path / "net.onnx"
    graph = helper.make_graph(
        [op("MatMul", "x w")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), path)
    for source in (path, str(path)):
        np.testing.assert_array_equal(as_network(source).layers[0].weight, w.T)
    half = numpy_helper.from_array(w.astype(np.float16), "w")
    graph.initializer[0].CopyFrom(half)
    got = as_network(helper.make_model(graph)).layers[0].weight
    np.testing.assert_array_equal(got, w.astype(np.float16).T)
    import ml_dtypes

    brain = w.astype(ml_dtypes.bfloat16)
    graph.initializer[0].CopyFrom(numpy_helper.from_array(brain, "w"))
    got = as_network(helper.make_model(graph)).layers[0].weight
    np.testing.assert_array_equal(got, brain.astype(np.float64).T)
    path.write_bytes(b"no model")
    with pytest.raises(ProblemError, match="not an ONNX model"):
        as_network(path)
    with pytest.raises(ProblemError, match="no file"):
        as_network(tmp_path / "none.onnx")


def test_functions_of_the_model_are_inlined():
    body = helper.make_function(
        "local", "Twice", ["a"], ["b"], [op("Relu", "a", "r"), op("Add", "r r", "b")],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    node = helper.make_node("Twice", ["x"], ["y"], domain="local")
    proto = model([node], ["n", 3], domains=("local",))
    proto.functions.append(body)
    check(proto, (1, 3))


def test_nodes_that_lead_nowhere_are_ignored():
    nodes = [op("Softmax", "x", "unused"), op("MatMul", "x w")]
    check(model(nodes, ["n", 3], {"w": drawn(3, 2)}), (1, 3))


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"lowrank_opt\[onnx\]"):
        as_network(tmp_path / "net.onnx")


# --- refusals ------------------------------------------------------------------------------------

SQUARE = {"w": drawn(3, 3)}


def test_a_softmax_at_the_end_is_left_out_and_elsewhere_refused():
    end = model([op("MatMul", "x w", "h"), op("Softmax", "h")], ["n", 3], SQUARE)
    x = drawn(3)
    np.testing.assert_allclose(as_network(end).forward(x), x @ SQUARE["w"])
    with pytest.raises(UnsupportedLayerError, match=r"Softmax \(node 'n_y'\)"):
        as_network(end, include_output=True)
    hidden = model([op("Softmax", "x", "h"), op("MatMul", "h w")], ["n", 3], SQUARE)
    with pytest.raises(UnsupportedLayerError, match=r"Softmax \(node 'n_h'\).*covered are"):
        as_network(hidden)


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ([op("MatMul", "x w", "h"), op("Mul", "h x")], SQUARE, r"Mul .*sigmoid"),
        ([op("Sigmoid", "x", "g"), op("MatMul", "x w", "h"), op("Mul", "h g")], SQUARE, "Mul"),
        ([op("Sigmoid", "x", "g"), op("Add", "g k", "h"), op("Mul", "h x")], {"k": 1.0}, "Mul"),
        ([op("Erf", "x", "g"), op("Add", "g k", "h"), op("Mul", "h x")], {"k": 2.0}, "Mul"),
        ([op("Transpose", "x", "t"), op("MatMul", "t x")], {}, "attention"),
        ([op("Erf", "x")], {}, r"Erf .*outside of GELU"),
        ([op("Gelu", "x", approximate="tanh")], {}, "approximate"),
        ([op("Exp", "x")], {}, r"Exp \(node 'n_y'\)"),
        ([op("Cast", "x", to=TensorProto.INT64)], {}, "not floating"),
        ([op("Div", "w x")], {"w": drawn(3)}, "depends on the input"),
        ([op("Div", "x z")], {"z": np.zeros(3)}, "by zero"),
        ([op("Clip", "x w u")], {"w": 1.0, "u": 0.0}, "min < max"),
        ([op("Add", "x w")], {"w": np.array([1j, 1, 1])}, "complex128"),
        ([op("Dropout", "x r t")], {"r": 0.5, "t": np.array(True)}, "training mode"),
        ([helper.make_node("Relu", ["x"], ["y"], domain="other")], {}, "domain 'other'"),
        ([op("MatMul", "x w", "h"), op("Reshape", "h s", "y")],
         SQUARE | {"s": np.array([2, 3])}, "batch of one"),
        ([op("RandomNormal", "", "r", shape=[3]), op("Add", "x r")], {}, "draws numbers"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_refused_operators(nodes, constants, message):
    with pytest.raises(UnsupportedLayerError, match=message):
        as_network(model(nodes, ["n", 3], constants))


def test_refused_images():
    w = {"w": drawn(2, 2, 2, 2)}
    cases = [
        (op("Conv", "x w", pads=[-1, 0, 0, 0]), w, "negative padding"),
        (op("ConvTranspose", "x w", output_shape=[9, 9]), w, "output_shape"),
        (op("MaxPool", "x", "y i", kernel_shape=[2, 2]), {}, "indices"),
        (op("AveragePool", "x", kernel_shape=[2, 2], dilations=[2, 2]), {}, "dilations"),
        (op("BatchNormalization", "x s s s s", training_mode=1), {"s": np.ones(2)}, "training"),
        (op("InstanceNormalization", "x s s"), {"s": np.ones(2)}, "InstanceNormalization"),
        (op("Resize", "x   z"), {"z": np.array([1, 2, 4, 4])}, "Resize"),
    ]
    for node, constants, message in cases:
        with pytest.raises(UnsupportedLayerError, match=message):
            as_network(model([node], ["n", 2, 5, 5], constants))


def test_dropout_in_evaluation_mode_and_old_versions():
    check(model([op("Dropout", "x")], ["n", 3]), (1, 3))
    old = model([op("Dropout", "x", is_test=1)], ["n", 3], opset=6)
    np.testing.assert_array_equal(as_network(old).forward(np.ones(3)), np.ones(3))
    with pytest.raises(UnsupportedLayerError, match="training mode"):
        as_network(model([op("Dropout", "x")], ["n", 3], opset=6))


def test_models_that_do_not_fit():
    two = model([op("Relu", "x", "y"), op("Tanh", "x", "z")], ["n", 3], output="y z")
    with pytest.raises(ProblemError, match="2 outputs"):
        as_network(two)
    extra = model([op("Add", "x u")], ["n", 3])
    extra.graph.input.append(helper.make_tensor_value_info("u", F64, [3]))
    with pytest.raises(ProblemError, match="2 inputs"):
        as_network(extra)
    with pytest.raises(ProblemError, match="needs 'u', which nothing computes"):
        as_network(model([op("Add", "x u")], ["n", 3]))
    constant = model([op("Neg", "w")], ["n", 3], SQUARE)
    with pytest.raises(ProblemError, match="does not depend on the input"):
        as_network(constant)
    with pytest.raises(ProblemError, match="NaN"):
        as_network(model([op("MatMul", "x w")], ["n", 3], {"w": np.full((3, 2), np.nan)}))
