"""Measure the built site in headless Chromium: weight, requests, layout shift, messages.

    python tools/measure_site.py [--lighthouse] [PAGE ...]

Pages are files below book/_build/html; by default the front page, chapters 2 and 8, a page of the
package and the search. Everything is served from this machine, compressed with gzip as a host would.
The kilobytes are those that travel: of the first view, and after scrolling through the whole page.
With --lighthouse, Lighthouse (from npm, on the PATH) judges the pages as on a phone: the median of
three runs.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import ClassVar

from playwright.sync_api import sync_playwright

SITE = Path(__file__).resolve().parent.parent / "book" / "_build" / "html"
PAGES = ("book/index.html", "notebooks/02_vae.html", "notebooks/08_networks_and_data.html",
         "book/api/parts.html", "search.html")  # fmt: skip
TEXT = (".html", ".css", ".js", ".svg", ".json", ".txt")
SHIFTS = """new PerformanceObserver((list) => {
    for (const shift of list.getEntries()) if (!shift.hadRecentInput) window.shifted += shift.value;
}).observe({ type: "layout-shift", buffered: true }); window.shifted = 0;"""
SCROLL = """async () => {
    for (let y = 0; y < document.body.scrollHeight; y += 600) {
        scrollTo(0, y);
        await new Promise((done) => setTimeout(done, 60));
    }
}"""


class Gzipped(SimpleHTTPRequestHandler):
    """Files of text travel compressed; ``sent`` counts the bytes of each."""

    sent: ClassVar[dict[str, int]] = {}
    protocol_version = "HTTP/1.1"  # one connection carries several files, as a host's does

    def send_head(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().send_head()
        content = path.read_bytes()
        packed = path.suffix in TEXT
        content = gzip.compress(content, 9, mtime=0) if packed else content
        self.sent[self.path] = len(content)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Length", str(len(content)))
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        return BytesIO(content)

    def log_message(self, *arguments) -> None:
        pass


def measure(chromium, address: str, page: str) -> str:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    tab, said = context.new_page(), []
    tab.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.add_init_script(SHIFTS)
    Gzipped.sent.clear()
    tab.goto(address + page, wait_until="load")
    tab.wait_for_timeout(1500)
    first, requests, shift = sum(Gzipped.sent.values()), len(Gzipped.sent), tab.evaluate("shifted")
    tab.evaluate(SCROLL)
    tab.wait_for_timeout(1500)
    whole = sum(Gzipped.sent.values())
    context.close()
    return f"{page:<42}{first / 1e3:>10,.0f}{requests:>10}{whole / 1e3:>12,.0f}{shift:>8.3f}{len(said):>10}"


AUDITS = {
    "FCP, ms": "first-contentful-paint",
    "LCP, ms": "largest-contentful-paint",
    "TBT, ms": "total-blocking-time",
    "CLS": "cumulative-layout-shift",
}
CATEGORIES = ("performance", "accessibility", "best-practices")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
FLAGS += " --disable-background-networking --disable-component-update"


def judge(browser: str, address: str, page: str) -> str:
    """What Lighthouse says of a page on a phone: three marks, and what the first is made of."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["lighthouse", address + page, "--quiet", "--output=json"]
        command += [f"--output-path={report}", f"--chrome-flags={FLAGS}"]
        command += [f"--only-categories={','.join(CATEGORIES)}"]
        for _ in range(3):
            subprocess.run(command, env=os.environ | {"CHROME_PATH": browser}, check=True)
            said = json.loads(report.read_text(encoding="utf-8"))
            marks = [100 * said["categories"][name]["score"] for name in CATEGORIES]
            rows.append(marks + [said["audits"][name]["numericValue"] for name in AUDITS.values()])
    *whole, shift = map(median, zip(*rows, strict=True))
    return f"{page:<42}" + "".join(f"{value:>15,.0f}" for value in whole) + f"{shift:>15.3f}"


def main() -> int:
    browser = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    pages = [name for name in sys.argv[1:] if name != "--lighthouse"] or PAGES
    asked = "--lighthouse" in sys.argv[1:]
    if asked:
        print(f"{'page':<42}" + "".join(f"{name:>15}" for name in (*CATEGORIES, *AUDITS)))
    else:
        print(
            f"{'page':<42}{'first, kB':>10}{'requests':>10}{'scrolled, kB':>12}{'shift':>8}{'messages':>10}"
        )
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Gzipped, directory=SITE)) as server,
        sync_playwright() as machine,
        machine.chromium.launch(executable_path=browser, args=["--no-sandbox"]) as chromium,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        for page in pages:
            print(judge(browser, address, page) if asked else measure(chromium, address, page))
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
