"""Networks of timm (github.com/huggingface/pytorch-image-models) as ``--model timm:NAME``.

timm is an optional extra; nothing else in edgec imports it. Branches that were trained apart and
can be merged exactly (RepVGG, MobileOne, RepViT, FastViT) are merged by timm's own
`reparameterize_model` before capture.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgec.export.errors import MissingToolError, UsageError
from edgec.models.preprocess import Preprocess
from edgec.models.random_init import randomize

PREFIX = "timm:"

_keep_alive: list[Any] = []


@dataclass(frozen=True)
class TimmNetwork:
    """A network of timm, ready for capture.

    Attributes:
        network: eval mode, branches merged.
        input_shape: (channels, height, width).
        preprocess: from timm's own configuration of these weights.
        weights: facts for the manifest.
        params: number of parameters after merging.
    """

    network: nn.Module
    input_shape: tuple[int, int, int]
    preprocess: Preprocess
    weights: dict[str, Any]
    params: int


def import_timm() -> Any:
    """The timm module.

    torchvision's binary wheel registers its operators only beside a CUDA build of torch; with the
    CPU build its import stops at the schema of ``nms``, which classification never calls. Declaring
    the two schemas lets the import pass; they stay without an implementation.

    Raises:
        MissingToolError: timm or torchvision is not installed, or does not load.
    """
    try:
        import timm

        return timm
    except ModuleNotFoundError as error:
        raise MissingToolError(
            "EC623",
            "timm networks need the package timm",
            why=str(error),
            fix="pip install 'edgec[timm]' (keep your torch: add torch==VERSION to the line)",
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise _does_not_load(error) from error
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep_alive.append(library)
    try:
        import timm

        return timm
    except (ImportError, RuntimeError) as error:
        raise _does_not_load(error) from error


def load(
    name: str, weights: str, *, seed: int, input_size: tuple[int, int] | None = None
) -> TimmNetwork:
    """Build a network of timm.

    Args:
        name: timm's name, with or without a tag: ``mobilenetv4_conv_small.e2400_r224_in1k``.
        weights: ``"pretrained"`` (from timm's hub), ``"random"``, or the path of a checkpoint.
        seed: of random weights.
        input_size: (height, width) instead of timm's default.

    Raises:
        MissingToolError: timm is missing, or its hub cannot be reached.
        UsageError: timm has no such network, or no weights for it.
    """
    timm = import_timm()
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4)
        raise UsageError(
            "EC225",
            f"timm {timm.__version__} has no network {name!r}",
            fix=f"did you mean {', '.join(near)}?" if near else "see timm.list_models()",
        )
    arguments: dict[str, Any] = {}
    if weights not in ("pretrained", "random"):
        arguments["checkpoint_path"] = weights
    try:
        network = timm.create_model(name, pretrained=weights == "pretrained", **arguments)
    except Exception as error:  # the hub client and timm raise types of several libraries
        if weights == "pretrained":
            raise MissingToolError(
                "EC624",
                f"timm's weights of {name} cannot be had",
                why=str(error).splitlines()[0][:200],
                fix="check the network connection, give --weights PATH, or --weights random",
            ) from error
        raise UsageError(
            "EC226",
            f"the weights do not fit timm's {name}",
            where=weights,
            why=str(error).splitlines()[0][:200],
            fix="give a checkpoint of exactly this network",
        ) from error
    if weights == "random":
        randomize(network, seed)
    network = timm.utils.reparameterize_model(network.eval(), inplace=True)
    config = timm.data.resolve_data_config({}, model=network)
    channels, height, width = config["input_size"]
    if input_size is not None:
        height, width = input_size
    return TimmNetwork(
        network,
        (channels, height, width),
        _preprocess(config, (height, width)),
        _facts(network, weights, seed),
        sum(p.numel() for p in network.parameters()),
    )


def _preprocess(config: dict[str, Any], size: tuple[int, int]) -> Preprocess:
    stretch = config.get("crop_mode") == "squash"
    return Preprocess(
        size=size,
        resize="stretch" if stretch else "shorter",
        crop=float(config["crop_pct"]),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _facts(network: nn.Module, weights: str, seed: int) -> dict[str, Any]:
    if weights == "random":
        return {"kind": "random", "source": "random", "note": f"untrained, seed {seed}"}
    config = getattr(network, "pretrained_cfg", {})
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return {
        "kind": "pretrained" if weights == "pretrained" else "file",
        "source": config.get("hf_hub_id") or config.get("url") or "timm",
        "tag": config.get("tag"),
        "licence": config.get("license"),
        "state_sha256": digest.hexdigest(),
    }


def _does_not_load(error: Exception) -> MissingToolError:
    return MissingToolError(
        "EC623",
        "timm is installed but does not load",
        why=str(error).splitlines()[0],
        fix="install a torchvision that matches your torch (torch 2.13 goes with 0.28)",
    )
