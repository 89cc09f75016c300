"""The Ground tab: an image and an instruction in, the answer with its masks out."""

from dataclasses import dataclass

import gradio as gr
from gradio.events import Dependency

from dashboard import markup
from dashboard.context import Context
from dashboard.exchanges import Visitor, thumbnail
from dashboard.grounding import Grounding, View
from dashboard.widgets import WaitingBar, busy, example_images, fill_from, image_upload
from inference.reply import LayerChoice

POLICY, ONE_LAYER, AS_STARTED = "Policy's choice", "This layer", "As started: "
NOTHING_YET = markup.hint("The answer appears here.")


@dataclass
class QuestionWidgets:
    """The widgets on the left."""

    image: gr.Image
    prompt: gr.Textbox
    follow_up: gr.Checkbox
    ask: gr.Button
    stop: gr.Button
    clear: gr.Button


@dataclass
class ResultWidgets:
    """The widgets on the right; `parts` are those that a `View` fills, in the order of `ground._updates`."""

    answer: gr.HTML
    overlay: gr.Image
    opacity: gr.Slider
    rule: gr.Radio
    layer: gr.Slider
    targets: gr.HTML
    downloads: list[gr.DownloadButton]
    history: gr.Gallery
    forget: gr.Button

    @property
    def parts(self) -> list[gr.components.Component]:
        """The widgets that `_updates` fills, in its order."""
        return [self.answer, self.overlay, self.targets, *self.downloads]


def lay_out_question(context: Context) -> QuestionWidgets:
    """Lays out the left column: the image, the examples, the instruction, the buttons."""
    image = image_upload("Image", "ground-picture", height=320, sources=("upload", "clipboard"))
    examples = example_images("ground-examples")
    prompt = gr.Textbox(
        label="Instruction",
        placeholder="What is the thing you could drink from in this image? Please output segmentation mask.",
        lines=1,  # Enter asks, Shift+Enter makes a line
        max_lines=6,
        max_length=context.limits.prompt,
        elem_id="ground-prompt",
    )
    with gr.Row(elem_classes="actions"):
        ask = gr.Button("Ask", variant="primary", interactive=False, elem_id="ground-ask", min_width=80)
        stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="ground-stop", min_width=80)
        clear = gr.Button("Clear", elem_id="ground-clear", min_width=80)
    follow_up = gr.Checkbox(
        label="Follow-up question",
        info="The model also sees your earlier questions about this image.",
        elem_id="ground-follow-up",
    )

    fill_from(examples, image, prompt)
    return QuestionWidgets(image, prompt, follow_up, ask, stop, clear)


def lay_out_result() -> ResultWidgets:
    """Lays out the right column: the answer, its masks, downloads and the history."""
    answer = gr.HTML(NOTHING_YET, elem_id="ground-answer", elem_classes="bare")
    overlay = gr.Image(
        label="Masks",
        type="filepath",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id="ground-overlay",
        height=440,
    )
    with gr.Row(elem_classes="views"):
        opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Mask opacity", elem_id="ground-opacity", min_width=220)
        with gr.Column(min_width=260):
            rule = gr.Radio(
                [POLICY, ONE_LAYER],
                label="Layer that prompts the masks",
                value=POLICY,
                visible=False,
                elem_id="ground-rule",
            )
            layer = gr.Slider(0, 1, 0, step=1, label="Layer", visible=False, elem_id="ground-layer")
    targets = gr.HTML("", elem_id="ground-targets", elem_classes="bare")
    with gr.Row(elem_classes="downloads"):
        names = {
            "overlay": "Overlay (PNG)",
            "masks": "Masks (ZIP)",
            "record": "RLE (JSON)",
            "tools": "Other tools (ZIP)",
        }
        downloads = [
            gr.DownloadButton(label, size="sm", interactive=False, min_width=90, elem_id=f"ground-download-{name}")
            for name, label in names.items()
        ]
    with gr.Accordion("Your history", open=False, elem_id="ground-history-box"):
        gr.HTML(markup.note("Only you can see this. It is deleted when you close the page."), elem_classes="bare")
        history = gr.Gallery(
            show_label=False,
            columns=4,
            fit_columns=False,
            height="auto",
            object_fit="contain",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="ground-history",
            elem_classes="tiles",
        )
        forget = gr.Button("Delete my history", size="sm", elem_id="ground-forget")
    return ResultWidgets(answer, overlay, opacity, rule, layer, targets, downloads, history, forget)


STATE_SECONDS = 6 * 3600
QUIET = {"show_progress": "hidden", "api_visibility": "private"}


def ground_tab(context: Context) -> None:
    """Lay out the tab inside the current `gr.Blocks` and bind its events."""
    tab, bar = Grounding(context), WaitingBar(context)
    visitor = gr.State(None, time_to_live=STATE_SECONDS, delete_callback=_leave)
    shown = gr.State(None)  # index of the exchange that the page shows, None for none
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            question = lay_out_question(context)
        with gr.Column(scale=7, min_width=300):
            result = lay_out_result()
    bar.when_ready([question.ask, result.rule, result.layer], lambda: _layer_widgets(tab))
    asking = _bind_asking(tab, question, result, visitor, shown)
    _bind_looking(tab, result, visitor, shown)

    def on_forget(person):
        if person:
            person.forget()
        return [person, [], None, *_updates(View(NOTHING_YET)), None]

    parts = [*result.parts, shown]
    result.forget.click(on_forget, visitor, [visitor, result.history, question.image, *parts], **QUIET)

    def on_clear(request: gr.Request):
        context.answers.stop(request.session_hash)
        return [None, "", *_updates(View(NOTHING_YET)), None, *busy(False)]

    cleared = [question.image, question.prompt, *parts, question.ask, question.stop]
    question.clear.click(on_clear, None, cleared, cancels=asking, queue=False, **QUIET)


def _bind_asking(
    tab: Grounding, question: QuestionWidgets, result: ResultWidgets, visitor: gr.State, shown: gr.State
) -> Dependency:
    """Bind Ask and Stop; returns the event of a question, which others cancel."""
    parts, buttons = result.parts, [question.ask, question.stop]

    def on_ask(person, upload, prompt, follow_up, rule, layer, opacity, request: gr.Request):
        person = person or Visitor.arrive(tab.context.folder)
        before = person.number
        steps = tab.ask(
            request.session_hash,
            person,
            upload,
            prompt,
            layer=tab.layer(_wish(rule, layer)),
            follow_up=follow_up,
            opacity=opacity,
        )
        for view in steps:
            yield [*_updates(view), *busy(True), person, gr.skip(), gr.skip()]
        answered = person.number > before
        yield [*_updates(None), *busy(False), person, -1 if answered else None, _history(person)]

    def on_press(request: gr.Request):
        tab.context.answers.announce(request.session_hash)
        return busy(True)

    def on_stop(request: gr.Request):
        tab.context.answers.stop(request.session_hash)  # the answer ends with a note

    press = gr.on([question.ask.click, question.prompt.submit], on_press, None, buttons, queue=False, **QUIET)
    asking = press.then(
        on_ask,
        [
            visitor,
            question.image,
            question.prompt,
            question.follow_up,
            result.rule,
            result.layer,
            result.opacity,
        ],
        [*parts, *buttons, visitor, shown, result.history],
        concurrency_limit=None,  # `Answerer` lets one at a time, and says how many come before
        show_progress="minimal",
        show_progress_on=[result.answer],
        api_visibility="private",
        trigger_mode="once",
    )
    asking.failure(lambda: busy(False), None, buttons, queue=False, **QUIET)  # where the queue is full
    question.stop.click(on_stop, None, None, queue=False, **QUIET)
    return asking


def _bind_looking(tab: Grounding, result: ResultWidgets, visitor: gr.State, shown: gr.State) -> None:
    """Bind the events that show an existing answer in another way."""

    def on_layer(person, index, rule, layer, opacity, request: gr.Request):
        wanted = tab.layer(_wish(rule, layer))
        view = tab.look_again(request.session_hash, person, index, wanted, opacity) if person else None
        return [*_updates(view), person, _history(person) if view else gr.skip()]

    def on_opacity(person, index, opacity):
        path = tab.recompose(person, index, opacity) if person else None
        return [gr.skip()] * 2 if path is None else [str(path)] * 2

    def on_select(person, opacity, event: gr.SelectData):
        index = len(person.exchanges) - 1 - event.index if person else 0
        view = tab.show(person, index, opacity) if person else None
        return [*_updates(view), index if view else gr.skip()]

    gr.on(
        [result.layer.input, result.rule.input],
        on_layer,
        [visitor, shown, result.rule, result.layer, result.opacity],
        [*result.parts, visitor, result.history],
        concurrency_limit=None,
        trigger_mode="always_last",
        show_progress="minimal",
        show_progress_on=[result.overlay],
        api_visibility="private",
    )
    result.rule.input(lambda rule: gr.update(visible=rule == ONE_LAYER), result.rule, result.layer, **QUIET)
    result.opacity.input(
        on_opacity,
        [visitor, shown, result.opacity],
        [result.overlay, result.downloads[0]],
        trigger_mode="always_last",
        **QUIET,
    )
    result.history.select(on_select, [visitor, result.opacity], [*result.parts, shown], **QUIET)


# --- what widgets are told -------------------------------------------------------------------------------------------


def _updates(view: View | None) -> list:
    """For `ResultWidgets.parts`; they stay as they are where there is no view."""
    if view is None:
        return [gr.skip()] * 7
    files = [view.overlay, view.masks, view.record, view.tools]
    return [
        view.answer,
        view.overlay and str(view.overlay),
        view.targets,
        *(gr.update(value=path and str(path), interactive=path is not None) for path in files),
    ]


def _layer_widgets(tab: Grounding) -> list:
    """For Ask, the rule and the slider, once the model is known."""
    options = tab.layer_options()
    rules = [POLICY, ONE_LAYER] if options.trained else [ONE_LAYER]
    index = options.default if isinstance(options.default, int) else options.last
    if options.default in ("mixture", "sample"):
        rules.append(AS_STARTED + options.default)
    rule = {"greedy": POLICY, "mixture": rules[-1], "sample": rules[-1]}.get(options.default, ONE_LAYER)
    return [
        gr.update(interactive=True),
        gr.update(choices=rules, visible=options.policy, value=rule),
        gr.update(maximum=options.last, value=index, visible=options.policy and rule == ONE_LAYER),
    ]


def _wish(rule: str, layer: float) -> LayerChoice:
    """The layer choice of the widgets; None for "as started"."""
    return {POLICY: "greedy", ONE_LAYER: int(layer)}.get(rule)


def _history(person: Visitor) -> list:
    """Thumbnails with their questions, the newest first."""
    return [(str(thumbnail(exchange)), exchange.prompt[:80]) for exchange in reversed(person.exchanges)]


def _leave(person: Visitor | None) -> None:
    if person is not None:
        person.leave()
