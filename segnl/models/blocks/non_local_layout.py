"""Places of non-local blocks in a ResNet of images or clips.

Source: Non-local Neural Networks, Wang et al. 2018, arXiv:1711.07971, sections 4.1 and 5.1.
"""

from collections.abc import Sequence

LAYERS = ("layer1", "layer2", "layer3", "layer4")
NonLocalLayout = dict[str, tuple[int, ...]] | str | int | None
"""Blocks of each layer that a non-local block follows, the name of a published layout, or None."""

# One before the last block of res4; every other, or every, block of res3 and res4. Here they are layer2 and layer3.
_PUBLISHED: dict[tuple[str, int], dict[str, tuple[int, ...]]] = {
    ("1", 50): {"layer3": (-2,)},
    ("1", 101): {"layer3": (-2,)},
    ("5", 50): {"layer2": (1, 3), "layer3": (1, 3, 5)},
    ("5", 101): {"layer2": (1, 3), "layer3": (6, 13, 20)},
    ("10", 50): {"layer2": (0, 1, 2, 3), "layer3": (0, 1, 2, 3, 4, 5)},
}


def non_local_positions(layout: NonLocalLayout, num_blocks: Sequence[int], depth: int | None) -> set[tuple[int, int]]:
    """Returns (layer 0..3, block) of every non-local block.

    num_blocks: of the four layers. depth: of the published network that has so many; None if there is none.

    Raises ValueError for a layout or a block that does not exist.
    """
    if layout is None:
        return set()
    if not isinstance(layout, dict):
        published = _PUBLISHED.get((str(layout), depth or 0))
        if published is None:
            known = ", ".join(f"'{name}' at depth {depth}" for name, depth in _PUBLISHED)
            raise ValueError(
                f"non_local: no layout {layout!r} for this network; known: {known}; or write {{layer3: [-2]}}"
            )
        layout = published
    positions = set()
    for name, indices in layout.items():
        layer = layer_index(name, "non_local")
        count = num_blocks[layer]
        for index in indices:
            if not -count <= index < count:
                raise ValueError(
                    f"non_local.{name}: no block {index}; {name} has {count}, 0 to {count - 1} or -{count} to -1"
                )
            positions.add((layer, index % count))
    return positions


def layer_index(name: str, key: str) -> int:
    """Returns 0..3 for layer1..layer4; raises ValueError, naming the key, for another name."""
    if name not in LAYERS:
        raise ValueError(f"{key}.{name}: no such layer; known: {', '.join(LAYERS)}")
    return LAYERS.index(name)
