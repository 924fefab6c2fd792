"""The search's own sampler isn't misled by what a change of fidelity does to all trials."""

from __future__ import annotations

import math
import random

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from tuner.search.extrapolation import at_rungs, without_falls
from tuner.search.gp_curves import OUTCOME, GpCurvesSampler
from tuner.spec.space import Float

CHANGES = (2, 6)
FALL = 3.0


def test_values_from_before_a_change_do_not_count_after_it() -> None:
    curve = {1: 5.0, 2: 6.0, 3: 1.0, 4: 2.0, 6: 1.5, 7: 0.5}
    assert at_rungs([curve], [2, 4, 6, 7], changes=CHANGES).tolist() == [[6.0, 2.0, 2.0, 0.5]]
    assert at_rungs([curve], [2, 4, 6, 7]).tolist() == [[6.0, 6.0, 6.0, 6.0]]


def test_what_trials_lose_in_a_change_is_taken_from_those_that_were_stopped_before_it() -> None:
    nan = math.nan
    values = np.array([[9.0, 5.0, 5.5], [8.0, 4.2, 4.6], [7.0, 2.9, nan], [6.0, nan, nan]])
    found = without_falls(values, [2, 6, 9], CHANGES[:1])
    np.testing.assert_allclose(found[:, 0], values[:, 0] - 4.0)
    np.testing.assert_array_equal(found[:, 1:], values[:, 1:])
    gained = np.array([[1.0, 5.0], [1.0, 4.0]])
    np.testing.assert_array_equal(without_falls(gained, [2, 6], CHANGES[:1]), gained)


@pytest.mark.parametrize("fall", [0.0, FALL])
def test_proposals_find_the_good_settings_whether_or_not_trials_measure_worse_after_a_change(fall: float) -> None:
    proposed = []
    for seed in range(20):
        rng = random.Random(seed)
        study = optuna.create_study(direction="maximize")
        for _ in range(12):
            x = rng.random()
            final = 1 - (x - 0.7) ** 2 * 4
            stopped = final < 0.8
            # A trial that was stopped on small images has a far higher value than any that went on.
            curve = {e: final * (1 - 0.5**e) + fall * (2 - sum(c < e for c in CHANGES)) for e in range(1, 13)}
            curve = {epoch: value for epoch, value in curve.items() if not stopped or epoch <= 2}
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=curve[max(curve)],
                    params={"x": x},
                    distributions={"x": FloatDistribution(0, 1)},
                    user_attrs={OUTCOME: "stopped" if stopped else "finished"},
                    intermediate_values=curve,
                )
            )
        changes = CHANGES if fall else ()
        sampler = GpCurvesSampler({"x": Float(type="float", low=0, high=1)}, seed, 2, changes)
        study.ask()
        params = sampler.sample_relative(study, study.get_trials()[-1], {})
        proposed.append(abs(params["x"] - 0.7))
    assert float(np.median(proposed)) < 0.2
