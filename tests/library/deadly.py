"""A job for other processes, which import this file and with it as little as they can."""

import os
import signal


def killed_once(job, folder, device):
    """Ends its process at the first try, as the system does when memory runs out."""
    if job.task == "deadly" and not (folder / "tried").exists():
        (folder / "tried").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"name": job.name, "device": device}]
