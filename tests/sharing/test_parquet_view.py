"""The parquet file of an artifact that is to be published: bounded before it is read, and of this set."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distillkit.artifact.layout import FILES
from distillkit.artifact.read import read_artifact
from distillkit.artifact.schema import ArtifactConfig
from distillkit.errors import ArtifactError
from distillkit.sharing.parquet_view import check_view
from distillkit.sharing.push import PushOptions, plan_push
from tests.artifact.small import write_small


def check(folder):
    artifact = read_artifact(folder)
    check_view(folder, artifact, ArtifactConfig.model_validate(artifact.config))


def rewrite(folder, change, **options):
    path = folder / FILES.parquet
    table = pq.read_table(path)
    rows = table.to_pylist()
    changed = change(rows) or rows
    pq.write_table(pa.Table.from_pylist(changed, schema=table.schema), path, **options)


def in_format(cell, form):
    with Image.open(io.BytesIO(cell["bytes"])) as image:
        buffer = io.BytesIO()
        image.save(buffer, format=form)
    return {**cell, "bytes": buffer.getvalue()}


def swapped(rows):
    rows[0]["image"], rows[-1]["image"] = rows[-1]["image"], rows[0]["image"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].update(image={**rows[1]["image"], "bytes": b"no png"}), "has no PNG in row 1"),
        (lambda rows: rows[1].update(image={**rows[1]["image"], "bytes": None}), "has no PNG in row 1"),
        (lambda rows: rows[1].update(image=None), "has no PNG in row 1"),
        (lambda rows: rows[2].update(image=in_format(rows[2]["image"], "JPEG")), "has no PNG in row 2"),
        (lambda rows: rows[0].update(label=9), "of another set: row 0 has the label 9"),
        (lambda rows: rows[0].update(label=None), "of another set: row 0 has the label None"),
        (lambda rows: rows[3]["soft_label"].reverse(), "of another set: row 3 has other soft labels"),
        (swapped, "of another set: row 0 has another image"),
        (lambda rows: rows[:-1], "has 19 rows of image, label, soft_label; expected 20"),
        (lambda rows: [*rows, rows[0]], "has 21 rows"),
    ],
)
def test_parquet__that_shows_another_set_or_no_pictures_is_refused(copy, change, message):
    check(copy)
    rewrite(copy, change)
    with pytest.raises(ArtifactError, match=rf"is damaged: data/train.*parquet .*{message}"):
        plan_push(copy, "org/set", PushOptions())


def test_parquet__of_a_set_of_the_same_shape_is_refused(tmp_path):
    one, other = (write_small(tmp_path / name, ipc=2, soft=name == "b") for name in "ab")
    check(one)
    (one / FILES.parquet).write_bytes((other / FILES.parquet).read_bytes())
    with pytest.raises(ArtifactError, match="of another set: row 0 has other soft labels"):
        check(one)


def test_parquet__of_millions_of_rows_is_refused_by_its_footer(copy):
    count = 3_000_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([b"x"]))
    table = pa.table({"image": column, "label": pa.nulls(count, pa.int64()), "soft_label": pa.nulls(count, pa.int64())})
    pq.write_table(table, copy / FILES.parquet, compression="zstd")
    assert (copy / FILES.parquet).stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    with pytest.raises(ArtifactError, match="has 3000000 rows of image, label, soft_label; expected 20"):
        check(copy)
    assert pa.total_allocated_bytes() - before < 1_000_000


@pytest.mark.parametrize(
    ("size", "count", "message"),
    [(2**21, 20, r"has 16 rows of \d+ bytes, all of it may have"), (17_000_000, 1, r"holds \d+ bytes, it may hold")],
)
def test_parquet__with_one_large_value_for_all_rows_is_refused(copy, size, count, message):
    value = b"\0" * size

    def large(rows):
        for row in rows[:count]:
            row["image"] = {"bytes": value, "path": "x.png"}

    rewrite(copy, large, compression="zstd", use_dictionary=True)
    assert (copy / FILES.parquet).stat().st_size < 100_000
    with pytest.raises(ArtifactError, match=message):
        check(copy)


def test_parquet__of_nothing_sensible_is_damaged(copy):
    path, whole = copy / FILES.parquet, (copy / FILES.parquet).read_bytes()
    for content in (
        b"",
        b"PAR1",
        b"\xff\xff\xff\x7fPAR1",
        whole[:-1],
        whole[:100] + whole[200:],
        b"PAR1" + whole[4:-8],
    ):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"is damaged: data/train"):
            check(copy)
    columns = {"image": ["x"] * 20, "label": ["y"] * 20, "soft_label": ["z"] * 20}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ArtifactError, match="row 0 has the label y"):
        check(copy)


def test_parquet__of_a_set_stored_as_pixels_or_whitened_holds(tmp_path):
    for options in ({"dtype": "uint8"}, {"dtype": "float16"}, {"zca": True}, {"shape": (3, 4, 4)}):
        folder = write_small(tmp_path / "".join(map(str, options)), **options)
        check(folder)
        assert json.loads((folder / FILES.config).read_text())["dtype"] == options.get("dtype", "float32")
