"""Runs a workflow on a running ComfyUI from a plain script: no ComfyUI and no packages are needed where this runs.

The workflow has to be in the API format: in ComfyUI, menu Workflow > Export (API). Then

    python run_over_http.py workflow_api.json --set 3.folder=tower_a+roof_a --set 7.seed=5 --out pictures

runs it with two inputs changed and saves the pictures. A training that is finished already is not
done again, so the same command with another prompt only draws.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class Refused(Exception):
    """What the server had against the graph, in its words."""


def call(server: str, path: str, body: dict | None = None) -> bytes:
    """The server's answer; with a body, to a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise Refused(complaints(error.read())) from error


def complaints(answer: bytes) -> str:
    """The sentences in the server's answer to a graph that it does not take."""
    try:
        told = json.loads(answer)
    except ValueError:
        return answer.decode(errors="replace")
    lines = [told["error"]["message"]]
    for node_id, node in (told.get("node_errors") or {}).items():
        lines += [f"{node['class_type']} ({node_id}): {e['message']}: {e['details']}" for e in node["errors"]]
    return "\n".join(lines)


def changed(graph: dict, settings: list[str]) -> dict:
    """The graph with inputs set, each as NODE.INPUT=VALUE; numbers, true and false are read as such."""
    for setting in settings:
        place, _, text = setting.partition("=")
        node_id, _, name = place.partition(".")
        if name not in graph.get(node_id, {}).get("inputs", {}):
            raise Refused(f"--set {setting}: the workflow has no node {node_id} with an input {name}")
        try:
            graph[node_id]["inputs"][name] = json.loads(text)
        except ValueError:
            graph[node_id]["inputs"][name] = text
    return graph


def run(server: str, graph: dict) -> dict:
    """Queue the graph, wait until it has run, and return its outputs by node id."""
    prompt_id = json.loads(call(server, "/prompt", {"prompt": graph}))["prompt_id"]
    while not (history := json.loads(call(server, f"/history/{prompt_id}"))):
        time.sleep(1)
    entry = history[prompt_id]
    if entry["status"]["status_str"] != "success":
        failed = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
        raise Refused("\n".join(data["exception_message"] for data in failed) or "the run was stopped")
    return entry["outputs"]


def save_pictures(server: str, outputs: dict, folder: pathlib.Path) -> list[pathlib.Path]:
    """Fetch every picture that was saved, without writing over one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for output in outputs.values():
        for picture in output.get("images", ()):
            if picture["type"] != "output":
                continue
            path = folder / pathlib.PurePosixPath(picture["filename"]).name
            with path.open("xb") as file:
                file.write(call(server, "/view?" + urllib.parse.urlencode(picture)))
            saved.append(path)
    return saved


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workflow", type=pathlib.Path, help="in the API format")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="address of ComfyUI")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", dest="settings")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("pictures"), help="folder for the pictures")
    options = parser.parse_args()
    server = options.server.rstrip("/")
    try:
        graph = changed(json.loads(options.workflow.read_text(encoding="utf-8")), options.settings)
        for path in save_pictures(server, run(server, graph), options.out):
            print(path)
    except (Refused, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
