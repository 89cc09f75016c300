"""The bar that a tab shows while the model is on its way."""

from collections.abc import Callable, Sequence

import gradio as gr

from dashboard import markup
from dashboard.context import Context

SECONDS = 0.7


class WaitingBar:
    """Make it where the bar belongs; `when_ready` says what is to happen once the model is there."""

    def __init__(self, context: Context):
        self._model, self._page = context.model, gr.context.Context.root_block
        self._bar = gr.HTML(self._progress(), elem_classes="waiting")

    def when_ready(self, outputs: Sequence[gr.components.Component], updates: Callable[[], list]) -> None:
        """Show progress until the model is loaded; then give `outputs` the values of `updates()`, on every page."""
        timer = gr.Timer(SECONDS)

        def tick():
            if self._model.ready:
                return [gr.update(value="", visible=False), gr.Timer(active=False), *updates()]
            ended = gr.Timer(active=False) if self._model.problem else gr.skip()
            return [self._progress(), ended, *[gr.skip()] * len(outputs)]

        quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        gr.on([self._page.load, timer.tick], tick, None, [self._bar, timer, *outputs], **quiet)

    def _progress(self) -> str:
        if self._model.problem:
            return markup.problem(f"The model could not be loaded: {self._model.problem}")
        return markup.loading(self._model.name, self._model.stage, self._model.seconds)
