"""What people and other tools see of the images: preview grid, 8-bit view, the parquet file of the Hub viewer."""

from __future__ import annotations

import inspect
import io
import json
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from distillkit.data.preprocess import NATURAL_MEAN, NATURAL_STD, Preprocess, UnitLength
from distillkit.records import SyntheticSet

PREVIEW_COLUMNS = 10  # images of a class shown at most
PREVIEW_CLASSES = 20  # classes shown at most
PREVIEW_SIDE = 64  # pixels of a small image in the preview, at least


@dataclass(frozen=True)
class EightBit:
    """The 8-bit view: ``images`` uint8 [S, C, H, W]; a value v is the pixel ``low + v / 255 * (high - low)``.

    Distilled pixels leave [0, 1]; the range of the whole set is kept instead of clipping them.
    """

    images: Tensor
    low: float
    high: float

    def pixels(self) -> Tensor:
        """Float pixels [S, C, H, W]."""
        return self.low + self.images.float() / 255 * (self.high - self.low)


def eight_bit(
    synthetic: SyntheticSet, preprocess: Preprocess, value_range: tuple[float, float] | None = None
) -> EightBit:
    """Quantise the images, in pixel space, over ``value_range`` (default: that of the whole set, [0, 1] at least)."""
    pixels = preprocess.invert(synthetic.images)
    low, high = value_range or (min(0.0, float(pixels.min())), max(1.0, float(pixels.max())))
    values = ((pixels - low) / (high - low) * 255).round().clamp(0, 255)
    return EightBit(values.to(torch.uint8), low, high)


def to_image(values: Tensor) -> Image.Image:
    """uint8 [C, H, W] as a Pillow image, grey or RGB."""
    array = values[0].numpy() if values.shape[0] == 1 else values.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array)


def png_bytes(image: Image.Image) -> bytes:
    """PNG file of an image; equal images give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def preview_png(synthetic: SyntheticSet, preprocess: Preprocess) -> bytes:
    """A grid in pixel space, clipped to [0, 1]: a row of images for each class, or classes in rows of ten at ipc 1."""
    pixels = _for_eyes(synthetic.images, preprocess).clamp(0, 1)
    num_classes = int(synthetic.class_ids.max()) + 1
    rows = [pixels[synthetic.class_ids == k][:PREVIEW_COLUMNS] for k in range(min(num_classes, PREVIEW_CLASSES))]
    columns = max(len(row) for row in rows)
    if columns == 1:
        columns = min(PREVIEW_COLUMNS, len(rows))
    return png_bytes(_grid(torch.cat(rows), columns))


def _for_eyes(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Pixels of the inputs; of unit whitening, where lengths mean nothing, with the contrast of natural images."""
    pixels = preprocess.invert(images)
    if not isinstance(preprocess, UnitLength):
        return pixels
    offset = pixels - NATURAL_MEAN
    return NATURAL_MEAN + offset * (NATURAL_STD / offset.std(correction=0).clamp_min(1e-12))


def _grid(pixels: Tensor, columns: int) -> Image.Image:
    channels, height, width = pixels.shape[1:]
    factor = max(1, PREVIEW_SIDE // height)
    values = (pixels * 255).round().to(torch.uint8)
    cell_h, cell_w, gap = height * factor, width * factor, 4
    lines = -(-len(values) // columns)
    mode, white = ("L", 255) if channels == 1 else ("RGB", (255, 255, 255))
    sheet = Image.new(mode, (columns * (cell_w + gap) + gap, lines * (cell_h + gap) + gap), white)
    for position, value in enumerate(values):
        line, column = divmod(position, columns)
        tile = to_image(value).resize((cell_w, cell_h), Image.Resampling.NEAREST)
        sheet.paste(tile, (gap + column * (cell_w + gap), gap + line * (cell_h + gap)))
    return sheet


def parquet_bytes(view: EightBit, synthetic: SyntheticSet, classes: tuple[str, ...]) -> bytes:
    """Image (PNG), label and soft_label, with the features that ``datasets`` reads from the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(classes)
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
        "soft_label": {"feature": {"dtype": "float32", "_type": "Value"}, "length": count, "_type": "Sequence"},
    }  # Sequence: datasets 3 knows no List, and later ones read it as one
    names = [f"{position:05d}.png" for position in range(len(view.images))]
    cells = [
        {"bytes": png_bytes(to_image(value)), "path": name} for value, name in zip(view.images, names, strict=True)
    ]
    soft = synthetic.targets().float().flatten().numpy()
    schema = pa.schema(
        [
            pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
            pa.field("label", pa.int64()),
            pa.field("soft_label", pa.list_(pa.float32(), count)),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    columns = [
        pa.array(cells, schema.field("image").type),
        pa.array(synthetic.class_ids.numpy()),
        pa.FixedSizeListArray.from_arrays(pa.array(soft), count),
    ]
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=schema), sink, row_group_size=1000, write_page_index=True, **_chunking()
    )
    return sink.getvalue()


def _chunking() -> dict[str, bool]:
    """Content-defined chunks, so that the Hub stores only what changed between two versions; newer pyarrow has them."""
    import pyarrow.parquet as pq

    known = "use_content_defined_chunking" in inspect.signature(pq.ParquetWriter.__init__).parameters
    return {"use_content_defined_chunking": True} if known else {}
