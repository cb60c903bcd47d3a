"""`python -m magictailor train | sample | masks | batch`: the command line, without ComfyUI."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .cli.parser import parser
from .errors import InputError


def main(given: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2 for something unusable, 130 when interrupted, 1 for other failures.

    Args:
        given: arguments; None: the process's own.
    """
    arguments = parser().parse_args(given)
    # torch takes seconds to import: help and mistyped arguments do without it
    from .cli import batch, run
    from .training import TrainingDiverged

    commands = {
        "train": run.train_command,
        "sample": run.sample_command,
        "masks": run.masks_command,
        "batch": batch.batch_command,
    }
    try:
        commands[arguments.command](arguments)
    except InputError as error:
        return _failed(str(error), 2)
    except (TrainingDiverged, batch.JobsFailed, OSError) as error:
        return _failed(str(error), 1)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    return 0


def _failed(message: str, status: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
