"""The recorded comparison: its table follows from its scores, and the learning rates from the tuning."""

import pathlib

import pytest

from benchmarks.tailoring import as_table, merit, read, summary
from toytown.methods import CANDIDATES, METHODS
from toytown.pairs import MEASURED

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_the_readme_shows_the_table_of_the_recorded_scores():
    rows = read(RESULTS / "tailoring" / "scores.csv")
    table = as_table(summary(rows, list(METHODS)))
    assert table == (RESULTS / "tailoring" / "table.md").read_text()
    assert table in (ROOT / "docs" / "toy_town.md").read_text()


def test_every_method_drew_every_pair_four_prompts_with_eight_seeds():
    rows = read(RESULTS / "tailoring" / "scores.csv")
    drawn = {(row["method"], row["pair"], row["background"], row["seed"]) for row in rows}
    assert len(drawn) == len(rows) == len(METHODS) * len(MEASURED) * 4 * 8


@pytest.mark.parametrize("name", CANDIDATES)
def test_each_method_is_measured_with_the_best_of_its_candidates(name):
    found = summary(read(RESULTS / "tuning" / "scores.csv"), list(CANDIDATES[name]))
    assert found.keys() == CANDIDATES[name].keys()
    best = max(found, key=lambda candidate: merit(found[candidate]))
    assert METHODS[name] == CANDIDATES[name][best]
