"""What the documentation says of the hyper-parameters is what the configuration says."""

import pytest

from magictailor.config import knobs
from tools.settings_page import HELP_PAGES, PAGE, help_page, settings_page, table

AGAIN = "run: python -m tools.settings_page"


def test_the_table_of_settings_is_the_configurations():
    text = PAGE.read_text(encoding="utf-8")
    assert settings_page(text) == text, AGAIN
    assert all(f"| {name} |" in table() for name in knobs())


@pytest.mark.parametrize("page", HELP_PAGES, ids=lambda page: page.stem)
def test_the_meanings_on_help_pages_are_the_configurations(page):
    text = page.read_text(encoding="utf-8")
    assert help_page(text) == text, AGAIN


def test_every_hyper_parameter_is_explained_on_the_help_page_of_a_node_that_is_offered():
    train, settings, _ = (page.read_text(encoding="utf-8") for page in HELP_PAGES)
    assert [name for name in knobs() if f"\n| {name} |" not in train + settings] == []
