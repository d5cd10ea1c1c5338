"""Training: from a folder of images to a model package."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

import prn_fast
from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.images import stored_channels
from prn_fast.data.layouts import AUTO, load_inspection_set
from prn_fast.data.samples import InspectionSet, draw_seen, load_samples, split_validation
from prn_fast.data.textures import load_textures
from prn_fast.data.training_set import TrainingSet, use_one_thread
from prn_fast.engine.base import Detections
from prn_fast.environment import commit, cpu_name
from prn_fast.errors import ConfigError, DataError
from prn_fast.kernels import LEAN
from prn_fast.model.config import PRNConfig, preset
from prn_fast.model.prn import PRN
from prn_fast.model.prototypes import cluster_prototypes, prototype_count
from prn_fast.model.weights import load_backbone_weights, pretrained_state
from prn_fast.package import Package, ValidationSet, check_writable
from prn_fast.training.calibration import FALSE_ALARM_RATE, calibrate, require_rate, validation_metrics
from prn_fast.training.checkpoint import Checkpoint
from prn_fast.training.losses import prn_loss
from prn_fast.training.recipe import RECIPES, Recipe, learning_rate_factor
from prn_fast.training.start import start_from

VALIDATION_SHARE = 0.1
MOST_VALIDATION_NORMALS = 96
MOST_CALIBRATION_IMAGES = 128
EXTRACTION_BATCH = 16
# No more than a tenth of the time goes into validation, and where it is quick, once a minute will do.
SECONDS_BETWEEN_VALIDATIONS = 60.0
TRAINING_PER_VALIDATION = 9.0
# A kill costs no more than this, also where an epoch takes an hour.
SECONDS_BETWEEN_CHECKPOINTS = 300.0
# Kept free at the end of a bounded run, as a multiple of the time that the last validation took: for the final one, and
# for writing the package. No more than a share of the run, so that on a machine too slow for it something is learnt:
# there, fewer images are validated on, but no fewer than these normals and an anomaly of each.
RESERVE = 1.2
LARGEST_RESERVE = 1 / 4
LEAST_VALIDATION_NORMALS = 16


@dataclass(frozen=True)
class Settings:
    """What to train, on what, for how long.

    Attributes:
        data: folder of one product's images.
        layout: how the folder is laid out, a key of `LAYOUTS`, or "auto".
        output: the package to write, NAME.prn.
        preset: key of `PRESETS`.
        image_size: side to which images are resized.
        image_channels: 1 or 3; None takes the first training image's.
        minutes: bound of the whole run, the final validation included; None trains all epochs.
        seen: anomalous images that training may see; they are drawn by the seed and never scored.
        textures: folder of texture images for simulated anomalies; None generates some.
        backbone_weights: file of pretrained weights; None takes the published ones.
        start: package whose weights, its backbone's included, training starts from; None starts anew.
        seed: of every draw.
        workers: processes that generate anomalies; none by default, since an anomaly takes about a millisecond.
        false_alarm_rate: wanted share of good images called defective; the package's threshold stands for it.
        resume: go on from the last checkpoint of the same output.
        recipe: None takes the preset's.
    """

    data: Path
    output: Path
    layout: str = AUTO
    preset: str = "lite0"
    image_size: int = 256
    image_channels: int | None = None
    minutes: float | None = None
    seen: int = 10
    textures: Path | None = None
    backbone_weights: Path | None = None
    start: Path | None = None
    seed: int = 0
    workers: int = 0
    false_alarm_rate: float = FALSE_ALARM_RATE
    resume: bool = False
    recipe: Recipe | None = None

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be continued: all but the time, the workers and `resume` itself."""
        values = {name: str(value) for name, value in dataclasses.asdict(self).items()}
        return {name: value for name, value in values.items() if name not in ("minutes", "workers", "resume")}


@dataclass(frozen=True)
class Split:
    """Pixels of one run: what is trained on, what is validated on, what was seen of the defects."""

    normals: NDArray[np.uint8]
    validation: ValidationSet
    generator: AnomalyGenerator
    seen: tuple[str, ...]
    fit: int


class Timer:
    """Seconds of work, those before an interruption included."""

    def __init__(self, before: float) -> None:
        self._start = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self._start


def train(settings: Settings, console: Console | None = None) -> Package:
    """Train a PRN and write its package.

    Raises:
        PRNError: bad data, weights or settings; says which.
    """
    console = console or Console()
    if settings.minutes is not None and not settings.minutes > 0:
        raise ConfigError(f"--minutes must be above 0, not {settings.minutes}")
    require_rate(settings.false_alarm_rate)
    if settings.start is not None and settings.backbone_weights is not None:
        raise ConfigError("--start brings the backbone's weights along; leave out --backbone-weights")
    check_writable(settings.output)
    recipe = settings.recipe or RECIPES[settings.preset if settings.preset in RECIPES else "r18"]
    inspection = load_inspection_set(settings.data, settings.layout)
    channels = settings.image_channels or stored_channels(inspection.train[0].path)
    config = dataclasses.replace(preset(settings.preset), image_size=settings.image_size, image_channels=channels)
    timer = Timer(0.0)
    torch.manual_seed(settings.seed)
    split = prepare_split(settings, inspection, config)
    console.print(
        f"[bold]{settings.preset}[/], {config.image_size} px, {'grey' if channels == 1 else 'RGB'}: "
        f"{split.fit} normal images to train on, {len(split.validation.labels)} to validate, "
        f"{len(split.seen)} seen anomalies"
    )

    fabric = Fabric(precision=training_precision(), devices="auto")
    fabric.launch()
    model, missing = prepare_model(settings, config, split, fabric.device, console)
    run = Run(settings, recipe, model, split, fabric, timer, console)
    run.fit()
    return run.write_package(missing)


def training_precision() -> Literal["bf16-mixed", "32-true"]:
    """bfloat16 where its products have instructions of their own; elsewhere they are slower than float32."""
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def prepare_split(settings: Settings, inspection: InspectionSet, config: PRNConfig) -> Split:
    """Load the images; the validation split comes from the training normals alone."""
    seen, _ = draw_seen(inspection.anomalies or inspection.test, settings.seen, settings.seed)
    fit, held_out = inspection.train, inspection.validation
    if not held_out:
        fit, held_out = split_validation(inspection.train, VALIDATION_SHARE, settings.seed)
    held_out = held_out[:MOST_VALIDATION_NORMALS]
    side, channels = config.image_size, config.image_channels
    normals, _ = load_samples(fit, side, channels, progress="reading normal images")
    seen_images, seen_masks = load_samples(seen, side, channels)
    held_out_images, _ = load_samples(held_out, side, channels)
    if seen and not seen_masks.any(axis=(1, 2)).all():
        raise DataError(f"a seen anomaly's mask vanishes at {side} px; use a larger --image-size")
    pairs = list(zip(seen_images, seen_masks, strict=True))
    generator = AnomalyGenerator(load_textures(settings.textures, channels, seed=settings.seed), pairs)
    rng = np.random.default_rng((settings.seed, 1))
    generated = [generator.generate(image, rng) for image in held_out_images]
    validation = ValidationSet(
        images=np.concatenate([held_out_images, np.stack([image for image, _ in generated])]),
        labels=np.repeat(np.array([0, 1], np.int64), len(held_out_images)),
        masks=np.concatenate(
            [np.zeros((len(held_out_images), side, side), np.bool_), np.stack([mask for _, mask in generated])]
        ),
    )
    names = tuple(sample.path.relative_to(inspection.root).as_posix() for sample in seen)
    return Split(normals, validation, generator, names, len(fit))


def prepare_model(
    settings: Settings, config: PRNConfig, split: Split, device: torch.device, console: Console
) -> tuple[PRN, list[str]]:
    """The network with its pretrained backbone and its prototypes; also the names of backbone weights it lacks."""
    count = prototype_count(len(split.normals))
    model = PRN(dataclasses.replace(config, prototypes=(count, count, count)), LEAN)
    missing: list[str] = []
    if settings.start is not None:
        start_from(model, Package.open(settings.start))
    else:
        source = str(settings.backbone_weights or "published weights")
        state = pretrained_state(config.backbone, settings.backbone_weights)
        missing = load_backbone_weights(model.backbone, state, source)
    if missing:
        console.print(
            f"[yellow]note:[/] {source} lacks {len(missing)} weights of the deepest stage (stride 32), "
            f"{missing[0]} the first: they start at random and are trained"
        )
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = (model.normalize(images.to(device)) for images in slices(split.normals, EXTRACTION_BATCH))
    centres = cluster_prototypes(
        model.backbone, batches, count, settings.seed, progress=lambda line: console.print(line, style="dim")
    )
    with torch.no_grad():
        model.set_prototypes([centre.to(device) for centre in centres])
    return model, missing


def device_name(device: torch.device) -> str:
    """Name of the hardware behind a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def slices(images: NDArray[np.uint8], size: int) -> Iterator[Tensor]:
    """Consecutive pieces of an array, as tensors."""
    for start in range(0, len(images), size):
        yield torch.from_numpy(images[start : start + size])


def fewer_pairs(validation: ValidationSet, count: int) -> ValidationSet:
    """`count` normals of a validation split, evenly chosen, and the anomalies made from them."""
    normals = len(validation.labels) // 2
    chosen = np.linspace(0, normals - 1, min(count, normals)).round().astype(np.intp)
    kept = np.concatenate([chosen, normals + chosen])
    return ValidationSet(validation.images[kept], validation.labels[kept], validation.masks[kept])


class FromBytes(nn.Module):
    """A PRN that takes uint8 images: Fabric would round normalised ones to half precision before the backbone."""

    def __init__(self, model: PRN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, S, S, C) to logits (B, 1, S, S)."""
        normalized = self.model.normalize(images)
        return self.model.logits(normalized.contiguous(memory_format=torch.channels_last))


class Run:
    """One training run: its state, and the steps from the first epoch to the package."""

    def __init__(
        self,
        settings: Settings,
        recipe: Recipe,
        model: PRN,
        split: Split,
        fabric: Fabric,
        timer: Timer,
        console: Console,
    ) -> None:
        self.settings, self.recipe, self.model, self.split = settings, recipe, model, split
        self.fabric, self.timer, self.console = fabric, timer, console
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.module, self.optimizer = fabric.setup(FromBytes(model), optimizer)
        self.dataset = TrainingSet(split.normals, split.generator, settings.seed, flips=recipe.flips)
        self.sampling = torch.Generator()
        self.loader = fabric.setup_dataloaders(
            DataLoader(
                self.dataset,
                batch_size=min(recipe.batch, len(self.dataset)),
                sampler=RandomSampler(self.dataset, generator=self.sampling),
                num_workers=settings.workers,
                worker_init_fn=use_one_thread,
                persistent_workers=settings.workers > 0,
                # A forked child hangs in OpenCV's thread pool, which does not outlive a fork.
                multiprocessing_context="spawn" if settings.workers else None,
                drop_last=True,
            )
        )
        self.checkpoint = Checkpoint(settings.output, settings.identity())
        self.epoch = 0
        self.batches = 0  # done in this epoch
        self.step = 0
        self.last_save = 0.0
        self.best: dict[str, Any] = {"selection": -1.0}
        self.last_validation = 0.0
        self.validation_seconds = 0.0
        self.step_seconds = 0.0
        if settings.resume:
            self.restore()
        elif fabric.is_global_zero:
            self.checkpoint.remove()

    # -- state --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write what is needed to go on from here."""
        self.last_save = self.timer.seconds()
        if self.fabric.is_global_zero:
            self.checkpoint.save(
                {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "epoch": self.epoch,
                    "batches": self.batches,
                    "step": self.step,
                    "seconds": self.timer.seconds(),
                    "last_validation": self.last_validation,
                    "validation_normals": len(self.split.validation.labels) // 2,
                    "best": self.best,
                }
            )

    def restore(self) -> None:
        """Take up the state that was saved last."""
        state = self.checkpoint.load()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.batches, self.step = state["epoch"], state["batches"], state["step"]
        self.best = state["best"]
        self.last_validation = state["last_validation"]
        self.split = dataclasses.replace(
            self.split, validation=fewer_pairs(self.split.validation, state["validation_normals"])
        )
        self.timer = Timer(state["seconds"])
        self.last_save = state["seconds"]
        self.console.print(
            f"going on after epoch {self.epoch} and {self.batches} batches, "
            f"{state['seconds'] / 60:.1f} minutes into the run"
        )

    def progress(self) -> float:
        """Share of the training that is over, by steps or by time, whichever is further."""
        done = self.step / (self.recipe.epochs * len(self.loader))
        if self.settings.minutes is not None:
            whole = 60.0 * self.settings.minutes
            reserve = min(RESERVE * self.validation_seconds, LARGEST_RESERVE * whole) + self.step_seconds
            done = max(done, self.timer.seconds() / max(whole - reserve, 1e-9))
        return min(done, 1.0)

    def is_validation_due(self) -> bool:
        """After the last step, and in between where it takes no more than a tenth of the time."""
        if self.progress() >= 1.0:
            return True
        pause = max(SECONDS_BETWEEN_VALIDATIONS, TRAINING_PER_VALIDATION * self.validation_seconds)
        return self.timer.seconds() - self.last_validation > pause

    def estimate_validation(self) -> float:
        """Seconds that scoring the validation split will take, from its first batch, once it has been run before."""
        images = self.split.validation.images
        sample = images[:EXTRACTION_BATCH]
        self.detect(sample)
        start = time.monotonic()
        self.detect(sample)
        return (time.monotonic() - start) * len(images) / len(sample)

    def bound_validation(self, minutes: float) -> None:
        """Leave images out of the validation split where all of them would take too much of the run."""
        allowed = LARGEST_RESERVE * 60.0 * minutes / RESERVE
        normals = len(self.split.validation.labels) // 2
        kept = max(int(normals * allowed / self.validation_seconds), LEAST_VALIDATION_NORMALS)
        if kept >= normals:
            return
        self.console.print(
            f"[yellow]note:[/] validating takes {self.validation_seconds / 60:.1f} of {minutes:g} minutes on this "
            f"machine: {kept} of {normals} normal images, and an anomaly of each, are validated on"
        )
        self.split = dataclasses.replace(self.split, validation=fewer_pairs(self.split.validation, kept))
        self.validation_seconds *= kept / normals

    # -- training -----------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until the epochs or the minutes are over; keep the weights that validate best."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        if self.settings.minutes is not None:
            self.validation_seconds = self.estimate_validation()
            if self.step == 0:
                self.bound_validation(self.settings.minutes)
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("training", total=len(self.loader), status="")
            while self.progress() < 1.0:
                bar.update(task, description=f"epoch {self.epoch + 1}", completed=self.batches)
                self.train_epoch(lambda loss: bar.update(task, advance=1, status=f"loss {loss:.4f}"))
                self.epoch += 1
                self.batches = 0
                if self.is_validation_due():
                    self.validate()
                self.save()
        if "state" not in self.best:
            # The minutes were over before the first epoch began.
            self.validate()

    def train_epoch(self, report: Any) -> None:
        """One pass over the data, or what is left of it, or as much as the time allows."""
        self.module.train()
        self.dataset.set_epoch(self.epoch)
        self.sampling.manual_seed(self.settings.seed * 1_000_003 + self.epoch)
        before = self.timer.seconds()
        for images, masks in islice(self.loader, self.batches, None):
            rate = self.recipe.learning_rate * learning_rate_factor(self.recipe, self.progress())
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = prn_loss(self.module(images), masks)
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            self.optimizer.step()
            self.step += 1
            self.batches += 1
            report(float(loss.detach()))
            self.step_seconds, before = self.timer.seconds() - before, self.timer.seconds()
            if self.progress() >= 1.0:
                break
            if self.timer.seconds() - self.last_save > SECONDS_BETWEEN_CHECKPOINTS:
                self.save()

    def validate(self) -> None:
        """Score the validation split; keep the weights if they are the best so far."""
        validation = self.split.validation
        start = self.timer.seconds()
        detections = self.detect(validation.images)
        metrics = validation_metrics(detections, validation)
        self.last_validation = self.timer.seconds()
        self.validation_seconds = self.last_validation - start
        # Finding an image and finding the place count alike; AUROC of images alone is soon perfect.
        selection = (metrics["image_auroc"] + metrics["pixel_average_precision"]) / 2
        if self.fabric.is_global_zero:
            self.console.print(
                f"epoch {self.epoch}, {self.timer.seconds() / 60:.1f} min: validation image AUROC "
                f"{metrics['image_auroc']:.4f}, pixel AP {metrics['pixel_average_precision']:.4f}"
            )
        if selection > self.best["selection"]:
            state = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = {
                "selection": selection,
                "epoch": self.epoch,
                "metrics": metrics,
                "calibration": calibrate(detections, validation, self.settings.false_alarm_rate),
                "state": state,
            }

    @torch.inference_mode()
    def detect(self, images: NDArray[np.uint8]) -> Detections:
        """Scores and maps of images by the weights of now, in float32."""
        self.model.eval()
        results = [self.model.detect(part.to(self.fabric.device)) for part in slices(images, EXTRACTION_BATCH)]
        return Detections(
            np.concatenate([scores.cpu().numpy() for scores, _ in results]),
            np.concatenate([maps.cpu().numpy() for _, maps in results]),
        )

    # -- result -------------------------------------------------------------------------------------------------

    def write_package(self, missing: list[str]) -> Package:
        """Write the best weights, what they score on the validation split, and how they came about."""
        self.model.load_state_dict(self.best["state"])
        validation = self.split.validation
        chosen = np.random.default_rng(self.settings.seed).permutation(len(self.split.normals))
        package = Package.create(
            self.settings.output,
            self.model,
            calibration_images=self.split.normals[np.sort(chosen[:MOST_CALIBRATION_IMAGES])],
            validation=validation,
            calibration=self.best["calibration"],
            training={
                "data": str(self.settings.data.resolve()),
                "layout": self.settings.layout,
                "preset": self.settings.preset,
                "seed": self.settings.seed,
                "seen": list(self.split.seen),
                "normals": self.split.fit,
                "textures": "generated" if self.settings.textures is None else str(self.settings.textures.resolve()),
                "start": None if self.settings.start is None else str(self.settings.start.resolve()),
                "backbone_weights": "published"
                if self.settings.backbone_weights is None
                else str(self.settings.backbone_weights.resolve()),
                "backbone_weights_missing": missing,
                "recipe": self.recipe.to_dict(),
                "epochs": self.epoch,
                "steps": self.step,
                "minutes": round(self.timer.seconds() / 60, 2),
                "selected_epoch": self.best["epoch"],
                "validation": self.best["metrics"],
                "precision": training_precision(),
                "device": device_name(self.fabric.device),
                "torch": torch.__version__,
                "prn_fast": prn_fast.__version__,
                "commit": commit(),
            },
        )
        self.checkpoint.remove()
        return package
