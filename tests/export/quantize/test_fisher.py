"""Fisher-weighted statistics: analytic weights, and a range that follows what matters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import edgec
from edgec.export.errors import InputError, UnsupportedError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.fisher import fisher_calibrate, fisher_loss
from edgec.export.quantize.histogram import HALF_BINS, Histogram


def network(weight: np.ndarray, body: str = "h = Identity(x) y = MatMul(h, w)") -> ir.Model:
    """x (1, n) times `weight` (n, m)."""
    n, m = weight.shape
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    net (float[1, {n}] x, float[{n}, {m}] w) => (float[1, {m}] y) {{ {body} }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    value = model.graph.inputs.pop()
    value.const_value = ir.tensor(weight.astype(np.float32), name="w")
    model.graph.register_initializer(value)
    return model


def test_weights_are_the_squared_gradients() -> None:
    """Two outputs are no logits: the loss is r·(x W), and E[(∂/∂x)²] is the row's squared norm."""
    weight = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    feed = {"x": np.array([[0.1, 0.4, 0.9]], np.float32)}
    found = fisher_calibrate(network(weight), [feed], tensors=["h"], draws=400)
    histogram = found.histograms["h"]
    at = np.floor(feed["x"][0] * HALF_BINS / histogram.radius).astype(int) + HALF_BINS
    share = histogram.counts[at] / histogram.counts.sum()
    np.testing.assert_allclose(share, [25 / 26, 1 / 26, 0], atol=0.02)
    assert (histogram.minimum, histogram.maximum) == pytest.approx((0.1, 0.9))


def test_outliers_that_nothing_reads_do_not_widen_the_range() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((40, 8))
    weight[0] = 0  # the outlier's channel
    x = rng.standard_normal((16, 1, 40)).astype(np.float32)
    x[:, :, 0] = 60.0
    feeds = [{"x": sample} for sample in x]
    model = network(weight)
    plain = calibrate(model, feeds, method="mse").range("h", symmetric=True, levels=255)
    weighted = fisher_calibrate(model, feeds).range("h", symmetric=True, levels=255)
    assert plain.high > 30
    assert weighted.high < 5


def test_probabilities_and_logits_have_one_loss() -> None:
    """A Softmax at the end of a network changes neither the loss nor its gradients."""
    logits = torch.linspace(-3, 4, 20).reshape(1, 4, 5)
    losses, gradients = [], []
    for last in (lambda v: v, lambda v: v.softmax(-1)):
        leaf = logits.clone().requires_grad_()
        loss = fisher_loss(last(leaf), torch.Generator().manual_seed(0))
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_equal_seeds_give_equal_statistics() -> None:
    rng = np.random.default_rng(1)
    model = network(rng.standard_normal((6, 5)))
    feeds = [{"x": rng.standard_normal((1, 6)).astype(np.float32)} for _ in range(3)]
    first, second, other = (
        fisher_calibrate(model, feeds, seed=seed).histograms["h"].counts for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_growing_keeps_the_weights() -> None:
    histogram = Histogram.weighted()
    histogram.update(np.array([0.5, 0.0], np.float32), np.array([2.0, 9.0], np.float32))
    histogram.update(np.array([70.0], np.float32), np.array([0.25], np.float32))
    assert histogram.counts.sum() == 2.25  # exact zeros cost nothing on any grid
    assert (histogram.zeros, histogram.total) == (1, 3)


def test_bad_data_and_unknown_operators_are_named() -> None:
    model = network(np.ones((2, 2)))
    with pytest.raises(InputError, match="EC760"):
        fisher_calibrate(model, [])
    with pytest.raises(InputError, match="EC762") as caught:
        fisher_calibrate(model, [{"x": np.array([[1.0, np.inf]], np.float32)}])
    assert "sample 0" in str(caught.value)
    body = "h = Hardmax(x) y = MatMul(h, w)"
    with pytest.raises(UnsupportedError, match="EC366"):
        fisher_calibrate(network(np.ones((2, 2)), body), [{"x": np.ones((1, 2), np.float32)}])


def test_export_takes_it(
    tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path: Path
) -> None:
    bundle = edgec.compile(
        str(tiny_onnx),
        target="x86",
        precision="int8",
        calib=str(image_folder),
        calib_method="fisher",
        preprocess=str(preprocess_json),
        out=str(tmp_path / "bundle"),
    )
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration["method"] == "fisher"
