"""What `python -m tuner optuna` writes, opened in optuna-dashboard as a person sees it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.browser.chromium import BROWSER_TEST, CHROMIUM, PATIENCE_MILLISECONDS
from tests.browser.test_views import SHOTS
from tests.generated_study import generated_study
from tests.waiting import wait_for
from tuner.events.state import load_record
from tuner.search.optuna_storage import write_optuna_storage
from tuner.storage.storage import Storage

pytestmark = BROWSER_TEST


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[str]:
    """Of a study of twenty trials."""
    storage = Storage(str(tmp_path))
    generated_study(storage, trials=20)
    address = f"sqlite:///{tmp_path}/streets.db"
    write_optuna_storage(load_record(storage / "streets"), address)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "optuna-dashboard"
    command = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*([str(program)] if program.exists() else command), address, "--port", str(port)], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: _answers(port), 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_dashboard_lists_the_study_and_draws_its_history(dashboard: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(PATIENCE_MILLISECONDS)
        asked: set[str | None] = set()
        page.on("request", lambda request: asked.add(urlsplit(request.url).hostname))
        page.goto(dashboard, wait_until="domcontentloaded")
        study = page.get_by_role("link").filter(has_text="streets").first
        expect(study).to_be_visible()
        study.click()
        # The history: a point for each of the trials that have a value.
        points = page.locator("g.scatterlayer path.point")
        expect(points.nth(17)).to_be_attached()
        expect(page.get_by_text("Hyperparameter Importance").first).to_be_visible()
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / "optuna-dashboard.png")
        browser.close()
    assert asked <= {"127.0.0.1", None}, "no request leaves the machine"
