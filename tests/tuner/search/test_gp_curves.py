"""The Gaussian process over extrapolated curves: its parts against independent truths, the whole on a known optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import check_grad
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from tests.studies import study_spec
from tests.tuner.search.test_sampler import Study
from tests.written_study import SPACE
from tuner.events.state import StudyRecord
from tuner.search.acquisition import expected_improvement, most_improving
from tuner.search.encoding import Encoding
from tuner.search.extrapolation import at_rungs, extrapolate, normal_scores
from tuner.search.gaussian_process import GaussianProcess

RNG = np.random.default_rng(0)


def test_a_process_predicts_what_sklearn_predicts() -> None:
    rows, y, noise = RNG.random((20, 3)), RNG.standard_normal(20), RNG.uniform(0.01, 0.3, 20)
    process = GaussianProcess(np.arange(3))
    process.fit(rows, y, noise)
    process.condition(rows, y, noise)
    scales, signal, own_noise = process.numbers
    kernel = ConstantKernel(signal) * Matern(length_scale=scales, nu=2.5)
    truth = GaussianProcessRegressor(kernel, alpha=noise + own_noise, optimizer=None).fit(rows, y)
    at = RNG.random((7, 3))
    means, deviations = truth.predict(at, return_std=True)
    found, variances = process.predict(at)
    assert found == pytest.approx(means, abs=1e-4)
    assert variances == pytest.approx(deviations**2, abs=1e-4)


def test_the_gradient_of_the_fit_is_that_of_its_loss() -> None:
    rows, y, noise = RNG.random((12, 4)), RNG.standard_normal(12), RNG.uniform(0.01, 0.3, 12)
    process = GaussianProcess(np.array([0, 1, 1, 2]))
    squares = process.squares(rows)
    at = np.array([-0.5, 0.3, 0.1, 0.2, -2.0])
    error = check_grad(
        lambda theta: process.loss(theta, squares, y, noise)[0],
        lambda theta: process.loss(theta, squares, y, noise)[1],
        at,
    )
    assert error < 1e-4


def test_a_setting_comes_back_from_its_place_in_the_cube() -> None:
    encoding = Encoding(study_spec(space=SPACE).space)
    settings = [encoding.random(RNG) for _ in range(50)]
    assert {"momentum" in setting for setting in settings} == {setting["optimizer"] == "sgd" for setting in settings}
    again = [encoding.params(row) for row in encoding.rows(settings)]
    for setting, back in zip(settings, again, strict=True):
        assert (back["batch_size"], back["optimizer"]) == (setting["batch_size"], setting["optimizer"])
        assert back["x"] == pytest.approx(setting["x"])
        assert back.get("momentum") == (pytest.approx(setting["momentum"]) if "momentum" in setting else None)


def test_candidates_lie_where_settings_lie() -> None:
    space = {**SPACE, "width": {"type": "float", "low": 0.25, "high": 2.0, "step": 0.25}}
    space["units"] = {"type": "int", "low": 4, "high": 64, "log": True, "when": {"batch_size": [3, 5]}}
    encoding = Encoding(study_spec(space=space).space)
    leading = encoding.rows(
        [{"x": 0.1, "batch_size": 3, "optimizer": "sgd", "momentum": 0.5, "width": 1.0, "units": 8}]
    )
    candidates = np.concatenate([encoding.anywhere(RNG, 100), encoding.near(RNG, leading, 100)])
    settings = [encoding.params(row) for row in candidates]
    assert candidates == pytest.approx(encoding.rows(settings))
    assert any("units" in setting for setting in settings)


def test_the_setting_found_improves_more_than_the_best_of_many_random_ones() -> None:
    encoding = Encoding(study_spec(space={**SPACE, **{f"y{k}": SPACE["x"] for k in range(4)}}).space)
    rng = np.random.default_rng(1)
    rows = encoding.anywhere(rng, 30)
    values = -((rows - 0.3) ** 2).sum(axis=1)
    process = GaussianProcess(encoding.owners)
    process.fit(rows, values, np.full(30, 1e-3))
    process.condition(rows, values, np.full(30, 1e-3))
    found = most_improving(process, float(values.max()), encoding, rows, values, rng)
    random = encoding.anywhere(rng, 20_000)
    found_and_random = np.concatenate([found[None], random])
    scores = expected_improvement(*process.predict(found_and_random), float(values.max()))
    assert scores[0] > scores[1:].max()


def test_the_expected_improvement_is_the_mean_of_what_exceeds_the_best() -> None:
    means, deviations, best = np.array([0.4, 0.0, -1.0, -6.0]), np.array([0.3, 1.0, 0.5, 1.1]), 0.2
    for mean, deviation in zip(means, deviations, strict=True):
        law = norm(mean, deviation)
        truth, _ = quad(lambda value, law=law: (value - best) * law.pdf(value), best, best + 12 * deviation)
        found = expected_improvement(np.array([mean]), np.array([deviation**2]), best)[0]
        assert found == pytest.approx(math.log(truth), abs=0.1)


def test_a_curve_is_compared_by_its_best_so_far_at_each_rung() -> None:
    curves = [{4: 0.3, 1: 0.1, 2: 0.5, 7: 0.9}, {}, {5: 0.2, 12: 0.1}]
    expected = [[0.1, 0.5, 0.5, math.nan], [math.nan] * 4, [0.2] * 4]
    assert at_rungs(curves, [1, 3, 6, 12]) == pytest.approx(np.array(expected), nan_ok=True)


def test_curves_at_rungs_are_those_of_a_loop_over_each_where_less_is_better_too() -> None:
    rungs = [2, 4, 8, 16, 20]
    for sign in (1.0, -1.0):
        curves = []
        for _ in range(200):
            epochs = np.flatnonzero(RNG.random(RNG.integers(1, 22)) < 0.6) + 1
            curves.append({int(epoch): float(RNG.standard_normal()) for epoch in epochs})
        expected = np.full((200, len(rungs)), math.nan)
        for row, curve in zip(expected, curves, strict=True):
            for place, rung in enumerate(rungs):
                if curve and max(curve) >= rung:
                    by_then = [sign * value for epoch, value in curve.items() if epoch <= rung]
                    row[place] = max(by_then) if by_then else sign * curve[min(curve)]
        assert at_rungs(curves, rungs, sign) == pytest.approx(expected, nan_ok=True)


def test_a_short_trial_is_taken_to_where_trials_like_it_went_and_is_less_sure() -> None:
    starts = np.linspace(-1.0, 0.4, 12)
    values = np.stack([starts, starts + 0.3, starts + 0.5], axis=1)
    values[8:, 2], values[10:, 1] = math.nan, math.nan
    means, variances = extrapolate(values)
    assert means[:8] == pytest.approx(values[:8, 2])
    assert means[8:] == pytest.approx(starts[8:] + 0.5, abs=0.06)
    assert 0 == variances[0] < variances[8] < variances[10]


def test_ranks_and_how_far_an_error_reaches_among_them_stand_for_values() -> None:
    means, variances = np.array([0.0, 9.0, 1.0, 1.0, 8.0]), np.array([0.0, 0.0, 0.0, 4.0, 16.0])
    scores, errors = normal_scores(means, variances)
    assert norm.cdf(scores) == pytest.approx([0.1, 0.9, 0.4, 0.4, 0.7])
    assert errors[:3] == pytest.approx(0.0)
    # From 1 a deviation of 2 passes 0 and no other; from 8 one of 4 passes 9.
    assert errors[3:] == pytest.approx(
        [((norm.ppf(0.6) - norm.ppf(0.1)) / 2) ** 2, ((norm.ppf(0.9) - norm.ppf(0.6)) / 2) ** 2]
    )


def test_nothing_is_proposed_next_to_a_known_setting_unless_there_is_nothing_else() -> None:
    numbers, few = {"x": SPACE["x"], "y": SPACE["x"]}, {"x": {"type": "int", "low": 1, "high": 3}}
    for space, free in ((numbers, True), (few, False)):
        encoding = Encoding(study_spec(space=space).space)
        rng = np.random.default_rng(2)
        rows = encoding.anywhere(rng, 25)
        values = -((rows - 0.3) ** 2).sum(axis=1)
        process = GaussianProcess(encoding.owners)
        process.condition(rows, values, np.full(25, 1e-3))
        found = most_improving(process, float(values.max()), encoding, rows, values, rng)
        nearest = np.sqrt(((rows - found) ** 2).sum(axis=1)).min()
        assert nearest > 0.04 if free else nearest == 0


def test_a_slow_starter_is_found_that_early_stopping_s_values_hide() -> None:
    """x near 0.8 ends best, x near 0.1 starts fastest; every second trial is stopped after three epochs."""
    study = Study(StudyRecord(study_spec(search={"sampler": "gp_curves"}, budget={"trials": 40})))
    proposed = []
    for turn in range(30):
        number, params = study.begin()
        proposed.append(params["x"])
        for epoch in range(1, 4 if turn % 2 else 13):
            study.report(number, epoch, _slope(params["x"], epoch))
        study.end(number, "stopped" if turn % 2 else "finished")
    # One in five random settings lies as near.
    assert sum(abs(x - 0.8) < 0.1 for x in proposed[15:]) >= 6
    assert max(trial.value or 0.0 for trial in study.record.trials.values()) > 0.98


def _slope(x: float, epoch: int) -> float:
    end, start = 1 - 2 * (x - 0.8) ** 2, 0.5 - 0.4 * abs(x - 0.1)
    return start + (end - start) * (1 - math.exp(-epoch / 4)) / (1 - math.exp(-3))


def test_no_trial_or_only_failed_ones_are_enough_to_propose_the_next() -> None:
    study = Study(StudyRecord(study_spec(space=SPACE, search={"sampler": "gp_curves"}, budget={"trials": 20})))
    for _ in range(6):
        study.run(None, "failed")
    for value in (0.5, 0.5, 0.5, 0.7):
        study.run(value)
    assert 1e-3 <= study.begin()[1]["x"] <= 1.0
