"""The Ground tab: a picture and an instruction in, the answer with its masks out."""

import gradio as gr

from dashboard.context import Context
from dashboard.exchange_files import thumbnail
from dashboard.ground_widgets import (
    AS_STARTED,
    NOTHING_YET,
    ONE_LAYER,
    POLICY,
    QuestionWidgets,
    ResultWidgets,
    lay_out_question,
    lay_out_result,
)
from dashboard.grounding import Grounding, View
from dashboard.visitor import Visitor
from dashboard.waiting import WaitingBar
from inference.reply import LayerChoice

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
    _bind_asking(tab, question, result, visitor, shown)
    _bind_looking(tab, result, visitor, shown)

    def on_forget(person):
        if person:
            person.forget()
        return [person, [], None, *_updates(View(NOTHING_YET)), None]

    parts = [*result.parts, shown]
    result.forget.click(on_forget, visitor, [visitor, result.history, question.picture, *parts], **QUIET)

    def on_clear():
        return [None, "", *_updates(View(NOTHING_YET)), None]

    question.clear.click(on_clear, None, [question.picture, question.prompt, *parts], **QUIET)


def _bind_asking(
    tab: Grounding, question: QuestionWidgets, result: ResultWidgets, visitor: gr.State, shown: gr.State
) -> None:
    parts, buttons = result.parts, [question.ask, question.stop]

    def on_ask(person, picture, prompt, follow_up, rule, layer, opacity, request: gr.Request):
        person = person or Visitor.arrive(tab.context.folder)
        before = person.number
        steps = tab.ask(
            request.session_hash,
            person,
            picture,
            prompt,
            layer=tab.layer(_wish(rule, layer)),
            follow_up=follow_up,
            opacity=opacity,
        )
        for view in steps:
            yield [*_updates(view), *_busy(True), person, gr.skip(), gr.skip()]
        answered = person.number > before
        yield [*_updates(None), *_busy(False), person, -1 if answered else None, _history(person)]

    def on_press(request: gr.Request):
        tab.context.answers.announce(request.session_hash)
        return _busy(True)

    def on_stop(request: gr.Request):
        tab.context.answers.stop(request.session_hash)  # the answer ends by itself and says so

    press = gr.on([question.ask.click, question.prompt.submit], on_press, None, buttons, queue=False, **QUIET)
    asking = press.then(
        on_ask,
        [
            visitor,
            question.picture,
            question.prompt,
            question.follow_up,
            result.rule,
            result.layer,
            result.opacity,
        ],
        [*parts, *buttons, visitor, shown, result.history],
        concurrency_id="model",
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=[result.answer],
        api_visibility="private",
        trigger_mode="once",
    )
    asking.failure(lambda: _busy(False), None, buttons, queue=False, **QUIET)  # where the queue is full
    question.stop.click(on_stop, None, None, queue=False, **QUIET)


def _bind_looking(tab: Grounding, result: ResultWidgets, visitor: gr.State, shown: gr.State) -> None:
    """Everything that shows an answer that is there already in another way."""

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
        concurrency_id="model",
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
        return [gr.skip()] * 6
    files = [view.overlay, view.masks, view.record]
    return [
        view.answer,
        view.overlay and str(view.overlay),
        view.targets,
        *(gr.update(value=path and str(path), interactive=path is not None) for path in files),
    ]


def _busy(busy: bool) -> list:
    """For the buttons Ask and Stop."""
    return [gr.update(interactive=not busy), gr.update(interactive=busy)]


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
    """What the rule's and the layer's widget say; None for "as started"."""
    return {POLICY: "greedy", ONE_LAYER: int(layer)}.get(rule)


def _history(person: Visitor) -> list:
    """Thumbnails with their questions, the newest first."""
    return [(str(thumbnail(exchange)), exchange.prompt[:80]) for exchange in reversed(person.exchanges)]


def _leave(person: Visitor | None) -> None:
    if person is not None:
        person.leave()
