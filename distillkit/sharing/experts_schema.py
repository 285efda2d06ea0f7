"""trajectories.json of a published set of expert trajectories as records; what is not of this shape is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from distillkit.artifact.schema import Digest, Finite, Home, Line, Share, Text
from distillkit.settings import NetworkSettings, TrajectorySettings

MAX_EXPERTS = 10_000
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Numbers = Annotated[tuple[Finite, ...], Field(max_length=100_000)]
Plain = str | bool | int | Finite | None | list[str | bool | int | Finite | None]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExpertRecipe(BaseModel):
    """Of the experts' recipe, what is read; it may hold more, plain values only."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Plain]

    epochs: Epochs | None = None  # of older files; since then the set-up has it
    order: Line
    add_end_epoch: Annotated[int, Field(ge=0)] = 0
    easy_fraction: Share = 1.0
    remove_epochs: tuple[int, int] = (0, 0)
    remove_fractions: tuple[Share, Share] = (0.0, 0.0)


class Setup(_Closed):
    """What determines the trajectories: as ``stages.fingerprints.expert_setup`` makes it, with a form."""

    format: Literal[1]
    dataset: Line
    data: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
    preprocessing: Annotated[list[Plain], Field(max_length=10)]
    augmentation: Line
    network: NetworkSettings
    precision: Line
    device: Literal["cpu", "cuda"]
    recipe: ExpertRecipe
    seed: Annotated[int, Field(ge=0)]
    form: TrajectorySettings
    epochs: Epochs | None = None
    computed: Annotated[list[Plain], Field(max_length=2)] | None = None
    code: Line | None = None  # the digest of a method file of one's own, whose parts may have made them

    @property
    def most_epochs(self) -> int:
        """The epochs that the path of waypoints is spread over."""
        return self.epochs or self.recipe.epochs or 1


class Curve(_Closed):
    """By epoch."""

    loss: Numbers
    validation_accuracy: Annotated[tuple[Share, ...], Field(max_length=100_000)]
    parameter_change: Numbers


class Moved(_Closed):
    """How far the storage dtype moved the trajectory, in units of its one-epoch segments."""

    segment: Finite
    position: Finite


class ExpertRecord(_Closed):
    """One expert: the digest of its file, its epochs, its report."""

    sha256: Digest
    state_sha256: Digest | None = None
    epochs: Epochs
    last_point: Epochs | None = None
    curve: Curve
    test_accuracy: Share | None = None
    source: Line | None = None
    license: Line | None = None
    pulled_from: Line | None = None
    storage_error: Moved | None = None

    @property
    def end(self) -> int:
        """The last epoch of its path: training went on by an epoch where the waypoint is a mean with the next one."""
        return self.last_point or self.epochs


class TrajectoriesFile(_Closed):
    """The whole file."""

    format_version: Line
    kind: Literal["expert trajectories"]
    generator: Line
    setup: Setup
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    parameters: Annotated[int, Field(ge=1, le=10**10)]
    experts: Annotated[tuple[ExpertRecord, ...], Field(min_length=1, max_length=MAX_EXPERTS)]
    source: Line
    hub_id: Line | None = None
    license: Line | None = None
    citation: Text = ""
    hub: Home | None = None
