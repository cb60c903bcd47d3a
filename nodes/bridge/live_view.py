"""What a Train node shows while it works: progress, time left, a sample and the curves."""

import logging
import time
from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor

from ...magictailor.errors import InputError
from ...magictailor.memory import is_out_of_memory
from ...magictailor.reference import Reference
from ...magictailor.report.curves import best_step
from ...magictailor.report.fonts import missing_note
from ...magictailor.report.sheet import live_picture, reference_names, training_report
from ...magictailor.sampling import Sketcher
from ...magictailor.training import StepReport, Training
from . import host

LARGEST_SIDE = 1040  # of the picture on the node, in pixels
NOT_FINITE = {"vae": "; start ComfyUI with --fp32-vae, or take another VAE"}


class LiveView:
    """Called after every step of a training.

    A picture that cannot be drawn never costs the training: it is logged and said on the node, and no more are drawn.

    Args:
        training: as it begins, or goes on.
        sketcher: draws the samples.
        prompt: what they show.
        every: steps from one sample to the next; 0 draws none.
        note: what stands below the progress, "" for nothing.
        judge: says how alike a sample (3, H, W) is to each reference; None: samples are not scored.

    Attributes:
        failed: why something could not be drawn, "" if nothing was amiss.

    Raises:
        InputError: the prompt is too long, or holds a token that is not learned; names "preview_prompt".
    """

    def __init__(
        self,
        training: Training,
        references: Sequence[Reference],
        sketcher: Sketcher,
        prompt: str,
        every: int,
        note: str = "",
        judge: Callable[[Tensor], Sequence[float]] | None = None,
    ):
        try:
            sketcher.model.require_readable(prompt)
        except InputError as error:
            raise InputError("preview_prompt", error.message) from error
        self.bar = host.progress_bar(training.config.total_steps)
        self.references, self.sketcher, self.prompt, self.every = references, sketcher, prompt, every
        self.note, self.judge = note, judge
        self.likeness: dict[int, Sequence[float]] = {}
        self.training = training
        self.failed = ""
        self.history, self.steps_before = training.history, training.steps_done
        self.started = time.monotonic()

    def after_step(self, report: StepReport, problem: str = "") -> Image.Image | None:
        """Show a step, and a sample where one is due; the sample. Raises the host's interrupt if the user asked for it.

        Args:
            problem: what the person at the canvas should know, "" for nothing.
        """
        due = self.every and report.step % self.every == 0 and report.step < report.total_steps
        sample = self._unless_it_fails(self._sample) if due else None
        self.bar.update_absolute(report.step, preview=sample and ("JPEG", sample, LARGEST_SIDE))
        a_step = (time.monotonic() - self.started) / (report.step - self.steps_before)
        left = duration(a_step * (report.total_steps - report.step))
        self._show(
            f"{report.phase}, step {report.step} of {report.total_steps}, {left} left\nloss {report.loss:.4f}", problem
        )
        host.check_interrupted()
        return sample

    def report(self) -> Image.Image:
        """The sheet of a finished training; it is shown on the node too."""
        took = duration(time.monotonic() - self.started)
        self._show("drawing the report")
        sheet = self._unless_it_fails(lambda: self._sheet(self.sketcher if self.every else None))
        if sheet is None:
            sheet = self._unless_it_fails(lambda: self._sheet(None))
        if sheet is None:
            sheet = Image.new("RGB", (LARGEST_SIDE, LARGEST_SIDE // 4), "white")
        self.bar.update_absolute(self.bar.total, preview=("JPEG", sheet, LARGEST_SIDE))
        best = f"\nmost like the references after step {best_step(self.likeness)}" if self.likeness else ""
        self._show(f"{self.bar.total} steps in {took}{best}")
        return sheet

    def _show(self, text: str, problem: str = "") -> None:
        font = missing_note(self.prompt + "".join(reference.class_word for reference in self.references))
        memory = str(self.training.memory)
        host.show_text("\n".join(filter(None, (text, problem, self.failed, font, memory, self.note))))

    def _sheet(self, sketcher: Sketcher | None) -> Image.Image:
        model, resolution = self.sketcher.model, self.sketcher.resolution
        if sketcher is not None and self.judge is not None and self.history[-1].step not in self.likeness:
            self._drawn()
        return training_report(model, self.references, resolution, self.history, sketcher, self.prompt, self.likeness)

    def _sample(self) -> Image.Image:
        drawn = self._drawn()
        caption = f"{self.prompt}, after step {self.history[-1].step}"
        return live_picture(drawn, caption, self.history, reference_names(self.references), self.likeness)

    def _drawn(self) -> Tensor:
        """A sample of what is learned by now, always from the same noise; scored if there is a judge."""
        drawn = self.sketcher.picture(self.sketcher.latents(self.prompt, seed=0))
        if self.judge is not None:
            self.likeness[self.history[-1].step] = self.judge(drawn)
        return drawn

    def _unless_it_fails(self, draw: Callable[[], Image.Image]) -> Image.Image | None:
        """A picture; or None and no more samples, for what was learned is worth more than a look at it."""
        try:
            return draw()
        except host.INTERRUPT:
            raise
        except Exception as error:  # a VAE, a font or a plot may raise anything
            if is_out_of_memory(error):
                self.failed = "there is not enough memory for samples, so none are drawn"
            elif isinstance(error, InputError):
                self.failed = f"no more samples are drawn: {error}{NOT_FINITE.get(error.field, '')}"
            else:
                self.failed = f"samples or the report could not be drawn ({type(error).__name__}: {error})"
        logging.warning("MagicTailor Train: %s.", self.failed, exc_info=True)
        self.every = 0
        host.empty_cache()
        return None


def duration(seconds: float) -> str:
    """`1 h 05 min`, `4 min 10 s` or `32 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
