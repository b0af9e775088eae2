import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from segnl.reports import page as module
from segnl.reports.chart_style import mark
from segnl.reports.gallery import pack
from segnl.reports.page import Cell, Column, DifferenceChart, DotChart, DotRow, Fact, Page, render, write_page


def picture(seed):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 11, 3)).astype(np.uint8)).save(out, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def gallery(count):
    random = np.random.default_rng(0)

    def ids():
        return pack(random.integers(0, 2, (7, 11)).astype(np.uint8))

    images = [
        {
            "id": f"frame{i}",
            "hw": [7, 11],
            "photo": picture(i),
            "thumb": picture(i),
            "label": ids(),
            "masks": [ids(), ids()],
            "ambiguous": ids(),
            "differ": 0.5,
            "wrong": [0.25, None],
        }
        for i in range(count)
    ]
    classes = [{"name": "</script><b>evil</b>", "rgb": [1, 2, 3]}, {"name": "sky", "rgb": [9, 9, 9]}]
    return {"classes": classes, "heads": ["fcn", "rcca"], "pairs": ["a-b"], "images": images, "available": count + 1}


def page(count=3):
    return Page(
        title="fcn & <rcca>",
        kicker="a test",
        verdicts=["One seed."],
        facts=[("Data", "here")],
        columns=[Column("mIoU %", "What it is.")],
        rows={"fcn": [Cell("40.0", 0.4)], "rcca": [Cell("43.0", 0.43, "± 1", is_best=True)]},
        gallery=gallery(count),
        charts=[
            DotChart("Classes", "Meaning.", [DotRow("sky", [0.25, None]), DotRow("none", [None, None])], guide=0.5)
        ],
        control=[Fact("Batches", "hash", holds=False)],
    )


class Parsed(HTMLParser):
    """Tags with attributes, and the text of each `<script>`."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.open == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self.open = None


def test_a_page_loads_nothing_from_anywhere():
    text = render(page())
    parsed = Parsed(text)
    for _, attributes in parsed.tags:
        for name in ("src", "href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    styles_and_script = re.sub(r'"data:[^"]*"', '""', text)
    for word in ("http://", "https://", "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert word not in styles_and_script.replace("http://www.w3.org/2000/svg", ""), word


def test_class_names_cannot_inject_html():
    parsed = Parsed(render(page()))
    payload = json.loads(parsed.scripts[0])
    assert payload["classes"][0]["name"] == "</script><b>evil</b>"
    assert len(parsed.scripts) == 2
    assert ("b", {}) not in parsed.tags
    assert "fcn &amp; &lt;rcca&gt;" in render(page())


def test_every_id_is_unique_and_every_reference_exists():
    tags = Parsed(render(page())).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        reference = attributes.get("aria-labelledby") or (attributes.get("href") or "")[1:]
        if attributes.get("href", "#").startswith("#") and reference:
            assert reference in ids


def test_every_column_has_its_meaning_and_undefined_is_a_dash():
    text = render(page())
    assert "<dt>mIoU %</dt><dd>What it is.</dd>" in text
    assert text.count('<span class="none"') == 3
    assert "Batches" in text
    assert 'class="broken"' in text


def test_a_difference_is_clear_only_where_its_interval_excludes_0():
    rows = {
        "car": (0.04, 0.02, 0.06),
        "road": (0.01, -0.01, 0.03),
        "pole": (-0.02, None, None),
        "wall": (-0.03, -0.04, -0.02),
        "sky": (None, None, None),
    }
    text = render(replace(page(), differences=[DifferenceChart("t", "m", rows, 0.06, "worse", "better")]))
    lines = re.findall(r'<tr( class="is-clear")?>\s*<th scope="row">(\w+)</th>', text)
    assert [name for is_clear, name in lines if is_clear] == ["car", "wall"]
    assert '+4.0 <span class="value">[+2.0, +6.0]</span>' in text
    assert "<td>-2.0</td>" in text
    assert "<td>–</td>" in text
    assert '<i class="interval" style="left: 66.67%; right: 0.00%"></i>' in text
    assert text.count('<i class="interval"') == 3


def test_each_of_eight_heads_has_a_colour_a_shape_and_a_dash_of_its_own():
    marks = [mark(i) for i in range(8)]
    for name in ("colour", "shape", "dash", "marker"):
        assert len({getattr(mark, name) for mark in marks}) == 8
    assert mark(64) == mark(0)


def test_no_two_of_64_heads_have_colour_and_shape_in_common():
    marks = [mark(i) for i in range(64)]
    assert len({(mark.colour, mark.shape) for mark in marks}) == len({(mark.colour, mark.dash) for mark in marks}) == 64


# Linear RGB as people see it who lack one kind of cone; Machado, Oliveira and Fernandes 2009, severity 1.
SIGHT = {
    "all cones": np.eye(3),
    "no red ones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green ones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue ones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab_of(colour, sight):
    """CIELAB of `#rrggbb` as seen with these cones."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = to_xyz @ np.clip(np.array(sight) @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("cones", SIGHT)
def test_colour_blind_readers_can_tell_the_colours_apart(cones):
    seen = [lab_of(mark(i).colour, SIGHT[cones]) for i in range(8)]
    nearest = min(np.linalg.norm(seen[i] - seen[j]) for i in range(8) for j in range(i))
    assert nearest > 12  # a difference of about 2 is the least that is noticed side by side


def test_a_too_large_page_leaves_out_the_last_images(tmp_path, monkeypatch):
    assert write_page(tmp_path / "all.html", page(6), "inspect") == 6
    full = (tmp_path / "all.html").stat().st_size
    monkeypatch.setattr(module, "MAX_BYTES", full - 2000)
    shown = write_page(tmp_path / "fewer.html", page(6), "inspect")
    assert 0 < shown < 6
    assert (tmp_path / "fewer.html").stat().st_size <= full - 2000
    sample_ids = re.findall(r'"id": ?"(frame\d)"', (tmp_path / "fewer.html").read_text())
    assert sample_ids == [f"frame{i}" for i in range(shown)]


@pytest.mark.parametrize("count", [2, 0])
def test_the_script_runs_in_a_browser_to_its_end(tmp_path, count):
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no chromium on PATH")
    write_page(tmp_path / "page.html", page(count), "inspect")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{tmp_path / 'page.html'}#image=2&view=error&outline=1"],
        capture_output=True, text=True, timeout=900, check=True,
    )  # fmt: skip
    tags = Parsed(done.stdout).tags
    gallery_tag = next(attributes for _, attributes in tags if attributes.get("id") == "gallery")
    assert ("hidden" in gallery_tag) == (count == 0)
    if count:
        assert ("body", {"data-ready": "yes"}) in tags
        kinds = [attributes["class"] for _, attributes in tags if attributes.get("class", "").startswith("panel ")]
        assert kinds == ["panel wipe", *["panel input"] * 2, *["panel head"] * 2]
        assert "2 / 2" in done.stdout
