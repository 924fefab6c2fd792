"""The state of a study after random events, beside the same computed anew from what trials have reported."""

from __future__ import annotations

import copy
import math
import random
from collections import defaultdict
from typing import Literal

import pytest

from tests.studies import study_spec
from tuner.events.dominance import dominates, knee
from tuner.events.event import (
    EpochReported,
    RunBegan,
    RunEnded,
    TrialEnded,
    TrialPaused,
    TrialRewound,
    TrialStarted,
)
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord


class RandomStudy:
    """Events that a study may have, one after the other, drawn at random; few values, so that many are equal."""

    def __init__(self, direction: str, seed: int, most_memory: float | None = None, costs: tuple[str, ...] = ()):
        """costs: further objectives, to minimize."""
        constraints = [{"metric": "memory", "at_most": most_memory}] if most_memory is not None else []
        first = {"metric": "score", "direction": direction}
        further = [{"metric": cost, "direction": "minimize"} for cost in costs]
        aims = {"objectives": [first, *further]} if costs else {"objective": first}
        spec = study_spec(**aims, constraints=constraints)
        self._costs = costs
        self.reports: defaultdict[int, dict[int, tuple[float, ...]]] = defaultdict(dict)
        """Of the same epochs, the values of all objectives."""
        self.record, self._most_memory = StudyRecord(spec), math.inf if most_memory is None else most_memory
        self.values: defaultdict[int, dict[int, float]] = defaultdict(dict)
        """Of each trial, the values of the epochs that keep the constraint."""
        self.order: list[tuple[int, int]] = []
        """Trial and epoch of each report that wasn't rewound."""
        self._random, self._now = random.Random(seed), 0.0
        self._begin_run()

    def advance(self) -> None:
        self._now += 1.0
        trials = self.record.trials
        running = [trial for trial in trials.values() if trial.state == "running"]
        waiting = [trial for trial in trials.values() if trial.state in ("paused", "interrupted")]
        if self._random.random() < 0.02:
            self.record.apply(RunEnded(self._now, "interrupted", None))
            self._begin_run()
        elif waiting and self._random.random() < 0.3:
            self._start(self._random.choice(waiting).id)
        elif not running or (len(trials) < 12 and self._random.random() < 0.2):
            self._start(len(trials) + 1)
        else:
            self._change(self._random.choice(running))

    def _begin_run(self) -> None:
        self.record.apply(RunBegan(self._now, self.record.runs + 1, "host", 1, {}, (), ""))

    def _start(self, trial: int) -> None:
        self.record.apply(TrialStarted(self._now, trial, {}))

    def _change(self, trial: TrialRecord) -> None:
        match self._random.choices(["report", "end", "pause", "rewind"], [10, 3, 2, 1])[0]:
            case "report":
                score = self._random.randrange(6) / 5
                memory = float(self._random.randrange(4))
                if memory <= self._most_memory:
                    self.values[trial.id][trial.epoch + 1] = score
                self.order.append((trial.id, trial.epoch + 1))
                metrics = {"score": score, "memory": memory}
                metrics |= {cost: float(self._random.randrange(6)) for cost in self._costs}
                if memory <= self._most_memory:
                    self.reports[trial.id][trial.epoch + 1] = self.record.spec.values_of(metrics)
                self.record.apply(EpochReported(self._now, trial.id, trial.epoch + 1, metrics))
            case "end":
                ends: list[Literal["finished", "stopped", "failed"]] = ["finished", "stopped", "failed"]
                end = self._random.choice(ends)
                self.record.apply(TrialEnded(self._now, trial.id, trial.value, trial.best_epoch, end, None))
            case "pause":
                self.record.apply(TrialPaused(self._now, trial.id))
            case "rewind":
                to_epoch = self._random.randint(0, trial.epoch)
                self.order = [(id, epoch) for id, epoch in self.order if id != trial.id or epoch <= to_epoch]
                kept = {epoch: value for epoch, value in self.values[trial.id].items() if epoch <= to_epoch}
                self.values[trial.id] = kept
                reports = self.reports[trial.id]
                self.reports[trial.id] = {epoch: values for epoch, values in reports.items() if epoch <= to_epoch}
                self.record.apply(TrialRewound(self._now, trial.id, to_epoch))


@pytest.mark.parametrize("most_memory", [None, 2.0, 0.0])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_best_value_and_ranking_after_each_event_are_those_of_all_reports(
    direction: str, most_memory: float | None
) -> None:
    best_of, sign = (max, -1.0) if direction == "maximize" else (min, 1.0)
    for seed in range(20):
        study = RandomStudy(direction, seed, most_memory)
        for _ in range(300):
            study.advance()
            trials = study.record.trials.values()
            assert list(study.record.reports()) == study.order
            for trial in trials:
                assert trial.value == best_of(study.values[trial.id].values(), default=None)
                assert dict(trial.curve) == study.values[trial.id]
                assert [breach.epoch for breach in trial.breaches] == [
                    epoch for epoch in range(1, trial.epoch + 1) if epoch not in study.values[trial.id]
                ]
            values = [trial.value for trial in trials if trial.value is not None and trial.state != "failed"]
            assert study.record.best_value == best_of(values, default=None)
            ended = [
                (sign * t.value, t.id) for t in trials if t.value is not None and t.state in ("finished", "stopped")
            ]
            assert [trial.id for trial in study.record.ranking()] == [number for _, number in sorted(ended)]


@pytest.mark.parametrize("costs", [("seconds",), ("seconds", "watts")])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_front_after_each_event_is_that_of_all_trials_that_can_win(direction: str, costs: tuple[str, ...]) -> None:
    for seed in range(15):
        study = RandomStudy(direction, seed, most_memory=2.0, costs=costs)
        record, spec = study.record, study.record.spec
        for _ in range(200):
            study.advance()
            for trial in record.trials.values():
                reports = study.reports[trial.id]
                first = [spec.signed(reports[epoch])[0] for epoch in sorted(reports)]
                best = sorted(reports)[first.index(max(first))] if first else None
                assert (trial.best_epoch, trial.values) == (best, reports[best] if best else ())
                assert dict(trial.points()) == reports
            can_win = [t for t in record.trials.values() if t.values and t.state in ("finished", "stopped")]
            signed = {trial.id: spec.signed(trial.values) for trial in can_win}
            front = [t for t in can_win if not any(dominates(other, signed[t.id]) for other in signed.values())]
            # Of trials with the same values one is in the front.
            assert {signed[trial.id] for trial in record.front()} == {signed[trial.id] for trial in front}
            assert len(record.front()) == len({signed[trial.id] for trial in front})
            ranking = record.ranking()
            assert sorted(trial.id for trial in ranking) == sorted(signed)
            if front:
                there = [signed[trial.id] for trial in record.front()]
                assert signed[ranking[0].id] == there[knee(there)]
                assert {trial.id for trial in ranking[: len(there)]} == {trial.id for trial in record.front()}
                assert {trial.id for trial in record.front()} <= {trial.id for trial in record.kept()}
            for trial in [t for t in record.trials.values() if t.state == "running" and t.values]:
                kept = record.would_be_kept(trial)
                ended = copy.deepcopy(record)
                ended.apply(TrialEnded(1e9, trial.id, trial.value, trial.best_epoch, "finished", None))
                assert kept == any(other.id == trial.id for other in ended.kept())
