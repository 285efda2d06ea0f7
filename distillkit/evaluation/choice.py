"""Which recipe a network is trained by: its own, that of a relative, a default of its kind, or the artifact's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from distillkit.errors import ConfigError
from distillkit.evaluation.tuning import ATTENTION, BATCH_NORM, default_recipe
from distillkit.networks.build import architecture_name, build_network, parse_architecture
from distillkit.networks.kinds import (
    NEEDED,
    architecture_of,
    batch_statistics,
    family_of,
    has_attention,
    has_batch_norm,
)
from distillkit.settings import NetworkSettings
from distillkit.words import counted


def choose_recipe(
    model: nn.Module | str,
    own: dict[str, Any],
    others: Mapping[str, dict[str, Any]],
    image_shape: tuple[int, int, int],
    num_classes: int,
    size: int,
) -> dict[str, Any]:
    """The recipe for a model, or for an architecture by name, in the form of ``recipe.json``.

    Args:
        model: the network, or what ``--arch`` says.
        own: the artifact's recipe, of its headline's network.
        others: recipes that ``distillkit tune`` found, by architecture.
        image_shape: C, H, W.
        num_classes: outputs.
        size: images of the set.

    Raises:
        ConfigError: an unknown architecture.
    """
    network = NetworkSettings.model_validate(own["architecture"]).model_copy(update={"pool": ()})
    name = model if isinstance(model, str) else architecture_of(model)
    if name is not None:
        name = as_tuned(name, network)
        if name in others:
            return others[name]
        if name == architecture_name(network, network):
            return own
        relatives = [known for known in others if family_of(known) == family_of(name)]
        if relatives:
            return others[relatives[0]]
    if isinstance(model, str):
        model = build_network(parse_architecture(model, network), image_shape, num_classes, 0, "kind")
    kind = ATTENTION if has_attention(model) else BATCH_NORM if has_batch_norm(model) else None
    if kind is None:
        return own
    strategy = str(own["augmentation"].get("strategy", "none"))
    return default_recipe(kind, strategy, size) | {"architecture": own["architecture"]}


def as_tuned(architecture: str, own: NetworkSettings) -> str:
    """What the recipe of an architecture is called, however it is spelled; a name of other origin stays."""
    try:
        return architecture_name(parse_architecture(architecture, own), own)
    except ConfigError:
        return architecture


def fitting_network(
    network: NetworkSettings, image_shape: tuple[int, int, int], num_classes: int, images: int
) -> tuple[NetworkSettings, str | None]:
    """``network`` as batches of so many ``images`` can train it: a timm network has its batch normalisation replaced
    where its statistics would be of few values. The note says so, or is None.
    """
    if not network.name.startswith("timm/"):
        return network, None
    found = batch_statistics(build_network(network, image_shape, num_classes, 0, "kind"), image_shape, images)
    if found is None or not found.are_few:
        return network, None
    changed = network.model_copy(update={"replace_norm": "instance"})
    try:
        build_network(changed, image_shape, num_classes, 0, "kind")
    except ConfigError:  # it would hear nothing of an image
        changed = network.model_copy(update={"replace_norm": "group"})
    return changed, (
        f"batch normalisation replaced, which {counted(images, 'image')} train badly "
        f"({counted(found.values, 'value')} a channel, {NEEDED} are needed); {network.name}:norm=keep keeps it"
    )
