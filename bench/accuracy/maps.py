"""What learned maps and image scores find on trained packages, and which of them a package should have.

    python -m prn_fast.bench.accuracy maps PACKAGE... --output maps.json

No network is trained, so that any number of products can be asked. Each package has a screen and has seen none or some
of the first `DRAWN` defects of its seed's draw, five, say. A memory of normal patches is made of its calibration
images. A learned map that it may have is left aside. `CANDIDATES` are the maps of `MAPS`, each with the published image
score and with the learned one.

Validation asks how defects that the network has not seen stand out beside held-out normal images: those of the same
draw that training left. They are neither fitted to nor scored in the test. The weights are fitted as training fits
them, to the validation split and the seen defects, each of which is told by a screen that has not seen it
(`prn_fast.training.cross_fit`). Each held-out normal image is told by weights that were fitted without it.

Two other validations are recorded beside it, to show how well they rank maps as the test does: the seen defects, each
told by screens and weights that do not know it, though the network has trained with pasted pieces of it; and the
anomalies that were generated for the validation split.

The rule, of validation figures alone, averaged over the packages of a product, then over products: maps are judged by
the mean of pixel AUROC and PRO. They stand in the order of what they cost, and then of how little they change the
weights that were fitted. The first one within `MARGIN` of the best is chosen. Of its two scores, the learned one is,
unless its image AUROC is lower by more than `MARGIN`: a few defects tell scores apart only roughly, and the published
score has a size of defects built in.

Figures are written after each package; those that are there are not taken again.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.bench.accuracy.record import MAPS_FILE
from prn_fast.bench.machine.environment import require_clean
from prn_fast.bench.machine.measurement import add_allow_dirty
from prn_fast.bench.report.formatting import ABSENT
from prn_fast.bench.report.markdown import table
from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.duplicates import fingerprints
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.samples import draw_seen, load_samples
from prn_fast.data.textures import load_textures
from prn_fast.environment import commit, cpu_name
from prn_fast.errors import DataError, PackageError, PRNError
from prn_fast.files import replace_file
from prn_fast.kernels import OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import anomaly_score, map_statistics
from prn_fast.model.learned_map import MEMORY, NETWORK, SCREEN, LearnedMap
from prn_fast.model.memory import memory_size, remember
from prn_fast.model.prn import PRN
from prn_fast.package import Package
from prn_fast.paths import shown_path
from prn_fast.training.add_screen import recorded_recipe, recorded_textures
from prn_fast.training.cross_fit import FoldScreens, fold_count, train_fold_screens
from prn_fast.training.image_score import fit_score
from prn_fast.training.initial_network import slices
from prn_fast.training.learned_map import Views, fit_map, view_images
from prn_fast.training.metrics import image_metrics, pixel_metrics
from prn_fast.training.screen import EXTRACTION_BATCH
from prn_fast.training.settings import MEMORY as PATCHES
from prn_fast.training.unseen import leave_out_seen, part_test_images

# Draws of what is left out of the fit of a score, over which its validation figures are averaged.
DRAWS = 3
# Less than this between two means over a handful of products is noise.
MARGIN = 0.01
# Seen and unseen defects together, the most that training sees by default.
DRAWN = 10


class Mix(NamedTuple):
    """What a map weighs beside the network's logits, as columns of `Views.others`; and what its prior weighs."""

    columns: tuple[int, ...]
    prior_defects: float = 0.0


MAPS = {
    "network": Mix(()),
    "network, memory": Mix((0,)),
    "network, screen": Mix((1,)),
    "network, memory, screen": Mix((0, 1)),
    "all, prior of 2": Mix((0, 1), 2),
    "all, prior of 5": Mix((0, 1), 5),
    "all, prior of 10": Mix((0, 1), 10),
    "all, prior alone": Mix((0, 1), math.inf),
}
PUBLISHED, LEARNED = "published", "learned"
CANDIDATES = tuple(f"{name}: {score}" for name in MAPS for score in (PUBLISHED, LEARNED))
NORMAL, ANOMALOUS, UNSEEN, SEEN = 0, 1, 2, 3
FIGURES = {"image": "image AUROC", "pixel": "pixel AUROC", "pro": "PRO", "ap": "pixel AP"}
JUDGED = ("pixel", "pro")  # what the rule averages to judge a map
SHOWN = ("image", *JUDGED)
VALIDATED = {"generated": "generated", "seen": "seen, cross-fit", "unseen": "not seen"}
REQUIRED = ("generated", "unseen", "test")
Figures = dict[str, float]
Taken = dict[str, Any]


@dataclass(frozen=True)
class Images:
    """What maps are made of and judged by, of N images: views, kinds (N,) of `NORMAL` to `SEEN`, masks (N, S, S)."""

    views: Views
    kinds: NDArray[np.integer]
    masks: NDArray[np.bool_]

    def chosen(self, which: NDArray[np.bool_]) -> "Images":
        """Some of them, by (N,)."""
        return Images(Views(self.views.logits[which], self.views.others[which]), self.kinds[which], self.masks[which])


def examine(path: Path) -> Taken:
    """Figures of all candidates on validation, generated anomalies and test.

    Errors: PRNError for a package or data that is not there, a package that has seen all of the draw, or has no screen.
    """
    package = Package.open(path)
    training, config, validation = package.manifest["training"], package.config, package.validation()
    inspection = load_inspection_set(Path(training["data"]), training["layout"])
    drawn = draw_seen(inspection.anomalies or inspection.test, DRAWN, training["seed"])[0]
    unseen, seen = leave_out_seen(drawn, inspection.root, training["seen"])
    if not unseen:
        raise PackageError(
            f"{path}: has seen all {DRAWN} defects that seed {training['seed']} draws; its maps are validated by those "
            f"that it has not seen, so train with --seen {DRAWN // 2}, say"
        )
    # What validates is not tested with, nor are other pictures of the same parts.
    known = {
        **training,
        "seen": [shown_path(sample.path, inspection.root) for sample in drawn],
        "seen_fingerprints": [fingerprint.to_dict() for fingerprint in fingerprints(drawn)],
    }
    scored = part_test_images(inspection, known, None).scored
    model = with_learned_map(package)
    assert model.learned_map is not None
    (unseen_images, unseen_masks), (seen_images, seen_masks), (test_images, test_masks) = (
        load_samples(samples, config.image_size, config.image_channels) for samples in (unseen, seen, scored)
    )
    others = np.concatenate([validation.images, unseen_images])
    own = Images(
        view_images(model, np.concatenate([others, seen_images])),
        np.concatenate([validation.labels, np.full(len(unseen), UNSEEN), np.full(len(seen), SEEN)]),
        np.concatenate([validation.masks, unseen_masks, seen_masks]),
    )
    blind = own
    if len(seen) > 1:
        folds = _fold_screens(package, model, list(zip(seen_images, seen_masks, strict=True)))
        told = np.concatenate(folds.blind(model, others, seen_images))
        blind = dataclasses.replace(own, views=own.views.screened(told))
    test = Images(view_images(model, test_images), np.array([sample.label for sample in scored]), test_masks)
    return {
        "package": path.name,
        "data": Path(training["data"]).name,
        "epochs": training["epochs"],
        "seed": training["seed"],
        "commit": commit(),
        "device": cpu_name(),
        "held_out_normals": int((own.kinds == NORMAL).sum()),
        "seen": len(seen),
        "unseen": len(unseen),
        "test_images": len(scored),
        "candidates": judge(model.learned_map, own, blind, test),
    }


def with_learned_map(package: Package) -> PRN:
    """The network of a package with a learned map of its own screen and a memory of its calibration images."""
    normals, screen = package.calibration_images(), package.screen()
    count = memory_size(PATCHES, len(normals), package.config)
    config = dataclasses.replace(
        package.config, map="learned", score="published", memory=count, screen_width=screen.width
    )
    model = PRN(config, OPTIMIZED)
    own = ("learned_map.", "learned_score.")
    trained = {name: value for name, value in package.model().state_dict().items() if not name.startswith(own)}
    model.load_state_dict({**model.state_dict(), **trained})
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.prototypes.to(memory_format=torch.contiguous_format)
    assert model.learned_map is not None
    assert model.learned_map.memory is not None
    model.learned_map.screen = screen
    batches = (model.normalize(part) for part in slices(normals, EXTRACTION_BATCH))
    model.learned_map.memory.patches = remember(model.backbone, batches, len(normals), count)
    return model


def _fold_screens(
    package: Package, model: PRN, seen: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]]
) -> FoldScreens:
    """Screens for a package's network that have not seen some of its seen defects, (image, mask) each."""
    training = package.manifest["training"]
    recipe, seed, count = recorded_recipe(training), training["seed"], fold_count(len(seen))
    textures = load_textures(recorded_textures(training), package.config.image_channels, seed=seed)
    generator = AnomalyGenerator(
        textures,
        extended_share=recipe.extended_share,
        augment=recipe.augment,
        sources=recipe.simulated_sources,
        foreground=recipe.foreground,
    )
    generators = [generator.with_seen(seen[fold::count]) for fold in range(count)]
    return train_fold_screens(model, package.calibration_images(), generators, len(seen), recipe, seed)


@torch.inference_mode()
def judge(learned_map: LearnedMap, own: Images, blind: Images, test: Images) -> dict[str, dict[str, Figures]]:
    """Figures of each candidate by kind.

    Args:
        learned_map: with memory and screen; its weights are changed.
        own: validation images, unseen and seen defects, by the package's screen.
        blind: the same by screens that have not seen the seen defects; of fewer than two, by the package's screen.
        test: by the package's screen.
    """
    found = {}
    for name, mix in MAPS.items():
        told, told_blind = held_out_logits(learned_map, blind, (own, blind), mix)
        weights = fit_weights(blind, mix)
        fitted, tested = (_weighed(learned_map, images.views, weights) for images in (blind, test))
        final = torch.from_numpy(_fit_score(fitted, fitted, blind.kinds, 0)[0])
        test_scores = {
            PUBLISHED: anomaly_score(tested)[0].numpy(),
            LEARNED: (map_statistics(tested) @ final[:-1] + final[-1]).numpy(),
        }
        maps, blind_maps, test_maps = (anomaly_score(logits)[1].numpy() for logits in (told, told_blind, tested))
        for score in (PUBLISHED, LEARNED):
            scores, blind_scores = (
                [anomaly_score(logits)[0].numpy()]
                if score == PUBLISHED
                else [_fit_score(told_blind, logits, blind.kinds, draw)[1] for draw in range(DRAWS)]
                for logits in (told, told_blind)
            )
            found[f"{name}: {score}"] = {
                "generated": _figures(blind_scores, blind_maps, blind, ANOMALOUS),
                **({"seen": _figures(blind_scores, blind_maps, blind, SEEN)} if SEEN in blind.kinds else {}),
                "unseen": _figures(scores, maps, own, UNSEEN),
                "test": _figures([test_scores[score]], test_maps, test, ANOMALOUS),
            }
    return found


def fit_weights(images: Images, mix: Mix) -> NDArray[np.float32]:
    """Weights for `LearnedMap.set_weights`, fitted to all images but unseen defects; 0 for what the mix leaves out."""
    weights = np.array([1, 0, 0, 0], np.float32)
    if mix.columns:
        some = dataclasses.replace(images, views=Views(images.views.logits, images.views.others[:, mix.columns]))
        rest, seen = (some.chosen(np.isin(some.kinds, kinds)) for kinds in ((NORMAL, ANOMALOUS), (SEEN,)))
        names = [NETWORK, *((MEMORY, SCREEN)[column] for column in mix.columns)]
        fitted = fit_map(rest.views, rest.kinds, rest.masks, seen.views, seen.masks, names, mix.prior_defects)
        weights[[0, *(1 + column for column in mix.columns), -1]] = fitted
    return weights


def held_out_logits(
    learned_map: LearnedMap, images: Images, told: Sequence[Images], mix: Mix
) -> tuple[torch.Tensor, ...]:
    """Logits (N, 1, S, S) of learned maps, each image's by weights that were fitted without it.

    Args:
        images: fitted to.
        told: other views of the same images, of which the logits are.
    """
    fold = np.empty(len(images.kinds), int)
    # Kind by kind, so that a normal image and the anomaly that was made of it are left out together.
    for kind in (NORMAL, ANOMALOUS, UNSEEN, SEEN):
        fold[images.kinds == kind] = np.arange((images.kinds == kind).sum())
    fold %= fold_count(int((images.kinds == SEEN).sum()))
    found = tuple(torch.empty(len(fold), 1, *images.views.logits.shape[1:]) for _ in told)
    for number in np.unique(fold):
        weights = fit_weights(images.chosen(fold != number), mix)
        for logits, one in zip(found, told, strict=True):
            logits[fold == number] = _weighed(learned_map, one.chosen(fold == number).views, weights)
    return found


def _weighed(learned_map: LearnedMap, views: Views, weights: NDArray[np.float32]) -> torch.Tensor:
    """Logits (N, 1, S, S) of learned maps by weights."""
    learned_map.set_weights(torch.from_numpy(weights))
    return learned_map.weigh(torch.from_numpy(views.logits[:, None]), torch.from_numpy(views.others))


def _fit_score(
    logits: torch.Tensor, told: torch.Tensor, kinds: NDArray[np.integer], draw: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights of a learned score, and scores (N,) of the images, each by weights that were fitted without it.

    Args:
        logits: (N, 1, S, S), fitted to; unseen defects are not.
        told: (N, 1, S, S), of which the scores are.
    """
    statistics, by = map_statistics(logits).numpy(), map_statistics(told).numpy()
    rest, seen, unseen = np.isin(kinds, (NORMAL, ANOMALOUS)), kinds == SEEN, kinds == UNSEEN
    fitted = fit_score(statistics[rest], kinds[rest], statistics[seen], draw, told_by=(by[rest], by[seen]))
    scores = np.empty(len(kinds), np.float32)
    scores[rest], scores[seen] = fitted.held_out, fitted.held_out_seen
    scores[unseen] = 1 / (1 + np.exp(-(by[unseen] @ fitted.weights[:-1] + fitted.weights[-1])))
    return fitted.weights, scores


def _figures(
    draws: Sequence[NDArray[np.float32]], maps: NDArray[np.float32], images: Images, anomalous: int
) -> Figures:
    """Of one kind of anomaly beside normal images, by maps (N, S, S) and one or more draws of scores (N,)."""
    which = np.isin(images.kinds, (NORMAL, anomalous))
    labels = (images.kinds[which] != NORMAL).astype(int)
    image = float(np.mean([image_metrics(scores[which], labels).auroc for scores in draws]))
    pixel = pixel_metrics(maps[which], images.masks[which])
    return {"image": image, "pixel": pixel.auroc, "pro": pixel.pro, "ap": pixel.average_precision}


def mean_figures(packages: Sequence[Taken], name: str, kind: str) -> Figures:
    """Figures of a candidate, averaged over the packages of each product, then over products."""
    products: dict[str, list[Figures]] = {}
    for one in packages:
        products.setdefault(one["data"], []).append(one["candidates"][name][kind])
    return {
        figure: float(np.mean([np.mean([one[figure] for one in group]) for group in products.values()]))
        for figure in FIGURES
    }


def validated_by(packages: Sequence[Taken], name: str) -> float:
    """What the module's rule judges the map of a candidate by."""
    means = mean_figures(packages, name, "unseen")
    return float(np.mean([means[figure] for figure in JUDGED]))


def choose(packages: Sequence[Taken]) -> str:
    """The candidate that the module's rule chooses."""
    means = {name: validated_by(packages, f"{name}: {LEARNED}") for name in MAPS}
    best = next(name for name, mean in means.items() if mean >= max(means.values()) - MARGIN)
    learned, published = (
        mean_figures(packages, f"{best}: {score}", "unseen")["image"] for score in (LEARNED, PUBLISHED)
    )
    return f"{best}: {LEARNED if learned >= published - MARGIN else PUBLISHED}"


def maps_table(folder: Path) -> str:
    """Two tables of one row a candidate: means of products, of validation and test; and the test by package."""
    packages = _read(folder / MAPS_FILE)
    if not packages:
        return ""
    chosen, means, tests = choose(packages), [], []
    for name in CANDIDATES:
        title = f"**{name}**" if name == chosen else name
        validation, test = (mean_figures(packages, name, kind) for kind in ("unseen", "test"))
        values = [*(validation[figure] for figure in SHOWN), validated_by(packages, name), *test.values()]
        means.append([title, *(f"{value:.3f}" for value in values)])
        found = [*(one["candidates"][name]["test"] for one in packages), test]
        tests.append([title, *(" / ".join(f"{one[figure]:.3f}" for figure in SHOWN) for one in found)])
    shown = [FIGURES[figure] for figure in SHOWN]
    heads = [
        *(f"validation {title}" for title in shown),
        "mean of the last two",
        *(f"test {one}" for one in FIGURES.values()),
    ]
    found_of = f"test {' / '.join(shown)}"
    products = [f"{_title(one)}, {one['epochs']} epochs" for one in packages]
    commits, devices = (" and ".join(sorted({one[key] for one in packages})) for key in ("commit", "device"))
    counts = ", ".join(
        f"{one['data']} {one['seen']}, {one['unseen']} and {one['held_out_normals']}" for one in packages
    )
    return (
        f"{table(('means of products', *heads), means)}\n\n"
        f"{table((found_of, *products, 'mean of products'), tests)}\n\n"
        f"Defects seen, defects that validate, and held-out normal images: {counts}. "
        f"`python -m prn_fast.bench.accuracy maps PACKAGE... --output {MAPS_FILE}`, commit {commits}, on {devices}."
    )


def _title(package: Taken) -> str:
    return f"{package['data']}, {package['seen']} seen, seed {package['seed']}"


def predictors_table(folder: Path) -> str:
    """One row for each kind of validation anomaly and figure: its rank correlation with the test, over candidates.

    For each package, and for the means over all packages; and what the test says of the candidate that is best by it.
    """
    from scipy.stats import spearmanr

    packages, rows = _read(folder / MAPS_FILE), []
    if not packages:
        return ""
    for figure in ("image", "pixel"):
        for kind, anomalies in VALIDATED.items():
            told = [one for one in packages if kind in one["candidates"][CANDIDATES[0]]]
            if not told:
                continue
            values = np.array(
                [
                    [[one["candidates"][name][part][figure] for part in (kind, "test")] for name in CANDIDATES]
                    for one in told
                ]
            )
            means = values.mean(0)
            # Where all are equal there is no rank.
            ranks = [
                f"{spearmanr(*one.T).statistic:.2f}" if np.ptp(one, axis=0).all() else ABSENT
                for one in (*values, means)
            ]
            cells = dict(zip([id(one) for one in told], ranks[:-1], strict=True))
            best = int(means[:, 0].argmax())
            rows.append(
                [
                    f"{FIGURES[figure]}, {anomalies}",
                    *(cells.get(id(one), ABSENT) for one in packages),
                    ranks[-1],
                    f"{CANDIDATES[best]}: {means[best, 1]:.3f}",
                ]
            )
    heads = [*(_title(one) for one in packages), "mean figures"]
    made = table(("rank correlation with the test", *heads, "best by the mean: its test figure"), rows)
    return f"{made}\n\n{len(CANDIDATES)} candidates, from the run above; both scores of a map share its pixel AUROC."


def _read(path: Path) -> list[Taken]:
    """The packages of a record; none where there is no file."""
    if not path.exists():
        return []
    try:
        packages = json.loads(path.read_text(encoding="utf-8"))["packages"]
        for one in packages:
            for found in (one["candidates"][name] for name in CANDIDATES):
                [float(found[kind][figure]) for kind in REQUIRED for figure in FIGURES]
        return packages
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: holds no figures of maps; take them again or remove it") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Take the figures of packages; 2 on an error."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.accuracy maps")
    parser.add_argument("packages", type=Path, nargs="+", metavar="PACKAGE", help="whose training data is still there")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    add_allow_dirty(parser)
    arguments = parser.parse_args(argv)
    try:
        require_clean(commit(), arguments.allow_dirty)
        done = _read(arguments.output)
        for path in arguments.packages:
            if any(one["package"] == path.name for one in done):
                print(f"{path.name}: recorded", flush=True)
                continue
            done.append(examine(path))
            text = json.dumps({"schema": "prn-maps", "packages": done}, indent=1, allow_nan=False) + "\n"
            replace_file(arguments.output, text.encode())
            print(f"{path.name}: taken", flush=True)
        for name in CANDIDATES:
            print(f"{name}: {validated_by(done, name):.3f}", flush=True)
        print(f"chosen, by defects not seen beside held-out normal images: {choose(done)}", flush=True)
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
