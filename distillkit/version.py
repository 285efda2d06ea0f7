"""The version of the package and of the artifact format; imports nothing."""

__version__ = "0.1.0"

# Major: a reader of an older major must refuse. Minor: keys were added, readers of the same major cope.
FORMAT_VERSION = "3.0"
RUN_FORMAT = "1.0"
"""Of run folders, which say what they hold and are gone on with."""
FIRST_FORMAT = "1.0"
"""What an artifact without anything new is written as, so that older readers take it."""
SECOND_FORMAT = "2.0"
"""What one is written as that needs nothing of 3.0, which brought the preprocessing ``unit-dct``; 2.0 brought
``unit-zca``, recipes with Adam, labels that are weights, and learned sets without experts, which older readers take for
real images."""
