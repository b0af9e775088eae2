"""The page's attention driven in a headless Chromium: by click, touch and keys, wide and narrow, light and dark."""

import base64
import io
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from segnl.evaluation.attention import ImageAttention
from segnl.models.segmenter import Segmenter, model_config
from segnl.reports.attention import attention_of, image_rows
from segnl.reports.gallery import pack
from segnl.reports.page import Cell, Column, Page, write_page

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (./run.sh extra browser)")
CHROMIUM = os.environ.get("SEGNL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium on PATH, nor named by SEGNL_CHROMIUM", allow_module_level=True)

HW = (56, 88)  # a map of 7 x 11
HEADS = {"rcca": {"recurrence": 2}, "non_local": {"pairwise": "dot_product"}, "psp": {}}
PATIENCE_MS = 120_000  # of a machine that does other things


def network(head, **settings):
    torch.manual_seed(0)
    backbone = {"name": "resnet", "blocks": [1, 1, 1, 1], "depth": None, "block": "basic", "width": 0.125}
    backbone |= {"stem": {"kind": "plain", "channels": 8}, "output_stride": 8}
    mapping = {"backbone": backbone, "head": {"name": head, "channels": 8, **settings}, "aux": None}
    model = Segmenter(model_config(mapping, file="test"), 3, seed=0).eval()
    for name, parameter in model.head.named_parameters():
        if name.endswith(("query_conv.weight", "key_conv.weight", "theta.weight", "phi.weight")):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def data_url(picture):
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@pytest.fixture(scope="module")
def networks():
    return {name: network(name, **settings) for name, settings in HEADS.items()}


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*HW, 3)).astype(np.uint8) for _ in range(2)]


@pytest.fixture(scope="module")
def file(networks, images, tmp_path_factory):
    label = np.repeat(np.arange(2, dtype=np.uint8), 44)[None].repeat(56, axis=0)  # left half 0, right half 1
    label[:, -8:] = 255
    entries = []
    for n, image in enumerate([*images, images[0]]):
        entry = {"id": f"frame_{n}", "hw": list(HW), "photo": data_url(image), "thumb": data_url(image)}
        entry |= {
            "label": pack(label),
            "masks": [pack(label)] * 3,
            "ambiguous": None,
            "differ": 0.5,
            "wrong": [0.1] * 3,
        }
        if n < 2:  # the last image has no rows
            rows = [image_rows(ImageAttention(model, image), label, 3) for model in networks.values()]
            heads = [[own.to_dict() for own in head] for head in rows]
            entry["attention"] = {"start": [0.5, 0.25], "heads": heads}
        entries.append(entry)
    numbers = {"distance": 0.2, "distance_px": 20.0, "entropy_bits": 4.0, "own_class": 0.5}
    numbers |= {f"{key}_uniform": value for key, value in numbers.items()} | {"queries": 9}
    measure = {"kind": "softmax", "within": [0.5, 1.0], "by_class": {"road": numbers}} | numbers
    averages = {
        name: {"num_images": 2, "limits": [0.5, 1.0], "measures": {own: measure for own in names}}
        for name, names in {
            "rcca": ["all hops", "hop 1", "hop 2", "receptive field"],
            "non_local": ["attention", "receptive field"],
            "psp": ["receptive field"],
        }.items()
    }
    classes = [{"name": name, "rgb": [60 * k, 99, 30]} for k, name in enumerate(("road", "sky", "car"))]
    page = Page(
        title="attention",
        kicker="made up for a test",
        verdicts=["None."],
        facts=[("Data", "made up")],
        columns=[Column("mIoU %", "What it is.")],
        rows={head: [Cell("40.0", 0.4)] for head in HEADS},
        gallery={"classes": classes, "heads": list(HEADS), "pairs": [], "images": entries, "available": 3},
        attention=attention_of(averages),
    )
    path = tmp_path_factory.mktemp("attention") / "report.html"
    write_page(path, page, "inspect")
    return path


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags, timeout=PATIENCE_MS)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser, file):
    """Opens the page; fails at the end where its console had an error or anything was asked of the network."""
    tabs, faults = [], []

    def open_it(**settings):
        tab = browser.new_page(**({"viewport": {"width": 1440, "height": 900}} | settings))
        tabs.append(tab)
        tab.set_default_timeout(PATIENCE_MS)
        tab.on("console", lambda message: message.type == "error" and faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda own: own.url.startswith(("file:", "data:")) or faults.append(own.url[:80]))
        tab.goto(f"file://{file}")
        tab.wait_for_selector("body[data-looks]")
        return tab

    yield open_it
    for tab in tabs:
        tab.close()
    assert faults == []


def ring(tab, panel):
    """Place of the ring in a panel of the section, as fractions: (row, column)."""
    return tab.evaluate(
        """(i) => {
        const frame = document.querySelectorAll('#look-panels .frame')[i].getBoundingClientRect();
        const ring = document.querySelectorAll('#look-panels .cross')[i].getBoundingClientRect();
        return [
            (ring.top + ring.height / 2 - frame.top) / frame.height,
            (ring.left + ring.width / 2 - frame.left) / frame.width,
        ];
    }""",
        panel,
    )


def point(tab, panel, row, column):
    """Page coordinates of a place in a panel, given as fractions."""
    frame = tab.locator("#look-panels .frame").nth(panel)
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    return box["x"] + column * box["width"], box["y"] + row * box["height"]


def cell(row, column):
    return pytest.approx([(row + 0.5) / 7, (column + 0.5) / 11], abs=0.01)


def settle(tab, row, column):
    tab.wait_for_function("([y, x]) => Math.abs(look.y - y) < 0.02 && Math.abs(look.x - x) < 0.02", arg=[row, column])
    tab.evaluate("paintLook()")


def dense_routing(model, image):
    head, block = model.head, model.head.shell.context
    features = ImageAttention(model, image)
    x = head.shell.before_context(head.concat_stages(features.stages))
    product = torch.eye(77, dtype=torch.float64)
    for _ in range(block.recurrence):
        query, key = (conv(x)[0].double() for conv in (block.query_conv, block.key_conv))
        matrix = torch.zeros(77, 77, dtype=torch.float64)
        for i, j in np.ndindex(7, 11):
            cross = [(i, other) for other in range(11)] + [(other, j) for other in range(7) if other != i]
            scores = torch.stack([query[:, i, j] @ key[:, r, c] for r, c in cross])
            for (r, c), weight in zip(cross, scores.softmax(dim=0), strict=True):
                matrix[i * 11 + j, r * 11 + c] = weight
        product = matrix @ product
        x = block.hop(x)
    return product.numpy()


@torch.no_grad()
def test_the_row_that_the_page_decodes_equals_the_dense_product_on_7_x_11(open_page, networks, images):
    tab = open_page()
    dense = dense_routing(networks["rcca"], images[0])
    for row, column in ((0, 10), (3, 9), (6, 0)):
        weights = tab.evaluate(
            """async ([y, x]) => {
            const measure = measuresOf(0)[0];
            return weightsOf(measure, await rowAt(measure, y, x));
        }""",
            [(row + 0.5) / 7, (column + 0.5) / 11],
        )
        expected = dense[row * 11 + column]
        largest = expected.max()
        bound = np.sqrt(expected * largest) / 255 + largest / 260_100 + 1e-6
        assert (np.abs(np.array(weights) - expected) <= bound).all()


def test_a_click_in_any_picture_chooses_the_pixel_for_all(open_page):
    tab = open_page()
    for panel, (row, column) in ((0, (3, 9)), (2, (1, 2))):
        tab.mouse.click(*point(tab, panel, (row + 0.5) / 7, (column + 0.5) / 11))
        settle(tab, (row + 0.5) / 7, (column + 0.5) / 11)
        assert [ring(tab, i) for i in range(3)] == [cell(row, column)] * 3
    assert "This pixel is" in tab.inner_text("#look-pixel")
    assert "road" in tab.inner_text("#look-pixel")
    tab.mouse.click(*point(tab, 0, 0.5, 0.97))
    settle(tab, 0.5, 0.97)
    assert "ignored" in tab.inner_text("#look-pixel")
    assert not re.search("NaN|undefined", tab.inner_text("#look-panels"))


def test_two_hops_fill_the_map_and_one_hop_paints_a_cross(open_page):
    tab = open_page()
    tab.mouse.click(*point(tab, 0, 3.5 / 7, 8.5 / 11))
    settle(tab, 3.5 / 7, 8.5 / 11)

    def painted():
        return tab.evaluate("""() => {
            const canvas = document.querySelectorAll('#look-panels canvas')[0];
            const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return Array.from({ length: 77 }, (_, j) => bytes[4 * j + 3] > 0);
        }""")

    assert all(painted())
    tab.select_option("#look-panels .panel.head select >> nth=0", label="hop 1")
    tab.wait_for_function("look.measure[0] === 1")
    tab.evaluate("paintLook()")
    cross = [(i == 3) or (j == 8) for i in range(7) for j in range(11)]
    assert painted() == cross


def test_signed_weights_of_0_are_clear_and_both_signs_have_their_colour(open_page):
    tab = open_page()
    negative, zero, positive = tab.evaluate("[1, 128, 255].map((code) => scaleColours(true)[code])")
    assert zero >> 24 == 0
    assert (negative >> 16 & 255) > (negative & 255)  # blue above red; pixels lie as abgr
    assert (positive & 255) > (positive >> 16 & 255)
    assert "+ largest" in tab.inner_text("#look-keys")
    assert "Signed" in tab.inner_text("#look-meaning")
    assert "effective receptive field" in tab.locator("#look-panels .panel").nth(3).inner_text()


def test_keys_move_the_pixel_in_the_section_and_the_images_elsewhere(open_page):
    tab = open_page()
    tab.focus("#look-panels .source .frame")
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    tab.mouse.click(*point(tab, 0, 3.5 / 7, 5.5 / 11))
    settle(tab, 3.5 / 7, 5.5 / 11)
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowUp")
    settle(tab, 2.5 / 7, 6.5 / 11)
    assert ring(tab, 1) == cell(2, 6)
    tab.keyboard.press("Shift+ArrowLeft")
    settle(tab, 2.5 / 7, 1.5 / 11)
    tab.keyboard.press("Shift+ArrowLeft")  # no further than the border
    settle(tab, 2.5 / 7, 0.5 / 11)
    assert tab.inner_text("#place") == "1 / 3"
    tab.click("#look-next")
    tab.wait_for_function("document.getElementById('look-place').innerText === '2 / 2'")
    tab.click("#all")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("document.getElementById('place').innerText === '2 / 3'")
    assert tab.inner_text("#look-place") == "2 / 2"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_a_tap_chooses_a_pixel_and_nothing_leaves_the_screen(open_page, width, scheme):
    tab = open_page(viewport={"width": width, "height": 844}, color_scheme=scheme, has_touch=True)
    tab.touchscreen.tap(*point(tab, 0, 5.5 / 7, 2.5 / 11))
    settle(tab, 5.5 / 7, 2.5 / 11)
    assert [ring(tab, i) for i in range(3)] == [cell(5, 2)] * 3
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    wide = """() => [...document.querySelectorAll('#look, #look *')].filter((node) => {
        const box = node.getBoundingClientRect();
        return !node.closest('.frame') && node.offsetParent && (box.right > innerWidth + 1 || box.left < -1);
    }).map((node) => node.className)"""
    assert tab.evaluate(wide) == []
    sizes = tab.evaluate(
        "[...document.querySelectorAll('#look button, #look select')].map((node) => node.offsetHeight)"
    )
    assert min(sizes) >= (40 if width == 390 else 30)
