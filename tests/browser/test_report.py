"""A study's report as a person sees it: drawn figures, a table that sorts, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

import tuner
from tests.browser.chromium import BROWSER_TEST, CHROMIUM, PATIENCE_MILLISECONDS
from tests.generated_study import generated_study
from tuner.report.report import write_report
from tuner.storage.storage import Storage

SHOTS = Path(__file__).parent / "shots"
MANY, FEW = 1000, 10  # of ten trials each has stored its masks

pytestmark = [*BROWSER_TEST, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def written_report(folder: Path, trials: int) -> Path:
    """The report of a study of so many trials."""
    generated_study(Storage(str(folder)), trials=trials)
    write_report([tuner.load("streets", folder)], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_report(tmp_path_factory.mktemp("studies"), FEW)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Looked:
    """A page with what went wrong on it, and what it asked a network for."""

    def __init__(self, browser: Browser, width: int, dark: bool):
        viewport = {"width": width, "height": 900}
        context = browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light")  # type: ignore[arg-type]
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MILLISECONDS)
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def draw(self, file: Path) -> Page:
        self.page.goto(file.as_uri())
        self.page.wait_for_function("() => document.documentElement.dataset.drawn")
        return self.page


def test_a_thousand_trials_open_in_three_seconds_and_fifteen_megabytes(tmp_path: Path, browser: Browser) -> None:
    file = written_report(tmp_path, MANY)
    assert file.stat().st_size < 15e6
    page = browser.new_page()
    # Figures are drawn from the first frame on, when the page can be used already: here there is none.
    page.add_init_script("window.requestAnimationFrame = () => 0")
    measured = page.context.new_cdp_session(page)
    # Seconds of the page's own thread: a clock on the wall measures what else the machine does.
    measured.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(file.as_uri())
    expect(page.get_by_role("status")).to_have_text(f"{MANY} of {MANY} trials")
    metrics = {metric["name"]: metric["value"] for metric in measured.send("Performance.getMetrics")["metrics"]}
    assert 0 < metrics["TaskDuration"] < 3
    page.close()


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("light", 1280, False), ("dark", 1280, True), ("phone", 390, False)]
)
def test_every_figure_is_drawn_and_nothing_is_wrong_or_asked_of_a_network(
    file: Path, browser: Browser, name: str, width: int, dark: bool
) -> None:
    looked = Looked(browser, width, dark)
    page = looked.draw(file)
    # What is drawn: lines of curves, points, bars, and the contour's areas.
    drawn = {
        id: page.locator(f"#{id} .plot")
        .locator("path.js-line[d], path.point[d], .bars path[d], .contourbg path[d]")
        .count()
        for id in page.evaluate("[...document.querySelectorAll('figure')].map(figure => figure.id)")
    }
    assert list(drawn) == [
        "progress-time", "progress-epochs", "curves", "parallel", "importance", "contour", "slices", "time",
    ]  # fmt: skip
    assert min(drawn.values()) > 0, drawn
    loaded = page.locator("button.image img").evaluate_all("all => all.map(image => image.naturalWidth > 0)")
    assert loaded == [True] * 6, "two frames of winner, runner-up and worst"
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0, "the page itself is never scrolled sideways"
    ink = page.evaluate("getComputedStyle(document.querySelector('.plot text.xtitle')).fill")
    assert ink == ("rgb(228, 232, 237)" if dark else "rgb(27, 36, 48)")
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"report-{name}.png", full_page=True)
    assert looked.wrong == []
    assert [url for url in looked.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    page.context.close()


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_front_is_drawn_and_every_figure_for_each_objective(
    tmp_path: Path, browser: Browser, objectives: int
) -> None:
    wanted = [{"metric": "val/iou_road"}]
    wanted += [{"metric": metric, "direction": "minimize"} for metric in ("model/gflops", "train/loss")]
    generated_study(Storage(str(tmp_path)), trials=FEW, objectives=wanted[:objectives])
    write_report([tuner.load("streets", tmp_path)], tmp_path / "report.html")
    looked = Looked(browser, 1280, dark=False)
    page = looked.draw(tmp_path / "report.html")
    figures = page.evaluate("[...document.querySelectorAll('figure')].map(figure => figure.id)")
    assert (figures[0] == "pareto-front") == (objectives == 2), "three would be drawn in space"
    assert {f"{id}-{n + 1}" for id in ("curves", "parallel", "slices") for n in range(objectives)} <= set(figures)
    points = page.locator("#pareto-front .plot path.point[d]").count()
    assert points >= FEW // 2 if objectives == 2 else points == 0
    assert page.locator("#front tbody tr").count() > 1
    assert looked.wrong == []
    page.locator("#front").screenshot(path=SHOTS / f"report-front-{objectives}.png")
    page.context.close()


def test_the_table_sorts_and_filters_by_keyboard(file: Path, browser: Browser) -> None:
    looked = Looked(browser, 1280, False)
    page = looked.page
    page.goto(file.as_uri())

    def column(number: int) -> list[str]:
        cells: list[str] = page.locator(f"#table tbody tr:not([hidden]) td:nth-child({number})").all_inner_texts()
        return cells

    values = [float(text) for text in column(3)]
    assert len(values) == FEW
    assert values == sorted(values, reverse=True)
    head = page.get_by_role("button", name="learning_rate")
    head.focus()
    page.keyboard.press("Enter")
    rates = [float(text) for text in column(7)]
    assert rates == sorted(rates)
    expect(page.get_by_role("columnheader", name="learning_rate")).to_have_attribute("aria-sort", "ascending")
    page.keyboard.press("Space")
    assert [float(text) for text in column(7)] == rates[::-1]
    momenta = page.get_by_role("button", name="momentum")
    momenta.click()
    assert column(11)[-1] == "", "what isn't there is last"
    momenta.click()
    assert column(11)[-1] == ""
    page.get_by_label("State").select_option("stopped")
    assert set(column(2)) == {"stopped"}
    page.get_by_label("Filter").fill("SGD")
    assert set(column(10)) == {"sgd"}
    expect(page.get_by_role("status")).to_have_text(f"{len(column(1))} of {FEW} trials")
    assert looked.wrong == []
    page.context.close()
