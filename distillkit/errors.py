"""Every error that distillkit raises on purpose.

    DistillkitError                 1  failed
    ├── ConfigError (ValueError)    2  a setting, option or argument is not acceptable
    ├── DataError (ValueError)      1  the data set's content cannot be used
    ├── AuthError (PermissionError) 3  the Hub refuses
    ├── NotFoundError (LookupError) 4  no such data set, file, repository, or not a distillkit artifact
    │   └── ArtifactError           4  a folder is no artifact, or a damaged one
    ├── NetworkError (ConnectionError) 5  offline or unreachable
    ├── StorageError (OSError)      1  a file could not be written or read
    ├── TrajectoryError             1  an expert trajectory cannot be matched
    ├── DivergenceError             1  distillation or a training produces no finite step any more
    ├── LostError                   1  another process of the run failed, or is gone
    └── Interrupted                 130  stopped by a signal, after a checkpoint

The number is the command's exit status. Each message is one sentence or two: what was expected, what came, what to do.
It names arguments and settings in backticks, as Python has them (`` `replace=True` ``, `` `dataset.image_size` ``); the
command line shows its own flags in their place (``distillkit.cli.flags``).
"""

from __future__ import annotations


class DistillkitError(Exception):
    """Base of all errors of the library; ``exit_status`` is what the command line returns for it."""

    exit_status = 1


class ConfigError(DistillkitError, ValueError):
    """A setting, an option or an argument is not acceptable."""

    exit_status = 2


class DataError(DistillkitError, ValueError):
    """The content of a data set cannot be used."""


class AuthError(DistillkitError, PermissionError):
    """The Hub refuses the credentials, or there are none."""

    exit_status = 3


class NotFoundError(DistillkitError, LookupError):
    """A data set, file or repository does not exist."""

    exit_status = 4


class ArtifactError(NotFoundError):
    """A folder or repository is not a distillkit artifact, or a damaged one."""


class NetworkError(DistillkitError, ConnectionError):
    """The network is needed and cannot be reached."""

    exit_status = 5


class StorageError(DistillkitError, OSError):
    """A file could not be written or read."""


class DamagedError(StorageError):
    """A file was read, and what it holds is not what it should."""


class TrajectoryError(DistillkitError):
    """An expert trajectory cannot be matched."""


class DivergenceError(DistillkitError):
    """Distillation, or a training, produces no finite step any more."""


class LostError(DistillkitError):
    """Another process of the same run failed, or is gone."""


class FewImagesWarning(UserWarning):
    """A network is trained on fewer images than its layers need."""


class PrivateSourceWarning(UserWarning):
    """What was made of private data is being published for all to see."""


class Interrupted(DistillkitError):  # noqa: N818 (it is no failure)
    """The run was stopped by a signal; a checkpoint was written."""

    exit_status = 130
