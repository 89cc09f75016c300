"""The Ground tab: a conversation about images in one column, the image with its masks, large, beside it."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.events import Dependency

from dashboard import exchanges, markup
from dashboard.context import Context
from dashboard.conversation import conversation
from dashboard.exchanges import Exchange
from dashboard.grounding import Grounding
from dashboard.pointing import TOOLS, Gesture, point
from dashboard.viewer import lay_out_viewer, viewer_value
from dashboard.visit import Visit
from dashboard.widgets import WaitingBar, busy, example_buttons, image_upload
from inference.reply import LayerChoice

POLICY, ONE_LAYER, AS_STARTED = "Policy's choice", "This layer", "As started: "
TALK = Path(__file__).with_name("talk.js")


@dataclass
class QuestionWidgets:
    """What a question is made of."""

    image: gr.Image
    prompt: gr.Textbox
    follow_up: gr.Checkbox
    ask: gr.Button
    stop: gr.Button
    clear: gr.Button
    examples: gr.HTML


@dataclass
class ResultWidgets:
    """What the page shows of a visit."""

    tab: Grounding
    talk: gr.HTML
    viewer: gr.HTML
    targets: gr.HTML
    download: gr.Button
    archive: gr.DownloadButton
    rule: gr.Radio
    layer: gr.Slider
    forget: gr.Button

    @property
    def parts(self) -> list[gr.components.Component]:
        """The widgets that `updates` fills."""
        return [self.talk, self.viewer, self.targets, self.download]

    def updates(self, visit: Visit | None, whole: bool = True) -> list:
        """Values of `parts`; of the conversation alone where it is all that changed.

        Where another event changed the visit meanwhile, they are made again: what is sent last must be what is shown.
        """
        if not whole:
            return [conversation(visit), gr.skip(), gr.skip(), gr.skip()]
        while True:
            before = visit and visit.stamp
            exchange = visit.exchange if visit else None
            values = [
                conversation(visit),
                viewer_value(visit, TOOLS if self.tab.takes_spots() else ()),
                markup.targets([] if exchange is None else exchanges.draw_targets(exchange)),
                gr.update(interactive=exchange is not None),
            ]
            if before == (visit and visit.stamp):
                return values


def lay_out(tab: Grounding) -> tuple[QuestionWidgets, ResultWidgets]:
    """Lays out both columns. On a narrow screen the image follows the conversation, the question comes below."""
    context = tab.context
    with gr.Row(equal_height=False, elem_id="ground-columns"):
        with gr.Column(scale=5, min_width=320, elem_id="ground-left"):
            talk = gr.HTML(
                conversation(None),
                js_on_load=TALK.read_text(encoding="utf-8"),
                elem_id="ground-talk",
                elem_classes="bare",
            )
            with gr.Column(elem_id="ground-question"):
                prompt = gr.Textbox(
                    label="Question",
                    placeholder="What is the thing you could drink from in this image?",
                    info="Enter asks, Shift+Enter makes a line.",
                    lines=1,
                    max_lines=6,
                    max_length=context.limits.prompt,
                    elem_id="ground-prompt",
                )
                with gr.Row(elem_classes="actions"):
                    ask = gr.Button("Ask", variant="primary", interactive=False, elem_id="ground-ask", min_width=80)
                    stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="ground-stop", min_width=80)
                    clear = gr.Button("Clear", elem_id="ground-clear", min_width=80)
                image = image_upload("Image", "ground-picture", height=150, sources=("upload", "clipboard"))
                follow_up = gr.Checkbox(
                    label="Follow-up question",
                    info="The model also sees your earlier questions about this image.",
                    elem_id="ground-follow-up",
                )
            examples = example_buttons("ground-examples", context.examples)
            gr.HTML(
                markup.note("Only you see this conversation. It is deleted when you close the page."),
                elem_id="ground-privacy",
                elem_classes="bare",
            )
            forget = gr.Button("Delete this conversation", size="sm", elem_id="ground-forget")
        with gr.Column(scale=7, min_width=320, elem_id="ground-right"):
            viewer = lay_out_viewer("ground-viewer")
            with gr.Row(elem_id="ground-below"):
                rule = gr.Radio(
                    [POLICY, ONE_LAYER],
                    label="Layer that prompts the masks",
                    value=POLICY,
                    visible=False,
                    elem_id="ground-rule",
                    min_width=240,
                )
                layer = gr.Slider(0, 1, 0, step=1, label="Layer", visible=False, elem_id="ground-layer", min_width=200)
                download = gr.Button(
                    "Download (ZIP)", size="sm", interactive=False, elem_id="ground-download", min_width=160, scale=0
                )
                archive = gr.DownloadButton("ZIP", visible="hidden", elem_id="ground-archive")
            with gr.Accordion("Masks and similarity maps one by one", open=False, elem_id="ground-maps"):
                targets = gr.HTML("", elem_id="ground-targets", elem_classes="bare")
    question = QuestionWidgets(image, prompt, follow_up, ask, stop, clear, examples)
    return question, ResultWidgets(tab, talk, viewer, targets, download, archive, rule, layer, forget)


STATE_SECONDS = 6 * 3600
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE = {**QUIET, "queue": False}


def ground_tab(context: Context) -> None:
    """Lay out the tab inside the current `gr.Blocks` and bind its events."""
    tab, bar = Grounding(context), WaitingBar(context)
    visit = gr.State(None, time_to_live=STATE_SECONDS, delete_callback=_leave)
    question, result = lay_out(tab)
    bar.when_ready([question.ask, result.rule, result.layer], lambda: _layer_widgets(tab))
    _bind_welcome(tab, question, result, visit)
    asking = _bind_asking(tab, question, result, visit)
    _bind_choosing(tab, question, result, visit, asking)
    _bind_looking(tab, result, visit)
    _bind_pointing(tab, question, result, visit)


def _bind_welcome(tab: Grounding, question: QuestionWidgets, result: ResultWidgets, visit: gr.State) -> None:
    """Begin every visit, with an example that is answered as soon as there is one."""
    timer, page = gr.Timer(0.7), gr.context.Context.root_block

    def on_tick(now):
        now = now or Visit.begin(tab.context.folder)
        model = tab.context.model
        ended = tab.prepare() if model.ready else model.problem is not None
        welcomed = tab.welcome(now)
        shown = [*result.updates(now), str(now.exchange.source)] if welcomed else [gr.skip()] * 5
        return [now, gr.Timer(active=False) if ended else gr.skip(), *shown]

    gr.on([page.load, timer.tick], on_tick, visit, [visit, timer, *result.parts, question.image], **AT_ONCE)


def _bind_asking(tab: Grounding, question: QuestionWidgets, result: ResultWidgets, visit: gr.State) -> Dependency:
    """Bind Ask and Stop; returns the event of a question, which others cancel."""
    buttons = [question.ask, question.stop]

    def on_ask(now, upload, prompt, follow_up, rule, layer, request: gr.Request):
        now = now or Visit.begin(tab.context.folder)
        wish = tab.layer(_wish(rule, layer))
        for whole in tab.ask(request.session_hash, now, upload, prompt, layer=wish, follow_up=follow_up):
            yield [*result.updates(now, whole), *busy(now.attempt is not None and now.attempt.running), now]

    def on_answered(now, prompt):
        done = now and now.attempt is None and now.visitor.exchanges
        return "" if done and now.visitor.exchanges[-1].prompt == (prompt or "").strip() else gr.skip()

    def on_stop(request: gr.Request):
        tab.context.answers.stop(request.session_hash)  # the answer ends with a note

    asking = gr.on(
        [question.ask.click, question.prompt.submit],
        on_ask,
        [visit, question.image, question.prompt, question.follow_up, result.rule, result.layer],
        [*result.parts, *buttons, visit],
        concurrency_limit=None,  # `Answerer` lets one at a time, and says how many come before
        trigger_mode="once",
        **QUIET,
    )
    asking.success(on_answered, [visit, question.prompt], question.prompt, **AT_ONCE)
    asking.failure(lambda: busy(False), None, buttons, **AT_ONCE)  # where the queue is full
    question.stop.click(on_stop, None, None, **AT_ONCE)
    return asking


def _bind_choosing(
    tab: Grounding, question: QuestionWidgets, result: ResultWidgets, visit: gr.State, asking: Dependency
) -> None:
    """Bind what makes the page show something else: all of it changes at once."""
    examples = tab.context.examples

    def on_image(now, upload):
        now = now or Visit.begin(tab.context.folder)
        tab.look_at(now, upload)
        return [*result.updates(now), now]

    def on_example(now, event: gr.SelectData):
        if not isinstance(event.index, int) or not 0 <= event.index < len(examples):
            return [gr.skip()] * 7
        example = examples[event.index]
        return [*on_image(now, str(example.image)), str(example.image), example.question]

    def on_open(now, event: gr.SelectData):
        exchange = tab.open(now, event.index) if now else None
        if exchange is None:
            return [gr.skip()] * 8
        return [*result.updates(now), str(exchange.source), exchange.prompt, *_layer_of(tab, exchange)]

    def on_clear(now, request: gr.Request):
        tab.context.answers.stop(request.session_hash)
        if now:
            now.clear()
        return [*result.updates(now), None, "", *busy(False)]

    def on_forget(now, request: gr.Request):
        if now:
            now.forget()
        return on_clear(now, request)

    parts, fields = result.parts, [question.image, question.prompt]
    gr.on([question.image.upload, question.image.clear], on_image, [visit, question.image], [*parts, visit], **QUIET)
    question.examples.select(on_example, visit, [*parts, visit, *fields], **QUIET)
    result.talk.select(on_open, visit, [*parts, *fields, result.rule, result.layer], **QUIET)
    for button, act in ((question.clear, on_clear), (result.forget, on_forget)):
        button.click(act, visit, [*parts, *fields, question.ask, question.stop], cancels=asking, **AT_ONCE)


def _bind_looking(tab: Grounding, result: ResultWidgets, visit: gr.State) -> None:
    """Bind what shows the same answer in another way."""

    def on_layer(now, rule, layer, request: gr.Request):
        changed = now and tab.segment_again(request.session_hash, now, tab.layer(_wish(rule, layer)))
        return result.updates(now) if changed else [gr.skip()] * 4

    def on_download(now):
        exchange = now.exchange if now else None
        return gr.skip() if exchange is None else str(exchanges.pack(exchange))

    gr.on(
        [result.layer.input, result.rule.input],
        on_layer,
        [visit, result.rule, result.layer],
        result.parts,
        concurrency_limit=None,
        trigger_mode="always_last",
        show_progress="minimal",
        show_progress_on=[result.viewer],
        api_visibility="private",
    )
    result.rule.input(lambda rule: gr.update(visible=rule == ONE_LAYER), result.rule, result.layer, **QUIET)
    written = result.download.click(on_download, visit, result.archive, **QUIET)
    written.success(None, None, None, js=CLICK_ARCHIVE)


def _bind_pointing(tab: Grounding, question: QuestionWidgets, result: ResultWidgets, visit: gr.State) -> None:
    """Bind clicks and boxes on the image."""

    def on_gesture(now, upload, event: gr.EventData, request: gr.Request):
        for whole in point(tab, request.session_hash, now, upload, Gesture.read(event._data)) if now else ():
            running = now.attempt is not None and now.attempt.running
            yield [*result.updates(now, whole), *busy(running)]

    buttons = [question.ask, question.stop]
    gesture = result.viewer.input(
        on_gesture,
        [visit, question.image],
        [*result.parts, *buttons],
        concurrency_limit=None,
        trigger_mode="once",
        **QUIET,
    )
    gesture.failure(lambda: busy(False), None, buttons, **AT_ONCE)


CLICK_ARCHIVE = "() => setTimeout(() => document.querySelector('#ground-archive').click(), 100)"

# --- what widgets are told -------------------------------------------------------------------------------------------


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


def _layer_of(tab: Grounding, exchange: Exchange) -> list:
    """For the rule and the slider, the choice that an exchange was asked with."""
    if exchange.layer is None:
        return _layer_widgets(tab)[1:]
    if exchange.layer == "greedy":
        return [POLICY, gr.update(visible=False)]
    return [ONE_LAYER, gr.update(value=exchange.layer, visible=True)]


def _wish(rule: str, layer: float) -> LayerChoice:
    """The layer choice of the widgets; None for "as started"."""
    return {POLICY: "greedy", ONE_LAYER: int(layer)}.get(rule)


def _leave(visit: Visit | None) -> None:
    if visit is not None:
        visit.leave()
