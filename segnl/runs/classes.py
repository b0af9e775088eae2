"""A class table as plain data and back, so that a checkpoint can name what it predicts without its data set."""

import numpy as np

from segnl.core import IGNORE
from segnl.core.config import JSONDict
from segnl.labels.table import ClassTable


def class_table_to_dict(table: ClassTable) -> JSONDict:
    """{"names", "palette", "file_ids", "void_id"}: all that predictions need, though not what labels hold."""
    void = np.full((1, 1), IGNORE, np.uint8)
    return {
        "names": list(table.names),
        "palette": table.palette.tolist(),
        "file_ids": list(table.file_ids),
        "void_id": int(table.to_file(void)[0, 0]),
    }


def class_table_from_dict(mapping: JSONDict) -> ClassTable:
    """The inverse of `classes_tree`, for predictions."""
    return ClassTable(
        mapping["names"],
        mapping["palette"],
        file_ids=mapping["file_ids"],
        ignore_ids=() if IGNORE in mapping["file_ids"] else (IGNORE,),
        void_id=mapping["void_id"],
        title="the checkpoint",
    )
