"""What becomes of a training when the host's process is asked to end: its step is ended, and what it learned is kept.

The host ends at once on SIGTERM, and on Ctrl-C without waiting for the thread that runs its nodes.
"""

import atexit
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from . import host

# of a service that is stopped, and of a terminal that is closed
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_under_way: "_UnderWay | None" = None


class _UnderWay:
    def __init__(self) -> None:
        self.process = os.getpid()
        self.over = threading.Event()
        self.asked: int | None = None  # the signal that asked


def watch_for_the_end() -> None:
    """Make the process wait for a training when it is asked to end; without one it ends as it always did."""
    atexit.register(_wait)
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        # whoever has set another handler, or wants the signal ignored, knows why
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _asked)


@contextmanager
def waited_for() -> Iterator[None]:
    """The process does not end inside, unless it is asked to a second time; the host interrupts what is inside."""
    global _under_way
    mine = _under_way = _UnderWay()
    try:
        yield
    finally:
        _under_way = None
        mine.over.set()
        if mine.asked is not None:
            os.kill(os.getpid(), mine.asked)


def _asked(number: int, frame: object) -> None:
    # the next one ends the process at once
    signal.signal(number, signal.SIG_DFL)
    training = _under_way
    if training is not None and training.process == os.getpid():
        training.asked = number
        _interrupt(signal.Signals(number).name)
        if not training.over.is_set():
            return
    os.kill(os.getpid(), number)


def _wait() -> None:
    training = _under_way
    if training is None or training.process != os.getpid():
        return
    _interrupt("Ctrl-C")
    try:
        training.over.wait()
    except KeyboardInterrupt:
        pass


def _interrupt(way: str) -> None:
    logging.info("MagicTailor: the training is kept after the step it is in; another %s ends it at once.", way)
    host.interrupt()
