"""Class tables as plain dicts and back, so that a checkpoint knows its classes without its data set."""

import numpy as np

from segnl.core import IGNORE
from segnl.core.config import JSONDict
from segnl.labels.table import ClassTable


def class_table_to_dict(table: ClassTable) -> JSONDict:
    """Returns {"names", "palette", "file_ids", "void_id"}: what predictions need, not the rules for reading labels."""
    void = np.full((1, 1), IGNORE, np.uint8)
    return {
        "names": list(table.names),
        "palette": table.palette.tolist(),
        "file_ids": list(table.file_ids),
        "void_id": int(table.to_file(void)[0, 0]),
    }


def class_table_from_dict(mapping: JSONDict) -> ClassTable:
    """Returns the table that `class_table_to_dict` was given, as far as predictions need it."""
    return ClassTable(
        mapping["names"],
        mapping["palette"],
        file_ids=mapping["file_ids"],
        ignore_ids=() if IGNORE in mapping["file_ids"] else (IGNORE,),
        void_id=mapping["void_id"],
        title="the checkpoint",
    )
