"""Makes the pictures of docs/streets.md: `python docs/images/streets_pictures.py`, from the root of the checkout."""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from segnl.labels.cityscapes import LABELS  # noqa: E402
from segnl.streets.pairs import PAIRS  # noqa: E402  the checkout's own package, installed or not
from segnl.streets.scene import Scene, render_scene  # noqa: E402

HW = (256, 512)
COLOURS = np.zeros((256, 3), np.uint8)
for _label in LABELS[:-1]:
    COLOURS[_label.id] = _label.colour


def save(name: str, rows: list[list[np.ndarray]], scale: float) -> None:
    """A grid of images, scaled, in steps of 8 so that the file stays small."""
    whole = Image.fromarray(np.vstack([np.hstack(row) for row in rows]))
    whole = whole.resize((int(whole.width * scale), int(whole.height * scale)), Image.Resampling.LANCZOS)
    coarse = Image.fromarray(np.asarray(whole) // 8 * 8 + 4)
    coarse.save(Path(__file__).with_name(f"streets_{name}.png"), optimize=True)


def linked(scene: Scene, pair: int) -> np.ndarray:
    """The image with a white line from each object of the pair to its cue, and a frame around both."""
    image = scene.image.copy()
    for placement in scene.placements:
        if placement.pair_number == pair:
            for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 2)):
                for box in (placement.box.grown(3), placement.cue.grown(3)):
                    cv2.rectangle(image, (box.x0, box.y0), (box.x1, box.y1), colour, width)
                cv2.line(image, placement.box.centre, placement.cue.centre, colour, width)
    return image


def pair_rows(pair: int) -> list[list[np.ndarray]]:
    """The first street in which the pair's two objects differ, and the same street with their classes exchanged."""
    for index in range(1000):
        first = render_scene(seed=0, split="val", index=index, hw=HW)
        marks = [placement.mark for placement in first.placements if placement.pair_number == pair]
        if sorted(marks) != [0, 1]:
            continue
        for marks_seed in range(1, 60):
            other = render_scene(seed=0, split="val", index=index, hw=HW, marks_seed=marks_seed)
            if [placement.mark for placement in other.placements if placement.pair_number == pair] == marks[::-1]:
                return [[linked(scene, pair), COLOURS[scene.label_ids]] for scene in (first, other)]
    raise LookupError(f"pair {pair}: no street shows two objects of different classes")


def main() -> None:
    scenes = [render_scene(seed=0, split="val", index=index, hw=HW) for index in range(20)]
    save("twenty", [[scene.image for scene in scenes[start : start + 4]] for start in range(0, 20, 4)], 0.4)
    save("labels", [[scene.image, COLOURS[scene.label_ids]] for scene in scenes[4:7]], 0.7)
    for number, pair in enumerate(PAIRS, start=1):
        save(pair.name, pair_rows(number), 0.7)


if __name__ == "__main__":
    main()
