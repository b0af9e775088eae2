import pytest

from segnl.cli.arguments import repeat_set


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["--set", "a=1", "b.c=2", "FILE"], ["--set", "a=1", "--set", "b.c=2", "FILE"]),
        (["--set=a=1", "b=2"], ["--set=a=1", "--set", "b=2"]),
        (["FILE", "a=1"], ["FILE", "a=1"]),
        (["--set", "a=1", "dir/a=1"], ["--set", "a=1", "dir/a=1"]),
    ],
)
def test_several_keys_may_follow_one_set_but_no_file(words, read):
    assert repeat_set(words) == read
