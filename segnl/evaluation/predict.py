"""`segnl predict`: writes masks for any images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from segnl.core.background import Background
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import ensure_writable
from segnl.core.progress import Progress
from segnl.data.layout import IMAGE_SUFFIXES
from segnl.data.reading import read_image
from segnl.evaluation.mask_folder import require_no_evaluation
from segnl.evaluation.masks import WRITERS, write_masks
from segnl.evaluation.predictor import Predictor


def predict_files(predictor: Predictor, images: Sequence[Path], out: Path) -> int:
    """Writes ids, colour masks and overlays of image files and of all images in folders; returns the number of images.

    Raises DataError for a path without an image, ConfigError for two images with the same name.
    """
    ensure_writable(out)
    require_no_evaluation(out)
    files = _image_files(images)
    with (
        Background(WRITERS, max_pending=2 * WRITERS) as writers,
        Progress("predict", len(files), unit="image") as progress,
    ):
        for path in files:
            image = read_image(path)
            labels = predictor.predict(image)
            writers.submit(partial(write_masks, out, path.stem, labels, predictor.class_table, image=image))
            progress.advance()
    return len(files)


def _image_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            images = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
            if not images:
                kinds = ", *".join(IMAGE_SUFFIXES)
                raise DataError(f"{path}: holds no images (*{kinds}); subfolders are not searched")
            files += images
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    by_id: dict[str, Path] = {}
    for path in files:
        if path.stem in by_id:
            raise ConfigError(
                f"{path}: its masks would overwrite those of {by_id[path.stem]}; predict them into separate folders"
            )
        by_id[path.stem] = path
    return files
