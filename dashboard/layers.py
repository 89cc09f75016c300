"""The Layers tab: the masks of every layer for a question, and their mean scores over a split.

Modules that import the model's libraries are imported on first use, so that the page appears before they load.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas

from dashboard import markup
from dashboard.context import Context, Stopped, Waiting
from dashboard.grounding import sentence
from dashboard.widgets import WaitingBar, busy, example_buttons, fill_from, image_upload, number
from groundscore.errors import UserError

MOST_IMAGES = 2000
SPLITS = ("ReasonSeg|val", "refcoco|unc|val", "refcoco+|unc|val", "refcocog|umd|val", "grefcoco|unc|val")
SPLITS += ("refzom|final|test", "fprefcoco|val", "MultiReasonSeg|val")  # every other one can be typed


def layers_tab(context: Context) -> None:
    """Lay out the tab inside the current `gr.Blocks` and bind its events."""
    bar = WaitingBar(context)
    with gr.Row(equal_height=False, elem_classes="columns"):
        with gr.Column(scale=3, min_width=300):
            with gr.Row():
                image = image_upload("Image", "layers-picture", height=190)
                truth = image_upload("Ground truth (optional)", "layers-truth", height=190)
            examples = example_buttons("layers-examples", context.examples)
            prompt = gr.Textbox(
                label="Instruction",
                placeholder="What is the thing you could drink from in this image?",
                lines=2,
                max_length=context.limits.prompt,
                elem_id="layers-prompt",
            )
            fill_from(examples, context.examples, image, prompt)
            answer = gr.Textbox(
                "It is [SEG].", label="Answer given to the model", max_length=500, elem_id="layers-answer"
            )
            show = gr.Button("Show the layers", variant="primary", interactive=False, elem_id="layers-show")
            with gr.Accordion("Take a question from a split", open=False):
                split = _split("layers-split")
                with gr.Row():
                    index = number("Image", 0, "layers-index", minimum=0)
                    expression = number("Expression", 0, "layers-expression", minimum=0)
                take = gr.Button("Use it", elem_id="layers-take")
                taken = gr.HTML()
        with gr.Column(scale=7, min_width=320):
            grid = gr.HTML(
                markup.hint("Every layer's similarity map and mask appear here."),
                elem_id="layers-grid",
                elem_classes="bare",
            )
    with gr.Accordion("All layers over a split", open=True):
        with gr.Row():
            whole = _split("layers-whole", scale=3)
            limit = number("Images", 50, "layers-limit", minimum=1, maximum=MOST_IMAGES, scale=1)
        with gr.Row(elem_classes="actions"):
            measure = gr.Button("Measure", variant="primary", interactive=False, elem_id="layers-measure")
            stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="layers-stop")
        said = gr.HTML(
            markup.hint("The mean IoU and loss of every layer's masks appear here."),
            elem_id="layers-said",
            elem_classes="bare",
        )
        with gr.Row(visible=False) as charts:
            plots = [
                gr.LinePlot(**_axes("IoU", "Mean IoU of the masks")),
                gr.LinePlot(**_axes("loss", "Mean loss")),
                gr.BarPlot(**_axes("probability", "The policy's probability")),
            ]
        table = gr.DownloadButton("Table (CSV)", visible=False, size="sm", elem_id="layers-csv")

    def session():
        return context.model.get()

    def on_ready():
        """Updates of show, measure, grid and said; a model without layers to compare is reported at once."""
        system = session().model.system
        has_layers, has_points = system.uses_policy, system.uses_points
        nothing = markup.hint(f"{type(system).__name__} always uses the last layer: there are no layers to compare.")
        return [
            gr.update(interactive=has_layers or has_points),
            gr.update(interactive=has_layers),
            gr.skip() if has_layers or has_points else nothing,
            gr.skip() if has_layers else nothing,
        ]

    bar.when_ready([show, measure, grid, said], on_ready)

    def on_show(image, mask, words, given, request: gr.Request):
        from dashboard.layer_views import read_question, show_layers

        def work(_):
            chat = session()
            question = read_question(image, mask, words, given, context.limits)
            return show_layers(chat.model, chat.processor, question)

        *_, result = _steps(context, request, work)
        return markup.problem(str(result)) if isinstance(result, UserError) else result

    def on_take(name, at, which):
        from dashboard.layer_views import open_item, question_of

        try:
            question = question_of(open_item(name or "", int(at or 0), context.dataset_dir), int(which or 0))
        except UserError as error:
            return [gr.skip()] * 4 + [markup.problem(str(error))]
        one = question.truth is not None and len(question.truth) == 1
        drawn = np.repeat(question.truth[0][..., None] * 255, 3, axis=2).astype(np.uint8) if one else None
        return [question.image, drawn, question.prompt, question.answer, ""]

    def on_measure(name, images, request: gr.Request):
        from dashboard.layer_views import measure_split, summary

        began = time.monotonic()

        def work(on_text):
            def progress(done: int, total: int) -> None:
                left = (time.monotonic() - began) / done * (total - done)
                on_text(f"\n{done} of {total} images, {left:.0f} s left")

            chat = session()
            most = min(max(int(images or 1), 1), MOST_IMAGES)
            return measure_split(chat.model, chat.processor, name, context.dataset_dir, limit=most, progress=progress)

        context.answers.announce(request.session_hash)  # Stop works from the moment it can be clicked
        nothing_new = [gr.skip()] * (len(plots) + 2)
        yield [markup.hint("Waiting for the model …"), *nothing_new, *busy(True)]
        for step in _steps(context, request, work):
            if isinstance(step, UserError):
                yield [markup.problem(str(step)), *nothing_new, *busy(False)]
            elif isinstance(step, Waiting):
                yield [markup.hint(step.stage) if step.before is not None else gr.skip(), *nothing_new, *busy(True)]
            elif isinstance(step, str):
                yield [markup.hint(step.rpartition("\n")[2] or "Opening the split …"), *nothing_new, *busy(True)]
            else:
                frame = pandas.DataFrame(step.rows())
                named = frame.astype({"layer": str})  # a bar for each layer is as wide as its place
                bars = gr.update(value=named, sort=list(named["layer"]))
                path = step.write_csv(_private_file(context, "layers.csv"))
                file = gr.update(value=str(path), visible=True)
                yield [summary(step), frame, frame, bars, gr.update(visible=True), file, *busy(False)]

    def on_stop(request: gr.Request):
        context.answers.stop(request.session_hash)

    quiet = {"api_visibility": "private", "trigger_mode": "once"}
    show.click(on_show, [image, truth, prompt, answer], grid, show_progress="minimal", **quiet)
    take.click(on_take, [split, index, expression], [image, truth, prompt, answer, taken], **quiet)
    results = [said, *plots, charts, table, measure, stop]
    measure.click(on_measure, [whole, limit], results, show_progress="hidden", **quiet)
    stop.click(on_stop, None, None, queue=False, **quiet)


def _split(elem_id: str, scale: int | None = None) -> gr.Dropdown:
    return gr.Dropdown(list(SPLITS), label="Split", allow_custom_value=True, scale=scale, elem_id=elem_id)


def _axes(column: str, title: str) -> dict:
    """Of a plot of one column over the layers."""
    return {"x": "layer", "y": column, "title": title, "height": 240, "min_width": 260, "elem_id": f"layers-{column}"}


def _private_file(context: Context, name: str) -> Path:
    """A path for a visitor's file, in a folder with a random name."""
    folder = context.folder / secrets.token_hex(16)
    folder.mkdir(mode=0o700)
    return folder / name


def _steps(context: Context, request: gr.Request, work: Callable[[Callable[[str], None]], Any]) -> Iterator:
    """Yields the text of `work` as it grows, then its value; an error as a `UserError`."""
    try:
        yield from context.answers.run(request.session_hash, work)
    except Stopped:
        yield UserError("Stopped.")
    except Exception as error:
        yield UserError(sentence(error))
