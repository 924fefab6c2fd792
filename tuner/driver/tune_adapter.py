"""How a study uses Ray Tune, which places trials, keeps their processes, restarts dead ones and sees when one is done.

No other module uses private parts of Tune, and the test of this one checks that each of them exists.
Tune keeps every trial in memory to the study's end, and gives a free process to whichever trial asks first.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.tune
from ray import cloudpickle
from ray.air._internal import usage
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.driver.slots import Slot, SlotPool
from tuner.events.state import StudyRecord
from tuner.search.sampler import Sampler, values_for_sampler
from tuner.worker import death


def _tag_nothing(callbacks: list[Callback] | None) -> bool:
    del callbacks
    return False


# Tune looks whether the callbacks are its own for MLflow, and imports MLflow for it: seconds of each study's start.
usage.tag_callbacks = _tag_nothing


class _NotPickled:
    """Pickled as an empty object: Tune pickles what it is given for its own restore, which a study doesn't use."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialSource(_NotPickled, Searcher):
    """Gives Tune a trial when a slot is free, and asks the sampler only then, so that it knows every result so far."""

    def __init__(
        self,
        record: StudyRecord,
        recorder: Recorder,
        slots: SlotPool,
        control: StudyControl,
        note: Callable[[str], None],
    ):
        """note: shows a message to the user."""
        super().__init__(metric="value", mode=record.spec.mode)
        self._note = note
        self._record, self._recorder, self._slots, self._control = record, recorder, slots, control
        self._sampler = Sampler(record)
        self._placed: dict[str, tuple[int, Slot]] = {}
        """Trial and slot by Tune's id of the trial, until Tune is done with it."""
        self.controller: Any = None
        """Tune's controller; None before its first step."""
        self._started: dict[int, Any] = {}
        """Tune's trials that have a process, by their number in the study."""
        self._causes_of_death: collections.defaultdict[int, list[str]] = collections.defaultdict(list)

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial, None while no slot is free, or FINISHED if nothing is left to run."""
        if not self._sampler.has_requeued:
            # Trials of an earlier run go on to their next report first: the best epoch's weights may need it.
            self._recorder.drain_at_limit()
        if self._control.ending or self._sampler.exhausted:
            self._slots.end_idle()
            # A running trial may be queued again, and Tune never asks a searcher again that has finished.
            if self._placed:
                return None
            self._end_paused(self._sampler.paused)
            return str(Searcher.FINISHED)
        slot = self._slots.acquire()
        if slot is None:
            return None
        suggested_at = time.time()
        proposal = self._sampler.ask()
        self._placed[trial_id] = (proposal.trial, slot)
        return {
            "trial": proposal.trial,
            "params": proposal.params,
            "suggested_at": suggested_at,
            **slot.config(),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing to do: trials report to the recorder, not to Tune."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        del result
        if trial_id not in self._placed:
            return
        number, slot = self._placed.pop(trial_id)
        tune_trial = self._started.pop(number, None)
        failure = self._failure_reason(number, tune_trial) if error else None
        outcome = self._recorder.trial_done(number, failure, suspect_node=self._slots.on_suspect_node(slot))
        if outcome.note:
            self._note(outcome.note)
        if outcome.slot_is_lost:
            self._slots.discard(slot)
        else:
            self._slots.release(slot)
        if outcome.ended:
            self._sampler.tell(number, values_for_sampler(self._record.trials.get(number)))
        elif outcome.paused:
            self._sampler.pause(number)
            self._end_paused(self._sampler.surplus_paused())
        else:
            self._sampler.requeue(number)

    def _end_paused(self, numbers: Iterable[int]) -> None:
        """End paused trials that won't resume; those of a study that is stopped stay, to resume with it."""
        if self._control.stopping:
            return
        for number in list(numbers):
            self._recorder.end_paused(number)
            self._sampler.tell(number, values_for_sampler(self._record.trials[number]))

    def on_process_started(self, tune_trial: Any) -> None:
        """A trial's process has started."""
        self._started[tune_trial.config["trial"]] = tune_trial

    def on_process_died(self, tune_trial: Any) -> None:
        """A trial's process died, and Tune restarts it."""
        number, cause = tune_trial.config["trial"], cause_of_death(tune_trial)
        if self._recorder.node_is_draining(number):
            forget_failure(tune_trial)
        else:
            self._causes_of_death[number].append(cause)
        self._note(f"trial {number} is restarted, from its newest checkpoint if it has one: {cause}")

    def on_retries_used_up(self, tune_trial: Any) -> None:
        """A trial's process died or never started, and Tune won't restart it."""
        self._started[tune_trial.config["trial"]] = tune_trial

    def _failure_reason(self, number: int, tune_trial: Any) -> str:
        causes = self._causes_of_death.pop(number, [])
        return (
            death.failure_message([*causes, cause_of_death(tune_trial)]) if tune_trial else "its process didn't start"
        )

    def running(self) -> list[int]:
        """The trials that have a process."""
        return [number for number, tune_trial in self._started.items() if tune_trial.status == "RUNNING"]

    def kill(self, number: int) -> None:
        """Stop a trial that doesn't answer, and kill its process."""
        tune_trial = self._started[number]
        process = tune_trial.temporary_state.ray_actor
        self.controller.stop_trial(tune_trial)
        if process is not None:
            ray.kill(process)

    def waiting(self) -> int:
        """How many trials have a slot whose processes haven't all started."""
        return sum(not self._recorder.has_begun(number) for number, _ in self._placed.values())

    def is_placed(self, trial_id: str) -> bool:
        """Whether a trial has a slot, by Tune's id. Tune isn't done with it then."""
        return trial_id in self._placed

    def requeue(self, trial_id: str) -> None:
        """Run a trial again that Tune dropped before it began, because its slot's process didn't answer."""
        number, slot = self._placed.pop(trial_id)
        self._slots.release(slot)
        self._sampler.requeue(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to do: the study's event log holds all there is to save."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a study is rebuilt from its record, never restored by Tune")


class TuneEvents(_NotPickled, Callback):
    """Passes Tune's events on to the recorder, and frees the memory that Tune holds for ended trials."""

    def __init__(self, recorder: Recorder, source: TrialSource, control: StudyControl):
        self._recorder, self._source, self._control = recorder, source, control
        self._expected: dict[str, Any] = {}
        self._seen = 0
        self._first_complete: Any = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._source.on_process_started(trial)
        devices = self._recorder.record.spec.resources.devices(trial.config["gpus"])
        self._recorder.trial_started(trial.config["trial"], trial.config["params"], devices)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        drop_statistics(trial)
        self._first_complete = self._first_complete or trial
        share_metadata(trial, self._first_complete)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._source.on_process_died(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        drop_statistics(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Queue trials again that Tune dropped: it calls no other callback if a slot's process doesn't answer."""
        if self._control.stopping:
            return
        # Searching Tune's whole list in every step would make a large study slow.
        self._expected |= {trial.trial_id: trial for trial in trials[self._seen :]}
        self._seen = len(trials)
        for trial_id, trial in list(self._expected.items()):
            if not self._source.is_placed(trial_id):
                del self._expected[trial_id]
            elif trial.status == "ERROR":
                self._source.requeue(trial_id)


class WarmFifo(_NotPickled, FIFOScheduler):
    """Keeps slots warm, and stops no trial. It is a scheduler because Tune shows its controller only to schedulers."""

    def __init__(self, slots: SlotPool, source: TrialSource):
        self._slots, self._source = slots, source
        super().__init__()  # type: ignore[no-untyped-call]

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self._source.controller = tune_controller
        self._slots.keep_warm(process_cache(tune_controller))
        return super().choose_trial_to_run(tune_controller)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tune calls this before the searcher's on_trial_complete, which isn't given the trial itself."""
        self._source.on_retries_used_up(trial)


class StepHook(_NotPickled, ray.tune.Stopper):
    """Calls the study in every step of Tune's loop, when Tune asks its stopper whether to stop all trials."""

    def __init__(self, step: Callable[[], bool]):
        """step: returns whether the study is to stop."""
        self._step = step

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._step()


def process_cache(tune_controller: Any) -> Any:
    """Tune's cache of the processes whose trial has ended, by the resources that were requested for them."""
    return tune_controller._actor_cache


def drop_statistics(tune_trial: Any) -> None:
    """Free 40 KB of statistics and configuration, which Tune keeps for every trial to the study's end."""
    kept = tune_trial.run_metadata
    kept.metric_analysis, kept.metric_n_steps = {}, {}
    kept.last_result = {"ended": True}  # Tune would fetch an empty one again, and print it
    tune_trial._default_result_or_future = None
    number = {"trial": tune_trial.config["trial"]}
    for configuration in ("config", "evaluated_params", "_Trial__unresolved_config"):
        setattr(tune_trial, configuration, number)


def forget_failure(tune_trial: Any) -> None:
    """Have Tune not count the last death of a trial's process as one of its retries.

    By itself Tune does so only if the node was still there when its announced time was over.
    """
    kept = tune_trial.run_metadata
    kept.num_failures = max(0, kept.num_failures - 1)


def share_metadata(tune_trial: Any, other: Any) -> None:
    """Let a completed trial share these objects with another, instead of each keeping its own."""
    for part in ("storage", "run_metadata", "experiment_tag", "relative_logdir"):
        setattr(tune_trial, part, getattr(other, part))


def cause_of_death(tune_trial: Any) -> str:
    """Why a trial's process died, from the exception that Tune wrote to a file, or from its text."""
    error: Any = "its process died"
    if tune_trial.pickled_error_file is not None:
        error = cloudpickle.loads(Path(tune_trial.pickled_error_file).read_bytes())
    elif tune_trial.error_file:
        error = Path(tune_trial.error_file).read_text(encoding="utf-8")
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return death.NO_MEMORY
    if isinstance(error, ray.exceptions.RayActorError):
        return death.cause_of(error)
    # The last line is the error that the slot of a worker group raised (tuner/worker/group.py).
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return lines[-1].strip().removeprefix("RuntimeError: ") if lines else type(error).__name__
