"""The table of docs/probe.md, from benchmarks/results/probe/."""

import json
from pathlib import Path
from typing import Any

from command import commit_text

BEGIN, END = "<!-- table: written by benchmarks/pages.py -->", "<!-- end of the table -->"
REGIONS = ("near", "cross", "off")


def probe_page(text: str, results: Path) -> str:
    """Returns the page's text with the tables between the two marks made anew."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    files = sorted((results / "probe").glob("*.json"), key=lambda path: (path.stem != "reach", path.stem))
    tables = [line for path in files for line in _table(json.loads(path.read_text()))]
    return "\n".join(
        [f"{before}{BEGIN}", *(tables or ["", "Not run yet: `./run.sh bench probe`.", ""]), f"{END}{after}"]
    )


def _table(result: dict[str, Any]) -> list[str]:
    heads = result["heads"]
    regions = [name for name in (*REGIONS, "all") if any(head["accuracy"][name] is not None for head in heads.values())]
    seeds = sorted({head["seeds"] for head in heads.values()})
    shown = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    machine = result["machine"]
    lines = [
        "",
        f"Task `{result['task']}`, {result['steps']} steps, {shown} seed{'s' if seeds != [1] else ''} per head, chance "
        f"{100 * result['chance']:.0f} %: accuracy in percent, in brackets the 95 % interval for new seeds.",
        "",
        f"| head | {' | '.join(regions)} | seeds | parameters | GFLOPs |",
        "|---" * (len(regions) + 4) + "|",
    ]
    for name, head in heads.items():
        cells = [name, *(_cell(head, region) for region in regions), str(head["seeds"])]
        cells += [f"{head['params']:,}", f"{head['gflops']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    origin = f"{machine['cpu']}, torch {result['versions']['torch']}, commit {commit_text(result['git'])}"
    return [*lines, "", f"`./run.sh bench probe --tasks {result['task']}`; {origin}.", ""]


def _cell(head: dict[str, Any], region: str) -> str:
    value, (low, high) = head["accuracy"][region], head["interval"][region]
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + ("" if low is None else f" [{100 * low:.0f}, {100 * high:.0f}]")
