"""Installing this pack into the host's environment leaves what is there as it is."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.comfyui import PACK_ROOT, locate_comfyui

INSTALL = PACK_ROOT / "install.py"
NEVER_CHANGED = {"torch", "torchvision", "torchaudio", "numpy", "transformers", "tokenizers", "safetensors", "pillow"}
OF_OTHER_PACKS = {"supervision": "0.25.1", "opencv-contrib-python": "4.11.0.86", "torchao": "0.10.0"}


def brought_by(requirements: pathlib.Path) -> set[str]:
    """Names of the installed packages that a requirements file brings, with all that they need in turn."""
    lines = (line.partition("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines())
    found, to_do, seen = set(), [Requirement(line) for line in lines if line], set()
    while to_do:
        requirement = to_do.pop()
        name = canonicalize_name(requirement.name)
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                parsed = map(Requirement, needed)
                to_do += [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": extra})]
    return found


@pytest.fixture(scope="module")
def host_only(tmp_path_factory):
    """A folder that shows pip the packages of a host without this pack, in the versions installed here."""
    folder = tmp_path_factory.mktemp("host_packages")
    names = brought_by(locate_comfyui() / "requirements.txt")
    for distribution in metadata.distributions():
        if canonicalize_name(distribution.metadata["Name"]) in names:
            record = pathlib.Path(distribution._path)
            (folder / record.name).symlink_to(record)
    for name, version in OF_OTHER_PACKS.items():
        record = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    # setuptools builds what comes as source: --dry-run would leave an environment made for building empty
    for name in ("pip", "setuptools"):
        (folder / name).symlink_to(*importlib.util.find_spec(name).submodule_search_locations)
    return folder


def run(host_only: pathlib.Path, *arguments: str, **pip_options: str) -> subprocess.CompletedProcess[str]:
    # -S: the folder given, and nothing else, is what Python and pip take for installed
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env=os.environ | {"PYTHONPATH": str(host_only)} | pip_options,
        capture_output=True,
        text=True,
    )


def would_install(host_only: pathlib.Path, *arguments: str, **pip_options: str) -> dict[str, str]:
    finished = run(
        host_only, *arguments, PIP_DRY_RUN="1", PIP_NO_BUILD_ISOLATION="0", PIP_QUIET="1", PIP_REPORT="-", **pip_options
    )
    assert finished.returncode == 0, finished.stderr
    found = (item["metadata"] for item in json.loads(finished.stdout)["install"])
    return {canonicalize_name(item["name"]): item["version"] for item in found}


def test_nothing_of_the_host_or_of_other_packs_is_changed(host_only):
    installed = would_install(host_only, "-m", "pip", "install", "-r", str(PACK_ROOT / "requirements.txt"))
    assert {"diffusers", "peft", "segment-anything", "timm"} <= installed.keys()
    of_the_host = brought_by(locate_comfyui() / "requirements.txt")
    assert NEVER_CHANGED <= of_the_host
    assert installed.keys() & (of_the_host | OF_OTHER_PACKS.keys()) == set()
    assert not any(name.startswith("opencv") for name in installed)


def test_the_detector_is_installed_alone_and_once(host_only):
    # the process that it starts sees what is installed here
    assert would_install(host_only, str(INSTALL), PIP_IGNORE_INSTALLED="1").keys() == {"groundingdino-py"}
    again = subprocess.run([sys.executable, str(INSTALL)], env=os.environ | {"PIP_NO_INDEX": "1"}, capture_output=True)
    assert (again.returncode, again.stdout, again.stderr) == (0, b"", b"")


def test_without_a_network_it_says_how_to_try_again(host_only):
    finished = run(host_only, str(INSTALL), PIP_IGNORE_INSTALLED="1", PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert finished.returncode != 0
    assert f"`{sys.executable} {INSTALL}`" in finished.stderr


def test_a_requirement_that_would_change_the_host_is_seen(host_only, tmp_path):
    older = tmp_path / "requirements.txt"
    older.write_text(f"safetensors<{metadata.version('safetensors')}\n")
    assert "safetensors" in would_install(host_only, "-m", "pip", "install", "-r", str(older))
