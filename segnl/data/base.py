"""Base of every data set: its settings, its pairs of image and label files, reading a pair."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from segnl.core import IGNORE
from segnl.core.archives import is_folder
from segnl.core.arrays import Ids, Pixels
from segnl.core.config import Config, JSONDict, SidePx, SmallCount
from segnl.core.errors import ConfigError, DataError
from segnl.core.find_files import find_files
from segnl.data.file_error import MAX_PIXELS, FileError
from segnl.data.frames import neighbours_of, read_frames
from segnl.data.groups import image_groups
from segnl.data.layout import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    Files,
    FoldConfig,
    files_by_id,
    read_sample_list,
    split_folder,
)
from segnl.data.reading import ImageFormat, exif_orientation, read_colours, read_image, read_label
from segnl.data.sample import Sample
from segnl.labels.label_map import LabelMapSetting, mapped_table
from segnl.labels.table import ClassTable

Scale = tuple[Annotated[float, Field(ge=0.01, le=16)], Annotated[float, Field(ge=0.01, le=16)]]
StoredValue = Annotated[float, Field(ge=-1e9, le=1e9)]


def _transform_entry(entry: Any) -> JSONDict:
    from segnl.data.transforms import transform_entry  # imports albumentations, which takes two seconds

    return transform_entry(entry)


class DataConfig(Config):
    """Settings of a data set and of its training crops."""

    name: str
    root: Path
    image_folder: str | None = None
    """Folder of the images below root, such as frames/{split}; null: the data set's own. {split} stands for the name
    of the split's folder, * for each folder's: of */images, cam1/images/a.jpg is the sample cam1/a."""
    label_folder: str | None = None
    """Folder of the labels, as image_folder."""
    image_suffix: str | None = None
    """End of the images' names after what they share with their labels, such as _image.jpg; null: the data set's."""
    label_suffix: str | None = None
    """End of the labels' names, such as _mask or _gt.png."""
    recursive: bool = True
    """Whether sub-folders are read. A sample is named SUBFOLDER/NAME, and its label lies in the same sub-folder."""
    splits: dict[str, str] = Field(default_factory=dict)
    """Names of the splits' folders where they have others: {train: training, val: valid}."""
    samples: str | None = None
    """File below root that lists the samples of a split, one a line, such as lists/{split}.txt; null: all that are
    there."""
    fold: FoldConfig | None = None
    """Cross-validation, such as {count: 5, number: 0}: both train and val are taken from the samples of train."""
    label_map: LabelMapSetting | None = None
    """Classes to train on, each with a list of ids, colours or classes of the label files (labels/label_map.py)."""
    value_range: tuple[StoredValue, StoredValue] | None = None
    """Stored values of images that become 0 and 255, those between in proportion: [0, 4095] for 12 bits. Only images of
    more than 8 bits a channel are scaled; null refuses these."""
    max_pixels: Annotated[int, Field(ge=1, le=2**33)] = MAX_PIXELS
    """Pixels of the largest image that is decoded; raise it for files that you trust."""
    group: str | None = None
    """Images that resemble each other, such as the frames of a drive: a comparison counts each group as one image
    (data/groups.py). `folder`: those of a folder; `image`: each image alone; a regular expression: the start of the
    name, or what its parentheses hold, such as [^_]+; a list below root, such as groups.tsv; null: the data set's."""
    frames: Annotated[int, Field(ge=1, le=31)] = 1
    """Frames of a clip that the network sees at once, an odd number: the labelled one in the middle, and its neighbours
    in its group or, without data.group, its folder (docs/video.md). Images without a label are neighbours only."""
    crop_hw: tuple[SidePx, SidePx]
    """Rows and columns of a training crop. Where a smaller image does not fill it, the label is ignored."""
    scale: Scale = (0.5, 2.0)
    """Range of the random factor, uniform, by which an image is resized before it is cropped."""
    short_side_px: SidePx | None = None
    """Length of the shorter side at factor 1 (ADE20K: 512); null: the image's own."""
    crop_max_class: Annotated[float, Field(gt=0, le=1)] | None = None
    """Fraction of a crop that one class may cover; other crops are drawn again, up to ten times."""
    flip: bool = True
    distort: bool = True
    """Random brightness, contrast, saturation and hue."""
    augment: tuple[Annotated[dict[str, Any], BeforeValidator(_transform_entry)], ...] | None = None
    """Transforms by name with their arguments, such as [ScaledCrop, {Rotate: {limit: 10}}], in place of random scale,
    crop, flip and colour; null: these."""
    views: SmallCount | None = None
    """Number of fixed crops of each image, the same for every seed, from which the steps take theirs (docs/arena.md);
    null: a new crop in every epoch."""
    workers: Annotated[int, Field(ge=0, le=1_000_000)] = 2
    """Loader processes; their number is bounded by the machine (core/limits.py)."""
    worker_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    cache: Literal["none", "ram", "disk"] = "none"
    """Where decoded samples are stored, so that a training decodes each image once (docs/training.md)."""
    cache_limit_gb: Annotated[float, Field(gt=0, le=1_000_000)] = 32.0
    """Size of the cache, of all data sets together, in 10^9 bytes; samples beyond it are decoded at each reading."""

    @field_validator("group")
    @classmethod
    def _is_pattern(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except (re.error, OverflowError, RecursionError) as err:
            raise ValueError(f"'{group}' is no regular expression ({err})") from err
        return group

    @field_validator("frames")
    @classmethod
    def _has_a_middle(cls, frames: int) -> int:
        if frames % 2 == 0:
            raise ValueError("expected an odd number, whose middle frame is the labelled one")
        return frames

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("expected [smallest, largest]")
        return scale

    @field_validator("value_range")
    @classmethod
    def _is_a_range(cls, value_range: tuple[float, float] | None) -> tuple[float, float] | None:
        if value_range is not None and value_range[0] >= value_range[1]:
            raise ValueError("expected [lowest, highest], which differ")
        return value_range

    @model_validator(mode="after")
    def _splits_differ(self) -> "DataConfig":
        has_split = self.image_folder is None or "{split}" in self.image_folder
        train, val = self.splits.get("train", "train"), self.splits.get("val", "val")
        if self.fold is None and "{split}" not in (self.samples or "") and not (has_split and train != val):
            key, value = ("splits", self.splits) if has_split else ("image_folder", f"'{self.image_folder}'")
            raise ValueError(
                f"{key}: {value} gives train and val the same images; write {{split}} in it, or give "
                "samples: lists/{split}.txt, or fold: {count: 5, number: 0}"
            )
        return self

    @property
    def title(self) -> str:
        """The data set's name for people and for the names of runs."""
        return self.name

    def image_format(self, num_bands: int = 3) -> ImageFormat:
        """Returns how images of that many bands are decoded."""
        return ImageFormat(self.value_range, self.max_pixels, num_bands)

    @property
    def root_folder(self) -> Path:
        """The root with a leading `~` expanded, unless there is no such user."""
        try:
            return self.root.expanduser()
        except RuntimeError:
            return self.root


@dataclass(frozen=True)
class SubmissionRules:
    """Masks that a benchmark's server accepts.

    sample_id: regular expression of the names it knows. test_images, test_hw: number and rows, columns of the test
    split's images; None where the server does not fix them.
    """

    sample_id: str
    test_images: int | None = None
    test_hw: tuple[int, int] | None = None


class SegmentationData:
    """One split of a data set: pairs of image and label files, and the class table of the labels.

    A subclass overrides `class_table` and says where its files lie: by `image_layout`, `label_layout`, `image_ends`,
    `label_ends` and `folders`, which the recipe's keys replace; or by `find_images`, `find_labels`, `label_folder` and
    `expected`, where these keys are refused. It names its `Config` if it has settings of its own; one whose labels need
    decoding also overrides `read_ids`.
    allow_unmatched: collects files without a partner in `unmatched` instead of raising for the first (for `check`).
    needs_labels: False accepts a split without any label file; `has_labels` is False then, and all labels are ignored.
    num_bands: of images; other numbers than 3 (RGB) are the recipe's model.input.channels.

    Raises DataError for a folder that is missing or empty, an unknown split, an image without label or the reverse.
    """

    Config: ClassVar[type[DataConfig]] = DataConfig
    image_layout: ClassVar[str] = "images/{split}"
    """Folder of the images below root."""
    label_layout: ClassVar[str] = "labels/{split}"
    image_ends: ClassVar[tuple[str, ...]] = IMAGE_SUFFIXES
    """Ends of the images' names after what they share with their labels."""
    label_ends: ClassVar[tuple[str, ...]] = LABEL_SUFFIXES
    folders: ClassVar[Mapping[str, str]] = {}
    """Names of the splits' folders where these have other names than the splits."""
    how_to_get: ClassVar[str] = "see data/README.md"
    """Last words of the message about a missing root."""
    label_hint: ClassVar[str] = ""
    """Last words of the message about a folder without labels; empty: data.label_suffix is named where it helps."""
    counts_absent_classes: ClassVar[bool] = False
    """Whether the benchmark's own mean IoU is over all classes, absent ones counting 0 (ADE20K)."""
    submission: ClassVar[SubmissionRules | None] = None
    """None for a data set without a server."""
    group: ClassVar[str | None] = None
    """Regular expression of its images' groups, as in the recipe's data.group, where that is null."""
    ambiguous_pairs: ClassVar[tuple[str, ...]] = ()
    """Names of the pairs of classes that look alike, for a data set that marks their pixels (`ambiguous_mask`)."""
    stored: Callable[[int], Sample | None] | None = None
    """Returns a pair from the cache (data/cache.py), None for one that is not in it."""

    def __init__(
        self,
        cfg: DataConfig,
        split: str,
        *,
        allow_unmatched: bool = False,
        needs_labels: bool = True,
        num_bands: int = 3,
    ) -> None:
        if split in ("", ".", "..") or "/" in split:
            raise ConfigError(f"split {split!r}: expected a plain name, such as val")
        self.image_format = cfg.image_format(num_bands)
        self.cfg = cfg
        self.split = split
        self.root = cfg.root_folder
        if not is_folder(self.root):
            raise DataError(f"{self.root}: no such folder; set data.root to the data set ({self.how_to_get})")
        self.table = self.table_of(cfg)
        folder = self.label_folder()
        self.has_labels = needs_labels or (is_folder(folder) and any(find_files(folder)))
        self._kinds_found: set[str] = set() if self.has_labels else {"label"}
        images, labels = self.find_images(), self.find_labels() if self.has_labels else {}
        self._refuse_unread_keys()
        frames = self._all_frames(images) if cfg.frames > 1 else {}
        if frames and self.has_labels and cfg.samples is None:
            images = {sample_id: path for sample_id, path in images.items() if sample_id in labels}
        chosen = self._chosen(images, labels)
        if chosen is not None:
            images, labels = ({key: files[key] for key in chosen & files.keys()} for files in (images, labels))
        self.unmatched = self._unmatched(images, labels) if self.has_labels else []
        if self.unmatched and not allow_unmatched:
            more = f" ({len(self.unmatched) - 1} more such files)" if len(self.unmatched) > 1 else ""
            raise DataError(f"{self.unmatched[0]}{more}; `segnl check` names all")
        self.sample_ids = sorted(images.keys() & labels.keys() if self.has_labels else images)
        self._images = [images[sample_id] for sample_id in self.sample_ids]
        self._labels = [labels[sample_id] for sample_id in self.sample_ids] if self.has_labels else []
        self._frames = [frames[path] for path in self._images] if frames else []

    def _all_frames(self, images: Files) -> dict[Path, tuple[Path, ...]]:
        """Returns the frames that belong to each image. Raises ConfigError for a data set without clips."""
        reads_files = type(self).read is SegmentationData.read and type(self).read_image is SegmentationData.read_image
        setting = self.group if self.cfg.group is None else self.cfg.group
        if not reads_files or setting in ("", "image"):
            reason = "data.group gives each image a group of its own" if reads_files else "has no files of frames"
            raise ConfigError(
                f"data.frames: {self.cfg.frames}, but data set '{self.cfg.name}': {reason}; leave it at 1"
            )
        groups = image_groups(self, images)
        return neighbours_of(images, groups or [str(path.parent) for path in images.values()], self.cfg.frames)

    def _refuse_unread_keys(self) -> None:
        """Raises ConfigError for a key about files where the data set finds its files without reading it."""
        unread = [] if "image" in self._kinds_found else ["image_folder", "image_suffix", "recursive", "splits"]
        unread += [] if "label" in self._kinds_found else ["label_folder", "label_suffix"]
        for key in unread:
            if getattr(self.cfg, key) != DataConfig.model_fields[key].get_default(call_default_factory=True):
                raise ConfigError(f"data.{key}: data set '{self.cfg.name}' finds its files itself; leave it out")

    def _chosen(self, images: Files, labels: Files) -> set[str] | None:
        """Returns the sample ids of the split by data.samples and data.fold; None for all."""
        chosen = None
        if self.cfg.samples is not None:
            chosen = read_sample_list(self.root / self._in_split(self.cfg.samples), images)
        if self._fold is not None:
            pool = images.keys() | labels.keys() if chosen is None else chosen
            files = {sample_id: images.get(sample_id, labels.get(sample_id, Path())) for sample_id in sorted(pool)}
            groups = image_groups(self, files) or [*files]
            chosen = self._fold.ids_of(self.split, dict(zip(files, groups, strict=True)))
        return chosen

    @property
    def _fold(self) -> FoldConfig | None:
        return self.cfg.fold if self.split in ("train", "val") else None

    @property
    def split_name(self) -> str:
        """The name of the split's folders; that of train for both splits of a fold."""
        split = "train" if self._fold is not None else self.split
        return self.cfg.splits.get(split, self.folders.get(split, split))

    def _in_split(self, path: str) -> str:
        return path.replace("{split}", self.split_name)

    @classmethod
    def table_of(cls, cfg: Any) -> ClassTable:
        """Returns the classes to train on: those of `data.label_map`, or else the data set's. cfg: its own `Config`."""
        own = cls.class_table(cfg)
        return own if cfg.label_map is None else mapped_table(cfg.label_map, own)

    @classmethod
    def class_table(cls, cfg: Any) -> ClassTable:
        """Returns the classes of the data set; cfg: its own `Config`."""
        raise NotImplementedError

    def find_images(self) -> Files:
        """Finds the split's images by sample id. Raises DataError when there are none."""
        return self._files(self.image_folder(), *self._ends(), kind="image")

    def find_labels(self) -> Files:
        """Finds the split's labels by sample id. Raises DataError when there are none."""
        image_ends, label_ends = self._ends()
        return self._files(self.label_folder(), label_ends, image_ends, kind="label")

    def image_folder(self) -> Path:
        """Returns the folder of the split's images, which may not exist."""
        return self.root / self._in_split(self.cfg.image_folder or self.image_layout)

    def label_folder(self) -> Path:
        """Returns the folder of the split's labels, which may not exist."""
        return self.root / self._in_split(self.cfg.label_folder or self.label_layout)

    def _ends(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the ends of the images' and of the labels' names."""
        return _ends_of(self.cfg.image_suffix, self.image_ends), _ends_of(self.cfg.label_suffix, self.label_ends)

    def _files(self, folder: Path, ends: tuple[str, ...], partner_ends: tuple[str, ...], *, kind: str) -> Files:
        self._kinds_found.add(kind)
        is_shared = self.image_folder() == self.label_folder()
        return files_by_id(
            folder if "*" in folder.parts else split_folder(folder),
            ends,
            kind=kind,
            recursive=self.cfg.recursive,
            partner_ends=partner_ends if is_shared else (),
            hint=self.label_hint if kind == "label" else "",
        )

    @classmethod
    def is_image(cls, cfg: DataConfig, name: str) -> bool:
        """Returns False for a file that is a label, or no image, by the suffixes of a recipe."""
        image_ends = _ends_of(cfg.image_suffix, cls.image_ends) if cfg.image_suffix else ("",)
        label_ends = _ends_of(cfg.label_suffix, cls.label_ends) if cfg.label_suffix else ()
        return name.endswith(image_ends) and not name.endswith(label_ends)

    def expected(self, sample_id: str) -> tuple[str, str]:
        """Returns the file names that the image and the label of a sample should have, for messages."""
        image_ends, label_ends = self._ends()

        def path(folder: Path, end: str) -> str:
            names = iter(sample_id.split("/"))
            below_root = folder.relative_to(self.root) if folder.is_relative_to(self.root) else folder
            parts = [next(names, part) if part == "*" else part for part in below_root.parts]
            return f"{Path(*parts, *names)}{end}"

        return path(self.image_folder(), image_ends[0]), path(self.label_folder(), label_ends[0])

    def _unmatched(self, images: Files, labels: Files) -> list[FileError]:
        errors = []
        for files, partners, kind, i in ((images, labels, "label", 1), (labels, images, "image", 0)):
            elsewhere = {partner.rpartition("/")[2]: path for partner, path in partners.items()}
            for sample_id in sorted(files.keys() - partners.keys()):
                detail = f"no {kind} belongs to it; expected {self.expected(sample_id)[i]}"
                near = elsewhere.get(sample_id.rpartition("/")[2])
                if near is not None:
                    detail += f"; {near} has its name, but lies in another sub-folder"
                errors.append(FileError(files[sample_id], "missing", detail))
        return errors

    def __len__(self) -> int:
        return len(self.sample_ids)

    def image_path(self, i: int) -> Path:
        return self._images[i]

    def label_path(self, i: int) -> Path:
        return self._labels[i]

    def ambiguous_mask(self, i: int) -> Pixels:
        """Marks the objects of ambiguous pairs in image `i`: u8 `H W`, 0 none, else 1 + the pair's place.

        Only for a data set with `ambiguous_pairs`.
        """
        raise NotImplementedError

    def official_files(self) -> list[tuple[Path, Path]]:
        """Files of labelIds and of instanceIds of every pair, which the official Cityscapes evaluator reads.

        Raises ConfigError for a data set in another layout or without labels, DataError for a missing file.
        """
        raise ConfigError("--official: needs a data set in Cityscapes' layout")

    def files_of(self, i: int) -> list[Path]:
        """Every file that belongs to pair `i` and that a score may depend on, the image first."""
        return [self.image_path(i), *([self.label_path(i)] if self.has_labels else [])]

    def frames_of(self, i: int) -> tuple[Path, ...]:
        """Returns the files of all frames that the network sees for pair `i`, the labelled one first."""
        return self._frames[i] if self._frames else (self.image_path(i),)

    @property
    def generated_from(self) -> str:
        """All that generated images and labels depend on, for the digest of the content; "" for files."""
        return ""

    def read_image(self, i: int) -> Pixels:
        """Reads the image of pair `i`, RGB u8 `H W 3` or `H W bands`. Raises FileError.

        Override it for images that are no files.
        """
        return read_image(self._images[i], self.image_format)

    def read_ids(self, i: int) -> Ids:
        """Reads the label of pair `i` as the ids of its file, integer `H W`; `table` maps them to train ids.

        With a label map of colours the labels are read as RGB u8 `H W 3` instead.
        Override it for labels that are no images of ids. Raises FileError.
        """
        if self.table.reads_colours:
            return read_colours(self._labels[i], max_pixels=self.cfg.max_pixels)
        return read_label(self._labels[i], max_id=self.table.max_id, max_pixels=self.cfg.max_pixels)

    def read_frames(self, i: int) -> Pixels:
        """Reads what the network sees for pair `i`: its image, with data.frames t > 1 `H W t*3`, the image first."""
        return read_frames(self._frames[i], self.image_format) if self._frames else self.read_image(i)

    def read(self, i: int) -> Sample:
        """Reads pair `i` at its own size, the label as train ids, or takes it from the cache.

        Raises DataError naming the file and the error.
        """
        sample = self.stored(i) if self.stored is not None else None
        return self.decode(i) if sample is None else sample

    def decode(self, i: int) -> Sample:
        """Reads pair `i` from its files as `read` does."""
        image = self.read_frames(i)
        if not self.has_labels:
            return Sample(image, np.full(image.shape[:2], IGNORE, np.uint8), self.sample_ids[i])
        label = self.read_train_ids(i)
        require_same_size(self._images[i], image.shape[:2], self._labels[i], label.shape[:2])
        return Sample(image, label, self.sample_ids[i])

    def read_train_ids(self, i: int) -> Pixels:
        """Reads the label of pair `i` alone, train ids u8 `H W`. Raises DataError as `read`."""
        return self.table.to_train(self.read_ids(i), str(self.label_path(i)))


def require_same_size(image: Path, image_hw: tuple[int, ...], label: Path, label_hw: tuple[int, ...]) -> None:
    """Raises FileError unless the label has its image's size."""
    if image_hw == label_hw:
        return
    fix = "export the label at the image's size"
    if exif_orientation(image) != 1 and image_hw == label_hw[::-1]:
        tag = f"EXIF orientation {exif_orientation(image)}"
        fix = f"the image has {tag}, which is not applied: rotate its pixels instead"
    sizes = f"label of {label_hw[0]}x{label_hw[1]} pixels, but {image.name} has {image_hw[0]}x{image_hw[1]}"
    raise FileError(label, "size", f"{sizes}; {fix}")


def _ends_of(setting: str | None, ends: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the ends of names for data.image_suffix or data.label_suffix; `ends`, the data set's, for null."""
    if not setting:
        return ends
    if Path(f"x{setting}").suffix.lower() in (*IMAGE_SUFFIXES, *LABEL_SUFFIXES):
        return (setting,)
    return tuple(setting + suffix for suffix in dict.fromkeys(Path(f"x{end}").suffix for end in ends))
