"""Streets' one table of what is ambiguous and what decides: read by the painter, the docs and the tests.

An object of a pair looks the same whichever of its two classes it is. It bears a livery (a colour), and somewhere else
in the street stands a cue in that same colour; the mark on the cue says which class the object is. Two objects of one
pair in one image always bear different liveries, so that each has one cue of its own. The rule survives a flipped
image, and a pool over the whole image cannot follow it when the two cues disagree.
"""

from dataclasses import dataclass

Colour = tuple[int, int, int]

WHITE_MARK = (246, 246, 240)
BLACK_MARK = (16, 16, 20)


@dataclass(frozen=True)
class Pair:
    """Two classes that only a distant cue tells apart.

    classes: Cityscapes names; a white mark on the cue means the first, a black one the second.
    hw: the object's rows and columns in pixels of a 256x512 image; cue_hw likewise. height_m: the object's, in metres.
    on: the class that the cue's own pixels belong to.
    liveries: the two colours, name and RGB, by which an object finds its cue.
    """

    name: str
    classes: tuple[str, str]
    object_is: str
    hw: tuple[int, int]
    height_m: float
    cue_is: str
    on: str
    cue_hw: tuple[int, int]
    liveries: tuple[tuple[str, Colour], tuple[str, Colour]]

    def livery(self, index: int) -> Colour:
        """RGB of livery 0 or 1."""
        return self.liveries[index][1]


PAIRS: tuple[Pair, ...] = (
    Pair(
        name="bus-truck",
        classes=("bus", "truck"),
        object_is="a box-shaped heavy vehicle, its body in the livery",
        hw=(76, 84),
        height_m=3.0,
        cue_is="a square traffic sign in the livery, on a pole or an arm over the street",
        on="traffic sign",
        cue_hw=(40, 40),
        liveries=(("blue", (36, 84, 214)), ("orange", (240, 128, 20))),
    ),
    Pair(
        name="vegetation-terrain",
        classes=("vegetation", "terrain"),
        object_is="a low green mound with flowers in the livery",
        hw=(46, 100),
        height_m=1.4,
        cue_is="a balloon in the livery in the sky, which shows the season",
        on="sky",
        cue_hw=(46, 40),
        liveries=(("yellow", (248, 222, 24)), ("pink", (244, 92, 176))),
    ),
    Pair(
        name="rider-person",
        classes=("rider", "person"),
        object_is="someone in a long cape in the livery",
        hw=(80, 40),
        height_m=1.8,
        cue_is="a field painted on the road in the livery",
        on="road",
        cue_hw=(34, 62),
        liveries=(("red", (214, 28, 36)), ("turquoise", (20, 196, 186))),
    ),
    Pair(
        name="wall-fence",
        classes=("wall", "fence"),
        object_is="a grey panelled barrier with strips in the livery",
        hw=(46, 112),
        height_m=1.7,
        cue_is="a banner in the livery, hung on a building",
        on="building",
        cue_hw=(48, 36),
        liveries=(("violet", (138, 44, 204)), ("lime", (150, 226, 30))),
    ),
)
