"""`python -m tuner ui`, looked at with a browser."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.browser.chromium import BROWSER_TEST, CHROMIUM, PATIENCE_MILLISECONDS
from tuner.events.event import EpochReported, ImagesStored, RunBegan, RunEnded, TrialEnded, TrialStarted
from tuner.events.log import Journal
from tuner.spec.study import to_json
from tuner.spec.study_file import check_study
from tuner.storage.storage import Storage
from tuner.tracking.address import default_tracking_uri
from tuner.tracking.tracker import Tracker

pytestmark = BROWSER_TEST


def _tracked_study(folder: Path) -> dict[str, str]:
    """A study of one trial with one image, in MLflow as the runner writes it. Returns MLflow's run ids."""
    storage = Storage(str(folder))
    spec = check_study(
        {
            "name": "streets",
            "objective": {"metric": "val/iou_road"},
            "budget": {"trials": 1},
            "space": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2}},
        },
        place="test",
    )
    study = storage / "streets"
    study.write_text("study.json", to_json(spec))
    image = folder / "streets" / "trials" / "1" / "images" / "epoch-000001" / "street.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (64, 32), (0, 200, 0)).save(image)
    with Journal(study) as journal:
        for event in (
            RunBegan(time.time(), 1, "h", 1, {"tuner": "0"}, (), ""),
            TrialStarted(time.time(), 1, {"learning_rate": 0.001}),
            EpochReported(time.time(), 1, 1, {"val/iou_road": 0.875}),
            ImagesStored(time.time(), 1, ("images/epoch-000001/street.png",)),
            TrialEnded(time.time(), 1, 0.875, 1, "finished", None),
            RunEnded(time.time(), "finished", None),
        ):
            journal.append(event)
        tracker = Tracker(spec, study, journal.path, default_tracking_uri(storage))
        tracker.start()
        assert tracker.finish(120) == 0, tracker.error
    return dict(tracker.runs)


@contextmanager
def served(storage: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tuner", "ui", "--storage", str(storage), "--port", str(port)]
    with (storage / "ui.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while not _answers(address):
            assert time.monotonic() < deadline, (storage / "ui.log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        # As a terminal does on Ctrl-C: to the whole group.
        os.killpg(server.pid, signal.SIGINT)
        server.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _page(address: str, profile: Path) -> str:
    """The text of a page after its scripts have run."""
    assert CHROMIUM is not None
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", "--virtual-time-budget=30000", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=PATIENCE_MILLISECONDS / 1000,
    )
    return done.stdout


def test_the_ui_shows_the_study_its_trial_and_the_image(tmp_path: Path) -> None:
    runs = _tracked_study(tmp_path)
    with served(tmp_path) as address:
        overview = _page(f"{address}/#/experiments/1/runs", tmp_path / "profile")
        trial = _page(f"{address}/#/experiments/1/runs/{runs['1']}", tmp_path / "profile")
        artifacts = _page(f"{address}/#/experiments/1/runs/{runs['1']}/artifacts", tmp_path / "profile")
    assert "streets" in overview
    for text in ("trial 1", "val/iou_road", "0.875", "learning_rate"):
        assert text in trial
    assert "images" in artifacts
