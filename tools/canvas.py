"""A workflow as a person lays it out, described in Python; the real frontend turns it into a workflow file."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field

from .public_models import MODELS

WIDTH = 320
ALWAYS, BYPASSED = 0, 4  # litegraph's numbers
LINE_HEIGHT, LETTER_WIDTH, NOTE_MARGIN = 15, 6.0, 50  # of a note's text, in canvas units

GREY, BLUE, GREEN, ORANGE = "#7a8b95", "#88A", "#8A8", "#b06634"

MAKE_GRAPH = """async ({id, groups, links}) => {
    const TOP = 60, TITLE = 30, GAP = 30, MARGIN = 20;
    const pause = milliseconds => new Promise(done => setTimeout(done, milliseconds));
    // the frontend remembers widgets by graph and node id, so that a graph of the same id would take over old values
    await window.app.loadGraphData({
        id, version: 0.4, nodes: [], links: [], groups: [], last_node_id: 0, last_link_id: 0,
    });
    const graph = window.app.graph;
    const made = {};
    const described = groups.flatMap(group => group.columns).flatMap(column => column.nodes);
    for (const {key, type, title, mode, models, widgets} of described) {
        const node = window.LiteGraph.createNode(type);
        if (!node) throw new Error("no node type " + type);
        if (title) node.title = title;
        node.mode = mode;
        if (models.length) node.properties.models = models;
        graph.add(node);
        for (const [name, value] of Object.entries(widgets)) {
            const widget = name ? node.widgets.find(w => w.name === name) : node.widgets[0];
            if (!widget)
                throw new Error(type + " has no widget " + name + "; it has " + node.widgets.map(w => w.name).join());
            widget.value = value;
        }
        made[key] = node;
    }
    for (const [from, output, to, input] of links) {
        const out = made[from].outputs.findIndex(o => (o.label || o.name) === output || o.name === output);
        const slot = made[to].inputs.findIndex(i => i.name === input);
        if (out < 0 || slot < 0)
            throw new Error([from, output, to, input, "outputs", made[from].outputs.map(o => o.name), "inputs",
                made[to].inputs.map(i => i.name)].join(" "));
        made[from].connect(out, made[to], slot);
        // a node that takes any number of inputs adds and numbers them a moment later
        if (input.includes(".")) await pause(300);
    }
    for (const [from, output, to, input] of links) {
        const slot = made[to].inputs.findIndex(i => i.name === input);
        if (made[to].getInputNode(slot) !== made[from])
            throw new Error(from + "." + output + " is not connected to " + to + "." + input);
    }
    // widgets know their heights once they have been drawn
    await pause(500);
    let left = 0, lowest = 0;
    const frames = [];
    for (const {title, color, columns} of groups) {
        const start = left;
        for (const {nodes} of columns) {
            let top = TOP;
            for (const {key, width, height} of nodes) {
                made[key].setSize([width, Math.max(height, made[key].computeSize()[1])]);
                made[key].pos = [left, top];
                top += made[key].size[1] + TITLE + GAP;
            }
            lowest = Math.max(lowest, top);
            left += Math.max(...nodes.map(node => node.width)) + 2 * MARGIN;
        }
        frames.push({title, color, pos: [start - MARGIN, 0], width: left - start});
        left += MARGIN;
    }
    for (const {title, color, pos, width} of frames) {
        const group = new window.LiteGraph.LGraphGroup(title);
        group.color = color;
        group.pos = pos;
        group.size = [width, lowest - TITLE];
        graph.add(group);
    }
    return graph.serialize();
}"""


@dataclass
class Canvas:
    """Groups from left to right; in each, columns of nodes stacked below one another, and links between the nodes."""

    name: str
    groups: list[dict] = field(default_factory=list)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)

    def group(self, title: str, color: str, bypassed: bool = False) -> None:
        """Begin a group to the right of all others; what is added next goes into its first column.

        The nodes of a bypassed one do nothing until somebody sets them to Always, in the menu of the group's title.
        """
        mode = BYPASSED if bypassed else ALWAYS
        self.groups.append({"title": title, "color": color, "mode": mode, "columns": [{"nodes": []}]})

    def column(self) -> None:
        """Begin another column in the last group."""
        self.groups[-1]["columns"].append({"nodes": []})

    def node(self, key: str, type: str, wide: int = WIDTH, high: int = 0, title: str = "", **widgets) -> str:
        """Add a node below the last one, no lower than its widgets need. Returns its key.

        Of a model file that a widget names and that has a public address, the frontend offers the download.
        """
        node = {"key": key, "type": type, "title": title, "width": wide, "height": high, "widgets": widgets}
        node["mode"] = ALWAYS if type == "MarkdownNote" else self.groups[-1]["mode"]
        node["models"] = [MODELS[value].offered() for value in widgets.values() if value in MODELS]
        self.groups[-1]["columns"][-1]["nodes"].append(node)
        return key

    def note(self, key: str, title: str, text: str, width: int = WIDTH) -> None:
        """Add a note in Markdown, high enough for its text."""
        letters = (width - 40) / LETTER_WIDTH
        lines = sum(max(1, math.ceil(len(line) / letters)) for line in text.split("\n"))
        self.node(key, "MarkdownNote", width, NOTE_MARGIN + LINE_HEIGHT * lines, title, **{"": text})

    def link(self, source: str, *targets: str) -> None:
        """Connect "key.output" to each "key.input"."""
        from_key, _, output = source.partition(".")
        for target in targets:
            to_key, _, input_name = target.partition(".")
            self.links.append((from_key, output, to_key, input_name))

    def as_dict(self) -> dict:
        """What `MAKE_GRAPH` takes."""
        # the same name always gets the same id, so that building again changes nothing
        return {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)), "groups": self.groups, "links": self.links}
