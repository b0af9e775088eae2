"""Hugging Face data sets in parquet files: a column of images and one of masks, copied to files. Imports no torch.

Read by pyarrow and datasets (the extra `huggingface`). Images and masks are copied as they are stored, so their pixels
do not change.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from segnl.core.archives import FREE_BYTES, MAX_RATIO, archive_of, bytes_of
from segnl.core.errors import ConfigError, DataError, SegnlError, first_line
from segnl.core.extras import import_extra
from segnl.core.files import LEFTOVER_AGE_S, inside, not_a_link, open_regular, remove_leftovers, write_atomic
from segnl.core.find_files import name_text
from segnl.core.progress import Progress
from segnl.data.annotations.base import split_in, split_of
from segnl.data.annotations.labels import FOLDER, is_current, record_of, write_record
from segnl.data.file_error import FileError
from segnl.data.reading import DECODER_ERRORS, DECODERS

IMAGES = "segnl_images"
MASK_WORDS = re.compile(r"mask|label|annotation|seg|(^|_)gt|truth|semantic|target|trimap", re.IGNORECASE)
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "WEBP": ".webp", "GIF": ".gif"}
MAX_NAME = 80
"""Letters, of up to three bytes, of a name that becomes a sample id."""


def unpack(root: Path, files: Sequence[Path]) -> tuple[dict[int, str], list[str]] | None:
    """Copies the images and masks of parquet files to segnl_images and segnl_labels in `root`; None without such files.

    Returns the classes' names by id, where the features name them, and notes of what was decided.
    Rows without a mask are left out. Copies that are there are kept, so that a killed run can be continued.
    Raises DataError for files without one column of each kind, for several folders of one split, and for damaged ones;
    ConfigError where the folders of the copies hold other files or are links; MachineError without the extra.
    """
    tables = [path for path in files if path.suffix.lower() == ".parquet"]
    if not tables:
        return None
    if archive_of(root) is not None:
        raise DataError(f"{tables[0]}: parquet files are not read in an archive; unpack it")
    opened = [_open(path) for path in tables]
    columns, class_names = _columns(tables[0], opened[0])
    for path, table in zip(tables, opened, strict=True):
        if not {*columns} <= {*table.schema_arrow.names}:
            expected = f"expected {' and '.join(columns)} as in {tables[0].name}; move it aside"
            raise FileError(path, "format", f"columns {', '.join(table.schema_arrow.names)}; {expected}")
    record = record_of(root, root, tables, kind="Hugging Face", rule=", ".join(columns))
    images, labels = (not_a_link(root / name) for name in (IMAGES, FOLDER))
    if not is_current(root, record) and any(images.glob("*")):
        raise ConfigError(f"{images}: holds other files than images that segnl copied; move it aside")
    write_record(root, record)
    remove_leftovers(images, min_age_s=LEFTOVER_AGE_S, recursive=True)
    splits = [split_in(path.stem) or split_of(root, path) for path in tables]
    if any(splits):
        splits = [split or "train" for split in splits]
    for split in dict.fromkeys(splits):
        parents = {path.parent for path, own in zip(tables, splits, strict=True) if own == split}
        folders = sorted(str(folder.relative_to(root)) for folder in parents)
        if len(folders) > 1:
            raise DataError(
                f"{root}: its folders {', '.join(folders[:6])} all hold {split or 'parquet'} files, perhaps of the "
                "same rows; give one of these folders, or move the others aside"
            )
    without_mask, num_rows = 0, sum(table.metadata.num_rows for table in opened)
    with Progress("rows", num_rows, unit="row") as progress:
        for split in dict.fromkeys(splits):
            own = [(path, table) for path, table, other in zip(tables, opened, splits, strict=True) if other == split]
            names = _names(own, columns[0])
            existing = {path.with_suffix("") for path in (images / (split or "")).glob("*")}
            for name, (path, row, image, mask) in zip(names, _rows(own, columns), strict=True):
                progress.advance()
                without_mask += mask is None
                target, label = (inside(folder, f"{split or '.'}/{name}") for folder in (images, labels))
                if mask is None or target in existing:
                    continue
                write_atomic(Path(f"{label}{_suffix(path, row, mask, is_mask=True)}"), mask, is_synced=False)
                write_atomic(Path(f"{target}{_suffix(path, row, image)}"), image, is_synced=False)  # the label is there
    if without_mask == num_rows:
        raise FileError(tables[0], "empty", f"no row has a mask in column {columns[1]}; expected some")
    notes = [
        f"Hugging Face data set: {num_rows} rows, images in column {columns[0]}, masks in {columns[1]}; copied to "
        f"{IMAGES} and {FOLDER}"
    ]
    if without_mask:
        notes.append(f"left out: {without_mask} rows without a mask")
    return class_names, notes


def _import(module: str) -> Any:
    return import_extra(module, "huggingface", "parquet files: pyarrow and datasets are not installed")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises FileError for whatever pyarrow and datasets raise for damaged bytes, odd values and unknown features."""
    try:
        yield
    except SegnlError:
        raise
    except DECODER_ERRORS as err:
        advice = "download it again, or write it with another version of datasets"
        raise FileError(path, "damaged", f"cannot be read as parquet ({first_line(err)}); {advice}") from err


def _open(path: Path) -> Any:
    parquet = _import("pyarrow.parquet")
    with _reading(path):
        table = parquet.ParquetFile(open_regular(path), pre_buffer=False)
        if table.metadata.num_rows > path.stat().st_size:
            raise FileError(path, "damaged", f"says that it has {table.metadata.num_rows:,} rows, more than bytes")
        return table


def _columns(path: Path, table: Any) -> tuple[tuple[str, str], dict[int, str]]:
    """Returns the columns of images and of masks, and the names of classes in the features."""
    datasets = _import("datasets")
    with _reading(path):
        features = datasets.Features.from_arrow_schema(table.schema_arrow)
    pictures = [
        name
        for name, feature in features.items()
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and {"bytes", "path"} <= feature.keys())
    ]
    masks = [name for name in pictures if MASK_WORDS.search(name)]
    images = [name for name in pictures if name not in masks]
    if len(masks) != 1 or len(images) != 1:
        found = ", ".join(pictures) or f"none among {', '.join(features)}"
        expected = "expected two, such as image and label (rename_column, remove_columns of datasets)"
        raise FileError(path, "format", f"columns of pictures: {found}; {expected}")
    # A column of single class labels says what the image shows; a list says which classes its mask has.
    lists = [getattr(feature, "feature", None) for feature in features.values()]
    named = [feature.names for feature in lists if isinstance(feature, datasets.ClassLabel) and feature.names]
    return (images[0], masks[0]), dict(enumerate(map(str, named[0]))) if len(named) == 1 else {}


def _names(tables: Sequence[tuple[Path, Any]], column: str) -> list[str]:
    """Returns a sample id for each row: the stem of its image's path where each has another, or the row's number."""
    stems = []
    for path, table in tables:
        for batch in _batches(path, table, [f"{column}.path"]):
            with _reading(path):
                stems += [PurePosixPath((row or {}).get("path") or "").stem for row in batch[column]]
    counts = Counter(name_text(stem).lower() for stem in stems)
    are_plain = all(stem[:1] not in ("", ".") and stem.isprintable() and len(stem) <= MAX_NAME for stem in stems)
    if are_plain and counts.most_common(1)[0][1] == 1:
        return stems
    return [f"{i:08d}" for i in range(len(stems))]


def _suffix(path: Path, row: str, content: bytes, *, is_mask: bool = False) -> str:
    """Returns the suffix of an encoded image. Raises FileError for one of unknown format, and for a lossy mask."""
    Image.init()
    try:
        with Image.open(io.BytesIO(content), formats=[name for name in DECODERS if name in Image.OPEN]) as image:
            suffix = SUFFIXES.get(image.format or "")
    except DECODER_ERRORS as err:
        raise FileError(path, "damaged", f"{row}: cannot be read as an image") from err
    if suffix is None or (is_mask and suffix in (".jpg", ".webp")):
        what = "a mask" if is_mask else "an image"
        raise FileError(path, "format", f"{row}: {what} in {image.format} format; store it as PNG")
    return suffix


def _rows(
    tables: Sequence[tuple[Path, Any]], columns: tuple[str, str]
) -> Iterator[tuple[Path, str, bytes, bytes | None]]:
    """Yields the file and the number of each row, for messages, and its image and mask as they are stored."""
    for path, table in tables:
        number = num_bytes = 0
        most = max(FREE_BYTES, MAX_RATIO * path.stat().st_size)  # as of an archive
        for batch in _batches(path, table, [*columns]):
            for values in zip(*(batch[column] for column in columns), strict=True):
                row = f"row {number}"
                num_bytes += sum(len(own["bytes"]) for own in values if own and isinstance(own.get("bytes"), bytes))
                if num_bytes > most:
                    raise FileError(path, "damaged", f"{row}: unpacks to more than {most:,} bytes, as a bomb does")
                image, mask = (_bytes(path, row, column, own) for column, own in zip(columns, values, strict=True))
                if image is None:
                    raise FileError(path, "missing", f"{row}: {columns[0]} is empty; remove the row")
                yield path, row, image, mask
                number += 1


def _batches(path: Path, table: Any, columns: list[str]) -> Iterator[dict[str, list[Any]]]:
    with _reading(path):
        for batch in table.iter_batches(batch_size=1, columns=columns):  # rows may be alike, stored once, and large
            yield batch.to_pydict()


def _bytes(path: Path, row: str, column: str, value: Any) -> bytes | None:
    """Returns an encoded image, which a row holds or names; None for an empty one."""
    content, name = (value or {}).get("bytes"), (value or {}).get("path")
    if content is None and not name:
        return None
    if not isinstance(content, bytes | None) or not isinstance(name, str | None):
        raise FileError(path, "format", f"{row}: {column} is no encoded image; write the column as datasets does")
    if content is not None:
        return content
    file = path.parent / str(name)
    try:
        is_beside = file.is_file() and file.resolve().is_relative_to(path.parent.resolve())
    except OSError:  # a name that is too long
        is_beside = False
    if not is_beside:
        detail = f"{row}: {column} is the file {name!s:.200}, which is not beside; embed the images in the file"
        raise FileError(path, "missing", detail)
    return bytes_of(file)
