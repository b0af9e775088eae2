import numpy as np
import pytest

from segnl.core import IGNORE
from segnl.core.errors import ConfigError, DataError
from segnl.labels.table import ClassTable

TSV = "index\tname\tr\tg\tb\n"


def three_classes(**settings):
    names = settings.pop("names", ["a", "b", "c"])
    return ClassTable(names, [[1, 2, 3], [4, 5, 6], [7, 8, 9]], **settings)


def test_to_train_agrees_with_a_loop_over_pixels():
    table = three_classes(file_ids=[7, 0, 200], ignore_ids=[3, 255], title="toy")
    raw = np.random.default_rng(0).choice(np.array([7, 0, 200, 3, 255], np.uint8), size=(7, 11))
    meaning = {7: 0, 0: 1, 200: 2, 3: IGNORE, 255: IGNORE}
    expected = [[meaning[int(raw[y, x])] for x in range(11)] for y in range(7)]
    for dtype in (np.uint8, np.uint16, np.int32):
        train = table.to_train(raw.astype(dtype), "label")
        assert train.dtype == np.uint8
        assert train.tolist() == expected


@pytest.mark.parametrize("value", [-1, 4, 19, 200, 254, 256, 65535])
def test_an_unknown_id_names_file_pixel_value_and_the_known_ids(value):
    raw = np.zeros((7, 11), np.int32)
    raw[4, 9] = raw[6, 0] = value  # the first in reading order is named
    table = three_classes(file_ids=[0, 1, 2], ignore_ids=[7, 255], title="toy")
    message = (
        rf"^x/label\.png: pixel \(row 4, column 9\) holds {value}, but toy has ids 0\.\.2 \(and 7, 255, ignored\); "
    )
    with pytest.raises(DataError, match=message):
        table.to_train(raw, "x/label.png")


def test_to_mask_undoes_to_train_and_gives_ignored_pixels_their_own_id():
    table = three_classes(file_ids=[1, 2, 3], ignore_ids=[0], void_id=0)
    train = np.array([[0, 1, 2, 255]], np.uint8)
    assert table.to_mask(train).tolist() == [[1, 2, 3, 0]]
    assert table.to_train(table.to_mask(train), "").tolist() == train.tolist()


def test_colour_paints_classes_and_leaves_ignored_pixels_black():
    painted = three_classes().colour(np.array([[2, 255], [0, 1]], np.uint8))
    assert painted.tolist() == [[[7, 8, 9], [0, 0, 0]], [[1, 2, 3], [4, 5, 6]]]


def test_a_train_id_beyond_the_classes_is_refused():
    for convert in (three_classes().to_mask, three_classes().colour):
        with pytest.raises(ValueError, match="train id 3"):
            convert(np.array([[3]], np.uint8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"file_ids": [0, 1]}, "counts must agree"),
        ({"file_ids": [0, 1, 1]}, "occurs twice"),
        ({"file_ids": [0, 1, 300]}, "8-bit"),
        ({"ignore_ids": [2]}, "ignored at once"),
        *(
            ({"names": ["a", "b", name]}, "expected a name of 1 to 200 characters")
            for name in ("c\nd", "c" * 201, "\ud800")
        ),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        three_classes(**settings)


def test_a_tsv_may_begin_at_any_index_and_have_gaps(tmp_path):
    path = tmp_path / "classes.tsv"
    path.write_bytes(("\ufeff" + TSV + "5\tsky, upper\t1\t2\t3\n9\troad\t4\t5\t6\n\n").replace("\n", "\r\n").encode())
    table = ClassTable.from_tsv(path, ignore_ids=[0])
    assert table.names == ("sky, upper", "road")
    assert table.palette.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert table.to_train(np.array([[5, 9, 0, 255]], np.uint8), "").tolist() == [[0, 1, 255, 255]]
    assert table.to_mask(np.array([[0, 1, 255]], np.uint8)).tolist() == [[5, 9, 255]]
    with pytest.raises(DataError, match=rf"{tmp_path.name} has ids 5, 9 \(and 0, 255, ignored\); .*data.ignore_ids"):
        table.to_train(np.array([[1]], np.uint8), "label")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 must be"),
        ("index,name,r,g,b\n", "line 1 must be"),
        (TSV, "names 0 classes"),
        (TSV + "0\tsky\t1\t2\n", "line 2"),
        (TSV + "0\tsky\t1\t2\tx\n", "line 2"),
        (TSV + f"{'9' * 5000}\tsky\t1\t2\t3\n", "line 2"),
        (TSV + f"0\tsky\t1\t2\t{'9' * 5000}\n", "line 2"),
        (TSV + "0\tsky\t1\t2\t256\n", "line 2"),
        (TSV + "256\tsky\t1\t2\t3\n", "line 2"),
        (TSV + "0\tsky\t1\t2\t3\n00\troad\t1\t2\t3\n", "line 3 repeats"),
        (TSV + "0\tsky\t1\t2\t3\n1\tsky\t1\t2\t3\n", "line 3 repeats"),
    ],
)
def test_a_damaged_tsv_names_file_and_line(tmp_path, text, message):
    path = tmp_path / "classes.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        ClassTable.from_tsv(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_tsv_and_an_ignore_id_that_is_a_class_are_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        ClassTable.from_tsv(tmp_path / "classes.tsv")
    (tmp_path / "classes.tsv").write_text(TSV + "0\tsky\t1\t2\t3\n1\troad\t1\t2\t3\n")
    with pytest.raises(ConfigError, match=r"data\.ignore_ids: 0 is the class 'sky'"):
        ClassTable.from_tsv(tmp_path / "classes.tsv", ignore_ids=[0])
    with pytest.raises(ConfigError, match=r"data\.ignore_ids: holds \[-1\]"):
        ClassTable.from_tsv(tmp_path / "classes.tsv", ignore_ids=[-1])
