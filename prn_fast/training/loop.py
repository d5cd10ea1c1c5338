"""Training: from a folder of images to a model package."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

import prn_fast
from prn_fast.data.images import stored_channels
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.training_set import EpochBatches, TrainingSet, use_one_thread
from prn_fast.engine.base import Detections
from prn_fast.environment import commit, cpu_name
from prn_fast.errors import ConfigError
from prn_fast.kernels import FUSED, LEAN
from prn_fast.model.config import TILE_OVERLAP, PRNConfig, preset
from prn_fast.model.engine_graph import fold_batch_norm
from prn_fast.model.prn import PRN, full_precision
from prn_fast.model.prototypes import cluster_prototypes, prototype_count
from prn_fast.model.weights import load_backbone_weights, pretrained_state
from prn_fast.package import Package, check_writable
from prn_fast.training.average import make_average
from prn_fast.training.batch_norm import join_batch_norms
from prn_fast.training.calibration import calibrate, require_rate, validation_metrics
from prn_fast.training.checkpoint import Checkpoint
from prn_fast.training.losses import hardest, prn_losses, score_losses
from prn_fast.training.processes import Clock, launch, sum_over_processes, take_from_first
from prn_fast.training.recipe import Recipe, learning_rate_factor, recipe_of
from prn_fast.training.settings import Precision, Settings
from prn_fast.training.split import Split, prepare_split
from prn_fast.training.start import start_from

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
# Two standard errors, about, of what is selected by on some 150 images: by less, an earlier epoch is better by chance.
SELECTION_NOISE = 0.03


def train(settings: Settings, console: Console | None = None) -> Package:
    """Train a PRN and write its package.

    Under torchrun, several processes do it together; see `processes`.

    Raises:
        PRNError: bad data, weights or settings; says which.
    """
    if settings.minutes is not None and not settings.minutes > 0:
        raise ConfigError(f"--minutes must be above 0, not {settings.minutes}")
    require_rate(settings.false_alarm_rate)
    if settings.start is not None and settings.backbone_weights is not None:
        raise ConfigError("--start brings the backbone's weights along; leave out --backbone-weights")
    check_writable(settings.output)
    run, missing = prepare_run(settings, console)
    run.fit()
    package = run.write_package(missing) if run.fabric.is_global_zero else None
    run.fabric.barrier()
    return package or Package.open(settings.output)


def prepare_run(settings: Settings, console: Console | None = None) -> tuple["Run", list[str]]:
    """Everything before the first step; also the names of backbone weights that are missing, see `prepare_model`."""
    recipe = settings.recipe or recipe_of(settings.preset)
    inspection = load_inspection_set(settings.data, settings.layout)
    channels = settings.image_channels or stored_channels(inspection.train[0].path)
    config = dataclasses.replace(
        preset(settings.preset),
        image_size=settings.image_size,
        image_channels=channels,
        projection=settings.projection,
        residual=settings.residual,
    )
    fabric = launch(settings.precision or training_precision())
    console = (console or Console()) if fabric.is_global_zero else Console(quiet=True)
    clock = Clock(fabric)
    torch.manual_seed(settings.seed)
    split = prepare_split(settings, recipe, inspection, config)
    pieces = "tiles" if settings.tiles else "images"
    console.print(
        f"[bold]{settings.preset}[/], {config.image_size} px, {'grey' if channels == 1 else 'RGB'}: "
        f"{len(split.normals)} normal {pieces} to train on, {len(split.validation.labels)} to validate, "
        f"{len(split.seen)} seen anomalies"
    )
    model, missing = prepare_model(settings, recipe, config, split, fabric, console)
    return Run(settings, recipe, model, split, fabric, clock, console), missing


def training_precision() -> Precision:
    """bfloat16 where its products have instructions of their own; elsewhere they are slower than float32."""
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def prepare_model(
    settings: Settings, recipe: Recipe, config: PRNConfig, split: Split, fabric: Fabric, console: Console
) -> tuple[PRN, list[str]]:
    """The network with its pretrained backbone and its prototypes; also the names of backbone weights it lacks."""
    count = prototype_count(split.images, recipe.prototypes)
    # On a GPU the Triton kernels train too, as their backward is theirs.
    ops = FUSED if fabric.device.type == "cuda" else LEAN
    model = PRN(dataclasses.replace(config, prototypes=(count, count, count)), ops)
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
    model.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # A mean over prototypes, which every step takes, is ten times slower the other way.
    model.prototypes.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.no_grad():
        if fabric.is_global_zero:
            batches = (model.normalize(images.to(fabric.device)) for images in slices(split.normals, EXTRACTION_BATCH))
            centres = cluster_prototypes(
                model.backbone, batches, count, settings.seed, progress=lambda line: console.print(line, style="dim")
            )
            model.set_prototypes([centre.to(fabric.device) for centre in centres])
        for prototypes in model.prototypes():
            take_from_first(fabric, prototypes)
    return model, missing


def device_name(device: torch.device) -> str:
    """Name of the hardware behind a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def slices(images: NDArray[np.uint8], size: int) -> Iterator[Tensor]:
    """Consecutive pieces of an array, as tensors."""
    for start in range(0, len(images), size):
        yield torch.from_numpy(images[start : start + size])


def is_kept(selection: float, best: float, settled: bool) -> bool:
    """Whether weights are kept in place of those that have validated best so far.

    Args:
        selection, best: figures of both, larger is better; NaN is never kept.
        settled: a falling learning rate has come to its end, where weights are at their best: an earlier epoch is
            preferred only if it validates better by more than `SELECTION_NOISE`.
    """
    return selection > best - (SELECTION_NOISE if settled else 0.0)


class FromBytes(nn.Module):
    """A PRN that takes uint8 images: Fabric would round normalised ones to half precision before the backbone.

    A backbone that is frozen runs with its batch norm folded, as in an engine: the same function in less time.
    """

    def __init__(self, model: PRN) -> None:
        super().__init__()
        self.model = model
        frozen = not any(parameter.requires_grad for parameter in model.backbone.parameters())
        # In a tuple, so that its weights, which are the model's, are no parameters of this module.
        self.backbone = (fold_batch_norm(model.backbone) if frozen else model.backbone,)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, S, S, C) to logits (B, 1, S, S)."""
        normalized = self.model.normalize(images).contiguous(memory_format=torch.channels_last)
        with full_precision(images.device):
            features = self.backbone[0](normalized)
        return self.model.logits_of_features(features)


class Run:
    """One training run: its state, and the steps from the first epoch to the package."""

    def __init__(
        self,
        settings: Settings,
        recipe: Recipe,
        model: PRN,
        split: Split,
        fabric: Fabric,
        clock: Clock,
        console: Console,
    ) -> None:
        self.settings, self.recipe, self.model, self.split = settings, recipe, model, split
        self.fabric, self.clock, self.console = fabric, clock, console
        if fabric.world_size > 1:
            join_batch_norms(model, fabric.device)
        self.average = make_average(model, recipe.ema) if recipe.ema else None
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.module, self.optimizer = fabric.setup(FromBytes(model), optimizer)
        self.dataset = TrainingSet(
            split.normals,
            split.generator,
            settings.seed,
            flips=recipe.flips,
            anomaly_ratio=recipe.anomaly_ratio,
            light=recipe.light,
        )
        self.sampling = EpochBatches(
            len(self.dataset), recipe.batch, settings.seed, share=(fabric.global_rank, fabric.world_size)
        )
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampling,
            num_workers=settings.workers,
            worker_init_fn=use_one_thread,
            persistent_workers=settings.workers > 0,
            # A forked child hangs in OpenCV's thread pool, which does not outlive a fork.
            multiprocessing_context="spawn" if settings.workers else None,
        )
        self.loader = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        self.checkpoint = Checkpoint(settings.output, settings.identity())
        self.epoch = 0
        self.batches = 0  # done in this epoch
        self.step = 0
        self.last_save = 0.0
        self.best: dict[str, Any] = {"selection": -1.0}  # of the first process
        self.last_validation = 0.0
        self.validation_seconds = 0.0
        self.step_seconds = 0.0
        if settings.resume:
            self.restore()
        elif fabric.is_global_zero:
            self.checkpoint.remove()

    @property
    def kept(self) -> PRN:
        """The network that is validated and packaged: the moving average, where there is one."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, PRN)
        return self.average.module

    # -- state --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write what is needed to go on from here."""
        self.last_save = self.clock.now
        if self.fabric.is_global_zero:
            self.checkpoint.save(
                {
                    "model": self.model.state_dict(),
                    "average": None if self.average is None else self.average.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "epoch": self.epoch,
                    "batches": self.batches,
                    "step": self.step,
                    "seconds": self.clock.now,
                    "last_validation": self.last_validation,
                    "validation_normals": len(self.split.validation.labels) // 2,
                    "best": self.best,
                }
            )

    def restore(self) -> None:
        """Take up the state that was saved last."""
        state = self.checkpoint.load()
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.batches, self.step = state["epoch"], state["batches"], state["step"]
        self.best = state["best"]
        self.last_validation = state["last_validation"]
        validation = self.split.validation.fewer(state["validation_normals"])
        self.split = dataclasses.replace(self.split, validation=validation)
        self.clock = Clock(self.fabric, state["seconds"])
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
            done = max(done, self.clock.now / max(whole - reserve, 1e-9))
        return min(done, 1.0)

    def is_validation_due(self) -> bool:
        """After the last step, and in between where it takes no more than a tenth of the time."""
        if self.progress() >= 1.0:
            return True
        pause = max(SECONDS_BETWEEN_VALIDATIONS, TRAINING_PER_VALIDATION * self.validation_seconds)
        return self.clock.now - self.last_validation > pause

    def estimate_validation(self) -> float:
        """Seconds that scoring the validation split will take, from its first batch, once it has been run before."""
        images = self.split.validation.images
        sample = images[:EXTRACTION_BATCH]
        self.detect(sample)
        start = self.clock.tick()
        self.detect(sample)
        return (self.clock.tick() - start) * len(images) / len(sample)

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
        self.split = dataclasses.replace(self.split, validation=self.split.validation.fewer(kept))
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
        if not self.last_validation:
            # The minutes were over before the first epoch began.
            self.validate()

    def train_epoch(self, report: Callable[[float], None]) -> None:
        """One pass over the data, or what is left of it, or as much as the time allows."""
        self.module.train()
        self.dataset.set_epoch(self.epoch)
        self.sampling.start_epoch(self.epoch, self.batches)
        before = self.clock.tick()
        for images, masks in self.loader:
            rate = self.recipe.learning_rate * learning_rate_factor(self.recipe, self.progress())
            report(self.train_step(images, masks, rate))
            self.step += 1
            self.batches += 1
            self.step_seconds, before = self.clock.tick() - before, self.clock.now
            if self.progress() >= 1.0:
                break
            if self.clock.now - self.last_save > SECONDS_BETWEEN_CHECKPOINTS:
                self.save()

    def train_step(self, images: Tensor, masks: Tensor, rate: float) -> float:
        """Change the weights by one batch, at a learning rate; the loss before."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(images, masks)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return float(loss.detach())

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """The loss of a step: its mean over the processes is the mean over the images that count."""
        logits = self.module(images)
        losses = prn_losses(logits, masks, self.recipe.focal_weight, self.recipe.smooth_l1)
        if self.recipe.score_weight:
            losses = losses + self.recipe.score_weight * score_losses(logits, masks)
        if self.recipe.hard_mining == 1.0:
            return losses.mean()
        # Which anomalies are the hardest is seen in the whole step, of which this process has a part.
        mine = slice(self.fabric.global_rank, None, self.fabric.world_size)
        whole = losses.new_zeros(2, len(losses) * self.fabric.world_size)
        whole[0, mine], whole[1, mine] = losses.detach(), masks.any(dim=(1, 2)).float()
        sum_over_processes(self.fabric, whole)
        counted = hardest(whole[0], whole[1] > 0, self.recipe.hard_mining)
        return losses[counted[mine]].sum() * self.fabric.world_size / counted.sum()

    def validate(self) -> None:
        """Score the validation split; keep the weights if they are the best so far. The first process does it."""
        start = self.clock.tick()
        if self.fabric.is_global_zero:
            self.keep_if_best()
        self.last_validation = self.clock.tick()
        self.validation_seconds = self.last_validation - start

    def keep_if_best(self) -> None:
        """Score the validation split by the weights of now, and keep them if they are the best so far."""
        validation = self.split.validation
        detections = self.detect(validation.images)
        metrics = validation_metrics(detections, validation)
        # Finding an image and finding the place count alike; AUROC of images alone is soon perfect.
        selection = (metrics["image_auroc"] + metrics["pixel_average_precision"]) / 2
        self.console.print(
            f"epoch {self.epoch}, {self.clock.now / 60:.1f} min: validation image AUROC "
            f"{metrics['image_auroc']:.4f}, pixel AP {metrics['pixel_average_precision']:.4f}"
        )
        settled = self.recipe.schedule == "cosine" and self.progress() >= 1.0
        if is_kept(selection, self.best["selection"], settled):
            state = {name: value.detach().cpu().clone() for name, value in self.kept.state_dict().items()}
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
        model = self.kept.eval()
        results = [model.detect(part.to(self.fabric.device)) for part in slices(images, EXTRACTION_BATCH)]
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
                "tiles": {"overlap": TILE_OVERLAP} if self.settings.tiles else None,
                "seed": self.settings.seed,
                "seen": list(self.split.seen),
                "seen_fingerprints": [fingerprint.to_dict() for fingerprint in self.split.fingerprints],
                "normals": self.split.images,
                "textures": "generated" if self.settings.textures is None else str(self.settings.textures.resolve()),
                "start": None if self.settings.start is None else str(self.settings.start.resolve()),
                "backbone_weights": "published"
                if self.settings.backbone_weights is None
                else str(self.settings.backbone_weights.resolve()),
                "backbone_weights_missing": missing,
                "recipe": self.recipe.to_dict(),
                "epochs": self.epoch,
                "steps": self.step,
                "minutes": round(self.clock.now / 60, 2),
                "selected_epoch": self.best["epoch"],
                "validation": self.best["metrics"],
                "precision": self.settings.precision or training_precision(),
                "processes": self.fabric.world_size,
                "device": device_name(self.fabric.device),
                "torch": torch.__version__,
                "prn_fast": prn_fast.__version__,
                "commit": commit(),
            },
        )
        self.checkpoint.remove()
        return package
