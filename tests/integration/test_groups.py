"""Studies whose trials take two workers each: a worker group outlives its trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.study_process import curves, events, running, show
from tests.studies import write_study
from tests.waiting import wait_for
from tests.workloads.replay import Config, score

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TWO = {"workers": 2, "cpus_per_worker": 1, "max_concurrent_trials": 1}


def truth(x: float, epochs: int) -> list[tuple[int, float]]:
    config = Config(x=x, epochs=epochs)
    return [(epoch, score(config, epoch)) for epoch in range(1, epochs + 1)]


def processes_of(log: Path) -> dict[str, list[set[int]]]:
    """For each x, in the order trained: the process ids of each rank, by replay's own log."""
    found: dict[str, dict[str, list[int]]] = {}
    for line in log.read_text().splitlines():
        x, _, rank, pid, _ = line.split()
        found.setdefault(x, {}).setdefault(rank, []).append(int(pid))
    return {x: [set(pids) for _, pids in sorted(ranks.items())] for x, ranks in found.items()}


def group_study(path: Path, log: Path, **tables: Any) -> Path:
    return write_study(
        path,
        resources=TWO,
        fixed={"collective": True, "log": log, **tables.pop("fixed", {})},
        **tables,
    )


def test_a_group_of_two_serves_trial_after_trial_until_something_breaks_it(tmp_path: Path, storage: Path) -> None:
    log = tmp_path / "log"
    settings = [("none", 0.9), ("none", 0.8), ("raise", 0.7), ("exit_once", 0.95), ("none", 0.97)]
    file = group_study(
        tmp_path / "broken.toml",
        log,
        budget={"trials": len(settings)},
        space={"fail": {"type": "choice", "choices": ["none", "raise", "exit_once"]}},
        first_trials=[{"fail": fail, "x": x} for fail, x in settings],
        fixed={"epochs": 3, "step_seconds": 0.2, "fail_rank": 1, "fail_epoch": 1},
        failures={"max_retries": 1},
        scheduler={"grace_epochs": 1},
    )
    folder = storage / "broken"
    with running("run", file, "--storage", storage) as study:
        # The process that stands between Tune and the slot dies in the first trial, its ranks don't.
        wait_for(lambda: any(event["event"] == "report" for event in events(folder)))
        passers = [p for p in study.tree() if p.is_running() and "ImplicitFunc" in " ".join(p.cmdline())]
        passers += [p for p in study.tree() if p.is_running() and p.name().startswith("ray::trial")]
        assert passers, [" ".join(p.cmdline()) for p in study.tree() if p.is_running()]
        passers[0].kill()
        # The process that holds the group dies in the last trial, and takes its ranks along.
        wait_for(lambda: any(event["event"] == "report" and event["trial"] == 5 for event in events(folder)))
        holders = [p for p in study.tree() if p.is_running() and p.name().startswith("ray::GroupSlot")]
        assert len(holders) == 1, [p.name() for p in study.tree() if p.is_running()]
        holders[0].kill()
        assert study.wait() == 0, study.output
        assert study.left_behind() == []
    trials = show(storage, "broken")["trials"]
    # ASHA's first rung keeps what is above the 66th percentile of those before.
    assert [trial["state"] for trial in trials] == ["finished", "stopped", "failed", "finished", "finished"], (
        study.output
    )
    # A new group takes seconds. How little a warm one takes is for benchmarks/ to say: this machine may be busy.
    assert trials[1]["startup_seconds"] < 2.0
    assert trials[2]["reason"] == "ValueError: x is too small: 0.700"
    assert "x is too small" in (folder / "trials" / "3" / "error.txt").read_text()
    for trial, epochs in ((trials[0], 3), (trials[1], 1), (trials[3], 3), (trials[4], 3)):
        assert curves(folder)[trial["id"]] == truth(trial["params"]["x"], 3)[:epochs]
    ranks = processes_of(log)
    assert [len(pids) for pids in ranks["0.9"]] == [1, 1], "the group outlives the passer"
    assert ranks["0.9"] == ranks["0.8"], "an early stop keeps the group"
    assert ranks["0.95"][0].isdisjoint(ranks["0.9"][0]), "a group out of step serves no more"
    starts = [event["trial"] for event in events(folder) if event["event"] == "start"]
    assert starts.count(5) == 2, "a new holder is one retry"
    trained = [int(line.split()[1]) for line in log.read_text().splitlines() if line.split()[:3:2] == ["0.95", "0"]]
    assert len(trained) - len(set(trained)) <= 1, "it costs at most an epoch"
