"""The study files that ship, and the page that documents their keys."""

from pathlib import Path

import pytest
from pydantic import BaseModel

import fcn
from tuner.driver.run import prepare
from tuner.errors import StudyError
from tuner.spec.space import Choice, Float, Int
from tuner.spec.study import StudySpec
from tuner.spec.study_file import first_config, read_study

FOLDER = Path(__file__).parent.parent / "search_spaces"
FILES = sorted(FOLDER.glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_study_file_has_no_mistake(path: Path) -> None:
    spec = read_study(path)
    assert spec.name == path.stem


def test_the_readme_names_every_key_of_a_study_file() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    annotations = [field.annotation for field in StudySpec.model_fields.values()]
    tables = [kind for kind in annotations if isinstance(kind, type) and issubclass(kind, BaseModel)]
    everything: list[type[BaseModel]] = [StudySpec, *tables, Float, Int, Choice]
    keys = {key for table in everything for key in table.model_fields}
    keys -= {"id", "taken"}  # no study file has them
    missing = {key for key in keys if f"`{key}`" not in page and f"[{key}]" not in page}
    assert not missing


def test_the_readme_names_every_study_file() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in FILES if path.name not in page] == []


def test_the_kitti_study_starts_with_nine_published_trials() -> None:
    firsts = read_study(FOLDER / "fcn8s_kitti.toml").first_trials
    assert len(firsts) == 9
    assert {"learning_rate": 9e-4, "batch_size": 5, "dropout": 0.5, "l2": 1e-3} in firsts


def test_a_study_starts_from_a_preset_that_its_own_fields_override() -> None:
    spec = read_study(FOLDER / "fcn8s_kitti.toml", ["fixed.preset=batch15", "fixed.epochs=20"])
    config = first_config(spec)
    assert isinstance(config, fcn.Config)
    assert (config.preset, config.epochs, config.init) == ("batch15", 20, "normal")
    assert (config.batch_size, config.l2) == (1, 1e-5), "sampled"
    with pytest.raises(StudyError, match=r"fixed.preset: input should be 'batch5' or 'batch15', got 'batch6'"):
        read_study(FOLDER / "fcn8s_kitti.toml", ["fixed.preset=batch6"])


def test_the_kitti_studys_second_trial_is_batch15_and_its_first_is_batch5_with_flips_and_l2() -> None:
    spec = read_study(FOLDER / "fcn8s_kitti.toml")
    first, second = (fcn.Config.model_validate(spec.fixed | params) for params in spec.first_trials[:2])
    added = {"flip": 0.5, "l2": 1e-3}
    for trial, settings in ((first, {"preset": "batch5"} | added), (second, {"preset": "batch15"})):
        assert trial.model_dump(exclude={"preset"}) == fcn.Config.model_validate(settings).model_dump(
            exclude={"preset"}
        )


def test_a_study_without_validation_is_refused_with_the_reason(tmp_path: Path) -> None:
    spec = read_study(
        FOLDER / "demo.toml",
        ["fixed.val_fraction=0", "fixed.frames=6", f"fixed.cache_dir={tmp_path}", "fixed.image_size=[32,64]"],
    )
    with pytest.raises(StudyError) as caught:
        prepare(spec)
    sentence = str(caught.value)
    assert sentence.startswith("objective.metric: must be one that fcn reports (epoch, train/loss, ")
    assert "got 'val/iou_road'" in sentence
    assert "0 val (val_fraction = 0)" in sentence
