"""ADE20K, scene-parsing benchmark: its 150 classes, named with their synonyms, and their official colours.

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

from pathlib import Path

from segnl.labels.table import ClassTable, read_tsv

_ROWS = read_tsv(Path(__file__).with_suffix(".tsv"))  # ids 1..150; 0 is "other objects"

TABLE = ClassTable(
    [row.name for row in _ROWS],
    [row.colour for row in _ROWS],
    file_ids=[row.file_id for row in _ROWS],
    ignore_ids=[0],
    void_id=0,
    title="ade20k",
    unknown_hint="expected SceneParse150's annotations (ADEChallengeData2016), 8-bit",
)
