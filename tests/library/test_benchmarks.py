"""Benchmarks: what is printed when a card is too small, and what a study would cost."""

import sys

import pytest
import torch

from benchmarks import blending, study_cost, training_step
from benchmarks.training_step import DS_BAL, WARM_UP, Measurement


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["training_step", "--device", "cpu", "--skip-check", *arguments])
    training_step.main()


def test_a_mode_that_does_not_fit_leaves_the_others_to_be_measured(monkeypatch, capsys):
    def measured(mode, *arguments):
        if mode == "textbook":
            raise torch.OutOfMemoryError
        return Measurement({WARM_UP: [1.0, 2.0, 3.0], DS_BAL: [4.0]}, {WARM_UP: 10**12, DS_BAL: 10**12}, 2**30)

    monkeypatch.setattr(training_step, "measured", measured)
    run(monkeypatch, "--modes", "textbook", "fastest")
    first, *rows = capsys.readouterr().out.splitlines()[1:]
    assert first.split() == ["textbook", "does", "not", "fit"]
    assert [row.split()[0] for row in rows] == ["fastest", "fastest", "fastest:"]
    assert "as fast" not in rows[0]
    assert rows[-1] == "fastest: 200 + 300 steps take 1600 s"


def test_a_limit_of_gpu_memory_is_refused_on_a_cpu(monkeypatch):
    with pytest.raises(SystemExit, match="GPU's memory"):
        run(monkeypatch, "--limit-gib", "16")


def test_a_study_of_equal_jobs_takes_whole_rounds_and_the_reading_of_all_at_once():
    found = study_cost.cost(study_cost.Job(60.0, 30.0, 10.0, 1.0), 5, 2, imports=4.0, store=0.52, link=1.0)
    reading = study_cost.CHECKPOINT / 0.26
    end = 4.0 + reading + 3 * 100.0
    assert found.hours == pytest.approx(end / 3600) and found.gpu_hours == pytest.approx(2 * end / 3600)
    assert found.idle == pytest.approx(100 / (2 * end)) and found.start == pytest.approx((4.0 + reading) / end)
    assert found.writing == pytest.approx(5.0 / end)


def test_a_blend_that_loses_more_than_is_allowed_is_named():
    one, other = {"concept": 0.9, "component": 0.7}, {"concept": 0.7, "component": 0.5}
    ways = {
        "together": one,
        "blended at 1": {"concept": 0.8, "component": 0.7},
        "blended at 0.8": {"concept": 0.5, "component": 0.3},
    }
    table = blending.as_table({"a": ways, "b": ways | {"together": other}})
    assert [line.split("|")[2:6] for line in table.splitlines()[2:]] == [
        [" 0.80 ", " 0.60 ", " 0.70 ", "  "],
        [" 0.80 ", " 0.70 ", " 0.75 ", " -0.05 "],
        [" 0.50 ", " 0.30 ", " 0.40 ", " 0.30 (too much) "],
    ]
