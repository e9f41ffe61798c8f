"""Make the README's picture: the top of a report, as Chromium shows it.

Example: python docs/picture.py runs/tiny/report.html docs/report.png
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

page, picture = map(Path, sys.argv[1:3])
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    tab = browser.new_page(viewport={"width": 1000, "height": 900})
    tab.goto(page.resolve().as_uri())
    result = tab.locator("main > figure").first
    result.locator(".main-svg").first.wait_for()
    box = result.bounding_box()
    tab.screenshot(
        path=picture, full_page=True, clip={"x": 0, "y": 0, "width": 1000, "height": box["y"] + box["height"] + 20}
    )
    browser.close()
