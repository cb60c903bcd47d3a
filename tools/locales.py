"""Writes locales/en/nodeDefs.json, the node texts that translations are made from, out of the node schemas.

Run as `python -m tools.locales` after a text, an input or an output of a node has changed; the result is committed.
Translations lie beside it, such as locales/zh/nodeDefs.json, and are written by hand; the command names what they lack.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from itertools import chain

from .comfyui import PACK_ROOT, import_host, load_pack, locate_comfyui

LOCALES = PACK_ROOT / "locales"
FILE = "nodeDefs.json"
SOURCE = "en"
MESSAGE_SYNTAX = "{}@|"  # the frontend does not show these as they stand: it reads them as message syntax


def node_texts(object_info: Mapping[str, dict]) -> dict[str, dict]:
    """What the frontend looks up for each node, from the host's description of the nodes: {node id: texts}.

    Texts are display_name, description, inputs {name: {name, tooltip}} and outputs {index: {name, tooltip}}.
    """
    return {
        node_id: {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": dict(_inputs(info["input"])),
            "outputs": {
                str(index): {"name": name, "tooltip": tooltip}
                for index, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
            },
        }
        for node_id, info in sorted(object_info.items())
    }


def _inputs(groups: Mapping[str, dict]) -> Iterator[tuple[str, dict[str, str]]]:
    for group in ("required", "optional"):
        for name, (kind, *options) in groups.get(group, {}).items():
            described = options[0]
            yield name, {"name": name, "tooltip": described["tooltip"]}
            # the frontend looks an input inside another up by its full name "outer.inner", with "_" in place of "."
            if kind == "COMFY_AUTOGROW_V3":
                inner = _grown_inputs(described["template"])
            elif kind == "COMFY_DYNAMICCOMBO_V3":
                inner = chain.from_iterable(_inputs(option["inputs"]) for option in described["options"])
            else:
                continue
            for inner_name, texts in inner:
                yield f"{name}_{inner_name}", texts


def _grown_inputs(template: Mapping) -> Iterator[tuple[str, dict[str, str]]]:
    ((_, (_, described)),) = [*template["input"].get("required", {}).items()]
    names = template.get("names") or [f"{template['prefix']}{number}" for number in range(template.get("max", 0))]
    for name in names:
        yield name, {"name": name, "tooltip": described["tooltip"]}


def flat(texts: Mapping, path: str = "") -> dict[str, str]:
    """Nested texts as {"node/inputs/seed/tooltip": text}."""
    found = {}
    for key, value in texts.items():
        inner = f"{path}/{key}" if path else key
        found |= flat(value, inner) if isinstance(value, Mapping) else {inner: value}
    return found


def read(language: str) -> dict[str, dict]:
    """The committed texts of a language."""
    return json.loads((LOCALES / language / FILE).read_text(encoding="utf-8"))


def languages() -> list[str]:
    """The languages there are texts for, English among them."""
    return sorted(path.parent.name for path in LOCALES.glob(f"*/{FILE}"))


def write(path: pathlib.Path, texts: Mapping) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    import_host(locate_comfyui())
    pack = load_pack()
    pack.register_model_folders()
    texts = node_texts({node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in pack.NODES})
    write(LOCALES / SOURCE / FILE, texts)
    english = flat(texts).keys()
    for language in languages():
        translated = flat(read(language)).keys()
        for key in sorted(english - translated):
            print(f"{language} lacks {key}")
        for key in sorted(translated - english):
            print(f"{language} has more than English: {key}")


if __name__ == "__main__":
    main()
