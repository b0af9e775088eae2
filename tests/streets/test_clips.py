"""Clips of a turning camera: frames of one street, marked where only another frame shows the cue."""

from pathlib import Path

import numpy as np
import pytest

from segnl.core.errors import DataError
from segnl.streets.files import generate, image_files
from segnl.streets.scene import frame_of, render_clip, render_scene

HW = (64, 64)


def test_frames_overlap_by_half_and_some_object_is_marked():
    directions = set()
    for index in range(6):
        frames = render_clip(seed=3, split="train", index=index, hw=HW, num_frames=3)
        assert [frame.image.shape for frame in frames] == [(64, 64, 3)] * 3
        to_right = [np.array_equal(frames[k].image[:, 32:], frames[k + 1].image[:, :32]) for k in (0, 1)]
        to_left = [np.array_equal(frames[k].image[:, :32], frames[k + 1].image[:, 32:]) for k in (0, 1)]
        assert to_right in ([True, True], [False, False])
        assert to_left == [not value for value in to_right]
        directions.add(to_right[0])
        assert any(frame.ambiguous.any() for frame in frames)
    assert len(directions) == 2


def test_the_cue_of_a_marked_object_is_in_no_column_of_its_frame_and_whole_in_a_neighbour():
    starts, num_marked = [0, 32, 64], 0
    for index in range(12):
        street = render_scene(seed=1, split="x", index=index, hw=(64, 128))
        for number, start in enumerate(starts):
            marked = np.zeros((64, 128), bool)
            marked[:, start : start + 64] = frame_of(street, starts, number, 64).ambiguous > 0
            for placement in street.placements:
                box, cue = placement.box, placement.cue
                columns = set(range(cue.x0, cue.x1 + 1))
                is_here = bool(columns & set(range(start, start + 64)))
                beside = [starts[other] for other in (number - 1, number + 1) if 0 <= other < 3]
                is_beside = any(columns <= set(range(other, other + 64)) for other in beside)
                is_marked = marked[box.y0 : box.y1 + 1, max(0, box.x0) : box.x1 + 1].any()
                if is_here or not is_beside:
                    assert not is_marked
                num_marked += is_marked
    assert num_marked > 3


def test_clips_are_files_of_three_frames_each_and_not_mixed_with_images(tmp_path: Path):
    assert generate(tmp_path, num_train=2, num_val=1, hw=HW, num_frames=3) == 3
    assert len(list(tmp_path.rglob("*.png"))) == 3 * 3 * 5
    image_files(tmp_path, "train", 1, frame=20)["image"].unlink()
    assert generate(tmp_path, num_train=2, num_val=1, hw=HW, num_frames=3) == 1
    with pytest.raises(DataError, match="holds streets of frames 3, not 1"):
        generate(tmp_path, num_train=2, num_val=1, hw=(64, 128))
    for frames, hw, message in ((2, HW, "2 frames asked for"), (3, (64, 63), "made from 64x64 to 2048x2048")):
        with pytest.raises(DataError, match=message):
            generate(tmp_path / "other", num_train=2, num_val=1, hw=hw, num_frames=frames)
