"""Everything that the outer loop changes, as tensors: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit import storage
from distillkit.distill.outer_optimizers import Gradients, OuterOptimizer, stepped_lr
from distillkit.errors import DamagedError
from distillkit.records import LabelKind, SyntheticSet

MEMORY = "memory."
"""What the names of the outer optimiser's tensors begin with in a checkpoint."""
Projection = Callable[[Tensor], Tensor]


def unprojected(labels: Tensor) -> Tensor:
    """Labels may be anything."""
    return labels


@dataclass
class Best:
    """The synthetic set with the highest validation accuracy so far, or the last one where none was measured."""

    step: int
    accuracy: float | None
    synthetic: SyntheticSet


@dataclass(frozen=True)
class EngineChoice:
    """How students compute; None: not decided yet.

    Attributes:
        compiled: their step is compiled.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        together: all students of an outer step run side by side.
        kept: inner steps whose graphs are kept.
        agreement: cosine of the first hypergradient with that of float32, by precision.
    """

    compiled: bool | None = None
    precision: str | None = None
    together: bool | None = None
    kept: int | None = None
    agreement: dict[str, float] = field(default_factory=dict)

    def shared(self) -> dict[str, Any]:
        """What all processes of a run have in common, as JSON; what is kept depends on the memory that each has."""
        return {name: getattr(self, name) for name in ("compiled", "precision", "together", "agreement")}


@dataclass
class OuterState:
    """The synthetic set being learned: images [S, C, H, W], labels [S, K], the student's learning rate η.

    ``memory`` is that of the outer optimiser; ``carried`` [S', P], networks that the next outer step goes on with;
    ``usual_norm``, the running mean that ``distill.gate_norm`` measures by, and ``wild``, the steps beyond it;
    ``forms``, how each of several architectures computes, where students take turns.
    """

    images: Tensor
    labels: Tensor
    class_ids: Tensor
    label_kind: LabelKind
    lr: float
    memory: dict[str, Tensor] = field(default_factory=dict)
    average: Tensor | None = None
    carried: Tensor | None = None
    step: int = 0
    skipped: int = 0
    gated: int = 0
    wild: int = 0
    usual_norm: float | None = None
    skipped_in_a_row: int = 0
    selection_due: bool = True
    compiled: bool | None = None
    precision: str | None = None
    kept: int | None = None
    together: bool | None = None
    agreement: dict[str, float] = field(default_factory=dict)
    forms: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None

    def apply(
        self,
        gradients: Gradients,
        optimizer: OuterOptimizer,
        project: Projection = unprojected,
        ema: float | None = None,
        share: float = 1.0,
    ) -> None:
        """``share`` of a step of ``optimizer``; then labels go to where they may be, and the image average (FTD's)
        follows.
        """
        changes, self.memory = optimizer(gradients, self.memory)
        changes = {name: share * change for name, change in changes.items()} if share != 1 else changes
        before = self.images
        self.images = before + changes["images"]
        self.lr = stepped_lr(self.lr, float(changes["lr"]))
        if "labels" in changes:
            self.labels = project(self.labels + changes["labels"])
        if ema is not None:
            previous = before if self.average is None else self.average  # it starts as the initial images
            self.average = ema * previous + (1 - ema) * self.images

    @property
    def choice(self) -> EngineChoice:
        """How the run's students compute, as far as that is decided."""
        return EngineChoice(**{one.name: getattr(self, one.name) for one in fields(EngineChoice)})

    def decide(self, choice: EngineChoice) -> None:
        """From now on students compute as ``choice`` says."""
        for one in fields(EngineChoice):
            setattr(self, one.name, getattr(choice, one.name))

    def decide_each(self, choices: Sequence[EngineChoice]) -> None:
        """Where students of several architectures take turns: as each does, in the order of the pool."""
        self.forms = [vars(choice).copy() for choice in choices]
        first = choices[0]
        self.precision, self.compiled, self.agreement = first.precision, first.compiled, first.agreement

    def choice_of(self, place: int) -> EngineChoice:
        """How students of the architecture at ``place`` of the pool compute, as far as that is decided."""
        return EngineChoice(**self.forms[place]) if self.forms else EngineChoice()

    def synthetic(self) -> SyntheticSet:
        """The set as it would be kept now, on the CPU."""
        images = self.images if self.average is None else self.average
        return SyntheticSet(images.cpu().clone(), self.labels.cpu().clone(), self.class_ids, self.lr, self.label_kind)

    def save(self, path: Path, owner: Any = None) -> None:
        """Write a checkpoint atomically, with its checksums; ``owner``: the identity of the run, as JSON."""
        tensors = {"images": self.images, "labels": self.labels, "class_ids": self.class_ids}
        tensors |= {f"{MEMORY}{name}": tensor for name, tensor in self.memory.items()}
        if self.average is not None:
            tensors["average"] = self.average
        if self.carried is not None:
            tensors["carried"] = self.carried
        if self.best is not None:
            tensors |= {"best.images": self.best.synthetic.images, "best.labels": self.best.synthetic.labels}
        storage.write_tensors(path, tensors, {**self._numbers(), "owner": owner}, sealed=True)

    def _numbers(self) -> dict[str, Any]:
        names = (
            "label_kind",
            "lr",
            "step",
            "skipped",
            "gated",
            "wild",
            "usual_norm",
            "skipped_in_a_row",
            "selection_due",
            "compiled",
            "precision",
            "kept",
            "together",
            "agreement",
        )
        numbers: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.forms:
            numbers["forms"] = self.forms
        if self.best is not None:
            best = self.best
            numbers["best"] = {"step": best.step, "accuracy": best.accuracy, "lr": best.synthetic.lr}
        return numbers

    @staticmethod
    def load(path: Path, device: torch.device | str) -> OuterState:
        """Read a checkpoint.

        Raises:
            StorageError: missing or damaged.
        """
        tensors, numbers = storage.read_tensors(path)
        if not isinstance(numbers, dict):
            raise DamagedError(f"{path} is damaged: it does not say what it holds")
        numbers.pop("owner", None)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # not a view of a file that is replaced
        best_numbers = numbers.pop("best", None)
        state = OuterState(
            images=tensors["images"].to(device),
            labels=tensors["labels"].to(device),
            class_ids=tensors["class_ids"],
            memory={
                name.removeprefix(MEMORY): tensor if tensor.ndim == 0 else tensor.to(device)
                for name, tensor in tensors.items()
                if name.startswith(MEMORY)
            },
            average=tensors["average"].to(device) if "average" in tensors else None,
            carried=tensors["carried"].to(device) if "carried" in tensors else None,
            **numbers,
        )
        if best_numbers is not None:
            images, labels, lr = tensors["best.images"], tensors["best.labels"], best_numbers["lr"]
            kept = SyntheticSet(images, labels, state.class_ids, lr, state.label_kind)
            state.best = Best(best_numbers["step"], best_numbers["accuracy"], kept)
        return state
