"""Hugging Face data sets in parquet files: a column of images and one of masks, copied to files. Imports no torch.

Read by pyarrow and datasets (the extra `huggingface`). Images and masks are copied as they are stored, so their pixels
do not change.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from segnl.core.archives import archive_of, bytes_of
from segnl.core.errors import DataError, MachineError
from segnl.core.files import inside, write_atomic
from segnl.core.progress import Progress
from segnl.data.annotations.base import split_in, split_of
from segnl.data.annotations.labels import FOLDER, is_current, record_of, write_record
from segnl.data.reading import DECODER_ERRORS, DECODERS, FileError

IMAGES = "segnl_images"
MASK_WORDS = re.compile(r"mask|label|annotation|seg|(^|_)gt|truth|semantic|target|trimap", re.IGNORECASE)
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "WEBP": ".webp", "GIF": ".gif"}
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Copies:
    """What was copied. class_names: by id, where the features name them. notes: what was decided."""

    class_names: dict[int, str]
    notes: list[str]


@dataclass(frozen=True)
class _Columns:
    image: str
    mask: str


def unpack(root: Path, files: Sequence[Path]) -> Copies | None:
    """Copies the images and masks of parquet files to segnl_images and segnl_labels in `root`; None without such files.

    Rows without a mask are left out. Copies that are there are kept, so that a killed run can be continued.
    Raises DataError for files without one column of each kind, and for damaged ones; ConfigError where the copies are
    of other files; MachineError without the extra.
    """
    tables = [path for path in files if path.suffix.lower() == ".parquet"]
    if not tables:
        return None
    if archive_of(root) is not None:
        raise DataError(f"{tables[0]}: parquet files are not read in an archive; unpack it")
    opened = [_open(path) for path in tables]
    columns, class_names = _columns(tables[0], opened[0])
    record = record_of(root, root, tables, kind="Hugging Face", rule=f"{columns.image}, {columns.mask}")
    is_current(root, record)
    write_record(root, record)
    splits = [split_in(path.stem) or split_of(root, path) for path in tables]
    if any(splits):
        splits = [split or "train" for split in splits]
    without_mask = num_rows = 0
    with Progress("rows", sum(table.metadata.num_rows for table in opened), unit="row") as progress:
        for split in dict.fromkeys(splits):
            own = [(path, table) for path, table, other in zip(tables, opened, splits, strict=True) if other == split]
            names = _names(own, columns)
            existing = {path.with_suffix("") for path in (root / IMAGES / (split or "")).glob("*")}
            for name, row in zip(names, _rows(own, columns), strict=True):
                progress.advance()
                num_rows += 1
                without_mask += row.mask is None
                image = inside(root / IMAGES / (split or ""), name)
                if row.mask is None or image in existing:
                    continue
                label = root / FOLDER / (split or "") / name
                write_atomic(Path(f"{label}{row.suffix(row.mask)}"), row.mask, is_synced=False)
                write_atomic(Path(f"{image}{row.suffix(row.image)}"), row.image, is_synced=False)  # the label is there
    notes = [
        f"Hugging Face data set: {num_rows} rows, images in column {columns.image}, masks in {columns.mask}; copied to "
        f"{IMAGES} and {FOLDER}"
    ]
    if without_mask:
        notes.append(f"left out: {without_mask} rows without a mask")
    return Copies(class_names, notes)


def _open(path: Path) -> Any:
    """Opens a parquet file. Raises MachineError without pyarrow, FileError for a damaged file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as err:
        raise _missing() from err
    try:
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False)
    except (OSError, pyarrow.ArrowException) as err:
        reason = str(err).splitlines()[0]
        raise FileError(path, "damaged", f"cannot be read as parquet ({reason}); download it again") from err


def _missing() -> MachineError:
    return MachineError(
        "parquet files: pyarrow and datasets are not installed; pip install 'segnl[huggingface]', or in a checkout "
        "./run.sh extra huggingface"
    )


def _columns(path: Path, table: Any) -> tuple[_Columns, dict[int, str]]:
    """Returns the columns of images and of masks, and the names of classes in the features."""
    try:
        from datasets import ClassLabel, Features
        from datasets import Image as ImageFeature
    except ImportError as err:
        raise _missing() from err
    features = Features.from_arrow_schema(table.schema_arrow)
    pictures = [
        name
        for name, feature in features.items()
        if isinstance(feature, ImageFeature) or (isinstance(feature, dict) and {"bytes", "path"} <= feature.keys())
    ]
    masks = [name for name in pictures if MASK_WORDS.search(name)]
    images = [name for name in pictures if name not in masks]
    if len(masks) != 1 or len(images) != 1:
        found = ", ".join(pictures) or f"none among {', '.join(features)}"
        raise FileError(
            path,
            "format",
            f"columns of pictures: {found}; expected two, such as image and label (rename_column, remove_columns of "
            "datasets)",
        )
    # A column of single class labels says what the image shows; a list says which classes its mask has.
    lists = [getattr(feature, "feature", None) for feature in features.values()]
    named = [feature.names for feature in lists if isinstance(feature, ClassLabel) and feature.names]
    return _Columns(images[0], masks[0]), dict(enumerate(named[0])) if len(named) == 1 else {}


def _names(tables: Sequence[tuple[Path, Any]], columns: _Columns) -> list[str]:
    """Returns a sample id for each row: the stem of its image's path where each has another, or the row's number."""
    stems = []
    for path, table in tables:
        for batch in _batches(path, table, [f"{columns.image}.path"]):
            stems += [PurePosixPath((row or {}).get("path") or "").stem for row in batch[columns.image]]
    counts = Counter(stem.lower() for stem in stems)
    if all(stem and stem[0] != "." and counts[stem.lower()] == 1 for stem in stems):
        return stems
    return [f"{i:08d}" for i in range(len(stems))]


@dataclass(frozen=True)
class _Row:
    """An image and its mask as stored. where: file and row, for messages."""

    image: bytes
    mask: bytes | None
    path: Path
    where: str

    def suffix(self, content: bytes) -> str:
        """Returns the suffix of an encoded image. Raises FileError for one of unknown format."""
        Image.init()
        try:
            with Image.open(io.BytesIO(content), formats=[name for name in DECODERS if name in Image.OPEN]) as image:
                suffix = SUFFIXES.get(image.format or "")
        except DECODER_ERRORS as err:
            raise FileError(self.path, "damaged", f"{self.where}: cannot be read as an image") from err
        if suffix is None or (content is self.mask and suffix in (".jpg", ".webp")):
            detail = f"{self.where}: a mask in {image.format} format, which may change the ids; store it as PNG"
            raise FileError(self.path, "format", detail)
        return suffix


def _rows(tables: Sequence[tuple[Path, Any]], columns: _Columns) -> Iterator[_Row]:
    for path, table in tables:
        number = 0
        for batch in _batches(path, table, [columns.image, columns.mask]):
            for image, mask in zip(batch[columns.image], batch[columns.mask], strict=True):
                where = f"row {number}"
                content = _bytes(path, where, columns.image, image)
                if content is None:
                    raise FileError(path, "missing", f"{where}: {columns.image} is empty; remove the row")
                yield _Row(content, _bytes(path, where, columns.mask, mask), path, where)
                number += 1


def _batches(path: Path, table: Any, columns: list[str]) -> Iterator[dict[str, list[Any]]]:
    import pyarrow

    try:
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
            yield batch.to_pydict()
    except (OSError, pyarrow.ArrowException) as err:
        reason = str(err).splitlines()[0]
        raise FileError(path, "damaged", f"cannot be read as parquet ({reason}); download it again") from err


def _bytes(path: Path, where: str, column: str, value: Any) -> bytes | None:
    """Returns an encoded image, which a row holds or names; None for an empty one."""
    if value is None or (value.get("bytes") is None and not value.get("path")):
        return None
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    file = path.parent / value["path"]
    if not file.is_file() or not file.resolve().is_relative_to(path.parent.resolve()):
        detail = f"{where}: {column} is the file {value['path']}, which is not beside; embed the images in the file"
        raise FileError(path, "missing", detail)
    return bytes_of(file)
