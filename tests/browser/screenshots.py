"""The pictures of README and docs, of a study that is generated: make screenshots."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.browser.chromium import CHROMIUM
from tests.browser.test_ui import served
from tests.generated_study import generated_study
from tuner.storage.storage import Storage
from tuner.tracking.address import default_tracking_uri
from tuner.tracking.tracker import Tracker
from tuner.tracking.views import view_link

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_TRIALS = 24
_PATIENCE_MILLISECONDS = 120_000


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        spec = generated_study(Storage(name), trials=_TRIALS)
        report = folder / "report.html"
        command = [sys.executable, "-m", "tuner", "report", spec.name, "--storage", name, "--output", str(report)]
        subprocess.run(command, check=True)
        tracker = Tracker(
            spec, Storage(name) / spec.name, folder / spec.name / "events.jsonl", default_tracking_uri(Storage(name))
        )
        tracker.start()
        assert tracker.finish(300) == 0, tracker.error
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1900, "height": 1100})
        page.set_default_timeout(_PATIENCE_MILLISECONDS)
        with served(folder) as address:
            ranking = view_link(spec, address, tracker.experiment or "")
            page.goto(ranking, wait_until="domcontentloaded")
            page.locator("[role=row]").get_by_role("link", name="trial ").nth(9).wait_for()
            _write(page, "mlflow-ranking")
            page.goto("about:blank")
            page.goto(ranking.replace("-ranking", "-charts").replace("TABLE", "CHART"), wait_until="domcontentloaded")
            page.locator("g.scatterlayer path.point").first.wait_for(state="attached")
            page.locator(".parcoords-line-layers canvas, .parcoords canvas").first.wait_for()
            _write(page, "mlflow-charts")
        page.set_viewport_size({"width": 1200, "height": 1100})
        page.goto(report.as_uri())
        page.wait_for_load_state("networkidle")
        _write(page, "report")
        browser.close()


def _write(page: Page, name: str) -> None:
    """A PNG of few colours: a page has few, and each commit of a picture stays in the repository."""
    # What has just come is still being faded in.
    page.wait_for_timeout(2000)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    assistant = page.get_by_text("MLflow Assistant")
    if assistant.count() and (box := assistant.first.bounding_box()):
        # It takes the right quarter of MLflow's pages, and is nothing of this project. Left of its title is an icon.
        picture = picture.crop((0, 0, int(box["x"]) - 22, picture.height))
    path = IMAGES / f"{name}.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
