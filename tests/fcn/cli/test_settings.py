"""The page of settings."""

from pathlib import Path

from fcn.cli.settings import page
from fcn.config import Config

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m fcn settings > docs/settings.md"


def test_every_setting_has_a_meaning() -> None:
    assert [name for name, field in Config.model_fields.items() if not field.description] == []
