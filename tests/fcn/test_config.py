"""fcn.Config: its defaults, the published recipes by name, and a sentence for every wrong setting."""

from typing import get_args

import pytest
from pydantic import ValidationError

from fcn import Config
from fcn.config import validation_sentences
from fcn.presets import PRESETS, PresetName


def sentences(**settings: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(settings)
    return validation_sentences(caught.value)


def test_the_defaults_are_batch5s_steps_with_batch15s_flips_and_l2() -> None:
    defaults, five, fifteen = Config(), Config(preset="batch5"), Config(preset="batch15")
    assert (defaults.batch_size, defaults.learning_rate) == (five.batch_size, five.learning_rate)
    assert (defaults.flip, defaults.l2, defaults.l2_on) == (fifteen.flip, fifteen.l2, fifteen.l2_on)
    theirs = {"preset", "batch_size", "learning_rate", "flip", "l2", "l2_on"}
    for preset in (five, fifteen):
        assert preset.model_dump(exclude=theirs) == defaults.model_dump(exclude=theirs)


# As the two write-ups publish them; dropout is 1 - keep probability.
_EITHER = {
    "image_size": (160, 576),
    "optimizer": "adam",
    "dropout": 0.5,
    "epochs": 50,
    "init": "normal",
    "weights": "imagenet",
    "fc_width": 4096,
    "skip_scaling": "none",
    "schedule": "constant",
    "scale_jitter": 0,
    "brightness": 0,
    "contrast": 0,
    "colour": 0,
    "gamma": 0,
}


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        # Its L2 of 1e-3 is declared and never added to the loss.
        ("batch5", {"batch_size": 5, "learning_rate": 9e-4, "l2": 0, "flip": 0}),
        ("batch15", {"batch_size": 15, "learning_rate": 1e-3, "l2": 1e-3, "l2_on": "decoder", "flip": 0.5}),
    ],
)
def test_a_preset_is_its_write_up_to_the_letter(preset: PresetName, published: dict[str, object]) -> None:
    config = Config(preset=preset).model_dump()
    assert {name: config[name] for name in _EITHER | published} == _EITHER | published
    assert config["preset"] == preset


def test_a_setting_goes_before_a_presets_and_is_kept_when_the_config_is_read_again() -> None:
    config = Config.model_validate({"learning_rate": 1e-4, "preset": "batch15", "weights": "none", "width": 0.5})
    assert (config.learning_rate, config.batch_size, config.width) == (1e-4, 15, 0.5)
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_an_unknown_preset_is_answered_with_those_there_are() -> None:
    assert sentences(preset="batch6") == ["preset: input should be 'batch5' or 'batch15', got 'batch6'"]
    assert sentences(preset=["batch5"])
    assert get_args(PresetName) == tuple(PRESETS)


def test_every_setting_has_a_description_and_every_number_has_bounds() -> None:
    for name, field in Config.model_fields.items():
        assert field.description, name
    schema = Config.model_json_schema()["properties"]
    for name, entry in schema.items():
        kinds = [entry, *entry.get("anyOf", [])]
        for kind in kinds:
            if kind.get("type") in {"integer", "number"}:
                assert {"minimum", "exclusiveMinimum"} & kind.keys(), f"{name} has no lower bound"


def test_an_unknown_setting_is_answered_with_the_nearest_name() -> None:
    (sentence,) = sentences(learning_rat=1e-3)
    assert sentence == "learning_rat: there is no such config field, got 0.001; did you mean learning_rate?"


def test_all_wrong_settings_are_told_at_once_with_their_values() -> None:
    found = sentences(learning_rate=-1, image_size=(0, 576), dropout=1.0)
    assert len(found) == 3
    assert "learning_rate: input should be greater than 0, got -1" in found
    assert any(sentence.startswith("image_size.0:") and sentence.endswith("got 0") for sentence in found)


def test_not_a_number_is_no_setting() -> None:
    assert sentences(l2=float("nan"))


def test_settings_that_contradict_each_other_are_refused() -> None:
    assert "width = 1.0" in sentences(width=0.5)[0]
    assert "val_fraction + test_fraction" in sentences(val_fraction=0.6, test_fraction=0.4)[0]
    assert "warmup_epochs must not exceed epochs" in sentences(epochs=3, warmup_epochs=4)[0]


def test_a_config_can_be_written_and_read_again() -> None:
    config = Config(weights="none", width=0.25, image_size=(64, 192), val_sequences=("a", "b"))
    assert Config.model_validate(config.model_dump(mode="json")) == config
