import numpy as np
import pytest

from segnl.core.errors import DataError
from segnl.labels.cityscapes import CATEGORIES, LABELS, SCORED, TABLE


def official_labels():
    return pytest.importorskip("cityscapesscripts.helpers.labels").labels


def test_labels_are_those_of_cityscapesscripts():
    # The scripts give the licence plate train id -1, we give it 255 like every other void.
    ours = [tuple(label) for label in LABELS]
    theirs = [
        (o.name, o.id, o.trainId % 256, o.category, o.categoryId, o.hasInstances, o.ignoreInEval, tuple(o.color))
        for o in official_labels()
    ]
    assert ours == theirs


def test_the_table_maps_every_id_as_cityscapesscripts_does():
    labels = [label for label in official_labels() if label.id >= 0]
    raw = np.array([[label.id for label in labels]], np.uint8)
    assert TABLE.to_train(raw, "").tolist() == [[label.trainId for label in labels]]
    scored = {label.trainId: label for label in labels if label.trainId != 255}
    assert TABLE.names == tuple(scored[i].name for i in range(19))
    assert TABLE.palette.tolist() == [list(scored[i].color) for i in range(19)]


def test_a_server_gets_label_ids_7_to_33():
    train = np.arange(19, dtype=np.uint8)[None]
    ids = TABLE.to_mask(train)[0].tolist()
    assert ids == [label.id for label in SCORED]
    assert (min(ids), max(ids)) == (7, 33)
    assert TABLE.to_mask(np.array([[255]], np.uint8)).tolist() == [[0]]


def test_seven_categories_and_eight_things():
    assert CATEGORIES == ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
    assert [label.train_id for label in SCORED if label.has_instances] == list(range(11, 19))


def test_train_ids_in_a_label_ids_file_are_recognised_by_their_255():
    with pytest.raises(
        DataError, match=r"holds 255, but cityscapes has ids 7..8, .* \(and 0..6, .*, ignored\); expected labelIds"
    ):
        TABLE.to_train(np.array([[0, 18, 255]], np.uint8), "label")
