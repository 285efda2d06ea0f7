"""How a synthetic set is stored: as float32, as float16, or as 8-bit pixels with the range they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit.artifact.dtypes import STORED
from distillkit.artifact.schema import Range
from distillkit.artifact.views import EightBit, eight_bit
from distillkit.data.preprocess import Preprocess
from distillkit.errors import ConfigError
from distillkit.records import LabelKind, SyntheticSet
from distillkit.settings import StoredDtype

CHUNK_VALUES = 2**18  # decoded at a time, so that a set is never held in memory twice


def encode(synthetic: SyntheticSet, view: EightBit, dtype: StoredDtype) -> dict[str, Tensor]:
    """The tensors of distilled.safetensors: images [S, C, H, W], labels [S, K], class_ids [S], lr [].

    ``view`` is the set's 8-bit view; as ``uint8`` it is what is stored, in pixel space, else the images as they are, in
    the network's input space.

    Raises:
        ConfigError: a value does not fit into float16.
    """
    images = view.images if dtype == "uint8" else synthetic.images.to(STORED[dtype].images)
    labels = synthetic.labels.to(STORED[dtype].labels)
    for name, tensor in (("images", images), ("labels", labels)):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ConfigError(f"some {name} are too large for float16; store them as float32")
    return {
        "images": images,
        "labels": labels,
        "class_ids": synthetic.class_ids.to(torch.int64),
        "lr": torch.tensor(synthetic.lr, dtype=torch.float64),
    }


def decode(tensors: dict[str, Tensor], value_range: Range, preprocess: Preprocess, kind: LabelKind) -> SyntheticSet:
    """The inverse: images float32 in the network's input space, copied out of the (memory-mapped) file once."""
    stored = tensors["images"]
    images = torch.empty(stored.shape, dtype=torch.float32)
    step = max(1, CHUNK_VALUES // stored[0].numel())
    for begin in range(0, len(stored), step):
        part = stored[begin : begin + step]
        if stored.dtype == torch.uint8:
            images[begin : begin + step] = preprocess.from_view(
                EightBit(part, value_range.low, value_range.high).pixels()
            )
        else:
            images[begin : begin + step] = part
    labels = torch.empty(tensors["labels"].shape, dtype=torch.float32).copy_(tensors["labels"])
    return SyntheticSet(images, labels, tensors["class_ids"].clone(), float(tensors["lr"]), kind)


def as_stored(synthetic: SyntheticSet, preprocess: Preprocess, dtype: StoredDtype) -> SyntheticSet:
    """What a reader of the stored set will have: the set after encoding and decoding."""
    view = eight_bit(synthetic, preprocess)
    value_range = Range(low=view.low, high=view.high)
    return decode(encode(synthetic, view, dtype), value_range, preprocess, synthetic.label_kind)
