"""A class table as plain data and back, so that a checkpoint can name what it predicts without its data set."""

import numpy as np

from segnl.core.config import Tree
from segnl.labels.table import IGNORE, ClassTable


def classes_tree(table: ClassTable) -> Tree:
    """{"names", "palette", "file_ids", "void_id"}: all that predictions need, though not what labels hold."""
    void = np.full((1, 1), IGNORE, np.uint8)
    return {
        "names": list(table.names),
        "palette": table.palette.tolist(),
        "file_ids": list(table.file_ids),
        "void_id": int(table.to_file(void)[0, 0]),
    }


def table_from(tree: Tree) -> ClassTable:
    """The inverse of `classes_tree`, for predictions."""
    return ClassTable(
        tree["names"],
        tree["palette"],
        file_ids=tree["file_ids"],
        ignore_ids=() if IGNORE in tree["file_ids"] else (IGNORE,),
        void_id=tree["void_id"],
        title="the checkpoint",
    )
