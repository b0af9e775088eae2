"""Plan of how a recipe reads a folder."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from segnl.core.archives import archive_of
from segnl.core.config import JSONDict


@dataclass
class FolderPlan:
    """How a recipe reads a folder."""

    data: JSONDict
    """Keys of its section `data`."""
    home: Path
    """The folder to write into: the folder itself, or one beside an archive."""
    rows: list[tuple[int, str, tuple[int, int, int]]] = field(default_factory=list)
    """Of classes.tsv (index, name, colour); none where it exists, or where `data.label_map` names the classes."""
    lists: dict[str, str] = field(default_factory=dict)
    """Text of the splits' lists by file."""
    notes: list[str] = field(default_factory=list)
    """What was decided and why."""
    image_hw: tuple[int, int] = (0, 0)
    """Rows and columns of the image in the middle."""
    draw_labels: Callable[[], str] | None = None
    """Draws labels from annotations, where the folder has no label images; returns a note. Raises DataError for one
    that cannot be drawn."""

    @property
    def is_beside_archive(self) -> bool:
        """Whether the folder is an archive's, into which nothing is written."""
        return self.home != Path(self.data["root"])

    def from_root(self, name: str) -> str:
        """Returns the path of a file below `home` as the recipe's section `data` gives it."""
        return str(self.home / name) if self.is_beside_archive else name


def home_of(root: Path) -> Path:
    """Returns the folder to write into: the folder itself, or NAME_segnl beside NAME.zip."""
    archive = archive_of(root)
    return root if archive is None else archive.with_name(f"{archive.stem}_segnl")
