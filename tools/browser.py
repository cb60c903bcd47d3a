"""A Chromium for the tests of the frontend: the one on the machine, or one that is installed for them.

Run as `python -m tools.browser` to make sure that there is one.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip


def find_browser() -> str | None:
    """CHROMIUM_PATH when set, else a Chromium on PATH, else None: then Playwright's own one is meant."""
    return os.environ.get("CHROMIUM_PATH") or next(filter(None, map(shutil.which, NAMES)), None)


def install_browser() -> None:
    """Install Chromium through apt-get where that is allowed, else through Playwright."""
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        update = subprocess.run(["apt-get", "update"], env=environment)
        install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        if update.returncode == 0 and subprocess.run(install, env=environment).returncode == 0 and find_browser():
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


def _has_playwright_browser() -> bool:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return pathlib.Path(playwright.chromium.executable_path).is_file()


def main() -> None:
    if find_browser() is None and not _has_playwright_browser():
        install_browser()


if __name__ == "__main__":
    main()
