"""The version of the package and of the artifact format; imports nothing."""

__version__ = "0.1.0"

# Major: a reader of an older major must refuse. Minor: keys were added, readers of the same major cope.
FORMAT_VERSION = "1.0"
