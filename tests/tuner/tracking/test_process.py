"""The tracking process and the signals that end a study."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracked_study import EXPECTED, TrackedStudy, lines
from tests.waiting import wait_for
from tuner.tracking.process import TrackingProcess

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ROOT = Path(__file__).parents[3]


def test_a_sigterm_to_all_processes_of_a_job_loses_nothing_of_the_studys_end(study: TrackedStudy) -> None:
    """As `ray job stop` sends it."""
    events = lines()
    study.write(events[:6])
    tracking = TrackingProcess(study.spec, study.study, study.events, study.uri)
    tracking.start()
    wait_for((study.events.parent / "tracking.json").exists)
    (process,) = [child for child in multiprocessing.active_children() if child.name == "tracking"]
    process.terminate()
    study.write(events[6:])
    assert tracking.finish(60) == 0, tracking.error
    assert study.seen() == EXPECTED


def test_tracking_ends_when_the_driver_ends_without_finish(study: TrackedStudy) -> None:
    study.write(lines())
    code = f"""
import multiprocessing
from tests.tracked_study import TrackedStudy
from tests.waiting import wait_for
from tuner.tracking.process import TrackingProcess
from pathlib import Path
if __name__ == "__main__":
    study = TrackedStudy(Path({str(study.events.parents[1])!r}))
    tracking = TrackingProcess(study.spec, study.study, study.events, study.uri)
    tracking.start()
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
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
