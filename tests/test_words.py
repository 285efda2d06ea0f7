import pytest

from distillkit.words import counted, did_you_mean, meant, signed


def test_counted():
    assert [counted(number, "image") for number in (0, 1, 2, 1000)] == [
        "0 images",
        "1 image",
        "2 images",
        "1,000 images",
    ]


def test_signed__nothing_has_no_minus():
    assert [signed(number) for number in (-0.04, 0.04, -0.06, 12.25)] == ["+0.0", "+0.0", "-0.1", "+12.2"]


@pytest.mark.parametrize(("name", "found"), [("asst", "ast"), ("RAT", "rat"), ("zebra", "")])
def test_meant(name, found):
    assert meant(name, ["rat", "ast", "mtt"]) == found


def test_did_you_mean__nothing_alike():
    assert did_you_mean("zebra", ["rat"]) == ""
