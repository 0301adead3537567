"""What networks there are: one TOML of facts per family, read without torch.

A family is a module ``models/FAMILY.py`` (the network, a factory function per variant) and
``models/FAMILY.toml`` (what is known about each variant, with sources), joined by one line in
`FAMILIES`.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from edgec.export.errors import UsageError
from edgec.models.preprocess import Preprocess
from edgec.models.stages import Stage, make_stages

FAMILIES: tuple[str, ...] = (
    "edgenext",
    "efficientformer",
    "efficientformerv2",
    "emo",
    "emov2",
    "mcuformer",
    "mobileformer",
    "mobilevit",
    "mobilevitv2",
)


@dataclass(frozen=True)
class Accuracy:
    """A published accuracy: ImageNet-1k top-1 in percent unless `metric` says otherwise."""

    value: float
    source: str
    metric: str = "ImageNet-1k top-1"
    input_size: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A published weight file.

    Attributes:
        tag: name to ask for it by (``--weights pretrained:TAG``); the first one is the default.
        url: where its authors publish it.
        sha256: hash of the file, where its publisher states one.
        git_blob: object id of the file where it is published inside a Git repository, i.e. the
            SHA-1 of ``b"blob SIZE\\0"`` and the content; checked like `sha256`.
        accuracy: what its authors report for it.
        preprocess: how images are prepared for these weights, where it differs from the model's.
    """

    tag: str
    url: str
    sha256: str | None = None
    git_blob: str | None = None
    accuracy: Accuracy | None = None
    preprocess: Preprocess | None = None
    note: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """Facts about one zoo network.

    Attributes:
        name: registry name.
        family: module under `edgec.models` that defines it.
        factory: function in that module that builds it.
        arguments: keyword arguments for the factory.
        input_shape: (channels, height, width) of the default input.
        preprocess: how images become that input.
        num_classes: width of the classifier.
        params: number of parameters.
        macs: multiply-accumulates of convolutions, linears and matrix products at `input_shape`.
        weight_keys: where the authors' training checkpoints keep the weights they evaluate, in
            order of preference (a file that is a bare state dict has none of them).
        stages: what `edgec.models.features` can take from it.
        labels: file of class names in ``models/labels/``, without ``.txt``.
    """

    name: str
    family: str
    factory: str
    input_shape: tuple[int, int, int]
    preprocess: Preprocess
    params: int
    macs: int
    arguments: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 1000
    title: str = ""
    paper: str = ""
    code: str = ""
    code_licence: str = ""
    weights_licence: str = ""
    accuracy: tuple[Accuracy, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    weight_keys: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    labels: str = "imagenet-1k"
    notes: str = ""

    def checkpoint(self, tag: str | None = None) -> Checkpoint:
        """The published weights called `tag`, or the default ones.

        Raises:
            UsageError: the model has no published weights, or none of that tag.
        """
        if not self.checkpoints:
            raise UsageError(
                "EC221",
                f"no published weights are known for {self.name!r}",
                why=self.notes or None,
                fix="give a file or URL with --weights, or --weights random",
            )
        for checkpoint in self.checkpoints:
            if tag in (None, checkpoint.tag):
                return checkpoint
        raise UsageError(
            "EC222",
            f"{self.name!r} has no weights tagged {tag!r}",
            fix="tags: " + ", ".join(c.tag for c in self.checkpoints),
        )

    def preprocess_for(self, tag: str | None) -> Preprocess:
        """Preprocessing that belongs to the weights `tag`; the model's own where they say none."""
        for checkpoint in self.checkpoints:
            if checkpoint.tag == tag and checkpoint.preprocess is not None:
                return checkpoint.preprocess
        return self.preprocess

    def to_json(self) -> dict[str, Any]:
        """All facts, JSON-ready."""
        return asdict(self)


def list_models() -> list[str]:
    """Names of all zoo networks, sorted."""
    return sorted(_specs())


def get_spec(name: str) -> ModelSpec:
    """Facts about the network called `name`.

    Raises:
        UsageError: unknown name; the message lists the nearest ones.
    """
    specs = _specs()
    if name not in specs:
        near = difflib.get_close_matches(name, specs, n=4, cutoff=0.4)
        raise UsageError(
            "EC220",
            f"unknown model {name!r}",
            why="it is neither a zoo name nor an existing .onnx, .pt2 or file.py:factory",
            fix=(f"did you mean {', '.join(near)}? " if near else "")
            + "`edgec models list` shows all names",
        )
    return specs[name]


def config_spec(path: Path) -> ModelSpec:
    """Facts about the MCUFormer subnet that a JSON file describes (none are published).

    Raises:
        InputError: the file cannot be read (EC727) or describes no subnet (EC728).
    """
    from edgec.models.mcuformer_config import load_config

    config = load_config(path)
    family = get_spec("mcuformer_t_a")
    return replace(
        family,
        name=path.stem,
        title=f"MCUFormer subnet of {path.name}",
        input_shape=(3, config.img, config.img),
        preprocess=replace(family.preprocess, size=(config.img, config.img)),
        num_classes=config.num_classes,
        params=0,
        macs=0,
        stages=make_stages([(config.patch, config.embed_dim)]),
    )


@cache
def _specs() -> dict[str, ModelSpec]:
    specs: dict[str, ModelSpec] = {}
    for family in FAMILIES:
        text = resources.files("edgec.models").joinpath(f"{family}.toml").read_text("utf-8")
        data = tomllib.loads(text)
        shared = data["family"]
        for name, entry in data["models"].items():
            specs[name] = _spec(name, family, {**shared, **entry})
    return specs


def _spec(name: str, family: str, entry: dict[str, Any]) -> ModelSpec:
    entry = dict(entry)
    entry["input_shape"] = tuple(entry["input_shape"])
    base = {"size": entry["input_shape"][1:], **entry.get("preprocess", {})}
    entry["preprocess"] = Preprocess.from_json(base)
    entry["accuracy"] = tuple(Accuracy(**a) for a in entry.get("accuracy", ()))
    entry["checkpoints"] = tuple(_checkpoint(c, base) for c in entry.get("checkpoints", ()))
    entry["stages"] = make_stages(entry.get("stages", ()))
    entry["weight_keys"] = tuple(entry.get("weight_keys", ()))
    entry.setdefault("factory", name)
    return ModelSpec(name=name, family=family, **entry)


def _checkpoint(entry: dict[str, Any], preprocess: dict[str, Any]) -> Checkpoint:
    entry = dict(entry)
    if "accuracy" in entry:
        entry["accuracy"] = Accuracy(**entry["accuracy"])
    if "preprocess" in entry:
        entry["preprocess"] = Preprocess.from_json({**preprocess, **entry["preprocess"]})
    return Checkpoint(**entry)
