"""Studies whose trials take two workers each: a worker group outlives its trials."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.integration.study_process import curves, events, running, show, tuner, wait_for, write_study
from tests.workloads.replay import Config, score

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TWO = {"workers": 2, "cpus_per_worker": 0.5, "max_concurrent_trials": 1}


def truth(x: float, epochs: int) -> list[tuple[int, float]]:
    config = Config(x=x, epochs=epochs)
    return [(epoch, score(config, epoch)) for epoch in range(1, epochs + 1)]


def processes_of(log: Path) -> dict[str, list[set[int]]]:
    """For each x, in the order trained: the process ids of each rank, by replay's own log."""
    found: dict[str, dict[str, list[int]]] = {}
    for line in log.read_text().splitlines():
        x, _, rank, pid = line.split()
        found.setdefault(x, {}).setdefault(rank, []).append(int(pid))
    return {x: [set(pids) for _, pids in sorted(ranks.items())] for x, ranks in found.items()}


def group_study(path: Path, log: Path, **tables: Any) -> Path:
    return write_study(
        path,
        resources=TWO,
        fixed={"collective": True, "log": log, **tables.pop("fixed", {})},
        **tables,
    )


def test_a_group_of_two_serves_trial_after_trial_warm_and_an_early_stop_keeps_it(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    log = tmp_path / "log"
    settings = [0.9, 0.8, 0.7, 0.6, 0.95, 0.5]
    file = group_study(
        tmp_path / "warm.toml",
        log,
        budget={"trials": len(settings)},
        first_trials=[{"x": x} for x in settings],
        fixed={"epochs": 3},
    )
    tuner("run", file, "--storage", storage, "--address", shared_ray)
    trials = show(storage, "warm")["trials"]
    # ASHA's first rung keeps what is above the 66th percentile of those before.
    assert [trial["state"] for trial in trials] == ["finished", *["stopped"] * 3, "finished", "stopped"]
    # A new group takes seconds. How little a warm one takes is for benchmarks/ to say: this machine may be busy.
    assert statistics.median(trial["startup_seconds"] for trial in trials[1:]) < 2.0
    for trial in trials:
        assert curves(storage / "warm")[trial["id"]] == truth(trial["params"]["x"], 3)[: trial["epochs"]]
    ranks = processes_of(log)
    assert len(ranks) == len(settings)
    assert all(len(pids) == 2 for pids in ranks.values())
    assert {frozenset(pids[0]) for pids in ranks.values()} == {frozenset(ranks["0.9"][0])}, "another process took over"
    assert {frozenset(pids[1]) for pids in ranks.values()} == {frozenset(ranks["0.9"][1])}


def test_what_breaks_a_group_fails_or_resumes_one_trial_and_the_next_gets_a_new_group(
    tmp_path: Path, storage: Path
) -> None:
    log = tmp_path / "log"
    fails = ["none", "raise", "none", "exit_once"]
    file = group_study(
        tmp_path / "broken.toml",
        log,
        budget={"trials": 4},
        scheduler={"name": "none"},
        space={"fail": {"type": "choice", "choices": ["none", "raise", "exit_once"]}},
        first_trials=[{"fail": fail, "x": 0.1 * number} for number, fail in enumerate(fails, start=1)],
        fixed={"epochs": 5, "step_seconds": 0.2, "fail_rank": 1},
    )
    folder = storage / "broken"
    with running("run", file, "--storage", storage) as study:
        # The process that stands between Tune and the slot dies in the first trial, its ranks don't.
        wait_for(lambda: any(event["event"] == "report" for event in events(folder)))
        passers = [p for p in study.tree() if p.is_running() and "ImplicitFunc" in " ".join(p.cmdline())]
        passers += [p for p in study.tree() if p.is_running() and p.name().startswith("ray::trial")]
        assert passers, [" ".join(p.cmdline()) for p in study.tree() if p.is_running()]
        passers[0].kill()
        assert study.wait() == 0, study.output
        assert study.left_behind() == []
    trials = show(storage, "broken")["trials"]
    assert [trial["state"] for trial in trials] == ["finished", "failed", "finished", "finished"], study.output
    assert trials[1]["reason"] == "ValueError: x is too small: 0.200"
    assert "x is too small" in (folder / "trials" / "2" / "error.txt").read_text()
    for trial in (trials[0], trials[2], trials[3]):
        assert curves(folder)[trial["id"]] == truth(trial["params"]["x"], 5)
    ranks = processes_of(log)
    assert [len(pids) for pids in ranks[repr(0.1)]] == [1, 1], "the group outlives the passer"
    assert ranks[repr(0.1)][0] == ranks[repr(0.2)][0]
    assert ranks[repr(0.2)][0].isdisjoint(ranks[repr(0.1 * 3)][0]), "a group out of step serves no more"
    assert [len(pids) for pids in ranks[repr(0.4)]] == [2, 2], "a dead rank takes its group with it"
    trained = [int(line.split()[1]) for line in log.read_text().splitlines() if line.split()[::2] == ["0.4", "0"]]
    assert len(trained) - len(set(trained)) <= 1, "it costs at most an epoch"
