"""Parquet files that unpack to far more than they hold are refused before they are read."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillkit.data import parquet_bounds
from distillkit.data.load import load_data
from distillkit.data.locate import Location
from distillkit.data.parquet_bounds import check_parquet
from distillkit.data.tables import load_tables
from distillkit.errors import DataError
from distillkit.progress import Silent
from distillkit.settings import DatasetSettings
from tests.data.pictures import table


@pytest.fixture
def small(monkeypatch):
    """Bounds that files of a test reach."""
    monkeypatch.setattr(parquet_bounds, "SMALL", 1 << 20)
    monkeypatch.setattr(parquet_bounds, "LARGEST_ROWS", 50_000)


def test_few_values_for_many_rows(tmp_path, small):
    """A dictionary: the footer claims little, the rows unpack to 8 MB."""
    image = b"x" * 20_000
    pq.write_table(pa.table({"image": [image] * 400, "label": [0, 1] * 200}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    with pytest.raises(DataError, match="unpack to more than"):
        check_parquet([tmp_path / "a.parquet"])


def test_compression(tmp_path, small):
    content = pa.table({"image": [bytes(200_000) + bytes([index]) for index in range(30)]})
    pq.write_table(content, tmp_path / "b.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="unpack to more than"):
        load_data(DatasetSettings(name=str(tmp_path)), Silent())


def test_rows(tmp_path, small):
    pq.write_table(pa.table({"label": pa.array([1] * 60_000, pa.int8())}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="60,000 rows, more than the 50,000"):
        check_parquet([tmp_path / "c.parquet"])


def test_no_rows__files_without_any_are_passed_over_unless_all_are(tmp_path):
    table(tmp_path / "data", [0, 1] * 8)
    some = next((tmp_path / "data").glob("*.parquet"))
    none = pq.read_table(some).slice(0, 0)
    for name in ("train-00001", "test-00000"):
        pq.write_table(none, tmp_path / "data" / f"{name}.parquet")
    data = load_data(DatasetSettings(name=str(tmp_path)), Silent())
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 16
    assert len(data.test) > 0
    some.unlink()
    with pytest.raises(DataError, match=r"parquet and the others have no rows"):
        load_data(DatasetSettings(name=str(tmp_path)), Silent())


def test_what_is_no_parquet_file(tmp_path):
    (tmp_path / "d.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match=r"d\.parquet is no parquet file"):
        load_data(DatasetSettings(name=str(tmp_path)), Silent())


def test_ordinary_sets_pass_and_equal_images_are_counted(tmp_path, small, monkeypatch):
    monkeypatch.setattr(parquet_bounds, "SMALL", 1 << 16)
    table(tmp_path / "set", [0, 1] * 200)  # two pictures, four hundred rows: a doubt, and an answer
    counted = []
    monkeypatch.setattr(
        parquet_bounds, "_count", lambda *rest, count=parquet_bounds._count: counted.append(count(*rest))
    )
    check_parquet([tmp_path / "set" / "train.parquet"])
    assert counted == [None]


def test_of_the_hub__looked_at_when_fetched_and_before_anything_reads_it(tmp_path, small, monkeypatch):
    import datasets

    pq.write_table(pa.table({"image": [b"x" * 20_000] * 400}), tmp_path / "e.parquet")
    builder, read = datasets.load_dataset_builder, []
    monkeypatch.setattr(datasets.ArrowBasedBuilder, "_prepare_split", lambda *rest, **more: read.append(rest))
    local = {"data_files": str(tmp_path / "e.parquet")}
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *rest, **more: builder("parquet", **local))
    with pytest.raises(DataError, match="unpack to more than"):
        load_tables(Location("hub", "org/bomb", "a" * 40, None), DatasetSettings(name="org/bomb"))
    assert not read
