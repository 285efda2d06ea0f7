"""The three JSON files of an artifact as records. What is not of this shape is refused; further keys may be there."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distillkit.records import LabelKind
from distillkit.settings import NetworkSettings, Precision, StoredDtype

Size = Annotated[int, Field(ge=1, le=4096)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Text = Annotated[str, Field(max_length=20_000)]
Line = Annotated[str, Field(max_length=2_000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256."""
AGREEMENT = 1e-4
"""How far figures that say the same may be apart: a hundredth of a point of accuracy, a ten thousandth of a rate."""


class _Open(BaseModel):
    """Checked keys; others may be there and are not relied on."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Source(_Open):
    """The data set that was distilled."""

    name: Line
    source: Line
    revision: Line | None = None
    hub_id: Line | None = None
    license: Line | None = None
    citation: Text = ""
    train_split: Line = "train"
    test_split: Line = "test"
    train_images: Annotated[int, Field(ge=1, le=10**12)]
    test_images: Count = 0
    fingerprint: Line | None = None
    grey_range: tuple[Finite, Finite] | None = None


class StoredDataset(_Open):
    """Of the settings of the data set, what the card tells."""

    name: Line
    preprocessing: Line = "standardise"


class StoredDistill(_Open):
    """Of the settings of distillation, what the card tells."""

    lr_lr: float | None = None
    outer_steps: int | None = None
    init: Annotated[str, Field(max_length=100)] | None = None
    student: Annotated[str, Field(max_length=200)] | None = None


class StoredNetwork(_Open):
    """Of the settings of the network, what the card tells."""

    pool: Annotated[list[Line], Field(max_length=100)] = []


class StoredEvaluate(_Open):
    """Of the settings of the recipe, what the card tells."""

    lr: Annotated[float, Field(allow_inf_nan=False)] | None = None


class StoredSettings(_Open):
    """Of the settings of the run, what readers use."""

    dataset: StoredDataset
    network: StoredNetwork = StoredNetwork()
    distill: StoredDistill = StoredDistill()
    evaluate: StoredEvaluate = StoredEvaluate()
    precision: Precision = "fp32"


class Range(_Open):
    """The pixels that 0 and 255 of the 8-bit view stand for."""

    low: Finite
    high: Finite

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.high <= self.low:
            raise ValueError("high must be above low")
        return self


class Home(_Open):
    """Where the artifact was pushed: repository, the revision its card names, and the user's section as it was then."""

    repo: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)]
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_./-]*$", max_length=255)] | None = None
    own_section: Digest | None = None


Kind = Literal["learned", "real", "noise"]


class EarlierRun(_Open):
    """A run whose images another one began with: its method and command, its outer steps, what it took, and what the
    images are, which older artifacts do not say.
    """

    method: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=60)]
    command: Text = ""
    outer_steps: Annotated[int, Field(ge=0)] | None = None
    hardware: Line = "not stated"
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    kind: Kind = "learned"


MOST_RECIPES = 64
"""Of further networks."""


class ArtifactConfig(_Open):
    """distill_config.json."""

    format_version: Line
    generator: Line = "an early distillkit"
    method: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=60)]
    method_title: Line
    citation: Text = ""
    ipc: Annotated[int, Field(ge=1, le=10**6)]
    seed: int = Field(0, ge=0)
    image_shape: tuple[Size, Size, Size]
    classes: Annotated[list[Line], Field(min_length=2, max_length=100_000)]
    label_kind: LabelKind
    dtype: StoredDtype = "float32"
    uint8_range: Range
    settings: StoredSettings
    source: Source
    experts: dict[str, Any] | None = None
    learned_here: bool | None = None
    imported_from: Line | None = None
    command: Text = ""
    versions: dict[str, Line] = {}
    hardware: Line = "not stated"
    wall_time_seconds: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    earlier_runs: Annotated[list[EarlierRun], Field(max_length=64)] = []
    hub: Home | None = None
    recipes: Annotated[list[Line], Field(max_length=MOST_RECIPES)] = []
    checksums: Annotated[dict[Line, Digest], Field(max_length=100)] = {}
    """SHA-256 of the files that loading reads, but for the config itself; older artifacts have none."""
    checksums_next: Annotated[dict[Line, Digest], Field(max_length=100)] = {}
    """Of those that are being replaced, which may be the new ones already; none but after a kill meanwhile."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def learned(self) -> bool:
        """Whether a run of distillkit learned the images; older artifacts of which that is true name their experts."""
        return self.experts is not None if self.learned_here is None else self.learned_here

    @property
    def kind(self) -> Kind:
        """What the images are, whoever learned them: a run may have kept those of another set that it began with."""
        if self.learned or self.imported_from is not None:
            return "learned"
        begun = self.settings.distill.init
        if begun == "artifact":
            return self.earlier_runs[-1].kind if self.earlier_runs else "learned"
        return "noise" if begun == "noise" else "real"

    @property
    def lr_learned(self) -> bool:
        """Whether the recipe's learning rate is the learned one: neither given nor left as it began."""
        return self.learned and self.settings.distill.lr_lr != 0 and self.settings.evaluate.lr is None

    @property
    def unmoved(self) -> bool:
        """Whether a run was to learn the images and kept those that it began with."""
        begun = self.learned_here is False and (self.settings.distill.outer_steps or 0) > 0
        return begun and self.imported_from is None

    @property
    def size(self) -> int:
        """S, synthetic images."""
        return self.ipc * len(self.classes)


class Optimizer(_Open):
    """SGD, Adam (whose momentum and weight decay are 0), or AdamW."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, allow_inf_nan=False)


class LrSchedule(_Open):
    """Passes over the set, and the first epochs of each lower learning rate."""

    epochs: int = Field(ge=1, le=1_000_000)
    lr_drop_epochs: Annotated[list[Annotated[int, Field(ge=0, le=1_000_000)]], Field(max_length=1000)]
    lr_drop_factor: float = Field(gt=0, allow_inf_nan=False)
    cosine: bool = False
    momentum_after_drop: Annotated[float, Field(ge=0, lt=1)] | None = None


class AugmentationFile(_Open):
    """DSA operations, or none."""

    strategy: Line = "none"
    mixing: Literal["none", "cutmix"] = "none"


class RecipeFile(_Open):
    """recipe.json."""

    architecture: NetworkSettings
    optimizer: Optimizer
    schedule: LrSchedule
    lr: float = Field(gt=0, allow_inf_nan=False)
    batch_size: int = Field(ge=1, le=10**9)
    augmentation: AugmentationFile


class TunedRecipeFile(RecipeFile):
    """recipes/<architecture>.json: a recipe of one network, and what it was found by."""

    tuned_for: Line


class Row(_Open):
    """Accuracies of n fresh networks."""

    mean: Share
    std: Share
    n: int = Field(ge=1, le=100_000)
    accuracies: Annotated[list[Share], Field(min_length=1, max_length=100_000)]
    lr: Finite | None = None
    dtype: StoredDtype | None = None
    """As what the images were stored when it was measured, where they were packed again since."""

    @model_validator(mode="after")
    def _counted(self) -> Row:
        if len(self.accuracies) != self.n:
            raise ValueError(f"n is {self.n}, there are {len(self.accuracies)} accuracies")
        mean = sum(self.accuracies) / self.n
        if abs(self.mean - mean) > AGREEMENT:
            raise ValueError(f"mean is {self.mean:g}, that of the accuracies is {mean:g}")
        return self


class ImageLength(_Open):
    """Mean L2 norms of learned images as they were learned, and of real inputs; which of them the images have."""

    learned: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    real: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    kept: Literal["learned", "real"]


class Selection(_Open):
    """Which checkpoint was kept, and which split chose it."""

    split: Line
    images: Count | None = None
    step: Count | None = None
    outer_steps: Count | None = None
    epochs: dict[str, Any] | None = None
    selected_by: tuple[Line, ...] = ()
    image_length: ImageLength | None = None
    warnings: Annotated[tuple[Line, ...], Field(max_length=20)] = ()


class Habit(_Open):
    """The largest test accuracy over checkpoints, and how its paper (``what``) comes by it."""

    what: Line
    accuracy: Share
    step: Count


class TunedRow(Row):
    """Test accuracies of a network by its own recipe, the recipe in words, and the seconds that its search took."""

    recipe: Line
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    baselines: dict[Line, Row] = {}


class ResultsFile(_Open):
    """results.json."""

    tuned: dict[Line, TunedRow] = {}

    architectures: dict[Line, Row]
    baselines: dict[Line, Row]
    uint8: Row | None
    float32: Row | None = None
    hard_labels: Row | None = None
    paper_protocol: Habit | None = None
    selection: Selection


class Identity(_Open):
    """What the header of distilled.safetensors says of the artifact: enough for a look without a download."""

    format_version: Line
    label_kind: LabelKind
    generator: Line = ""
    method_title: Line = ""
    unmoved: bool = False
    ipc: int = Field(ge=1, le=10**6)
    num_classes: int = Field(ge=2, le=100_000)
    source: Line = ""
    train_images: Count = 0
    lr: Finite
    accuracy: dict[Line, Row] = {}
    uint8_range: Range | None = None
