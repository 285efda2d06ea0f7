"""Which row of the results is that of the network which the set was made for."""

from __future__ import annotations

from collections.abc import Container

from distillkit.networks.build import architecture_name
from distillkit.settings import NetworkSettings


def headline_row(network: NetworkSettings, rows: Container[str] = ()) -> str:
    """The name of its row: ``convnet``, or as ``--arch`` says other networks; by the bare name in ``rows`` of older
    artifacts, which left normalisation out.
    """
    own = network.model_copy(update={"pool": ()})
    name = architecture_name(own, own)
    return network.name if name not in rows and network.name in rows else name
