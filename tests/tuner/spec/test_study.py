"""Study files: what they say, and every mistake in one at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.errors import StudyError
from tuner.spec.study import StudySpec, to_json
from tuner.spec.study_file import check_study, override_study, read_study

GOOD = """
workload = "tests.workloads.replay"
first_trials = [{x = 0.5}, {x = 1.0, batch_size = 8}]

[objective]
metric = "score"

[budget]
trials = 12

[fixed]
epochs = 5

[space]
x = {type = "float", low = 0.1, high = 1.0}
batch_size = {type = "int", low = 1, high = 16, log = true}
optimizer = {type = "choice", choices = ["adam", "sgd"]}
momentum = {type = "float", low = 0.5, high = 0.99, when = {optimizer = ["sgd"]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "roads.toml"
    path.write_text(GOOD)
    return path


def mistakes(file: Path, *overrides: str) -> list[str]:
    """What is said of a file, without its name."""
    with pytest.raises(StudyError) as caught:
        read_study(file, overrides)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{file}: ") for line in lines)
    return [line.removeprefix(f"{file}: ") for line in lines]


def changed(file: Path, old: str, new: str) -> Path:
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))
    return file


def test_a_good_file_is_read_with_its_name_from_the_file(file: Path) -> None:
    spec = read_study(file)
    assert spec.name == "roads"
    assert spec.budget.trials == 12
    assert spec.fixed == {"epochs": 5}
    assert list(spec.space) == ["x", "batch_size", "optimizer", "momentum"]
    assert spec.first_trials[1] == {"x": 1.0, "batch_size": 8}
    assert spec.mode == "max"


def test_the_name_of_the_command_line_wins_over_that_of_the_file(file: Path) -> None:
    changed(file, "\nworkload", '\nname = "inside"\nworkload')
    assert read_study(file).name == "inside"
    assert read_study(file, name="outside").name == "outside"


def test_a_study_in_json_reads_back_as_the_same_study(file: Path) -> None:
    spec = read_study(file)
    assert StudySpec.model_validate_json(to_json(spec)) == spec


def test_set_replaces_what_the_file_says(file: Path) -> None:
    sets = ["budget.trials=3", "fixed.epochs=7", "space.x.high=2", 'scheduler.name="none"', "search.sampler=random"]
    spec = read_study(file, [*sets, "fixed.log=/some/where", "resources.max_concurrent_trials=auto"])
    assert spec.budget.trials == 3
    assert spec.fixed == {"epochs": 7, "log": "/some/where"}
    assert spec.space["x"].endpoints == (0.1, 2)
    assert spec.scheduler.name == "none"
    assert spec.search.sampler == "random"


def test_set_may_hold_an_equals_sign_in_its_value(file: Path) -> None:
    assert read_study(file, ["fixed.log=/a=b"]).fixed["log"] == "/a=b"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("budget.trials", "--set: table.key=value is needed, got 'budget.trials'"),
        ("=3", "--set: table.key=value is needed, got '=3'"),
        ("budget..trials=3", "--set: table.key=value is needed"),
        ("workload.x=3", "--set workload.x=3: workload is a value, not a table"),
    ],
)
def test_a_set_without_key_or_value_is_refused(file: Path, override: str, sentence: str) -> None:
    with pytest.raises(StudyError, match="--set") as caught:
        read_study(file, [override])
    assert sentence in str(caught.value)


def test_a_mistake_in_a_set_is_reported_like_one_in_the_file(file: Path) -> None:
    assert mistakes(file, "budget.trails=3") == ["budget.trails: no such key; did you mean trials?"]


def test_all_mistakes_of_a_file_are_reported_at_once(file: Path) -> None:
    file.write_text("""
workload = "tests.workloads.replay"
bugdet = 3
first_trials = [{x = 7.0}, {learning = 1}]

[objective]
metric = "score"
direction = "up"

[budget]
trials = 0

[search]
sampler = "bayes"

[fixed]
epoch = 5
momentum = 2.0

[space]
x = {type = "float", low = 1.0, high = 0.1}
batch_sise = {type = "int", low = 1, high = 16}
optimizer = {choices = ["adam"]}
""")
    text = "\n".join(mistakes(file))
    for place in (
        "bugdet: no such key; did you mean budget?",
        "objective.direction: ",
        "budget.trials: input should be greater than or equal to 1, got 0",
        "search.sampler: ",
        "fixed.epoch: tests.workloads.replay.Config has no such field; did you mean epochs?",
        "fixed.momentum: input should be less than 1, got 2.0",
        "space.x: low < high must hold, got low=1.0, high=0.1; swap them",
        "space.batch_sise: tests.workloads.replay.Config has no such field; did you mean batch_size?",
        'space.optimizer.type: "float", "int" or "choice" is needed',
    ):
        assert place in text, text
    assert len(text.split("\n")) >= 9


def test_the_bounds_of_the_config_hold_for_both_ends_of_a_range(file: Path) -> None:
    changed(file, "low = 1, high = 16, log = true", "low = 0, high = 100")
    lines = mistakes(file)
    assert len(lines) == 2
    assert lines[0].startswith("space.batch_size: input should be greater than or equal to 1, got 0")
    assert lines[1].startswith("space.batch_size: input should be less than or equal to 64, got 100")


def test_a_choice_that_the_config_does_not_know_is_reported(file: Path) -> None:
    changed(file, '"sgd"]}\nmomentum', '"sgd", "lion"]}\nmomentum')
    (line,) = mistakes(file)
    assert line.startswith("space.optimizer: ")
    assert "got 'lion'" in line


def test_a_first_trial_outside_the_space_is_reported(file: Path) -> None:
    changed(file, "{x = 0.5}", "{x = 5.0, batchsize = 2}")
    assert mistakes(file) == [
        "first_trials[1].x: the value must lie in the space (0.1 to 1), got 5.0; widen the space or remove the trial",
        "first_trials[1].batchsize: only hyperparameters of [space] can be given; did you mean batch_size?",
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "scheduler.name=none",
            'scheduler.control_trials: they show what early stopping would have stopped, and scheduler.name = "none" '
            "stops no trial; got 3: set it to 0, or name a scheduler",
        ),
        (
            "budget.trials=4",
            "scheduler.control_trials: at most 2, the budget's trials without the first trials, of which none is a "
            "control trial; got 3: set it lower, or budget.trials higher",
        ),
    ],
)
def test_control_trials_that_can_not_be_are_refused_with_the_reason(file: Path, override: str, sentence: str) -> None:
    assert mistakes(file, "scheduler.control_trials=3", override) == [sentence]


def test_a_config_field_that_is_fixed_and_sampled_is_reported(file: Path) -> None:
    changed(file, "epochs = 5", "epochs = 5\nx = 0.5")
    assert mistakes(file) == ["space.x: a config field is either fixed or sampled, got both; remove it from [fixed]"]


def test_a_condition_on_an_unknown_hyperparameter_is_reported(file: Path) -> None:
    changed(file, 'when = {optimizer = ["sgd"]}', 'when = {optimiser = ["sgd"]}')
    (line,) = mistakes(file)
    assert line.startswith(
        "space.momentum.when: a condition must name another hyperparameter of [space], got 'optimiser'"
    )
    assert line.endswith("did you mean optimizer?")


def test_a_condition_that_can_never_hold_is_reported(file: Path) -> None:
    changed(file, 'when = {optimizer = ["sgd"]}', 'when = {optimizer = ["lion"]}')
    (line,) = mistakes(file)
    assert line.startswith("space.momentum.when.optimizer: the value must be one that optimizer can take (adam | sgd)")


def test_a_cycle_of_conditions_is_reported(file: Path) -> None:
    changed(file, 'choices = ["adam", "sgd"]}', 'choices = ["adam", "sgd"], when = {momentum = [0.5]}}')
    (line,) = mistakes(file)
    assert line.startswith("space: conditions must not form a cycle, got optimizer, momentum")


@pytest.mark.parametrize("name", ["", "-a", "a/b", "..", ".hidden", "a b", "x" * 101, "mlflow.db", "artifacts"])
def test_a_name_that_cannot_be_a_folders_is_reported(file: Path, name: str) -> None:
    raw = {"name": name, "workload": "tests.workloads.replay", "objective": {"metric": "score"}}
    raw |= {"budget": {"trials": 1}, "space": {"x": {"type": "float", "low": 0, "high": 1}}}
    with pytest.raises(StudyError, match="name: ") as caught:
        check_study(raw, str(file))
    assert repr(name) in str(caught.value)


def test_a_file_without_a_budget_is_reported(file: Path) -> None:
    changed(file, "[budget]\ntrials = 12\n", "")
    (line,) = mistakes(file)
    assert line.startswith("budget: this key is needed; add it")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("1.5", "a share of one GPU or a whole number of them is needed, got 1.5"),
        ("-1", "a share of one GPU or a whole number of them is needed, got -1"),
    ],
)
def test_a_share_of_gpus_that_is_impossible_is_reported(file: Path, value: str, sentence: str) -> None:
    lines = mistakes(file, f"resources.gpus_per_worker={value}")
    assert any(sentence in line for line in lines), lines


def test_a_missing_workload_is_reported(file: Path) -> None:
    changed(file, "tests.workloads.replay", "tests.workloads.repaly")
    (line,) = mistakes(file)
    assert line.startswith("workload: a Python package that can be imported is needed, got 'tests.workloads.repaly'")


@pytest.mark.parametrize("package", ["", ".replay", "..", "a b", "json"])
def test_a_workload_that_is_no_package_name_is_reported(file: Path, package: str) -> None:
    changed(file, "tests.workloads.replay", package)
    lines = mistakes(file)
    assert any(line.startswith("workload: ") for line in lines), lines


def test_a_module_that_lacks_a_part_of_the_contract_is_reported(file: Path) -> None:
    changed(file, "tests.workloads.replay", "json.decoder")
    (line,) = mistakes(file)
    assert line.startswith("workload: json.decoder must define Config, prepare, train, export, but lacks Config")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.toml: a study file is needed, got no such file"):
        read_study(tmp_path / "nowhere.toml")


def test_a_folder_in_place_of_a_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="must be a file that can be read"):
        read_study(tmp_path)


@pytest.mark.parametrize("content", [b"[budget\n", b"\xff\xfe\x00"])
def test_a_file_that_is_not_toml_is_reported(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(StudyError, match="must be TOML"):
        read_study(file)


def test_a_study_can_be_given_more_trials_later(file: Path) -> None:
    spec = read_study(file)
    assert override_study(spec, ["budget.trials=99"]) == spec.model_copy(
        update={"budget": spec.budget.model_copy(update={"trials": 99})}
    )


def test_a_study_file_has_no_id_and_a_study_keeps_its_own(file: Path) -> None:
    """Two studies of one id would write into each other's runs in MLflow."""
    drawn = "0123456789abcdef" * 2
    assert mistakes(file, f"id='{drawn}'") == ["id: no such key; remove it"]
    assert mistakes(file, "taken=[]") == ["taken: no such key; remove it"]
    spec = read_study(file).model_copy(update={"id": drawn})
    assert StudySpec.model_validate_json(to_json(spec)).id == drawn
    assert override_study(spec, ["budget.trials=20"]).id == drawn


def test_limits_that_end_a_study_are_read_and_their_mistakes_told(file: Path) -> None:
    limits = "budget.stop_when={value = 0.9, no_improvement_trials = 20, cost = 50, price_per_device_hour = 2.5}"
    stop_when = read_study(file, [limits]).budget.stop_when
    assert (stop_when.value, stop_when.no_improvement_trials, stop_when.device_hours) == (0.9, 20, None)
    assert override_study(read_study(file), ["budget.stop_when.value=0.95"]).budget.stop_when.value == 0.95
    assert mistakes(file, "budget.stop_when.valeu=0.9") == [
        "budget.stop_when.valeu: no such key; did you mean value?",
    ]
    assert mistakes(file, "budget.stop_when.cost=50") == [
        "budget.stop_when: cost and price_per_device_hour need each other, got cost = 50 alone; "
        "add price_per_device_hour or remove cost",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            '[{metric="score"}]',
            "constraints[1]: one of at_most and at_least is needed, got neither; give one, or two constraints",
        ),
        (
            '[{metric="score", at_most=1, at_least=0}]',
            "constraints[1]: one of at_most and at_least is needed, got both; give one, or two constraints",
        ),
        (
            '[{metric="loss", at_most=1}, {metric="loss", at_most=2}]',
            "constraints[2]: loss is limited once already, at most 1; remove one of them",
        ),
        (
            '[{metric="loss", at_least=2}, {metric="loss", at_most=1}]',
            "constraints[2]: loss can't be at least 2 and at most 1; correct one of them",
        ),
        ('[{metric="loss", at_mots=2}]', "constraints[1].at_mots: no such key; did you mean at_most?"),
        ('[{metric="loss", at_most=inf}]', "constraints[1].at_most: input should be a finite number, got inf"),
    ],
)
def test_a_constraint_has_one_limit_that_can_be_kept(file: Path, given: str, said: str) -> None:
    assert said in mistakes(file, f"constraints={given}")


def test_a_metric_may_be_limited_from_both_sides(file: Path) -> None:
    spec = read_study(file, ['constraints=[{metric="loss", at_least=0.5}, {metric="loss", at_most=0.5}]'])
    assert spec.broken_by({"loss": 0.5}) is None
    assert [str(spec.broken_by({"loss": loss})) for loss in (0.4, 0.6)] == ["at least 0.5", "at most 0.5"]
    assert StudySpec.model_validate_json(to_json(spec)) == spec
