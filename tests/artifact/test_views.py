"""The parquet view: what other libraries are told of its columns."""

import io
import json
from dataclasses import replace

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from distillkit.artifact.views import EightBit, parquet_bytes, preview_png
from distillkit.data.preprocess import NATURAL_STD, fit_standardise, fit_unit_whiten
from distillkit.records import SyntheticSet

TYPES_OF_DATASETS_3 = {"Value", "ClassLabel", "Sequence", "LargeList", "Image", "Array2D", "Array3D"}


def test_parquet__features_are_known_to_datasets_3_and_later():
    ids = torch.tensor([0, 1, 2])
    synthetic = SyntheticSet(torch.zeros(3, 1, 8, 8), torch.eye(3), ids, 0.1, "probabilities")
    view = EightBit(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), 0.0, 1.0)
    schema = pq.read_schema(io.BytesIO(parquet_bytes(view, synthetic, ("a", "b", "c"))))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    types = {feature["_type"] for feature in (*features.values(), features["soft_label"]["feature"])}
    assert types <= TYPES_OF_DATASETS_3
    assert datasets.Features.from_arrow_schema(schema)["soft_label"] == datasets.List(datasets.Value("float32"), 3)


@pytest.mark.parametrize("length", [0.03, 1.0, 30.0])
def test_preview__of_unit_whitened_images_has_natural_contrast_whatever_their_length(length):
    images = torch.randint(0, 256, (200, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    preprocess = fit_unit_whiten(images, 0.1)
    learned = length * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    synthetic = SyntheticSet(learned, torch.eye(4), torch.arange(4), 0.1, "probabilities")
    shown = Image.open(io.BytesIO(preview_png(synthetic, preprocess)))
    values = torch.from_numpy(np.array(shown)).float()[4:-4, 4:68] / 255  # the first tile, without the gaps
    assert abs(values.std() - NATURAL_STD) < 0.05
    plain = preview_png(synthetic, fit_standardise(images))
    assert plain != preview_png(
        replace(synthetic, images=2 * learned), fit_standardise(images)
    )  # lengths mean something
