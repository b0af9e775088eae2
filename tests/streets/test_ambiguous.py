"""Where ambiguous objects and their cues stand."""

import numpy as np
import pytest

from segnl.streets.pairs import PAIRS
from segnl.streets.scene import Scene, render_scene


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(seed=11, split="train", index=index, hw=(256, 512)) for index in range(40)]


def test_every_image_has_ambiguous_objects_and_each_has_one_cue_of_its_own(scenes: list[Scene]):
    for scene in scenes:
        assert scene.placements
        keys = [(placement.pair_number, placement.livery) for placement in scene.placements]
        assert len(set(keys)) == len(keys)
        boxes = [box for placement in scene.placements for box in (placement.box, placement.cue)]
        assert not any(a.overlap(b) for i, a in enumerate(boxes) for b in boxes[:i])
    share = np.mean([(scene.ambiguous > 0).mean() for scene in scenes])
    assert 0.05 < share < 0.2


def test_cues_stand_far_away_and_as_often_on_the_objects_row_or_column_as_off_it(scenes: list[Scene]):
    placements = [placement for scene in scenes for placement in scene.placements]
    distances = [placement.distance_px for placement in placements]
    assert min(distances) >= 69  # 70 before rounding
    assert np.mean([distance > 100 for distance in distances]) > 0.8
    assert 0.35 < np.mean([placement.is_aligned for placement in placements]) < 0.65
    differing = [
        {p.mark for p in scene.placements if p.pair_number == pair}
        for scene in scenes
        for pair in range(1, len(PAIRS) + 1)
        if sum(p.pair_number == pair for p in scene.placements) == 2
    ]
    assert sum(len(marks) == 2 for marks in differing) > len(differing) / 3


def test_a_cue_lies_within_the_image_on_the_class_it_belongs_to(scenes: list[Scene]):
    for scene in scenes:
        for placement in scene.placements:
            x, y = placement.cue.centre
            assert 0 <= placement.cue.x0 < placement.cue.x1 < 512
            assert 0 <= placement.cue.y0 < placement.cue.y1 < 256
            assert (
                scene.label_ids[y, x] == {"traffic sign": 20, "sky": 23, "road": 7, "building": 11}[placement.pair.on]
            )


def test_most_of_an_ambiguous_object_stays_in_sight(scenes: list[Scene]):
    for scene in scenes:
        for placement in scene.placements:
            box = placement.box
            seen = scene.ambiguous[box.y0 : box.y1 + 1, box.x0 : box.x1 + 1] == placement.pair_number
            assert seen.mean() > 0.35  # a caped figure fills 0.58 of its box
