"""`segnl predict clip.mp4`: masks of every frame, and the video with the classes' colours over it.

PyAV reads and writes videos; it is imported only here. Frames are read, predicted and written one at a time.

DIR/{ids,colour}/VIDEO/000000.png, 000001.png ...; DIR/overlay/VIDEO.mp4: H.264, without sound, each frame at its time.
"""

import errno
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from segnl.core.archives import open_file
from segnl.core.arrays import Pixels
from segnl.core.background import Background
from segnl.core.errors import ConfigError, DataError, MachineError, first_line
from segnl.core.files import inside, not_a_link, write_atomic
from segnl.core.limits import num_cores
from segnl.core.log import log
from segnl.core.outputs import mark, marked
from segnl.core.png import png
from segnl.core.progress import Progress
from segnl.evaluation.masks import WRITERS, mask_path, overlay
from segnl.evaluation.predictor import Predictor

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp")
MAX_THREADS = 16


def require_no_stream(path: Path) -> None:
    """Raises ConfigError for the number of a webcam and for a URL."""
    text = str(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ConfigError(f"{text}: is the address of a stream; save it as a file first, and give that")
    if text.isdecimal() and not path.exists():
        raise ConfigError(f"{text}: is the number of a webcam, which is not read; record a file first, and give that")


def video_targets(out: Path, video_id: str) -> list[Path]:
    """Returns the files below `out` that a video's masks may replace or, as frames of a longer one, remove.

    Raises ConfigError for a video without a name, such as `..mp4`.
    """
    folders = [inside(not_a_link(out / kind), video_id) for kind in ("ids", "colour")]
    frames = [path for folder in folders for path in folder.glob("[0-9]*.png") if path.stem.isdecimal()]
    return [_overlaid(out, video_id), *frames]


def _overlaid(out: Path, video_id: str) -> Path:
    return inside(not_a_link(out / "overlay"), f"{video_id}.mp4")


def predict_video(predictor: Predictor, path: Path, out: Path, video_id: str) -> int:
    """Writes the masks of a video's frames and the overlaid video below `out`; returns the number of frames.

    A rotation that the file asks players for is applied. The overlaid video's sides are even: the last row or column of
    an odd one is repeated.

    Raises ConfigError without PyAV and for a network that reads more than one RGB frame, DataError for a file that
    cannot be decoded or holds no frames, MachineError when a file cannot be written.
    """
    av = _import_av()
    if predictor.image_format.num_bands != 3:
        bands = predictor.image_format.num_bands
        raise ConfigError(f"{path}: frames are RGB, but the network reads {bands} bands (model.input.channels)")
    if predictor.model.num_frames > 1:
        raise ConfigError(
            f"{path}: this network sees {predictor.model.num_frames} frames at once (data.frames), which are read from "
            "images; write the video's frames as images of a folder, and predict that"
        )
    video = _overlaid(out, video_id)
    num_frames, table = 0, predictor.class_table
    with (
        open_file(path) as file,
        _opened(av, file, path, predictor.image_format.max_pixels) as stream,
        _VideoWriter(av, video, stream) as writer,
        Background(WRITERS, max_pending=2 * WRITERS) as background,
        Progress(f"predict {path.name}", _expected_frames(stream), unit="frame") as progress,
    ):
        for image, pts in _frames(av, stream, path):
            labels = predictor.predict(image)
            for kind, picture in (("ids", table.to_mask(labels)), ("colour", table.colour(labels))):
                frame_path = mask_path(out / kind, f"{video_id}/{num_frames:06d}")
                background.submit(partial(_write_png, frame_path, picture))
            writer.write(overlay(image, labels, table), pts)
            num_frames += 1
            progress.total = max(progress.total, num_frames)
            progress.advance()
        if num_frames == 0:
            raise DataError(f"{path}: holds no frames; export it again")
        if num_frames < stream.frames:
            log.warning("%s: says that it has %d frames, but ends after %d", path, stream.frames, num_frames)
    for target in video_targets(out, video_id)[1:]:
        if int(target.stem) >= num_frames:  # of a longer video that had this name
            target.unlink()
    return num_frames


def _write_png(path: Path, picture: Pixels) -> None:
    write_atomic(path, marked(png(picture), "predict"), is_synced=False)


def _import_av() -> ModuleType:
    try:
        import av
    except ImportError as err:
        raise ConfigError(
            "predict: videos need PyAV; pip install 'segnl[video]', or in a checkout ./run.sh extra video"
        ) from err
    return av


@contextmanager
def _opened(av: ModuleType, file: BinaryIO, path: Path, max_pixels: int) -> Iterator[Any]:
    """Opens the video stream of a file, whose content, such as a playlist, reaches no other file and no network."""
    try:
        container = av.open(file, metadata_errors="ignore", options={"protocol_whitelist": ""})
    except (av.FFmpegError, ValueError, OSError) as err:  # OSError: a broken file sends its reader to a place before it
        empty = "the file is empty" if path.stat().st_size == 0 else f"cannot be read as a video ({first_line(err)})"
        raise DataError(f"{path}: {empty}; export it again") from err
    with container:
        stream = next((stream for stream in container.streams.video), None)
        if stream is None:
            raise DataError(f"{path}: holds no video stream; give a file with pictures")
        if stream.codec_context is None:
            raise DataError(f"{path}: holds a video of a codec that PyAV cannot decode; convert it to H.264")
        if stream.width * stream.height > max_pixels:
            hw = f"{stream.height}x{stream.width}"
            raise DataError(f"{path}: has frames of {hw} pixels; at most {max_pixels:,} are decoded (data.max_pixels)")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = min(num_cores(), MAX_THREADS)
        yield stream


def _frames(av: ModuleType, stream: Any, path: Path) -> Iterator[tuple[Pixels, int]]:
    """Yields upright frames, RGB u8 `H W 3`, each with its time in units of the stream's time base."""
    last, count, hw = -1, 0, None
    usual = max(1, round(1 / (_rate(stream) * stream.time_base)))
    try:
        for frame in stream.container.decode(stream):
            pts = last + usual if frame.pts is None else frame.pts
            last = max(pts, last + 1)  # a player could not show two frames at one time
            hw = hw or (frame.height, frame.width)
            if (frame.height, frame.width) != hw:
                sizes = f"{frame.height}x{frame.width} pixels after {hw[0]}x{hw[1]}"
                raise DataError(f"{path}: has a frame of {sizes}; export it with frames of one size")
            image = frame.to_ndarray(format="rgb24")
            yield np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))), last
            count += 1
    except (av.FFmpegError, OSError) as err:
        raise DataError(f"{path}: cannot be decoded after frame {count} ({first_line(err)}); export it again") from err


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _expected_frames(stream: Any) -> int:
    """Returns the number of frames that the file announces, or that its duration gives; 1 where neither is known."""
    if stream.frames:
        return int(stream.frames)
    return max(1, round((stream.duration or 0) * stream.time_base * _rate(stream)))


class _VideoWriter:
    """H.264 file of frames with times, there only once it is complete."""

    def __init__(self, av: ModuleType, path: Path, source: Any) -> None:
        self.av, self.path, self.source = av, path, source
        self.partial = path.with_name(f".{path.name[:40]}.segnl-{secrets.token_hex(4)}")
        self.container: Any = None
        self.hw = (0, 0)

    def write(self, image: Pixels, pts: int) -> None:
        """Adds a frame RGB u8 `H W 3`, of the size of those before."""
        with self._errors():
            if self.container is None:
                self._open(image)
            odd_rows, odd_columns = (side % 2 for side in self.hw)
            even = np.pad(image, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
            frame = self.av.VideoFrame.from_ndarray(even, format="rgb24")
            frame.pts, frame.time_base = pts, self.source.time_base
            self.container.mux(self.stream.encode(frame))

    def _open(self, image: Pixels) -> None:
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self.hw = image.shape[:2]
        self.container = self.av.open(str(self.partial), "w", format="mp4")
        self.container.metadata["comment"] = mark("predict")
        self.stream = self.container.add_stream("libx264", rate=_rate(self.source))
        self.stream.height, self.stream.width = (side + side % 2 for side in self.hw)
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = self.source.time_base
        self.stream.codec_context.thread_count = min(num_cores(), MAX_THREADS)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self.av.FFmpegError, OSError) as err:
            remedy = "export the video again" if err.errno == errno.EINVAL else "free some space"  # times of no mp4
            raise MachineError(f"{self.path}: cannot be written ({first_line(err)}); {remedy}") from err

    def __enter__(self) -> "_VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.container is None:
            return
        try:
            with self._errors():
                if kind is None:
                    self.container.mux(self.stream.encode())
                self.container.close()
                if kind is None:
                    self.partial.replace(self.path)
        finally:
            with suppress(OSError):
                self.partial.unlink()
