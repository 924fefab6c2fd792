"""val_fraction = 0: a run on all that isn't tested, and the last fit of settings that validation has chosen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import fcn
from fcn import Config, InputError
from fcn.cli.run_config import read_config
from fcn.cli.scored_frames import config_for
from fcn.config import validation_sentences
from fcn.data.readers import open_dataset
from fcn.formats.read import read_export
from fcn.formats.write import Exported, export
from fcn.model import checkpoint

Invoke = Callable[[list[str]], tuple[int, str]]
MakeCheckpoint = Callable[..., Path]
CPU = torch.device("cpu")


def scenes(**settings: object) -> Config:
    return Config.model_validate({"dataset": "scenes", "weights": "none", "frames": 24} | settings)


def test_without_validation_every_frame_that_is_not_tested_is_trained_on() -> None:
    whole = open_dataset(scenes(val_fraction=0, test_fraction=0))
    assert whole.splits == {"train": tuple(range(24)), "val": (), "test": ()}
    assert "no val/ metrics" in whole.warnings[0]
    tested = open_dataset(scenes(val_fraction=0))
    assert sorted(tested.splits["train"] + tested.splits["test"]) == list(range(24))
    assert len(tested.splits["test"]) > 0


def test_what_val_sequences_names_is_trained_on_and_the_test_split_stays() -> None:
    judged = open_dataset(scenes(val_sequences=("street00002",)))
    final = open_dataset(scenes(val_sequences=("street00002",), val_fraction=0))
    assert final.splits["test"] == judged.splits["test"]
    assert set(final.splits["train"]) == {*judged.splits["train"], *judged.splits["val"]}
    with pytest.raises(InputError, match="has no sequence 'street9'"):
        open_dataset(scenes(val_sequences=("street9",), val_fraction=0))


def test_one_sequence_is_enough_where_nothing_is_held_out() -> None:
    dataset = open_dataset(scenes(frames=2, val_fraction=0, test_fraction=0))
    assert dataset.splits["train"] == (0, 1)


def test_a_published_validation_list_is_trained_on(tmp_path: Path) -> None:
    for name in ("a_1", "a_2", "b_1", "c_1"):
        for part in ("images", "masks"):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.new("L", (32, 32)).convert("RGB" if part == "images" else "L").save(tmp_path / part / f"{name}.png")
    (tmp_path / "classes.toml").write_text("[classes]\nbackground = 0\nroad = 1\n")
    for split, names in (("train", "a_1 b_1"), ("val", "a_2"), ("test", "c_1")):
        (tmp_path / f"{split}.txt").write_text("\n".join(names.split()))
    config = Config.model_validate(
        {"dataset": "folder", "data_dir": tmp_path, "split": "published", "weights": "none", "val_fraction": 0}
    )
    dataset = open_dataset(config)
    listed = {split: [dataset.frames[i].name for i in indices] for split, indices in dataset.splits.items()}
    assert listed == {"train": ["a_1", "a_2", "b_1"], "val": [], "test": ["c_1"]}


def test_early_stopping_has_nothing_to_wait_for_without_validation() -> None:
    with pytest.raises(ValidationError) as caught:
        scenes(val_fraction=0, early_stop_epochs=3)
    (sentence,) = validation_sentences(caught.value)
    assert "got 3 with val_fraction = 0: leave one of the two out" in sentence


def test_a_run_announces_and_reports_no_measure_of_validation(tiny_checkpoint: Path) -> None:
    config = checkpoint.load(tiny_checkpoint).config.model_copy(update={"val_fraction": 0.0, "epochs": 1})
    reports: list[dict[str, float]] = []
    fcn.train(config, report=lambda metrics, _: reports.append(metrics), device=CPU)
    assert set(reports[0]) == set(fcn.prepare(config).metrics)
    assert not [name for name in reports[0] if name.startswith("val/") or "evaluation" in name]


def test_the_final_fit_of_an_export_trains_on_its_train_and_validation_frames_and_tests_on_its_test_frames(
    invoke: Invoke, tiny_export: tuple[Path, Exported], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source, output = tiny_export[0], tmp_path / "final"
    cache = checkpoint.load(tiny_checkpoint).config.cache_dir
    arguments = ["--output", str(output), "--device", "cpu", "--config", str(source)]
    status, text = invoke([*arguments, "--set=val_fraction=0", f"--set=cache_dir={cache}", "--set=batch_size=6"])
    assert status == 0, text
    chosen = read_export(source)
    assert f"note: {source} is of epoch {chosen.epoch} of 50" in text
    assert f"add --set epochs={chosen.epoch} to end there" in text
    assert "last: epoch 50, loss" in text
    assert sorted(path.name for path in output.iterdir()) == ["curves.png", "last", "metrics.jsonl"]
    final = checkpoint.load(output / "last")
    assert set(final.sequences["train"]) == {*chosen.sequences["train"], *chosen.sequences["val"]}
    assert final.sequences["val"] == ()
    assert set(final.sequences["test"]) == set(chosen.sequences["test"])
    differing = {
        name: value for name, value in final.config.model_dump(mode="json").items() if value != chosen.config[name]
    }
    assert differing == {
        "val_fraction": 0,
        "batch_size": 6,
        "cache_dir": str(cache),
        "test_sequences": list(chosen.sequences["test"]),
    }

    exported = export(output / "last", tmp_path / "export", device=CPU)
    assert exported.metrics == {}
    assert "test/mean_iou" in exported.test_metrics
    assert all(found.parity < 1e-5 for found in exported.formats.values())
    card = (tmp_path / "export" / "README.md").read_text()
    assert "trained without a validation split" in card
    assert "| metric | test split |" in card
    # Frames that were added since would draw another test split.
    again = config_for(read_export(tmp_path / "export"), None)
    assert again.test_sequences == chosen.sequences["test"]


def test_settings_are_taken_from_a_checkpoint_with_its_split_and_without_what_only_validation_can_use(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    directory = make_checkpoint(tmp_path / "checkpoint", early_stop_epochs=3)
    trained = checkpoint.load(directory)
    same, notes = read_config([], directory, None)
    assert (same.early_stop_epochs, same.val_sequences, notes) == (3, trained.sequences["val"], [])
    final, notes = read_config(["val_fraction=0", "epochs=7"], directory, None)
    assert (final.early_stop_epochs, final.val_sequences, final.epochs, notes) == (None, None, 7, [])
    assert final.test_sequences == same.test_sequences == trained.sequences["test"]
    everything, _ = read_config(["val_fraction=0", "test_fraction=0"], directory, None)
    another, _ = read_config(["dataset=camvid"], directory, None)
    assert (everything.test_sequences, another.val_sequences, another.test_sequences) == (None, None, None)
    with pytest.raises(InputError, match="is no checkpoint"):
        read_config([], tmp_path, None)


def test_a_run_does_not_begin_or_cease_to_validate_when_it_is_resumed(tiny_checkpoint: Path) -> None:
    start = checkpoint.load(tiny_checkpoint)
    with pytest.raises(InputError, match=r"val_fraction = 0.2, got 0, and a run validates from its first epoch"):
        read_config(["val_fraction=0"], None, start)


def test_the_curves_of_a_run_without_validation_have_no_empty_panels(tmp_path: Path) -> None:
    from fcn.training.curves import draw_curves

    history: list[dict[str, float]] = [
        {"epoch": e, "train/loss": 1 / e, "train/learning_rate": 0.1} for e in (1.0, 2.0)
    ]
    sizes: list[Any] = []
    for number, more in enumerate(({}, {"val/mean_iou": 0.5})):
        draw_curves([metrics | more for metrics in history], tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            sizes.append(image.size)
    assert sizes[1] == (sizes[0][0], 2 * sizes[0][1])


def test_the_metrics_of_each_epoch_are_kept_without_validation(
    invoke: Invoke, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ["--device", "cpu", "--config", str(tiny_checkpoint), "--set=val_fraction=0", "--set=test_fraction=0"]
    status, text = invoke(["--output", str(tmp_path / "run"), *arguments, "--set=epochs=2"])
    assert status == 0, text
    assert "24 train, 0 val (val_fraction = 0), 0 test" in text
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
