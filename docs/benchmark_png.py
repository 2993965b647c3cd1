"""Writes benchmark.png beside the benchmark.svg of reports: their main plot, for places that show no SVG.

Needs chromium, playwright (in the extra [dev]) and Pillow.

python docs/benchmark_png.py benchmarks/results/*/benchmark-*
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from screenshot import small

SCALE = 2  # pixels for each of the plot's


def main(*folders: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(color_scheme="light", device_scale_factor=SCALE, viewport={"width": 1400, "height": 900})
        for folder in map(Path, folders):
            tab.set_content(f'<body style="margin:0">{(folder / "benchmark.svg").read_text("utf-8")}</body>')
            (folder / "benchmark.png").write_bytes(small(tab.locator("svg").first.screenshot()))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
