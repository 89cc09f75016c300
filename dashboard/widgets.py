"""Widgets that several tabs use: an upload, the shipped examples, a number, and the bar shown while the model loads."""

from collections.abc import Callable, Sequence

import gradio as gr

from dashboard import markup
from dashboard.context import Context
from dashboard.examples import Example


def image_upload(label: str, elem_id: str, *, height: int, sources: Sequence[str] = ("upload",)) -> gr.Image:
    """An image upload whose value is the path of the file.

    Gradio would otherwise decode the upload itself, without our limits and with a traceback for a damaged file.
    """
    component = gr.Image(
        label=label,
        type="filepath",
        format="png",
        sources=list(sources),
        height=height,
        buttons=[],
        image_mode=None,
        elem_id=elem_id,
    )
    component.preprocess = lambda upload: upload.path if upload else None
    return component


def example_buttons(elem_id: str, examples: Sequence[Example]) -> gr.HTML:
    """The examples as buttons, each with its question below its image; a click is a `select` event."""
    return gr.HTML(
        markup.examples([(example.image, example.question) for example in examples]),
        js_on_load=CHOOSE_EXAMPLE,
        elem_id=elem_id,
        elem_classes="bare",
    )


CHOOSE_EXAMPLE = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-example]");
  if (button) trigger("select", { index: Number(button.dataset.example), value: "" });
});"""


def fill_from(buttons: gr.HTML, examples: Sequence[Example], image: gr.Image, prompt: gr.Textbox) -> None:
    """Put the example that is chosen into `image`, and its question into `prompt`."""

    def on_example(event: gr.SelectData):
        if not isinstance(event.index, int) or not 0 <= event.index < len(examples):
            return [gr.skip()] * 2
        return [str(examples[event.index].image), examples[event.index].question]

    buttons.select(on_example, None, [image, prompt], show_progress="hidden", api_visibility="private")


def number(label: str, value: int, elem_id: str, **options) -> gr.Number:
    """A field for a whole number; options: of `gr.Number`."""
    return gr.Number(value, label=label, precision=0, min_width=90, elem_id=elem_id, **options)


def busy(running: bool) -> list:
    """Updates of a start button and its stop button: while something runs, only the second can be pressed."""
    return [gr.update(interactive=not running), gr.update(interactive=running)]


class WaitingBar:
    """A progress bar, laid out where it is constructed, that is there only while the model loads."""

    def __init__(self, context: Context):
        self._model, self._page = context.model, gr.context.Context.root_block
        self._bar = gr.HTML("", visible=False, elem_classes="waiting")  # a page that just opened does not know yet

    def when_ready(self, outputs: Sequence[gr.components.Component], updates: Callable[[], list]) -> None:
        """Show progress until the model is loaded, then set `outputs` to the values of `updates()`, on every page."""
        timer = gr.Timer(0.7)

        def tick():
            if self._model.ready:
                return [gr.update(value="", visible=False), gr.Timer(active=False), *updates()]
            ended = gr.Timer(active=False) if self._model.problem else gr.skip()
            return [gr.update(value=self._progress(), visible=True), ended, *[gr.skip()] * len(outputs)]

        quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        gr.on([self._page.load, timer.tick], tick, None, [self._bar, timer, *outputs], **quiet)

    def _progress(self) -> str:
        if self._model.problem:
            return markup.problem(f"The model could not be loaded: {self._model.problem}")
        return markup.loading(self._model.name, self._model.stage, self._model.seconds)
