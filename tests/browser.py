"""Headless Chromium for tests of pages: a page's DOM after its scripts have run."""

import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="pages run in Chromium, which is not installed")


def dom(page, folder, *flags):
    """Return the DOM of a page that is written to a folder, once its scripts are done, as HTML."""
    path = folder / "tested.html"
    path.write_text(page, encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, "--dump-dom"]
    ended = subprocess.run(
        [*command, "--virtual-time-budget=20000", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
