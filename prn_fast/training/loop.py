"""Training: from a folder of images to a model package."""

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor, nn
from torch.utils.data import DataLoader

import prn_fast
from prn_fast.data.folders import find_images, summary
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.parts import UNTOLD, numbered_names
from prn_fast.data.samples import choose_channels
from prn_fast.data.training_set import EpochBatches, TrainingSet, use_one_thread
from prn_fast.engine.base import Detections
from prn_fast.environment import commit, cpu_name
from prn_fast.errors import ConfigError, one_line
from prn_fast.kernels import FUSED, OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import STATISTICS, map_statistics
from prn_fast.model.config import TILE_OVERLAP, PRNConfig, preset
from prn_fast.model.engine_graph import fold_batch_norm
from prn_fast.model.learned_map import SCREEN
from prn_fast.model.memory import memory_size, remember
from prn_fast.model.prn import PRN, full_precision
from prn_fast.model.prototypes import cluster_prototypes, prototype_count
from prn_fast.model.screen import SCREEN_WIDTH
from prn_fast.model.weights import load_backbone_weights, pretrained_state
from prn_fast.package import MAX_CALIBRATION_IMAGES, Package, check_writable
from prn_fast.training.add_screen import give_screen, time_to_train
from prn_fast.training.average import make_average
from prn_fast.training.batch_norm import join_batch_norms
from prn_fast.training.calibration import calibrate, validation_metrics
from prn_fast.training.checkpoint import STATE, Checkpoint
from prn_fast.training.conformal import FALSE_ALARM_RATE, default_rate, lowest_rate, needed_normals, too_few
from prn_fast.training.cross_fit import FoldScreens, fold_count, train_fold_screens
from prn_fast.training.early_exit import anomalies_needed
from prn_fast.training.image_score import fit_score
from prn_fast.training.learned_map import Views, fit_map, view_images
from prn_fast.training.losses import hardest, prn_losses, score_losses
from prn_fast.training.processes import Clock, is_first, launch, sum_over_processes, take_from_first
from prn_fast.training.recipe import Recipe, learning_rate_factor, recipe_of
from prn_fast.training.screen import EXTRACTION_BATCH, Deadline, TrainedScreen, train_screen
from prn_fast.training.settings import SIZES, Precision, TrainingSettings
from prn_fast.training.settle import settle
from prn_fast.training.small_start import small_start
from prn_fast.training.split import Split, prepare_split
from prn_fast.training.warm_start import warm_start

# Validation takes at most a tenth of the time; if it is quick, once a minute is enough.
SECONDS_BETWEEN_VALIDATIONS = 60.0
TRAINING_PER_VALIDATION = 9.0
# A kill costs no more than this, even if an epoch takes an hour; and where an epoch takes seconds, a gigabyte is not
# written after each one.
SECONDS_BETWEEN_CHECKPOINTS = 300.0
# The loss is shown at most this often: reading it waits for the GPU.
SECONDS_BETWEEN_REPORTS = 1.0
MAX_WORKERS = 8
# Kept free at the end of a bounded run, as a multiple of the time that the last validation took: for the final one, and
# for writing the package. No more than a share of the run, so that on a machine too slow for it something is learnt:
# there, fewer images are validated on, but no fewer than these normals and an anomaly of each.
RESERVE = 1.2
LARGEST_RESERVE = 1 / 4
MIN_VALIDATION_NORMALS = 16
# Shares of a bounded run for the screen: for its training; and at most, with the anomalies that its cut comes from.
SCREEN_SHARE, LARGEST_SCREEN_SHARE = 0.15, 0.35
# About two standard errors of the selection figure on some 150 images: a smaller lead of an earlier epoch is chance.
SELECTION_NOISE = 0.03


def train(settings: TrainingSettings, console: Console | None = None) -> Package:
    """Train a PRN and write its package.

    Under torchrun, several processes do it together; see `processes`.

    Raises:
        PRNError: bad data, weights or settings; says which.
    """
    check_writable(settings.output)
    is_side_chosen = settings.image_size is None
    settings, lines = settle(settings, load_inspection_set(settings.data, settings.layout))
    first = small_start(settings) if is_side_chosen else None
    if first is not None:
        lines.append(
            f"a third of the training is at {first.image_size} px, where steps are quick; the rest goes on at "
            f"{settings.image_size} px"
        )
    if is_first():
        for line in lines:
            say_note(line, console or Console())
    if first is None:
        return _train_at_one_side(settings, console)
    begun = Checkpoint(settings.output, settings.identity()).exists
    if settings.resume and first.output.exists():
        start = Package.open(first.output, check_signature=False)
    elif settings.resume and not first.resume:
        # Before the start there is nothing to resume; this says so.
        Checkpoint(settings.output, settings.identity()).check()
        raise ConfigError(f"{first.output}: the start of this run is gone; run without --resume")
    else:
        start = _train_at_one_side(first, console)
    package = _train_at_one_side(dataclasses.replace(settings, resume=settings.resume and begun), console, start)
    shutil.rmtree(start.path)
    return package


def _train_at_one_side(
    settings: TrainingSettings, console: Console | None = None, start: Package | None = None
) -> Package:
    """Train at the side of settings that leave nothing open, going on after a start at a smaller one."""
    if settings.resume:
        Checkpoint(settings.output, settings.identity()).check()
    run, missing = prepare_run(settings, console, start)
    if run.fabric.is_global_zero:
        say_lowest_rate(len(run.split.validation.labels) // 2, settings)
    run.fit()
    package = run.finish(missing) if run.fabric.is_global_zero else None
    run.fabric.barrier()
    return package or Package.open(settings.output, check_signature=False)


def prepare_run(
    settings: TrainingSettings, console: Console | None = None, start: Package | None = None
) -> tuple["Run", list[str]]:
    """Everything before the first step; also the names of backbone weights that are missing, see `prepare_model`.

    Args:
        settings: what they leave open is decided by the data.
        start: a training at a smaller side that this one goes on from.
    """
    recipe = settings.recipe or recipe_of(settings.preset)
    inspection = load_inspection_set(settings.data, settings.layout)
    settings, _ = settle(settings, inspection)
    assert settings.image_size is not None
    channels, remark = (settings.image_channels, "") if settings.image_channels else choose_channels(inspection)
    config = dataclasses.replace(
        preset(settings.preset),
        image_size=settings.image_size,
        image_channels=channels,
        projection=settings.projection,
        residual=settings.residual,
        map=settings.chosen_map,
        score=settings.chosen_score,
        memory=settings.chosen_memory,
        screen_width=SCREEN_WIDTH if settings.chosen_map == "learned" and recipe.screen else 0,
    )
    fabric = launch(settings.precision or training_precision())
    console = (console or Console()) if fabric.is_global_zero else Console(quiet=True)
    clock = Clock(fabric, 0.0 if start is None else 60.0 * start.manifest["training"]["minutes"])
    torch.manual_seed(settings.seed)
    if remark:
        say_note(remark, console)
    split = prepare_split(settings, recipe, inspection, config)
    pieces = "tiles" if settings.tiles else "images"
    console.print(
        Text.assemble(
            (settings.preset, "bold"),
            f", {config.image_size} px, {'grey' if channels == 1 else 'RGB'}: "
            f"{len(split.normals)} normal {pieces} to train on, {len(split.validation.labels)} to validate, "
            f"{len(split.seen)} seen anomalies",
        )
    )
    passed_over = [(inspection.passed_over, inspection.root)]
    if settings.textures is not None:
        passed_over.append((find_images(settings.textures).passed_over, settings.textures))
    for files, folder in passed_over:
        if files:
            console.print(Text(f"{folder}: {summary(files, folder)}"), soft_wrap=True)
    if not split.parts_told:
        say_note(UNTOLD, console)
    if settings.parts is None and not inspection.validation and (told := numbered_names(inspection)):
        say_note(told, console)
    model, missing = prepare_model(settings, recipe, config, split, fabric, console, start)
    return Run(settings, recipe, model, split, fabric, clock, console, start), missing


def say_note(text: str, console: Console) -> None:
    """Print a line that should not be overlooked. As a Text, since names in it must not be read as markup."""
    console.print(Text.assemble(("note:", "yellow"), f" {text}"), soft_wrap=True)


def say_lowest_rate(normals: int, settings: TrainingSettings) -> None:
    """Say on stderr if the held-out normals are too few to promise the target rate, or a useful one."""
    pieces = f"held-out normal {'tiles' if settings.tiles else 'images'}"
    rate = settings.false_alarm_rate
    if rate is None and default_rate(normals) > FALSE_ALARM_RATE:
        told = (
            f"{normals} {pieces} are few: the threshold is set for a false-alarm rate of {default_rate(normals):.2g}; "
            f"it takes {needed_normals(FALSE_ALARM_RATE / 2)} for {FALSE_ALARM_RATE:.2g}. Calibrate the package with "
            "good images of its line: prn-calibrate"
        )
    elif rate is not None and rate < lowest_rate(normals):
        told = (
            f"{too_few(normals, rate, pieces)}; the threshold for {rate:.2g} is extrapolated, and good parts may be "
            "called defective more often"
        )
    else:
        return
    print(f"note: {told}", file=sys.stderr)


def training_precision() -> Precision:
    """bfloat16 where its products have instructions of their own; elsewhere they are slower than float32."""
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def prepare_model(
    settings: TrainingSettings,
    recipe: Recipe,
    config: PRNConfig,
    split: Split,
    fabric: Fabric,
    console: Console,
    start: Package | None = None,
) -> tuple[PRN, list[str]]:
    """The network with its pretrained backbone and its prototypes; also the names of backbone weights it lacks.

    After a start, it has the weights of that package.
    """
    count = prototype_count(split.images, recipe.prototypes)
    # On a GPU the Triton kernels train too, as their backward is theirs.
    ops = FUSED if fabric.device.type == "cuda" and not settings.optimized else OPTIMIZED
    memory = memory_size(config.memory, len(split.normals), config)
    model = PRN(dataclasses.replace(config, prototypes=(count, count, count), memory=memory), ops)
    missing: list[str] = []
    if start is not None:
        warm_start(model, start)
    elif settings.warm_start is not None:
        warm_start(model, Package.open(settings.warm_start))
    else:
        source = str(settings.backbone_weights or "published weights")
        state = pretrained_state(config.backbone, settings.backbone_weights)
        missing = load_backbone_weights(model.backbone, state, source)
    if missing:
        say_note(
            f"{source} lacks {len(missing)} weights of the deepest stage (stride 32), "
            f"{missing[0]} the first: they start at random and are trained",
            console,
        )
    model.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Every step takes a mean over prototypes, which is ten times slower in the other layout.
    model.prototypes.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.no_grad():
        if fabric.is_global_zero:
            batches = (model.normalize(images.to(fabric.device)) for images in slices(split.normals, EXTRACTION_BATCH))
            centres = cluster_prototypes(
                model.backbone, batches, count, settings.seed, progress=lambda line: console.print(line, style="dim")
            )
            model.set_prototypes([centre.to(fabric.device) for centre in centres])
            if model.learned_map is not None and model.learned_map.memory is not None:
                batches = (model.normalize(part.to(fabric.device)) for part in slices(split.normals, EXTRACTION_BATCH))
                patches = remember(model.backbone, batches, len(split.normals), memory, settings.seed)
                model.learned_map.memory.patches.copy_(patches)
        for prototypes in model.prototypes():
            take_from_first(fabric, prototypes)
        if model.learned_map is not None and model.learned_map.memory is not None:
            take_from_first(fabric, model.learned_map.memory.patches)
    return model, missing


def loader_workers(wanted: int | None, device: torch.device) -> int:
    """Processes that generate anomalies: as wanted, or none on a CPU, and on a GPU one for each of 8 cores at most."""
    if wanted is not None:
        return wanted
    return min(MAX_WORKERS, len(os.sched_getaffinity(0))) if device.type == "cuda" else 0


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
        settings: TrainingSettings,
        recipe: Recipe,
        model: PRN,
        split: Split,
        fabric: Fabric,
        clock: Clock,
        console: Console,
        start: Package | None = None,
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
        workers = loader_workers(settings.workers, fabric.device)
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampling,
            num_workers=workers,
            worker_init_fn=use_one_thread,
            persistent_workers=workers > 0,
            # A forked child hangs in OpenCV's thread pool, which does not outlive a fork.
            multiprocessing_context="spawn" if workers else None,
            # Copied to the GPU while that computes.
            pin_memory=fabric.device.type == "cuda",
        )
        self.loader = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        self.checkpoint = Checkpoint(settings.output, settings.identity())
        self.start = None if start is None else start.manifest["training"]
        self.epoch = 0 if self.start is None else self.start["epochs"]
        self.batches = 0  # done in this epoch
        self.step = 0 if self.start is None else self.start["steps"]
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

    def is_checkpoint_due(self) -> bool:
        """Whether the last one is old enough."""
        return self.clock.now - self.last_save > SECONDS_BETWEEN_CHECKPOINTS

    def restore(self) -> None:
        """Load the state that was saved last."""
        state = self.checkpoint.load()
        try:
            self.take(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ConfigError(
                f"{self.checkpoint.folder / STATE}: is no state of this run ({type(error).__name__}: "
                f"{one_line(error)}); run without --resume"
            ) from None
        self.console.print(
            f"going on after epoch {self.epoch} and {self.batches} batches, "
            f"{state['seconds'] / 60:.1f} minutes into the run"
        )

    def take(self, state: dict[str, Any]) -> None:
        """Become what `save` has written."""
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

    def progress(self) -> float:
        """Share of the training that is over, by steps or by time, whichever is further."""
        done = self.step / (self.recipe.epochs * len(self.loader))
        if self.settings.minutes is not None:
            whole = 60.0 * self.settings.minutes * (1.0 - self.screen_share(60.0 * self.settings.minutes))
            reserve = min(RESERVE * self.validation_seconds, LARGEST_RESERVE * whole) + self.step_seconds
            done = max(done, self.clock.now / max(whole - reserve, 1e-9))
        return min(done, 1.0)

    def screen_share(self, seconds: float) -> float:
        """Share of a run of this length that is reserved for the screen, from the time that an image takes."""
        if not self.recipe.screen:
            return 0.0
        image = self.validation_seconds / len(self.split.validation.images)
        return min(SCREEN_SHARE + image * anomalies_needed(self.settings.lost) / seconds, LARGEST_SCREEN_SHARE)

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
        self.tell(self.kept, view_images(self.kept, sample))
        start = self.clock.tick()
        self.tell(self.kept, view_images(self.kept, sample))
        return (self.clock.tick() - start) * len(images) / len(sample)

    def bound_validation(self, minutes: float) -> None:
        """Leave images out of the validation split where all of them would take too much of the run."""
        allowed = LARGEST_RESERVE * 60.0 * minutes / RESERVE
        normals = len(self.split.validation.labels) // 2
        kept = max(int(normals * allowed / self.validation_seconds), MIN_VALIDATION_NORMALS)
        if kept >= normals:
            return
        say_note(
            f"validating takes {self.validation_seconds / 60:.1f} of {minutes:g} minutes on this "
            f"machine: {kept} of {normals} normal images, and an anomaly of each, are validated on",
            self.console,
        )
        if self.fabric.is_global_zero:
            say_lowest_rate(kept, self.settings)
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
            if not self.settings.resume:
                self.bound_validation(self.settings.minutes)
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task("training", total=len(self.loader), status="")
            shown = 0.0

            def report(loss: Tensor) -> None:
                nonlocal shown
                bar.update(task, advance=1)
                if time.monotonic() - shown > SECONDS_BETWEEN_REPORTS:
                    bar.update(task, status=f"loss {float(loss):.4f}")
                    shown = time.monotonic()

            while self.progress() < 1.0:
                bar.update(task, description=f"epoch {self.epoch + 1}", completed=self.batches)
                self.train_epoch(report)
                self.epoch += 1
                self.batches = 0
                if self.is_validation_due():
                    self.validate()
                # At the end, too: the package is still to be written.
                if self.is_checkpoint_due() or self.progress() >= 1.0:
                    self.save()
        if not self.last_validation:
            self.console.print(
                "note: nothing was trained: the minutes were over before the first step; give more --minutes"
            )
            self.validate()

    def train_epoch(self, report: Callable[[Tensor], None]) -> None:
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
            if self.is_checkpoint_due():
                self.save()

    def train_step(self, images: Tensor, masks: Tensor, rate: float) -> Tensor:
        """Change the weights by one batch, at a learning rate; returns the loss before, without waiting for it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(images, masks)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach()

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """The loss of a step: its mean over the processes is the mean over the images that count."""
        logits = self.module(images)
        losses = prn_losses(logits, masks, self.recipe.focal_weight, self.recipe.smooth_l1)
        if self.recipe.score_weight:
            losses = losses + self.recipe.score_weight * score_losses(logits, masks)
        if self.recipe.hard_mining == 1.0:
            return losses.mean()
        # The hardest anomalies are those of the whole step, of which this process has a part.
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
        detections = self.judge_validation(self.kept)
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

    def judge_validation(self, model: PRN, screened: bool = False, folds: FoldScreens | None = None) -> Detections:
        """Scores and maps of the validation images by a network.

        A learned map and a learned score are fitted to them first. Each image is scored by weights of the score that
        were fitted without it: what is said of these scores, the threshold above all, then holds for images that no fit
        knows. The map's few weights are fitted to hundreds of thousands of pixels.

        Args:
            model: on the device of the run.
            screened: whether the learned map's screen is trained; until then it weighs nothing.
            folds: screens in its place to fit with, as it knows the seen defects; without them, those are left out.
        """
        validation, learned_map = self.split.validation, model.learned_map
        seen_images, seen_masks = self.split.seen_images, self.split.seen_masks
        nothing_is_fitted = learned_map is None and model.learned_score is None
        if nothing_is_fitted or (screened and folds is None):
            seen_images, seen_masks = seen_images[:0], seen_masks[:0]
        views, seen = view_images(model, validation.images), view_images(model, seen_images)
        fitted_to = views
        if learned_map is not None:
            if folds is not None:
                blind, blind_seen = folds.blind(model, validation.images, seen_images)
                fitted_to, seen = views.screened(blind), seen.screened(blind_seen)
            weighed = np.array([screened or name != SCREEN for name in learned_map.names])
            some, some_seen = (Views(one.logits, one.others[:, weighed[1:]]) for one in (fitted_to, seen))
            weights = np.zeros(len(weighed) + 1, np.float32)
            names = [name for name, one in zip(learned_map.names, weighed, strict=True) if one]
            weights[[*weighed, True]] = fit_map(some, validation.labels, validation.masks, some_seen, seen_masks, names)
            learned_map.set_weights(torch.from_numpy(weights))
        scores, maps, statistics = self.tell(model, views)
        if model.learned_score is not None:
            seen_statistics = self.tell(model, seen)[2]
            fitted = fit_score(
                statistics if folds is None else self.tell(model, fitted_to)[2],
                validation.labels,
                seen_statistics,
                self.settings.seed,
                told_by=(statistics, seen_statistics),
            )
            model.learned_score.set_weights(torch.from_numpy(fitted.weights))
            scores = fitted.held_out
        return Detections.of(scores, maps)

    @torch.inference_mode()
    def tell(self, model: PRN, views: Views) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Scores (N,), maps (N, S, S) and the statistics (N, J) of a learned score, by the model's weights."""
        scores, maps = np.empty(len(views.logits), np.float32), np.empty(views.logits.shape, np.float32)
        statistics = np.empty((len(scores), len(STATISTICS)), np.float32)
        for start in range(0, len(scores), EXTRACTION_BATCH):
            part = slice(start, start + EXTRACTION_BATCH)
            logits = torch.from_numpy(views.logits[part, None]).to(self.fabric.device)
            if model.learned_map is not None:
                logits = model.learned_map.weigh(logits, torch.from_numpy(views.others[part]).to(self.fabric.device))
            scores[part], maps[part] = (one.cpu().numpy() for one in model.scored_logits(logits))
            statistics[part] = map_statistics(logits).cpu().numpy()
        return scores, maps, statistics

    # -- result -------------------------------------------------------------------------------------------------

    def finish(self, missing: list[str]) -> Package:
        """Write the package, give it a screen, and forget the run: one that is cut short in between can be resumed."""
        self.model.load_state_dict(self.best["state"])
        # With a trained screen, the validation split is looked at once more, and once by the screens of the folds.
        bound, refit = self.settings.minutes, 0.0 if self.model.learned_map is None else 2.0 * self.validation_seconds
        deadline = Deadline.after(None if bound is None else max(60.0 * bound - self.clock.now - refit, 0.0))
        trained = self.train_map_screen(deadline)
        package = self.write_package(missing)
        if self.recipe.screen:
            give_screen(
                package,
                self.model,
                self.split,
                self.recipe,
                seed=self.settings.seed,
                wanted_loss=self.settings.lost,
                deadline=deadline,
                trained=trained,
                say=lambda line: self.console.print(Text(line), soft_wrap=True),
            )
        self.checkpoint.remove()
        return package

    def train_map_screen(self, deadline: Deadline) -> TrainedScreen | None:
        """Train the screen that the map of the best weights reads, and fit map and score again with it.

        None where the map reads no screen, or no time is left: both then stay as they are, as they do where no time is
        left for the screens to fit with. Where fewer than two defects are seen, no screen can tell them without knowing
        them; the fit is then to generated ones alone.
        """
        learned_map, validation, split = self.model.learned_map, self.split.validation, self.split
        if learned_map is None or learned_map.screen is None or deadline.passed():
            return None
        normals = validation.images[validation.labels == 0]
        training = time_to_train(self.model, normals, split.all_kinds, self.settings.lost, deadline)
        parts = 2 if len(split.seen) > 1 else 1
        trained = train_screen(
            self.model, split.normals, split.generator, self.recipe, self.settings.seed, training.part(1, parts)
        )
        learned_map.screen.load_state_dict(trained.screen.state_dict())
        if training.passed():
            return trained
        folds = None
        if parts > 1:
            seen, count = list(zip(split.seen_images, split.seen_masks, strict=True)), fold_count(len(split.seen))
            generators = [split.generator.with_seen(seen[fold::count]) for fold in range(count)]
            folds = train_fold_screens(
                self.model, split.normals, generators, len(seen), self.recipe, self.settings.seed, training.rest()
            )
        detections = self.judge_validation(self.model, screened=True, folds=folds)
        self.best["metrics"] = validation_metrics(detections, validation)
        self.best["calibration"] = calibrate(detections, validation, self.settings.false_alarm_rate)
        return trained

    def write_package(self, missing: list[str]) -> Package:
        """Write the best weights, what they score on the validation split, and how they came about."""
        validation = self.split.validation
        chosen = np.random.default_rng(self.settings.seed).permutation(len(self.split.normals))
        package = Package.create(
            self.settings.output,
            self.model,
            calibration_images=self.split.normals[np.sort(chosen[:MAX_CALIBRATION_IMAGES])],
            validation=validation,
            calibration=self.best["calibration"],
            training={
                "data": str(self.settings.data.resolve()),
                "layout": self.settings.layout,
                "preset": self.settings.preset,
                "tiles": {"overlap": TILE_OVERLAP} if self.settings.tiles else None,
                "seed": self.settings.seed,
                "seen": list(self.split.seen),
                "most_normals": self.settings.normals,
                "parts": self.split.parts,
                "seen_parts": None if self.split.seen_parts is None else list(self.split.seen_parts),
                "seen_fingerprints": [fingerprint.to_dict() for fingerprint in self.split.fingerprints],
                "normals": self.split.images,
                "textures": "generated" if self.settings.textures is None else str(self.settings.textures.resolve()),
                "start": None
                if self.start is None
                else {"image_size": SIZES[0], **{name: self.start[name] for name in ("epochs", "steps", "minutes")}},
                "warm_start": None if self.settings.warm_start is None else str(self.settings.warm_start.resolve()),
                "backbone_weights": "published"
                if self.settings.backbone_weights is None
                else str(self.settings.backbone_weights.resolve()),
                "backbone_weights_missing": missing if self.start is None else self.start["backbone_weights_missing"],
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
        return package
