"""The sentences and the table of a card, each from the figures it tells."""

from __future__ import annotations

import math
import re

from distillkit.artifact.dtypes import STORED
from distillkit.artifact.headline import headline_row
from distillkit.artifact.schema import ArtifactConfig, Habit, RecipeFile, ResultsFile, Row, Selection
from distillkit.data.registry import DATASETS
from distillkit.hub.address import REPOSITORY
from distillkit.networks.kinds import BatchStatistics
from distillkit.networks.strides import resnet_side
from distillkit.words import counted, signed

TAGS = ("distillkit", "dataset-distillation")
"""Of every card."""
BASELINES = {
    "random": "random real images",
    "random-soft": "random real images, soft labels of the experts",
    "kmeans": "k-means coreset",
    "full": "full training data",
}


def percent(row: Row | None) -> str:
    """``93.3 ± 0.7 (n=3)``, without a deviation where there is one network alone, or a dash."""
    if row is None:
        return "–"
    return f"{100 * row.mean:.1f} (n=1)" if row.n == 1 else f"{100 * row.mean:.1f} ± {100 * row.std:.1f} (n={row.n})"


def tensor_bytes(about: ArtifactConfig) -> int:
    """Bytes of images and labels as stored."""
    pixels, stored = math.prod(about.image_shape), STORED[about.dtype]
    return about.size * (pixels * stored.images.itemsize + about.num_classes * stored.labels.itemsize)


def source_link(hub_id: str | None, source: str, revision: str | None = None) -> str:
    """The data set that was distilled, with a link and its revision where it is on the Hub."""
    if hub_id is None or not REPOSITORY.fullmatch(hub_id):
        return f"`{one_line(source)}`"
    at = f" (revision `{one_line(revision)}`)" if revision else ""
    return f"[{hub_id}](https://huggingface.co/datasets/{hub_id}){at}"


def byte_count(count: int) -> str:
    """``3.0 kB``, ``1.23 MB``."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _stored(row: Row, about: ArtifactConfig) -> str:
    """What to say beside a row that was measured when the images were stored otherwise."""
    return f" (measured on {row.dtype} images)" if row.dtype not in (None, about.dtype) else ""


def main_row(how: RecipeFile, measured: ResultsFile) -> str:
    """The network of the recipe, as its row is called."""
    return headline_row(how.architecture, measured.architectures)


def results_table(about: ArtifactConfig, how: RecipeFile, measured: ResultsFile) -> str:
    """Architectures down; the set, its 8-bit view and the baselines across. Only the recipe's network has them all."""
    main = main_row(how, measured)
    names = [name for name in (main, *sorted(measured.architectures)) if name in measured.architectures]
    baselines = [name for name in BASELINES if name in measured.baselines]
    header = ["network", "this set", "8-bit view", *(BASELINES[name] for name in baselines)]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    for name in dict.fromkeys(names):
        others = [measured.uint8, *(measured.baselines[key] for key in baselines)]
        cells = [percent(measured.architectures[name]), *(percent(row if name == main else None) for row in others)]
        lines.append("| " + " | ".join([plain(name) + _stored(measured.architectures[name], about), *cells]) + " |")
    return "\n".join(lines)


def network_words(how: RecipeFile) -> str:
    """What ``convnet`` is; other networks say it by their name."""
    network = how.architecture
    if network.name != "convnet":
        return ""
    blocks = f"{network.depth} blocks" if network.depth else "blocks by the image size"
    norm = "no normalisation" if network.norm == "none" else f"{network.norm} normalisation"
    return (
        f"`convnet` has {blocks} of {network.width} channels: 3 x 3 convolution, {norm}, ReLU, 2 x 2 average pooling."
    )


def student_words(about: ArtifactConfig) -> str:
    """Which networks the set was learned with, where they took turns or were others than the set's own."""
    names, other = about.settings.network.pool, about.settings.distill.student
    if not about.learned or not (names or other):
        return ""
    if names:
        return f" It was learned with students that took turns: {', '.join(f'`{one_line(name)}`' for name in names)}."
    return f" It was learned with students of another width or kind, `{one_line(str(other))}`."


def paper_links(about: ArtifactConfig) -> str:
    """Links to the papers that the method's citation names; the Hub lists a set with its papers by them."""
    found = dict.fromkeys(re.findall(r"arXiv:(\d{4}\.\d{4,5})", about.citation))
    links = ", ".join(f"[arXiv:{number}](https://arxiv.org/abs/{number})" for number in found)
    return f" Method: {links}." if links else ""


def lr_words(how: RecipeFile, measured: ResultsFile) -> str:
    """The learning rates behind the columns."""
    rows = {"this set": measured.architectures.get(main_row(how, measured))}
    rows |= {words: measured.baselines.get(name) for name, words in BASELINES.items()}
    rates = [f"{words} {row.lr:.4g}" for words, row in rows.items() if row and row.lr is not None]
    return f"Learning rates: {', '.join(rates)}." if rates else ""


def one_line(text: str) -> str:
    """``text`` without what would end a line, a cell or a code span of Markdown."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")


def plain(text: str) -> str:
    """``text`` from elsewhere as text of Markdown: no link, picture, HTML or emphasis comes of it."""
    return one_line(re.sub(r"[\\\[\]<>*]", r"\\\g<0>", text))


def unfenced(text: str) -> str:
    """``text`` without what would end a code block."""
    return text.replace("```", "'''")


def unmoved_words(method: str) -> str:
    """What images are that a run of ``method`` kept as it found them."""
    return f"the images that a run of {method} began with; no step of it was better, nothing was learned"


def origin_words(about: ArtifactConfig) -> str:
    """Who made the images."""
    if about.unmoved:
        words = unmoved_words(f"{plain(about.method_title)} (distillkit)")
        return f"{words[0].upper()}{words[1:]}."
    if about.imported_from is None:
        return f"Made with distillkit by {plain(about.method_title)}."
    made = f"Made elsewhere by {plain(about.method_title)}; imported with distillkit from"
    return f"{made} `{one_line(about.imported_from)}`, and measured."


def selection_words(about: ArtifactConfig, selection: Selection) -> str:
    """Which checkpoint was kept, and by what."""
    if about.imported_from is not None:
        return f"How the images were chosen: {plain(selection.split)}. It may have been on these test data."
    if selection.step is None:
        return f"Test data chose nothing; chosen by: {plain(selection.split)}."
    kept = f"outer step {selection.step} of {selection.outer_steps}"
    if selection.step == 0:
        kept = f"the initial images (no checkpoint of {selection.outer_steps} outer steps was better)"
    if selection.images == 0:
        return f"Test data chose nothing, and no images were held out to choose by; kept: {kept}, the last."
    length = ", which chose the number of epochs too" if selection.epochs else ""
    if selection.selected_by and selection.epochs:
        length = "; the set's own network chose the number of epochs, on the same images"
    return f"Test data chose nothing; kept: {kept}, selected on {plain(selection.split)}{_by(selection)}{length}."


def habit_words(habit: Habit | None) -> str:
    """The figure of the paper's protocol, which is none of the table's; nothing where it was not asked for."""
    if habit is None:
        return ""
    return f" By the paper's protocol {100 * habit.accuracy:.1f}, at outer step {habit.step} ({plain(habit.what)})."


def _by(selection: Selection) -> str:
    """Which networks selected, where it was not that of the set alone."""
    names = [f"`{one_line(name)}`" for name in selection.selected_by]
    if not names:
        return ""
    return f" by {names[0]}" if len(names) == 1 else f" by the mean accuracy of {', '.join(names)}"


def earlier_words(about: ArtifactConfig) -> str:
    """Who made the images that the run began with, oldest first, and what that took."""
    if not about.earlier_runs:
        return ""
    said = "The run began with the images of the last of these earlier ones, whose folder `distill.init_from` names:"
    lines = ["", "", said, ""]
    for run in about.earlier_runs:
        steps = "" if run.outer_steps is None else f"{run.outer_steps:,} outer steps, "
        cost = f"{steps}{run.seconds:.0f} seconds in all, {plain(run.hardware)}"
        lines.append(f"- {plain(run.method)}, {cost}: `{one_line(run.command).replace('`', chr(39))}`")
    return "\n".join(lines)


def tuned_table(about: ArtifactConfig, measured: ResultsFile) -> str:
    """The networks that have a recipe of their own, with it and with what they reach."""
    if not measured.tuned:
        return ""
    beside = sorted({name for row in measured.tuned.values() for name in row.baselines})
    columns = "".join(f" {plain(name)}, tuned alike |" for name in beside)
    lines = [
        "Networks with a recipe of their own in `recipes/`, searched on validation images; `ds.train(model)` takes it:",
        "",
        f"| network | recipe | accuracy (%) |{columns} search (s) |",
        f"| --- | --- | --- |{' --- |' * len(beside)} --- |",
    ]
    for architecture, row in sorted(measured.tuned.items()):  # as the file has them, which sorts its keys
        others = "".join(f" {percent(row.baselines[name]) if name in row.baselines else '-'} |" for name in beside)
        words = f"`{one_line(architecture)}` | {plain(row.recipe)}{_stored(row, about)}"
        lines.append(f"| {words} | {percent(row)} |{others} {row.seconds:.0f} |")
    return "\n\n" + "\n".join(lines)


def length_words(measured: ResultsFile) -> str:
    """How long the images are beside real ones, where that was looked at."""
    found = measured.selection.image_length
    if found is None:
        return ""
    if found.kept == "real":
        return " Images are as long (L2 norm of an input) as real ones on average, for networks that see lengths."
    times = found.learned / found.real
    return (
        f" Images are {times:.2g} times as long (L2 norm of an input) as real ones on average: networks that see "
        "lengths, as those with batch normalisation do, learn less from them."
    )


def optimizer_words(how: RecipeFile) -> str:
    """What the set is trained with."""
    if how.optimizer.name == "adam":
        return "Adam (β 0.9, 0.999)"
    if how.optimizer.name == "adamw":
        return f"AdamW (β 0.9, 0.999), weight decay {how.optimizer.weight_decay:g}"
    return f"SGD, momentum {how.optimizer.momentum:g}, weight decay {how.optimizer.weight_decay:g}"


LABEL_WORDS = {
    "probabilities": "probabilities",
    "logits": "logits (take a softmax once)",
    "weights": "weights of the classes in the cross-entropy, which need not sum to 1",
}


def curves_line(about: ArtifactConfig) -> str:
    """The picture of the run, of sets that were learned here."""
    if not about.learned:
        return ""
    return f"![{'matching loss' if about.experts else 'loss'} and accuracy over the run](curves.png)"


def augmentation_words(how: RecipeFile) -> str:
    """DSA with its operations, or none."""
    if how.augmentation.strategy == "none":
        return "none"
    return f"DSA `{how.augmentation.strategy}`, one operation drawn per batch"


def dtype_words(about: ArtifactConfig) -> str:
    """How the images are stored."""
    low, high = about.uint8_range.low, about.uint8_range.high
    rule = f"a value v stands for the pixel {low:.4f} + v / 255 * ({high:.4f} - {low:.4f})"
    if about.dtype == "uint8":
        return f"the images as 8-bit pixels ({rule})"
    return f"the images as {about.dtype}; in the 8-bit PNGs of the parquet view {rule}"


def load_lines(about: ArtifactConfig, how: RecipeFile, measured: ResultsFile) -> str:
    """The lines that load the set, train the network on it that the first row of the results is of, and test it."""
    source = '"path/to/this/folder"'
    if about.hub is not None:
        at = f', revision="{about.hub.revision}"' if about.hub.revision else ""
        source = f'"{about.hub.repo}"{at}'
    asked, of = "", "the data set that was distilled"
    if about.source.hub_id is None and about.settings.dataset.name not in DATASETS:
        asked, of = ', "path/to/the/images"', "the folder of images that it was made of"
    recipe = ", recipe=ds.recipe" if main_row(how, measured) in measured.tuned else ""  # that of the figure
    return (
        "from distillkit import load_distilled\n\n"
        f"ds = load_distilled({source})\n"
        "model = ds.network()  # a fresh one, as those of the first row below\n"
        f"ds.train(model{recipe})  # learning rate, labels, augmentation and preprocessing come from the artifact\n"
        f"print(ds.evaluate(model{asked}))  # on the test split of {of}"
    )


def other_models(about: ArtifactConfig) -> str:
    """How to train a network of timm instead, as the set can train it."""
    channels, height, _ = about.image_shape
    images = about.ipc * about.num_classes
    norm = ', norm="instance"' if BatchStatistics(images, resnet_side(height) ** 2).are_few else ""
    form = f"num_classes={about.num_classes}, image_size={height}, channels={channels}{norm}"
    call = f'prepare_model("resnet18", {form})'
    few = ""
    if norm:
        few = (
            f"; batch normalisation is replaced, since {counted(images, 'image')} may be too few for its statistics "
            '(photographs: try `norm="keep"` as well)'
        )
    return f"Any torch module takes its place; `distillkit.{call}` gives a network of timm and its changes{few}."


def load_words(about: ArtifactConfig) -> str:
    """The ways in that need none of our code."""
    if about.hub is None:
        return (
            "Without distillkit: `datasets.load_dataset` on this folder gives `image`, `label` and `soft_label` (an "
            "8-bit view); `distilled.safetensors` holds the exact tensors."
        )
    repo, revision = about.hub.repo, about.hub.revision
    at = f', revision="{revision}"' if revision else ""
    return (
        f'Without distillkit: `datasets.load_dataset("{repo}"{at})` gives `image`, `label` and `soft_label`, timm '
        f'reads `create_dataset("hfds/{repo}", split="train")` (both an 8-bit view); `distilled.safetensors` holds the '
        "exact tensors."
    )


def limits(about: ArtifactConfig, how: RecipeFile, measured: ResultsFile) -> str:
    """What the set is not good for, with the figures that say so."""
    lines = [
        *_architecture_limit(how, measured),
        *_eight_bit_limit(how, measured),
        *_storage_limit(about, measured, how),
        *_label_limit(measured, how),
        *_data_notes(about),
        *(f"Of the run: {plain(warning)}." for warning in measured.selection.warnings),
    ]
    baseline = measured.baselines.get("full")
    main = measured.architectures.get(main_row(how, measured))
    if baseline is not None and main is not None:
        gap = 100 * (baseline.mean - main.mean)
        lines.append(f"Against all training images: {signed(-gap)} points on {plain(main_row(how, measured))}.")
    if about.learned:
        lines.append(
            "The images were learned for the recipe above; another learning rate or no augmentation costs accuracy."
        )
    if about.kind == "learned":
        lines.append("Learned images carry no guarantee of privacy: what they were learned from may be read from them.")
    elif about.kind == "real":
        lines.append("The images are real ones of the data set, as they are: no more private than they are there.")
    return "\n".join(f"- {line}" for line in lines)


def _data_notes(about: ArtifactConfig) -> list[str]:
    """What was said of the data when they were read: how many images are used, enlarged, left out."""
    notes = (about.source.model_extra or {}).get("notes")
    return (
        [f"Of the data: {plain(str(note)[:300])}." for note in notes[:20]] if isinstance(notes, (list, tuple)) else []
    )


def _architecture_limit(how: RecipeFile, measured: ResultsFile) -> list[str]:
    main = measured.architectures.get(main_row(how, measured))
    others = {name: row for name, row in measured.architectures.items() if name != main_row(how, measured)}
    if main is None or not others:
        name = plain(main_row(how, measured))
        if measured.tuned:
            return ["Another network than those of the tables usually reaches less: measure before relying on it."]
        return [f"Measured on {name} alone. Another architecture usually reaches less: measure before relying on it."]
    lost = [f"{plain(name)} {signed(100 * (others[name].mean - main.mean))}" for name in sorted(others)]
    return [f"Other architectures, in points of accuracy against {plain(main_row(how, measured))}: {', '.join(lost)}."]


def _eight_bit_limit(how: RecipeFile, measured: ResultsFile) -> list[str]:
    main = measured.float32 or measured.architectures.get(main_row(how, measured))
    if measured.uint8 is None or main is None:
        return ["The PNGs of the parquet view are a lossy 8-bit view whose accuracy was not measured."]
    lost = 100 * (measured.uint8.mean - main.mean)
    return [f"The PNGs of the parquet view are 8-bit and lossy: measured {signed(lost)} points against float images."]


def _storage_limit(about: ArtifactConfig, measured: ResultsFile, how: RecipeFile) -> list[str]:
    main = measured.architectures.get(main_row(how, measured))
    if measured.float32 is None or main is None:
        return []
    lost = signed(100 * (main.mean - measured.float32.mean))
    return [f"Stored as {about.dtype}: {lost} points against float32, which reached {percent(measured.float32)}."]


def _label_limit(measured: ResultsFile, how: RecipeFile) -> list[str]:
    main, hard = measured.architectures.get(main_row(how, measured)), measured.hard_labels
    if hard is None or main is None:
        return []
    lost = signed(100 * (hard.mean - main.mean))
    return [f"The labels are soft and learned: with hard labels the same images reach {percent(hard)}, {lost} points."]


def license_words(about: ArtifactConfig) -> str:
    """The licence of the source data, which the images derive from."""
    stated = about.source.license
    if not stated or stated.strip().lower() == "unknown":
        words = "is unknown to distillkit; ask its source"
    else:
        words = f"is `{one_line(stated)}`"
    return f"The licence of the source data {words}. The images derive from them, and the same terms apply."
