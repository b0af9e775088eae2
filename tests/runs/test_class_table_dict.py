import json

import numpy as np

from segnl.labels.table import ClassTable
from segnl.runs.checkpoint import class_table_from_dict, class_table_to_dict


def test_a_table_survives_json_as_far_as_predictions_need_it():
    table = ClassTable(["a", "b"], [[1, 2, 3], [4, 5, 6]], file_ids=[7, 255], ignore_ids=[0], void_id=0)
    again = class_table_from_dict(json.loads(json.dumps(class_table_to_dict(table))))
    predicted = np.array([[0, 1, 255]], np.uint8)
    assert again.names == table.names
    assert np.array_equal(again.to_mask(predicted), table.to_mask(predicted))
    assert np.array_equal(again.colour(predicted), table.colour(predicted))
