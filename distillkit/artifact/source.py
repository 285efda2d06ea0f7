"""Which real data an artifact is measured on, and what its config may decide of that.

A config may come from anywhere. It names registered data sets and data sets on the Hub, and says how they were split;
it never decides which folder of this machine is read: a folder is read when the user names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillkit.data.registry import DATASETS
from distillkit.errors import ArtifactError, ConfigError, DataError
from distillkit.hub.address import REPOSITORY, spelled
from distillkit.paths import expanded
from distillkit.settings import DatasetSettings


@dataclass(frozen=True)
class Asked:
    """What to read: the settings of it, and the fingerprint that the data must have (None: whatever they are)."""

    settings: DatasetSettings
    fingerprint: str | None = None
    must_match: bool = False

    def check(self, found: str | None, note: Callable[[str], None] = lambda message: None) -> None:
        """Whether data with the fingerprint ``found`` are those that were distilled, where they must be; ``note`` hears
        that others are not.

        Raises:
            DataError: they are others, so their test images may be others too.
        """
        if self.must_match and found != self.fingerprint:
            raise DataError(
                f"{self.settings.name} is not the data set that was distilled (fingerprint {found}, expected "
                f"{self.fingerprint}); in Python, pass the data themselves to measure on them all the same"
            )
        if self.fingerprint is not None and found != self.fingerprint:
            note(
                f"{self.settings.name} is not the data set that was distilled, or not as it was split then; what the "
                "set was made of may be among its test images"
            )


def asked_data(
    config: dict[str, Any],
    image_shape: tuple[int, int, int],
    dataset: str | Path | None = None,
    data_root: str | None = None,
) -> Asked:
    """What ``dataset`` stands for beside an artifact with this config.

    Args:
        config: of the artifact.
        image_shape: C, H, W of its images.
        dataset: None is the data set that was distilled; its own name is too, and where that was a folder, a folder of
            the same name. Another folder in its place is read and split alike; any other data set is read at the size
            and in the colours of the images.
        data_root: where local copies of registered data sets lie.

    Raises:
        ArtifactError: the config does not say which data set it was.
        ConfigError: it was a folder, which only the user can name.
    """
    stored = _stored(config).model_copy(update={"data_root": data_root})
    if data_root is not None and stored.name in DATASETS:
        stored = stored.model_copy(update={"revision": None})  # a local copy has none; whether it fits, its bytes tell
    fingerprint = config["source"].get("fingerprint")
    local = stored.name not in DATASETS and not _is_on_hub(stored.name, config)
    if dataset is None:
        if local:
            raise ConfigError(
                f"this set was made of images in a folder ({Path(stored.name).name!r}), and which folder is read is "
                "yours to say: `dataset=PATH`"
            )
        return Asked(stored, fingerprint, must_match=True)
    name, revision = spelled(expanded(dataset))
    if name == stored.name or (local and _same_folder(name, stored.name)):
        at = {"name": name} if revision is None else {"name": name, "revision": revision}
        return Asked(stored.model_copy(update=at), fingerprint, must_match=True)
    color = "gray" if image_shape[0] == 1 else "rgb"
    if local and name not in DATASETS and _is_here(name):
        form = {"image_size": image_shape[1], "color": color}  # which may have been found out of the other folder
        return Asked(stored.model_copy(update={"name": name, **form}), fingerprint)
    other = DatasetSettings(name=name, revision=revision, image_size=image_shape[1], color=color, data_root=data_root)
    return Asked(other, fingerprint)


def _stored(config: dict[str, Any]) -> DatasetSettings:
    known = {key: config["settings"]["dataset"].get(key) for key in DatasetSettings.model_fields}
    try:
        return DatasetSettings.model_validate({key: value for key, value in known.items() if value is not None})
    except (ValidationError, AttributeError, KeyError) as error:
        raise ArtifactError("the artifact does not say which data set it was made of; name one") from error


def _is_on_hub(name: str, config: dict[str, Any]) -> bool:
    """Whether a name of a config is that of a repository, and nothing here has that name, which would go before it."""
    return name == config["source"].get("hub_id") and bool(REPOSITORY.fullmatch(name)) and not _is_here(name)


def _is_here(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a path, or not fit to be one
        return False


def _same_folder(name: str, stored: str) -> bool:
    """Whether a folder is the one that was distilled, by its name: what was published knows the last part alone."""
    if not _is_here(name):
        return False
    here = Path(name).resolve()
    return here.name == stored if Path(stored).name == stored else Path(stored) in (here, Path(name).absolute())
