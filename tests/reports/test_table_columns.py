import pytest

from segnl.reports.table_columns import OF_HEAD, SCORES


@pytest.mark.parametrize("column", [*SCORES.values(), *OF_HEAD.values()], ids=lambda column: column.title)
def test_every_column_is_explained_in_whole_sentences(column):
    assert column.meaning.endswith(".")
    assert len(column.meaning.split()) >= 10
