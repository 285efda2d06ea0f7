"""A whitening matrix is fitted once for the same images."""

import shutil

import pytest
import torch

from distillkit.config import compose
from distillkit.data import cached, whitening
from distillkit.data.preprocess import fit
from distillkit.errors import StorageError
from distillkit.methods import SettingsLayer
from distillkit.progress import Silent
from distillkit.records import Pixels
from distillkit.stages.context import make_run, prepare
from tests.data.pictures import put
from tests.helpers import Notes


def drawn(n=40, size=19, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Pixels(torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8))


def matrix(kind, images, eps=0.1, source="a", progress=None):
    return whitening.fitted(kind, images, eps, ["hub", source], progress or Silent()).matrix


@pytest.fixture
def fits(monkeypatch):
    made = []
    monkeypatch.setattr(whitening, "fit", lambda *arguments: made.append(arguments[0]) or fit(*arguments))
    return made


@pytest.mark.parametrize("kind", ["zca", "unit-zca"])
def test_fitted__is_what_fit_makes_and_made_once_for_the_same_images(kind, fits):
    images = drawn()
    backwards = torch.arange(len(images)).flip(0)
    stored_otherwise = Pixels(images.stored[backwards], backwards)
    first = whitening.fitted(kind, images, 0.1, ["hub", "uoft-cs/cifar10"], Silent())
    again = whitening.fitted(kind, stored_otherwise, 0.1, ["hub", "elsewhere"], Silent())
    expected = fit(kind, images, 0.1)
    assert fits == [kind]
    for found in (first, again):
        assert type(found) is type(expected)
        assert torch.equal(found.matrix, expected.matrix)
        assert found.matrix.dtype == torch.float64
    assert [(one.holds, one.source, one.state) for one in cached.cached_sets()] == [(kind, "uoft-cs/cifar10", "whole")]


def test_fitted__other_images_numbers_kinds_and_threads_are_fitted_anew(fits, monkeypatch):
    matrix("zca", drawn())
    matrix("zca", drawn(seed=1))
    matrix("zca", drawn(), eps=0.2)
    matrix("unit-zca", drawn())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    matrix("zca", drawn())
    assert fits == ["zca", "zca", "zca", "unit-zca", "zca"]


def test_fitted__keeps_nothing_of_small_images_or_of_means(fits):
    matrix("zca", drawn(size=8))
    whitening.fitted("standardise", drawn(), 0.1, ["hub", "a"], Silent())
    assert fits == ["zca", "standardise"]
    assert cached.cached_sets() == []


def test_fitted__a_damaged_file_is_said_and_made_again(fits):
    notes = Notes()
    first = matrix("zca", drawn())
    [path] = cached.cached_sets()[0].files
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    assert torch.equal(matrix("zca", drawn(), progress=notes), first)
    assert notes.notes == [f"the whitening in {path} is damaged; fitting it again"]
    assert torch.equal(matrix("zca", drawn()), first)
    assert fits == ["zca", "zca"]


@pytest.mark.parametrize("what", ["write_tensors", "make_folder"])
def test_fitted__a_cache_that_cannot_be_written_costs_nothing_but_time(what, fits, monkeypatch):
    def refuse(*arguments, **options):
        raise StorageError("could not write the cache: read-only file system")

    expected, notes = fit("zca", drawn(), 0.1).matrix, Notes()
    monkeypatch.setattr(whitening.storage, what, refuse)
    assert torch.equal(matrix("zca", drawn(), progress=notes), expected)
    assert notes.notes == ["the whitening is not kept: could not write the cache: read-only file system"]
    assert fits == ["zca"]


def test_fitted__reads_a_cache_that_cannot_be_written(fits, monkeypatch):
    first = matrix("zca", drawn())
    monkeypatch.setattr(whitening.storage, "make_folder", lambda path: pytest.fail("writes"))
    monkeypatch.setattr(whitening, "locked", lambda *arguments: pytest.fail("locks"))
    assert torch.equal(matrix("zca", drawn()), first)
    assert fits == ["zca"]


def test_place__of_a_folder_is_known_from_everywhere(tmp_path, monkeypatch):
    for name in ("a", "b"):
        for index in range(12):
            put(tmp_path / "photos" / name / f"{index}.png", (20 * index, 99, 7 * index), (32, 32))
    monkeypatch.chdir(tmp_path)
    layers = [SettingsLayer("test", {"dataset.preprocessing": "zca"})]
    prepare(make_run(compose("photos", 1, "random", "smoke", "cpu", layers), torch.device("cpu")))
    monkeypatch.chdir("/")
    wanted = {("images", "whole", str(tmp_path / "photos")), ("zca", "whole", str(tmp_path / "photos"))}
    assert {(found.holds, found.state, found.source) for found in cached.cached_sets()} == wanted
    shutil.rmtree(tmp_path / "photos")
    assert {found.state for found in cached.cached_sets()} == {"gone"}
