"""The example script, run as a person runs it, against the real server."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from tools.comfyui import PACK_ROOT

SCRIPT = PACK_ROOT / "workflows" / "run_over_http.py"
GRAPH = {
    "1": {
        "class_type": "MagicTailorLoadPair",
        "inputs": {"folder": "nothing_a+there_a", "component_number": 1},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 2], "filename_prefix": "over_http"}},
}


@pytest.fixture
def run_script(server, tmp_path):
    def run(*settings):
        workflow = tmp_path / "workflow_api.json"
        workflow.write_text(json.dumps(GRAPH))
        options = [option for setting in settings for option in ("--set", setting)]
        command = [sys.executable, str(SCRIPT), str(workflow), "--server", server.url, *options]
        return subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=300)

    return run


def test_it_saves_the_pictures_of_a_run(run_script, tmp_path):
    done = run_script("1.folder=example: house_a+roof_a")
    assert done.returncode == 0, done.stderr
    saved = sorted((tmp_path / "out").iterdir())
    assert sorted(done.stdout.splitlines()) == [str(path) for path in saved]
    assert len(saved) == 3
    for path in saved:
        with Image.open(path) as picture:
            assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("1.folder=nothing_a+there_a", "nothing_a+there_a"),
        ("1.component_number=99", "MagicTailorLoadPair (1): Value 99 bigger than max"),
        ("3.seed=1", "--set 3.seed=1: the workflow has no node 3 with an input seed"),
    ],
)
def test_what_is_wrong_is_told_in_the_servers_words(run_script, setting, told):
    done = run_script(setting)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
