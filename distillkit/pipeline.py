"""``compress`` and ``evaluate``: the library behind the commands of the same names.

Each stage leaves a file that the next one takes up, so an interrupted run continues where it stopped:

    data -> [experts] -> trajectories -> [distillation] -> synthetic set -> [evaluation] -> rows -> [package] -> folder
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.arguments import architectures_named, check_arguments, check_layers, files_named, given_layer
from distillkit.artifact.change import Change, change_artifact
from distillkit.artifact.read import Artifact
from distillkit.config import compose, default_method
from distillkit.data.registry import DATASETS
from distillkit.distilled import DistilledDataset, load_distilled
from distillkit.distributed import ALONE, World
from distillkit.environment import made_on_the_host, resolve_device, versions
from distillkit.errors import ConfigError
from distillkit.evaluation.choice import as_tuned
from distillkit.interchange.read_pt import read_field_files
from distillkit.interchange.to_set import images_per_class
from distillkit.interrupt import StopRequest
from distillkit.methods import Method, SettingsLayer
from distillkit.paths import expanded
from distillkit.precision import candidates
from distillkit.progress import Progress, Silent, check_listener
from distillkit.records import EvalReport, ImageSet, SourceData
from distillkit.run_folder import RunFolder
from distillkit.settings import NetworkSettings
from distillkit.stages.checks import check_distillation, check_searches, needs_experts
from distillkit.stages.contest import Contest
from distillkit.stages.context import Prepared, Run, make_run, of_its_classes, overheard, prepare, run_identity
from distillkit.stages.distillation import distilled
from distillkit.stages.evaluation import evaluate_rows
from distillkit.stages.expert_precision import expert_precision, keep_expert_precision
from distillkit.stages.experts import train_experts
from distillkit.stages.fingerprints import expert_setup
from distillkit.stages.finished import check_place, finished_artifact
from distillkit.stages.importing import Lost, import_set, preprocessing_layer, provenance, recipe_layer, told_beside
from distillkit.stages.length import with_chosen_length
from distillkit.stages.opinions import expert_opinions
from distillkit.stages.package import package
from distillkit.stages.probe import check_networks
from distillkit.stages.room import check_step_fits
from distillkit.stages.threads import settled_threads
from distillkit.stages.time_budget import with_sizes, within_budget
from distillkit.stages.workplace import workplace
from distillkit.training.given import callable_or_none, of_kind, seed_number, whole, yes_or_no
from distillkit.trajectories.store import TrajectoryStore


@made_on_the_host
def compress(
    dataset: str | Path,
    *,
    ipc: int,
    method: str | Method | None = None,
    preset: str = "quick",
    out: str | Path | None = None,
    device: str = "auto",
    overrides: Sequence[SettingsLayer] = (),
    settings: dict[str, Any] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    command: str | None = None,
    tracker: str | None = None,
    world: World = ALONE,
    to_tune: str | Sequence[str] = (),
) -> DistilledDataset:
    """Distil a data set: what ``distillkit compress`` does.

    Args:
        dataset: registered name, Hub id or folder.
        ipc: images per class.
        method: a name of ``METHODS``, ``FILE.py:NAME``, or a ``Method`` (whose run no command line can repeat);
            default ``rat`` below five images a class, ``best`` from there on (``rat`` with a ``time_budget`` of half an
            hour or more), ``mtt`` for MNIST, the preset ``paper``, with settings of experts, and for digits below five,
            ``rat`` from there on.
        preset: ``smoke``, ``quick`` or ``paper``.
        out: artifact folder; default ``runs/<dataset>-ipc<N>-<method>``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        overrides: layers of settings from a config file or the command line.
        settings: more of them by dotted key, ``{"distill.outer_steps": 100}``.
        replace: overwrite another run in ``out``.
        progress: listener.
        stop: request that stops the run at the next safe place.
        command: the command line that asked for it, for the record.
        tracker: ``tensorboard`` or ``wandb``.
        world: the processes that make it together (``distillkit.distributed.joined``); each calls this alike.
        to_tune: architectures that ``distillkit.tune`` is to be called with afterwards: whether it could is found out
            before anything is learned. Nothing is tuned here.

    Returns:
        The artifact, loaded from ``out``; in other processes than the leader from a private copy, which
        has been deleted.

    Raises:
        ConfigError: ``dataset`` is no name or path, or settings do not fit.
        DistillkitError: see ``distillkit.errors``; the run can be continued by the same call.
    """
    dataset, replace = _spelled(dataset), yes_or_no("replace", replace)
    check_arguments(method=method, preset=preset, out=out, stop=stop, command=command)
    check_listener(progress)
    check_layers(overrides)
    place = world.place(resolve_device(device))
    layers = [*overrides, *([given_layer(settings)] if settings is not None else [])]
    method = method or default_method(dataset, ipc, preset, layers)
    composed = compose(dataset, ipc, method, preset, place.type, layers)
    folder = _folder(out, composed.settings.dataset.name, ipc, composed.method.name)
    words = command or _command_words(dataset, ipc, method, preset, layers)
    names = tuple(architectures_named(to_tune))
    check_searches(composed.settings, names)
    run = make_run(composed, place, progress, stop, words, tracker, world, names)
    return run_all(run, folder, replace=replace)


def _spelled(dataset: str | Path) -> str:
    """As settings have it. Data in memory have no name that a run could go on by, or a card could say.

    Raises:
        ConfigError: it is no name or path.
    """
    if isinstance(dataset, str | Path):
        return expanded(dataset)
    raise ConfigError(
        f"`dataset` is a {type(dataset).__name__}, expected a name or a path; of data in memory make a folder first: "
        "datasets.Dataset.from_dict({'image': ..., 'label': ...}).save_to_disk('NAME')"
    )


def _command_words(dataset: str, ipc: int, method: str | Method, preset: str, layers: Sequence[SettingsLayer]) -> str:
    """The command line that repeats the call; paths are shortened to their last part."""
    name = dataset if dataset in DATASETS or not Path(dataset).is_dir() else Path(dataset).resolve().name
    method = Path(method).name if isinstance(method, str) else method.name  # FILE.py:NAME keeps the name of the file
    words = ["distillkit", "compress", name, "--ipc", str(ipc), "--method", method, "--preset", preset]
    given = {key: value for layer in layers for key, value in layer.values.items() if key != "dataset.data_root"}
    for key, value in given.items():
        shown = Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        words += ["--set", f"{key}={json.dumps(shown)}"]
    return shlex.join(words)


def _folder(out: str | Path | None, dataset: str, ipc: int, method: str) -> Path:
    return default_out(dataset, ipc, method) if out is None else Path(expanded(out))


def default_out(dataset: str, ipc: int, method: str) -> Path:
    """``runs/<dataset>-ipc<N>-<method>``."""
    place = Path(dataset)
    name = place.name if dataset in DATASETS or place.name not in ("", "..") else place.resolve().name  # of "." too
    return Path("runs") / f"{name}-ipc{ipc}-{method}"


def run_all(run: Run, out: Path, *, replace: bool = False) -> DistilledDataset:
    """All stages into ``out``; those that are done are not done again."""
    settings = run.settings.model_dump(mode="json", exclude={"dataset": {"data_root"}})
    run.world.agree("set of settings or versions", storage.fingerprint([settings, versions()]))
    check_distillation(run.settings, run.asked)
    storage.remove_old_leftovers(storage.cache_root())
    check_place(out, run)
    prepared = prepare(run)
    run = of_its_classes(run, prepared)
    check_networks(run, prepared)  # before anything in the folder is touched
    with settled_threads(run, prepared):
        return _made(run, prepared, out, replace)


def experts_alone(run: Run) -> TrajectoryStore:
    """The experts that ``run_all`` would train for this run, or find, and nothing else: what ``distillkit experts
    train`` does.

    Raises:
        ConfigError: the run needs no experts, or its settings do not fit.
        DistillkitError: as ``run_all``; finished epochs are kept.
    """
    if not needs_experts(run.settings):
        raise ConfigError(f"{run.settings.method} matches no experts and asks none: there is nothing to train")
    check_distillation(run.settings, run.asked)
    prepared = prepare(run)
    run = of_its_classes(run, prepared)
    check_networks(run, prepared)
    with settled_threads(run, prepared):
        return train_experts(run, prepared)


def _made(run: Run, prepared: Prepared, out: Path, replace: bool) -> DistilledDataset:
    """The artifact in ``out``, of data that are prepared."""
    check_step_fits(run, prepared)
    run = _fitted(run, prepared, out)
    _agree(run, prepared)
    with workplace(run, out, run_identity(run, prepared), replace) as folder:
        finished = finished_artifact(folder.out, run, prepared)
        if finished is not None:
            return finished
        keep_expert_precision(run, prepared, folder.expert_precision())
        run = overheard(run, folder.keep_time)
        synthetic, selection = distilled(run, prepared, folder)
        run = with_chosen_length(run, selection)
        rows = evaluate_rows(run, prepared, synthetic, folder, lambda: expert_opinions(run, prepared))
        package(run, prepared, folder, synthetic, selection, rows)
        return load_distilled(folder.out)


def _fitted(run: Run, prepared: Prepared, out: Path) -> Run:
    """The run as it fits into its time budget, if it has one: as the leader's clock says."""
    if run.world.size == 1 or run.settings.time_budget is None:
        return within_budget(run, prepared, RunFolder(out).stored_settings())

    def sizes() -> tuple[int, int, bool]:
        found = within_budget(run, prepared, RunFolder(out).stored_settings()).settings
        return found.experts.count, found.distill.outer_steps, found.budget_asked is not None

    experts, steps, changed = run.world.decided(sizes)
    return with_sizes(run, experts, steps) if changed else run


def _agree(run: Run, prepared: Prepared) -> None:
    """Do all processes of the run have the same data, preprocessing, settings and versions of what computes?

    Raises:
        LostError: no.
    """
    if run.world.size == 1:
        return
    if needs_experts(run.settings):
        chosen = run.world.decided(lambda: expert_precision(run, prepared))
        if chosen not in candidates(run.settings.precision, run.device):
            raise ConfigError(f"the first process computes in {chosen}, which this one cannot; `precision=fp32`")
        prepared.decided["experts"] = chosen
        run.world.agree("set-up of experts", storage.fingerprint(expert_setup(run, prepared)))
    digest = hashlib.sha256()
    for tensor in prepared.preprocess.to_tensors().values():
        storage.sha256_tensor(digest, tensor)
    run.world.agree("preprocessing of the data", digest.hexdigest()[:16])
    run.world.agree("settings, data or code", storage.fingerprint([run_identity(run, prepared), run.steady_precision]))


@made_on_the_host
def import_files(
    paths: str | Path | Sequence[str | Path],
    kind: str,
    dataset: str | Path,
    lost: Lost | None = None,
    *,
    title: str | None = None,
    experiment: int | None = None,
    preset: str = "quick",
    out: str | Path | None = None,
    device: str = "auto",
    overrides: Sequence[SettingsLayer] = (),
    replace: bool = False,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    command: str = "",
) -> DistilledDataset:
    """The field's files as an artifact, measured: what ``distillkit import`` does.

    Args:
        paths: ``images*.pt``, ``labels*.pt``, ``lr*.pt``, or a folder of them, a ``res_*.pt``, or IDC's ``data.pt``.
        kind: ``mtt``, ``datm`` or ``pt``: whose they are.
        dataset: registered name, Hub id or folder that they were distilled from.
        lost: what the files do not say (``distillkit.Lost``): at the least ``zca``, unless a note beside them tells it.
        title: of the method, for the card.
        experiment: which of several in a ``res_*.pt``, the first being 0.
        preset: of the evaluation recipe and network, where no note of our own export says them.
        out: artifact folder; default ``runs/<dataset>-ipc<N>-<kind>-imported``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        overrides: layers of settings from a config file or the command line.
        replace: overwrite another run in ``out``.
        progress: listener.
        stop: request that stops at the next safe place.
        command: the command line that asked for it, for the record.

    Raises:
        DataError: the files hold no distilled set.
        ConfigError: what they lost was not said, or does not fit.
    """
    replace, dataset = yes_or_no("replace", replace), _spelled(dataset)
    check_arguments(out=out, stop=stop, preset=preset)
    lost = Lost() if lost is None else lost
    of_kind("lost", lost, Lost, "a distillkit.Lost")
    check_listener(progress)
    check_layers(overrides)
    named = [Path(expanded(path)) for path in files_named(paths)]
    files = read_field_files(named, experiment, with_lr=lost.lr is None and not lost.search)
    made_by = provenance(kind, title, files)
    lost = told_beside(named, lost)
    layer = preprocessing_layer(kind, dataset, files, lost)
    place, ipc = resolve_device(device), images_per_class(files)
    composed = compose(dataset, ipc, "random", preset, place.type, [recipe_layer(named), layer, *overrides])
    folder = _folder(out, composed.settings.dataset.name, ipc, f"{kind}-imported")
    run = make_run(composed, place, progress, stop, command)
    import_set(run, files, made_by, lost, folder, replace=replace)
    return load_distilled(folder)


@made_on_the_host
def evaluate(
    artifact: str | Path | DistilledDataset,
    architectures: str | Sequence[str] = ("convnet",),
    *,
    dataset: str | Path | ImageSet | SourceData | None = None,
    networks: int = 5,
    seed: int = 0,
    device: str = "auto",
    data_root: str | None = None,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    common_recipe: bool = False,
    world: World = ALONE,
    keep: Callable[[str, EvalReport], None] | None = None,
) -> dict[str, EvalReport]:
    """Train fresh networks of each architecture on an artifact, each by its recipe; test accuracies by architecture.

    Args:
        artifact: folder, or a loaded set.
        architectures: one or several of ``convnet``, ``convnet:width=64,depth=2``, ``resnet18`` or
            ``timm/<name>:norm=instance``.
        dataset: whose test split is asked: a name or folder, data already loaded, or None for the data set that was
            distilled. A set that was made of a folder needs it: a config decides no folder that is read.
        networks: k of each.
        seed: root seed; another one gives other networks.
        device: where.
        data_root: where local copies of registered data sets lie.
        progress: listener.
        stop: request that stops between two networks.
        common_recipe: train all of them by the headline's recipe, as the field's cross-architecture tables do, instead
            of the one that ``DistilledDataset.recipe_for`` names.
        world: the processes that train networks, each its share of them.
        keep: called with each architecture's name and report as soon as it is measured.

    Raises:
        ConfigError: an architecture is unknown or does not fit the images or the recipe, a number is not positive, or
            the data were not named and must be.
        DataError: the data set is not what it was when it was distilled.
        ArtifactError: no artifact.
    """
    networks, seed, names = whole("networks", networks) or 1, seed_number(seed), architectures_named(architectures)
    check_arguments(stop=stop)
    check_listener(progress)
    callable_or_none("keep", keep)
    place = world.place(resolve_device(device))
    contest = Contest(
        artifact if isinstance(artifact, DistilledDataset) else load_distilled(artifact),
        networks,
        seed,
        place,
        Silent() if progress is None else progress,
        StopRequest() if stop is None else stop,  # an unset request is false
        world,
    )
    trials = contest.trials(names, yes_or_no("common_recipe", common_recipe))
    return contest.reports(trials, contest.exam(dataset, data_root), keep)


def measured_before(results: dict[str, Any], recipe: dict[str, Any], architectures: Iterable[str]) -> list[str]:
    """Those of ``architectures``, however they are spelled, that an artifact's ``results`` have already, which are
    never overwritten; ``recipe`` says what ``convnet`` alone stands for.
    """
    own = NetworkSettings.model_validate(recipe["architecture"])
    before = {as_tuned(name, own) for name in results["architectures"]}
    return [name for name in architectures if as_tuned(name, own) in before]


def named_twice(recipe: dict[str, Any], architectures: Iterable[str]) -> str | None:
    """The first of ``architectures`` that is one named before, however it is spelled; None if each is another."""
    own, seen = NetworkSettings.model_validate(recipe["architecture"]), set()
    for name in architectures:
        if as_tuned(name, own) in seen:
            return name
        seen.add(as_tuned(name, own))
    return None


def save_reports(folder: Path, reports: dict[str, EvalReport]) -> None:
    """Add rows to the ``architectures`` of an artifact's results.json, and to its card.

    Raises:
        ConfigError: a row of that name is there; what a run measured is not overwritten.
    """

    def with_rows(artifact: Artifact) -> Change:
        before = artifact.results
        if taken := measured_before(before, artifact.recipe, reports):
            raise ConfigError(f"{folder} has results for {', '.join(taken)} already, which are not overwritten")
        rows = {name: report.to_json() for name, report in reports.items()}
        return Change({**before, "architectures": {**before["architectures"], **rows}})

    change_artifact(folder, with_rows)
