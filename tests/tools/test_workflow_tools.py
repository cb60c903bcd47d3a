"""Helpers around workflows that need no browser: overlapping nodes, and inputs replaced by node type."""

import pytest

from tools.small_runs import override
from tools.workflow import NodeBox, check_layout


def test_overlapping_nodes_are_named_and_touching_ones_are_not():
    left = NodeBox("1", "Left", 0, 0, 100, 50)
    touching = NodeBox("2", "Touching", 100, 0, 100, 50)
    over = NodeBox("3", "Over", 150, 40, 100, 50)
    assert check_layout([left, touching, over]) == ["Touching overlaps Over"]
    assert check_layout([touching, left]) == []


def test_override_changes_a_copy_and_refuses_inputs_the_node_does_not_have():
    graph = {"1": {"class_type": "KSampler", "inputs": {"steps": 20, "seed": 1}}}
    changed = override(graph, {"KSampler": {"steps": 2}, "NotInTheGraph": {"steps": 3}})
    assert changed["1"]["inputs"] == {"steps": 2, "seed": 1}
    assert graph["1"]["inputs"]["steps"] == 20
    with pytest.raises(KeyError, match="stepz"):
        override(graph, {"KSampler": {"stepz": 2}})
