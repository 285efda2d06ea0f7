"""Small pictures and tables of them, for tests of reading."""

import functools
import io

from PIL import Image

COLOURS = ("red", "green", "blue", "yellow")


@functools.cache
def png(colour="red", size=(8, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def put(path, colour="red", size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def table(folder, labels, split="train", name="label"):
    """A parquet file of as many rows as labels, in Hub layout, equal labels of equal colour."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    seen = list(dict.fromkeys(labels))
    cells = [{"bytes": png(COLOURS[seen.index(label) % 4]), "path": None} for label in labels]
    columns = labels if isinstance(name, str) else None
    named = {name: columns} if columns is not None else dict.fromkeys(name, labels)
    pq.write_table(pa.table({"image": cells, **named}), folder / f"{split}.parquet")
    return folder
