import pytest

from segnl.cli.arguments import one_set_each


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["--set", "a=1", "b.c=2", "FILE"], ["--set", "a=1", "--set", "b.c=2", "FILE"]),
        (["--set=a=1", "b=2"], ["--set=a=1", "--set", "b=2"]),
        (["FILE", "a=1"], ["FILE", "a=1"]),
        (["--set", "a=1", "dir/a=1"], ["--set", "a=1", "dir/a=1"]),
    ],
)
def test_one_set_takes_several_keys_and_no_file(words, read):
    assert one_set_each(words) == read
