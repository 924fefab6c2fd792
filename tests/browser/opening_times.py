"""How long MLflow's page takes to open a study's views: python -m tests.browser.opening_times [--trials N]

The study is generated and tracked first. Each view is opened in a browser whose cache is empty, then once more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.chromium import CHROMIUM
from tests.browser.test_ui import served
from tests.generated_study import generated_study
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage
from tuner.tracking.address import default_tracking_uri
from tuner.tracking.tracker import Tracker
from tuner.tracking.views import view_link

_PATIENCE_MILLISECONDS = 300_000
_DRAWN = {
    "ranking": ["[role=row] a:has-text('trial ')"],
    "charts": [".parcoords canvas", "g.scatterlayer path.js-line[d]", "g.scatterlayer path.point"],
}
"""By view, what is there when it can be used."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000], help="sizes of the studies")
    options = parser.parse_args()
    print(f"{'trials':>6}  {'view':8} {'opening':8} {'seconds':>7} {'CPU s, page':>11} {'requests':>8}    load before")
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
            spec, experiment = _tracked(Path(name), trials)
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            with served(Path(name)) as address:
                _open_all(browser, trials, view_link(spec, address, experiment))
            browser.close()


def _tracked(folder: Path, trials: int) -> tuple[StudySpec, str]:
    """A generated study in MLflow, and MLflow's id of its experiment."""
    storage = Storage(str(folder))
    spec = generated_study(storage, trials=trials)
    events = folder / spec.name / "events.jsonl"
    tracker = Tracker(spec, storage / spec.name, events, default_tracking_uri(storage))
    began, cpu_seconds = time.monotonic(), time.process_time()
    tracker.start()
    assert tracker.finish(600) == 0, tracker.error
    print(
        f"{trials:6}  tracked in {time.monotonic() - began:.1f} s, {time.process_time() - cpu_seconds:.1f} s of CPU, "
        f"from {events.read_bytes().count(b'report')} reports"
    )
    return spec, tracker.experiment or ""


def _open_all(browser: Browser, trials: int, ranking: str) -> None:
    links = {"ranking": ranking, "charts": ranking.replace("-ranking", "-charts").replace("TABLE", "CHART")}
    for view, link in links.items():
        context = browser.new_context(viewport={"width": 1900, "height": 1100})
        for opening in ("first", "second"):
            load, page = psutil.getloadavg()[0], context.new_page()
            seconds, cpu_seconds, requests = _opened(page, link, view)
            page.close()
            print(f"{trials:6}  {view:8} {opening:8} {seconds:7.1f} {cpu_seconds:11.1f} {requests:8}    {load:.1f}")
        context.close()


def _opened(page: Page, link: str, view: str) -> tuple[float, float, int]:
    """Seconds until the view can be used, CPU seconds of the page's thread, and requests."""
    page.set_default_timeout(_PATIENCE_MILLISECONDS)
    devtools = page.context.new_cdp_session(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    devtools.send("Performance.enable")
    began = time.monotonic()
    page.goto(link, wait_until="commit")
    for selector in _DRAWN[view]:
        page.locator(selector).first.wait_for(state="attached")
    seconds = time.monotonic() - began
    metrics = {metric["name"]: metric["value"] for metric in devtools.send("Performance.getMetrics")["metrics"]}
    return seconds, metrics["ThreadTime"], len(requests)


if __name__ == "__main__":
    main()
