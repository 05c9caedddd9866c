"""Modules of PyTorch: the converted network has the module's values.

PyTorch is not part of the tests' extra. Without it only the tests with stand-ins run: classes
with the names and attributes that the converter reads.
"""

import numpy as np
import pytest
from scipy.signal import correlate

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz.convert import UnsupportedLayerError, as_network
from lowrank_opt.lipschitz.network import Affine

try:
    import torch
    from torch import nn
except ImportError:
    torch = nn = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed (extra torch)")


# --- stand-ins -----------------------------------------------------------------------------------


class Tensor:
    def __init__(self, values):
        self.values = np.asarray(values)

    def is_complex(self):
        return self.values.dtype.kind == "c"

    def detach(self):
        return self

    cpu = double = detach

    def numpy(self):
        return self.values


Module = type("Module", (), {"__module__": "torch.nn.modules.module"})


def stand_in(name, *children, training=False, **attributes):
    out = type(name, (Module,), {"__module__": "torch.nn.modules.some"})()
    tensors = {k: Tensor(v) if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
    vars(out).update(
        training=training, _forward_hooks={}, _forward_pre_hooks={},
        _modules={str(k): c for k, c in enumerate(children)}, **tensors,
    )  # fmt: skip
    return out


def test_a_nested_sequential_of_stand_ins():
    g = np.random.default_rng(0)
    W1, b1, W2 = g.standard_normal((5, 4)), g.standard_normal(5), g.standard_normal((5, 5))
    mean, var, w = g.standard_normal(5), g.random(5) + 0.5, g.standard_normal(5)
    relu = stand_in("ReLU")  # used twice
    norm = stand_in("BatchNorm1d", running_mean=mean, running_var=var, weight=w, bias=None,
                    eps=1e-3)  # fmt: skip
    model = stand_in(
        "Sequential", stand_in("Linear", weight=W1, bias=b1), norm, relu,
        stand_in("Sequential", stand_in("Dropout", p=0.5), stand_in("Identity"),
                 stand_in("Linear", weight=W2, bias=None), relu),
        stand_in("LeakyReLU", negative_slope=0.1),
    )  # fmt: skip
    net = as_network(model)
    X = g.standard_normal((6, 4))
    z = ((X @ W1.T + b1) - mean) / np.sqrt(var + 1e-3) * w
    expected = np.maximum(np.maximum(z, 0) @ W2.T, 0)
    np.testing.assert_allclose(net.forward(X), expected, rtol=1e-12, atol=1e-12)
    assert [type(layer) is Affine for layer in net.layers] == [True, False, True, False, False]


def test_a_convolution_of_stand_ins():
    g = np.random.default_rng(0)
    K, b, x = g.standard_normal((3, 2, 3, 3)), g.standard_normal(3), g.standard_normal((2, 6, 6))
    conv = stand_in("Conv2d", weight=K, bias=b, stride=(2, 2), padding=(1, 1), dilation=(1, 1),
                    groups=1, padding_mode="zeros")  # fmt: skip
    pool = stand_in("MaxPool2d", kernel_size=3, stride=1, padding=0, dilation=1, ceil_mode=False,
                    return_indices=False)  # fmt: skip
    model = stand_in("Sequential", conv, pool, stand_in("Flatten", start_dim=1, end_dim=-1))
    wide = np.pad(x, [(0, 0), (1, 1), (1, 1)])
    y = [sum(correlate(wide[j], K[c, j], mode="valid") for j in range(2)) for c in range(3)]
    expected = [(v[::2, ::2] + bias).max() for v, bias in zip(y, b, strict=True)]
    net = as_network(model, input_shape=(2, 6, 6))
    np.testing.assert_allclose(net.forward(x.ravel()), expected, rtol=1e-12)
    with pytest.raises(ProblemError, match=r"Conv2d \(module '0'\) needs .*input_shape"):
        as_network(model)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (stand_in("MultiheadAttention"), "MultiheadAttention .*torch.onnx.export"),
        (stand_in("Softmax"), "Softmax"),
        (stand_in("Dropout", training=True, p=0.5), "training mode.*model.eval"),
        (stand_in("BatchNorm1d", training=True), "training mode.*model.eval"),
        (stand_in("BatchNorm1d", running_mean=None, running_var=None), "track_running_stats"),
        (stand_in("GELU", approximate="tanh"), "approximate='tanh'"),
        (stand_in("Linear", weight=np.ones((3, 3)) * 1j, bias=None), "complex"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Module) else "",
)
def test_refusals_of_stand_ins(module, message):
    start = stand_in("Linear", weight=np.ones((3, 3)), bias=None)
    with pytest.raises(UnsupportedLayerError, match=message):
        as_network(stand_in("Sequential", start, module, start))


# --- PyTorch itself ------------------------------------------------------------------------------


def check(module, *shape, input_shape=None, tolerance=1e-10):
    module = module.double().eval()
    X = torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net = as_network(module, input_shape=input_shape)
    with torch.no_grad():
        expected = module(X).numpy().reshape(5, -1)
    np.testing.assert_allclose(
        net.forward(X.numpy().reshape(5, -1)), expected, rtol=tolerance, atol=tolerance
    )
    return net


@needs_torch
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.ReLU(), lambda: nn.LeakyReLU(0.2), lambda: nn.Tanh(), lambda: nn.Sigmoid(),
        lambda: nn.ELU(0.7), lambda: nn.Softplus(2.0), lambda: nn.SiLU(), lambda: nn.GELU(),
        lambda: nn.Hardtanh(), lambda: nn.Hardtanh(-0.3, 2.0), lambda: nn.ReLU6(),
        lambda: nn.Hardsigmoid(), lambda: nn.LogSigmoid(), lambda: nn.CELU(0.5),
        lambda: nn.SELU(), lambda: nn.PReLU(),
    ],
)  # fmt: skip
def test_activations(make):
    torch.manual_seed(0)
    phi = make()
    inner = nn.Sequential(nn.Dropout(), nn.Linear(5, 3, bias=False), nn.Identity())
    check(nn.Sequential(nn.Linear(6, 5), phi, inner, phi), 6)


def trained_norm(channels, d=2):
    torch.manual_seed(0)
    norm = getattr(nn, f"BatchNorm{d}d")(channels)
    norm(3.0 * torch.randn(50, channels, *[8] * d) + 1.0)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@needs_torch
def test_images():
    torch.manual_seed(0)
    net = check(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), trained_norm(4), nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding="same", groups=2), nn.SiLU(), nn.AvgPool2d(2, padding=1),
            nn.Flatten(), nn.Linear(36, 3),
        ), 2, 8, 8, input_shape=(2, 8, 8),
    )  # fmt: skip
    assert net.widths == (64, 64)
    check(
        nn.Sequential(
            trained_norm(4), nn.Conv2d(4, 2, 3), nn.MaxPool2d(2), nn.ReLU(),
            nn.AdaptiveAvgPool2d((2, None)),
            nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        ), 4, 8, 8, input_shape=(4, 8, 8),
    )  # fmt: skip


@needs_torch
@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
@pytest.mark.parametrize("counted", [True, False])
def test_paddings_and_windows_that_leave_the_input(mode, counted):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
        nn.AvgPool2d(2, 2, padding=1, ceil_mode=True, count_include_pad=counted),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode),
    )
    check(model, 2, 11, 8, input_shape=(2, 11, 8))


@needs_torch
def test_one_and_three_dimensions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 24), nn.Unflatten(1, (2, 12)), nn.Conv1d(2, 3, 3, dilation=2),
        trained_norm(3, 1), nn.AvgPool1d(3, stride=2), nn.Flatten(),
    )  # fmt: skip
    check(model, 4)
    model = nn.Sequential(nn.Conv3d(1, 2, 2), nn.MaxPool3d(2), nn.Flatten(2), nn.Conv1d(2, 2, 1))
    check(model, 1, 5, 4, 3, input_shape=(1, 5, 4, 3))


@needs_torch
def test_weights_that_are_parametrised():
    torch.manual_seed(0)
    spectral = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    check(nn.Sequential(spectral, nn.ReLU(), nn.Linear(3, 2)), 4)
    spectral.train()
    with pytest.raises(UnsupportedLayerError, match="training mode"):
        as_network(spectral)


@needs_torch
def test_types_are_exact():
    linear = nn.Linear(4, 3)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        got = as_network(linear.to(dtype)).layers[0].weight
        np.testing.assert_array_equal(got, linear.weight.detach().double().numpy())


@needs_torch
def test_subclasses_that_compute_the_same_and_others():
    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    class Other(Net):
        def forward(self, x):
            return 2.0 * super().forward(x)

    class Own(nn.Module):
        pass

    check(Net(), 3)
    with pytest.raises(UnsupportedLayerError, match="Other"):
        as_network(Other())
    with pytest.raises(UnsupportedLayerError, match=r"Own \(module '1'\).*torch.onnx.export"):
        as_network(nn.Sequential(nn.Linear(3, 3), Own()))
    hooked = Net()
    hooked[0].register_forward_hook(lambda *a: None)
    with pytest.raises(UnsupportedLayerError, match="forward hooks"):
        as_network(hooked)


@needs_torch
def test_a_softmax_at_the_end():
    model = nn.Sequential(nn.Linear(3, 4), nn.Softmax(1)).eval()
    x = torch.randn(3)
    expected = model[0](x).detach().numpy()
    np.testing.assert_allclose(as_network(model).forward(x.numpy()), expected, rtol=1e-5)
    with pytest.raises(UnsupportedLayerError, match=r"Softmax \(module '1'\)"):
        as_network(model, include_output=True)


@needs_torch
@pytest.mark.parametrize(
    ("make", "shape", "error", "message"),
    [
        (lambda: nn.ReLU(), None, ProblemError, "comes first.*input_shape"),
        (lambda: nn.ReLU6(), None, ProblemError, "comes first.*input_shape"),
        (lambda: nn.BatchNorm2d(3).eval(), None, ProblemError, "input_shape"),
        (lambda: nn.Flatten(0), (2, 3), UnsupportedLayerError, "joins the batch"),
        (lambda: nn.Linear(3, 2), (4, 3), UnsupportedLayerError, "Flatten"),
        (lambda: nn.Conv2d(3, 2, 3), (3, 8), ProblemError, "expected channels and 2"),
        (lambda: nn.Conv2d(3, 2, 3), (2, 8, 8), ProblemError, "needs 3 input channels"),
        (lambda: nn.MaxPool2d(2, return_indices=True), (2, 8, 8), UnsupportedLayerError,
         "return_indices"),
        (lambda: nn.LayerNorm(3), (3,), UnsupportedLayerError, "LayerNorm"),
        (lambda: nn.GRU(3, 3), None, UnsupportedLayerError, "GRU"),
    ],
)  # fmt: skip
def test_refusals(make, shape, error, message):
    with pytest.raises(error, match=message):
        as_network(nn.Sequential(make()), input_shape=shape)


@needs_torch
def test_prelu_with_a_slope_for_each_channel():
    prelu = nn.PReLU(2)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.5, 2.0]))
    net = as_network(nn.Sequential(nn.Conv1d(1, 2, 1), prelu), input_shape=(1, 3))
    low, high = net.layers[1].slopes(6)
    np.testing.assert_allclose(low, [0.5, 0.5, 0.5, 1, 1, 1])
    np.testing.assert_allclose(high, [1, 1, 1, 2, 2, 2])
