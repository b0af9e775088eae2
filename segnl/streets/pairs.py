"""The table of ambiguous pairs and their cues, read by the painter, the docs and the tests.

pair: two classes whose objects look the same.  livery: one of two colours that an object of the pair has.  cue: an
object elsewhere in the street, in the same livery.  mark: a white or black spot on the cue, which decides the class.
Two objects of one pair in one image have different liveries, so each has its own cue. The rule holds in a flipped
image, and pooling over the whole image cannot follow it when the two marks differ.
"""

from dataclasses import dataclass

Colour = tuple[int, int, int]

WHITE_MARK = (246, 246, 240)
BLACK_MARK = (16, 16, 20)


@dataclass(frozen=True)
class AmbiguousPair:
    """Two classes that only a distant cue tells apart.

    classes: Cityscapes names; a white mark on the cue means the first, a black one the second.
    hw: the object's rows and columns in pixels of a 256x512 image; cue_hw likewise. height_m: the object's, in metres.
    on: the class of the cue's own pixels.
    liveries: the two colours, name and RGB.
    """

    name: str
    classes: tuple[str, str]
    hw: tuple[int, int]
    height_m: float
    cue_is: str
    on: str
    cue_hw: tuple[int, int]
    liveries: tuple[tuple[str, Colour], tuple[str, Colour]]


PAIRS: tuple[AmbiguousPair, ...] = (
    AmbiguousPair(
        name="bus-truck",
        classes=("bus", "truck"),
        hw=(76, 84),
        height_m=3.0,
        cue_is="a square traffic sign in the livery, on a pole or an arm over the street",
        on="traffic sign",
        cue_hw=(40, 40),
        liveries=(("blue", (36, 84, 214)), ("orange", (240, 128, 20))),
    ),
    AmbiguousPair(
        name="vegetation-terrain",
        classes=("vegetation", "terrain"),
        hw=(46, 100),
        height_m=1.4,
        cue_is="a balloon in the livery in the sky, which shows the season",
        on="sky",
        cue_hw=(46, 40),
        liveries=(("yellow", (248, 222, 24)), ("pink", (244, 92, 176))),
    ),
    AmbiguousPair(
        name="rider-person",
        classes=("rider", "person"),
        hw=(80, 40),
        height_m=1.8,
        cue_is="a field painted on the road in the livery",
        on="road",
        cue_hw=(34, 62),
        liveries=(("red", (214, 28, 36)), ("turquoise", (20, 196, 186))),
    ),
    AmbiguousPair(
        name="wall-fence",
        classes=("wall", "fence"),
        hw=(46, 112),
        height_m=1.7,
        cue_is="a banner in the livery, hung on a building",
        on="building",
        cue_hw=(48, 36),
        liveries=(("violet", (138, 44, 204)), ("lime", (150, 226, 30))),
    ),
)
