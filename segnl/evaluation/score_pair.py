"""Reading of a scored image: its label and its prediction as train ids. Imports no torch."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Ids, Pixels
from segnl.core.errors import DataError
from segnl.data.mask_files import Mask, listed
from segnl.data.reading import palette_colours
from segnl.evaluation.score_classes import (
    IDS_IN_WORDS,
    NO_CLASS,
    THRESHOLD_HINT,
    UNKNOWN,
    PredictionIds,
    class_ids,
    colour_table,
    prediction_lut,
)
from segnl.evaluation.score_request import ScoreRequest
from segnl.labels.cityscapes import TABLE as CITYSCAPES
from segnl.labels.table import ClassTable, ids_text


class Pair(NamedTuple):
    """An image's prediction and label, train ids u8 `H W`. raw: the prediction as it is in its file, u8 `H W`."""

    prediction: Pixels
    label: Pixels
    raw: Pixels
    was_resized: bool


@dataclass(frozen=True)
class PairReader:
    """Reads images as a request says."""

    request: ScoreRequest
    table: ClassTable

    @cached_property
    def _colours(self) -> ClassTable:
        return colour_table(self.request.classes, self.table)

    def read(self, label_mask: Mask, prediction_mask: Mask) -> Pair:
        """Reads one image. Raises DataError naming the file."""
        label_ids = label_mask.read()
        if prediction_mask.shape is not None:  # a small file may hold an array that fills the memory
            self._require_resizable(prediction_mask.shape(), label_ids.shape[:2], prediction_mask.where)
        raw = prediction_mask.read()
        self._require_resizable(raw.shape[:2], label_ids.shape[:2], prediction_mask.where)
        label_where, where = (
            mask.where + " (category_id)" * (path.suffix == ".json")
            for mask, path in ((label_mask, self.request.labels), (prediction_mask, self.request.predictions))
        )
        if label_ids.ndim == 3:
            label = self._of_colours(label_ids, label_where, self.request.labels)
        else:
            label_ids = self._with_foreground(label_ids, self.table.file_ids, label_where)
            label = self.table.to_train(label_ids, label_where)
        own_ids = class_ids(self.table, self.request.prediction_ids)
        if raw.ndim == 3:
            prediction = self._of_colours(raw, where, self.request.predictions)
            ids = np.array([*own_ids, *[IGNORE] * (256 - self.table.num_classes)], np.uint8).take(prediction)
        else:
            raw = self._with_foreground(raw, own_ids, where)
            ids = self._checked_u8(raw, where)
            prediction = prediction_lut(self.table, self.request.prediction_ids).take(ids)
        was_resized = prediction.shape != label.shape
        if was_resized:
            rows, columns = (
                ((np.arange(length) + 0.5) * own / length).astype(int)
                for length, own in zip(label.shape, prediction.shape, strict=True)
            )
            prediction, ids = prediction[rows[:, None], columns], ids[rows[:, None], columns]
        return Pair(prediction, label, ids, was_resized)

    def _with_foreground(self, ids: Ids, own_ids: tuple[int, ...], where: str) -> Ids:
        """Returns ids with the foreground's as the second class's. Raises DataError for a mask that holds both."""
        foreground = self.request.foreground_id
        if foreground is None or foreground == own_ids[1]:
            return ids
        is_foreground = ids == foreground
        if is_foreground.any() and (ids == own_ids[1]).any():
            values = np.unique(ids).tolist()
            if len(values) > 4:  # two classes, the foreground's id and an ignored one
                raise DataError(
                    f"{where}: holds {len(values)} values ({listed([*map(str, values)], limit=4)}); {THRESHOLD_HINT}"
                )
            raise DataError(
                f"{where}: holds {foreground} and {own_ids[1]}, which --foreground {foreground} would make one class, "
                f"'{self.table.names[1]}'; list the background first in the table; if {foreground} is unlabelled here, "
                f"leave out --foreground and save {own_ids[1]} instead of {foreground} where it is a class"
            )
        return np.where(is_foreground, own_ids[1], ids)

    def _of_colours(self, rgb: Ids, where: str, folder: Path) -> Pixels:
        try:
            return self._colours.to_train(rgb, where)
        except DataError as err:
            if (rgb == rgb[..., :1]).all():
                raise DataError(f"{where}: three equal channels; if they hold class ids, save one channel") from err
            if (panoptic := folder.with_name(f"{folder.name}.json")).is_file():
                raise DataError(f"{where}: holds colours; if they are COCO panoptic's, give {panoptic}") from err
            if where not in str(err):
                raise DataError(f"{where}: holds colours; {err}") from err
            swapped = np.unique(rgb @ np.array([1, 2**8, 2**16]))  # 0xRRGGBB if the mask is BGR
            if {*swapped.tolist()} <= self._colours.label_values.keys():
                title = self.table.title
                raise DataError(f"{where}: colours of {title} in the order BGR (OpenCV's); save RGB") from err
            raise

    def _checked_u8(self, raw: Ids, where: str) -> Pixels:
        """Returns predicted ids as u8. Raises DataError for the first one without a meaning."""
        table, prediction_ids = self.table, self.request.prediction_ids
        lut = prediction_lut(table, prediction_ids)
        ids = np.ascontiguousarray(raw, np.uint8)
        is_unknown = (ids != raw) | (lut.take(ids) == UNKNOWN)
        if not is_unknown.any():
            return ids
        row, column = (int(index) for index in np.argwhere(is_unknown)[0])
        own_ignored = {IGNORE, *(self.request.ignore_ids if prediction_ids == "train" else table.ignore_ids)}
        value, known = int(raw[row, column]), {*np.flatnonzero(lut < table.num_classes).tolist()}
        kind = "train ids" if prediction_ids == "train" else "ids"
        hints = self._hints(value, {*np.unique(raw).tolist()} - {IGNORE}, known, where)
        raise DataError(
            f"{where}: pixel (row {row}, column {column}) holds {value}, but the {kind} of {table.title} are "
            f"{ids_text(known, [*own_ignored & {*np.flatnonzero(lut == NO_CLASS).tolist()}])}; "
            f"{', or '.join(hints)}"
        )

    def _hints(self, value: int, predicted: set[int], known: set[int], where: str) -> list[str]:
        """Returns what may help against a predicted id without a meaning. known: the ids of classes."""
        table, prediction_ids = self.table, self.request.prediction_ids
        other: PredictionIds = "train" if prediction_ids == "file" else "file"
        label_ids = {*CITYSCAPES.file_ids, *CITYSCAPES.ignore_ids}
        if self.request.classes == "cityscapes-train" and predicted <= label_ids and max(predicted) > len(known):
            return [
                "the predictions look like labelIds: save train ids, or use --classes cityscapes with labelIds labels"
            ]
        hints = []
        if predicted <= {*np.flatnonzero(prediction_lut(table, other) != UNKNOWN).tolist()}:
            hints = [f"read the predictions as {IDS_IN_WORDS[other]} with --prediction-ids {other}"]
        elif {own - 1 for own in predicted} <= known:
            hints = ["subtract 1 from the predicted ids, which seem to be shifted by one"]
        if table.num_classes == 2 and not hints:
            hints = [THRESHOLD_HINT]
        elif not hints and len(predicted) > 2 and np.gcd.reduce([*predicted]) > 4:
            hints = ["save class ids: these look stretched for display"]
        elif not hints and palette_colours(Path(where)):
            hints = ["of a palette file the indices are read: save class ids, or the table's colours as RGB"]
        elif not hints and 0 <= value <= IGNORE and value not in table.file_ids:
            hints.append(f"count {value} as no class with --ignore {value}")
        return hints or ["correct the predictions or the class table"]

    def _require_resizable(self, hw: tuple[int, ...], label_hw: tuple[int, ...], where: str) -> None:
        """Raises DataError for a mask of another aspect ratio than its label, up to a pixel, and without --resize."""
        if hw == label_hw or len(hw) != 2:  # reading refuses the latter
            return
        (height, width), (own_height, own_width) = label_hw, hw
        lead = f"{where}: {own_width}x{own_height} pixels (width x height), but its label has {width}x{height}"
        advice = "save predictions at the label's size (resize the class scores, then take the argmax)"
        if 0 in hw or abs(own_height * width - own_width * height) > max(*hw, *label_hw):
            raise DataError(f"{lead}, another aspect ratio: cropped, padded, transposed or stretched; {advice}")
        if not self.request.resize:
            raise DataError(f"{lead}; {advice}, or resize these masks with --resize")
