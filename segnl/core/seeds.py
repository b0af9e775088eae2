"""Seeds as pure functions of their purpose, so that no random state must be saved, resumed or synchronised."""

import hashlib


def seed_for(*purpose: int | str) -> int:
    """Returns a 63-bit seed that depends on every word of its purpose, such as (seed, "crop", epoch, index).

    The same on every machine and in every process; different purposes give independent seeds.
    """
    text = "\x1f".join(f"{type(word).__name__}:{word}" for word in purpose)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
