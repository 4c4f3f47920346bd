"""What the tests run on, said at the top of every run, and what several files use."""

import os
import platform
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from vae_tutorial import data

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "book" / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

TYPESET = """async () => {
    if (document.querySelector('article .math')) {
        dispatchEvent(new Event('beforeprint'));  // or page.js waits until a formula is near
        while (!window.MathJax.startup?.promise) await new Promise((done) => setTimeout(done, 20));
        await MathJax.startup.promise;
        await MathJax.startup.document.lazyTypesetAll();  // else a formula waits until it is seen
    }
    await document.fonts.ready;
}"""


def pages(*besides: str) -> list[str]:
    """The built site's pages; where nothing is built one name, whose tests fail."""
    paths = [path.relative_to(SITE) for path in sorted(SITE.rglob("*.html"))]
    besides = {"_static", "_sources", "mathjax", *besides}
    return [path.as_posix() for path in paths if path.parts[0] not in besides] or [
        "book/index.html"
    ]


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, BROWSERS)]
    return next(filter(None, found), None)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextmanager
def browsing(folder: Path):
    """A headless Chromium, and the address at which a server on this machine offers the folder."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server,
        sync_playwright() as machine,
        machine.chromium.launch(executable_path=find_browser(), args=flags) as chromium,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield chromium, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def on_digits() -> bool:
    return os.environ.get("VAE_TUTORIAL_DATASET") == "digits"


def pytest_report_header() -> list[str]:
    source = f"real MNIST in {data.data_root()}: every notebook's outputs are compared"
    if on_digits():
        source = (
            "bundled digits: tests marked mnist are left out; the notebooks run on digits and "
            "their numbers are not compared with the stored ones"
        )
    gpu = torch.cuda.is_available() and torch.cuda.get_device_name()
    return [
        f"data: {source}",
        f"GPU: {gpu or 'none (GPU paths are not run)'}",
        f"Chromium: {find_browser() or 'none (tests marked browser are left out)'}",
        f"CPU: {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {"mnist": on_digits() and "real MNIST", "browser": not find_browser() and "Chromium"}
    for item in items:
        for marker, what in missing.items():
            if what and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"needs {what}, which is not here"))


@pytest.fixture(scope="session")
def mnist():
    """Real MNIST (55,000 / 5,000 / 10,000 images); mark the test with ``mnist``."""
    return data.load("mnist")


@pytest.fixture(scope="session")
def digits():
    """The bundled digits (1,197 / 200 / 400 images)."""
    return data.load("digits")


@pytest.fixture(scope="module")
def browser():
    """A Chromium, and the address of the built site."""
    with browsing(SITE) as found:
        yield found


@pytest.fixture
def opened(browser, request):
    """Open a page in a tab of its own, by default the PAGE of the test's file.

    Its ``asked`` notes every file that it asks for, its ``said`` what its console complains of.
    """
    chromium, address = browser
    contexts = []

    def open_page(page=None, *, script="", **options):
        settings = {"viewport": {"width": 1280, "height": 900}} | options
        contexts.append(chromium.new_context(base_url=address, **settings))
        tab = contexts[-1].new_page()
        tab.add_init_script(script)
        tab.asked, tab.said = [], []
        tab.on("request", lambda request: tab.asked.append(request.url.removeprefix(address)))
        complaints = {"error", "warning"}
        tab.on("console", lambda m: tab.said.append(m.text) if m.type in complaints else None)
        tab.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.goto(page or request.module.PAGE, wait_until="load")
        return tab

    yield open_page
    for context in contexts:
        context.close()
