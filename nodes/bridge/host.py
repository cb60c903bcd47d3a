"""The only file that touches the host's device, memory, progress, interrupt and queue."""

import copy
import gc
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from comfy import model_management
from comfy.utils import ProgressBar
from comfy_execution.utils import get_executing_context
from server import PromptServer

INTERRUPT = model_management.InterruptProcessingException
"""What the host's Cancel raises in a node: a BaseException, in ComfyUI 0.18 an Exception like any other."""


def torch_device() -> torch.device:
    """Where the host computes."""
    return model_management.get_torch_device()


def offload_device() -> torch.device:
    """Where the host keeps what it does not use at the moment."""
    return torch.device("cpu")


def free_memory() -> None:
    """Send every model of the host away from the device and give the memory back."""
    model_management.unload_all_models()
    empty_cache()


def free_bytes() -> int:
    """What the device has for something new."""
    return int(model_management.get_free_memory(torch_device()))


def empty_cache() -> None:
    """Give memory back that nothing refers to any more."""
    gc.collect()
    model_management.soft_empty_cache()


def check_interrupted() -> None:
    """Raise `INTERRUPT` if the user asked for it."""
    model_management.throw_exception_if_processing_interrupted()


def interrupt() -> None:
    """Ask for what `check_interrupted` raises, as the user's Cancel does."""
    model_management.interrupt_current_processing()


def progress_bar(total: int) -> ProgressBar:
    """The bar on the node that is running; has `.update(1)` and `.update_absolute(value)`."""
    return ProgressBar(total)


def show_text(text: str) -> None:
    """Write a few words on the node that is running, for the client that queued it; without one, nowhere."""
    server, running = getattr(PromptServer, "instance", None), get_executing_context()
    # no client's name would mean every client
    if server is not None and running is not None and server.client_id is not None:
        server.send_progress_text(text, running.node_id, server.client_id)


def show_lines(lines: Sequence[str]) -> None:
    """`show_text` of what there is to say, a line each; nothing is shown where there is nothing."""
    if lines:
        show_text("\n".join(lines))


def queue_variations(node_id: str, field: str, values: list[str]) -> None:
    """Queue the running prompt once for each value of a widget, behind all that is queued now.

    Args:
        node_id: of the node with the widget.
        field: the widget's name.
        values: one prompt each.
    """
    server, context = PromptServer.instance, get_executing_context()
    running, _ = server.prompt_queue.get_current_queue()
    # the host checked this very graph when it was queued; what comes after the graph is as it was
    (item,) = [item for item in running if item[1] == context.prompt_id]
    for value in values:
        prompt = copy.deepcopy(item[2])
        prompt[node_id]["inputs"][field] = value
        server.prompt_queue.put((server.number, str(uuid.uuid4()), prompt, copy.deepcopy(item[3]), *item[4:]))
        server.number += 1


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Leave the inference mode nodes run in, so that something can be trained; gives memory back at the end."""
    try:
        with torch.inference_mode(False):
            yield
    finally:
        empty_cache()
