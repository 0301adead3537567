"""Trains a small network on CIFAR-10: AdamW, one-cycle cosine, EMA, label smoothing, RandAugment.

    python -m edgec.models.training.cifar10 emov2_cifar10 --data cifar10.npz --out runs/emov2

The run can be stopped at any time and goes on where it was (a state file is written after every
epoch); the best exponential moving average is kept as safetensors with a model card beside it.
The data set is not part of this project: ``--data`` is an .npz with JPEG images (`jpeg`, `offsets`,
`labels`, `is_train`).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models.factory import build
from edgec.models.registry import get_spec
from edgec.models.training.augment import augment


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters; the card of a checkpoint lists those it was trained with.

    Attributes:
        warmup: part of the run over which the learning rate rises.
        ema: decay of the moving average of the weights, which is what is evaluated and kept.
        strength: of the augmentation, see `augment`.
        init: "own" leaves the network's initialisation as it is, "scaled" see `scale_weights`.
        start: safetensors file to begin from instead of a random initialisation.
    """

    epochs: int = 40
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    ema: float = 0.998
    strength: float = 0.6
    seed: int = 0
    init: str = "scaled"
    start: str = ""


def load_data(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Decode the archive: ``{"train": (images uint8 (N, 3, 32, 32), labels), "val": …}``."""
    with np.load(path, allow_pickle=False) as archive:
        jpeg, offsets = archive["jpeg"], archive["offsets"]
        labels, is_train = archive["labels"], archive["is_train"]
    images = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(jpeg[start:stop].tobytes())).convert("RGB"))
            for start, stop in pairwise(offsets)
        ]
    )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    classes = torch.from_numpy(labels.astype(np.int64))
    train = torch.from_numpy(is_train.astype(bool))
    return {"train": (pixels[train], classes[train]), "val": (pixels[~train], classes[~train])}


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only, not for norms, biases and scales."""
    decay = [p for p in network.parameters() if p.ndim >= 2 and min(p.shape[:2]) > 1]
    known = {id(p) for p in decay}
    rest = [p for p in network.parameters() if id(p) not in known]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()
def scale_weights(network: nn.Module) -> None:
    """Draw weights with variance 1 / fan-in and set layer scales to 1, in place.

    Standard deviations of 0.02 and layer scales of 1e-6 are made for hundreds of epochs of
    ImageNet; a run of ten epochs spends half of them waking the residual branches up.
    """
    for key, parameter in network.named_parameters():
        if "gamma" in key.rpartition(".")[2]:
            parameter.fill_(1.0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.trunc_normal_(module.weight, std=fan_in**-0.5)


class Trainer:
    """One run: network, optimizer, moving average, position."""

    def __init__(self, name: str, recipe: Recipe, device: str) -> None:
        spec = get_spec(name)
        torch.manual_seed(recipe.seed)
        self.name = name
        self.recipe = recipe
        self.device = device
        self.size = spec.input_shape[1:]
        self.mean = torch.tensor(spec.preprocess.mean).view(3, 1, 1)
        self.std = torch.tensor(spec.preprocess.std).view(3, 1, 1)
        self.network = build(name).to(device)
        if recipe.init == "scaled":
            scale_weights(self.network)
        if recipe.start:
            self.network.load_state_dict(load_file(recipe.start, device=device))
        self.average = build(name).to(device)
        self.average.load_state_dict(self.network.state_dict())
        # convolutions train nearly twice as fast on a CPU with channels innermost
        for network in (self.network, self.average):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = parameter_groups(self.network, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        self.epoch = 0
        self.best = 0.0
        self.history: list[dict[str, float]] = []

    def prepare(self, images: Tensor) -> Tensor:
        """Float images in [0, 1] to normalised network input of the right size."""
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        normal = (images - self.mean) / self.std
        return normal.to(self.device, memory_format=torch.channels_last)

    def train_epoch(self, images: Tensor, labels: Tensor, deadline: float | None) -> float:
        """One pass over the training set; returns the mean loss."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1000 + self.epoch)
        order = torch.randperm(len(images), generator=generator)
        steps = len(images) // recipe.batch
        self.network.train()
        total = 0.0
        for step in range(steps):
            self._set_rate((self.epoch + step / steps) / recipe.epochs)
            batch = order[step * recipe.batch : (step + 1) * recipe.batch]
            inputs = self.prepare(
                augment(images[batch].float() / 255, generator, strength=recipe.strength)
            )
            logits = self.network(inputs)
            target = labels[batch].to(self.device)
            loss = F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
            self.optimizer.step()
            self._update_average(self.epoch * steps + step)
            total += loss.item()
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
        return total / steps

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Top-1 of the moving average in percent."""
        self.average.eval()
        right = 0
        for start in range(0, len(images), 500):
            logits = self.average(self.prepare(images[start : start + 500].float() / 255))
            right += int((logits.argmax(1).cpu() == labels[start : start + 500]).sum())
        return 100.0 * right / len(images)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "name": self.name,
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "history": self.history,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: the state belongs to another network or recipe.
        """
        if state["name"] != self.name or state["recipe"] != asdict(self.recipe):
            raise ValueError("the run in this folder has another network or recipe")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.best, self.history = state["epoch"], state["best"], state["history"]

    def _set_rate(self, progress: float) -> None:
        warmup = self.recipe.warmup
        if progress < warmup:
            factor = max(progress / warmup, 1e-3)
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * max(factor, 1e-3)

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        keep = min(self.recipe.ema, (1 + step) / (10 + step))
        current = self.network.state_dict()
        for key, value in self.average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(current[key], 1 - keep)
            else:
                value.copy_(current[key])


def card(trainer: Trainer, data_hash: str, params: int) -> str:
    """The model card: data, recipe, accuracy, size."""
    facts = {**asdict(trainer.recipe), "start": Path(trainer.recipe.start).name}
    recipe = ", ".join(f"{k} {v}" for k, v in facts.items() if v != "")
    return (
        f"# {trainer.name}\n\n"
        f"- data: CIFAR-10 (Krizhevsky 2009), 50,000 training images, JPEG-compressed; "
        f"sha256 of the archive {data_hash}\n"
        f"- validation: 5,000 images not trained on; top-1 {trainer.best:.2f} % "
        f"(moving average, best of {trainer.epoch} epochs)\n"
        f"- recipe: {recipe}; AdamW, cosine, RandAugment-like augmentation "
        f"(`models/training/cifar10.py`)\n"
        f"- parameters: {params:,}\n"
        f"- use: demonstrations and tests of edgec; not for production\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description="Train a small network on CIFAR-10.")
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--minutes", type=float, help="stop cleanly after so long; run again to go on"
    )
    for field, default in asdict(Recipe()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    options = parser.parse_args(argv)
    recipe = Recipe(**{field: getattr(options, field) for field in asdict(Recipe())})
    torch.set_flush_denormal(True)
    trainer = Trainer(options.model, recipe, options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    state_file = options.out / "state.pt"
    if state_file.is_file():
        trainer.resume(torch.load(state_file, map_location=options.device, weights_only=True))
        print(f"going on after epoch {trainer.epoch}", file=sys.stderr)
    data_hash = hashlib.sha256(options.data.read_bytes()).hexdigest()
    data = load_data(options.data)
    params = sum(p.numel() for p in trainer.network.parameters())
    deadline = time.monotonic() + options.minutes * 60 if options.minutes else None
    while trainer.epoch < recipe.epochs:
        start = time.monotonic()
        try:
            loss = trainer.train_epoch(*data["train"], deadline)
        except TimeoutError:
            print("time is up; run again to go on", file=sys.stderr)
            return 0
        trainer.epoch += 1
        top1 = trainer.accuracy(*data["val"])
        seconds = time.monotonic() - start
        trainer.history.append({"loss": loss, "top1": top1, "seconds": seconds})
        print(
            f"epoch {trainer.epoch}/{recipe.epochs}  loss {loss:.3f}  top-1 {top1:.2f} %  "
            f"{len(data['train'][0]) / seconds:.0f} images/s",
            file=sys.stderr,
            flush=True,
        )
        if top1 > trainer.best:
            trainer.best = top1
            weights = {k: v.contiguous() for k, v in trainer.average.state_dict().items()}
            save_file(weights, options.out / f"{options.model}.safetensors")
        (options.out / f"{options.model}.md").write_text(card(trainer, data_hash, params), "utf-8")
        temporary = state_file.with_suffix(".tmp")
        torch.save(trainer.state(), temporary)
        temporary.replace(state_file)
    print(json.dumps({"model": options.model, "top1": trainer.best, "epochs": trainer.epoch}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
