"""The table that is printed, a row as soon as it is known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What was done to trainings or files, how often, and what came of it.

    Attributes:
        found: in words and numbers.
        good: whether that is what must come of it.
    """

    what: str
    times: int
    found: str
    good: bool

    def __str__(self) -> str:
        return f"{'ok' if self.good else 'BAD':<4}{self.what:<44}{self.times:>8,}  {self.found}"


@dataclass
class Endings:
    """Counts of trainings that were ended and taken up again.

    Attributes:
        lost: went on before a state that had been on disk.
        broken: files that have the name of a whole one and cannot be read.
        in_a_write: ended in the middle of a write, as a file without its name shows.
        through: trainings that came to their end, one after the other.
        same: of these, how many left the bytes of a training that nothing ended.
    """

    times: int = 0
    lost: int = 0
    broken: int = 0
    in_a_write: int = 0
    through: int = 0
    same: int = 0

    def row(self, what: str) -> Row:
        found = (
            f"{self.lost} runs lost, {self.broken} broken files, {self.in_a_write} in the middle of a write, "
            f"{self.same} of {self.through} that got through have the bytes of the uncut run"
        )
        return Row(what, self.times, found, not self.lost and not self.broken and self.same == self.through > 0)
