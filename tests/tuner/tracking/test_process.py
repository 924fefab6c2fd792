"""The tracking process and the signals that end a study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tracked_study import EXPECTED, TrackedStudy, lines
from tuner.tracking.process import TrackingProcess

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ROOT = Path(__file__).parents[3]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_sigterm_to_all_processes_of_a_job_loses_nothing_of_the_studys_end(study: TrackedStudy) -> None:
    """As `ray job stop` sends it."""
    events = lines()
    study.write(events[:6])
    tracking = TrackingProcess(study.spec, study.study, study.events, study.uri)
    tracking.start()
    wait_for(study.events.parent / "tracking.json")
    os.kill(tracking._process.pid, signal.SIGTERM)
    study.write(events[6:])
    assert tracking.finish(60) == 0, tracking.trouble
    assert study.seen() == EXPECTED


def test_a_study_that_ends_without_a_word_to_its_tracking_ends_nonetheless(study: TrackedStudy) -> None:
    study.write(lines())
    code = f"""
from tests.tracked_study import TrackedStudy
from tuner.tracking.process import TrackingProcess
from pathlib import Path
if __name__ == "__main__":
    study = TrackedStudy(Path({str(study.events.parents[1])!r}))
    tracking = TrackingProcess(study.spec, study.study, study.events, study.uri)
    tracking.start()
    print(tracking._process.pid, flush=True)
    raise SystemExit("as an error does")
"""
    script = study.events.parent / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=100, check=False
    )
    assert done.stderr.strip() == "as an error does"
    assert not Path(f"/proc/{done.stdout.strip()}").exists()
