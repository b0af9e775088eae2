"""Sections of docs/statistics.md on the populations of attack.py, made from its result file."""

import json
from pathlib import Path
from typing import Any

from command import commit_text

Result = dict[str, Any]

GOAL = 0.93
"""Coverage below which a line is marked."""

IMAGES = """\
## Populations that attack the intervals: rare classes, few images, heavy tails

The model above is one family. A hostile reader of an earlier version wrote other populations and found intervals that
covered 80 %. `benchmarks/attack_populations.py` has three families: `logit`, normal or heavy-tailed effects on the
logit scale; `beta`, Beta-distributed fractions and binomial pixels; `tracks`, objects that are found or missed as a
whole. {studies:,} studies a row, four heads, of which two are identical; *before*: the interval of the earlier version.
*Holm*: how often identical heads are called different after the correction. Lines with less than 93 % are marked *.

"""
CLASSES = """\
## Intervals of single rare classes

The class is in about so many of 100 images (1.5: in one or two). {studies:,} studies a row, two heads, three seeds.
*None*: studies in which one image holds the class, so that it has no interval.

"""
GROUPS = """\
## Frames of drives

100 images in clusters (`data.group`) whose effects correlate 0.7 in `logit`; in `tracks` an object is found or missed
in all frames of a cluster. Images dominate. *Before*: frames count as independent. The last two rows show what groups
cannot repair: one drive in which neighbouring frames correlate 0.9, cut into pieces that are called groups. In the
study like CamVid, one class is in a single drive, so its chance is not in the interval.

"""
ABSENT = """\
## Classes without ground truth

A class is in no label, and a run predicts it in a few pixels of one image with a probability of 0.3. *Before*: the
score's own rule, by which the class then counts as 0.

"""
FEW = """\
## Two and three heads

Seeds dominate, and all heads are identical. *Shared* as above. *Before*: the test whether runs of the same seed score
alike was used with any number of heads; *marked*: the fraction of studies that it paired, and how often their intervals
covered.

"""
IDENTICAL = """\
## Four identical heads in these populations

How often any of the six pairs is called different after Holm's correction. {studies:,} studies a row.

"""
LOOKS = """\
## Looking again

Heads with 3 to 10 seeds, identical or with the last one better by about 1.7 standard deviations of a run. *Found*: any
pair of identical heads, or a pair of the better head, is called different after Holm's correction. *Until something is
separable*: the plain test after every seed, until every pair is separable. *Stop rule*: from 3 to 10 seeds until every
pair is settled.

"""
POWER = """\
## Many heads

13 heads, scores alone; the last is better by 5 standard deviations of a run, the others are equal to the control. *One
varies 3x*: one of the equal heads varies three times as much. *False*: any equal head is called different from the
control after Holm's correction; *false, 3x*: the head that varies more is, before it. A pooled variance nearly always
finds the better head, and calls the head that varies more different far too often. Bartlett's test of equal variances
(pooling where its p is above 0.1) notices too few of these studies. Therefore segnl does not pool; it offers
`compare: {against: control}`.

"""
HINT = """\
## The number of seeds in the hint

Two heads, scores alone, and the studies whose verdict is open. *Power*: the mean probability that the numbers of seeds
in the hint show a true difference as large as the estimated one; in brackets the fraction of hints that reach 80 %.

"""

DIVERGED = """\
## A head that diverges in one seed of ten

Two heads whose runs vary by half a point; in one run of ten the second falls by 5 points, so it is worse by half a
point on average. *A run has diverged*: in so many studies at least one has. *All pointed out*: of those, the fraction
in which the page names every such run, and *some*: at least one (two that diverged hide one another); *wrongly*: of the
other studies, the fraction in which it names any. *Covers*: the interval covers the true difference. Where no run has
diverged, nothing in the data says that one could: the interval then is too narrow, and no method can know. With three
seeds that is most studies.

"""


def attack_section(path: Path) -> str:
    """Returns all sections; a sentence if the simulation has not been run."""
    if not path.is_file():
        return "## Populations that attack the intervals\n\nNot run yet: `make calibrate`.\n"
    result = json.loads(path.read_text())
    cells = {table: [cell for cell in result["cells"] if cell["table"] == table] for table in TABLES}
    studies = f"{result['studies']:,}"
    parts = [
        text.replace("{studies:,}", studies) + _lines(table(cells[name])) for name, (text, table) in TABLES.items()
    ]
    for name, (text, table) in OTHERS.items():
        if name not in result:  # a run before this table
            continue
        parts.append(text.replace("{studies:,}", studies) + _lines(table(result[name])))
    origin = f"numpy {result['versions']['numpy']}; random seed {result['seed']}; commit {commit_text(result)}.\n"
    return "\n".join([*parts, f"{result['machine']['cpu']}; {result['cpu_s']} s of processor time; {origin}"])


def _lines(rows: list[list[str]]) -> str:
    titles, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([titles, "|---|" + "---:|" * (len(rows[0]) - 1), *body]) + "\n"


def _images(cells: list[Result]) -> list[list[str]]:
    rows = [
        [
            "population",
            "seeds",
            "covers",
            "worst pair",
            "false",
            "Holm",
            "width",
            "before",
            "before: false",
            "before: width",
        ]
    ]
    for cell in cells:
        now, before = cell["now"], cell["before"]
        rows.append(
            [
                cell["name"],
                str(cell["seeds"]),
                _covers(now["coverage"]),
                _percent(now["worst_coverage"]),
                _percent(now["false"]),
                _percent(now["false_holm"]),
                f"{now['width_ratio']:.2f}",
                _percent(before["coverage"]),
                _percent(before["false"]),
                f"{before['width_ratio']:.2f}",
            ]
        )
    return rows


def _few(cells: list[Result]) -> list[list[str]]:
    rows = [["heads", "seeds", "covers", "false", "width", "before", "before: width", "marked", "covers where marked"]]
    for cell in cells:
        now, before = cell["now"], cell["before"]
        rows.append(
            [
                cell["name"],
                str(cell["seeds"]),
                _covers(now["coverage"]),
                _percent(now["false"]),
                f"{now['width_ratio']:.2f}",
                _percent(before["coverage"]),
                f"{before['width_ratio']:.2f}",
                _percent(before["by_seed"]),
                _percent(before["coverage_by_seed"]),
            ]
        )
    return rows


def _identical(cells: list[Result]) -> list[list[str]]:
    rows = [["population", "any pair called different", "a given pair, uncorrected", "before", "a given pair, before"]]
    for cell in cells:
        values = [cell[when][key] for when in ("now", "before") for key in ("false_holm", "false")]
        rows.append([cell["name"], *map(_percent, values)])
    return rows


def _classes(lines: list[Result]) -> list[list[str]]:
    rows = [["family", "images with the class", "covers", "before", "none"]]
    for line in lines:
        values = [_covers(line["coverage"]), _percent(line["before"]), _percent(line["without_interval"])]
        rows.append([line["family"], f"{line['images']:g}", *values])
    return rows


def _looks(lines: list[Result]) -> list[list[str]]:
    rules = {"plain": "until something is separable"}
    rows = [["rule", "heads", "identical: found", "mean seeds", "one better: found", "mean seeds"]]
    by_rule = {(line["rule"], line["heads"], line["gain"] > 0): line for line in lines}
    for heads in sorted({line["heads"] for line in lines}):
        for rule in dict.fromkeys(line["rule"] for line in lines):
            pair = [by_rule[rule, heads, is_better] for is_better in (False, True)]
            values = [text for line in pair for text in (_percent(line["found"]), f"{line['seeds']:.1f}")]
            rows.append([rules.get(rule, rule), str(heads), *values])
    return rows


def _power(lines: list[Result]) -> list[list[str]]:
    rows = [["compared", "seeds", "found", "false", "one varies 3x: found", "false", "false, 3x"]]
    for seeds in sorted({line["seeds"] for line in lines}):
        for way in dict.fromkeys(line["way"] for line in lines):
            own = [line for line in lines if line["seeds"] == seeds and line["way"] == way]
            equal, unequal = sorted(own, key=lambda line: float(line["spread"]))
            values = [equal["found"], equal["false"], unequal["found"], unequal["false"], unequal["false_of_unequal"]]
            rows.append([way, str(seeds), *map(_percent, values)])
    return rows


def _hint(lines: list[Result]) -> list[list[str]]:
    rows = [
        ["true difference, in standard deviations of a run", "seeds", "have a hint", "first number", "second number"]
    ]
    for line in lines:
        numbers = [f"{_percent(line[f'power_{end}'])} ({_percent(line[f'enough_{end}'])})" for end in ("low", "high")]
        rows.append([f"{line['difference']:g}", str(line["seeds"]), _percent(line["hints"]), *numbers])
    return rows


def _diverged(lines: list[Result]) -> list[list[str]]:
    rows = [
        [
            "seeds",
            "a run has diverged",
            "all pointed out",
            "some",
            "wrongly",
            "covers",
            "covers where none has diverged",
        ]
    ]
    keys = ("occurs", "pointed_out", "some", "wrongly", "covers", "covers_without")
    return rows + [[str(line["seeds"]), *(_percent(line[key]) for key in keys)] for line in lines]


TABLES = {
    "images": (IMAGES, _images),
    "groups": (GROUPS, _images),
    "absent": (ABSENT, _images),
    "few heads": (FEW, _few),
    "identical": (IDENTICAL, _identical),
}
OTHERS = {
    "classes": (CLASSES, _classes),
    "looks": (LOOKS, _looks),
    "power": (POWER, _power),
    "hint": (HINT, _hint),
    "diverged": (DIVERGED, _diverged),
}


def _covers(share: float) -> str:
    return f"{_percent(share)}{' *' if share < GOAL else ''}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
