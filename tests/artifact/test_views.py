"""The parquet view: what other libraries are told of its columns."""

import io
import json

import datasets
import pyarrow.parquet as pq
import torch

from distillkit.artifact.views import EightBit, parquet_bytes
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
