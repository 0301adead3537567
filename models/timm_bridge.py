"""Networks of timm (github.com/huggingface/pytorch-image-models) as ``--model timm:NAME``.

timm is an optional extra; nothing else in edgec imports it. Branches that were trained apart and
can be merged exactly (RepVGG, MobileOne, RepViT, FastViT) are merged by timm's own
`reparameterize_model` before capture.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgec.export.errors import MissingToolError, UsageError
from edgec.models.features import NOTE
from edgec.models.preprocess import Preprocess
from edgec.models.random_init import randomize, settle
from edgec.models.stages import Stage, make_stages, select_stages

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
        stages: what it returns, where it is a backbone.
    """

    network: nn.Module
    input_shape: tuple[int, int, int]
    preprocess: Preprocess
    weights: dict[str, Any]
    params: int
    stages: tuple[Stage, ...] = ()


class TimmBackbone(nn.Module):
    """Some of the maps that a ``features_only`` network of timm returns, by name and in NCHW."""

    def __init__(self, network: nn.Module, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.backbone = network
        self.names = {stage.number: stage.name for stage in stages}
        self.channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
        self.eval()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps (N, C, H / stride, W / stride) of images (N, 3, H, W)."""
        maps = self.backbone(x)
        if self.channels_last:
            maps = [y.permute(0, 3, 1, 2) for y in maps]
        return {name: maps[number - 1] for number, name in self.names.items()}


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
    name: str,
    weights: str,
    *,
    seed: int,
    input_size: tuple[int, int] | None = None,
    features: Sequence[str] | None = None,
) -> TimmNetwork:
    """Build a network of timm.

    Args:
        name: timm's name, with or without a tag: ``mobilenetv4_conv_small.e2400_r224_in1k``.
        weights: ``"pretrained"`` (from timm's hub), ``"random"``, or the path of a checkpoint.
        seed: of random weights.
        input_size: (height, width) instead of timm's default.
        features: which stages to return instead of classes (`edgec.models.stages.select_stages`);
            they are counted as timm's ``features_only`` returns them, from 1.

    Raises:
        MissingToolError: timm is missing, or its hub cannot be reached.
        UsageError: timm has no such network, no weights for it, or the network no such stages.
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
    config = timm.data.resolve_data_config({}, model=network)
    channels, height, width = config["input_size"]
    if input_size is not None:
        height, width = input_size
    if weights == "random":
        randomize(network, seed)
        # capture tells better than this forward which inputs a network refuses
        with contextlib.suppress(Exception):
            settle(network.eval(), (channels, height, width), seed)
    facts = _facts(network, weights, seed)
    stages: tuple[Stage, ...] = ()
    if features is not None:
        network, found = _backbone(timm, name, network)
        stages = select_stages(found, features, network=f"timm:{name}")
        facts["note"] = "; ".join(filter(None, (facts.get("note"), NOTE)))
    network = timm.utils.reparameterize_model(network.eval(), inplace=True)
    return TimmNetwork(
        TimmBackbone(network, stages) if stages else network,
        (channels, height, width),
        _preprocess(config, (height, width)),
        facts,
        sum(p.numel() for p in network.parameters()),
        stages,
    )


def _backbone(timm: Any, name: str, network: nn.Module) -> tuple[nn.Module, tuple[Stage, ...]]:
    """timm's own ``features_only`` form of a network, with the weights of `network`."""
    try:
        # the whole network was loaded strictly; timm drops the classifier from its state here
        backbone = timm.create_model(
            name,
            features_only=True,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": network.state_dict()},
        )
        stages = make_stages(
            list(
                zip(
                    backbone.feature_info.reduction(), backbone.feature_info.channels(), strict=True
                )
            )
        )
    except Exception as error:  # networks without this form fail in many ways
        raise UsageError(
            "EC228",
            f"timm has no feature maps of {name}",
            why=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
            fix="choose a network that timm.create_model(NAME, features_only=True) accepts",
        ) from error
    return backbone, stages


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
