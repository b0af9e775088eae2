"""Label maps: the classes of a recipe, each with the ids, colours or classes of the label files that it stands for.

label_map: {flat: [road, sidewalk], car: [26, 27], ignore: rest}
label_map: {background: ["#000000"], pet: ["#ff0000", [128, 0, 0]]}
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import Field

from segnl.core import IGNORE
from segnl.core.config import suggest
from segnl.core.errors import ConfigError
from segnl.labels.table import MAX_CLASSES, NAME, ONE_CLASS, ClassTable, colour_text, distinct_colour, free_id, is_name

Level = Annotated[int, Field(ge=0, le=255)]
Value = Annotated[int, Field(ge=0, le=65_535)] | str | tuple[Level, Level, Level]
"""An id of label files, a colour as "#rrggbb" or [r, g, b], or the name of a class of the data set."""
LabelMapSetting = dict[str, tuple[Value, ...] | Literal["rest"]]
KEY = "data.label_map"
IGNORED = "ignore"
REST = "rest"


def mapped_table(setting: LabelMapSetting, own: ClassTable | None, *, ignore_ids: Collection[int] = ()) -> ClassTable:
    """Returns the classes of a label map, in its order.

    own: the classes of the data set, whose names the map may use, and whose ignored ids stay ignored; each of them must
    be in the map unless it holds `ignore: rest`. None for a data set without any. ignore_ids: further ids that
    are ignored unless the map names them.

    Raises ConfigError for a map that contradicts itself or leaves out a class.
    """
    names = [name for name in setting if name != IGNORED]
    if len(names) < 2:
        raise ConfigError(f"{KEY}: has {len(names)} classes; {ONE_CLASS}")
    odd = [name for name in names if not is_name(name) or name != name.strip()]
    if odd:
        raise ConfigError(f"{KEY}: {odd[0]!r:.60}: expected {NAME}, without spaces around it")
    if len(names) > MAX_CLASSES:
        raise ConfigError(f"{KEY}: has {len(names)} classes; expected at most {MAX_CLASSES}: join or ignore some")
    if any(setting[name] == REST for name in names):
        raise ConfigError(f"{KEY}: only {IGNORED} may be '{REST}'; list the values of each class")
    ignores_rest = setting.get(IGNORED) == REST
    parsed = _Values(own)
    for name, values in setting.items():
        if values != REST:
            parsed.add(name, values)
    train_of = {value: IGNORE if name == IGNORED else names.index(name) for value, name in parsed.class_of.items()}
    first = {name: next((value for value, cls in parsed.class_of.items() if cls == name), None) for name in names}
    empty = [name for name in names if first[name] is None]
    if empty:
        raise ConfigError(f"{KEY}.{empty[0]}: is empty; list its ids or colours, or leave the class out")
    if own is not None and not parsed.has_colours:
        train_of |= _own_values(own, train_of, ignores_rest=ignores_rest)
    elif not parsed.has_colours:
        train_of = dict.fromkeys((*ignore_ids, IGNORE), IGNORE) | train_of
    is_written = not parsed.has_colours and max(value for value in first.values() if value is not None) < 256
    file_ids = [value for value in first.values() if value is not None] if is_written else list(range(len(names)))
    return ClassTable(
        names,
        [_colour(i, name, first[name] or 0, own, is_colour=parsed.has_colours) for i, name in enumerate(names)],
        file_ids=file_ids,
        ignore_ids=(),
        void_id=free_id(file_ids) if own is None or own.void_id in file_ids else own.void_id,
        label_values=train_of,
        reads_colours=parsed.has_colours,
        ignores_rest=ignores_rest,
        title=KEY,
        unknown_hint=f"add it to a class or to `{IGNORED}`, or ignore the others by `{IGNORED}: {REST}`",
    )


class _Values:
    """The values of label files that a map names, each with its class."""

    def __init__(self, own: ClassTable | None) -> None:
        self.own = own
        self.class_of: dict[int, str] = {}
        self.has_colours = False

    def add(self, name: str, values: tuple[Value, ...] | str) -> None:
        """Adds the values of a class or of `ignore`. Raises ConfigError for one that is unknown or named twice."""
        if isinstance(values, str):
            raise ConfigError(f"{KEY}.{name}: holds '{values}'; expected a list")
        for value in values:
            is_colour = isinstance(value, tuple) or (isinstance(value, str) and value.startswith("#"))
            if self.class_of and is_colour != self.has_colours:
                raise ConfigError(f"{KEY}.{name}: holds {value!r}, a mixture of ids and colours; give either")
            self.has_colours = is_colour
            for label_value in [_colour_value(name, value)] if is_colour else self._ids(name, value):
                earlier = self.class_of.setdefault(label_value, name)
                if earlier != name:
                    text = colour_text(label_value) if is_colour else f"id {label_value}"
                    raise ConfigError(f"{KEY}.{name}: holds {text}, which {KEY}.{earlier} holds too; name it once")

    def _ids(self, name: str, value: Value) -> list[int]:
        if isinstance(value, int):
            return [value]
        if self.own is None:
            raise ConfigError(f'{KEY}.{name}: holds {value!r}; expected ids, or colours such as "#ff00aa"')
        if value not in self.own.names:
            raise ConfigError(f"{KEY}.{name}: holds {value!r}{suggest(str(value), self.own.names)}")
        train_id = self.own.names.index(str(value))
        return [label_value for label_value, train in self.own.label_values.items() if train == train_id]


def _colour_value(name: str, value: Value) -> int:
    if isinstance(value, tuple):
        red, green, blue = value
        return red << 16 | green << 8 | blue
    digits = str(value)[1:]
    if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise ConfigError(f'{KEY}.{name}: holds {value!r}; expected a colour such as "#ff00aa" or [255, 0, 170]')
    return int(digits, 16)


def _own_values(own: ClassTable, named: Mapping[int, int], *, ignores_rest: bool) -> dict[int, int]:
    """Returns the data set's values that the map does not name, as ignored. Raises ConfigError for one of a class."""
    left = {value: train for value, train in own.label_values.items() if value not in named}
    classes = [own.names[train] for train in left.values() if train != IGNORE]
    if classes and not ignores_rest:
        more = f" and {len(classes) - 1} more" if len(classes) > 1 else ""
        raise ConfigError(
            f"{KEY}: leaves out '{classes[0]}'{more} of {own.title}; add it to a class or to `{IGNORED}`, or ignore "
            f"the others by `{IGNORED}: {REST}`"
        )
    return dict.fromkeys(left, IGNORE)


def _colour(number: int, name: str, value: int, own: ClassTable | None, *, is_colour: bool) -> tuple[int, int, int]:
    """Returns the colour of class `number`: its own in label files, that of the data set's class, or a distinct one."""
    if is_colour:
        return value >> 16, value >> 8 & 255, value & 255
    if own is not None:
        train = own.names.index(name) if name in own.names else own.label_values.get(value, IGNORE)
        if train != IGNORE:
            red, green, blue = (int(level) for level in own.palette[train])
            return red, green, blue
    return distinct_colour(number)
