"""Groups of a data set's images that resemble each other, such as the frames of one drive (data.group)."""

import re
from pathlib import Path

from segnl.core.errors import ConfigError, DataError
from segnl.data.base import SegmentationData

LIST_SUFFIXES = (".tsv", ".txt", ".csv")


def image_groups(data: SegmentationData) -> list[str] | None:
    """Returns the group of each image, in the order of `data.sample_ids`; None where each image stands for itself.

    Raises ConfigError for a pattern that a sample's name does not match, DataError for a list that lacks a sample.
    """
    setting = data.cfg.group if data.cfg.group is not None else data.group
    if setting is None or setting == "image":
        return None
    if setting == "folder":
        return [data.image_path(i).parent.name for i in range(len(data.sample_ids))]
    if setting.endswith(LIST_SUFFIXES):
        return _listed_groups(data.root / setting, data.sample_ids)
    return [_matched_group(setting, sample_id) for sample_id in data.sample_ids]


def _matched_group(pattern: str, sample_id: str) -> str:
    match = re.match(pattern, sample_id)
    if match is None:
        raise ConfigError(
            f"data.group: '{pattern}' does not match the sample '{sample_id}'; expected a regular expression that "
            "matches the start of every sample's name, `folder`, `image`, or a list below data.root such as groups.tsv"
        )
    return match[1] if match.groups() else match[0]


def _listed_groups(file: Path, sample_ids: list[str]) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{file}: cannot be read ({reason}); expected lines of a sample and its group") from err
    groups: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        sample_id, *rest = re.split(r"[\t,; ]+", line.strip(), maxsplit=1)
        group = "".join(rest)
        if not group or groups.setdefault(sample_id, group) != group:
            raise DataError(f"{file}: line {number} is '{line}'; expected a sample and its group, each sample once")
    for sample_id in sample_ids:
        if sample_id not in groups:
            raise DataError(f"{file}: no line for the sample '{sample_id}'; expected one for each of the split")
    return [groups[sample_id] for sample_id in sample_ids]
