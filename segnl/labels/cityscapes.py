"""Cityscapes: its 34 label ids and the licence plate, the 19 scored classes, their categories.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from typing import NamedTuple

from segnl.core import IGNORE
from segnl.labels.table import ClassTable


class Label(NamedTuple):
    """A line of the benchmark's label definition; `train_id` is 255 for an id that is not scored."""

    name: str
    id: int
    train_id: int
    category: str
    category_id: int
    has_instances: bool
    ignore_in_eval: bool
    colour: tuple[int, int, int]


LABELS = (
    Label("unlabeled", 0, IGNORE, "void", 0, False, True, (0, 0, 0)),
    Label("ego vehicle", 1, IGNORE, "void", 0, False, True, (0, 0, 0)),
    Label("rectification border", 2, IGNORE, "void", 0, False, True, (0, 0, 0)),
    Label("out of roi", 3, IGNORE, "void", 0, False, True, (0, 0, 0)),
    Label("static", 4, IGNORE, "void", 0, False, True, (0, 0, 0)),
    Label("dynamic", 5, IGNORE, "void", 0, False, True, (111, 74, 0)),
    Label("ground", 6, IGNORE, "void", 0, False, True, (81, 0, 81)),
    Label("road", 7, 0, "flat", 1, False, False, (128, 64, 128)),
    Label("sidewalk", 8, 1, "flat", 1, False, False, (244, 35, 232)),
    Label("parking", 9, IGNORE, "flat", 1, False, True, (250, 170, 160)),
    Label("rail track", 10, IGNORE, "flat", 1, False, True, (230, 150, 140)),
    Label("building", 11, 2, "construction", 2, False, False, (70, 70, 70)),
    Label("wall", 12, 3, "construction", 2, False, False, (102, 102, 156)),
    Label("fence", 13, 4, "construction", 2, False, False, (190, 153, 153)),
    Label("guard rail", 14, IGNORE, "construction", 2, False, True, (180, 165, 180)),
    Label("bridge", 15, IGNORE, "construction", 2, False, True, (150, 100, 100)),
    Label("tunnel", 16, IGNORE, "construction", 2, False, True, (150, 120, 90)),
    Label("pole", 17, 5, "object", 3, False, False, (153, 153, 153)),
    Label("polegroup", 18, IGNORE, "object", 3, False, True, (153, 153, 153)),
    Label("traffic light", 19, 6, "object", 3, False, False, (250, 170, 30)),
    Label("traffic sign", 20, 7, "object", 3, False, False, (220, 220, 0)),
    Label("vegetation", 21, 8, "nature", 4, False, False, (107, 142, 35)),
    Label("terrain", 22, 9, "nature", 4, False, False, (152, 251, 152)),
    Label("sky", 23, 10, "sky", 5, False, False, (70, 130, 180)),
    Label("person", 24, 11, "human", 6, True, False, (220, 20, 60)),
    Label("rider", 25, 12, "human", 6, True, False, (255, 0, 0)),
    Label("car", 26, 13, "vehicle", 7, True, False, (0, 0, 142)),
    Label("truck", 27, 14, "vehicle", 7, True, False, (0, 0, 70)),
    Label("bus", 28, 15, "vehicle", 7, True, False, (0, 60, 100)),
    Label("caravan", 29, IGNORE, "vehicle", 7, True, True, (0, 0, 90)),
    Label("trailer", 30, IGNORE, "vehicle", 7, True, True, (0, 0, 110)),
    Label("train", 31, 16, "vehicle", 7, True, False, (0, 80, 100)),
    Label("motorcycle", 32, 17, "vehicle", 7, True, False, (0, 0, 230)),
    Label("bicycle", 33, 18, "vehicle", 7, True, False, (119, 11, 32)),
    Label("license plate", -1, IGNORE, "vehicle", 7, False, True, (0, 0, 142)),
)
"""By id. The licence plate (-1) comes last and does not occur in label files."""

SCORED = tuple(sorted((label for label in LABELS if label.train_id != IGNORE), key=lambda label: label.train_id))
"""The 19 classes by train id."""

CATEGORIES = tuple(dict.fromkeys(label.category for label in SCORED))
"""The seven scored categories, in the benchmark's order."""

THING_TRAIN_IDS = tuple(label.train_id for label in SCORED if label.has_instances)
"""The eight classes whose instances are annotated one by one."""

TABLE = ClassTable(
    [label.name for label in SCORED],
    [label.colour for label in SCORED],
    file_ids=[label.id for label in SCORED],
    ignore_ids=[label.id for label in LABELS if label.train_id == IGNORE and label.id >= 0],
    void_id=0,
    title="cityscapes",
    # An unknown id such as 255 means that somebody wrote train ids into a file named labelIds.
    unknown_hint="expected labelIds as downloaded, not train ids",
)
