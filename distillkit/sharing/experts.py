"""Expert trajectories on the Hub: a data set repository of compact trajectories, from the cache and into the cache.

``README.md``, ``trajectories.json`` (what determines them, every expert's report and SHA-256) and a safetensors file an
expert. Nothing is trusted: the list is checked before a file is fetched, every file before it enters the cache.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillkit import storage
from distillkit.artifact import own_section
from distillkit.artifact.layout import FILES, check_format
from distillkit.artifact.schema import Home
from distillkit.data.registry import DATASETS
from distillkit.errors import ArtifactError, ConfigError, StorageError, TrajectoryError
from distillkit.experts.recipe import is_ranked
from distillkit.hub import download
from distillkit.hub.address import Address
from distillkit.hub.client import Cache, Token
from distillkit.settings import NetworkSettings, TrajectorySettings
from distillkit.sharing.experts_card import front_matter, render_experts_card
from distillkit.sharing.experts_schema import TrajectoriesFile
from distillkit.sharing.private_source import private_source
from distillkit.sharing.publication import PushOptions, PushReport, check_names
from distillkit.sharing.publish import plan_publication, publish
from distillkit.trajectories.compact import decode
from distillkit.trajectories.convex import waypoint_epochs
from distillkit.trajectories.forms import FORMS
from distillkit.trajectories.store import TrajectoryStore, experts_root
from distillkit.version import SECOND_FORMAT, __version__

LIST = "trajectories.json"
HOME = "hub.json"
MAX_LIST = 2**25  # bytes
MAX_TOTAL = 2**35  # bytes of all files together
MAX_OVERHEAD = 2**22  # bytes of a file besides its waypoints: header, β
EXPERT_FILE = re.compile(r"expert-\d{4,5}\.safetensors")


@dataclass(frozen=True)
class PublishedExperts:
    """The trajectories of a store, by the ``Publication`` protocol."""

    store: TrajectoryStore
    about: TrajectoriesFile
    files: dict[str, bytes]
    own_section: str

    what = "a set of expert trajectories"
    marker = LIST

    @staticmethod
    def open(store: TrajectoryStore) -> PublishedExperts:
        """Check a store.

        Raises:
            ConfigError: its trajectories are raw, which are too large to share.
            TrajectoryError: there is none, or one is damaged.
        """
        if store.form != "convex":
            raise ConfigError(
                f"the trajectories {store.folder.name} are raw, {store.size_bytes() / 1e6:.0f} MB; only compact ones "
                "are shared: 'distillkit experts train ... --set trajectories.form=convex' with the same options "
                "converts them without training"
            )
        numbers = store.experts()
        if not numbers or numbers != list(range(len(numbers))):
            raise TrajectoryError(f"the trajectories {store.folder.name} are not complete; train them first")
        files, records, parameters = {}, [], 0
        for number in numbers:
            if store.state(number) != "good":
                raise TrajectoryError(f"expert {number} of {store.folder.name} is damaged; train it again")
            path = store.tensors_path(number)
            parameters = decode(storage.read_tensors(path)[0]).waypoints.shape[1]
            files[path.name] = path.read_bytes()
            records.append(store.record(number))
        about = _about(store, records, parameters)
        card = store.folder / FILES.card
        own = own_section.find(card.read_text("utf-8"), str(card)) if card.is_file() else ""
        return PublishedExperts(store, about, files, own)

    @property
    def message(self) -> str:
        """Commit message."""
        return f"{len(self.about.experts)} expert trajectories on {self.about.setup.dataset} (distillkit)"

    @property
    def home(self) -> Home | None:
        """Where they were pushed to."""
        path = self.store.folder / HOME
        with contextlib.suppress(StorageError, ValidationError):
            return Home.model_validate(storage.read_json(path))
        return None

    def metadata(self, marker: bytes) -> dict[str, Any]:
        """The card's metadata as they are generated for this list.

        Raises:
            ValueError: it is none.
        """
        return front_matter(TrajectoriesFile.model_validate_json(marker))

    def owns(self, name: str) -> bool:
        """Whether it is one of our files."""
        return name in (FILES.card, LIST) or EXPERT_FILE.fullmatch(name) is not None

    def content(self, repo: str, revision: str | None, own: str) -> dict[str, bytes]:
        """Exactly what is to be published, by file name."""
        about = self.about.model_copy(update={"hub": self._home(repo, revision, own)})
        sizes = {name: len(value) for name, value in self.files.items()}
        card = render_experts_card(about, sizes, own)
        listed = about.model_dump(mode="json") | {"setup": self.store.setup}  # as it is: the fingerprint hangs on it
        return {FILES.card: card.encode(), LIST: storage.json_bytes(listed), **self.files}

    def in_public(self, options: PushOptions) -> PublishedExperts:
        """As they are: the name of their data is part of what they are found by.

        Raises:
            ConfigError: the data are private, and ``replace`` does not say that their name may be published.
        """
        hub_id = private_source(self.about.source)
        if hub_id is not None and not options.replace:
            raise ConfigError(
                f"these trajectories were trained on {hub_id}, which is not public, and name it; `private=True` "
                "publishes them for you alone, `replace=True` for all to see"
            )
        return self

    def settle(self, repo: str, revision: str | None, own: str) -> None:
        """The store remembers where it was published, if it can be written."""
        with contextlib.suppress(StorageError):
            content = self.content(repo, revision, own)
            storage.write_bytes(self.store.folder / FILES.card, content[FILES.card])
            storage.write_json(self.store.folder / HOME, self._home(repo, revision, own).model_dump(mode="json"))

    def _home(self, repo: str, revision: str | None, own: str) -> Home:
        return Home(repo=repo, revision=revision, own_section=own_section.digest(own))


def _about(store: TrajectoryStore, records: list[dict[str, Any]], parameters: int) -> TrajectoriesFile:
    known = DATASETS.get(store.setup["dataset"])
    source = records[0].get("source") or store.setup["dataset"]
    known = known if known and source in (known.hub_id, known.embedded_as) else None
    value = {
        "format_version": SECOND_FORMAT,
        "kind": "expert trajectories",
        "generator": f"distillkit {__version__}",
        "setup": store.setup,
        "fingerprint": store.folder.name,
        "parameters": parameters,
        "experts": records,
        "source": source,
        "hub_id": known.hub_id if known else None,
        "license": records[0].get("license"),
        "citation": known.citation if known else "",
    }
    return _validated(value, str(store.folder))


def _validated(value: Any, name: str) -> TrajectoriesFile:
    """A list as read from anywhere.

    Raises:
        ArtifactError: it is not of the shape, or its fingerprint is not that of its set-up.
    """
    try:
        check_format(value.get("format_version") if isinstance(value, dict) else None, LIST)
        about = TrajectoriesFile.model_validate_json(json.dumps(value))
        own = storage.fingerprint(value["setup"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part)[:60] for part in first["loc"]) or "the whole"
        raise ArtifactError(f"{name} is damaged: {LIST}: {key}: {first['msg'].lower()}") from error
    except (ValueError, RecursionError) as error:  # numbers that are none, or nested too deep
        raise ArtifactError(f"{name} is damaged: {LIST} has values that no set of trajectories has") from error
    for wrong, what in _contradictions(about, value["setup"], own):
        if wrong:
            raise ArtifactError(f"{name} is damaged: {LIST}: {what}")
    return about


def _contradictions(about: TrajectoriesFile, setup: dict[str, Any], fingerprint: str) -> list[tuple[bool, str]]:
    """What the parts of a list must agree on, and the words where they do not."""
    named = set(NetworkSettings.model_fields) - {"replace_norm"} - NetworkSettings.unsaid  # older lists have neither
    form, recipe, epochs = about.setup.form, about.setup.recipe, about.setup.most_epochs
    scheduled = {"add_end_epoch", "easy_fraction", "remove_epochs", "remove_fractions"}
    whole = all(
        len(values) == one.epochs or (name == "validation_accuracy" and not values)
        for one in about.experts
        for name, values in one.curve.model_dump().items()
    )
    return [
        (fingerprint != about.fingerprint or form.form != "convex", "the fingerprint is not that of its set-up"),
        (not named <= set(setup["network"]), "setup.network is not complete"),
        (set(setup["form"]) != set(TrajectorySettings.model_fields) - {"keep_raw"}, "setup.form is not complete"),
        (is_ranked(recipe.order) and not scheduled <= set(setup["recipe"]), "setup.recipe lacks the data scheduler"),
        ((about.setup.epochs is None) == (recipe.epochs is None), "setup says nowhere, or twice, how many epochs"),
        (any(not one.end <= one.epochs <= epochs for one in about.experts), "an expert has more epochs than all may"),
        (not whole, "a curve has not a number for every epoch"),
    ]


def plan_push_experts(store: TrajectoryStore, repo: str, options: PushOptions) -> dict[str, int]:
    """What would be uploaded: bytes by file name; needs no network."""
    check_names(repo, options)
    return plan_publication(PublishedExperts.open(store), repo, options)


def push_experts(store: TrajectoryStore, repo: str, options: PushOptions, token: Token = None) -> PushReport:
    """Check the trajectories of a store and publish them.

    Raises:
        DistillkitError: as ``PublishedExperts.open`` and ``publish`` say.
    """
    check_names(repo, options)
    return publish(PublishedExperts.open(store), repo, options, token)


@dataclass(frozen=True)
class PulledExperts:
    """Trajectories that came into the cache: their store, the commit they are of, how many were not there before."""

    store: TrajectoryStore
    commit: str
    added: int


def pull_experts(address: Address, cache: Cache, root: Path | None = None) -> PulledExperts:
    """Fetch trajectories into the cache of experts, checked; what is there already stays.

    Raises:
        ArtifactError: the repository holds no trajectories, or damaged ones.
        AuthError, NotFoundError, NetworkError: the Hub refuses, has no such thing, or is out of reach.
    """
    commit = download.resolve(address, cache)
    value = _raw_list(address, commit, cache)
    about = _validated(value, str(address))
    store = TrajectoryStore.for_setup(value["setup"], root or experts_root())  # as written: its fingerprint hangs on it
    missing = [number for number, one in enumerate(about.experts) if store.state(number, one.epochs) != "good"]
    _check_sizes(address, commit, about, missing, cache)
    for number in missing:
        _fetch_expert(address, commit, about, number, store, cache)
    return PulledExperts(store, commit, len(missing))


def _raw_list(address: Address, commit: str, cache: Cache) -> Any:
    if not cache.local_files_only:
        size = download.file_sizes(address, commit, [LIST], cache).get(LIST)
        if size is None:
            raise ArtifactError(f"{address} holds no expert trajectories: it has no {LIST}")
        if size > MAX_LIST:
            raise ArtifactError(f"{address} is damaged: {LIST} has {size} bytes, it may have {MAX_LIST}")
    path = download.fetch_file(address, commit, LIST, cache)
    try:
        return storage.read_json(path, MAX_LIST)
    except StorageError as error:
        raise ArtifactError(f"{address} is damaged: {error}") from error


def _file_name(number: int) -> str:
    return f"expert-{number:04d}.safetensors"


def _check_sizes(address: Address, commit: str, about: TrajectoriesFile, numbers: list[int], cache: Cache) -> None:
    """No file may be larger than what its waypoints need, before it is fetched."""
    if cache.local_files_only or not numbers:
        return
    try:
        FORMS["convex"].check(about.setup.form, about.setup.most_epochs)
    except ConfigError as error:
        raise ArtifactError(f"{address} is damaged: {LIST}: {error}") from error
    most = about.setup.most_epochs
    limit = MAX_OVERHEAD + FORMS["convex"].size(about.setup.form, most, most, about.parameters)
    if limit * len(numbers) > MAX_TOTAL:
        raise ArtifactError(
            f"{address} says it holds up to {limit * len(numbers) / 1e9:.0f} GB of trajectories; more than "
            f"{MAX_TOTAL / 1e9:.0f} GB are not fetched"
        )
    names = [_file_name(number) for number in numbers]
    sizes = download.file_sizes(address, commit, names, cache)
    for name in names:
        if name not in sizes:
            raise ArtifactError(f"{address} is damaged: it has no {name}")
        if sizes[name] > limit:
            raise ArtifactError(f"{address} is damaged: {name} has {sizes[name]} bytes, it may have {limit}")


def _fetch_expert(
    address: Address, commit: str, about: TrajectoriesFile, number: int, store: TrajectoryStore, cache: Cache
) -> None:
    record, path = about.experts[number], download.fetch_file(address, commit, _file_name(number), cache)
    if storage.sha256_file(path) != record.sha256:
        raise ArtifactError(f"{address} is damaged: {path.name} is not the file that {LIST} names")
    try:
        tensors, _ = storage.read_tensors(path)
        trajectory = decode(tensors)
    except (StorageError, TrajectoryError) as error:
        raise ArtifactError(f"{address} is damaged: {path.name}: {error}") from error
    form = about.setup.form
    waypoints = form.waypoint_epochs or waypoint_epochs(about.setup.most_epochs, form.waypoints)
    expected = tuple(epoch for epoch in waypoints if epoch <= record.end)
    if trajectory.waypoints.shape[1] != about.parameters or trajectory.epochs != expected:
        raise ArtifactError(f"{address} is damaged: {path.name} does not fit {LIST}")
    facts = record.model_dump(mode="json", exclude={"sha256", "state_sha256", "epochs"}) | {
        "pulled_from": f"{address.repo}@{commit}"
    }
    with store.lock(number):
        if store.state(number, record.epochs) != "good":
            store.adopt(number, path.read_bytes(), record.epochs, facts)
