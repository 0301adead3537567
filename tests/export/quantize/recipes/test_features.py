"""Features of graphs whose numbers are known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.export.quantize.recipes.features import graph_features


def test_the_layers_of_a_hybrid(hybrid) -> None:
    assert graph_features(hybrid).layers == 6


@pytest.mark.parametrize(
    ("dense", "deep", "worst"), [(3.0, 40.0, "depthwise"), (9.0, 2.0, "dense")]
)
def test_the_spread_of_channels_is_that_of_the_weights(build, node, dense, deep, worst) -> None:
    def weight(shape: tuple[int, ...], outlier: float) -> np.ndarray:
        array = np.ones(shape, np.float32)
        array[0] *= outlier
        array[1] = 0  # a dead channel has no range
        return array

    constants = {"w0": weight((8, 3, 1, 1), dense), "w1": weight((8, 1, 3, 3), deep)}
    nodes = [
        node("Conv", ["x", "w0"], ["a"]),
        node("Conv", ["a", "w1"], ["y"], group=8),
    ]
    model = build(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 8, 6, 6]}, constants)
    found = graph_features(model)
    assert found.worst == worst
    assert found.worst_spread == max(dense, deep)
    assert found.spread == (dense + deep) / 2


def test_a_graph_without_layers_has_no_spread(build, node) -> None:
    found = graph_features(build([node("Relu", ["x"], ["y"])], {"x": [1, 3]}, {"y": [1, 3]}, {}))
    assert (found.layers, found.spread, found.worst_spread) == (0, 1.0, 1.0)
