"""The page driven in a headless Chromium: opened from disk without a network, used with pointer and keys."""

import base64
import os
import re
import shutil

import cv2
import numpy as np
import pytest

from segnl.metrics.strata import NUM_BINS
from segnl.reports.charts import class_chart, cost_plots, difference_chart
from segnl.reports.error_map import error_map_plots
from segnl.reports.gallery import pack
from segnl.reports.page import Cell, Column, Fact, Page, write_page
from segnl.reports.plot import PlotGroup, Points, line_plot

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (./run.sh extra browser)")
CHROMIUM = os.environ.get("SEGNL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium on PATH, nor named by SEGNL_CHROMIUM", allow_module_level=True)

HEADS = ["fcn", "aspp", "non_local", "rcca"]
NAMES = [f"class {k} with a name" for k in range(19)]
TITLES = ["mIoU %", "vs fcn", "Boundary IoU %", "Ambiguous pairs %", "Parameters", "GFLOPs", "Latency, ms"]
TITLES += ["Peak memory, MiB", "Training images/s"]
NUM_IMAGES, HW = 60, (384, 768)
MAX_BYTES, MAX_SECONDS = 25_000_000, 2.0
PATIENCE_S = 120  # of a machine that does other things


def blobs(random, count):
    """Regions of `count` ids and some void, u8 `H W`, none smaller than a hand of pixels."""
    coarse = random.integers(0, count, (12, 24)).astype(np.uint8)
    coarse[random.random((12, 24)) < 0.05] = 255
    return cv2.resize(coarse, HW[::-1], interpolation=cv2.INTER_NEAREST)


def data_url(picture):
    return "data:image/jpeg;base64," + base64.b64encode(cv2.imencode(".jpg", picture)[1].tobytes()).decode()


def synthetic_images():
    """Ten images, each six times under other names and with other scores; they differ as photos do."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(10):
        label = blobs(random, len(NAMES))
        masks = [np.where(blobs(random, 2) == 1, label, blobs(random, len(NAMES))).astype(np.uint8) for _ in HEADS]
        rough = cv2.resize(random.integers(0, 256, (96, 192, 3)).astype(np.uint8), HW[::-1])
        photo = cv2.add(rough, random.integers(0, 24, (*HW, 3)).astype(np.uint8))
        thumb = data_url(cv2.resize(photo, (112, 56)))
        packed = {"label": pack(label), "masks": [pack(np.minimum(mask, 254)) for mask in masks]}
        drawn.append(
            packed | {"photo": data_url(photo), "thumb": thumb, "ambiguous": pack((label == 3).astype(np.uint8))}
        )
    return [
        drawn[i % 10]
        | {"id": f"frame_{i:03d}", "hw": list(HW), "differ": 1 - i / 100, "wrong": random.random(len(HEADS)).tolist()}
        for i in range(NUM_IMAGES)
    ]


def synthetic_page():
    random = np.random.default_rng(1)
    iou = [random.random(len(NAMES)) for _ in HEADS]
    maps = [
        [{name: random.integers(1, 99, (bins, 3, 4)) for name, bins in NUM_BINS.items()} for _ in range(2)]
        for _ in HEADS
    ]
    steps = np.arange(0.0, 500.0)
    loss = [Points(i, steps, np.exp(-steps / 200) + i / 9, np.exp(-steps / 200), 1 + 0 * steps) for i in range(4)]
    costs = {"miou_mean": 0.4, "miou_sd": 0.01, "params": 2_000_000, "train_images_per_s": 8.0}
    heads = {head: costs | {"gflops": 1.0 + i, "miou_mean": 0.4 + i / 100} for i, head in enumerate(HEADS)}
    differences = {
        name: (float(x), float(x) - 0.1, float(x) + 0.1) for name, x in zip(NAMES, iou[0] - 0.5, strict=True)
    }
    columns = [Column(title, f"What {title} means.") for title in TITLES]
    cells = [Cell("41.20", 0.41, "± 0.31 over 3 seeds"), Cell("+0.31", note="[-0.18, +0.82]")]
    cells += [Cell("0.40 M", 0.5)] * (len(TITLES) - 2)
    palette = [{"name": name, "rgb": random.integers(0, 256, 3).tolist()} for name in NAMES]
    images = synthetic_images()
    return Page(
        title="a study: fcn, aspp, non_local, rcca",
        kicker="made up for a test",
        verdicts=["3 seeds a head: no two heads are separable.", "rcca - aspp: +0.31 [-0.18, +0.82], 3 seeds."],
        facts=[("Data", "made up"), ("Commonest class everywhere", "class 3 with a name: 1.8 % mIoU")],
        columns=columns,
        rows=dict.fromkeys(HEADS, cells),
        gallery={"classes": palette, "heads": HEADS, "pairs": ["a-b"], "images": images, "available": 500},
        cost=cost_plots(heads),
        error_map=error_map_plots(maps),
        learning=PlotGroup("learning", "Learning", "How.", [line_plot("Loss", loss, x_label="steps", y_label="loss")]),
        charts=[class_chart(NAMES, iou, np.arange(19))],
        differences=[difference_chart("rcca", "fcn", differences, is_about_heads=True)],
        control=[Fact("Batches.", "SHA-256 of the first batches, seed 0: 0123456789abcdef")],
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_page(path, synthetic_page(), "inspect") == NUM_IMAGES
    return path


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=flags, timeout=1000 * PATIENCE_S
        )
        yield launched
        launched.close()


class Opened:
    """A tab with the page in it; what went wrong there; and what tests ask it."""

    def __init__(self, tab, file):
        self.tab, self.faults, self.requests = tab, [], []
        tab.set_default_timeout(1000 * PATIENCE_S)
        tab.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        tab.on("pageerror", lambda error: self.faults.append(str(error)))
        tab.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url[:80]}"))
        tab.on("request", lambda request: self.requests.append(request.url[:80]))
        tab.goto(f"file://{file}")
        tab.wait_for_selector("body[data-ready]")

    def ask(self, expression, *arguments):
        return self.tab.evaluate(expression, *arguments)

    def text(self, selector):
        return self.tab.inner_text(selector)

    def wait(self, expression):
        self.tab.wait_for_function(expression)

    def stages(self):
        """[scale, left, top] of each panel's picture, places in shares of the panel, rounded to a thousandth."""
        return self.ask("""() => [...document.querySelectorAll('.stage')].map((stage) => {
            const m = new DOMMatrix(getComputedStyle(stage).transform);
            const box = stage.getBoundingClientRect();
            return [m.a, m.a * m.e / box.width, m.a * m.f / box.height].map((x) => Math.round(1000 * x) / 1000);
        })""")

    def box(self, selector):
        element = self.tab.query_selector(selector)
        element.scroll_into_view_if_needed()
        return element.bounding_box()

    def drag(self, box, start, end):
        for (x, y), act in ((start, self.tab.mouse.down), (end, self.tab.mouse.up)):
            self.tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
            act()


@pytest.fixture
def opened(browser, file):
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    found = Opened(tab, file)
    yield found
    tab.close()
    assert found.faults == []


def test_it_opens_within_two_seconds_of_work_and_25_mb_and_asks_for_nothing(browser, file):
    tab = browser.new_page()
    client = tab.context.new_cdp_session(tab)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})  # time at work, whatever else the machine does
    found = Opened(tab, file)
    metrics = {each["name"]: each["value"] for each in client.send("Performance.getMetrics")["metrics"]}
    seconds, size = metrics["TaskDuration"], file.stat().st_size
    wall = found.ask("performance.getEntriesByName('ready')[0].startTime") / 1000
    print(
        f"page of {NUM_IMAGES} images: {size / 1e6:.1f} MB, ready after {seconds:.2f} s of work, {wall:.2f} s of clock"
    )
    tab.close()
    assert found.faults == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in found.requests if url.startswith("file:")]) == 1
    assert size < MAX_BYTES
    assert 0 < seconds < MAX_SECONDS


def test_every_head_has_its_mask_beside_image_and_label(opened):
    captions = [
        text.split("\n")[0].strip(" ●■▲◆")
        for text in opened.tab.locator(".panel:not(.wipe) figcaption").all_inner_texts()
    ]
    assert captions == ["Image", "Label", *HEADS]
    painted = opened.ask("""() => panels.map(({ screen: { canvas } }) =>
        canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((x) => x))""")
    assert painted == [False, *[True] * 5]


def test_the_slider_moves_by_drag_by_its_own_arrows_and_by_key(opened):
    share = "Number(getComputedStyle(document.querySelector('.wipe .frame')).getPropertyValue('--wipe'))"
    assert opened.ask(share) == 0.5
    opened.drag(opened.box(".wipe .frame"), (0.5, 0.5), (0.25, 0.6))
    assert opened.ask(share) == pytest.approx(0.25, abs=0.01)
    assert opened.tab.input_value("#wipe") == "25"
    opened.tab.focus("#wipe")
    opened.tab.keyboard.press("ArrowRight")
    assert opened.ask(share) == pytest.approx(0.26)
    assert opened.text("#place") == "1 / 60"  # the arrow was the slider's alone
    opened.tab.keyboard.press(".")
    assert opened.ask(share) == pytest.approx(0.31)
    left = opened.ask("getComputedStyle(document.querySelector('.layer.left')).clipPath")
    right = opened.ask("getComputedStyle(document.querySelector('.layer.right')).clipPath")
    assert "69%" in left
    assert "31%" in right


def test_the_slider_stands_between_the_two_heads_that_are_chosen(opened):
    assert opened.tab.locator(".side").all_inner_texts() == ["● fcn", "■ aspp"]
    opened.tab.select_option("#right", label="rcca")
    opened.wait("document.querySelector('.right .side').innerText.includes('rcca')")
    opened.tab.keyboard.press("x")
    opened.wait("document.querySelector('.left .side').innerText.includes('rcca')")
    same = opened.ask("""() => {
        const read = (canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const [one, other] = [wipe.sides[0], panels.at(-1)].map(({ screen }) => read(screen.canvas));
        return one.every((value, i) => value === other[i]);
    }""")
    assert same


def test_zoom_and_pan_are_the_same_in_every_panel(opened):
    opened.tab.keyboard.press("+")
    opened.tab.keyboard.press("+")
    stages = opened.stages()
    assert len(stages) == 8  # image, label, four heads and both sides of the slider
    assert stages == [[2.25, -0.625, -0.625]] * 8
    opened.drag(opened.box(".panel.head .frame"), (0.3, 0.3), (0.5, 0.4))
    stages = opened.stages()
    assert stages == [stages[0]] * 8
    assert stages[0] == pytest.approx([2.25, -0.425, -0.525], abs=0.01)
    opened.drag(opened.box(".wipe .frame"), (0.8, 0.3), (0.7, 0.3))  # away from its line a drag pans there too
    assert opened.stages()[0] == pytest.approx([2.25, -0.525, -0.525], abs=0.01)
    assert opened.tab.input_value("#wipe") == "50"
    opened.tab.keyboard.press("Shift+ArrowRight")
    assert opened.stages()[3] == pytest.approx([2.25, -0.625, -0.525], abs=0.01)
    opened.tab.keyboard.press("0")
    assert opened.stages() == [[1, 0, 0]] * 8


def test_a_double_click_and_the_wheel_with_ctrl_zoom_where_they_point(opened):
    box = opened.box(".panel.input .frame")
    x, y = box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"]
    opened.tab.mouse.dblclick(x, y)
    assert opened.stages()[0] == pytest.approx([2, -0.25, -0.75], abs=0.01)
    opened.tab.mouse.wheel(0, 0)
    opened.tab.keyboard.down("Control")
    opened.tab.mouse.wheel(0, -100)
    opened.tab.keyboard.up("Control")
    opened.wait("document.getElementById('zoom-reset').innerText !== '2.0×'")
    assert len({tuple(stage) for stage in opened.stages()}) == 1


def test_keys_go_through_images_views_and_orders_and_explain_themselves(opened):
    press = opened.tab.keyboard.press
    press("ArrowRight")
    opened.wait("document.getElementById('place').innerText === '2 / 60'")
    press("ArrowLeft")
    press("ArrowLeft")
    opened.wait("document.getElementById('place').innerText === '60 / 60'")
    press("o")
    opened.wait("document.querySelector('[data-view=overlay]').ariaPressed === 'true'")
    press("e")
    opened.wait("document.querySelector('[data-view=error]').ariaPressed === 'true'")
    press("e")  # back to what it was before
    opened.wait("document.querySelector('[data-view=overlay]').ariaPressed === 'true'")
    press("r")
    opened.wait("document.getElementById('order').value === 'wrong'")
    press("?")
    assert opened.ask("document.getElementById('help').open") is True
    assert "previous and next image" in opened.text("#help")
    press("Escape")
    assert opened.ask("document.getElementById('help').open") is False


def test_what_the_keyboard_reaches_shows_its_focus(opened):
    reached = set()
    for _ in range(100):
        opened.tab.keyboard.press("Tab")
        name, outline = opened.ask("""() => {
            const here = document.activeElement;
            return [here.id || here.parentElement?.id || here.tagName, getComputedStyle(here).outlineStyle];
        }""")
        if name == "BODY":  # past the last one
            break
        assert outline != "none", name
        reached.add(name)
    assert {"previous", "next", "outline", "zoom-in", "keys", "order", "left", "swap", "right", "wipe"} <= reached
    assert {"strip", "legend", "all", "theme"} <= reached


def alpha_of(opened, k):
    """The opacity of the first label pixel of class k, 0..255; paints nothing itself."""
    return opened.ask(
        """async (k) => {
        const ids = (await idsOf(order[state.at])).columns[1];
        const canvas = document.querySelectorAll('.panel.input canvas:not(.outline)')[1];
        return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data[4 * ids.indexOf(k) + 3];
    }""",
        k,
    )


def test_the_legend_hides_a_class_by_click_and_by_keyboard(opened):
    assert (alpha_of(opened, 0), alpha_of(opened, 1), alpha_of(opened, 2)) == (255, 255, 255)
    opened.tab.click("#legend [data-k='1']")
    opened.wait("document.querySelector('#legend [data-k=\"1\"]').ariaPressed === 'false'")
    assert (alpha_of(opened, 0), alpha_of(opened, 1)) == (255, 0)
    opened.tab.keyboard.press("v")
    opened.wait("document.querySelector('#legend [data-k=\"1\"]').ariaPressed === 'true'")
    opened.tab.keyboard.press("c")
    opened.tab.keyboard.press("ArrowRight")
    opened.tab.keyboard.press("ArrowRight")
    opened.tab.keyboard.press("Space")
    opened.wait("document.querySelector('#legend [data-k=\"2\"]').ariaPressed === 'false'")
    assert (alpha_of(opened, 1), alpha_of(opened, 2)) == (255, 0)
    opened.tab.keyboard.press("Shift+Enter")  # alone
    opened.wait("document.querySelector('#legend [data-k=\"1\"]').ariaPressed === 'false'")
    assert (alpha_of(opened, 0), alpha_of(opened, 2)) == (0, 255)


@pytest.mark.parametrize("name", ["differ", "wrong", "gain"])
def test_an_order_puts_first_the_images_that_it_names(opened, name):
    images = opened.ask("data.images.map(({ id, differ, wrong }) => ({ id, differ, wrong }))")
    worth = {
        "differ": lambda image: image["differ"],
        "wrong": lambda image: sum(image["wrong"]),
        "gain": lambda image: image["wrong"][0] - image["wrong"][3],  # of rcca over fcn
    }[name]
    opened.tab.select_option("#right", label="rcca")
    opened.tab.select_option("#order", value=name)
    opened.wait(f"document.getElementById('order').value === '{name}'")
    shown = opened.tab.locator("#strip button").evaluate_all("buttons => buttons.map((button) => button.title)")
    assert shown == [image["id"] for image in sorted(images, key=worth, reverse=True)]
    assert "gain of rcca over fcn" in opened.ask("document.querySelector('#order option[value=gain]').textContent")


def test_a_pixel_pointed_at_names_its_class_in_every_panel(opened):
    box = opened.box(".panel.head .frame")
    opened.tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    opened.wait("document.getElementById('panels').classList.contains('is-probing')")
    for text in opened.tab.locator(".panel:not(.wipe) .probe").all_inner_texts()[1:]:
        assert re.match(r"\s*(class \d+ with a name|ignored)", text)


def test_a_gain_that_would_read_0_is_called_none(opened):
    said = opened.ask("[0.04, -0.04, 0.26, -3].map(inWords)")
    assert said == ["as many", "as many", "0.3 points more", "3.0 points fewer"]


def test_marks_of_equal_values_do_not_hide_one_another(opened):
    tops = "[...document.querySelectorAll('#classes-1 tr:first-child b')].map((b) => b.getBoundingClientRect().top)"
    assert len({round(top, 1) for top in opened.ask(tops)}) == len(HEADS)


def test_the_address_leads_back_to_what_one_sees(browser, file, opened):
    opened.tab.select_option("#left", label="rcca")
    opened.tab.keyboard.press("e")
    opened.tab.keyboard.press("ArrowRight")
    opened.wait("location.hash.includes('image=2') && location.hash.includes('left=rcca')")
    tab = browser.new_page()
    again = Opened(tab, f"{file}{opened.ask('location.hash')}")
    assert again.text("#place") == "2 / 60"
    assert again.tab.locator(".left .side").inner_text() == "◆ rcca"
    assert again.ask("document.querySelector('[data-view=error]').ariaPressed") == "true"
    tab.close()


OVERFLOWING = """() => [...document.querySelectorAll('main *, header *, footer *')].filter((node) => {
    if (node.closest('.scroll, .strip-frame, pre, svg, dialog, .frame, .unseen') || !node.offsetParent) return false;
    const box = node.getBoundingClientRect();
    const isCut = getComputedStyle(node).overflowX === 'hidden' && node.scrollWidth > node.clientWidth + 1;
    return box.right > innerWidth + 1 || box.left < -1 || (isCut && node.clientWidth && !node.matches('.probe'));
}).map((node) => `${node.tagName} ${node.id} ${node.className} ${node.textContent.trim().slice(0, 30)}`)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 800, 390])
def test_nothing_leaves_the_screen(browser, file, width, scheme):
    tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    found = Opened(tab, file)
    assert found.ask("document.documentElement.scrollWidth") <= width
    assert found.ask(OVERFLOWING) == []
    ink, paper = found.ask("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")
    tab.close()
    assert found.faults == []
