"""The ``run`` folder inside an output folder: its files, whose it is, and what a run keeps there."""

from distillkit.run_folder.folder import RunFolder

__all__ = ["RunFolder"]
