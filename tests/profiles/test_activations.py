"""Peak of live activations, against a slow simulation and against hand-made cases."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from edgec.profiles.activations import activation_peak_bytes


def graph(text: str) -> ir.Graph:
    proto = onnx.shape_inference.infer_shapes(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    )
    return ir.from_proto(proto).graph


def test_a_chain_needs_two_neighbours_at_a_time() -> None:
    chain = graph("g (float[100] x) => (float[100] y) { a = Relu(x) b = Relu(a) y = Relu(b) }")
    assert activation_peak_bytes(chain) == 2 * 400


def test_a_residual_keeps_its_source_alive() -> None:
    residual = graph(
        "g (float[100] x) => (float[100] y) { a = Relu(x) b = Relu(a) c = Relu(b) y = Add(a, c) }"
    )
    # at c = Relu(b): a (for the Add), b and c
    assert activation_peak_bytes(residual) == 3 * 400


def test_outputs_live_to_the_end_and_weights_do_not_count() -> None:
    two = graph(
        "g (float[1, 8] x) => (float[1, 4] a, float[1, 4] c) <float[8, 4] w = {0}> "
        "{ a = MatMul(x, w) b = Relu(a) c = Relu(b) }".replace("= {0}", "= {" + "0," * 31 + "0}")
    )
    assert activation_peak_bytes(two) == max(32 + 16, 16 * 3)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12))
def test_equals_a_slow_simulation(edges: list[tuple[int, int]]) -> None:
    """Random graphs of Adds; at each node every value that is still needed is summed up anew."""
    names = ["x"]
    reads: list[tuple[str, str]] = []
    lines = []
    for index, (left, right) in enumerate(edges):
        pair = (names[left % len(names)], names[right % len(names)])
        reads.append(pair)
        names.append(f"v{index}")
        lines.append(f"v{index} = Add({pair[0]}, {pair[1]})")
    last = names[-1]
    text = f"g (float[10] x) => (float[10] {last}) {{ {' '.join(lines)} }}"
    peak = 0
    for step in range(len(lines)):
        alive = {
            name
            for position, name in enumerate(names)
            if position <= step + 1
            and (name == last or position == step + 1 or any(name in pair for pair in reads[step:]))
        }
        peak = max(peak, 40 * len(alive))
    assert activation_peak_bytes(graph(text)) == max(peak, 40)
