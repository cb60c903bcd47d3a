"""What the registry would hand out: packed by comfy-cli, unzipped into an empty host, served by the real server."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile

import pytest
import tomlkit

from tools.comfyui import BASE_FOLDERS, PACK_ROOT, ComfyServer

LEFT_OUT = ("tests/", "tools/", "benchmarks/", "toytown/", ".ci/", "noxfile.py")
SHOWN = {"toytown/sheet.png", "benchmarks/results/tailoring/plot.png"}
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The tracked files as they are now, in a repository of their own: comfy-cli writes into the folder it packs."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PACK_ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (PACK_ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PACK_ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    return folder


def comfy_node(command: str, checkout: pathlib.Path, home: pathlib.Path) -> str:
    """What `comfy node <command>` prints; it keeps its settings below `home` and reports nothing to anybody."""
    finished = subprocess.run(
        [str(pathlib.Path(sys.executable).parent / "comfy"), "--skip-prompt", "node", command],
        cwd=checkout,
        env=os.environ | {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "DO_NOT_TRACK": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stdout + finished.stderr


@pytest.fixture(scope="module")
def archive(checkout, tmp_path_factory):
    """The packed archive."""
    comfy_node("pack", checkout, tmp_path_factory.mktemp("home"))
    return checkout / "node.zip"


@pytest.fixture(scope="module")
def project():
    """[project] of pyproject.toml."""
    described = tomlkit.parse((PACK_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return described.unwrap()["project"]


@pytest.fixture(scope="module")
def fresh_host(archive, comfy_root, project, tmp_path_factory):
    """A server of an otherwise empty host into which the archive was unzipped, as the registry's clients do it."""
    base = tmp_path_factory.mktemp("fresh_host")
    for folder in BASE_FOLDERS:
        (base / folder).mkdir()
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(base / "custom_nodes" / project["name"])
    with ComfyServer(comfy_root, base) as running:
        yield running


def fetch(server, path: str) -> bytes:
    with urllib.request.urlopen(server.url + path, timeout=30) as answer:
        return answer.read()


def test_comfy_cli_finds_nothing_to_complain_about(checkout, tmp_path):
    said = comfy_node("validate", checkout, tmp_path)
    assert "All validation checks passed" in said
    assert "arning" not in said


def test_only_what_the_nodes_need_is_packed(archive):
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        size = sum(item.compress_size for item in packed.infolist())
    strange = {name for name in names if name.startswith(LEFT_OUT) or name.endswith(WEIGHTS)}
    assert strange == SHOWN
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "CHANGELOG.md"} <= set(names)
    assert size < 3 * 2**20


def test_no_page_of_the_archive_links_to_what_it_does_not_hold(archive):
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())
        pages = {name: packed.read(name).decode() for name in names if name.endswith(".md")}
    links = [
        (page, os.path.normpath(f"{page}/../{link}")) for page, text in pages.items() for link in LINK.findall(text)
    ]
    assert len(links) > 30
    assert [(page, link) for page, link in links if link not in names] == []


def test_the_version_is_the_changelogs_newest(project):
    headings = [line for line in (PACK_ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == f"## {project['version']}"


def test_an_empty_host_loads_every_node_of_it(fresh_host, server):
    assert "IMPORT FAILED" not in fresh_host.log()
    assert "Traceback" not in fresh_host.log()
    shipped = {name for name in server.object_info() if name.startswith("MagicTailor")}
    found = fresh_host.object_info()
    assert {name for name in found if name.startswith("MagicTailor")} == shipped
    folders = found["MagicTailorLoadPair"]["input"]["required"]["folder"]
    assert "example: house_a+roof_a" in json.dumps(folders)


def test_an_empty_host_serves_help_pages_and_node_texts(fresh_host, project):
    for path in (PACK_ROOT / "web" / "docs").iterdir():
        assert fetch(fresh_host, f"/extensions/{project['name']}/docs/{path.name}") == path.read_bytes()
    served = json.loads(fetch(fresh_host, "/i18n"))
    for path in (PACK_ROOT / "locales").glob("*/nodeDefs.json"):
        assert served[path.parent.name]["nodeDefs"] == json.loads(path.read_text(encoding="utf-8"))


def test_an_empty_host_offers_the_workflows_with_their_thumbnails(fresh_host, project):
    offered = json.loads(fetch(fresh_host, "/api/workflow_templates"))
    stems = {path.stem for path in (PACK_ROOT / "workflows").glob("*.json")}
    assert set(offered[project["name"]]) == stems
    for stem in stems:
        for name in (f"{stem}.json", f"{stem}.jpg"):
            served = fetch(fresh_host, f"/api/workflow_templates/{project['name']}/{name}")
            assert served == (PACK_ROOT / "workflows" / name).read_bytes()
