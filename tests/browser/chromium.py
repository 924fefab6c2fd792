"""The browser of these tests, and how long they wait for it."""

import shutil

import pytest
from playwright.sync_api import expect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

PATIENCE_MILLISECONDS = 200_000
"""A page that two idle cores draw in ten seconds takes minutes where other tests run a cluster beside it."""

expect.set_options(timeout=PATIENCE_MILLISECONDS)

BROWSER_TEST = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH"),
]
