"""Ray Tune, as a study uses it: it places trials, keeps their processes, restarts what died, and sees when one is done.

What a study needs of Tune's private parts stands here and nowhere else; its test names each of them.
Tune keeps every trial to the study's end, and gives a free process to whichever trial asks first.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.tune
from ray import cloudpickle
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.driver.slots import Slot, SlotPool
from tuner.events.state import StudyRecord
from tuner.search.sampler import Sampler, value_for_sampler
from tuner.worker import death


class _NotPickled:
    """Tune pickles all that it is given for a restore of its own, which a study has no use for."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialSource(_NotPickled, Searcher):
    """Gives Tune the sampler's trials, each when a slot is free for it: so the sampler knows every result there is."""

    def __init__(
        self,
        record: StudyRecord,
        recorder: Recorder,
        slots: SlotPool,
        control: StudyControl,
        note: Callable[[str], None],
    ):
        """note: shows a person a sentence."""
        super().__init__(metric="value", mode=record.spec.mode)
        self._note = note
        self._record, self._recorder, self._slots, self._control = record, recorder, slots, control
        self._sampler = Sampler(record)
        self._placed: dict[str, tuple[int, Slot]] = {}
        """By Tune's name for a trial."""
        self.controller: Any = None
        """Tune's, from its first turn on."""
        self._started: dict[int, Any] = {}
        """Tune's trials that have a process, by their number in the study."""
        self._causes_of_death: collections.defaultdict[int, list[str]] = collections.defaultdict(list)

    def suggest(self, trial_id: str) -> Any:
        """One trial's configuration, None while no slot is free, or FINISHED when there is nothing left to run."""
        if self._control.ending or self._sampler.exhausted:
            self._slots.end_idle()
            # A trial that runs may be put back, and a searcher that has finished is never asked again.
            return None if self._placed else str(Searcher.FINISHED)
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
        """Trials report to the recorder."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        del result
        if trial_id not in self._placed:
            return
        number, slot = self._placed.pop(trial_id)
        tune_trial = self._started.pop(number, None)
        given_up = self._failure_reason(number, tune_trial) if error else None
        outcome = self._recorder.trial_done(number, given_up, doubtful=self._slots.doubtful(slot))
        if outcome.note:
            self._note(outcome.note)
        if outcome.slot_is_lost:
            self._slots.discard(slot)
        else:
            self._slots.release(slot)
        if outcome.ended:
            self._sampler.tell(number, value_for_sampler(self._record, self._record.trials.get(number)))
        else:
            self._sampler.requeue(number)

    def on_process_started(self, tune_trial: Any) -> None:
        """A trial has a process."""
        self._started[tune_trial.config["trial"]] = tune_trial

    def on_process_died(self, tune_trial: Any) -> None:
        """A trial's process died, and Tune begins it again."""
        number, cause = tune_trial.config["trial"], cause_of_death(tune_trial)
        self._causes_of_death[number].append(cause)
        self._note(f"trial {number} begins again, from its newest checkpoint if it has one: {cause}")

    def on_process_given_up(self, tune_trial: Any) -> None:
        """A trial's process died, and Tune doesn't begin it again; it may be one that never came up."""
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
        """Have Tune be done with a trial that doesn't answer, and end its process."""
        tune_trial = self._started[number]
        process = tune_trial.temporary_state.ray_actor
        self.controller.stop_trial(tune_trial)
        if process is not None:
            ray.kill(process)

    def waiting(self) -> int:
        """How many trials have a slot, but not all of their processes yet."""
        return sum(not self._recorder.has_begun(number) for number, _ in self._placed.values())

    def is_placed(self, trial_id: str) -> bool:
        """Whether this trial's end has not come yet."""
        return trial_id in self._placed

    def requeue(self, trial_id: str) -> None:
        """Tune gave up on a trial before it began, because its slot couldn't be used: run it on another."""
        number, slot = self._placed.pop(trial_id)
        self._slots.release(slot)
        self._sampler.requeue(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save beside the study's events."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a study is rebuilt from its record, never restored by Tune")


class TuneEvents(_NotPickled, Callback):
    """What Tune tells of trials, handed to the recorder; and Tune's own memory of them kept small."""

    def __init__(self, recorder: Recorder, source: TrialSource, control: StudyControl):
        self._recorder, self._source, self._control = recorder, source, control
        self._expected: dict[str, Any] = {}
        self._seen = 0
        self._first_complete: Any = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._source.on_process_started(trial)
        self._recorder.trial_started(trial.config["trial"], trial.config["params"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        drop_statistics(trial)
        self._first_complete = self._first_complete or trial
        share_metadata(trial, self._first_complete)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._source.on_process_died(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        drop_statistics(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune drops a trial without a word if the slot that should take it doesn't answer."""
        if self._control.stopping:
            return
        # Looking through all of Tune's list in every turn makes a large study slow.
        self._expected |= {trial.trial_id: trial for trial in trials[self._seen :]}
        self._seen = len(trials)
        for trial_id, trial in list(self._expected.items()):
            if not self._source.is_placed(trial_id):
                del self._expected[trial_id]
            elif trial.status == "ERROR":
                self._source.requeue(trial_id)


class WarmFifo(_NotPickled, FIFOScheduler):
    """Stops no trial. Of all that a study gives to Tune, only a scheduler is shown Tune's controller, in every turn."""

    def __init__(self, slots: SlotPool, source: TrialSource):
        self._slots, self._source = slots, source
        super().__init__()  # type: ignore[no-untyped-call]

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self._source.controller = tune_controller
        self._slots.keep_warm(process_cache(tune_controller))
        return super().choose_trial_to_run(tune_controller)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called before the searcher is told of it, who isn't told which trial it is of Tune's."""
        self._source.on_process_given_up(trial)


class EachTurn(_NotPickled, ray.tune.Stopper):
    """Calls the study in every turn of Tune's loop; it returns whether all is to stop."""

    def __init__(self, turn: Callable[[], bool]):
        self._turn = turn

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._turn()


def process_cache(tune_controller: Any) -> Any:
    """Tune's store of processes whose trial has ended, by what they were asked for."""
    return tune_controller._actor_cache


def drop_statistics(tune_trial: Any) -> None:
    """Tune keeps every trial to the study's end, with 40 KB of statistics and configuration that nobody reads again."""
    kept = tune_trial.run_metadata
    kept.metric_analysis, kept.metric_n_steps = {}, {}
    kept.last_result = {"ended": True}  # an empty one is asked for anew, and printed
    tune_trial._default_result_or_future = None
    number = {"trial": tune_trial.config["trial"]}
    for configuration in ("config", "evaluated_params", "_Trial__unresolved_config"):
        setattr(tune_trial, configuration, number)


def share_metadata(tune_trial: Any, other: Any) -> None:
    """Of what Tune keeps of trials that are complete, one will do for all."""
    for part in ("storage", "run_metadata", "experiment_tag", "relative_logdir"):
        setattr(tune_trial, part, getattr(other, part))


def cause_of_death(tune_trial: Any) -> str:
    """Of what a trial's process died, by what Tune wrote of it in this process: the exception, or else its text."""
    error: Any = "its process died"
    if tune_trial.pickled_error_file is not None:
        error = cloudpickle.loads(Path(tune_trial.pickled_error_file).read_bytes())
    elif tune_trial.error_file:
        error = Path(tune_trial.error_file).read_text(encoding="utf-8")
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return death.NO_MEMORY
    if isinstance(error, ray.exceptions.RayActorError):
        return death.cause_of(error)
    # What the slot of a worker group has to say of it (tuner/worker/group.py).
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return lines[-1].strip().removeprefix("RuntimeError: ") if lines else type(error).__name__
