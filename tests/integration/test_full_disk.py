"""A study on a disk that is full for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.study_process import curves, events, running, show
from tests.studies import write_study
from tests.workloads.replay import Config, score
from tests.workloads.small_disk import fill, small_disk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]

XS = [0.3, 0.9, 0.5]


def test_a_full_disk_stops_a_study_in_order_and_blames_no_setting(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    file = write_study(
        tmp_path / "full.toml",
        budget={"trials": len(XS)},
        scheduler={"name": "none"},
        checkpoints={"keep": 1},
        fixed={"epochs": 2, "checkpoint_bytes": 1_000_000, "snapshots": True},
        first_trials=[{"x": x} for x in XS],
        resources={"max_concurrent_trials": 1},
        failures={"storage_wait_seconds": 4},
    )
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        filler = fill(disk, left=500_000)
        options = ("--storage", disk, "--tracking-uri", f"sqlite:///{storage / 'mlflow.db'}", "--address", shared_ray)
        with running("run", file, *options) as study:
            # Nobody makes room: it stops, so that it can be gone on with.
            assert study.wait() == 130, study.output
        assert "waits for the storage, up to 4 s" in study.output
        assert str(disk) in study.output
        assert "Traceback" not in study.output
        assert "the storage refused for 4 s" in show(disk, "full")["reason"]
        assert [trial["state"] for trial in show(disk, "full")["trials"]] == ["interrupted"]

        with running("resume", "full", *options, "--set", "failures.storage_wait_seconds=600") as study:
            for line in study.lines():
                if "waits for the storage" in line:
                    filler.unlink()
            assert study.wait() == 0, study.output
        assert "the storage works again; the study continues" in study.output
        trials = show(disk, "full")["trials"]
        assert [trial["state"] for trial in trials] == ["finished"] * len(XS)
        folder = disk / "full"
        for number, x in enumerate(XS, start=1):
            config = Config(x=x, epochs=2)
            assert curves(folder)[number] == [(epoch, score(config, epoch)) for epoch in (1, 2)]
        assert {event["state"] for event in events(folder) if event["event"] == "end"} == {"finished"}
        assert [path.parent.parent.name for path in folder.glob("trials/*/epoch-*/weights.bin")] == ["2"]
