"""Groups of a data set's images that resemble each other, such as the frames of one drive. Imports no torch."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segnl.core.archives import text_lines
from segnl.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from segnl.data.base import SegmentationData

LIST_SUFFIXES = (".tsv", ".txt", ".csv")


def image_groups(data: "SegmentationData", images: Mapping[str, Path] | None = None) -> list[str] | None:
    """Returns the group of each image, in the order of `data.sample_ids`; None where each image stands for itself.

    images: others than those of the split, paths by sample id.
    The data set's own pattern holds only where it matches all names: files in its layout may have other ones.
    Raises ConfigError for a pattern of the recipe that a sample's name does not match, DataError for a list that lacks
    a sample.
    """
    setting, sample_ids = data.cfg.group, data.sample_ids if images is None else [*images]
    if setting is None:
        is_matched = bool(data.group) and all(re.match(data.group or "", name) for name in sample_ids)
        setting = data.group if is_matched else "image"
    if setting == "folder" and "*" not in (data.cfg.image_folder or ""):
        paths = map(data.image_path, range(len(sample_ids))) if images is None else images.values()
        return [os.path.relpath(path.parent, data.root) for path in paths]
    return None if setting is None else named_groups(setting, sample_ids, lists=data.root)


def named_groups(setting: str, sample_ids: Sequence[str], *, lists: Path, key: str = "data.group") -> list[str] | None:
    """Returns the group of each sample by its id alone; None where each image stands for itself.

    setting: in the words of data.group. lists: the folder of a list. key: what the setting is called, for messages.

    Raises ConfigError for a pattern that a sample's name does not match, DataError for a list that lacks a sample.
    """
    if setting == "image":
        return None
    if setting == "folder":
        folders = [sample_id.rpartition("/")[0] for sample_id in sample_ids]
        if not any(folders):
            raise ConfigError(f"{key}: no name has a folder, such as '{sample_ids[0]}'; give a pattern or a list")
        return folders
    if setting.endswith(LIST_SUFFIXES):
        return _listed_groups(lists / setting, sample_ids)
    return [_matched_group(setting, sample_id, key) for sample_id in sample_ids]


def _matched_group(pattern: str, sample_id: str, key: str) -> str:
    try:
        match = re.match(pattern, sample_id)
    except (re.error, OverflowError, RecursionError) as err:
        raise ConfigError(f"{key}: '{pattern}' is no regular expression ({err})") from err
    if match is None:
        raise ConfigError(
            f"{key}: '{pattern}' does not match the sample '{sample_id}'; expected a regular expression that matches "
            "the start of every sample's name, such as '[^_]+' for the text before the first underscore, `folder`, "
            f"`image`, or a list such as groups.tsv{' (below data.root)' * (key == 'data.group')}"
        )
    group = match[1] if match.groups() else match[0]
    if not group:  # None: these parentheses take no part in the match
        lead = "the first parentheses of " * bool(match.groups())
        raise ConfigError(
            f"{key}: nothing of the sample '{sample_id}' matches {lead}'{pattern}'; give a pattern such as '[^_]+', "
            "or one pair of parentheses around all alternatives, such as '(cam1_[0-9]+|cam2_[0-9]+)'"
        )
    return group


def _listed_groups(file: Path, sample_ids: Sequence[str]) -> list[str]:
    groups: dict[str, str] = {}
    for number, line in enumerate(text_lines(file, "lines of a sample and its group"), start=1):
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
