"""Who watches the outer loop of a run: what is measured, written and shown of its steps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from distillkit import storage
from distillkit.artifact.views import preview_png
from distillkit.distill.loop import StepRecord
from distillkit.distill.state import OuterState
from distillkit.evaluation.protocol import scores_by_epoch
from distillkit.evaluation.recipe import evaluation_recipe
from distillkit.precision import arithmetic
from distillkit.records import SyntheticSet
from distillkit.run_folder import RunFolder
from distillkit.stages.context import Prepared, Run, training_set
from distillkit.stages.validation import mean_over, trained_on, validated
from distillkit.tracking import Tracker


class Recorder:
    """Watches the outer loop: validation accuracy, metrics, checkpoints, pictures, stopping."""

    def __init__(self, run: Run, prepared: Prepared, folder: RunFolder, tracker: Tracker) -> None:
        self._run, self._prepared, self._folder, self._tracker = run, prepared, folder, tracker
        self._owner = folder.identity()
        self._by_network: dict[str, float] = {}

    def select(self, synthetic: SyntheticSet, step: int) -> float | None:
        """Mean validation accuracy of fresh networks, the same ones at every step; None if no images are held out."""
        held_out = len(self._prepared.validation.labels)
        if self._run.world.size > 1:
            self._run.world.agree(f"synthetic set at step {step}", _digest(synthetic))
        with arithmetic(self._run.steady_precision, self._run.device):
            if self._run.settings.evaluate.paper_protocol:
                self._folder.add_test_checkpoint(step, self._on_test(synthetic, step))
            return self._on_validation(synthetic, step) if held_out else None

    def _on_validation(self, synthetic: SyntheticSet, step: int) -> float:
        """The mean over all networks; if there are several architectures, that of each is kept for the metrics line."""
        found = validated(self._run, self._prepared, synthetic, self._check(f"validating step {step}"))
        several = found if len(found) > 1 else {}
        self._by_network = {f"validation_accuracy_{name}": report.mean for name, report in several.items()}
        return mean_over(found)

    def _on_test(self, synthetic: SyntheticSet, step: int) -> float:
        """The test accuracy of a checkpoint as the method's paper reads it: of its last epoch, or the best of some."""
        exam, evaluate = self._prepared.test(self._run.device), self._run.settings.evaluate
        if evaluate.peak_every is None and not evaluate.lengths:
            run, prepared, check = self._run, self._prepared, self._check(f"testing step {step}")
            return trained_on(run, prepared, synthetic, prepared.network, exam, check).mean
        longest = max(evaluate.lengths, default=evaluate.epochs)
        every = evaluate.peak_every or 1
        read = sorted({*(evaluate.lengths or range(every, longest + 1, every)), longest})

        def scores(index: int) -> list[float]:
            found = scores_by_epoch(
                self._prepared.build(self._prepared.network, self._run.settings.seed, "select"),
                training_set(synthetic, self._run.device),
                exam,
                evaluation_recipe(
                    evaluate.model_copy(update={"epochs": longest}), synthetic.lr, self._prepared.augmentation
                ),
                self._run.settings.seed,
                index,
                read,
                self._check(f"testing step {step}"),
            )
            return [found[epoch] for epoch in read]

        found = self._run.world.each(range(self._run.settings.distill.select_networks), scores)
        if evaluate.lengths:  # one length for all networks
            return float(max(sum(own) / len(found) for own in zip(*found, strict=True)))
        return sum(max(own) for own in found) / len(found)

    def _check(self, what: str) -> Callable[[], None]:
        """Stops the run where it was asked to, in the middle of ``what``."""
        return lambda: self._run.stop.check(f"while {what}, with a checkpoint")

    def on_step(self, record: StepRecord, state: OuterState) -> None:
        """Write the metrics line; checkpoint and picture when due; stop if asked to."""
        settings = self._run.settings.distill
        row = {name: _finite(value) for name, value in asdict(record).items()}
        self._write(row)
        counted = {"gated": record.gated, "wild": record.wild}
        shares = {name: count / record.step for name, count in counted.items() if count}
        self._run.progress.advance(1, loss=record.loss, lr=record.lr, **shares)
        if record.step % settings.picture_every == 0:
            picture = preview_png(state.synthetic(), self._prepared.preprocess)
            storage.write_bytes(self._folder.path / "images" / f"step-{record.step:06d}.png", picture)
        stopping = self._run.world.any(bool(self._run.stop))
        if stopping or state.selection_due or record.step % settings.checkpoint_every == 0:
            self._save(state)
        if stopping:
            self._run.stop.follow()
            self._run.stop.raise_if_asked(f"after outer step {record.step}, with a checkpoint")

    def on_selection(self, accuracy: float | None, state: OuterState) -> None:
        """Write the accuracy as a metrics line of its own."""
        if accuracy is not None:
            self._write({"step": state.step, "validation_accuracy": accuracy, **self._by_network})
            self._run.progress.advance(0, validation=accuracy)
        if accuracy == 1 and state.step == 0:
            held_out = len(self._prepared.validation.labels)
            self._run.progress.note(f"the initial images already teach to recognise {beyond_telling(held_out)}")
        self._save(state)

    def _save(self, state: OuterState) -> None:
        """The checkpoint; the one before it is kept beside it."""
        if self._folder.checkpoint.exists():
            storage.copy_file(self._folder.checkpoint, self._folder.older_checkpoint)
        state.save(self._folder.checkpoint, self._owner)

    def _write(self, row: dict[str, Any]) -> None:
        self._folder.append_metrics(row)
        numbers = {name: value for name, value in row.items() if value is not None and name != "step"}
        self._tracker.log(numbers, row["step"])


def _digest(synthetic: SyntheticSet) -> str:
    digest = hashlib.sha256(repr(synthetic.lr).encode())
    for tensor in (synthetic.images, synthetic.labels):
        storage.sha256_tensor(digest, tensor)
    return digest.hexdigest()[:16]


def beyond_telling(held_out: int) -> str:
    """What is to be said where all images that choose a set are recognised already."""
    return (
        f"all {held_out} validation images, which then tell no better set from this one; hold out more of them "
        "(dataset.validation_fraction), or take fewer images a class"
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
