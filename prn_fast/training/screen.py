"""Training the screen: on features and residuals of the trained network, computed once, in minutes.

Images, anomalies and losses are those of the network's training, the losses at the screen's stride. The network does
not change.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.training_set import TrainingSet
from prn_fast.model.config import SCREEN_STRIDE
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.prn import PRN
from prn_fast.model.screen import SCREEN_TOP_PIXELS, Screen
from prn_fast.training.losses import prn_losses, score_losses
from prn_fast.training.recipe import Recipe, learning_rate_factor

BATCH = 16
LEARNING_RATE = 3e-3
# Whether an image leaves depends on its score alone, so the loss of the score weighs more than in the network.
SCORE_WEIGHT = 0.5
ANOMALIES_PER_NORMAL = 2
EXTRACTION_BATCH = 16
# Inputs are kept in half precision: the most memory that they may take, and the most images to keep.
MAX_BYTES = 2 * 1024**3
# Share of the allowed time for the inputs; the rest is for the steps.
INPUTS_SHARE = 0.5
# Gives other anomalies than the network's epochs had.
_SEED_OFFSET = 7_919


@dataclass(frozen=True)
class Deadline:
    """A moment by `time.monotonic`; None never comes."""

    start: float
    seconds: float | None = None

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """A number of seconds from now."""
        return cls(time.monotonic(), seconds)

    def passed(self, share: float = 1.0) -> bool:
        """Whether this share of the time is over."""
        return self.seconds is not None and time.monotonic() - self.start > share * self.seconds

    def part(self, done: int, parts: int) -> "Deadline":
        """The moment by which so many of equal parts should be done."""
        return self if self.seconds is None else Deadline(self.start, self.seconds * done / parts)

    def rest(self) -> "Deadline":
        """The same moment, counted from now."""
        if self.seconds is None:
            return self
        now = time.monotonic()
        return Deadline(now, max(self.start + self.seconds - now, 0.0))

    def for_steps(self, parts: int) -> "Deadline":
        """The end of the first of equal parts of the time that is left, as if a screen's inputs were there already."""
        if self.seconds is None:
            return self
        now = time.monotonic()
        steps = max(self.start + self.seconds - now, 0.0) / parts
        whole = steps / (1.0 - INPUTS_SHARE)
        return Deadline(now - INPUTS_SHARE * whole, whole)


@dataclass(frozen=True)
class ScreenInputs:
    """What the screen's weights are applied to, of n images.

    Attributes:
        maps: as `Screen.inputs` gives them, float16, each channel divided by its `deviations`.
        deviations: (2 C_s,) float32 of each of the maps.
        masks: (n, S / 8, S / 8) bool: cells with a pixel of a defect.
    """

    maps: list[Tensor]
    deviations: list[Tensor]
    masks: Tensor

    @classmethod
    def joined(cls, parts: Sequence["ScreenInputs"]) -> "ScreenInputs":
        """Those of several sets, all in the units of the first."""
        maps = [torch.cat(scale) for scale in zip(*(part.maps for part in parts), strict=True)]
        return cls(maps, parts[0].deviations, torch.cat([part.masks for part in parts]))


class TrainedScreen(NamedTuple):
    """A screen in eval mode, on the CPU; and how many steps it was trained for: fewer if the time ran out."""

    screen: Screen
    steps: int


def train_screen(
    model: PRN,
    normals: NDArray[np.uint8],
    generator: AnomalyGenerator,
    recipe: Recipe,
    seed: int,
    deadline: Deadline | None = None,
) -> TrainedScreen:
    """A screen for a trained network.

    Args:
        model: trained; its device is used.
        normals: uint8 (N, S, S, C), trained on.
        generator: of the anomalies.
        recipe: of the network: its losses, flips and light.
        seed: of every draw: the same seed gives the same screen on the same machine, unless the time runs out.
        deadline: of inputs and steps together.
    """
    deadline = deadline or Deadline.after(None)
    dataset = TrainingSet(
        normals,
        generator,
        seed + _SEED_OFFSET,
        flips=recipe.flips,
        anomaly_ratio=ANOMALIES_PER_NORMAL,
        light=recipe.light,
    )
    graph = EngineGraph(model, model.ops)
    torch.manual_seed(seed)
    screen = Screen(model.config)
    inputs = screen_inputs(graph, screen, dataset, seed, deadline)
    return fit_screen(screen, inputs, recipe, seed, deadline)


@torch.no_grad()
def screen_inputs(
    graph: EngineGraph,
    screen: Screen,
    dataset: TrainingSet,
    seed: int,
    deadline: Deadline,
    units: Sequence[Tensor] | None = None,
    max_bytes: float = MAX_BYTES,
) -> ScreenInputs:
    """The inputs of the items of a dataset, in an order drawn by the seed, as many as memory and time allow.

    Inputs are in the given units, see `ScreenInputs.deviations`; by default in their own.
    """
    device, kept_bytes = graph.model.decoder.out.weight.device, 0
    order = np.random.default_rng(seed).permutation(len(dataset))
    parts: list[list[Tensor]] = []
    masks: list[Tensor] = []
    deviations = [] if units is None else [one.to(device) for one in units]
    for start in range(0, len(order), EXTRACTION_BATCH):
        items = [dataset[int(index)] for index in order[start : start + EXTRACTION_BATCH]]
        images = torch.stack([image for image, _ in items]).to(device)
        maps = [one.float() for one in screen.inputs(*graph.model.frozen(images))]
        if not deviations:
            # Of the first few images: it only brings channels to about one.
            deviations = [one.std((0, 2, 3)).clamp_min(1e-4) for one in maps]
        parts.append(
            [(one / deviation[:, None, None]).half().cpu() for one, deviation in zip(maps, deviations, strict=True)]
        )
        cells = torch.stack([mask for _, mask in items])[:, None]
        masks.append(functional.max_pool2d(cells, SCREEN_STRIDE)[:, 0] > 0)
        kept_bytes += sum(one.nbytes for one in parts[-1])
        if kept_bytes > max_bytes or deadline.passed(INPUTS_SHARE):
            break
    return ScreenInputs(
        [torch.cat(scale) for scale in zip(*parts, strict=True)], [one.cpu() for one in deviations], torch.cat(masks)
    )


def fit_screen(
    screen: Screen,
    inputs: ScreenInputs,
    recipe: Recipe,
    seed: int,
    deadline: Deadline,
    items: Tensor | None = None,
) -> TrainedScreen:
    """Train a screen on its inputs, or on those of some items: `screen` itself, for inputs in their own units."""
    items = torch.arange(len(inputs.masks)) if items is None else items
    parameters = [parameter for parameter in screen.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = Recipe(schedule="cosine")
    screen.train()
    steps = 0
    for step, drawn in enumerate(_batches(len(items), seed)):
        chosen = items[drawn]
        progress = max(step / recipe.screen_steps, _progress(deadline))
        if progress >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_factor(schedule, progress)
        logits = screen.logits_of_inputs([maps[chosen].float() for maps in inputs.maps])
        masks = inputs.masks[chosen].float()
        loss = screen_losses(logits, masks, recipe).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return TrainedScreen(screen.eval().requires_grad_(False).take_units(inputs.deviations), steps)


def _progress(deadline: Deadline) -> float:
    """Share of the time for the steps that is over."""
    if deadline.seconds is None:
        return 0.0
    if deadline.seconds <= 0:
        return 1.0
    spent = (time.monotonic() - deadline.start) / deadline.seconds
    return max(0.0, (spent - INPUTS_SHARE) / (1.0 - INPUTS_SHARE))


def _batches(count: int, seed: int) -> Iterator[Tensor]:
    """Endless batches, through all items in a drawn order before one comes again."""
    drawn = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=drawn).split(BATCH)


def screen_losses(logits: Tensor, masks: Tensor, recipe: Recipe) -> Tensor:
    """The losses of the network, at the screen's stride: (B,) float32 of logits (B, 1, h, w) and masks (B, h, w)."""
    pixels = prn_losses(logits, masks, recipe.focal_weight, recipe.smooth_l1)
    return pixels + SCORE_WEIGHT * score_losses(logits, masks, SCREEN_TOP_PIXELS)
