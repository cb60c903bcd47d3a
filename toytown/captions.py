"""What is said of a scene."""

from __future__ import annotations

import dataclasses
import random

from .backgrounds import BACKGROUNDS
from .looks import COLOURS, PATTERNS, Look, nearest_colour
from .things import PARTS
from .world import Scene


def article(words: str) -> str:
    """`words` with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def described(look: Look | None, noun: str) -> str:
    """Noun phrase such as "a striped red roof"; plural and uncountable parts take no article."""
    words = [] if look is None else [look.pattern] * (look.pattern != "solid") + [nearest_colour(look.colour)]
    phrase = " ".join([*words, noun])
    return phrase if noun in ("hair", "wheels", "ears") else article(phrase)


def caption(scene: Scene) -> str:
    """Everything about a scene, "a red house with a striped blue roof on the beach"."""
    thing = described(scene.body, scene.kind)
    return f"{thing} with {described(scene.part, PARTS[scene.kind])} {BACKGROUNDS[scene.background]}"


def random_caption(scene: Scene, rng: random.Random) -> str:
    """A true caption that leaves some things unsaid, as people do."""
    kind, part = scene.kind, PARTS[scene.kind]

    def told(look: Look) -> Look | None:
        chance = rng.random()
        if chance < 0.2:
            return None
        return dataclasses.replace(look, pattern="solid") if chance < 0.35 else look

    chance = rng.random()
    if chance < 0.1:
        text = described(told(scene.part), part)
    elif chance < 0.25:
        text = described(told(scene.body), kind)
    else:
        joint = rng.choice(("with", "with", "with", "and", "including", "containing"))
        text = f"{described(told(scene.body), kind)} {joint} {described(told(scene.part), part)}"
    if rng.random() < 0.3:
        text = f"a photo of {text}"
    if rng.random() < 0.8:
        text = f"{text} {BACKGROUNDS[scene.background]}"
    return text


def words() -> list[str]:
    """Every word a caption can hold, sorted."""
    said = {"a", "an", "photo", "picture", "of", "the", "with", "and", "including", "containing", "on", "in", "at"}
    said |= set(PARTS) | set(PARTS.values()) | set(COLOURS) | set(PATTERNS) | set(BACKGROUNDS)
    return sorted(said.union(*(phrase.split() for phrase in BACKGROUNDS.values())))
