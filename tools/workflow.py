"""Drives the host's real frontend in a headless browser: what is shipped as a workflow is what gets run."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
import pathlib
import urllib.request
from collections.abc import Callable, Mapping
from typing import TypeVar

from playwright.sync_api import Page, sync_playwright

from .browser import FLAGS, find_browser

T = TypeVar("T")

VIEWPORT = (2400, 1500)
START_TIMEOUT = 300_000  # milliseconds; the first load takes about a minute on two busy cores
TITLE_HEIGHT = 30  # litegraph draws a node's title above its position

QUIET_SETTINGS = {
    "Comfy.Locale": "en",
    "Comfy.TutorialCompleted": True,  # else the templates dialog opens on the first visit
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasMenu": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.WorkflowTabsPosition": "Sidebar",
}
HIDE_PANELS = """
.comfyui-body-top, .comfyui-body-left, .comfyui-body-right, .comfyui-body-bottom, .side-tool-bar-container,
.actionbar-container, .pointer-events-auto:has(> [id^="reka-dropdown"]), [data-testid="error-overlay"],
.p-toast, .p-dialog-mask { display: none !important; }
"""


class MissingNodes(RuntimeError):
    """The workflow uses node types that the server does not have; `names` lists them."""

    def __init__(self, names: list[str]):
        super().__init__("Node types missing on this server: " + ", ".join(names))
        self.names = names


@dataclasses.dataclass(frozen=True)
class NodeBox:
    """Where a node is drawn, title included, in canvas units."""

    node_id: str
    title: str
    left: float
    top: float
    width: float
    height: float

    def overlaps(self, other: NodeBox) -> bool:
        return (
            self.left < other.left + other.width
            and other.left < self.left + self.width
            and self.top < other.top + other.height
            and other.top < self.top + self.height
        )


def check_layout(boxes: list[NodeBox]) -> list[str]:
    """One line for each pair of nodes that overlap; an empty list means a tidy canvas."""
    return [f"{a.title} overlaps {b.title}" for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


class Frontend:
    """The frontend of a running server in headless Chromium. A context manager; one workflow is open at a time.

    `settings` are the frontend's own, by their ids, such as {"Comfy.Locale": "zh"}; the server keeps them.

    The browser lives on a thread of its own: Playwright's synchronous API occupies the event loop of its thread.
    """

    def __init__(self, server_url: str, viewport: tuple[int, int] = VIEWPORT, settings: Mapping | None = None):
        self.server_url = server_url
        self.settings = QUIET_SETTINGS | dict(settings or {})
        self.viewport = {"width": viewport[0], "height": viewport[1]}
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> Frontend:
        try:
            self._on_thread(self._open)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self._on_thread(self._close)
        self._thread.shutdown()

    def load(self, workflow: dict | str | pathlib.Path) -> None:
        """Open a workflow (its JSON or the file that holds it). Raises MissingNodes."""
        if not isinstance(workflow, dict):
            workflow = json.loads(pathlib.Path(workflow).read_text(encoding="utf-8"))
        missing = self._on_thread(self._load, workflow)
        if missing:
            raise MissingNodes(missing)

    def api_graph(self, workflow: dict | str | pathlib.Path) -> dict:
        """Open a workflow and return the graph that pressing Run would send to the server. Raises MissingNodes."""
        self.load(workflow)
        return self.evaluate("async () => (await window.app.graphToPrompt()).output")

    def widget_values(self) -> dict[str, dict]:
        """The values of all widgets of the open workflow: {node id: {widget name: value}}."""
        return self.evaluate(
            """() => Object.fromEntries(window.app.graph._nodes.map(node => [String(node.id),
                Object.fromEntries((node.widgets || []).map(widget => [widget.name, widget.value]))]))"""
        )

    def node_boxes(self) -> list[NodeBox]:
        """Where the nodes of the open workflow are drawn."""
        rows = self.evaluate(
            """() => window.app.graph._nodes.map(node => [String(node.id), node.title || node.type,
                node.pos[0], node.pos[1], node.size[0], node.flags.collapsed ? 0 : node.size[1]])"""
        )
        return [
            NodeBox(node_id, title, left, top - TITLE_HEIGHT, width, height + TITLE_HEIGHT)
            for node_id, title, left, top, width, height in rows
        ]

    def screenshot(self, path: str | pathlib.Path) -> pathlib.Path:
        """Save a picture of the open workflow in which every node is in view, without menus and side panels."""
        self._on_thread(self._screenshot, pathlib.Path(path))
        return pathlib.Path(path)

    def evaluate(self, script: str, argument=None):
        """The result of a JavaScript function run in the page."""
        return self._on_thread(lambda: self.page.evaluate(script, argument))

    def on_page(self, action: Callable[[Page], T]) -> T:
        """The result of an action on Playwright's page: mouse, keyboard, locators."""
        return self._on_thread(lambda: action(self.page))

    # --- on the browser's thread

    def _on_thread(self, function, *arguments):
        return self._thread.submit(function, *arguments).result()

    def _open(self) -> None:
        self._save_settings()
        self._playwright = sync_playwright().start()
        try:
            self._browser = self._playwright.chromium.launch(executable_path=find_browser(), args=list(FLAGS))
            self.page: Page = self._browser.new_page(viewport=self.viewport)
            self.page.goto(self.server_url, timeout=START_TIMEOUT)
            # the extension manager exists before the canvas does, and nodes are registered last of all
            self.page.wait_for_function(
                "() => window.app?.graph && window.app.extensionManager && window.LiteGraph?.registered_node_types"
                "?.CheckpointLoaderSimple",
                timeout=START_TIMEOUT,
            )
            self.page.add_style_tag(content=HIDE_PANELS)
        except BaseException:
            self._playwright.stop()
            raise

    def _save_settings(self) -> None:
        request = urllib.request.Request(
            self.server_url + "/settings",
            json.dumps(self.settings).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=60).close()

    def _close(self) -> None:
        self._browser.close()
        self._playwright.stop()

    def _load(self, workflow: dict) -> list[str]:
        # answered from the list of registered types, so that no dialog has to be read
        missing = self.page.evaluate(
            """async workflow => {
                await window.app.loadGraphData(workflow);
                const known = window.LiteGraph.registered_node_types;
                const subgraphs = (workflow.definitions?.subgraphs || []).map(subgraph => subgraph.id);
                const types = workflow.nodes.map(node => node.type);
                return [...new Set(types.filter(type => !(type in known) && !subgraphs.includes(type)))];
            }""",
            workflow,
        )
        self.page.keyboard.press("Escape")
        return missing

    def _screenshot(self, path: pathlib.Path) -> None:
        # fit every node into the view, with a margin of 30 canvas units
        self.page.evaluate(
            """() => {
                const canvas = window.app.canvas, nodes = window.app.graph._nodes, margin = 30, title = 30;
                const left = Math.min(...nodes.map(n => n.pos[0])) - margin;
                const top = Math.min(...nodes.map(n => n.pos[1])) - title - margin;
                const right = Math.max(...nodes.map(n => n.pos[0] + n.size[0])) + margin;
                const bottom = Math.max(...nodes.map(n => n.pos[1] + n.size[1])) + margin;
                const view = canvas.canvas.getBoundingClientRect();
                const scale = Math.min(view.width / (right - left), view.height / (bottom - top));
                canvas.ds.scale = scale;
                canvas.ds.offset[0] = -left + (view.width / scale - (right - left)) / 2;
                canvas.ds.offset[1] = -top + (view.height / scale - (bottom - top)) / 2;
                canvas.low_quality_zoom_threshold = 0;
                canvas.setDirty(true, true);
            }"""
        )
        self.page.wait_for_timeout(1500)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
