"""Spanning attention against a direct reading of its definition, one window at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from edgec.models import create_model
from edgec.models.emov2 import EMOv2, SpanningAttention


def window_pixels(height: int, width: int, window: int, *, close: bool) -> list[list[int]]:
    """Flat pixel indices of every window of a map whose sides are multiples of `window`."""
    rows, columns = height // window, width // window
    windows = []
    for i, j in itertools.product(range(rows), range(columns)):
        pixels = []
        for r, c in itertools.product(range(window), range(window)):
            y = i * window + r if close else r * rows + i
            x = j * window + c if close else c * columns + j
            pixels.append(y * width + x)
        windows.append(pixels)
    return windows


def reference(attention: SpanningAttention, x: Tensor, branches: tuple[bool, ...]) -> Tensor:
    """The attention of one image (C, H, W), written with loops."""
    channels, height, width = x.shape
    window, heads = attention.window, attention.heads
    padded_h = -(-height // window) * window
    padded_w = -(-width // window) * window
    padded = torch.zeros(channels, padded_h, padded_w)
    padded[:, :height, :width] = x
    tokens = padded.flatten(1).T  # (pixels, C)
    qk_conv, v_conv = attention.qk.conv, attention.v.conv
    qk = tokens @ qk_conv.weight[:, :, 0, 0].T + qk_conv.bias
    v = attention.v.act(tokens @ v_conv.weight[:, :, 0, 0].T + v_conv.bias)
    q, k = qk[:, :channels], qk[:, channels:]
    out = torch.zeros_like(v)
    head, wide = channels // heads, v.shape[1] // heads
    for close in branches:
        for pixels in window_pixels(padded_h, padded_w, window, close=close):
            for h in range(heads):
                qh, kh = (t[pixels, h * head : (h + 1) * head] for t in (q, k))
                weights = torch.softmax(qh @ kh.T * head**-0.5, dim=-1)
                columns = slice(h * wide, (h + 1) * wide)
                out[pixels, columns] += weights @ v[pixels, columns]
    return out.T.reshape(-1, padded_h, padded_w)[:, :height, :width]


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (4, 4), (10, 7), (3, 9), (1, 1)])
@pytest.mark.parametrize("branches", ["hybrid", "remote"])
def test_spanning_attention(size: tuple[int, int], branches: str) -> None:
    torch.manual_seed(0)
    attention = SpanningAttention(12, 30, 6, 4, nn.GELU(), branches)  # type: ignore[arg-type]
    x = torch.randn(3, 12, *size)
    with torch.no_grad():
        out = attention(x)
        for image, result in zip(x, out, strict=True):
            expected = reference(attention, image, (True, False)[branches == "remote" :])
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_branches_see_different_neighbours() -> None:
    """On a 2x2 grid of windows a pixel meets its neighbour in one branch only."""
    close = window_pixels(8, 8, 4, close=True)
    remote = window_pixels(8, 8, 4, close=False)
    assert close[0][:5] == [0, 1, 2, 3, 8]
    assert remote[0][:5] == [0, 2, 4, 6, 16]
    for windows in (close, remote):
        assert sorted(itertools.chain(*windows)) == list(range(64))


def test_window_changes_the_output_but_not_the_weights() -> None:
    small, large = create_model("emov2_1m"), create_model("emov2_1m_256")
    state = small.state_dict()
    for key, value in state.items():
        if key.endswith("gamma"):
            value.fill_(1.0)
    large.load_state_dict(state)
    small.load_state_dict(state)
    x = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(small(x), large(x), atol=1e-3)


@pytest.mark.parametrize("name", ["emov2_1m", "emo_1m"])
def test_every_norm_has_the_eps_of_the_authors(name: str) -> None:
    norms = [m for m in create_model(name).modules() if hasattr(m, "eps")]
    assert {type(m) for m in norms} == {nn.BatchNorm2d, nn.LayerNorm}
    assert {m.eps for m in norms} == {1e-6}


def test_images_of_a_batch_are_independent() -> None:
    torch.manual_seed(0)
    network = EMOv2((1, 1, 2, 2), (16, 16, 32, 32), (2, 2, 2, 2), (16, 16, 16, 16)).eval()
    x = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        single = torch.cat([network(image[None]) for image in x])
        torch.testing.assert_close(network(x), single, rtol=1e-4, atol=1e-5)
