"""The cache of decoded images: checked when read, mapped once, resumed, shared; and planned before it is made."""

import errno
import json
import os
import signal

import pytest
import torch
from filelock import FileLock

from distillkit import plan, storage
from distillkit.config import compose
from distillkit.data import cached, decode, decoding, load
from distillkit.data.inputs import LazyInputs, inputs_of
from distillkit.data.load import load_data, survey
from distillkit.data.preprocess import CHUNK, Standardise, fit, fit_standardise, to_inputs
from distillkit.errors import ConfigError, Interrupted, StorageError
from distillkit.interrupt import stop_on_signals
from distillkit.networks.build import build_network
from distillkit.networks.functional import flatten_parameters
from distillkit.progress import Silent
from distillkit.records import Pixels
from distillkit.settings import DatasetSettings, NetworkSettings
from distillkit.stages.context import kept_of_each, make_run, prepare
from distillkit.stages.costs import Costs
from distillkit.training.fit import accuracy
from distillkit.training.fit import fit as train
from distillkit.training.recipe import Recipe, Sgd, cross_entropy, shuffle
from tests.helpers import Notes


def read(folder, listener=None, **more):
    return load_data(DatasetSettings(name=str(folder)), listener or Silent(), **more)


def files(tmp_path, pattern="*.safetensors"):
    return sorted((tmp_path / "cache" / "data").glob(pattern))


def flip(path, position):
    with path.open("r+b") as file:
        file.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
        byte = file.read(1)
        file.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
        file.write(bytes([byte[0] ^ 1]))


def first_image(path):
    """Where the images begin."""
    return 8 + storage.header_bytes(path)


@pytest.mark.parametrize("where", ["image", "label", "name"])
def test_cache__one_flipped_bit_is_noticed_and_decoded_again(class_folders, tmp_path, where):
    folder, notes = class_folders({"cats": 5, "dogs": 5}), Notes()
    before = read(folder)
    images, fingerprint = before.train.images, before.info.fingerprint
    (path,) = files(tmp_path)
    positions = {"image": first_image(path) + 100, "label": -80, "name": path.read_bytes().index(b"cats")}
    del before
    flip(path, positions[where])
    again = read(folder, notes)
    assert any("damaged; decoding again" in note for note in notes.notes)
    assert torch.equal(again.train.images, images)
    assert (again.classes, again.info.fingerprint) == (("cats", "dogs"), fingerprint)


def test_cache__test_images_alone_are_compared_where_they_alone_are_used(class_folders, tmp_path, monkeypatch):
    class_folders({"a": 6, "b": 6}, root="set/train")
    folder = class_folders({"a": 3, "b": 3}, root="set/test").parent
    test = read(folder).test.images
    (path,) = files(tmp_path)
    flip(path, first_image(path) + 5)  # of a training image
    compared, plain = [], storage.digest_of
    monkeypatch.setattr(storage, "digest_of", lambda tensor: compared.append(tensor.shape) or plain(tensor))
    assert torch.equal(read(folder, parts=("test",)).test.images, test)
    assert torch.Size([12, 3, 12, 12]) not in compared
    notes = Notes()
    read(folder, notes)
    assert any("damaged" in note for note in notes.notes)


def stop_in_decoding(monkeypatch, after):
    """A signal while image number ``after`` is decoded; how many were decoded till the end."""
    calls, plain = [], decode.decode

    def decoded(*arguments):
        calls.append(1)
        return plain(*arguments)

    monkeypatch.setattr(decode, "decode", decoded)
    append = decoding.Partial.append

    def appended(self, *arguments):
        append(self, *arguments)
        if len(calls) >= after:
            monkeypatch.setattr(decoding.Partial, "append", append)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(decoding.Partial, "append", appended)
    return calls


def run_of(folder, stop=None, **settings):
    from distillkit.methods import SettingsLayer

    composed = compose(str(folder), 1, "mtt", "smoke", "cpu", [SettingsLayer("test", settings)] if settings else [])
    return make_run(composed, torch.device("cpu"), Notes(), stop)


@pytest.mark.parametrize("damaged", [False, True])
def test_decoding__a_signal_stops_it_at_once_and_it_goes_on_after_its_last_whole_chunk(
    class_folders, tmp_path, monkeypatch, damaged
):
    monkeypatch.setattr(decoding, "MOST_AT_ONCE", 16)
    folder = class_folders({"a": 40, "b": 40})
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "whole"))
    whole = read(folder).info.fingerprint
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "cache"))
    calls = stop_in_decoding(monkeypatch, 32)
    with stop_on_signals() as stop, pytest.raises(Interrupted, match="stopped by SIGINT while reading the data"):
        prepare(run_of(folder, stop))
    done = len(calls)
    assert 32 <= done < 80
    (partial,) = files(tmp_path, ".*.decoding")
    if damaged:  # in the second chunk
        flip(partial, -10)
    assert read(folder).info.fingerprint == whole
    assert len(calls) - done == (64 if damaged else 48)
    assert not files(tmp_path, ".*.decoding") + files(tmp_path, ".*.journal")


def test_decoding__a_kill_after_the_last_chunk_of_a_split_is_gone_on_from(class_folders, tmp_path, monkeypatch):
    def killed(partial, *given):
        partial.close()
        raise KeyboardInterrupt

    folder = class_folders({"a": 4, "b": 4})
    with monkeypatch.context() as patch:
        patch.setattr(decoding.Partial, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            read(folder)
    (partial,) = files(tmp_path, ".*.decoding")
    assert len(read(folder).train) > 0
    assert not partial.exists()


def test_listing__a_signal_stops_it_at_once(class_folders, monkeypatch):
    from distillkit.data import locate

    folder = class_folders({"a": 4, "b": 4})

    def listed(folder):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("a signal was not answered")

    monkeypatch.setattr(locate, "files_below", listed)
    with stop_on_signals() as stop, pytest.raises(Interrupted, match="SIGTERM"):
        prepare(run_of(folder, stop))


def test_splits__are_views_of_one_mapped_copy(class_folders):
    data = read(class_folders({"a": 30, "b": 30}))
    stored = {part.pixels.stored.data_ptr() for part in (data.train, data.validation, data.test)}
    assert len(stored) == 1
    rows = torch.cat([part.pixels.rows for part in (data.train, data.validation, data.test)])
    assert rows.sort().values.tolist() == list(range(60))


def test_inputs__of_a_batch_are_the_bytes_of_those_of_all():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3000, 3, 8, 8), dtype=torch.uint8, generator=generator)
    order = torch.randperm(3000, generator=generator)[:1000]
    view, preprocess = Pixels(pixels).only(order), fit("standardise", pixels, 0.1)
    lazy, whole = inputs_of(preprocess, view), to_inputs(preprocess, pixels[order])
    assert isinstance(lazy, LazyInputs)
    assert torch.equal(torch.cat(list(lazy.split(77))), whole)
    some = torch.tensor([5, 999, 5, 0])
    assert torch.equal(lazy[some], whole[some])
    assert torch.equal(lazy[10:20], whole[10:20])
    grey = pixels[:, :1]
    for kind in ("zca", "unit-zca"):
        whitening = fit(kind, grey, 0.1)
        whitened = inputs_of(whitening, Pixels(grey))  # a chunk after the other
        assert isinstance(whitened, torch.Tensor)
        assert len(whitened) > CHUNK
        assert torch.allclose(whitened, whitening(grey.float() / 255), atol=1e-5)


def test_training__on_inputs_made_as_they_are_used_ends_at_the_same_bytes():
    from distillkit.data.augment import Augmentation

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (100, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(100) % 4
    preprocess = fit("standardise", pixels, 0.1)
    augmentation = Augmentation.parse("color_crop_cutout_flip_scale_rotate")
    recipe = Recipe(2, 32, 0.05, Sgd(0.9, 0.0), cross_entropy, shuffle, augmentation)
    ends = []
    for inputs in (to_inputs(preprocess, pixels), inputs_of(preprocess, Pixels(pixels))):
        model = build_network(NetworkSettings(width=4, depth=2), (3, 8, 8), 4, 0, "test")
        for _ in train(model, inputs, labels, recipe, 0, "test"):
            pass
        ends.append((flatten_parameters(model), accuracy(model, inputs, labels)))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_standardise__from_counts_is_what_sums_give():
    pixels = torch.randint(0, 256, (500, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    values = pixels.double() / 255
    found = fit_standardise(pixels)
    torch.testing.assert_close(found.mean, values.mean((0, 2, 3)), rtol=1e-13, atol=0)
    torch.testing.assert_close(found.std, values.std((0, 2, 3), correction=0), rtol=1e-13, atol=0)
    assert isinstance(found, Standardise)


def test_renamed_folder__is_not_decoded_again(class_folders, tmp_path, monkeypatch):
    folder = class_folders({"a": 5, "b": 5})
    fingerprint = read(folder).info.fingerprint
    monkeypatch.setattr(decode, "decode", None)
    moved = folder.rename(tmp_path / "elsewhere")
    assert read(moved).info.fingerprint == fingerprint


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "no locks available")])
def test_file_system_without_locks__works(class_folders, monkeypatch, error):
    def acquire(self, **_):
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    assert len(read(class_folders({"a": 5, "b": 5})).train) > 0


def test_cache_of_somebody_else__is_read_and_never_written(class_folders, monkeypatch):
    folder = class_folders({"a": 5, "b": 5})
    fingerprint = read(folder).info.fingerprint

    def acquire(self, **_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    assert read(folder).info.fingerprint == fingerprint
    with pytest.raises(StorageError, match=r"permission denied; DISTILLKIT_CACHE=FOLDER puts the cache elsewhere"):
        read(class_folders({"a": 5, "c": 5}, root="others"))


def test_disk__too_little_room_is_told_before_anything_is_decoded(class_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "free_bytes", lambda path: 1000)
    monkeypatch.setattr(decode, "decode", None)
    with pytest.raises(StorageError, match=r"decoding 10 images of 12x12 pixels takes .* DISTILLKIT_CACHE"):
        read(class_folders({"a": 5, "b": 5}))


def test_many_classes__are_not_cut_to_nothing_by_a_preset(class_folders):
    folder = class_folders({f"class-{number:02d}": 5 for number in range(12)}, size=(8, 8))
    few = DatasetSettings(name=str(folder), max_train=13)
    with pytest.raises(ConfigError, match=r"'class-\d\d' \(0 training images\).*max_train=11 cuts the rest"):
        prepare(run_of(folder, **{"dataset.max_train": 11, "dataset.validation_fraction": 0.0}))  # somebody's own wish
    data = load_data(few, Silent(), each=2)
    assert (min(data.train.class_counts()), min(data.validation.class_counts())) == (2, 1)
    assert load_data(few.model_copy(update={"max_train": 36}), Silent()).info.fingerprint == data.info.fingerprint
    assert load_data(few.model_copy(update={"max_train": 40}), Silent(), each=2).train.class_counts()[0] == 3
    assert (kept_of_each(run_of(folder)), kept_of_each(run_of(folder, **{"dataset.max_train": 13}))) == (1, 0)


def test_plan__of_data_that_are_not_decoded_reads_a_few_images_and_writes_none(
    class_folders, tmp_path, monkeypatch, tiny
):
    folder = class_folders({"a": 40, "b": 40}, size=(8, 8))
    monkeypatch.setattr(load, "SAMPLE", 10)
    decoded, plain = [], decode.decode
    monkeypatch.setattr(decode, "decode", lambda *arguments: decoded.append(1) or plain(*arguments))
    asked = run_of(folder, **tiny)
    monkeypatch.setattr(plan, "measured_costs", lambda *given: Costs(1.0, 1.0, 1.0, {0: 2}))
    found = plan.make_plan(asked)
    assert len(decoded) == 10
    assert not files(tmp_path)
    assert found["notes"][0] == "data:    58 training, 6 validation, 16 test images"
    assert any("decoded images 0.0 MB" in note for note in found["notes"])
    assert found["disk_bytes"] >= 80 * 3 * 8 * 8
    assert survey(DatasetSettings(name=str(folder)), Silent()).bytes == 80 * 3 * 8 * 8
    read(folder)
    assert survey(DatasetSettings(name=str(folder)), Silent()) is None


def test_memory__what_cannot_fit_is_refused_in_a_sentence(monkeypatch, tiny):
    from distillkit.data import inputs
    from distillkit.stages import room

    asked = run_of("digits", **tiny)
    prepared = prepare(asked)
    room.check_step_fits(asked, prepared, now=True)
    monkeypatch.setattr(room, "memory", lambda device: (100_000, 50_000))
    with pytest.raises(ConfigError, match=r"a student's step on 10 images needs about .*distill\.batch_size=\d"):
        room.check_step_fits(asked, prepared)
    monkeypatch.setattr(inputs, "memory", lambda device: (10, 5))
    with pytest.raises(ConfigError, match=r"1,797 images of 8x8 pixels need .* as whitened floats"):
        prepare(run_of("digits", **{"dataset.preprocessing": "zca", "dataset.max_train": None}))


def test_verb__lists_and_clears_decoded_sets(class_folders, tmp_path):
    from typer.testing import CliRunner

    from distillkit.cli.app import app

    kept = class_folders({"a": 5, "b": 5})
    lost = class_folders({"a": 5, "c": 5}, root="lost")
    read(kept)
    read(lost)
    lost.rename(tmp_path / "renamed")
    (tmp_path / "cache" / "data" / ".0123.decoding").write_bytes(b"x")
    assert sorted(one.state for one in cached.cached_sets()) == ["gone", "unfinished", "whole"]
    listed = json.loads(CliRunner().invoke(app, ["cache", "list", "--json"]).stdout)["sets"]
    assert {one["source"] for one in listed} == {str(kept), str(lost), "-"}
    assert "made from" in CliRunner().invoke(app, ["cache", "list"]).stdout
    unasked = CliRunner().invoke(app, ["cache", "clear", "--unused"])
    assert unasked.exit_code == 2
    assert "there is no terminal to ask on: Delete 2 decoded data sets" in unasked.stderr
    assert len(cached.cached_sets()) == 3
    assert CliRunner().invoke(app, ["cache", "clear", "--unused", "--yes"]).exit_code == 0
    assert [one.source for one in cached.cached_sets()] == [str(kept)]
    again = CliRunner().invoke(app, ["cache", "clear", "--unused"])  # nothing is left to be asked about
    assert (again.exit_code, again.stdout.strip()) == (0, "deleted 0 of 0 decoded data sets, 0.0 MB")
    assert CliRunner().invoke(app, ["cache", "clear"]).exit_code == 2
