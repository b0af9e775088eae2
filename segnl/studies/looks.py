"""Record of the times at which a study was judged: adding seeds until a difference appears finds too many."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segnl.core.files import read_json, write_atomic
from segnl.metrics.statistics.comparison import Comparison
from segnl.studies.study import Study

FILE = "looks.json"
MAX_RECORDED = 1000


def unplanned_looks(study: Study, pairs: Sequence[Comparison]) -> int:
    """Records this look in STUDY/looks.json and returns the number of earlier ones that no stop rule planned.

    A look is a verdict with p values. The same seeds again are the same look, and heads that are new are no reason to
    count one. The looks of a stop rule count where the rule has been changed since.
    """
    file = study.folder / FILE
    looks = _read(file)
    own = {"seeds": {head: list(study.seeds_of(head)) for head in study.heads}, "plan": list(study.cfg.looks) or None}
    earlier = [look for look in looks if _differs(look, own)]
    if own not in looks and any(pair.p is not None for pair in pairs):
        write_atomic(file, json.dumps([*looks, own][-MAX_RECORDED:], indent=1).encode())
    return len(earlier)


def _differs(look: dict[str, Any], own: dict[str, Any]) -> bool:
    is_planned = own["plan"] is not None and look["plan"] == own["plan"]
    common = look["seeds"].keys() & own["seeds"].keys()
    return not is_planned and any(look["seeds"][head] != own["seeds"][head] for head in common)


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        looks = read_json(file)
        return [look for look in looks if isinstance(look["seeds"], dict) and "plan" in look]
    except (OSError, ValueError, TypeError, KeyError):
        return []
