"""Commands that look: info, preview, methods, datasets, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillkit.cli import console
from distillkit.cli import options as opt
from distillkit.errors import ConfigError

if TYPE_CHECKING:
    from distillkit.artifact.schema import ArtifactConfig, Identity
    from distillkit.records import SyntheticSet


@console.guarded
def info(
    artifact: opt.Artifact,
    token: opt.Token = None,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Say what an artifact is, how it was made and how well it trains; one on the Hub is not downloaded for it."""
    from distillkit.hub.address import is_folder, looks_like_address

    if not is_folder(artifact) and looks_like_address(artifact):
        _remote_info(artifact, token, as_json)
    else:
        _local_info(Path(artifact), as_json)


def _remote_info(artifact: str, token: str | None, as_json: bool) -> None:
    from distillkit.artifact.card_words import percent
    from distillkit.hub.address import parse_address
    from distillkit.hub.client import Cache
    from distillkit.sharing.pull import glance

    seen = glance(parse_address(artifact), Cache(token))
    about = seen.identity
    if as_json:
        tensors = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in seen.tensors.items()}
        console.print_json({"identity": about.model_dump(), "tensors": tensors})
        return
    dtype, shape = seen.tensors.get("images", ("?", ()))
    size = "x".join(map(str, shape[1:]))
    count = f"{shape[0] if shape else '?'} of {size} as {dtype}, {about.ipc} for each of {about.num_classes} classes"
    lines = {
        "made by": _maker(about),
        "source": f"{about.source} ({about.train_images} training images)",
        "images": count,
        "labels": about.label_kind,
        "lr": f"{about.lr:.6g}",
    }
    rows = sorted(about.accuracy.items(), key=lambda item: not item[0].startswith("this set"))
    lines |= {f"accuracy, {name}": percent(row) for name, row in rows}
    console.print_lines(lines)


def _maker(about: ArtifactConfig | Identity) -> str:
    """Who made the images, which a run may have kept as it found them."""
    from distillkit.artifact.card_words import unmoved_words

    what = unmoved_words(about.method_title) if about.unmoved else about.method_title
    return f"{about.generator}, {what}"


def _local_info(artifact: Path, as_json: bool) -> None:
    from distillkit.artifact.card_words import byte_count, percent
    from distillkit.artifact.layout import PUBLISHED, recipe_files
    from distillkit.artifact.read import read_artifact
    from distillkit.artifact.schema import ArtifactConfig, ResultsFile

    content = read_artifact(artifact)
    if as_json:
        console.print_json({"config": content.config, "recipe": content.recipe, "results": content.results})
        return
    about, measured = ArtifactConfig.model_validate(content.config), ResultsFile.model_validate(content.results)
    shape = "x".join(str(size) for size in about.image_shape)
    size = sum(
        (artifact / name).stat().st_size
        for name in (*PUBLISHED, *recipe_files(about.recipes))
        if (artifact / name).is_file()
    )
    count = f"{about.size} of {shape} as {about.dtype}, {about.ipc} for each of {about.num_classes} classes"
    lines = {
        "made by": _maker(about),
        "source": f"{about.source.source} ({about.source.train_images} training images)",
        "images": f"{count}; {byte_count(size)} with views",
        "classes": ", ".join(about.classes[:10]) + (", ..." if about.num_classes > 10 else ""),
        "labels": _label_words(content.synthetic),
        ("learned lr" if about.lr_learned else "lr"): f"{content.recipe['lr']:.6g}",
        "command": about.command,
    }
    if about.hub is not None:
        lines["published"] = about.hub.repo + (f"@{about.hub.revision}" if about.hub.revision else "")
    tuned = {f"{name}, its own recipe": row for name, row in measured.tuned.items()}
    rows = {**measured.architectures, **tuned, "8-bit view": measured.uint8, **measured.baselines}
    console.print_lines(lines | {f"accuracy, {name}": percent(row) for name, row in rows.items() if row})


def _label_words(synthetic: SyntheticSet) -> str:
    """Their kind; hard ones are probabilities of 0 and 1."""
    hard = synthetic.label_kind == "probabilities" and bool(((synthetic.labels == 0) | (synthetic.labels == 1)).all())
    return "hard, one class each" if hard else synthetic.label_kind


@console.guarded
def preview(
    artifact: opt.Folder,
    out: Annotated[Path | None, opt.out("PNG to write; default preview.png in the artifact.", "FILE")] = None,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Draw the images of an artifact, in pixel space, as a PNG."""
    from distillkit import storage
    from distillkit.artifact.layout import FILES
    from distillkit.artifact.read import read_artifact
    from distillkit.artifact.views import preview_png

    if out is not None and out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out} is written as a PNG; call it NAME.png")
    content = read_artifact(artifact)
    path = out or artifact / FILES.preview
    storage.write_bytes(path, preview_png(content.synthetic, content.preprocess))
    if as_json:
        console.print_json({"preview": str(path)})
    else:
        console.results.print(str(path), markup=False)


@console.guarded
def methods(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """List the methods with their parts and published problems."""
    from distillkit.methods import METHODS

    if as_json:
        fields = ("title", "summary", "when", "citation")
        rows = {name: {field: getattr(method, field) for field in fields} for name, method in METHODS.items()}
        for name, method in METHODS.items():
            rows[name] |= {"parts": dict(method.parts), "published": list(method.published_problems)}
        console.print_json(rows)
        return
    for method in METHODS.values():
        console.results.print(f"[bold]{method.name}[/bold]  {method.title}")
        console.results.print(f"    {method.summary}", markup=False)
        console.results.print(f"    when: {method.when}", markup=False)
        console.results.print(f"    parts: {', '.join(f'{k}={v}' for k, v in method.parts.items())}", markup=False)
        console.results.print(f"    --preset paper: {', '.join(method.published_problems)}", markup=False)


@console.guarded
def datasets(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """List the registered data sets."""
    from distillkit.data.registry import DATASETS

    if as_json:
        console.print_json({name: vars(known) for name, known in DATASETS.items()})
        return
    rows = []
    for known in DATASETS.values():
        rows.append([known.name, known.title, (known.hub_id or "embedded") + (" (gated)" if known.gated else "")])
    console.print_table("Registered data sets (any Hub id or folder works too)", ["name", "what", "source"], rows)


@console.guarded
def doctor(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Check this machine: versions, devices, cache folder, disk."""
    checks = _checks()
    if as_json:
        console.print_json({"checks": [dict(zip(("name", "ok", "detail"), check, strict=True)) for check in checks]})
    else:
        for name, good, detail in checks:
            console.results.print(f"{'ok  ' if good else 'FAIL'} {name:<14} {detail}", markup=False)
    if not all(good for _, good, _ in checks):
        raise typer.Exit(1)


def _checks() -> list[tuple[str, bool, str]]:
    import platform
    import shutil
    import sys

    import torch

    from distillkit import storage
    from distillkit.environment import hardware, resolve_device, versions
    from distillkit.errors import StorageError

    checks: list[tuple[str, bool, str]] = [("python", sys.version_info >= (3, 11), platform.python_version())]
    for name, version in versions().items():
        if name != "python":
            checks.append((name, True, version))
    device = resolve_device("auto")
    words = hardware(device)
    if device.type == "cuda":
        words += f", {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
    checks.append(("device", True, words))
    cache = storage.cache_root()
    try:
        storage.write_bytes(cache / ".doctor", b"ok")
        (cache / ".doctor").unlink()
        free = shutil.disk_usage(cache).free
        checks.append(("cache", True, f"{cache} (set DISTILLKIT_CACHE to move it)"))
        checks.append(("free disk", free > 2**30, f"{free / 2**30:.1f} GiB"))
    except StorageError as error:
        checks.append(("cache", False, str(error)))
    checks.append(("sanity", *_sanity()))
    return checks


def _sanity() -> tuple[bool, str]:
    """The hypergradient of a tiny student against finite differences of the lr, in float64."""
    import torch

    from distillkit.distill.inner_steps import InnerStep
    from distillkit.distill.labels import HardLabels
    from distillkit.distill.step_functions import EagerFunctions, InnerLoss
    from distillkit.distill.unroll import MatchingTerm, Unroll
    from distillkit.networks.convnet import ConvNet
    from distillkit.networks.functional import FlatNetwork, flatten_parameters

    generator = torch.Generator().manual_seed(0)
    network = ConvNet(1, (8, 8), 3, 4, 2, "instance").double()
    start = flatten_parameters(network)
    target = start + 0.1 * torch.randn(start.shape, generator=generator, dtype=torch.float64)
    images = torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    unroll = Unroll(
        EagerFunctions(InnerLoss(FlatNetwork(network), HardLabels())), [InnerStep(torch.arange(3), None)] * 3
    )
    terms = [MatchingTerm(3, lambda student: (student - target).square().sum())]

    def value(lr: float) -> Any:
        return unroll.hypergradient(start, images, torch.eye(3).double(), torch.tensor(lr, dtype=torch.float64), terms)

    numeric = (float(value(0.01 + 1e-7).loss) - float(value(0.01 - 1e-7).loss)) / 2e-7
    exact = float(value(0.01).lr)
    error = abs(numeric - exact) / abs(exact)
    return error < 1e-4, f"hypergradient against finite differences: relative difference {error:.1e}"
