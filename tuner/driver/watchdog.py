"""The watchdog: ends trials that hang, since a hung trial can't end itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.driver.tune_adapter import TrialSource
from tuner.events.event import TrialRewound
from tuner.events.trial import TrialRecord
from tuner.storage.checkpoints import TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage
from tuner.worker.messages import End

_CHECK_SECONDS = 1.0
_MIN_GRACE_SECONDS = 60.0


class Watchdog:
    """Ends trials that have stopped reporting. One run of a study has one; it is called in Tune's loop."""

    def __init__(
        self,
        recorder: Recorder,
        source: TrialSource,
        control: StudyControl,
        study: Storage,
        note: Callable[[str], None],
    ):
        """note: shows a message to the user."""
        self._recorder, self._source, self._control = recorder, source, control
        self._study, self._note = study, note
        self._hung_once: set[int] = set()
        self._checked_at = 0.0
        self._draining_since: float | None = None

    def check(self) -> None:
        """End each trial that has sent nothing for too long.

        A hung trial runs again from its newest checkpoint; the second time it fails. While the study drains, a silent
        trial counts as stopped, like the trials that report.
        """
        now = time.time()
        if now - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = now
        if self._control.ending:
            self._draining_since = self._draining_since or now
        for number in self._source.running():
            last_message_time = self._recorder.last_message_time(number)
            if last_message_time is None:
                continue
            trial = self._recorder.record.trials[number]
            if self._draining_since is not None:
                if now - max(self._draining_since, last_message_time) > _grace_seconds(trial):
                    self._stop(trial)
                continue
            timeout = self._recorder.record.spec.failures.no_report_seconds
            if timeout is not None and now - last_message_time > timeout:
                self._end_hung(trial, timeout)

    def _end_hung(self, trial: TrialRecord, timeout: float) -> None:
        reported = f"reported nothing for {timeout:g} s (failures.no_report_seconds)"
        if trial.id in self._hung_once:
            end = End("failed", f"it {reported}, for the second time")
        else:
            self._hung_once.add(trial.id)
            end = None
            self._note(f"trial {trial.id} {reported}: its process is killed, and it resumes from its newest checkpoint")
        self._end(trial, end)

    def _stop(self, trial: TrialRecord) -> None:
        checkpoints = TrialCheckpoints(trial_folder(self._study, trial.id))
        if trial.best_epoch is not None and not checkpoints.has(trial.best_epoch):
            # The best epoch's weights were only in its memory, so that epoch can't be exported.
            newest = checkpoints.newest()
            self._recorder.write(TrialRewound(time.time(), trial.id, newest[0].epoch if newest else 0))
        self._end(trial, End("stopped", self._control.reason))

    def _end(self, trial: TrialRecord, end: End | None) -> None:
        self._recorder.will_be_killed(trial.id, end)
        self._source.kill(trial.id)


def _grace_seconds(trial: TrialRecord) -> float:
    """How long a draining study waits for a trial's next report: twice the time of an epoch, at least a minute."""
    epochs = max(trial.epoch, 1)
    return max(_MIN_GRACE_SECONDS, 2 * trial.seconds(trial.last_seen) / epochs if trial.epoch else 0.0)
