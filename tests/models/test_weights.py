"""`load_weights`: every source, strictness, and what the errors advise."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgec.export.errors import EdgecError, InputError, UsageError
from edgec.models import create_model, get_spec
from edgec.models.registry import Checkpoint
from edgec.models.weights import load_weights

NAME = "edgenext_xx_small"
SPEC = get_spec(NAME)


@pytest.fixture
def network() -> nn.Module:
    return create_model(NAME)


@pytest.fixture
def state(network: nn.Module, fill: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    return fill(network.state_dict())


def equal(network: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def refused(network: nn.Module, source: object) -> EdgecError:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(EdgecError) as caught:
        load_weights(network, SPEC, str(source))
    assert equal(network, before), "a refused file must leave the network alone"
    return caught.value


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
def test_file(network: nn.Module, state: dict[str, Tensor], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net.{suffix}"
    if suffix == "pth":
        torch.save({"model_ema": state, "model": {}}, path)
    elif suffix == "npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    else:
        save_file(state, path)
    info = load_weights(network, SPEC, str(path))
    assert equal(network, state)
    assert info.kind == "file"
    assert info.source == str(path)
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (info.tag, info.verified) == (None, False)
    assert info.to_json()["note"] == info.note


def test_half_precision_is_converted(
    network: nn.Module, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({key: value.half() for key, value in state.items()}, tmp_path / "net.pth")
    info = load_weights(network, SPEC, str(tmp_path / "net.pth"))
    assert "float16" in info.note
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert equal(network, {key: value.half().float() for key, value in state.items()})


def test_timm_keys(network: nn.Module, state: dict[str, Tensor], tmp_path: Path) -> None:
    """The inverse of the renaming is written out here on its own."""
    renamed = {}
    for key, value in state.items():
        first, *rest = key.split(".")
        if first == "downsample_layers":
            key = ".".join(["stem"] if rest[0] == "0" else ["stages", rest[0], "downsample"])
            key = ".".join([key, *rest[1:]])
        elif first == "stages":
            key = ".".join(["stages", rest[0], "blocks", *rest[1:]])
            key = key.replace("dwconv", "conv_dw").replace("pwconv", "mlp.fc")
        elif first == "head":
            key = f"head.fc.{rest[0]}"
        elif first == "norm":
            key = f"head.norm.{rest[0]}"
        renamed[key] = value
    assert len(renamed) == len(state)
    assert "stages.1.blocks.1.pos_embd.token_projection.weight" in renamed
    save_file(renamed, tmp_path / "timm.safetensors")
    info = load_weights(network, SPEC, str(tmp_path / "timm.safetensors"))
    assert equal(network, state)
    assert "timm" in info.note


def test_absent_batch_counters(fill: Callable[..., dict[str, Tensor]], tmp_path: Path) -> None:
    """`num_batches_tracked` has no part in inference; files of old PyTorch versions lack it."""
    spec = get_spec("edgenext_xx_small_bn_hs")
    network = create_model(spec.name)
    state = fill(network.state_dict())
    save_file(
        {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        tmp_path / "net.safetensors",
    )
    load_weights(network, spec, str(tmp_path / "net.safetensors"))
    assert equal(network, state)


def test_mismatch_lists_keys(network: nn.Module, state: dict[str, Tensor], tmp_path: Path) -> None:
    del state["head.bias"]
    state["head.scale"] = torch.ones(3)
    state["norm.weight"] = torch.ones(7)
    save_file(state, tmp_path / "net.safetensors")
    error = refused(network, tmp_path / "net.safetensors")
    assert isinstance(error, InputError)
    assert error.code == "EC723"
    assert error.why == (
        "1 missing: head.bias; 1 unexpected: head.scale; "
        "1 of another shape: norm.weight 7 instead of 168"
    )
    assert NAME in str(error.fix)


def test_mismatch_list_is_truncated(network: nn.Module, tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "net.safetensors")
    error = refused(network, tmp_path / "net.safetensors")
    assert "160 missing: " in str(error.why)
    assert "and 155 more" in str(error.why)
    assert "no network of the zoo fits" in str(error.fix)


@pytest.mark.parametrize("other", ["edgenext_x_small", "edgenext_xx_small_bn_hs", "emov2_1m"])
def test_mismatch_names_the_right_network(network: nn.Module, tmp_path: Path, other: str) -> None:
    save_file(dict(create_model(other).state_dict()), tmp_path / "net.safetensors")
    error = refused(network, tmp_path / "net.safetensors")
    assert error.fix == f"these are weights of {other}: use --model {other}"


def test_mismatch_in_the_number_of_classes(network: nn.Module, tmp_path: Path) -> None:
    other = create_model(NAME, num_classes=10)
    save_file(dict(other.state_dict()), tmp_path / "net.safetensors")
    error = refused(network, tmp_path / "net.safetensors")
    assert f"{NAME} with 10 classes" in str(error.fix)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(
    network: nn.Module, state: dict[str, Tensor], tmp_path: Path, value: float
) -> None:
    state["stages.2.5.xca.temperature"][0] = value
    save_file(state, tmp_path / "net.safetensors")
    error = refused(network, tmp_path / "net.safetensors")
    assert error.code == "EC724"
    assert error.why == "stages.2.5.xca.temperature"


def test_random_is_seeded(network: nn.Module) -> None:
    before = torch.random.get_rng_state()
    info = load_weights(network, SPEC, "random", seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    first = {key: value.clone() for key, value in network.state_dict().items()}
    assert (info.source, info.kind, info.sha256, info.verified) == ("random", "random", None, False)
    assert "untrained" in info.note
    assert "seed 3" in info.note
    load_weights(network, SPEC, "random", seed=4)
    assert not equal(network, first)
    load_weights(network, SPEC, "random", seed=3)
    assert equal(network, first)


@pytest.mark.parametrize("name", ["edgenext_xx_small", "edgenext_xx_small_bn_hs", "emov2_1m"])
def test_random_networks_depend_on_the_image(name: str) -> None:
    """Else a comparison of outputs would pass for almost any graph."""
    spec = get_spec(name)
    network = create_model(name)
    load_weights(network, spec, "random")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *spec.input_shape, generator=generator)
    with torch.no_grad():
        logits = network(images)
    assert 0.3 < logits.std() < 10
    assert (logits[0] - logits[1]).square().mean().sqrt() > 0.02


def test_pretrained_that_does_not_exist(network: nn.Module) -> None:
    with pytest.raises(UsageError) as caught:
        load_weights(network, get_spec("emov2_50m"), "pretrained")
    assert caught.value.code == "EC221"
    with pytest.raises(UsageError, match="in22k") as caught:
        load_weights(network, SPEC, "pretrained:in22k")
    assert caught.value.code == "EC222"
    assert "in1k" in str(caught.value.fix)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """An http server on the loopback interface, and the folder it shows."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def test_url(
    network: nn.Module, state: dict[str, Tensor], site: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = site
    save_file(state, folder / "net.safetensors")
    info = load_weights(network, SPEC, f"{url}/net.safetensors", cache_dir=tmp_path / "cache")
    assert equal(network, state)
    assert (info.kind, info.source) == ("url", f"{url}/net.safetensors")
    assert info.sha256 == hashlib.sha256((folder / "net.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("hashed", [True, False])
def test_pretrained(
    network: nn.Module,
    state: dict[str, Tensor],
    site: tuple[str, Path],
    tmp_path: Path,
    hashed: bool,
) -> None:
    url, folder = site
    torch.save({"model_ema": state}, folder / "net.pth")
    sha256 = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    checkpoint = Checkpoint("best", f"{url}/net.pth", sha256 if hashed else None)
    spec = replace(SPEC, checkpoints=(Checkpoint("other", f"{url}/none.pth"), checkpoint))
    seen: list[int] = []
    info = load_weights(
        network,
        spec,
        "pretrained:best",
        cache_dir=tmp_path / "cache",
        progress=lambda done, total: seen.append(done),
    )
    assert equal(network, state)
    assert (info.kind, info.tag, info.verified) == ("pretrained", "best", hashed)
    assert (info.source, info.sha256) == (f"{url}/net.pth", sha256)
    assert seen[-1] == (folder / "net.pth").stat().st_size


def test_unreadable_download_is_not_kept(
    network: nn.Module, state: dict[str, Tensor], site: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = site
    (folder / "net.pth").write_text("<html>not found, but with status 200</html>")
    with pytest.raises(InputError):
        load_weights(network, SPEC, f"{url}/net.pth", cache_dir=tmp_path / "cache")
    torch.save(state, folder / "net.pth")
    load_weights(network, SPEC, f"{url}/net.pth", cache_dir=tmp_path / "cache")
    assert equal(network, state)


def test_other_schemes(network: nn.Module) -> None:
    assert refused(network, "ftp://example.org/net.pth").code == "EC223"


def test_checkpoints_that_come_with_the_package() -> None:
    """They load by name, without a network, and are what the registry says."""
    spec = get_spec("emov2_cifar10")
    network = create_model(spec.name)
    info = load_weights(network, spec, "pretrained")
    assert info.verified
    assert info.sha256 == spec.checkpoint().sha256
    assert spec.checkpoint().url.startswith("edgec:")
    assert all(torch.isfinite(p).all() for p in network.parameters())
