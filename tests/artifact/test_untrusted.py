"""Whatever stands in a folder, the loader raises its own errors, opens nothing else, and takes no undue memory.

Two thousand damaged artifacts: bytes, JSON values, safetensors headers and tensors, each kind 500 times. (More of it,
by hand and for long: ``fuzz.py``.)
"""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file

from distillkit import load_distilled
from distillkit.artifact.card import render_card
from distillkit.artifact.layout import FILES, LOADED
from distillkit.artifact.read import read_artifact
from distillkit.artifact.write import write_config
from distillkit.errors import ArtifactError
from distillkit.evaluation.recipe import recipe_from_json
from tests.artifact.small import write_small

JSONS = (FILES.config, FILES.recipe, FILES.results)
TENSORS = (FILES.tensors, FILES.preprocess)
CASES = settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.integers(-2, 5),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["../../etc/passwd", "\x1b[31m", "F32", "float16", "uint8", "logits", "9.0", "1.0", "${title}", "|"]
    ),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)

opened: list[str] = []
watching = False


def _watch(event, arguments):
    if watching and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        opened.append(os.fspath(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture(params=["float32"])
def victim(tmp_path, request):
    """A folder with a small artifact, its good content, and a check that nothing around it was touched."""
    form = request.param
    options = {"zca": True} if form == "zca" else {"dtype": form}
    folder = write_small(tmp_path / "around" / "artifact", **options)
    good = {name: (folder / name).read_bytes() for name in LOADED}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in LOADED:
            path.unlink()
    before = sorted(path for path in tmp_path.rglob("*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened.clear()
    yield folder, good
    assert sorted(path for path in tmp_path.rglob("*")) == before
    code = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2] / "distillkit"))
    outside = [path for path in opened if not path.startswith((str(folder), *code))]
    assert outside == []
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < 300e6


def try_to_load(folder, good, name, content):
    """Load with one file replaced; a set that loads must be usable, cards included."""
    global watching
    (folder / name).write_bytes(content)
    watching = True
    try:
        check_usable(load_distilled(folder))
    except ArtifactError as error:  # any other error fails the test
        message = str(error)
        if "\n" in message[:200]:
            raise AssertionError(f"not one line: {message!r}") from error
    finally:
        watching = False
        (folder / name).write_bytes(good[name])


def check_usable(ds):
    assert len(ds) == ds.config["ipc"] * ds.num_classes
    assert torch.isfinite(ds.images).all()
    assert torch.isfinite(ds.targets).all()
    assert ds.lr > 0
    recipe_from_json(ds.recipe)
    assert render_card(ds.config, ds.recipe, ds.results).startswith("---\n")


@CASES
@given(data=st.data())
def test_bytes__flipped_cut_or_inserted(victim, data):
    folder, good = victim
    name = data.draw(st.sampled_from(LOADED))
    content = bytearray(good[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        match data.draw(st.integers(0, 3)):
            case 0:
                content[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case 1:
                del content[at:]
            case 2:
                content[at:at] = data.draw(st.binary(max_size=20))
            case 3:
                content[:8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    try_to_load(folder, good, name, bytes(content))


def change_somewhere(value, data):
    """``value`` with one of its inner values replaced, dropped or added."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value)))
        if data.draw(st.integers(0, 5)) == 0:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: change_somewhere(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 2)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], change_somewhere(value[at], data), *value[at + 1 :]]
    return data.draw(values)


@pytest.mark.parametrize("victim", ["uint8"], indirect=True)
@CASES
@given(data=st.data())
def test_json__values_of_another_type(victim, data):
    folder, good = victim
    name = data.draw(st.sampled_from(JSONS))
    value = json.loads(good[name])
    for _ in range(data.draw(st.integers(1, 3))):
        value = change_somewhere(value, data)
    try_to_load(folder, good, name, json.dumps(value).encode())


@pytest.mark.parametrize("victim", ["zca"], indirect=True)
@CASES
@given(data=st.data())
def test_headers__names_dtypes_shapes_and_offsets(victim, data):
    folder, good = victim
    name = data.draw(st.sampled_from(TENSORS))
    length = struct.unpack("<Q", good[name][:8])[0]
    header = json.loads(good[name][8 : 8 + length])
    key = data.draw(st.sampled_from(sorted(header)))
    entry = header[key]
    if key == "__metadata__" or data.draw(st.integers(0, 4)) == 0:
        header[data.draw(st.sampled_from([key, "images", "x/../y", "lr"]))] = data.draw(values)
    else:
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        choices = {
            "dtype": st.sampled_from(["F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "X"]),
            "shape": st.lists(st.sampled_from([0, 1, 2, 4, 16, 2**31, 2**62, -1]), max_size=5),
            "data_offsets": st.lists(st.sampled_from([0, 8, 16, 128, 2**40, -8]), max_size=3),
        }
        entry[field] = data.draw(choices[field] | values)
    text = json.dumps(header).encode()
    claimed = len(text) if data.draw(st.integers(0, 5)) else data.draw(st.integers(0, 2**64 - 1))
    try_to_load(folder, good, name, struct.pack("<Q", claimed) + text + good[name][8 + length :])


@pytest.mark.parametrize("victim", ["uint8"], indirect=True)
@CASES
@given(data=st.data())
def test_tensors__values_shapes_and_dtypes_of_a_valid_file(victim, data):
    folder, good = victim
    name = data.draw(st.sampled_from(TENSORS))
    tensors = load(good[name])
    key = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[key].clone()
    match data.draw(st.integers(0, 4)):
        case 0 if tensor.is_floating_point():
            worst = st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e38, -1.0, 0.0, 1e-40])
            tensor.reshape(-1)[data.draw(st.integers(0, tensor.numel() - 1))] = data.draw(worst)
        case 1:
            shape = data.draw(st.lists(st.integers(0, 6), max_size=5))
            tensor = torch.zeros(shape, dtype=tensor.dtype)
        case 2:
            dtypes = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.int8]
            tensor = tensor.to(data.draw(st.sampled_from(dtypes)))
        case 3:
            tensors[data.draw(st.text(min_size=1, max_size=5))] = torch.zeros(2)
        case _:
            tensor = tensor.to(torch.int64) * data.draw(st.integers(-(2**40), 2**40))
    tensors[key] = tensor.contiguous()
    metadata = {} if data.draw(st.booleans()) else {"distillkit": data.draw(st.text(max_size=20))}
    try_to_load(folder, good, name, save(tensors, metadata))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (FILES.config, b"[" * 100_000),
        (FILES.config, b'{"a":' * 100_000),
        (FILES.config, b'{"format_version": ' + b"9" * 5000 + b"}"),
        (FILES.results, b" " * (2**20 + 1)),
        (FILES.config, b'{"format_version": "1.0", "ipc": NaN}'),
        (FILES.tensors, struct.pack("<Q", 2**63) + b"{}"),
        (FILES.tensors, struct.pack("<Q", 2**20 + 1) + b" " * (2**20 + 1)),
        (FILES.tensors, b""),
    ],
)
def test_worst__one_by_one(victim, name, content):
    folder, good = victim
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        load_distilled(folder)
    (folder / name).write_bytes(good[name])


def test_eight_bit__that_decodes_to_infinity_is_refused(tmp_path):
    folder = write_small(tmp_path / "a", dtype="uint8")
    save_file({"mean": torch.zeros(1), "std": torch.full((1,), 1e-40)}, folder / FILES.preprocess)
    with pytest.raises(ArtifactError, match="images, decoded, has values that are not finite"):
        load_distilled(folder)
    config = json.loads((folder / FILES.config).read_text())
    (folder / FILES.config).write_text(json.dumps({**config, "uint8_range": {"low": -1e308, "high": 1e308}}))
    with pytest.raises(ArtifactError, match="not finite"):
        load_distilled(folder)


def test_pipe__in_place_of_a_file_is_not_waited_for(tmp_path):
    folder = write_small(tmp_path / "artifact")
    (folder / FILES.tensors).unlink()
    os.mkfifo(folder / FILES.tensors)
    with pytest.raises(ArtifactError, match="no ordinary file"):
        load_distilled(folder)
    shutil.rmtree(folder)


MEASURE = """
import resource, sys, torch
torch.set_num_threads(1)
from distillkit import load_distilled
load_distilled(sys.argv[1])
unlimited = resource.getrlimit(resource.RLIMIT_DATA)
for folder, allowed in zip(sys.argv[2::2], sys.argv[3::2]):
    data = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (data + int(allowed), unlimited[1]))
    ds = load_distilled(folder)
    print(len(ds), float(ds.images[-1].sum()))
    resource.setrlimit(resource.RLIMIT_DATA, unlimited)
    del ds
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits private memory")
def test_memory__of_loading_is_at_most_four_times_the_files(tmp_path):
    counts = {"float32": 120, "float16": 120, "uint8": 240, "zca": 20}  # images a class, of ten
    command = [sys.executable, "-c", MEASURE, str(write_small(tmp_path / "small"))]
    for form, ipc in counts.items():
        shape = (3, 32, 32) if form == "zca" else (3, 64, 64)
        dtype, classes = "float32" if form == "zca" else form, [f"c{k}" for k in range(10)]
        folder = write_small(tmp_path / form, classes, ipc, shape, dtype=dtype, zca=form == "zca")
        size = sum((folder / name).stat().st_size for name in LOADED)
        assert size > 14e6
        slack = 20_000_000  # the interpreter's own, whatever the size of the files
        mapped = max((folder / name).stat().st_size for name in TENSORS)  # file pages, which RLIMIT_DATA counts as well
        command += [str(folder), str(4 * size + mapped + slack)]
    given_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # what one set took is not there for the next
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=given_back)
    assert result.returncode == 0, (result.stdout, result.stderr[-800:])
    assert [line.split()[0] for line in result.stdout.splitlines()] == [str(10 * ipc) for ipc in counts.values()]


def changed(folder, name, change):
    """Change a JSON file, and seal the artifact again: what its maker could have written."""
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))
    write_config(folder, json.loads((folder / FILES.config).read_text()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            FILES.results,
            lambda v: v["architectures"]["convnet"].update(mean=0.99),
            "mean is 0.99, that of the accuracies",
        ),
        (FILES.results, lambda v: v["baselines"]["random"].update(mean=0.1), "mean is 0.1, that of the accuracies"),
        (FILES.recipe, lambda v: v.update(lr=0.2), "recipe.json says lr 0.2, distilled.safetensors has 0.02"),
        (FILES.config, lambda v: v["settings"].update(evaluate={"lr": 10**400}), "evaluate.lr"),
        (FILES.config, lambda v: v.update(label_kind="logits"), "label_kind logits, .* says probabilities"),
        (FILES.config, lambda v: v["uint8_range"].update(high=9.0), "uint8_range .*'high': 9.0.*, .* says"),
    ],
)
def test_contradiction__between_files_is_refused(tmp_path, name, change, message):
    folder = write_small(tmp_path / "artifact")
    changed(folder, name, change)
    with pytest.raises(ArtifactError, match=message):
        load_distilled(folder)


def test_contradiction__a_rate_that_was_asked_for_is_none(tmp_path):
    folder = write_small(tmp_path / "artifact")
    changed(folder, FILES.recipe, lambda v: v.update(lr=0.2))
    changed(folder, FILES.config, lambda v: v["settings"].update(evaluate={"lr": 0.2}))
    assert load_distilled(folder).recipe["lr"] == 0.2


@pytest.mark.parametrize("word", ["1e400", "-1e999", "NaN", "Infinity"])
def test_number__that_cannot_be_held_is_refused_in_any_key(tmp_path, word):
    folder = write_small(tmp_path / "artifact")
    text = (folder / FILES.config).read_text()
    (folder / FILES.config).write_text(text.replace("{", '{"extra": [' + word + "],", 1))
    with pytest.raises(ArtifactError, match=rf"{word} is no number that can be held"):
        load_distilled(folder)


def test_text__of_half_a_character_is_refused(tmp_path):
    folder = write_small(tmp_path / "artifact")
    config = json.loads((folder / FILES.config).read_text())
    (folder / FILES.config).write_text(json.dumps({**config, "hardware": "\ud83d\ude00"}))
    assert load_distilled(folder).config["hardware"] == "\U0001f600"
    (folder / FILES.config).write_text(json.dumps({**config, "hardware": "\ud83d"}))
    with pytest.raises(ArtifactError, match=r"is not valid JSON: .* surrogates not allowed"):
        load_distilled(folder)


def test_checksums__that_were_lost_do_not_let_other_files_in(tmp_path):
    folder = write_small(tmp_path / "artifact")
    config = json.loads((folder / FILES.config).read_text())
    recipe = config["checksums"].pop(FILES.recipe)
    for known in ({}, config["checksums"]):
        (folder / FILES.config).write_text(json.dumps({**config, "checksums": known}))
        with pytest.raises(ArtifactError, match=r"has lost the checksums|recipe\.json is not the file"):
            load_distilled(folder)
    (folder / FILES.config).write_text(
        json.dumps({**config, "checksums": {**config["checksums"], FILES.recipe: recipe}})
    )
    load_distilled(folder)


@pytest.mark.parametrize(
    "name", ["org/photos", "org/photos@v1", "hf://datasets/org/photos", "https://huggingface.co/datasets/org/photos"]
)
def test_folder__that_is_not_here_and_may_be_on_the_hub(name):
    with pytest.raises(ArtifactError, match=f"does not exist; if it is on the Hub, fetch it first: .* pull {name}$"):
        read_artifact(Path(name))
    with pytest.raises(ArtifactError, match=r"does not exist$"):
        read_artifact(Path("/nowhere/org/photos"))
