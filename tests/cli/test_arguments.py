import pytest

from segnl.cli.arguments import pixel_of, repeat_options
from segnl.core.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["--set", "a=1", "b.c=2", "FILE"], ["--set", "a=1", "--set", "b.c=2", "FILE"]),
        (["--set=a=1", "b=2"], ["--set=a=1", "--set", "b=2"]),
        (["FILE", "a=1"], ["FILE", "a=1"]),
        (["--set", "a=1", "dir/a=1"], ["--set", "a=1", "dir/a=1"]),
        (["--ignore", "11", "12", "FILE"], ["--ignore", "11", "--ignore", "12", "FILE"]),
        (["--ignore=11", "12", "13x"], ["--ignore=11", "--ignore", "12", "13x"]),
    ],
)
def test_several_values_may_follow_one_option_but_no_file(words, read):
    assert repeat_options(words) == read


def test_a_pixel_is_a_row_and_a_column():
    assert pixel_of("64,120") == (64, 120)


@pytest.mark.parametrize("text", ["64", "64x120", "-1,3", "1.5,2", "1,2,3", ","])
def test_any_other_text_for_a_pixel_is_refused(text):
    with pytest.raises(ConfigError, match="expected ROW,COLUMN"):
        pixel_of(text)
