"""The pages about events and metrics say what the code does."""

from pathlib import Path

import pytest

from p2ptrain.cli.reference_pages import PAGES, UNEXPLAINED

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_code_says_now(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), f"docs/{name} is out of date: run make docs"


def test_every_field_of_an_event_is_explained() -> None:
    page = PAGES["events.md"]()
    unexplained = [line for line in page.splitlines() if UNEXPLAINED in line]
    assert unexplained == [], "give the field a docstring in events.py"
