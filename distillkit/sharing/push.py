"""Publish an artifact folder."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.artifact import own_section
from distillkit.artifact.card import front_matter, render_card
from distillkit.artifact.change import held
from distillkit.artifact.layout import FILES, is_published
from distillkit.artifact.read import read_artifact
from distillkit.artifact.schema import ArtifactConfig, Home
from distillkit.artifact.write import read_own_section, with_own_head
from distillkit.errors import DistillkitError, StorageError
from distillkit.hub.client import Token
from distillkit.sharing.private_source import private_source, warn_of, without_source
from distillkit.sharing.publication import PushOptions, PushReport, check_names
from distillkit.sharing.publish import plan_publication, publish
from distillkit.sharing.validate import Checked, validate

__all__ = ["PublishedArtifact", "PushOptions", "PushReport", "plan_push", "push"]


def plan_push(folder: Path, repo: str, options: PushOptions) -> dict[str, int]:
    """What would be uploaded: bytes by file name. Validates; needs no network and no token.

    Raises:
        ConfigError: a name, tag or branch is not acceptable.
        ArtifactError: the folder is not fit to be published.
    """
    check_names(repo, options)
    return plan_publication(PublishedArtifact.open(folder), repo, options)


def push(
    folder: Path, repo: str, options: PushOptions, token: Token = None, *, update_folder: bool = True
) -> PushReport:
    """Validate an artifact folder and publish it.

    Raises:
        ArtifactError: the folder is not fit to be published.
        DistillkitError: as ``publish`` says.
    """
    check_names(repo, options)
    return publish(PublishedArtifact.open(folder), repo, options, token, update_folder=update_folder)


@dataclass(frozen=True)
class PublishedArtifact:
    """A checked artifact folder, by the ``Publication`` protocol."""

    folder: Path
    checked: Checked
    changed: dict[str, bytes] = field(default_factory=dict)
    """Files that are published with other content than in the folder."""

    what = "a distillkit artifact"
    marker = FILES.config

    @staticmethod
    def open(folder: Path) -> PublishedArtifact:
        """Check a folder.

        Raises:
            ArtifactError: it is not fit to be published.
        """
        return PublishedArtifact(folder, validate(folder))

    @property
    def message(self) -> str:
        """Commit message."""
        about = self.checked.about
        return f"{about.source.name}, {about.ipc} images per class, {about.method} (distillkit)"

    @property
    def own_section(self) -> str:
        """The user's part of the card."""
        return self.checked.own_section

    @property
    def home(self) -> Home | None:
        """Where it was pushed to."""
        return self.checked.about.hub

    def metadata(self, marker: bytes) -> dict[str, Any]:
        """The card's metadata as they are generated for this config.

        Raises:
            ValueError: it is none.
        """
        return front_matter(ArtifactConfig.model_validate_json(marker))

    def owns(self, name: str) -> bool:
        """Whether it is one of an artifact's files."""
        return is_published(name)

    def content(self, repo: str, revision: str | None, own: str) -> dict[str, bytes]:
        """Exactly what is to be published, by file name.

        Raises:
            StorageError: a file cannot be read.
        """
        config = _public(self._config(repo, revision, own))
        artifact = self.checked.artifact
        card = render_card(config, artifact.recipe, artifact.results, own)
        made = self.changed | {
            FILES.config: storage.json_bytes(config),
            FILES.card: with_own_head(self.folder, card).encode(),
        }
        return {name: made[name] if name in made else self._read(name) for name in self.checked.names}

    def in_public(self, options: PushOptions) -> PublishedArtifact:
        """With its source unnamed, where that is private; a warning says so."""
        hub_id = private_source(self.checked.about.source.hub_id)
        if hub_id is None:
            return self
        warn_of(hub_id, f"the images in {self.folder} are")
        artifact, changed = without_source(self.checked.artifact, hub_id)
        about = ArtifactConfig.model_validate(artifact.config)
        return replace(self, checked=replace(self.checked, artifact=artifact, about=about), changed=changed)

    def settle(self, repo: str, revision: str | None, own: str) -> None:
        """The folder's card and config name their repository; a folder that cannot be written stays as it is."""
        if self._config(repo, revision, own) == self.checked.artifact.config and own == self.own_section:
            return
        # it is published all the same, from a folder that is read-only, or damaged since, too
        with contextlib.suppress(DistillkitError), held(self.folder):
            artifact, now = read_artifact(self.folder), read_own_section(self.folder)
            config = artifact.config | {"hub": self._home(repo, revision, own)}
            section = own if now == self.own_section else now
            card = render_card(_public(config), artifact.recipe, artifact.results, section)
            storage.write_bytes(self.folder / FILES.card, with_own_head(self.folder, card).encode())
            storage.write_json(self.folder / FILES.config, config)

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise StorageError(f"could not read {self.folder / name}: {error.strerror or error}") from error

    def _config(self, repo: str, revision: str | None, own: str) -> dict[str, Any]:
        return {**self.checked.artifact.config, "hub": self._home(repo, revision, own)}

    def _home(self, repo: str, revision: str | None, own: str) -> dict[str, Any]:
        return {"repo": repo, "revision": revision, "own_section": own_section.digest(own)}


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """The config without paths of this machine: a folder of images is known by its name."""
    dataset = config["settings"]["dataset"]
    if config["source"].get("hub_id") is None and Path(dataset["name"]).name != dataset["name"]:
        dataset = {**dataset, "name": Path(dataset["name"]).name}
    dataset = {**dataset, "data_root": None}
    return {**config, "settings": {**config["settings"], "dataset": dataset}}
