"""Run a study: prn-train and prn-eval for each variant and seed, one after the other, each kept as soon as it is done.

What is recorded with the same commands at the same commit is not run again, and a training that was interrupted goes
on. Several processes may share FOLDER, each with variants or seeds of its own; give each its share of the cores with
OMP_NUM_THREADS, which is recorded. In FOLDER lie the record, DATA-STUDY.json, and for each commit a folder of packages,
evaluations and logs.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from prn_fast.bench.accuracy import record as records
from prn_fast.bench.accuracy.record import Record, Run
from prn_fast.bench.accuracy.studies import Options, Variant, study_named
from prn_fast.bench.environment import describe_environment
from prn_fast.environment import commit
from prn_fast.errors import ConfigError, DataError, PRNError
from prn_fast.package import Package
from prn_fast.training.checkpoint import STATE, Checkpoint

# Figures are the float32 network's own. Of the engines that need no build this one is the quickest, the more so on one
# core: there PyTorch convolves the published formulation without oneDNN.
ENGINE = "lean"
ENTRIES = {"prn-train": "prn_fast.cli.train", "prn-eval": "prn_fast.cli.evaluate"}
# What a reader wants to know of a training; its list of seen anomalies follows from the seed.
TOLD_OF_TRAINING = (
    "preset", "device", "precision", "torch", "minutes", "steps", "epochs", "selected_epoch", "normals", "layout",
    "recipe",
)  # fmt: skip

TOLD_OF_TEST = (
    "engine", "image_size", "threshold", "image", "pixel", "confusion", "kinds", "seen", "strangers",
)  # fmt: skip
PATH_OPTIONS = ("--textures", "--backbone-weights", "--start")

Launch = Callable[[str, Sequence[str], Path, Path], None]
"""Called with (command, arguments, folder to run it in, file for what it prints); raises a PRNError if it fails."""


@dataclass(frozen=True)
class Settings:
    """How a study is run.

    Attributes:
        study: key of `STUDIES`.
        data: folder of one product's images.
        folder: for the record and all that is made on the way.
        seeds: of each variant.
        minutes: bound of each training; None trains all epochs of the recipe.
        only: names of variants; None takes all.
        options: further arguments of every prn-train; what `PATH_OPTIONS` name is recorded by its last name.
        allow_dirty: record also from a checkout with changes that are in no commit; the record says so.
    """

    study: str
    data: Path
    folder: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    minutes: float | None = None
    only: tuple[str, ...] | None = None
    options: tuple[str, ...] = ()
    allow_dirty: bool = False


@dataclass(frozen=True)
class Plan:
    """The two commands of one variant and seed, as they run in the folder of their commit."""

    variant: Variant
    seed: int
    package: str
    evaluation: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]

    def commands(self) -> dict[str, str]:
        """Both as a person types them."""
        return {
            "train": shlex.join(["prn-train", *self.train]),
            "evaluate": shlex.join(["prn-eval", *self.evaluate]),
        }


def run_study(
    settings: Settings, say: Callable[[str], None] = print, launch: Launch | None = None
) -> dict[tuple[str, int], str]:
    """Run what is not recorded yet.

    Args:
        say: called with a line for each run.
        launch: runs one command; by default in a process of its own.
    Returns:
        Why runs failed, by variant and seed; what they would have shown is missing in the record.
    Raises:
        ConfigError: unknown study or variant, a checkout with changes, an option that holds a path.
        DataError: no data, a record that cannot be read.
    """
    launch = launch or launch_process
    study, here = study_named(settings.study), commit()
    variants = study.choose(None if settings.only is None else list(settings.only))
    clean = is_clean(here)
    if not clean and not settings.allow_dirty:
        raise ConfigError(
            f"the checkout has changes that are in no commit (it says {here!r}): commit them, or give --allow-dirty, "
            "which marks what is recorded"
        )
    work = settings.folder / here
    work.mkdir(parents=True, exist_ok=True)
    data = _link(work, settings.data)
    path = settings.folder / f"{data}-{settings.study}.json"
    options = _local(work, settings.options)

    failures: dict[tuple[str, int], str] = {}
    # Seed by seed: cut short, there is a whole table of fewer seeds.
    for seed in settings.seeds:
        for variant in variants:
            plan = make_plan(variant, seed, data, settings.minutes, options)
            title = f"{variant.name}, seed {seed}"
            if _is_recorded(_record_so_far(path, settings.study, data), plan, here):
                say(f"{title}: recorded")
                continue
            try:
                run = _run(plan, work, here, launch, partial(_say_of, say, title))
            except PRNError as error:
                failures[variant.name, seed] = str(error)
                say(f"{title}: failed: {error}")
                continue
            record = _record_so_far(path, settings.study, data)
            records.put_run(record, run)
            records.write_record(record, path)
            say(f"{title}: {_summary(run)}")
    return failures


def _record_so_far(path: Path, study: str, data: str) -> Record:
    """What this and other processes have recorded."""
    return records.read_record(path) if path.exists() else records.new_record(study, data)


def is_clean(commit_name: str) -> bool:
    """Whether a checkout is as a commit has it, by what `commit` says."""
    return commit_name != "unknown" and not commit_name.endswith("-dirty")


def make_plan(variant: Variant, seed: int, data: str, minutes: float | None, options: Sequence[str] = ()) -> Plan:
    """Commands of a variant. Variants of the same training share its package, also across studies."""
    chosen = {**variant.train_options(), "--seed": str(seed)}
    if minutes is not None:
        chosen["--minutes"] = f"{minutes:g}"
    arguments = [*_flat(chosen), *options]
    name = _slug(arguments)
    evaluation = "-".join(filter(None, (name, _slug(_flat(variant.evaluate)), "eval")))
    package = f"{name}.prn"
    return Plan(
        variant=variant,
        seed=seed,
        package=package,
        evaluation=evaluation,
        train=("--data", data, "--output", package, *arguments),
        evaluate=(package, "--data", data, "--engine", ENGINE, "--output", evaluation, *_flat(variant.evaluate)),
    )


def launch_process(command: str, arguments: Sequence[str], folder: Path, log: Path) -> None:
    """Run a command of this installation and wait for it.

    Raises:
        ConfigError: it failed; gives the last line that it printed.
    """
    entry = f"import sys; from {ENTRIES[command]} import main; sys.exit(main())"
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, "-c", entry, *arguments], cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].removeprefix("error: ") if lines else "it printed nothing"
        raise ConfigError(f"{command} ended with {done.returncode}: {last} (see {log})")


def _run(plan: Plan, work: Path, here: str, launch: Launch, say: Callable[[str], None]) -> Run:
    """Train unless it is done, evaluate, and gather what both have written."""
    package, resumed = work / plan.package, work / f"{plan.package}.resumed"
    if not _is_trained(package, here):
        resumed.unlink(missing_ok=True)
        if (Checkpoint(package, {}).folder / STATE).is_file():
            resumed.touch()
        say("going on with its training" if resumed.exists() else "training")
        more = ("--resume",) if resumed.exists() else ()
        launch("prn-train", (*plan.train, *more), work, work / f"{plan.package}.log")
    say("evaluating")
    start = time.monotonic()
    launch("prn-eval", plan.evaluate, work, work / f"{plan.evaluation}.log")
    seconds = time.monotonic() - start
    manifest = Package.open(package).manifest
    result = _read_evaluation(work / plan.evaluation / "evaluation.json")
    clean = is_clean(here)
    if clean and (changed := {manifest["training"]["commit"], result["commit"], commit()} - {here}):
        raise ConfigError(f"the checkout changed from {here} to {changed.pop()} meanwhile; run the study again")
    training = manifest["training"]
    environment = describe_environment()
    environment.pop("commit")
    environment["threads"] = int(os.environ.get("OMP_NUM_THREADS", environment["machine"]["usable_cores"]))
    return {
        "variant": plan.variant.name,
        "seed": plan.seed,
        "commit": here,
        "clean": clean,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "resumed": resumed.exists(),
        "commands": plan.commands(),
        "environment": environment,
        "training": {name: training[name] for name in TOLD_OF_TRAINING if name in training},
        "validation": training["validation"],
        "test": {
            **{name: result[name] for name in TOLD_OF_TEST},
            "seconds": round(seconds, 1),
        },
    }


def _say_of(say: Callable[[str], None], title: str, line: str) -> None:
    say(f"{title}: {line}")


def _is_trained(package: Path, here: str) -> bool:
    """Whether a package is there whole and comes from this commit: a package is written whole or not at all."""
    if not package.is_dir():
        return False
    found = Package.open(package).manifest["training"]["commit"]
    return found == here or not is_clean(here)


def _is_recorded(record: Record, plan: Plan, here: str) -> bool:
    run = records.find_run(record, plan.variant.name, plan.seed)
    return run is not None and run["commit"] == here and run["commands"] == plan.commands()


def _read_evaluation(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a result of prn-eval: {error}") from None


def _link(work: Path, target: Path) -> str:
    """Make a file or folder known under its own name in the folder where commands run; returns the name."""
    if not target.exists():
        raise DataError(f"{target}: no such file or folder")
    target = target.resolve()
    link = work / target.name
    # Not looked for before: another process that shares the folder may make it meanwhile.
    with contextlib.suppress(FileExistsError):
        link.symlink_to(target)
    if not link.is_symlink() or link.resolve() != target:
        raise ConfigError(f"{link}: stands for something else than {target}; choose another --output")
    return target.name


def _local(work: Path, options: Sequence[str]) -> list[str]:
    """Arguments as they stand in the folder where commands run: files and folders are linked there."""
    local: list[str] = []
    for option in options:
        local.append(_link(work, Path(option)) if local and local[-1] in PATH_OPTIONS else option)
    if paths := [option for option in local if "/" in option]:
        raise ConfigError(f"{paths[0]}: a record names no folders; paths may follow {', '.join(PATH_OPTIONS)} only")
    return local


def _flat(options: Options) -> list[str]:
    return [part for name, value in options.items() for part in (name, *(value or "").split())]


def _slug(arguments: Sequence[str]) -> str:
    """Arguments as a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(argument.lstrip("-") for argument in arguments)).strip("-.")


def _summary(run: Run) -> str:
    image, pixel, training = run["test"]["image"], run["test"]["pixel"], run["training"]
    return (
        f"image AUROC {image['auroc']:.4f}, pixel AUROC {pixel['auroc']:.4f}, PRO {pixel['pro']:.4f} "
        f"({training['minutes']:.1f} minutes, {training['steps']} steps)"
    )
