"""A few cases of every kind of file that is read back; ``fuzz.py`` makes more of them by hand."""

import pytest

from tests import fuzz
from tests.fuzz_kinds import ALL

CASES = 60


@pytest.mark.parametrize("name", ALL)
def test_files_that_are_read_back(name):
    with fuzz.folder() as root:
        counts, bad = fuzz.cases(name, root, 1, range(CASES))
    assert bad is None
    assert counts.total() == CASES
