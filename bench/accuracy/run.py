"""Run a study: prn-train and prn-eval for each variant and seed, one after the other, each kept as soon as it is done;
or several at a time on a Ray cluster.

A yardstick is not trained: one command measures it and writes what prn-eval would.

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
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from prn_fast.archive.cluster import connected
from prn_fast.bench.accuracy import record as records
from prn_fast.bench.accuracy.record import Record, Run
from prn_fast.bench.accuracy.studies import Options, Variant, study_named
from prn_fast.bench.machine.environment import describe_environment, is_clean, require_clean
from prn_fast.child_processes import end_with_parent
from prn_fast.environment import commit
from prn_fast.errors import ConfigError, DataError, PRNError, one_line
from prn_fast.extras import require_extra
from prn_fast.package import Package
from prn_fast.training.checkpoint import STATE, Checkpoint

# Figures are the float32 network's own. Of the engines that need no build this one is the quickest, the more so on one
# core: there PyTorch convolves the published formulation without oneDNN.
ENGINE = "optimized"
YARDSTICK = "python -m prn_fast.bench.accuracy nearest-patch"
ENTRIES = {
    "prn-train": "prn_fast.cli.train",
    "prn-eval": "prn_fast.cli.evaluate",
    YARDSTICK: "prn_fast.bench.accuracy.nearest_patch",
}
# What a reader wants to know of a training; its list of seen anomalies follows from the seed.
TOLD_OF_TRAINING = (
    "preset", "device", "precision", "torch", "minutes", "steps", "epochs", "selected_epoch", "normals", "layout",
    "recipe", "memory", "score",
)  # fmt: skip

TOLD_OF_TEST = (
    "engine", "image_size", "threshold", "image", "pixel", "confusion", "kinds", "seen", "unseen_parts", "scores",
)  # fmt: skip
TOLD_OF_SCREEN = (
    "cut", "why_whole", "margin", "wanted_loss", "normals", "exit_share", "flagged", "flagged_seen", "fitted",
    "lost", "loss_bound", "training",
)  # fmt: skip
TOLD_OF_SCREEN_ALONE = ("command", "commit", "engine", "threshold", "image", "pixel", "confusion", "kinds")
PATH_OPTIONS = ("--textures", "--backbone-weights", "--warm-start")

Failures = dict[tuple[str, int], str]
"""Why runs failed, by variant and seed."""

Launch = Callable[[str, Sequence[str], Path, Path], None]
"""Called with (command, arguments, folder to run it in, file for what it prints); raises a PRNError if it fails."""


@dataclass(frozen=True)
class StudySettings:
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
class PlannedRun:
    """The two commands of one variant and seed, as they run in the folder of their commit; a yardstick has one.

    `train` is empty for a yardstick.
    """

    variant: Variant
    seed: int
    package: str
    evaluation: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.variant.name}, seed {self.seed}"

    def commands(self) -> dict[str, str]:
        """As a person types them."""
        if not self.train:
            return {"evaluate": f"{YARDSTICK} {shlex.join(self.evaluate)}"}
        return {
            "train": shlex.join(["prn-train", *self.train]),
            "evaluate": shlex.join(["prn-eval", *self.evaluate]),
        }


class PreparedStudy:
    """A study of one product in its folder: what is to be run, and the record of what was.

    Attributes:
        here: the commit.
        data: name of the product.
        work: folder that commands run in.
        plans: all runs, seed by seed: cut short, there is a whole table of fewer seeds.
    Raises:
        ConfigError: unknown study or variant, a checkout with changes, an option that holds a path.
        DataError: no data.
    """

    def __init__(self, settings: StudySettings) -> None:
        study, self.here = study_named(settings.study), commit()
        variants = study.choose(None if settings.only is None else list(settings.only))
        require_clean(self.here, settings.allow_dirty)
        self.work = settings.folder / self.here
        self.work.mkdir(parents=True, exist_ok=True)
        self.data = _link(self.work, settings.data)
        self._study = settings.study
        self._path = settings.folder / f"{self.data}-{settings.study}.json"
        options = _local(self.work, settings.options)
        self.plans = [
            plan_run(variant, seed, self.data, settings.minutes, options)
            for seed in settings.seeds
            for variant in variants
        ]

    def is_recorded(self, plan: PlannedRun) -> bool:
        """Whether the record holds a run of the same commands at the same commit."""
        return _is_recorded(self._record_so_far(), plan, self.here)

    def keep(self, run: Run) -> None:
        """Put a run into the record."""
        record = self._record_so_far()
        records.put_run(record, run)
        records.write_record(record, self._path)

    def _record_so_far(self) -> Record:
        """What this and other processes have recorded."""
        if self._path.exists():
            return records.read_record(self._path)
        return records.new_record(self._study, self.data)


def run_study(settings: StudySettings, say: Callable[[str], None] = print, launch: Launch | None = None) -> Failures:
    """Run what is not recorded yet.

    Args:
        say: called with a line for each run.
        launch: runs one command; by default in a process of its own.
    Returns:
        Why runs failed, by variant and seed; what they would have shown is missing in the record.
    Raises:
        ConfigError, DataError: as `PreparedStudy`; or a record that cannot be read.
    """
    study = PreparedStudy(settings)
    failures: Failures = {}
    for plan in study.plans:
        if study.is_recorded(plan):
            say(f"{plan.title}: recorded")
            continue
        try:
            run = execute(plan, study.work, study.here, launch or launch_process, partial(_say_of, say, plan.title))
        except PRNError as error:
            failures[plan.variant.name, plan.seed] = str(error)
            say(f"{plan.title}: failed: {error}")
            continue
        study.keep(run)
        say(f"{plan.title}: {summary(run)}")
    return failures


def run_on_ray(
    products: Sequence[StudySettings], say: Callable[[str], None], address: str, threads: int = 1
) -> list[Failures]:
    """As `run_study` for each of several products, as many runs at a time as a Ray cluster has processors for.

    Each run is a task, which trains and evaluates on its machine. All machines have this checkout, at the same commit,
    and see data and output under the same paths. Records are written here.

    Args:
        products: settings of the same study.
        say: called with a line for each run, which begins with its product.
        address: of a Ray cluster, such as "10.0.0.5:6379"; "local" starts one on this machine, which ends with the
            study.
        threads: processors of each run.
    Returns:
        For each product, why runs failed.
    Raises:
        ConfigError: as `run_study`; Ray is not installed, or no cluster answers.
        DataError: as `run_study`.
    """
    require_extra("ray", "ray")
    import ray
    from ray.exceptions import RayError

    studies = [PreparedStudy(each) for each in products]
    failures: list[Failures] = [{} for _ in studies]
    waiting: deque[tuple[int, PlannedRun]] = deque()
    for number, study in enumerate(studies):
        for plan in study.plans:
            if study.is_recorded(plan):
                say(f"{study.data}: {plan.title}: recorded")
            else:
                waiting.append((number, plan))
    # Seed by seed, also over products: cut short, there is a whole table of fewer seeds.
    waiting = deque(sorted(waiting, key=lambda one: products[one[0]].seeds.index(one[1].seed)))
    if not waiting:
        return failures
    with connected(address):
        if (most := max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])) < threads:
            raise ConfigError(f"--threads {threads}: no machine of the cluster has more than {most:g} processors")
        task = ray.remote(num_cpus=threads, max_retries=0)(_execute_on_worker)
        running: dict[Any, tuple[int, PlannedRun]] = {}
        while waiting or running:
            for _ in range(len(waiting)):
                number, plan = one = waiting.popleft()
                # Variants of the same training share its package: one after the other.
                if any((number, plan.package) == (other, with_it.package) for other, with_it in running.values()):
                    waiting.append(one)
                    continue
                study = studies[number]
                running[task.remote(plan, study.work.absolute(), study.here)] = one
            (done,), _ = ray.wait(list(running), num_returns=1)
            number, plan = running.pop(done)
            study, title = studies[number], f"{studies[number].data}: {plan.title}"
            try:
                run, error = ray.get(done)
            except RayError as lost:
                run, error = None, f"Ray: {one_line(lost)}"
            if run is None:
                failures[number][plan.variant.name, plan.seed] = error
                say(f"{title}: failed: {error}")
                continue
            study.keep(run)
            say(f"{title}: {summary(run)}")
    return failures


def _execute_on_worker(plan: PlannedRun, work: Path, here: str) -> tuple[dict[str, Any] | None, str]:
    """The run, or why it failed: an exception would be hidden in one of Ray's."""
    try:
        return execute(plan, work, here, launch_process, lambda line: None), ""
    except PRNError as error:
        return None, str(error)


def plan_run(variant: Variant, seed: int, data: str, minutes: float | None, options: Sequence[str] = ()) -> PlannedRun:
    """Commands of a variant. Variants of the same training share its package, also across studies of a product."""
    chosen = {**variant.train_options(), "--seed": str(seed)}
    if variant.yardstick:
        arguments = [*_flat(chosen), *options]
        evaluation = f"{data}-nearest-patch-{_slug(arguments)}-eval"
        return PlannedRun(
            variant, seed, "", evaluation, train=(), evaluate=("--data", data, "--output", evaluation, *arguments)
        )
    if minutes is not None:
        chosen["--minutes"] = f"{minutes:g}"
    arguments = [*_flat(chosen), *options]
    name = f"{data}-{_slug(arguments)}"
    evaluation = "-".join(filter(None, (name, _slug(_flat(variant.evaluate)), "eval")))
    package = f"{name}.prn"
    return PlannedRun(
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
            [sys.executable, "-c", entry, *arguments],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            # An orphan would train on beside the run that goes on.
            preexec_fn=end_with_parent,
        )
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].removeprefix("error: ") if lines else "it printed nothing"
        raise ConfigError(f"{command} ended with {done.returncode}: {last} (see {log})")


def execute(plan: PlannedRun, work: Path, here: str, launch: Launch, say: Callable[[str], None]) -> Run:
    """Train unless it is done, evaluate, and gather what both have written.

    Args:
        work: folder that the commands run in.
        here: the commit.
        launch: runs one command.
        say: called with a line for each step.
    Raises:
        PRNError: a command failed, or the checkout has changed.
    """
    resumed = work / f"{plan.package}.resumed"
    if plan.train:
        _train(plan, work, here, launch, say, resumed)
    say("evaluating")
    start = time.monotonic()
    launch("prn-eval" if plan.train else YARDSTICK, plan.evaluate, work, work / f"{plan.evaluation}.log")
    seconds = time.monotonic() - start
    result = _read_evaluation(work / plan.evaluation / "evaluation.json")
    training = Package.open(work / plan.package).manifest["training"] if plan.train else result["training"]
    clean = is_clean(here)
    if clean and (changed := {training["commit"], result["commit"], commit()} - {here}):
        raise ConfigError(f"the checkout changed from {here} to {changed.pop()} meanwhile; run the study again")
    screen = Package.open(work / plan.package).manifest.get("screen") if plan.train else None
    alone = None
    if screen is not None and screen["cut"] is not None:
        say("evaluating the screen alone")
        alone = evaluate_screen(work, plan.package, plan.evaluate[2], launch)
    environment = describe_environment()
    environment.pop("commit")
    environment["threads"] = int(os.environ.get("OMP_NUM_THREADS", environment["machine"]["usable_cores"]))
    return {
        "variant": plan.variant.name,
        "seed": plan.seed,
        "commit": here,
        "clean": clean,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "resumed": bool(plan.train) and resumed.exists(),
        "commands": plan.commands(),
        "environment": environment,
        "training": {name: training[name] for name in TOLD_OF_TRAINING if name in training},
        "validation": training["validation"] if plan.train else result["validation"],
        **({} if screen is None else {"screen": {name: screen[name] for name in TOLD_OF_SCREEN if name in screen}}),
        "test": {
            **{name: result[name] for name in TOLD_OF_TEST if name in result},
            **({"early_exit": result["early_exit"]} if result.get("early_exit") else {}),
            **({"screen_alone": alone} if alone else {}),
            "seconds": round(seconds, 1),
        },
    }


def evaluate_screen(work: Path, package: str, data: str, launch: Launch) -> dict[str, Any]:
    """Figures of a package's screen alone, by prn-eval in the folder of a commit.

    Args:
        work: that folder; it holds the package, and the data under this name.
    Returns:
        For a run's "test": see `TOLD_OF_SCREEN_ALONE`.
    """
    name = f"{package.removesuffix('.prn')}-screen-eval"
    arguments = (package, "--data", data, "--engine", ENGINE, "--screen-only", "--output", name)
    launch("prn-eval", arguments, work, work / f"{name}.log")
    result = _read_evaluation(work / name / "evaluation.json")
    return {key: result[key] for key in TOLD_OF_SCREEN_ALONE if key in result}


def add_screens(path: Path, say: Callable[[str], None] = print, launch: Launch | None = None) -> dict[str, str]:
    """Give the runs of a record the figures of their screens alone, from the packages that were kept beside it.

    Args:
        path: the record; the packages lie in the folders of the runs' commits, as `run_study` leaves them.
        say: called with a line for each run.
        launch: as for `run_study`.
    Returns:
        Why runs have none, by title.
    Raises:
        DataError: a record that cannot be read.
    """
    failures: dict[str, str] = {}
    for run in records.read_record(path)["runs"]:
        title = f"{run['variant']}, seed {run['seed']}"
        screen = run.get("screen")
        if screen is None or screen["cut"] is None or "screen_alone" in run["test"]:
            why = "no screen" if screen is None else screen.get("why_whole", "recorded")
            say(f"{title}: {why}")
            continue
        train = shlex.split(run["commands"]["train"])
        package, data = train[train.index("--output") + 1], train[train.index("--data") + 1]
        work = path.parent / run["commit"]
        try:
            if not (work / package).is_dir():
                raise DataError(f"{work / package}: the package is not here")
            alone = evaluate_screen(work, package, data, launch or launch_process)
        except PRNError as error:
            failures[title] = str(error)
            say(f"{title}: failed: {error}")
            continue
        # What other processes have recorded meanwhile stays.
        record = records.read_record(path)
        found = records.find_run(record, run["variant"], run["seed"])
        if found is None or found["commands"] != run["commands"] or found["commit"] != run["commit"]:
            failures[title] = "was recorded anew meanwhile"
            continue
        found["test"]["screen_alone"] = alone
        records.write_record(record, path)
        say(f"{title}: image AUROC {alone['image']['auroc']:.4f}, the network's {run['test']['image']['auroc']:.4f}")
    return failures


def _train(plan: PlannedRun, work: Path, here: str, launch: Launch, say: Callable[[str], None], resumed: Path) -> None:
    """Train unless it is done; the file `resumed` records that the training was interrupted and continued."""
    package = work / plan.package
    if _is_trained(package, here):
        return
    resumed.unlink(missing_ok=True)
    if (Checkpoint(package, {}).folder / STATE).is_file():
        resumed.touch()
    say("continuing its training" if resumed.exists() else "training")
    more = ("--resume",) if resumed.exists() else ()
    launch("prn-train", (*plan.train, *more), work, work / f"{plan.package}.log")


def _say_of(say: Callable[[str], None], title: str, line: str) -> None:
    say(f"{title}: {line}")


def _is_trained(package: Path, here: str) -> bool:
    """Whether a package is there whole and comes from this commit: a package is written whole or not at all."""
    if not package.is_dir():
        return False
    found = Package.open(package).manifest["training"]["commit"]
    return found == here or not is_clean(here)


def _is_recorded(record: Record, plan: PlannedRun, here: str) -> bool:
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
        raise ConfigError(f"{link}: is not a link to {target}; choose another --output")
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


def summary(run: Run) -> str:
    """One line for people."""
    image, pixel, training = run["test"]["image"], run["test"]["pixel"], run["training"]
    return (
        f"image AUROC {image['auroc']:.4f}, pixel AUROC {pixel['auroc']:.4f}, PRO {pixel['pro']:.4f} "
        f"({training['minutes']:.1f} minutes, {training['steps']} steps)"
    )
