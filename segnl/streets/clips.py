"""Clips: frames of a camera that turns past a street, in which an object and its cue may be in different frames."""

from dataclasses import replace

import numpy as np

from segnl.core.seeds import seed_for
from segnl.streets.canvas import Box
from segnl.streets.scene import Scene, render_scene

_TRIES = 200


def render_clip(*, seed: int, split: str, index: int, hw: tuple[int, int], num_frames: int) -> list[Scene]:
    """Renders the frames of clip number `index` of a split, each `hw`, a pure function of its arguments.

    The camera pans over a street of twice the width, by the same number of pixels from frame to frame. `ambiguous`
    marks those objects only whose cue lies wholly outside the frame and wholly inside the one before or after. Every
    clip has at least one of them.
    """
    height, width = hw
    for attempt in range(_TRIES):
        street = render_scene(seed=seed, split=f"{split}, clips, {attempt}", index=index, hw=(height, 2 * width))
        step = width // (num_frames - 1)
        starts = [number * step for number in range(num_frames)]
        if seed_for(seed, "direction", split, index) % 2:
            starts.reverse()
        frames = [frame_of(street, starts, number, width) for number in range(num_frames)]
        if any(frame.ambiguous.any() for frame in frames):
            return frames
    raise RuntimeError(f"clip {index} of {split}: no street of {_TRIES} has an object whose cue is in another frame")


def frame_of(street: Scene, starts: list[int], number: int, width: int) -> Scene:
    """Cuts frame `number` out of the street. starts: the first column of each frame."""
    height = street.image.shape[0]
    view, *beside = (
        Box(starts[other], 0, starts[other] + width - 1, height - 1)
        for other in (number, number - 1, number + 1)
        if 0 <= other < len(starts)
    )
    is_kept = np.zeros(street.ambiguous.shape, bool)
    for placement in street.placements:
        cue = placement.cue
        if not view.overlap(cue) and any(frame.overlap(cue) == cue.area for frame in beside):
            box = placement.box
            is_kept[max(0, box.y0) : box.y1 + 1, max(0, box.x0) : box.x1 + 1] = True
    columns = slice(view.x0, view.x1 + 1)
    return replace(
        street,
        image=np.ascontiguousarray(street.image[:, columns]),
        label_ids=street.label_ids[:, columns],
        instance_ids=street.instance_ids[:, columns],
        ambiguous=np.where(is_kept, street.ambiguous, 0)[:, columns].astype(np.uint8),
        placements=(),
    )
