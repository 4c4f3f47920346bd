"""Chapter 9's figure under the reader's hand: data space and latent space, side by side."""

import json
import re
from importlib import import_module

import pytest
import torch
from conftest import ROOT, SITE

from vae_tutorial import latent, load_run
from vae_tutorial.data import toy

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: run `make book` first"),
    pytest.mark.xdist_group("browser"),
]
PAGE, MODULE = "notebooks/09_two_dimensions.html", "/live/toy.js"
SETS = ("mixture", "ring", "pinwheel")
ANSWERS = f"""async ([name, part, inputs]) => {{
    const {{ encode, decode, divergence }} = await import('{MODULE}');
    const about = await (await import('/live/live.js')).model(name);
    const answers = inputs.map((v) => (part === 'encoder' ? encode : decode)(about, v));
    return answers.map((found) => [...found.mean, ...found.scale, divergence(found)]);
}}"""
EXPORTED = f"""async (name) => {{
    const {{ outline }} = await import('{MODULE}');
    const about = await (await import('/live/live.js')).model(name);
    const {{ points, means, arrows, maps }} = about;
    return {{ points, means, arrows, maps, lines: outline(maps, 0.008) }};
}}"""
FRAMES = """() => {  // how long each callback that draws takes from now on
    const ask = window.requestAnimationFrame.bind(window);
    window.frames_ms = [];
    window.requestAnimationFrame = (draw) => ask((now) => {
        const start = performance.now();
        draw(now);
        window.frames_ms.push(performance.now() - start);
    });
}"""


@pytest.fixture
def figure(opened):
    """The figure in its page, once it is there; ``figure.page`` is the tab."""

    def seen(**options):
        tab = opened(**options)
        tab.locator("[data-live=toy]").scroll_into_view_if_needed()
        tab.locator(".vae-live-toy .vae-live-plane").first.wait_for(timeout=20_000)
        tab.wait_for_function("document.querySelector('.vae-toy-words').textContent")
        tab.locator(".vae-live-toy .vae-live-plane").last.scroll_into_view_if_needed()
        return tab.locator(".vae-live-toy")

    return seen


def model(name):
    return load_run(f"{name}/vae", root=ROOT / "artifacts").model


def weights(tab):
    return [path.split("/")[-1] for path in tab.asked if path.endswith(".bin")]


def said(figure):
    """The numbers in the figure's words."""
    figure.page.wait_for_timeout(100)
    text = figure.locator("output").inner_text().replace("−", "-")
    return [float(v) for v in re.findall(r"-?\d+\.\d+", text)]


def plane(figure, name):
    return figure.locator(".vae-live-plane").nth(("data", "latent").index(name))


def point_at(figure, name, x, y, half):
    """Move the pointer to coordinates of a plane that shows -half to half."""
    box = plane(figure, name).bounding_box()
    right, down = (1 + x / half) / 2, (1 - y / half) / 2
    figure.page.mouse.move(box["x"] + right * box["width"], box["y"] + down * box["height"])


def reference(name, part, inputs):
    """PyTorch's means, standard deviations and KL terms: (N, 5)."""
    with torch.no_grad():
        vae = model(name)
        found = vae.encoder(inputs) if part == "encoder" else vae.decoder(inputs)
    kl = 0.5 * (found.mean**2 + found.variance - 1 - found.variance.log()).sum(1, keepdim=True)
    return torch.cat([found.mean, found.variance.sqrt(), kl], dim=1)


def test_the_committed_points_are_those_of_the_test_split():
    known = json.loads((ROOT / "book" / "_extra" / "live" / "toy.json").read_text("utf-8"))
    assert tuple(known) == SETS
    for name in SETS:
        points = torch.tensor(known[name]["points"])
        assert points.shape == (800, 2)
        assert (points - toy.load(name).test.examples[:800]).abs().max() < 0.0051


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("name", SETS)
def test_the_page_answers_as_pytorch_does(name, part, opened, record_property):
    spread = 3.0 if part == "encoder" else 1.2  # data space, latent space
    inputs = spread * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    answers = opened().evaluate(ANSWERS, [f"{name}-vae", part, inputs.tolist()])
    error = (torch.tensor(answers) - reference(name, part, inputs)).abs().amax(0)
    record_property("largest errors of means, standard deviations, KL", error.tolist())
    print(name, part, [f"{e:.0e}" for e in error.tolist()])
    assert error[:4].max() < 2e-3
    if part == "encoder":
        assert error[4] < 2e-3
    assert torch.tensor(answers).std(0)[:4].min() > 0.01  # and not the same thing everywhere


@pytest.mark.parametrize("name", SETS)
def test_what_stands_behind_the_hand_is_what_pytorch_finds(name, opened):
    got = opened().evaluate(EXPORTED, f"{name}-vae")
    points, arrows = torch.tensor(got["points"]), torch.tensor(got["arrows"])
    means = latent.encode(model(name), points)
    assert (torch.tensor(got["means"]) - means).abs().max() < 0.0071  # rounded to 0.01
    drift = arrows[:, 2:] - latent.encode(model(name), arrows[:, :2])
    assert arrows.shape == (225, 4)
    assert drift.abs().max() < 0.0071
    side = torch.linspace(-7, 7, 71)
    up, right = torch.meshgrid(side, side, indexing="ij")
    plane = torch.stack([right, up], dim=-1).flatten(0, 1)  # (5041, 2), row by row
    kl = reference(name, "encoder", plane)[:, 4]
    assert (torch.tensor(got["maps"]["kl"]) / 100 - kl).abs().max() < 0.0071
    # The density, added up over the latents of chapter 9, along the outline that the page draws.
    ends = torch.tensor(got["lines"]).flatten(0, 1)  # (N, 2)
    axis = torch.linspace(-4.5, 4.5, 181)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        vae = model(name)
        log_joint = vae.decoder(z[:, None]).log_prob(ends[::7]) + vae.prior().log_prob(z)[:, None]
    density = (log_joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log()).exp()
    assert len(ends) > 400
    assert (density.log() - torch.tensor(0.008).log()).abs().median() < 0.05
    assert density.min() > 0.004  # the grid's squares are wide where the density is steep
    assert density.max() < 0.016


def test_only_layers_to_two_gaussians_can_come_alive(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    with pytest.raises(ValueError, match="two mean-field Gaussians"):
        import_module("live").points(ROOT, "mnist/vae-2d")


def test_it_is_loaded_when_it_is_seen_one_set_at_a_time(figure, opened):
    tab = opened()
    tab.wait_for_timeout(500)
    assert not weights(tab)
    there = figure()
    tab = there.page
    assert weights(tab) == ["mixture-vae.bin"]
    assert tab.locator("[data-live=toy] img").filter(visible=True).count() == 1  # the still one
    first = said(there)
    there.get_by_role("button", name="ring").click()
    assert said(there) != first
    there.get_by_role("button", name="mixture").click()
    assert said(there) == first
    assert weights(tab) == ["mixture-vae.bin", "ring-vae.bin"]  # each once
    assert there.get_by_role("button", name="mixture").get_attribute("aria-pressed") == "true"
    assert there.get_by_role("button", name="ring").get_attribute("aria-pressed") == "false"
    assert not tab.said


def test_a_point_of_data_space_has_a_posterior_and_a_reconstruction(figure):
    there = figure()
    there.get_by_role("button", name="ring").click()
    images = [plane(there, name).screenshot() for name in ("data", "latent")]
    point_at(there, "data", 0.5, -4.2, half=7)
    *x, m1, m2, s1, s2, kl, r1, r2, n1, n2 = said(there)
    assert x == pytest.approx([0.5, -4.2], abs=0.03)
    found = reference("ring", "encoder", torch.tensor([x]))[0]
    assert [m1, m2, s1, s2, kl] == pytest.approx(found.tolist(), abs=0.03)
    back = reference("ring", "decoder", found[None, :2])[0, :4]
    assert [r1, r2, n1, n2] == pytest.approx(back.tolist(), abs=0.03)
    assert images[0] != plane(there, "data").screenshot()
    assert images[1] != plane(there, "latent").screenshot()
    assert not there.page.said


def test_a_latent_has_the_decoders_gaussian(figure):
    there = figure()
    point_at(there, "latent", -1.0, 0.5, half=3.6)
    *z, m1, m2, s1, s2 = said(there)
    assert z == pytest.approx([-1.0, 0.5], abs=0.02)
    expected = reference("mixture", "decoder", torch.tensor([z]))[0, :4]
    assert [m1, m2, s1, s2] == pytest.approx(expected.tolist(), abs=0.05)
    assert not there.page.said


def test_keys_move_the_point_of_the_plane_that_has_the_focus(figure):
    there = figure()
    keys = there.page.keyboard
    plane(there, "data").focus()
    before = said(there)
    keys.press("Shift+ArrowRight")
    keys.press("ArrowUp")
    x1, x2, m1, m2, *_ = said(there)
    assert (x1, x2) == pytest.approx((before[0] + 1.4, before[1] + 0.28), abs=0.02)
    keys.press("Tab")  # to the other plane, which goes on from the posterior's mean
    assert said(there)[:2] == pytest.approx([m1, m2], abs=0.011)
    keys.press("ArrowLeft")
    assert said(there)[:2] == pytest.approx([m1 - 0.144, m2], abs=0.011)
    assert there.locator("output").inner_text().startswith("z = ")
    assert not there.page.said


def test_samples_are_drawn_and_cleared(figure):
    there = figure()
    draw, clear = (there.get_by_role("button", name=name) for name in ("Draw 200", "Clear"))
    seen = [[plane(there, name).screenshot() for name in ("data", "latent")]]
    for button in (draw, draw, clear):
        assert button.is_enabled()
        button.press("Enter")  # a mouse would scroll, and hover over the planes
        there.page.wait_for_timeout(700)
        seen.append([plane(there, name).screenshot() for name in ("data", "latent")])
    for i in (0, 1):  # each draw is another one, and nothing of it stays
        assert len({shots[i] for shots in seen[:3]}) == 3
        assert seen[0][i] == seen[3][i]
    assert clear.is_disabled()
    assert not there.page.said


def test_the_map_of_the_kl_term_comes_and_goes(figure):
    there = figure()
    button = there.get_by_role("button", name="KL map")
    corner = """(canvas) => {  // the ink next to a corner, where the KL term is large
        const { data } = canvas.getContext('2d').getImageData(6, 6, 1, 1);
        return data[3];
    }"""
    assert plane(there, "data").evaluate(corner) > 20
    button.click()
    there.page.wait_for_timeout(100)
    assert button.get_attribute("aria-pressed") == "false"
    assert plane(there, "data").evaluate(corner) == 0


def test_a_finger_moves_the_point_on_a_narrow_screen(figure):
    there = figure(has_touch=True, viewport={"width": 360, "height": 800})
    tab = there.page
    before = said(there)
    plane(there, "data").tap(position={"x": 60, "y": 60})
    after = said(there)
    assert after[:2] != before[:2]
    assert after[0] < -3 < 3 < after[1]
    assert plane(there, "data").evaluate("(c) => getComputedStyle(c).touchAction") == "pan-y"
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.evaluate(overflow) <= 0
    assert not tab.said


def test_the_still_figure_stays_without_scripts_and_in_print(figure, opened):
    still = "[data-live=toy] img.only-light"
    assert opened(java_script_enabled=False).locator(still).is_visible()
    tab = figure().page
    tab.emulate_media(media="print")
    assert tab.locator(still).is_visible()
    assert not tab.locator(".vae-live-toy").is_visible()


def test_how_long_a_frame_takes(figure, record_property):
    """Measured and said, not asserted: machines differ."""
    there = figure()
    there.page.evaluate(FRAMES)
    there.get_by_role("button", name="Draw 200").click()
    for i in range(60):
        point_at(there, ("data", "latent")[i % 2], 0.05 * i - 1.5, 1.0, half=(7, 3.6)[i % 2])
        there.page.wait_for_timeout(20)
    times = sorted(there.page.evaluate("window.frames_ms"))
    record_property("milliseconds", times[len(times) // 2])
    print(f"a frame: median {times[len(times) // 2]:.1f} ms, longest {times[-1]:.1f} ms")
    assert len(times) > 20
