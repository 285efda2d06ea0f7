"""The card that is on the Hub: what its owner wrote into it stays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distillkit.artifact import front_matter, own_section
from distillkit.artifact.layout import FILES
from distillkit.errors import ConfigError
from distillkit.hub import repository
from distillkit.hub.client import Token
from distillkit.hub.repository import RemoteState
from distillkit.sharing.publication import Publication, PushOptions


@dataclass(frozen=True)
class RemoteCard:
    """The card on the Hub: its text, its metadata, and those that were generated for what is there (None: not ours)."""

    text: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    generated: dict[str, Any] | None = None

    def kept(self, card: str, options: PushOptions) -> str:
        """A card of ours with the metadata of the owner of this one."""
        if not self.metadata:
            return card
        ours = front_matter.read(card, "the card")
        merged = front_matter.merge(ours, self.metadata, self.generated, ours_wins=options.replace)
        return card if merged == ours else front_matter.replace(card, merged)


def remote_card(
    publication: Publication, repo: str, remote: RemoteState, options: PushOptions, token: Token
) -> RemoteCard:
    """The card of a repository, empty where it has none.

    Raises:
        ConfigError: its metadata cannot be read, and nobody said that ours go before them.
    """
    content = repository.remote_file(repo, FILES.card, remote.head, token) if FILES.card in remote.files else None
    if content is None:
        return RemoteCard()
    text = content.decode("utf-8", errors="replace")
    try:
        metadata = front_matter.read(text, f"the card of {repo}")
    except ConfigError:
        if not options.replace:
            raise
        metadata = {}
    if publication.marker not in remote.files:
        return RemoteCard(text, metadata)
    marker = repository.remote_file(repo, publication.marker, remote.head, token) or b""
    try:
        return RemoteCard(text, metadata, publication.metadata(marker))
    except (ValueError, RecursionError):  # of a newer version, or damaged: what is not as we would write it stays
        return RemoteCard(text, metadata, {})


def merged_section(publication: Publication, repo: str, card: RemoteCard, options: PushOptions) -> str:
    """The user's section: the folder's, with what was changed in the one on the Hub since the last push.

    Raises:
        ConfigError: it was changed in both places.
    """
    if options.replace or not card.text:
        return publication.own_section
    theirs = own_section.find(card.text, f"the card of {repo}")
    home = publication.home
    return own_section.merge(publication.own_section, theirs, home.own_section if home else None, ours_wins=False)
