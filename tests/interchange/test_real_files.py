"""The files that DC, DSA, DM and IDC write, numpy's numbers and all, read without executing anything."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from distillkit.errors import ConfigError, DataError
from distillkit.interchange.read_pt import read_field_files
from distillkit.interchange.safe_load import as_tensor, load_numbers
from tests.helpers import images

AUDIT = Path(__file__).parents[2] / ".." / "shared" / "audit"


def condensed(folder, experiments=1, name="res_DC_digits_ConvNet_2ipc.pt"):
    """As DC, DSA and DM save it: torch.save of tensors beside lists of numpy.float64."""
    data = [[images() + number, torch.arange(10).repeat_interleave(2)] for number in range(experiments)]
    accuracies = {"ConvNet": [np.float64(0.5), np.float32(0.25)], "MLP": [np.float64(0.1)] * experiments}
    folder.mkdir(exist_ok=True)
    torch.save({"data": data, "accs_all_exps": accuracies}, folder / name)
    return folder / name


def test_dc__numpy_scalars_beside_the_tensors(tmp_path):
    files = read_field_files([condensed(tmp_path)])
    assert torch.equal(files.images, images())
    assert (files.num_classes, files.lr, files.names) == (10, None, ("res_DC_digits_ConvNet_2ipc.pt",))
    assert torch.equal(read_field_files([tmp_path]).images, images())  # the folder it lies in


def test_dc__one_of_several_experiments(tmp_path):
    file = condensed(tmp_path, 3)
    with pytest.raises(ConfigError, match="holds 3 experiments; choose one with `experiment`, 0 to 2"):
        read_field_files([file])
    assert torch.equal(read_field_files([file], experiment=2).images, images() + 2)
    with pytest.raises(ConfigError, match=r"`experiment=3`: .* holds experiments 0 to 2"):
        read_field_files([file], experiment=3)
    condensed(tmp_path, name="res_DSA_digits.pt")
    with pytest.raises(ConfigError, match="several results"):
        read_field_files([tmp_path])


def test_idc__a_list_of_images_and_labels(tmp_path):
    torch.save([images(), torch.arange(10).repeat_interleave(2)], tmp_path / "data.pt")
    assert torch.equal(read_field_files([tmp_path]).images, images())


def test_experiment__of_files_without_any_is_told(tmp_path):
    torch.save(images(), tmp_path / "images.pt")
    torch.save(torch.arange(10).repeat_interleave(2), tmp_path / "labels.pt")
    with pytest.raises(ConfigError, match="do not hold experiments"):
        read_field_files([tmp_path], experiment=0)


def test_arrays__of_numbers_are_tensors(tmp_path):
    labels = np.arange(10, dtype=">i4").repeat(2)
    torch.save([np.asfortranarray(images().numpy()), labels], tmp_path / "data.pt")
    files = read_field_files([tmp_path / "data.pt"])
    assert torch.equal(files.images, images())
    assert files.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    "number", [np.float64(0.1), np.float32(0.5), np.float16(2), np.int64(-3), np.uint8(255), np.bool_(True)]
)
def test_numbers__are_what_numpy_stored_in_either_of_its_versions(tmp_path, number):
    torch.save({"x": number}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    found = load_numbers(tmp_path / "x.pt")["x"]
    assert (found, type(found)) == (number.item(), type(number.item()))
    content = (tmp_path / "x.pt").read_bytes()
    other = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    if other == content:
        other = content.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    (tmp_path / "x.pt").write_bytes(other)
    assert (other != content, load_numbers(tmp_path / "x.pt")["x"]) == (True, number.item())


class Bomb:
    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize(
    "value",
    [
        np.array([Bomb()], dtype=object),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.datetime64("2020-01-01"),
        np.complex128(1),
        np.random.default_rng(0),
        {"data": [[Bomb(), 1]]},
    ],
)
def test_what_is_no_number_is_refused_and_nothing_runs(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    torch.save(value, tmp_path / "x.pt")
    (tmp_path / "ran").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"was not executed|is no file of torch\.save"):
        load_numbers(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_numbers_of_another_size_than_they_say_are_refused(tmp_path):
    torch.save(np.zeros(4, np.float32), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pt").read_bytes()
    assert as_tensor(load_numbers(tmp_path / "x.pt")).tolist() == [0.0] * 4
    shape = pickle.BININT1 + b"\x04" + pickle.TUPLE1
    assert shape in content
    (tmp_path / "x.pt").write_bytes(content.replace(shape, pickle.BININT1 + b"\x05" + pickle.TUPLE1))
    with pytest.raises(DataError, match="another size"):
        load_numbers(tmp_path / "x.pt")


def test_a_text_file_is_called_no_file_of_torch_save_and_no_more(tmp_path):
    (tmp_path / "x.pt").write_text("hello\n")
    with pytest.raises(DataError, match=r"x\.pt (is no file of torch\.save|holds more than tensors.*)$"):
        load_numbers(tmp_path / "x.pt")


def test_numpy_is_allowed_to_nobody_else_afterwards(tmp_path):
    file = condensed(tmp_path)
    read_field_files([file])
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)


@pytest.mark.parametrize(("name", "ipc", "lr"), [("dc-cifar10-ipc1", 1, None), ("datm-cifar10-ipc10-zca", 10, 0.0)])
def test_files_of_the_authors_themselves(name, ipc, lr):
    folder = AUDIT / name
    if not folder.is_dir():
        pytest.skip("the authors' files are not here")
    files = read_field_files(sorted(folder.glob("*.pt")))
    assert files.images.shape == (10 * ipc, 3, 32, 32)
    assert files.num_classes == 10
    assert (files.lr is None) == (lr is None)
