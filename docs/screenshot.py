"""Writes docs/page.png: the page at / over a bundle, e.g. that of `corella-edge demo`.

Needs chromium, playwright (in the extra [dev]) and Pillow.

python docs/screenshot.py runs/demo/bundle
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_name("page.png")
LARGEST = 200_000
SIZE = {"width": 1400, "height": 1180}
# Shares that are tried before the last one, so that the measured times of several are seen.
PLACES = (0, 200, 350, 450, 700, 500, 600)
NEW = {"title": "The Bright Robot of the Lagoon", "genres": "Science Fiction", "minutes": "101"}


def main(bundle: str) -> None:
    command = [sys.executable, "-m", "corella_edge", "serve", bundle, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            if found is None:
                sys.exit(f"{bundle} is not served; stderr says why")
            PICTURE.write_bytes(small(taken(found[0])))
        finally:
            server.terminate()


def taken(url: str) -> bytes:
    """A picture of the page after a few rankings, PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE, color_scheme="light", device_scale_factor=1.5)
        tab.goto(url)
        use(tab)
        picture: bytes = tab.screenshot()
        browser.close()
    return picture


def use(tab: Any) -> None:
    """What a person might do first."""
    scored = tab.locator("#rows tr:not([data-state=waiting])").first
    while not scored.is_visible():  # the bundle is still loading
        tab.reload()
        tab.wait_for_timeout(2000)
    tab.locator("#new-item").click()
    for name, value in NEW.items():
        tab.locator(f"#new-{name}").fill(value)
    tab.get_by_role("button", name="Add", exact=True).click()
    for place in PLACES:
        tab.locator("#share").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(place))
        tab.wait_for_timeout(700)
    tab.evaluate("document.activeElement.blur()")
    tab.wait_for_timeout(2500)


def small(picture: bytes) -> bytes:
    """The same picture in 255 colours, of a size that a repository can carry."""
    with Image.open(io.BytesIO(picture)) as image, io.BytesIO() as out:
        image.convert("RGB").quantize(255).save(out, "PNG", optimize=True)
        data = out.getvalue()
    if len(data) > LARGEST:
        sys.exit(f"{PICTURE.name} has {len(data)} bytes, more than {LARGEST}: take fewer pixels")
    return data


if __name__ == "__main__":
    main(*sys.argv[1:])
