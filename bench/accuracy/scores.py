"""What image scores find on the maps of trained packages, and which of them a package should have.

    python -m prn_fast.bench.accuracy scores PACKAGE... --output scores.json

No network is trained, so that any number of products can be asked; each package brings a screen (`prn-train
--add-screen`). A memory of normal patches is made of the package's calibration images. Scores are validated by the seen
defects beside held-out normal images: of all that can be known before the test, this ranks scores best. A score that is
fitted tells each of these images by weights that were fitted without it.

The network's training has pasted pieces of the seen defects, and the memory knows nothing of them. The package's screen
knows them, too. So each seen defect's statistics come from a screen that has not seen it, and those of the other
validation images are the means over these screens (`prn_fast.training.cross_fit`). Test images are judged by the
package's own screen. What that one tells of the seen defects is kept beside it. Records of earlier versions have
nothing else, and their scores are chosen by it.

The rule, of validation figures alone: `CANDIDATES` stand in the order of what they cost. Figures are averaged over the
packages of a product, then over products. The first candidate within `MARGIN` of the best mean is chosen.

Fixed rules tell which anomalies predict: those that are generated for validation, the seen ones as the package's screen
tells them, or as one does that has not seen them.
Figures are written after each package; those that are there are not taken again.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.bench.accuracy.record import SCORES_FILE
from prn_fast.bench.machine.environment import require_clean
from prn_fast.bench.machine.measurement import add_allow_dirty
from prn_fast.bench.report.markdown import table
from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.samples import load_samples
from prn_fast.data.textures import load_textures
from prn_fast.engine.early_exit import logit
from prn_fast.environment import commit, cpu_name
from prn_fast.errors import DataError, PackageError, PRNError
from prn_fast.files import replace_file
from prn_fast.kernels import OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import LARGEST, STATISTICS, TOP_PIXELS, anomaly_score
from prn_fast.model.image_score import MEMORY_STATISTICS, SCREEN_STATISTICS, screen_statistics
from prn_fast.model.memory import memory_size, remember
from prn_fast.model.prn import PRN
from prn_fast.model.screen import Screen
from prn_fast.package import Package
from prn_fast.training.add_screen import recorded_recipe, recorded_textures
from prn_fast.training.cross_fit import FoldScreens, fold_count, train_fold_screens
from prn_fast.training.image_score import fit_score
from prn_fast.training.metrics import image_metrics
from prn_fast.training.unseen import part_test_images

BATCH = 8
MEMORY = 1000  # patches: 0.3 GFLOP an image at 256 px, where lite0 takes 5
# Draws of what is left out of a fit, over which figures are averaged.
DRAWS = 5
# Less than this between two means over a handful of products is noise.
MARGIN = 0.01
# Of the statistics of an image, in this order.
NAMES = (*STATISTICS, *MEMORY_STATISTICS, *SCREEN_STATISTICS)
MEAN, SPREAD = STATISTICS.index("mean"), STATISTICS.index("spread")
# Called with statistics (N, J), in the order of `NAMES`, and published scores (N,).
Rule = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.floating]]
# By kind of image, "validation", "seen" and "test": statistics (N, J), or published scores (N,); scores.
Statistics = dict[str, NDArray[np.float32]]
Parts = dict[str, NDArray[np.floating]]
# What a score may know beside the map, cheapest first: the map alone, memory, screen.
LEARNED = {
    "learned: map": STATISTICS,
    "learned: map, memory": (*STATISTICS, *MEMORY_STATISTICS),
    "learned: map, screen": (*STATISTICS, *SCREEN_STATISTICS),
    "learned: map, memory, screen": NAMES,
}
# Means of statistics, each in units of its spread over held-out normal images.
AVERAGES = {
    "average: map, memory": (f"largest {TOP_PIXELS}", MEMORY_STATISTICS[0]),
    "average: map, memory, screen": (f"largest {TOP_PIXELS}", MEMORY_STATISTICS[0], SCREEN_STATISTICS[0]),
}
FIXED = ("published", "largest 1", "largest 1 less mean, over spread", "largest 10 less mean, over spread")
# A score that is fitted without the seen defects, as for a package that has seen none. No candidate.
UNSEEN = ", fitted without seen"
# A score that is fitted to what the package's own screen tells of the seen defects. No candidate.
KNOWN = ", fitted to a screen that knows"
# The figure of seen defects by screens that have not seen them.
CROSS_FIT = "seen, cross-fit"
CANDIDATES = (
    *FIXED,
    "learned: map",
    "average: map, memory",
    "learned: map, memory",
    "learned: map, screen",
    "average: map, memory, screen",
    "learned: map, memory, screen",
)


def _one(index: int, statistics: NDArray[np.float32], published: NDArray[np.float32]) -> NDArray[np.floating]:
    return statistics[:, index]


def _less_mean(
    index: int, share: float, statistics: NDArray[np.float32], published: NDArray[np.float32]
) -> NDArray[np.floating]:
    return statistics[:, index] - share * statistics[:, MEAN]


def _over_spread(index: int, statistics: NDArray[np.float32], published: NDArray[np.float32]) -> NDArray[np.floating]:
    return (statistics[:, index] - statistics[:, MEAN]) / np.maximum(statistics[:, SPREAD], 1e-6)


def _rules() -> dict[str, Rule]:
    """Fixed scores, to ask which validation ranks them as test images do."""
    rules: dict[str, Rule] = {"published": lambda statistics, published: published}
    for index, name in enumerate(NAMES):
        rules[name] = partial(_one, index)
    for index, name in enumerate(STATISTICS[: len(LARGEST)]):
        for share in (0.5, 1.0):
            rules[f"{name} less {share:g} mean"] = partial(_less_mean, index, share)
        rules[f"{name} less mean, over spread"] = partial(_over_spread, index)
    return rules


RULES = _rules()


def score_package(path: Path) -> dict[str, Any]:
    """Image AUROC by score, for seen and generated anomalies beside held-out normal images, and for the test.

    Errors: PRNError for a package or data that is not there, or a package that has seen no defect or has no screen.
    """
    package = Package.open(path)
    training = package.manifest["training"]
    inspection = load_inspection_set(Path(training["data"]), training["layout"])
    images = part_test_images(inspection, training, None)
    if not images.seen:
        raise PackageError(f"{path}: has seen no defect, so that its scores cannot be validated; train with --seen")
    side, channels = package.config.image_size, package.config.image_channels
    validation = package.validation()
    model, screen = with_memory(package), package.screen()
    seen = load_samples(images.seen, side, channels)
    folds = _fold_screens(package, model, list(zip(seen[0], seen[1], strict=True)))
    published: Statistics = {}
    known: Statistics = {}
    blind: Statistics = {}
    published["validation"], known["validation"], told = measure(model, screen, validation.images, folds.screens)
    blind["validation"] = _by_screen(known["validation"], told.mean(0))
    published["seen"], known["seen"], told = measure(model, screen, seen[0], folds.screens)
    blind["seen"] = _by_screen(known["seen"], told[folds.left_out, np.arange(len(seen[0]))])
    published["test"], known["test"], _ = measure(model, screen, load_samples(images.scored, side, channels)[0])
    test_labels = np.array([sample.label for sample in images.scored])
    labels = {"validation": validation.labels, "test": test_labels}
    rules = {
        name: _found(
            {part: rule(known[part], published[part]) for part in known},
            {part: rule(blind[part], published[part]) for part in blind},
            labels,
        )
        for name, rule in RULES.items()
    }
    with_screen = {name: names for name, names in LEARNED.items() if set(names) & set(SCREEN_STATISTICS)}
    return {
        "package": path.name,
        "data": Path(training["data"]).name,
        "epochs": training["epochs"],
        "seed": training["seed"],
        "commit": commit(),
        "device": cpu_name(),
        "held_out_normals": int((validation.labels == 0).sum()),
        "seen": len(images.seen),
        "test_images": len(test_labels),
        "scores": {
            **{name: rules[name] for name in FIXED},
            **{
                name: _found(_average(known, labels, names), _average(blind, labels, names), labels)
                for name, names in AVERAGES.items()
            },
            **{name: _learned(blind, known, blind, labels, names) for name, names in LEARNED.items()},
            **{name + KNOWN: _learned(known, known, blind, labels, names) for name, names in with_screen.items()},
            **{
                name + UNSEEN: _learned(blind, known, blind, labels, names, seen=False)
                for name, names in LEARNED.items()
            },
        },
        "rules": rules,
    }


def _fold_screens(
    package: Package, model: PRN, seen: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]]
) -> FoldScreens:
    """Screens for a package's network that have not seen some of its seen defects, (image, mask) each."""
    training = package.manifest["training"]
    recipe, seed, count = recorded_recipe(training), training["seed"], fold_count(len(seen))
    textures = load_textures(recorded_textures(training), package.config.image_channels, seed=seed)
    generators = [
        AnomalyGenerator(
            textures,
            seen[fold::count],
            extended_share=recipe.extended_share,
            augment=recipe.augment,
            sources=recipe.simulated_sources,
            foreground=recipe.foreground,
        )
        for fold in range(count)
    ]
    return train_fold_screens(model, package.calibration_images(), generators, len(seen), recipe, seed)


def _by_screen(statistics: NDArray[np.float32], screened: NDArray[np.float32]) -> NDArray[np.float32]:
    """Statistics (N, J) with those of the screen (N, 3) in place of their own."""
    return np.concatenate([statistics[:, : -screened.shape[1]], screened], axis=1)


def _found(known: Parts, blind: Parts, labels: dict[str, NDArray[np.integer]]) -> dict[str, float]:
    """Image AUROC of a score on the generated anomalies, the seen ones, and those of the test.

    Args:
        known: scores by the package's screen, of all parts.
        blind: scores by screens that have not seen the seen defects, of the validation split and these.
        labels: of the validation split and the test.
    """
    normal = labels["validation"] == 0
    return {
        CROSS_FIT: _seen_auroc(blind["validation"][normal], blind["seen"]),
        "seen": _seen_auroc(known["validation"][normal], known["seen"]),
        "generated": image_metrics(known["validation"], labels["validation"]).auroc,
        "test": image_metrics(known["test"], labels["test"]).auroc,
    }


def _seen_auroc(normals: NDArray[np.floating], seen: NDArray[np.floating]) -> float:
    labels = np.repeat([0, 1], [len(normals), len(seen)])
    return image_metrics(np.concatenate([normals, seen]), labels).auroc


def _average(statistics: Statistics, labels: dict[str, NDArray[np.integer]], names: Sequence[str]) -> Parts:
    columns = [NAMES.index(name) for name in names]
    normals = statistics["validation"][labels["validation"] == 0][:, columns]
    mean, spread = normals.mean(0), np.maximum(normals.std(0), 1e-6)
    return {part: ((values[:, columns] - mean) / spread).mean(1) for part, values in statistics.items()}


def _learned(
    fitted_to: Statistics,
    known: Statistics,
    blind: Statistics,
    labels: dict[str, NDArray[np.integer]],
    names: Sequence[str],
    seen: bool = True,
) -> dict[str, float]:
    """Image AUROC of a learned score, fitted with the seen defects or without; each image by weights without it.

    Args:
        fitted_to: statistics that weights are fitted to, of the validation split and the seen defects.
        known, blind, labels: as for `_found`, of statistics. Validation images are told by `blind`, test images by
            `known`.
        names: of the statistics that are weighed.
        seen: whether the seen defects are fitted to.
    """
    columns = [NAMES.index(name) for name in names]
    count = None if seen else 0
    normal = labels["validation"] == 0
    figures = []
    for draw in range(DRAWS):
        fitted = fit_score(
            fitted_to["validation"][:, columns],
            labels["validation"],
            fitted_to["seen"][:count, columns],
            len(STATISTICS),
            draw,
            told_by=(blind["validation"][:, columns], blind["seen"][:count, columns]),
        )
        weights, intercept = fitted.weights[:-1], fitted.weights[-1]
        held_out = logit(fitted.held_out)
        told = logit(fitted.held_out_seen) if seen else blind["seen"][:, columns] @ weights + intercept
        figures.append(
            {
                CROSS_FIT: _seen_auroc(held_out[normal], told),
                "generated": image_metrics(held_out, labels["validation"]).auroc,
                "test": image_metrics(known["test"][:, columns] @ weights + intercept, labels["test"]).auroc,
            }
        )
    return {kind: float(np.mean([one[kind] for one in figures])) for kind in figures[0]}


def with_memory(package: Package) -> PRN:
    """The network of a package with a learned score, whose memory holds patches of its calibration images."""
    normals = package.calibration_images()
    config = dataclasses.replace(
        package.config, score="learned", memory=memory_size(MEMORY, len(normals), package.config), screen_width=0
    )
    model = PRN(config, OPTIMIZED)
    trained = package.model().state_dict()
    model.load_state_dict({**model.state_dict(), **{n: v for n, v in trained.items() if not n.startswith("score.")}})
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.prototypes.to(memory_format=torch.contiguous_format)
    assert model.score is not None
    assert model.score.memory is not None
    batches = (model.normalize(part) for part in _parts(normals))
    model.score.memory.patches = remember(model.backbone, batches, len(normals), config.memory, seed=0)
    return model


@torch.inference_mode()
def measure(
    model: PRN, screen: Screen, images: NDArray[np.uint8], others: Sequence[Screen] = ()
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Published scores (N,) of images, their statistics (N, J), in the order of `NAMES`, and those of F other screens.

    The latter are (F, N, 3).
    """
    assert model.score is not None
    count = len(SCREEN_STATISTICS)
    scores, statistics = [np.empty(0, np.float32)], [np.empty((0, len(NAMES)), np.float32)]
    told_by_others = [np.empty((len(others), 0, count), np.float32)]
    for part in _parts(images):
        normalized = model.normalize(part).contiguous(memory_format=torch.channels_last)
        logits, features, residuals = model.examine(normalized)
        scores.append(anomaly_score(logits)[0].numpy())
        told = [model.score.statistics(logits, features, residuals), screen_statistics(screen(features, residuals))]
        statistics.append(torch.cat(told, dim=1).numpy())
        if others:
            found = [screen_statistics(other(features, residuals)) for other in others]
            told_by_others.append(torch.stack(found).numpy())
    return np.concatenate(scores), np.concatenate(statistics), np.concatenate(told_by_others, axis=1)


def _parts(images: NDArray[np.uint8]) -> Iterator[torch.Tensor]:
    for start in range(0, len(images), BATCH):
        yield torch.from_numpy(images[start : start + BATCH])


def mean_figures(packages: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """Figures of a score, averaged over the packages of each product, then over products."""
    products: dict[str, list[dict[str, float]]] = {}
    for one in packages:
        products.setdefault(one["data"], []).append(one["scores"][name])
    return {
        kind: float(np.mean([np.mean([one[kind] for one in group]) for group in products.values()]))
        for kind in (_validated_by(packages), "test")
    }


def _validated_by(packages: Sequence[dict[str, Any]]) -> str:
    """The figure that scores are chosen by."""
    return CROSS_FIT if all(CROSS_FIT in one["scores"][CANDIDATES[0]] for one in packages) else "seen"


def choose_score(packages: Sequence[dict[str, Any]]) -> str:
    """The candidate that the module's rule chooses; it looks at seen defects beside held-out normal images alone."""
    kind = _validated_by(packages)
    means = {name: mean_figures(packages, name)[kind] for name in CANDIDATES}
    best = max(means.values())
    return next(name for name, mean in means.items() if mean >= best - MARGIN)


def scores_table(folder: Path) -> str:
    """One row for each score: image AUROC of seen defects and of the test, by package, and the mean of products."""
    path = folder / SCORES_FILE
    if not path.exists():
        return ""
    packages = _read(path)
    heads = [f"{one['data']}, seed {one['seed']}, {one['epochs']} epochs" for one in packages]
    chosen, kind = choose_score(packages), _validated_by(packages)
    rows = []
    for name in packages[0]["scores"]:
        figures = [*(one["scores"][name] for one in packages), mean_figures(packages, name)]
        cells = [f"{one[kind]:.3f} / {one['test']:.3f}" for one in figures]
        rows.append([f"**{name}**" if name == chosen else name, *cells])
    made = table(("image AUROC, validation / test", *heads, "mean of products"), rows)
    commits = " and ".join(sorted({one["commit"] for one in packages}))
    counts = ", ".join(f"{one['data']} {one['seen']} and {one['held_out_normals']}" for one in packages)
    return (
        f"{made}\n\nSeen defects and held-out normal images: {counts}. "
        f"`python -m prn_fast.bench.accuracy scores PACKAGE... --output {SCORES_FILE}`, commit {commits}, "
        f"on {packages[0]['device']}."
    )


def predictors_table(folder: Path) -> str:
    """One row for each kind of validation anomaly: its rank correlation with the test, over the fixed rules.

    For each package, and for the means over all packages; and what the rule finds in the test that it would choose.
    """
    from scipy.stats import spearmanr

    path = folder / SCORES_FILE
    if not path.exists():
        return ""
    packages = _read(path)
    kinds = ("generated", "seen", *([CROSS_FIT] if _validated_by(packages) == CROSS_FIT else []), "test")
    figures = np.array([[[rule[kind] for kind in kinds] for rule in one["rules"].values()] for one in packages])
    whole = np.concatenate([figures, figures.mean(0, keepdims=True)])
    heads = [*(f"{one['data']}, seed {one['seed']}" for one in packages), "mean figures"]
    names = list(packages[0]["rules"])
    rows = []
    for column, kind in enumerate(kinds[:-1]):
        cells = [f"{spearmanr(one[:, column], one[:, -1]).statistic:.2f}" for one in whole]
        best = int(whole[-1][:, column].argmax())
        rows.append([kind, *cells, f"{names[best]}: {whole[-1][best, -1]:.3f}"])
    made = table(("rank correlation with the test", *heads, "best by the mean: test image AUROC"), rows)
    return f"{made}\n\n{len(names)} rules, from the run above."


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        packages = json.loads(path.read_text(encoding="utf-8"))["packages"]
        for one in packages:
            for figures in (one["scores"][name] for name in CANDIDATES):
                figures[_validated_by([one])], figures["test"]
            for figures in (one["rules"][name] for name in RULES):
                figures["seen"], figures["generated"], figures["test"]
        return packages
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: holds no figures of image scores; take them again or remove it") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Take the figures of packages; 2 on an error."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.accuracy scores")
    parser.add_argument("packages", type=Path, nargs="+", metavar="PACKAGE", help="whose training data is still there")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    add_allow_dirty(parser)
    arguments = parser.parse_args(argv)
    try:
        require_clean(commit(), arguments.allow_dirty)
        done = _read(arguments.output) if arguments.output.exists() else []
        for path in arguments.packages:
            if any(one["package"] == path.name for one in done):
                print(f"{path.name}: recorded", flush=True)
                continue
            done.append(score_package(path))
            text = json.dumps({"schema": "prn-scores", "packages": done}, indent=1, allow_nan=False) + "\n"
            replace_file(arguments.output, text.encode())
            print(f"{path.name}: taken", flush=True)
        for name in CANDIDATES:
            print(f"{name}: {mean_figures(done, name)[_validated_by(done)]:.3f}", flush=True)
        print(f"chosen, by seen defects beside held-out normal images: {choose_score(done)}", flush=True)
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
