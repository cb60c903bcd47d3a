"""The benchmark's command: what it prints when a card is too small."""

import sys

import pytest
import torch

from benchmarks import training_step
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
    run(monkeypatch, "--modes", "textbook", "default")
    first, *rows = capsys.readouterr().out.splitlines()[1:]
    assert first.split() == ["textbook", "does", "not", "fit"]
    assert [row.split()[0] for row in rows] == ["default", "default", "default:"]
    assert "as fast" not in rows[0]
    assert rows[-1] == "default: 200 + 300 steps take 1600 s"


def test_a_limit_of_gpu_memory_is_refused_on_a_cpu(monkeypatch):
    with pytest.raises(SystemExit, match="GPU's memory"):
        run(monkeypatch, "--limit-gib", "16")
