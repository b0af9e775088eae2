import numpy as np
import pytest

from segnl.core.errors import DataError
from segnl.labels.ade20k import TABLE


def test_names_ids_and_colours_are_those_of_the_tsv(shared):
    lines = (shared / "data/ADEChallengeData2016/classes.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    assert TABLE.names == tuple(row[1] for row in rows)
    assert TABLE.file_ids == tuple(int(row[0]) for row in rows)
    assert TABLE.palette.tolist() == [[int(part) for part in row[2:]] for row in rows]


def test_file_ids_are_train_ids_plus_one_and_0_is_ignored():
    raw = np.arange(151, dtype=np.uint8)[None]
    train = TABLE.to_train(raw, "")
    assert train[0].tolist() == [255, *range(150)]
    assert TABLE.to_file(train).tolist() == raw.tolist()


def test_151_is_refused_naming_pixel_value_and_known_ids():
    with pytest.raises(DataError, match=r"pixel \(row 0, column 1\) holds 151, but ade20k has ids 0\.\.150"):
        TABLE.to_train(np.array([[150, 151]], np.uint8), "label ADE_val_00000007")
