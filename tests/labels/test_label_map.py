import numpy as np
import pytest

from segnl.core.errors import ConfigError, DataError
from segnl.labels.cityscapes import TABLE as CITYSCAPES
from segnl.labels.label_map import mapped_table
from segnl.labels.table import ClassTable, distinct_colour

OWN = ClassTable(["sky", "road", "tree"], [[1, 1, 1], [2, 2, 2], [3, 3, 3]], file_ids=[0, 4, 9], ignore_ids=[7, 255])


def test_many_ids_of_one_class_and_ids_to_ignore_agree_with_a_loop_over_pixels():
    table = mapped_table({"ground": (4, 9, 300), "above": ("sky", 20), "ignore": (5,)}, OWN)
    meaning = {4: 0, 9: 0, 300: 0, 0: 1, 20: 1, 5: 255, 7: 255, 255: 255}
    raw = np.random.default_rng(0).choice(np.array([*meaning], np.uint16), size=(7, 11))
    expected = [[meaning[int(raw[y, x])] for x in range(11)] for y in range(7)]
    assert table.to_train(raw, "").tolist() == expected
    assert table.names == ("ground", "above")
    assert table.max_id == 300
    with pytest.raises(
        DataError, match=r"holds 6, but data\.label_map has ids 0, 4, 9, 20, 300 \(and 5, 7, 255, ignored\); add it"
    ):
        table.to_train(np.array([[6]], np.uint8), "label")


def test_masks_hold_the_first_id_of_a_class_and_are_read_back():
    table = mapped_table({"ground": (9, 4), "above": ("sky",)}, OWN)
    train = np.array([[0, 1, 255]], np.uint8)
    assert table.to_mask(train).tolist() == [[9, 0, 255]]
    assert table.from_mask(table.to_mask(train), "").tolist() == train.tolist()
    assert table.palette.tolist() == [[3, 3, 3], [1, 1, 1]]
    with pytest.raises(DataError, match=r"mask\.png: pixel \(row 0, column 0\) holds 4, but masks .* hold 0, 9, 255"):
        table.from_mask(np.array([[4]], np.uint8), "mask.png")


def test_colours_of_label_files_are_classes():
    table = mapped_table({"no": ("#000000",), "pet": ("#ff0080", (0, 0, 1)), "ignore": ((255, 255, 255),)}, None)
    raw = np.array([[[0, 0, 0], [255, 0, 128], [0, 0, 1], [255, 255, 255]]], np.uint8)
    assert table.to_train(raw, "").tolist() == [[0, 1, 1, 255]]
    assert table.palette.tolist() == [[0, 0, 0], [255, 0, 128]]
    assert table.to_mask(np.array([[0, 1, 255]], np.uint8)).tolist() == [[0, 1, 255]]
    raw[0, 2] = 9
    with pytest.raises(DataError, match=r"\(row 0, column 2\) holds the colour #090909 \(9, 9, 9\), but"):
        table.to_train(raw, "label")


def test_the_rest_may_be_ignored():
    table = mapped_table({"road": ("road",), "sky": (0,), "ignore": "rest"}, OWN)
    assert table.to_train(np.array([[0, 4, 9, 7, 33]], np.uint8), "").tolist() == [[1, 0, 255, 255, 255]]
    colours = mapped_table({"a": ("#000000",), "b": ("#000001",), "ignore": "rest"}, None)
    assert colours.to_train(np.array([[[0, 0, 1], [3, 3, 3]]], np.uint8), "").tolist() == [[1, 255]]


def test_255_is_a_class_where_the_map_names_it_and_ignored_elsewhere():
    mask = np.array([[0, 255]], np.uint8)
    table = mapped_table({"background": (0,), "road": (255,)}, None)
    assert table.to_train(mask, "").tolist() == [[0, 1]]
    assert table.to_mask(np.array([[0, 1, 255]], np.uint8)).tolist() == [[0, 255, 254]]
    assert mapped_table({"background": (0,), "road": (1,)}, None).to_train(mask, "").tolist() == [[0, 255]]


def test_cityscapes_classes_are_named_and_its_other_ids_stay_ignored():
    table = mapped_table({"flat": ("road", "sidewalk", 9), "ignore": "rest", "car": ("car",)}, CITYSCAPES)
    raw = np.array([[7, 8, 9, 26, 0, 33]], np.uint8)
    assert table.to_train(raw, "").tolist() == [[0, 0, 0, 1, 255, 255]]
    assert table.palette.tolist() == [[128, 64, 128], [0, 0, 142]]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"a": (0, 4, 9)}, "has 1 classes; .* name the background"),
        ({"a": (0,), "b": (4,)}, r"data\.label_map: leaves out 'tree' of the class table; .*`ignore: rest`"),
        ({"a": (0,), "b": (4, 0)}, r"label_map\.b: holds id 0, which data\.label_map\.a holds too"),
        ({"a": ("skye",), "b": (4,)}, "did you mean 'sky'"),
        ({"a": (0, "#000000"), "b": (4,)}, "a mixture of ids and colours"),
        ({"a": ("#00000",), "b": ("#000000",)}, 'expected a colour such as "#ff00aa"'),
        ({"a": "rest", "b": (4,)}, "only ignore may be 'rest'"),
        ({"a": (), "b": (4,)}, r"label_map\.a: is empty"),
        (
            {"a": (3,), " a": (4,)},
            r"label_map: ' a': expected a name of 1 to 200 characters in one line, ",
        ),
        ({"a": (3,), "b\nc": (4,)}, r"label_map: 'b\\nc': expected a name of 1 to 200 characters in one line"),
        ({"a": (3,), "b" * 201: (4,)}, "expected a name of 1 to 200 characters"),
        ({"a": (3,), "": (4,)}, r"label_map: '': expected a name of 1 to 200 characters in one line, "),
        ({str(i): (i,) for i in range(254)}, "has 254 classes; expected at most 253"),
    ],
)
def test_a_map_that_contradicts_itself_or_leaves_a_class_out_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        mapped_table(setting, OWN)


def test_colours_of_classes_without_one_all_differ():
    assert len({distinct_colour(i) for i in range(256)}) == 256
    assert distinct_colour(1) == (128, 0, 0)
