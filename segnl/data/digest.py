"""A digest that tells data sets, and corrected versions of one, apart without reading images."""

import hashlib

from segnl.core.files import sha256_of
from segnl.data.base import SegmentationData


def files_digest(data: SegmentationData) -> str:
    """Hashes the names and sizes of a split's images, the content of its labels, and the ids of its classes (SHA-256).

    Label content counts because a label corrected in place may keep its size.
    """
    lines = [str(list(data.table.file_ids))]
    for i in range(len(data)):
        image = data.image_path(i)
        lines.append(f"{image.name} {image.stat().st_size}")
        if data.has_labels:
            lines.append(f"{data.label_path(i).name} {sha256_of(data.label_path(i))}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
