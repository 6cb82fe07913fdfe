"""Fine-tune an embedder for retrieval. What is in the folder of a run is enough to go on with it after any end.

checkpoint.pt      where it stands: weights, optimiser, random numbers, figures
model.safetensors  the best model so far, as `file:` serves it
card.json          what it was made of, and its figures; the same is in the model's header
curves.png         and `events`, what TensorBoard reads
"""

import copy
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tensorboardX import SummaryWriter

from vitrail.client import FileError, InvalidArgument, VitrailError
from vitrail.client.progress import bar
from vitrail.rpc.process import keep_memory
from vitrail.server.embedders import exported
from vitrail.server.embedders.exportable import exportable
from vitrail.server.embedders.network import CPU, devices
from vitrail.server.embedders.torch_embedder import TorchEmbedder
from vitrail.training import checkpoints, losses
from vitrail.training.augmentation import Augmentation
from vitrail.training.cores import Cores
from vitrail.training.curves import Epoch, picture
from vitrail.training.data import Data
from vitrail.training.distilling import Objective, Teacher
from vitrail.training.loading import Augmented, Batch, Plan, load
from vitrail.training.model import Model
from vitrail.training.photos import Photo, Photos
from vitrail.training.ranking import evaluate
from vitrail.training.replacing import replacing
from vitrail.training.settings import Settings
from vitrail.training.vectors import Vectors, embed

CHECKPOINT, MODEL, CARD, CURVES, EVENTS = "checkpoint.pt", "model.safetensors", "card.json", "curves.png", "events"
CHECKPOINT_SECONDS = 60.0


class Diverged(VitrailError):
    """The loss is no number any more."""


class Trained(NamedTuple):
    """What a run came to."""

    model: Path
    start: Epoch
    """The model before it was trained."""
    best: Epoch
    """The one that was exported."""
    epochs: Sequence[Epoch]
    failed: Sequence[FileError]
    """Photos that cannot be read."""


@dataclass
class _Figures:
    """Of a run, and of its epoch so far."""

    epochs: list[Epoch] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    photos: int = 0
    seconds: float = 0.0

    @property
    def best(self) -> Epoch:
        """The earliest of equals."""
        return max(self.epochs, key=lambda epoch: (epoch.mean_average_precision, -epoch.epoch))

    def end_epoch(self, rate: float, precisions: tuple[float, float]) -> Epoch:
        loss = float(np.mean(self.losses)) if self.losses else None
        epoch = Epoch(len(self.epochs), loss, rate, *precisions, self.seconds, self.photos)
        self.epochs.append(epoch)
        self.losses, self.photos, self.seconds = [], 0, 0.0
        return epoch


def fine_tune(
    photos: Photos,
    settings: Settings,
    out: Path,
    *,
    workers: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    progress: bool = False,
    told: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Train on the photos of the train split, choose by those of the validation split, and export the best.

    Args:
        photos: Labelled, and split.
        settings: Of the run.
        out: Its folder. A run that is there already, of the same photos and settings, goes on where it was.
        workers: Processes that decode and augment; what the machine has cores for if not given.
        checkpoint_seconds: At most so much work is lost when the process is killed.
        progress: Whether to draw bars.
        told: Called with each epoch that ends, and with the model before the first one.

    Raises:
        InvalidArgument: Nothing can be learned from these photos, or the folder holds another run.
        NoSuchEmbedder: There is none, or no file can hold it.
        Diverged: The loss is no number any more; names the photos.
        OSError: The folder cannot be written; the last checkpoint is kept.
    """
    keep_memory()
    run = Run(Data.of(photos), settings, out, checkpoint_seconds)
    run.go(default_workers() if workers is None else workers, progress, told)
    return run.finish()


def default_workers() -> int:
    """On a CPU the model needs most of the cores itself."""
    cores = os.cpu_count() or 1
    return cores if devices()[0] != CPU else max(1, cores // 4)


class Run:
    """One run: where it starts, or stands."""

    def __init__(self, data: Data, settings: Settings, out: Path, checkpoint_seconds: float) -> None:
        """Build the model, or bring it to where the folder's run stands.

        Raises:
            InvalidArgument: The folder holds another run.
        """
        torch.manual_seed(settings.seed)
        self._data, self._settings, self._out = data, settings, out
        self._checkpoint_seconds = checkpoint_seconds
        self._device = devices()[0]
        self._threads = os.cpu_count() or 1
        self.model = Model(exportable(settings.embedder), settings.freeze).to(self._device)
        self._parts = self.model.exported()
        self._numbers = {label: number for number, label in enumerate(data.classes)}
        self._half = _half(settings, self._device)
        self._loss = self._objective().to(self._device)
        self.plan = Plan(
            [self._numbers[photo.label] for photo in data.train.all],
            settings.batch,
            settings.per_class if settings.loss in losses.OF_PAIRS else 1,
            settings.seed,
        )
        self._optimizer = _optimizer(self.model, self._loss, settings)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)
        self._cores = Cores(self.model, settings.batch, self._threads, self._half)
        self._scaler = torch.amp.GradScaler(self._device, enabled=self._half is torch.float16)
        self._figures = _Figures()
        self.step = 0
        out.mkdir(parents=True, exist_ok=True)
        self._resume()

    def go(self, workers: int, progress: bool, told: Callable[[Epoch], None]) -> None:
        """Train until it is over."""
        self._saved = time.monotonic()
        batches = load(self.augmented(), self.plan.after(self.step, self._settings.epochs), workers)
        with SummaryWriter(str(self._out / EVENTS), purge_step=self.step) as events:
            if not self._figures.epochs:
                self._begin_loss()
                self._end_epoch(events, told)
            while not self.is_over:
                self._epoch(batches, events, progress)
                self._end_epoch(events, told)

    @property
    def is_over(self) -> bool:
        """All epochs are done, or the last ones were no better."""
        done, best = self._figures.epochs[-1].epoch, self._figures.best.epoch
        return done == self._settings.epochs or done - best >= self._settings.patience

    def finish(self) -> Trained:
        """Write the card of the whole run, and into the best model, too."""
        path = self._out / MODEL
        best = exported.read(path)
        if json.loads((self._out / CARD).read_text()) != self._card(best):
            self._export(best)
        figures = self._figures
        failed = [FileError(path, why) for path, why in sorted(figures.failed.items())]
        return Trained(path, figures.epochs[0], figures.best, figures.epochs, failed)

    def augmented(self) -> Augmented:
        """What batches are made of."""
        recipe = self._parts.header.preprocessing
        train = self._data.train
        return Augmented(train.source, train.all, recipe, Augmentation(recipe, self._settings))

    def begin(self) -> None:
        """Have the model learn from now on, from what it is."""
        self._cores.train()

    def learn(self, batch: Batch) -> float:
        """One step; returns the loss.

        Raises:
            Diverged: It is no number.
        """
        targets = torch.tensor([self._numbers[photo.label] for photo in batch.photos], device=self._device)
        pixels = batch.pixels.to(self._device, non_blocking=True)
        parts = self._cores.forward(pixels)
        vectors = torch.cat([part.detach() for part in parts]).requires_grad_()
        loss = self._loss(vectors, targets, pixels)
        found = float(loss.item())
        if not math.isfinite(found):
            raise Diverged(_diverged(found, self.step, batch.photos))
        self._scaler.scale(loss).backward()
        assert vectors.grad is not None
        self._cores.backward(parts, vectors.grad)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self._schedule.step()
        return found

    def _epoch(self, batches: Iterator[Batch], events: SummaryWriter, progress: bool) -> None:
        """What is left of one."""
        figures = self._figures
        number = len(figures.epochs) - 1
        done = self.step - number * self.plan.steps
        self.begin()
        with bar(f"epoch {number + 1}", self.plan.steps * self._settings.batch, progress) as show:
            for _ in range(done, self.plan.steps):
                start = time.monotonic()
                batch = next(batches)
                figures.failed |= {each.path: each.message for each in batch.failed}
                if batch.photos:
                    figures.losses.append(self.learn(batch))
                    events.add_scalar("loss", figures.losses[-1], self.step)
                self.step += 1
                figures.photos += len(batch.photos)
                figures.seconds += time.monotonic() - start
                show((self.step - number * self.plan.steps) * self._settings.batch)
                if time.monotonic() - self._saved >= self._checkpoint_seconds:
                    self._save()

    def _begin_loss(self) -> None:
        """From what the model sees in the photos before it learns from them; those of pairs learn nothing."""
        if self._settings.loss in losses.OF_PAIRS:
            return
        found = self._embedded(self._data.train)
        if not found.photos:
            path, why = found.failed[0].path, found.failed[0].message
            raise InvalidArgument(f"no photo of the train split can be read; {path}: {why}", field="photos")
        numbers = np.array([self._numbers[photo.label] for photo in found.photos], np.int64)
        losses.begin(self._loss.labels, found.vectors, numbers)

    def _end_epoch(self, events: SummaryWriter, told: Callable[[Epoch], None]) -> None:
        epoch = self._figures.end_epoch(float(self._schedule.get_last_lr()[0]), self._validate())
        events.add_scalar("rate", epoch.rate, self.step)
        events.add_scalar("validation/mAP", epoch.mean_average_precision, self.step)
        events.add_scalar("validation/P@10", epoch.precision_at_10, self.step)
        events.flush()
        with replacing(self._out / CURVES) as partial:
            partial.write_bytes(picture(self._figures.epochs))
        if self._figures.best is epoch:
            self._export(self.model.exported())
        self._save()
        told(epoch)

    def _validate(self) -> tuple[float, float]:
        """The mean AP and P@10 of the validation split, each of its photos searching the others."""
        found = self._embedded(self._data.validation)
        measures = evaluate(found, found).measures
        return measures.mean("AP"), measures.mean("P@10")

    def _embedded(self, photos: Photos) -> Vectors:
        """By the model as it is now."""
        found = embed(self._embedder(self.model.exported()), photos)
        self._figures.failed |= {each.path: each.message for each in found.failed}
        return found

    def _embedder(self, parts: exported.Exported) -> TorchEmbedder:
        """What a server would make of them, from a copy."""
        header, backbone, projection = copy.deepcopy(parts)
        return TorchEmbedder(
            self._settings.embedder,
            backbone,
            pooling=header.pooling,
            preprocessing=header.preprocessing,
            projection=projection,
            threads=self._threads,
            precision="full",
        )

    def _objective(self) -> Objective:
        settings, dimension = self._settings, self._dimension()
        labels = losses.make(settings.loss, len(self._data.classes), dimension)
        if not settings.teacher:
            return Objective(labels)
        parts = exportable(settings.teacher)
        model = Model(parts).eval().requires_grad_(False).to(self._device)
        cores = Cores(model, settings.batch, self._threads, self._half)
        return Objective(labels, Teacher(cores, parts.header.preprocessing.crop, dimension, self._device))

    def _dimension(self) -> int:
        side = self._parts.header.preprocessing.crop
        with torch.inference_mode():
            pixels = torch.zeros((1, side, side, 3), dtype=torch.uint8, device=self._device)
            return int(self.model.eval()(pixels).shape[1])

    def _rate(self, step: int) -> float:
        """The share of the highest learning rate: a line up, then a cosine down."""
        warm_up, end = self._settings.warm_up * self.plan.steps, self._settings.epochs * self.plan.steps
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1.0, end - warm_up)))

    def _of(self) -> str:
        """What a checkpoint belongs to."""
        return json.dumps({"settings": self._settings.model_dump(), "table": self._data.table})

    def _save(self) -> None:
        figures = self._figures
        state = {
            "of": self._of(),
            "step": self.step,
            "model": self.model.state_dict(),
            "loss": self._loss.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self._device != CPU else [],
            "epochs": [list(epoch) for epoch in figures.epochs],
            "figures": [figures.failed, figures.losses, figures.photos, figures.seconds],
        }
        checkpoints.write(self._out / CHECKPOINT, state)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        state = checkpoints.read(self._out / CHECKPOINT)
        if state is None:
            if (self._out / MODEL).exists():
                raise InvalidArgument(f"{self._out / MODEL} exists already, and is of no run", field="out")
            return
        if state["of"] != self._of():
            raise InvalidArgument(f"{self._out} holds a run of other photos or settings", field="out")
        self.model.load_state_dict(state["model"])
        self._loss.load_state_dict(state["loss"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and self._device != CPU:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self._figures = _Figures([Epoch(*each) for each in state["epochs"]], *state["figures"])
        self.step = state["step"]

    def _export(self, parts: exported.Exported) -> None:
        card = json.dumps(self._card(parts), indent=2)
        with replacing(self._out / MODEL) as partial:
            exported.save(partial, *parts, card=card)
        with replacing(self._out / CARD) as partial:
            partial.write_text(card)

    def _card(self, parts: exported.Exported) -> dict[str, Any]:
        """What a model was made of, and what it came to."""
        data, figures = self._data, self._figures
        return {
            "data": {
                "table": data.table,
                "train": dict(sorted(Counter(photo.label for photo in data.train.all).items())),
                "validation": dict(sorted(Counter(photo.label for photo in data.validation.all).items())),
                "unreadable": sorted(figures.failed),
            },
            "settings": self._settings.model_dump(),
            "epochs": [epoch._asdict() for epoch in figures.epochs],
            "best": figures.best._asdict(),
            "fingerprint": self._embedder(parts).space.rpartition(":")[2],
            "versions": {name: version(name) for name in ("vitrail", "torch", "timm", "pytorch-metric-learning")},
        }


def _optimizer(model: Model, loss: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Of what is not frozen; norms, biases and what the loss learns are not pulled to zero."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [each for each in learnt if each.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [each for each in learnt if each.ndim <= 1]},
        {"params": list(loss.parameters()), "lr": settings.head_rate},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, settings.learning_rate, momentum=0.9, weight_decay=0.0, nesterov=True)
    return torch.optim.AdamW(groups, settings.learning_rate, weight_decay=0.0)


def _half(settings: Settings, device: str) -> torch.dtype | None:
    """What it computes in beside float32, if anything.

    On a CPU that has bf16 (AMX), EfficientNet-Lite0 learned from 26 photos/s in it and from 34 in float32.
    """
    if settings.precision == "full" or (settings.precision == "auto" and device == CPU):
        return None
    return torch.bfloat16 if device == CPU or torch.cuda.is_bf16_supported() else torch.float16


def _diverged(loss: float, step: int, photos: Sequence[Photo]) -> str:
    names = ", ".join(photo.id for photo in photos)
    return f"the loss is {loss} at step {step + 1}; a lower learning rate may help. The photos of its batch: {names}"
