"""fcn.Config: the source recipe by default, and a sentence for every wrong setting."""

import pytest
from pydantic import ValidationError

from fcn import Config
from fcn.config import validation_sentences


def sentences(**settings: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(settings)
    return validation_sentences(caught.value)


def test_the_defaults_are_the_source_recipe() -> None:
    config = Config()
    assert (config.image_size, config.batch_size, config.learning_rate) == ((160, 576), 5, 9e-4)
    assert (config.optimizer, config.dropout, config.l2, config.l2_on) == ("adam", 0.5, 1e-3, "decoder")
    assert (config.epochs, config.flip, config.weights, config.fc_width) == (50, 0.5, "imagenet", 4096)


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
    assert sentence == "learning_rat: there is no such setting, got 0.001; did you mean learning_rate?"


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
