"""Every setting of a run, grouped by the stage that reads it. Import-light: no torch.

The defaults are the common protocol of the field (MTT, arXiv:2203.11932, and its released code) where it has one;
methods and presets lay their own values over them (``distillkit.config``). Parts (``init = "real"``) are names; the
stage that owns a part lists the names it knows.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from distillkit.paths import expanded

HomePath = Annotated[str, AfterValidator(expanded)]
"""A path, in which ``~`` is the home folder."""
StoredDtype = Literal["float32", "float16", "uint8"]
"""How the images of a distilled set are stored."""
TrajectoryDtype = Literal["float32", "float16", "bfloat16"]
"""How the waypoints of compact trajectories are stored."""
Precision = Literal["auto", "fp32", "tf32", "bf16"]
"""Arithmetic of convolutions and matrix products."""
DSA = "color_crop_cutout_flip_scale_rotate"
"""The strategy of differentiable siamese augmentation that MTT's released code takes for photographs."""


def _plain_kinds(annotation: Any) -> set[type]:
    """The types, or words of a Literal, in an annotation: int and None of ``tuple[int, ...] | None``."""
    inner = get_args(annotation)
    return {annotation} if not inner else {kind for one in inner for kind in _plain_kinds(one)}


class Section(BaseModel):
    """Immutable settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    unsaid: ClassVar[frozenset[str]] = frozenset()
    """Settings that are not written at their defaults: files from before there were any are still these."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes ``true`` for 1 and ``false`` for 0; a person who writes them means something else."""
        kinds = _plain_kinds(cls.model_fields[info.field_name or ""].annotation)
        if bool in kinds or not kinds & {int, float}:
            return value
        nothing = type(None) in kinds
        if any(isinstance(one, bool) for one in (value if isinstance(value, list | tuple | set) else (value,))):
            raise ValueError(f"expected a number{', or null for none' if nothing else ''}, not true or false")
        if nothing and str not in kinds and isinstance(value, str) and value.lower() in ("none", "never"):
            raise ValueError("null stands for none")
        return value

    @model_serializer(mode="wrap")
    def _said(self, to_plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(self)
        fields = type(self).model_fields
        silent = {name for name in self.unsaid if getattr(self, name) == fields[name].get_default()}
        return {name: value for name, value in plain.items() if name not in silent} if silent else plain


def _as_text(name: Any) -> Any:
    """YAML reads a class called 3 as a number, and one called no as False; which word it was is lost then."""
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


Names = tuple[Annotated[str, BeforeValidator(_as_text)], ...]


class DatasetSettings(Section):
    """What data are read and how images become network inputs."""

    name: str
    """A registered name, a Hub id ``org/name``, or a local folder or file."""
    data_root: str | None = None
    """A folder with local copies of registered data sets, one sub-folder each."""
    revision: str | None = None
    """Hub commit, branch or tag to read; default the newest."""
    config_name: str | None = None
    """The Hub configuration (subset) to read, where a data set has several."""
    image_column: str | None = None
    """Column of the images; found when there is just one."""
    label_column: str | None = None
    """Column of the class labels; found when there is just one of classes or of a usual name."""
    class_names: Names | None = None
    """Names of the classes in label order, where the data set does not say them."""
    classes: Names | None = None
    """Use only these classes, by name and in this order; default all."""
    without_classes: Names | None = None
    """Leave these classes out."""
    train_split: str | None = None
    """Split to learn from; default ``train`` or the only one."""
    test_split: str | None = None
    """Split for the final accuracies; default ``test`` or ``validation``; without one, or with ``none``, a seeded part
    of train."""
    license: str | None = Field(None, min_length=1, max_length=200)
    """Licence of the data as the card will tell it (``mit``, ``cc-by-4.0``); default: what the source's card states."""
    image_size: int | None = Field(None, ge=4, le=1024)
    """Height and width in pixels; default: as the images are."""
    resize: Literal["crop", "pad", "squash"] = "crop"
    """How an image of another shape becomes square: by its centre, with black around it, or out of proportion."""
    color: Literal["auto", "gray", "rgb"] = "auto"
    """Channels; ``auto`` is grey when every image is."""
    skip_corrupt: bool = False
    """Leave out images that cannot be decoded, instead of stopping at the first."""
    max_train: int | None = Field(None, ge=2)
    """Use this many training images, drawn evenly over the classes (before the validation split is taken)."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Part of the training images held out for selection, evenly over the classes."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Part of the training images that becomes the test split where a data set has none."""
    split_seed: int = 0
    """Seed of the splits made here; not the run's seed, so that runs stay comparable."""
    preprocessing: Literal["standardise", "zca", "unit-zca", "unit-dct", "none"] = "standardise"
    """Per-channel mean and standard deviation, ZCA whitening (papers: CIFAR), ``unit-zca`` (RaT-BPTT: each image minus
    its mean and to unit length, then ZCA), ``unit-dct`` (the same by spatial frequency: a thousandth of the bytes,
    images of any size), or [0, 1] pixels as they are."""
    mean: tuple[Annotated[float, Field(ge=-1e3, le=1e3)], ...] | None = None
    """Channel means of pixels in [0, 1] to standardise with; default: those of the training images."""
    std: tuple[Annotated[float, Field(ge=1e-6, le=1e3)], ...] | None = None
    """Channel standard deviations to standardise with; default: those of the training images."""
    zca_eps: float = Field(0.1, gt=0)
    """Added to the eigenvalues of the covariance of [0, 1] pixels; ``unit-zca`` and
    ``unit-dct`` add it times their mean."""
    augmentation: str = DSA
    """DSA operations joined by ``_``, one drawn per batch; ``none`` turns it off."""


class NetworkSettings(Section):
    """The network of experts, students and the main evaluation."""

    unsaid: ClassVar[frozenset[str]] = frozenset({"pool"})
    name: str = "convnet"
    """``convnet``, one of the field's (``resnet18``, ``vgg11``, ``alexnet``, ``lenet``, ``mlp``) or ``timm/<name>``."""
    width: int = Field(128, ge=1)
    """Channels of each ConvNet block."""
    depth: int | None = Field(None, ge=1)
    """ConvNet blocks; default by the image size (3 at 32 pixels, 4 at 64, 5 at 128)."""
    norm: Literal["instance", "batch", "group", "layer", "none"] = "instance"
    """Normalisation of the ConvNet and the field's networks; ``instance`` is an affine GroupNorm of one channel a
    group."""
    replace_norm: Literal["keep", "instance", "group"] = "keep"
    """Of a timm network: what takes the place of its batch normalisation, which a few images a class cannot train."""
    pool: tuple[str, ...] = ()
    """Networks of students that begin fresh, and of DSA and DM, which take turns by outer step (by fresh network, where
    several steps share one): ``["convnet", "resnet18"]``, each as ``--arch`` has it. The set is learned for all of
    them, selected by their mean validation accuracy, and measured with the network of the run. Default that network,
    or ``distill.student``."""


class ExpertSettings(Section):
    """How expert trajectories are made (MTT Sec. 3.1: plain SGD on real data)."""

    count: int = Field(100, ge=0)
    """Experts to train."""
    seed: int | None = Field(None, ge=0)
    """Root seed of the experts; default the run's. With one given, runs of several seeds share their experts."""
    source: str | None = None
    """Fingerprint of cached trajectories (pulled ones, say) to take as they are, whatever the other settings here."""
    epochs: int = Field(50, ge=1)
    """The most epochs of each, the initialisation being epoch 0; waypoints and schedules are spread over these."""
    train_to: Literal["auto", "end"] = "auto"
    """How far experts are trained: ``auto``, as far as a part reads them, or ``end``, all ``epochs``."""
    opinions: int = Field(10, ge=1)
    """Experts, from number 0 on, whose last point is asked for initial soft labels (DATM asks all of its 100)."""
    batch_size: int = Field(256, ge=1)
    """Images a step."""
    optimizer: str = "sgd"
    """Optimiser part: ``sgd``, or ``gsam`` (sharpness-aware, FTD, DATM, PAD) around it."""
    lr: float = Field(0.01, gt=0)
    """Learning rate."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """SGD momentum."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 weight decay."""
    lr_drop_epochs: tuple[int, ...] = ()
    """Epoch indices (first is 0) from which the lr is multiplied by ``lr_drop_factor``, with fresh momentum."""
    lr_drop_factor: float = Field(0.1, gt=0)
    """Factor of each lr drop."""
    loss: str = "cross-entropy"
    """Loss part."""
    clipping: tuple[Annotated[float, Field(gt=0)], ...] = (0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
    """Factors of the cross-entropy in the first epochs, where the loss clips (AST's c_e); 1 afterwards."""
    penalty: str = "two-sided-logits"
    """Form of the gradient penalty, where the loss has one: ``two-sided-logits`` (AST's code) or ``one-sided-loss``."""
    penalty_weight: float = Field(2.0, ge=0)
    """λ of the gradient penalty, where the loss has one."""
    order: str = "shuffle"
    """Data order part: which images an epoch sees, in which order; ``easy-to-hard`` is PAD's data scheduler."""
    difficulty: str = "el2n"
    """Score of the data scheduler: ``el2n`` or ``grand`` (of the last layer)."""
    ranking: HomePath | None = None
    """File with a ranking of the data scheduler's own, instead of a score (see ``data/ranking.py``): PAD's released
    ones, say."""
    difficulty_networks: int = Field(5, ge=1)
    """Networks whose scores are averaged."""
    difficulty_epochs: int = Field(10, ge=1)
    """Epochs that each of them is trained before it scores."""
    easy_fraction: float = Field(0.75, gt=0, le=1)
    """Share of each class, the easiest, that the scheduler starts with."""
    add_end_epoch: int = Field(20, ge=0)
    """Epoch at which all images are in."""
    remove_epochs: tuple[int, int] = (40, 60)
    """Epochs after which the easiest are left out: first some, then more."""
    remove_fractions: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.1, 0.2)
    """How much of each class is left out after the first and after the second."""
    sharpness_radius: float = Field(0.01, ge=0)
    """ρ of the optimiser ``gsam``."""
    gap_weight: float = Field(0.3, ge=0)
    """α of the optimiser ``gsam``."""
    adaptive: bool = True
    """Whether the radius of ``gsam`` is relative to the parameters."""
    augment: bool = True
    """Train on DSA-augmented images."""
    together: int | None = Field(None, ge=1)
    """Experts trained side by side; default as many as fit into a GPU's memory, on a CPU one by one."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile the training step; ``auto`` where enough steps pay for it: on a GPU, on a CPU in bfloat16."""


class TrajectorySettings(Section):
    """The form in which trajectories are stored and read."""

    form: str = "raw"
    """Trajectory form part: ``raw`` keeps the parameters of every epoch, ``convex`` (MCT) a few waypoints."""
    waypoints: int = Field(4, ge=2)
    """Waypoints of the convex form, spread over the epochs; 2 are the initialisation and the end."""
    waypoint_epochs: tuple[int, ...] | None = None
    """Their epochs, ascending from 0 to the last; default as ``waypoints`` spreads them."""
    smooth: bool = True
    """Inner waypoints are the mean of the epochs beside them, the last that of the last two (if more than two)."""
    beta: str = "path-length"
    """How far along a segment an epoch is: ``path-length`` per tensor, or the released ablations ``uniform``,
    ``decreasing``, ``projection``."""
    dtype: TrajectoryDtype = "float32"
    """Of the stored waypoints; refused where it would move segments by more than 2 % of their length."""
    keep_raw: bool = False
    """Also keep the raw epochs of experts that are trained for the convex form."""


class DistillSettings(Section):
    """The outer loop and the student (MTT Sec. 3.2, Alg. 1)."""

    init: str = "real"
    """Initial synthetic images: ``real`` (random training images), ``kmeans`` (nearest to class-wise centroids),
    ``kmeans-logits`` (the same on an expert's logits, AST), ``correct`` (an expert classifies them correctly, DATM),
    ``noise`` (of unit length, RaT), ``artifact`` (those of ``init_from``)."""
    init_from: HomePath | None = None
    """Artifact folder whose images, labels and learning rate ``init=artifact`` starts from: a set learned by narrow
    students, say, that wide ones finish; of the same data and split, so that none of its images tests this one."""
    labels: str = "hard"
    """Label part: ``hard`` is one-hot and fixed, ``soft`` logits, learned (DATM), ``weights`` of the classes, learned,
    one-hot at first (RaT)."""
    objective: str = "unroll"
    """What an outer step descends: the loss that ``matching`` asks of an unrolled student, ``gradients`` (DSA) or
    ``embeddings`` (DM) of synthetic and real images."""
    start: str = "expert"
    """Where an unrolled student begins: on an ``expert``'s trajectory, or at a ``fresh`` network (RaT)."""
    student: str | None = None
    """Network of students that begin fresh, and of DSA and DM, where it is not the one that the set is for, as
    ``convnet:width=32``: narrow ones are faster. Default that of the run."""
    window: str = "random"
    """Window part, of students that begin at fresh networks: which ``inner_steps`` of their ``horizon`` are
    differentiated, ``random`` or the ``last`` ones."""
    horizon: int | None = Field(None, ge=1)
    """T, steps of a student that begins at a fresh network, the window included; default ``inner_steps``."""
    segments: int = Field(1, ge=1)
    """S, students that an outer step averages over, each of its own expert and start."""
    sampler: str = "uniform"
    """Segment sampler part: ``uniform`` starts at whole epochs, ``continuous`` (MCT) at any time, ``curriculum``
    (DATM) at whole epochs below a bound that grows."""
    first_max_start_epoch: int | None = Field(None, ge=1)
    """T, where the growing bound of ``curriculum`` begins; default T+, so that it does not grow."""
    expansion_end_step: int = Field(1000, ge=1)
    """E, the outer step at which the growing bound reaches T+."""
    gate: float | None = Field(None, gt=0)
    """Skip outer steps whose matching loss exceeds this (DATM); null: none."""
    gate_norm: float | None = Field(None, gt=1)
    """Skip outer steps whose gradient of the images is longer than this many times the usual, a running mean over
    about ten steps in which no norm counts for more; null: none. At ten images a class, one
    gradient in hundreds was tens of times as long, and moving by it undid what was learned."""
    mask: str = "none"
    """Parameters that matching ignores: ``depth`` the first ones (PAD), ``loss`` those of the smallest error."""
    mask_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of the parameters that the mask drops."""
    matching: str = "parameter-distance"
    """What an unrolled student is asked: its ``parameter-distance`` to the expert (MTT), also on the way
    (``intermediate``, ``intermediate-growing``: AST), or its loss on real images (``real-loss``: RaT)."""
    real_batch: int = Field(5000, ge=1)
    """Real images that a student is asked about after its last step, without replacement inside shuffled passes."""
    real_per_class: int = Field(256, ge=1)
    """Real images of each class that ``gradients`` and ``embeddings`` are compared with."""
    real_order: str = "shuffle"
    """Which real images an outer step may see: all, or those of PAD's data scheduler (``easy-to-hard``), whose
    ``experts.epochs`` are spread over the outer steps."""
    real_augment: bool = True
    """Augment the real images that a student is asked about."""
    real_piece: int = Field(500, ge=1)
    """Real images that are in memory with their activations at a time."""
    restart_every: int = Field(1, ge=1)
    """Outer steps of the objective ``gradients`` that share a network (DSA's outer loop), trained in between."""
    network_epochs: int = Field(1, ge=0)
    """Passes over the set of each training of that network (DSA's inner loop)."""
    network_lr: float = Field(0.01, gt=0)
    """Learning rate of these trainings, by plain SGD."""
    perturbation: str = "none"
    """Start perturbation part: ``conv-relative`` multiplies convolution weights by noise (AST)."""
    perturbation_scale: float = Field(1.0, ge=0)
    """α of the start perturbation: the Frobenius norm of the relative noise of each tensor."""
    inner_scale: str = "none"
    """Part that scales the inner loss by start epoch: ``log-balanced`` (AST)."""
    balance_base: float = Field(5.0, gt=1)
    """Base of the logarithm of ``log-balanced``."""
    balance_offset: float = Field(8.0, gt=1)
    """What is added under the logarithm of ``log-balanced``."""
    outer_steps: int = Field(5000, ge=0)
    """Updates of the synthetic set; 0 leaves the initial images (the coresets)."""
    inner_steps: int = Field(30, ge=1)
    """N, steps of the student that are differentiated; the papers' ``syn_steps``, RaT's window W."""
    inner_optimizer: str = "sgd"
    """The student's optimiser: ``sgd`` (with ``inner_momentum``) or ``adam``."""
    expert_epochs: int | float = Field(2, gt=0)
    """M, epochs of the expert that the N steps should reproduce; a real number with ``sampler=continuous``."""
    min_start_epoch: int = Field(0, ge=0)
    """T-, the earliest start epoch."""
    max_start_epoch: int = Field(20, ge=1)
    """T+, start epochs are below it (excluded, as in the released code)."""
    batch_size: int | None = Field(None, ge=1)
    """Synthetic images an inner step; default all."""
    hypergradient: Literal["exact", "truncated"] = "exact"
    """``truncated`` is TESLA's approximation: each inner gradient is differentiated with the student held fixed."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile the student's step; ``auto`` where the work is worth a minute of compiling and a compiler is there."""
    keep_gib: float | None = Field(None, ge=0)
    """Memory, in GiB, for graphs of inner steps that are kept instead of made anew, which saves up to a third of the
    time; default 1, on a GPU half of what is free (none where a compiled step is replayed as recorded kernels)."""
    cuda_graphs: bool = True
    """On a GPU, replay the compiled step as recorded kernels, without the host."""
    together: Literal["auto", "always", "never"] = "auto"
    """Run the S students of a step as one (``vmap``); ``auto`` on a GPU, where they fit into its memory."""
    inner_momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of the student's SGD."""
    augment: bool = True
    """DSA on the synthetic batches."""
    outer_optimizer: str = "sgd"
    """How the set moves: ``sgd`` with a momentum of each kind, or ``adam``."""
    clip: float | None = Field(None, gt=0)
    """Clip the images' gradient to this many times the running mean of its norm (RaT: 2); default not at all."""
    final_rate: float = Field(1.0, gt=0, le=1)
    """Share of their rates that images, labels and learning rate move with at the last outer step; from the first one
    on the rates fall there along half a cosine. 1 keeps them constant, as all papers do."""
    lr_img: float = Field(100.0, ge=0)
    """Outer learning rate of the images."""
    image_momentum: float = Field(0.5, ge=0, lt=1)
    """Outer momentum of the images."""
    lr_init: float = Field(0.01, gt=0)
    """Student learning rate at the start."""
    lr_lr: float = Field(1e-5, ge=0)
    """Outer learning rate of the student's learning rate η itself; 0 leaves it as it is."""
    lr_momentum: float = Field(0.5, ge=0, lt=1)
    """Outer momentum of the student's learning rate."""
    lr_label: float = Field(0.0, ge=0)
    """Outer learning rate of the labels, where the label part learns them."""
    label_momentum: float = Field(0.9, ge=0, lt=1)
    """Outer momentum of the labels."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay d of an image average, X_ema = d X_ema + (1 - d) X, evaluated and kept instead of X; default none."""
    select_every: int = Field(500, ge=1)
    """Outer steps between evaluations on the validation split; the best one is kept."""
    select_networks: int = Field(1, ge=1)
    """Fresh networks of each of these evaluations."""
    select_margin: float = Field(0.0, ge=0, lt=1)
    """Validation accuracy by which a learned set must beat the initial images to be kept instead of them."""
    checkpoint_every: int = Field(50, ge=1)
    """Outer steps between checkpoints."""
    picture_every: int = Field(500, ge=1)
    """Outer steps between pictures of the synthetic images."""


class EvaluateSettings(Section):
    """The recipe that trains fresh networks on the synthetic set (released ``evaluate_synset``)."""

    recipe: Literal["own", "common"] = "own"
    """With preset ``paper``: train on the set as the method's paper does (AST differs), or as the others do."""
    networks: int = Field(5, ge=1)
    """k, fresh networks of each row of the table."""
    epochs: int = Field(1001, ge=1)
    """Passes over the set; the released loop is ``range(1000 + 1)``."""
    batch_size: int = Field(256, ge=1)
    """Images a step."""
    lr: float | None = Field(None, gt=0)
    """Learning rate; default the learned one."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD with momentum, or Adam."""
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Numbers of epochs among which validation data choose once, when the set is learned: the smallest that is within
    one standard error of the best takes the place of ``epochs``. Default none: no choice."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD momentum."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 weight decay, not Adam's."""
    lr_drop_epochs: tuple[int, ...] | None = None
    """First epochs of the lower lr, each with a fresh optimiser; default (epochs - 1) // 2 + 2: 502 of
    1001 as released."""
    lr_drop_factor: float = Field(0.1, gt=0)
    """Factor of each lr drop."""
    momentum_after_drop: float | None = Field(None, ge=0, lt=1)
    """SGD momentum from the first drop on (AST: 0.8); default ``momentum``."""
    augment: bool = True
    """DSA while training."""
    together: int | None = Field(None, ge=1)
    """Networks trained side by side; default all of a row on a GPU, on a CPU one by one."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile their training step; ``auto`` on a GPU, where there are enough steps to pay for it."""
    baselines: tuple[Literal["random", "kmeans", "full"], ...] = ("random", "kmeans", "full")
    """What else is trained by the same recipe."""
    full_epochs: int = Field(50, ge=1)
    """Passes over the full training data for the ``full`` row, at the least."""
    full_steps: int = Field(1, ge=1)
    """Steps of the ``full`` row, at the least: few images make few steps a pass, and a network that was trained too
    shortly would make the set look better than it is. Batches are smaller where they are what is missing."""
    full_networks: int = Field(1, ge=1)
    """Networks of the ``full`` row."""
    full_lr: float = Field(0.01, gt=0)
    """Learning rate of the ``full`` row (a learned lr belongs to the synthetic images)."""
    paper_protocol: bool = False
    """Report the field's habit as well: the maximum over checkpoints on test data. It chooses nothing."""
    peak_every: int | None = Field(None, ge=1)
    """Of the paper protocol: the test accuracy of a training is its largest, read every so many epochs (AST); default
    that of the last epoch."""
    label_rows: bool = True
    """Where labels are learned: also measure the images with hard labels, and random images with experts' labels."""
    uint8: bool = True
    """Evaluate the 8-bit view of the images too."""


class ArtifactSettings(Section):
    """How the result is stored."""

    dtype: StoredDtype = "float32"
    """Of the stored images; the accuracies in the results are those of the images as stored."""


class RunSettings(Section):
    """All settings of one run: what the artifact's config records and what a fingerprint covers."""

    method: str
    """Method name."""
    preset: str
    """Preset that the values started from."""
    ipc: int = Field(ge=1, le=1_000_000)
    """Images per class."""
    seed: int = Field(0, ge=0)
    """Root seed of everything random but the data splits."""
    precision: Precision = "auto"
    """Arithmetic of convolutions and matrix products; ``auto`` is the fastest that the machine has and whose
    hypergradient agrees with float32's, measured when distillation starts: a cosine of 0.995, or rounding that adds at
    most a fifth to the variance between students. Experts are trained in the fastest whose gradient agrees; networks
    that evaluate never in less than tf32."""
    deterministic: bool = False
    """On a GPU, repeat to the byte at some cost in time; without it repetitions differ by the rounding of sums."""
    threads: int | None = Field(None, ge=1)
    """Threads of a CPU; default: as OMP_NUM_THREADS says, up to the cores that the process may use, else one for small
    training steps, all cores for large."""
    time_budget: float | None = Field(None, gt=0)
    """Seconds into which experts and distillation are fitted: fewer experts and outer steps than asked for, if need
    be, by step times measured when the run begins."""
    budget_asked: tuple[int, int] | None = None
    """Experts and outer steps that were asked for before the time budget changed them; written by distillkit."""
    dataset: DatasetSettings
    network: NetworkSettings = NetworkSettings()
    experts: ExpertSettings = ExpertSettings()
    trajectories: TrajectorySettings = TrajectorySettings()
    distill: DistillSettings = DistillSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    artifact: ArtifactSettings = ArtifactSettings()


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in RunSettings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
"""The sections by name."""


def defaults(section: type[Section]) -> dict[str, Any]:
    """The settings of a section that have a default and are no sections themselves, as they are written in JSON."""
    written = {name: field for name, field in section.model_fields.items() if name not in section.unsaid}
    fields = {name: field for name, field in written.items() if not field.is_required()}
    plain = {name: field.get_default() for name, field in fields.items() if name not in SECTIONS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
