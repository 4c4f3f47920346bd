"""Painting with symbols: the page's decoder, and what the hand does to the grid."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SITE

from vae_tutorial import load_run

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first"),
    pytest.mark.xdist_group("browser"),
]
RUN, PAGE, WEIGHTS = "fashion-mnist/vqvae", "notebooks/12_pixelcnn.html", "fashion-mnist-vqvae.bin"
DECODED = """async ([name, grids]) => {
    const [live, paint] = await Promise.all(['live', 'paint'].map((n) => import(`/live/${n}.js`)));
    const { layers } = await live.model(name);
    return grids.map((codes) => Array.from(paint.decode(layers, codes)));
}"""
TIMED = """async (name) => {
    const [live, paint] = await Promise.all(['live', 'paint'].map((n) => import(`/live/${n}.js`)));
    const { layers } = await live.model(name);
    return Array.from({ length: 100 }, (_, i) => {
        const codes = Array.from({ length: 49 }, (_, place) => (7 * place + i) % 128);
        const start = performance.now();
        paint.decode(layers, codes);
        return performance.now() - start;
    });
}"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def model():
    return load_run(RUN, root=ROOT / "artifacts").model


@pytest.fixture(scope="module")
def symbols():
    path = ROOT / "book" / "_extra" / "live" / "symbols.json"
    return json.loads(path.read_text(encoding="utf-8"))[RUN]


def figure(tab):
    """The figure, once it is there, with its grid in the middle of the window."""
    tab.locator("[data-live=paint]").scroll_into_view_if_needed()
    tab.locator(".vae-live-paint").wait_for(timeout=20_000)
    tab.wait_for_timeout(200)
    grid = tab.locator(".vae-paint-grid canvas")
    grid.evaluate("(canvas) => canvas.scrollIntoView({ block: 'center', behavior: 'instant' })")
    tab.wait_for_timeout(200)
    return tab.locator(".vae-live-paint")


def centre(tab, row, column, of="grid"):
    """The middle of a place, in the window."""
    box = tab.locator(f".vae-paint-{of} canvas").bounding_box()
    return box["x"] + (column - 0.5) / 7 * box["width"], box["y"] + (row - 0.5) / 7 * box["height"]


def state(tab):
    """What the figure says: the symbol chosen, where the hand is and what is there, and the rest."""
    tab.wait_for_timeout(100)
    text = tab.locator(".vae-live-paint output").inner_text()
    numbers, rest = re.match(r"(Chosen.+?holds symbol \d+\.) (.+)", text).groups()
    return *map(int, re.findall(r"\d+", numbers)), rest


def symbols_on(tab):
    """The 49 symbols of the grid, asked for with the arrow keys."""
    tab.locator(".vae-paint-grid canvas").focus()
    for key in ["ArrowUp", "ArrowLeft"] * 6:
        tab.keyboard.press(key)
    found = []
    for row in range(7):
        for column in range(7):
            if column:
                tab.keyboard.press("ArrowRight" if row % 2 == 0 else "ArrowLeft")
            found.append(state(tab)[1:4])
        tab.keyboard.press("ArrowDown")
    assert len(set(found)) == 49
    return [symbol for _, _, symbol in sorted(found)]


def drawn(tab):
    """The pixels of the decoded picture, from 0 to 1, away from the outlined place."""
    return torch.tensor(tab.locator(".vae-paint-picture canvas").evaluate("""(canvas) => {
        const step = canvas.width / 28;
        const { data, width } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.width);
        const at = (y, x) => data[4 * (Math.floor((y + 0.5) * step) * width + Math.floor((x + 0.5) * step))];
        return Array.from({ length: 28 }, (_, y) => Array.from({ length: 28 }, (_, x) => at(y, x) / 255));
    }"""))  # fmt: skip


def test_the_page_draws_what_pytorch_draws(opened, model, symbols):
    grids = torch.randint(0, 128, (60, 49), generator=torch.Generator().manual_seed(0))
    grids = torch.cat([grids, torch.tensor([garment["codes"] for garment in symbols["garments"]])])
    pictures = opened().evaluate(DECODED, [WEIGHTS.removesuffix(".bin"), grids.tolist()])
    with torch.no_grad():
        expected = model.decode(grids.view(-1, 7, 7)).flatten(1)
    error = (torch.tensor(pictures) - expected).abs().max()
    print(f"largest error of {len(grids)} pictures: {error:.1e}")
    assert error < 2e-3
    assert expected.std(0).median() > 0.1  # and not the same thing everywhere


def test_each_symbol_is_in_the_alphabet_once_from_dark_to_bright(symbols):
    assert sorted(symbols["order"]) == list(range(128))
    tiles = torch.tensor(symbols["tiles"], dtype=torch.float)[symbols["order"]]
    assert tiles.shape == (128, 16)
    assert (tiles.mean(1).diff() > -0.5).all()  # sorted before they were rounded
    assert {len(garment["codes"]) for garment in symbols["garments"]} == {49}


def test_tiles_are_what_the_decoder_draws_of_the_symbol_in_garments(model, symbols):
    """Ten garments instead of all test images: near, for the symbols that they have often."""
    codes = torch.tensor([garment["codes"] for garment in symbols["garments"]]).view(-1, 7, 7)
    with torch.no_grad():
        blocks = torch.nn.functional.pixel_unshuffle(model.decode(codes), 4).movedim(1, -1)
    tiles = torch.tensor(symbols["tiles"])[codes] / 255  # (10, 7, 7, 16)
    other = torch.tensor(symbols["tiles"])[(codes + 1) % 128] / 255
    error, chance = ((blocks - these).square().mean().sqrt() for these in (tiles, other))
    assert error < 0.15
    assert chance > 2 * error


def test_it_is_loaded_when_it_is_seen_and_the_still_figure_stays(opened):
    tab = opened()
    tab.wait_for_timeout(500)
    assert not [path for path in tab.asked if path.endswith((".bin", "paint.js"))]
    live = figure(tab)
    assert [p.split("/")[-1] for p in tab.asked if p.endswith(".bin")] == [WEIGHTS]
    still = tab.locator("[data-live=paint] figure img.only-light")
    assert still.is_visible()
    assert still.bounding_box()["y"] < live.bounding_box()["y"]
    assert not [path for path in tab.asked if "symbols.json" in path]
    assert tab.evaluate(OVERFLOW) <= 0
    assert not tab.said


def test_a_click_paints_and_the_picture_follows(opened, model, symbols):
    tab = opened()
    live = figure(tab)
    chosen, *_ = state(tab)
    tab.mouse.click(*centre(tab, 2, 6))
    now = state(tab)
    assert now[:4] == (chosen, 2, 6, chosen)
    assert "1 place" in now[4]
    changed, pixels, percent, outside = map(int, re.findall(r"\d+", now[4])[1:])
    assert (pixels, percent) == (784, 5)
    before = symbols["garments"][2]["codes"]
    after = [chosen if place == 1 * 7 + 5 else code for place, code in enumerate(before)]
    with torch.no_grad():
        old, new = model.decode(torch.tensor([before, after]).view(-1, 7, 7))[:, 0]
    moved = (new - old).abs() >= 0.05
    own = torch.zeros(28, 28, dtype=torch.bool)
    own[4:8, 20:24] = True
    assert changed == pytest.approx(int(moved.sum()), abs=1)
    assert outside == pytest.approx(int((moved & ~own).sum()), abs=1)
    tab.mouse.click(*centre(tab, 7, 1, of="picture"))  # in the picture, too
    assert state(tab)[:4] == (chosen, 7, 1, chosen)
    after[42] = chosen
    with torch.no_grad():
        new = model.decode(torch.tensor(after).view(1, 7, 7))[0, 0]
    assert (drawn(tab) - new).abs().median() < 5e-3  # outlines hide a few
    live.get_by_role("button", name="Ankle boot").click()
    assert symbols_on(tab) == symbols["garments"][9]["codes"]
    assert not tab.said


def test_a_drag_paints_all_that_it_passes_and_moving_alone_nothing(opened):
    tab = opened()
    figure(tab)
    before = symbols_on(tab)
    tab.mouse.move(*centre(tab, 4, 2))
    tab.mouse.move(*centre(tab, 4, 6))
    assert symbols_on(tab) == before
    tab.mouse.move(*centre(tab, 4, 2))
    tab.mouse.down()
    tab.mouse.move(*centre(tab, 4, 6), steps=20)
    tab.mouse.up()
    chosen, *_, said = state(tab)
    assert "5 places" in said
    tab.mouse.move(*centre(tab, 6, 2))
    painted = {3 * 7 + column for column in range(1, 6)}
    after = [chosen if place in painted else code for place, code in enumerate(before)]
    assert symbols_on(tab) == after


def test_keys_move_choose_paint_and_take(opened, symbols):
    tab = opened()
    figure(tab)
    order = symbols["order"]
    tab.locator(".vae-paint-grid canvas").focus()
    chosen, row, column, _, _ = state(tab)
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("ArrowLeft")
    assert state(tab)[1:3] == (row - 1, column - 1)
    tab.keyboard.press("]")
    tab.keyboard.press("]")
    tab.keyboard.press("[")
    following = order[order.index(chosen) + 1]
    assert state(tab)[0] == following
    tab.keyboard.press("Enter")
    assert state(tab)[3] == following
    tab.keyboard.press("ArrowRight")
    there = state(tab)[3]
    tab.keyboard.press("Shift+Enter")
    assert state(tab)[0] == there
    tab.keyboard.press("Tab")  # to the alphabet
    tab.keyboard.press("ArrowLeft")
    assert state(tab)[0] == order[order.index(there) - 1]
    tab.keyboard.press("ArrowUp")
    assert order.index(there) - order.index(state(tab)[0]) > 10
    alphabet = tab.locator(".vae-paint-alphabet canvas")
    alphabet.click(position={"x": 5, "y": 5})
    assert state(tab)[0] == order[0]
    tab.locator(".vae-paint-grid canvas").click(position={"x": 5, "y": 5}, modifiers=["Shift"])
    assert state(tab)[0] == state(tab)[3]
    assert not tab.said


def test_the_buttons_shuffle_and_draw(opened, symbols):
    tab = opened()
    live = figure(tab)
    start = symbols["garments"][2]["codes"]
    live.get_by_role("button", name="Shuffle").click()
    shuffled = symbols_on(tab)
    assert shuffled != start
    assert sorted(shuffled) == sorted(start)
    live.get_by_role("button", name="Random").click()
    assert len(set(symbols_on(tab))) > 30  # 49 out of 128: about 41 different ones


def test_a_finger_paints_sideways_and_scrolls_upwards(opened):
    tab = opened(has_touch=True, viewport={"width": 360, "height": 800})
    figure(tab)
    assert tab.evaluate(OVERFLOW) <= 0
    chosen, *_ = state(tab)
    before = symbols_on(tab)
    tab.touchscreen.tap(*centre(tab, 1, 2))
    assert state(tab)[:4] == (chosen, 1, 2, chosen)
    hand = tab.context.new_cdp_session(tab)

    def touch(kind, *points):
        at = [{"x": x, "y": y} for x, y in points]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
        tab.wait_for_timeout(30)

    def swipe(place, right, down):
        """How far the page scrolls, and where the grid is another one than at first."""
        x, y = centre(tab, *place)
        top = tab.evaluate("scrollY")
        touch("touchStart", (x, y))
        for i in range(1, 10):
            touch("touchMove", (x + i / 9 * right, y + i / 9 * down))
        touch("touchEnd")
        tab.wait_for_timeout(300)
        scrolled, now = tab.evaluate("scrollY") - top, symbols_on(tab)
        return scrolled, {i for i in range(49) if now[i] != before[i]}

    scrolled, painted = swipe((4, 4), 0, -108)
    assert scrolled > 60
    assert painted == {1}  # by the tap
    scrolled, painted = swipe((6, 2), 84, 0)  # three columns
    assert scrolled == 0
    assert {5 * 7 + 1, 5 * 7 + 2, 5 * 7 + 3} <= painted
    assert not tab.said


def test_nothing_is_there_without_scripts_and_in_print(opened):
    assert (
        opened(java_script_enabled=False)
        .locator("[data-live=paint] figure img.only-light")
        .is_visible()
    )
    tab = opened()
    figure(tab)
    tab.emulate_media(media="print")
    assert tab.locator("[data-live=paint] figure img.only-light").is_visible()
    assert not tab.locator(".vae-live-paint").is_visible()


def test_only_a_vqvae_with_its_own_symbols_can_be_painted_with(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    live = pytest.importorskip("live", reason="the book's tools are not installed")
    (tmp_path / "book" / "_extra" / "live").mkdir(parents=True)
    (tmp_path / "artifacts" / RUN).mkdir(parents=True)
    copied = Path("book", "_extra", "live", "symbols.json")
    (tmp_path / copied).write_bytes((ROOT / copied).read_bytes())
    about = json.loads((ROOT / "artifacts" / RUN / "run.json").read_text(encoding="utf-8"))

    for change, words in (
        ({"weights_sha256": "another"}, "make_symbols"),
        ({"identity": {"model": {"class": "models.vae.VAE"}}}, "vae.VAE"),
    ):
        path = tmp_path / "artifacts" / RUN / "run.json"
        path.write_text(json.dumps(about | change), encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            live.alphabet(tmp_path, RUN)


def test_how_long_a_frame_takes(opened, record_property):
    """Measured and said, not asserted: machines differ."""
    tab = opened()
    figure(tab)
    times = tab.evaluate(TIMED, WEIGHTS.removesuffix(".bin"))
    print(f"one decoded grid: {sorted(times)[50]:.1f} ms (median of 100)")
    tab.evaluate("""() => {
        window.times = [];
        const request = window.requestAnimationFrame.bind(window);
        window.requestAnimationFrame = (draw) => request((at) => {
            const start = performance.now();
            draw(at);
            times.push(performance.now() - start);
        });
    }""")
    tab.mouse.move(*centre(tab, 1, 1))
    tab.mouse.down()
    for row in range(1, 8):
        tab.mouse.move(*centre(tab, row, 7 if row % 2 else 1), steps=15)
        tab.mouse.move(*centre(tab, min(7, row + 1), 7 if row % 2 else 1), steps=3)
    tab.mouse.up()
    times = torch.tensor(tab.evaluate("times"))
    median, slow = times.quantile(0.5).item(), times.quantile(0.95).item()
    record_property("milliseconds", median)
    print(f"{len(times)} frames: {median:.1f} ms (median), {slow:.1f} ms (95 %)")
    assert median > 0
