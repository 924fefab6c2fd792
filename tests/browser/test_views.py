"""The views that a study sets up, as a person sees them: drawn lines and loaded images, not only their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.chromium import BROWSER_TEST, CHROMIUM, PATIENCE_MILLISECONDS
from tests.browser.test_ui import served
from tests.generated_study import generated_study
from tuner.storage.storage import Storage
from tuner.tracking.address import default_tracking_uri
from tuner.tracking.tracker import Tracker
from tuner.tracking.views import view_key, view_link

SHOTS = Path(__file__).parent / "shots"

pytestmark = [*BROWSER_TEST, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The link to the ranking of a study of twelve trials."""
    folder = tmp_path_factory.mktemp("studies")
    storage = Storage(str(folder))
    spec = generated_study(storage, trials=12)
    study = storage / spec.name
    tracker = Tracker(spec, study, folder / spec.name / "events.jsonl", default_tracking_uri(storage))
    tracker.start()
    assert tracker.finish(120) == 0, tracker.error
    with served(folder) as address:
        link = view_link(spec, address, tracker.experiment or "")
        assert view_key(spec, "ranking") in link
        assert link in (folder / "ui.log").read_text()
        yield link


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 2400})
        page.set_default_timeout(PATIENCE_MILLISECONDS)
        asked: set[str | None] = set()
        page.on("request", lambda request: asked.add(urlsplit(request.url).hostname))
        yield page
        browser.close()
    assert asked <= {"127.0.0.1", None}, "no request leaves the machine"


def test_the_ranking_has_the_best_trial_first_and_no_parent_run(ranking: str, page: Page) -> None:
    page.goto(ranking, wait_until="domcontentloaded")
    # The note on the winner links to a trial as well.
    trials = page.locator("[role=row]").get_by_role("link", name="trial ")
    expect(trials).to_have_count(12)
    # The grid's columns that stay in view are rows of their own, and rows stand in the page in any order.
    numbers: list[float] = page.evaluate(
        """() => [...document.querySelectorAll("[role=row][row-index] [col-id*='best/val/iou_road']")]
            .map(cell => [Number(cell.closest("[row-index]").getAttribute("row-index")), parseFloat(cell.innerText)])
            .filter(([, value]) => !isNaN(value)).sort(([one], [other]) => one - other).map(([, value]) => value)"""
    )
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / "ranking.png")
    assert len(numbers) > 8
    assert numbers == sorted(numbers, reverse=True)
    page.get_by_role("button", name="Ranking").click()
    for name in ("Ranking", "Charts"):
        expect(page.get_by_role("menuitem").filter(has_text=name)).to_be_visible()


def test_the_charts_have_drawn_lines_and_loaded_images(ranking: str, page: Page) -> None:
    page.goto("about:blank")
    page.goto(ranking.replace("-ranking", "-charts").replace("TABLE", "CHART"), wait_until="domcontentloaded")
    # Parallel coordinates are drawn on a canvas, curves and points are paths.
    expect(page.locator(".parcoords-line-layers canvas, .parcoords canvas").first).to_be_visible()
    expect(page.locator("g.scatterlayer path.js-line[d]").first).to_be_attached()
    expect(page.locator("g.scatterlayer path.point").first).to_be_attached()
    images = page.locator("img[src*='get-artifact']")
    expect(images.first).to_be_visible()
    page.wait_for_function(
        "() => [...document.querySelectorAll('img[src*=get-artifact]')].filter(i => i.naturalWidth > 0).length >= 8"
    )
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / "charts.png")


def test_the_note_on_the_winner_shows_its_mask(ranking: str, page: Page) -> None:
    page.goto("about:blank")
    page.goto(ranking, wait_until="domcontentloaded")
    note = page.get_by_text("Winner:").first
    expect(note).to_be_visible()
    page.wait_for_function(
        "() => [...document.querySelectorAll('img[src*=\"get-artifact?path\"]')].some(i => i.naturalWidth > 0)"
    )


def test_a_trials_system_metrics_are_drawn_in_their_own_tab(ranking: str, page: Page) -> None:
    page.goto("about:blank")
    page.goto(ranking, wait_until="domcontentloaded")
    trial = page.locator("[role=row]").get_by_role("link", name="trial ").first
    trial.wait_for()
    run = trial.get_attribute("href")
    assert run is not None
    address = f"{ranking.partition('#')[0]}#{run.partition('#')[2]}"
    for tab, shown, hidden in (
        ("model-metrics", "val/iou_road", "process_cpu_cores"),
        ("system-metrics", "process_cpu_cores", "val/iou_road"),
    ):
        page.goto("about:blank")
        page.goto(f"{address}/{tab}", wait_until="domcontentloaded")
        expect(page.locator("g.scatterlayer path[d]").first).to_be_attached()
        expect(page.get_by_text(shown).first).to_be_visible()
        expect(page.get_by_text(hidden)).to_have_count(0)
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / f"{tab}.png")
