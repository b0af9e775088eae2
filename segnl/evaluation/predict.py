"""`segnl predict`: writes masks for any images and videos."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from segnl.core.archives import archive_of, is_file, is_folder
from segnl.core.arrays import Pixels
from segnl.core.background import Background
from segnl.core.errors import ConfigError, DataError, MachineError, NonFiniteError, as_segnl_error
from segnl.core.files import LEFTOVER_AGE_S, ensure_writable, remove_leftovers
from segnl.core.find_files import find_files, name_text
from segnl.core.log import log
from segnl.core.outputs import require_own
from segnl.core.progress import Progress
from segnl.data.layout import IMAGE_SUFFIXES
from segnl.evaluation.mask_folder import require_no_evaluation
from segnl.evaluation.masks import KINDS, WRITERS, mask_path, write_masks
from segnl.evaluation.predict_video import VIDEO_SUFFIXES, predict_video, require_no_stream, video_targets
from segnl.evaluation.predictor import Predictor

_SEPARATE = "predict them into separate folders"


def predict_files(predictor: Predictor, images: Sequence[Path], out: Path) -> int:
    """Writes ids, colour-coded masks and overlays of image files, video files and all images in folders.

    Returns the number of images and frames. The masks of an image in a sub-folder of a folder lie in such a sub-folder
    of `out`. Files that are no images are named in a warning.

    Raises DataError for a path without an image, ConfigError for two masks of one name, for a webcam or a
    stream, and where a file that `predict` did not write would be replaced; MachineError naming the image for which
    memory does not suffice.
    """
    for path in images:
        require_no_stream(path)
    ensure_writable(out)
    require_no_evaluation(out)
    all_files = _image_files(images)
    videos = {name: path for name, path in all_files.items() if path.suffix.lower() in VIDEO_SUFFIXES}
    files = {name: path for name, path in all_files.items() if name not in videos}
    kinds = KINDS[:-1]  # there are no labels, so no error maps
    targets = [mask_path(out / kind, image_id) for image_id in files for kind in kinds]
    for video_id, path in videos.items():
        targets += video_targets(out, video_id)
        for image_id in files:
            if PurePosixPath(image_id).parent == PurePosixPath(video_id):
                raise ConfigError(f"{path}: its masks would lie among those of {files[image_id]}; {_SEPARATE}")
    below = [*files, *(f"{video_id}/0" for video_id in videos)]
    folders = {str(folder) for name in below for folder in PurePosixPath(name).parents}
    for name, path in all_files.items():
        if (mask := f"{name}.{'mp4' if name in videos else 'png'}") in folders:
            raise ConfigError(f"{path}: its mask {mask} would have the name of a folder of masks; {_SEPARATE}")
    inputs = {path.resolve() for path in all_files.values()}
    for target in targets:
        require_own(target, "predict", option="--out")
        if target.resolve() in inputs:
            raise ConfigError(f"--out {out}: {target} would be replaced by its own prediction; give another folder")
    for folder in {target.parent for target in targets}:
        remove_leftovers(folder, min_age_s=LEFTOVER_AGE_S)
    with (
        Background(WRITERS, max_pending=2 * WRITERS) as writers,
        Progress("predict", len(files), unit="image") as progress,
    ):
        for image_id, path in files.items():
            image = predictor.read(path)
            labels = _predict(predictor, image, path)
            writers.submit(
                partial(write_masks, out, image_id, labels, predictor.class_table, image=image, command="predict")
            )
            progress.advance()
    return len(files) + sum(predict_video(predictor, path, out, name) for name, path in videos.items())


def _predict(predictor: Predictor, image: Pixels, path: Path) -> Pixels:
    try:
        labels: Pixels = predictor.predict(image)
    except NonFiniteError as err:
        raise NonFiniteError(f"{path}: {err}") from err
    except Exception as err:
        if not isinstance(error := as_segnl_error(err), MachineError):
            raise
        rows, columns = image.shape[:2]
        raise MachineError(f"{path}: {rows}x{columns} pixels: {error}; or cut the image into tiles") from err
    return labels


def _image_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Finds images by SUBFOLDER/NAME below the folders, and by NAME for single files."""
    found: list[tuple[str, Path]] = []
    for path in paths:
        if is_folder(path):
            found += _images_below(path)
        elif is_file(path):
            found.append((name_text(path.stem), path))
        else:
            reason = "is a pipe or a device; expected an image" if path.exists() else "no such file or folder"
            raise DataError(f"{path}: {reason}")
    by_id: dict[str, Path] = {}
    for image_id, path in found:
        earlier = by_id.setdefault(image_id, path)
        is_same = earlier == path or (archive_of(path) is None and earlier.samefile(path))
        if not is_same:  # a file that is named twice is one image
            raise ConfigError(f"{path}: its masks would overwrite those of {earlier}; {_SEPARATE}")
    return by_id


def _images_below(folder: Path) -> list[tuple[str, Path]]:
    """Finds the images of a folder; says which files are left out."""
    files = list(find_files(folder))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    if not images:
        raise DataError(f"{folder}: holds no images; expected *{', *'.join(IMAGE_SUFFIXES)}")
    if others:
        names = ", ".join(str(path.relative_to(folder)) for path in others[:3]) + (", ..." if len(others) > 3 else "")
        log.warning("%s: leaves out what is no image (files: %d): %s", folder, len(others), names)
    return [(name_text(str(path.relative_to(folder).with_suffix(""))), path) for path in images]
