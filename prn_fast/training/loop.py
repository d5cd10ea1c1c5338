"""The training loop: epochs, validation, and the checkpoint that a run goes on from."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prn_fast.data.training_set import EpochBatches, TrainingSet, use_one_thread
from prn_fast.errors import ConfigError, one_line
from prn_fast.model.engine_graph import fold_batch_norm
from prn_fast.model.prn import PRN, full_precision
from prn_fast.package import Package
from prn_fast.training.average import make_average
from prn_fast.training.batch_norm import join_batch_norms
from prn_fast.training.calibration import calibrate, validation_metrics
from prn_fast.training.checkpoint import STATE, Checkpoint
from prn_fast.training.early_exit import anomalies_needed
from prn_fast.training.hardware import loader_workers
from prn_fast.training.judging import judge_validation, tell
from prn_fast.training.learned_map import view_images
from prn_fast.training.losses import hardest, prn_losses, score_losses
from prn_fast.training.notes import say_lowest_rate, say_note
from prn_fast.training.processes import Clock, sum_over_processes
from prn_fast.training.recipe import Recipe, learning_rate_factor
from prn_fast.training.screen import EXTRACTION_BATCH
from prn_fast.training.settings import TrainingSettings
from prn_fast.training.split import Split

# Validation takes at most a tenth of the time; if it is quick, once a minute is enough.
SECONDS_BETWEEN_VALIDATIONS = 60.0
TRAINING_PER_VALIDATION = 9.0
# A kill costs no more than this, even if an epoch takes an hour; and where an epoch takes seconds, a gigabyte is not
# written after each one.
SECONDS_BETWEEN_CHECKPOINTS = 300.0
# The loss is shown at most this often: reading it waits for the GPU.
SECONDS_BETWEEN_REPORTS = 1.0
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
    """One training run: its state, and its steps from the first epoch to the last."""

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
        tell(self.kept, view_images(self.kept, sample))
        start = self.clock.tick()
        tell(self.kept, view_images(self.kept, sample))
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
        detections = judge_validation(self.kept, self.split, self.settings.seed)
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
