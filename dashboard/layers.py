"""The Layers tab: what every hidden state would have made of a question, and of a whole split."""

import logging
import queue
import secrets
import threading
from pathlib import Path

import gradio as gr
import numpy as np
import pandas

from dashboard import markup
from dashboard.answering import Stopped
from dashboard.context import Context
from dashboard.layer_views import measure_split, open_item, question_of, read_question, show_layers, summary
from dashboard.waiting import WaitingBar
from utils.errors import UserError

log = logging.getLogger(__name__)

UNEXPECTED = "Something went wrong inside the program; its log says more."
MOST_IMAGES = 2000


def layers_tab(context: Context) -> None:
    """Lay out the tab inside the current `gr.Blocks` and bind its events."""
    with gr.Row(equal_height=False, elem_classes="columns"):
        with gr.Column(scale=3, min_width=300):
            with gr.Row():
                picture = _upload("Picture", "layers-picture")
                truth = _upload("Truth (optional)", "layers-truth")
            prompt = gr.Textbox(label="Instruction", lines=2, max_length=context.limits.prompt, elem_id="layers-prompt")
            answer = gr.Textbox(
                "It is [SEG].", label="Answer that is given to the model", max_length=500, elem_id="layers-answer"
            )
            show = gr.Button("Show the layers", variant="primary", interactive=False, elem_id="layers-show")
            with gr.Accordion("Take a question from a split", open=False):
                split = gr.Textbox("ReasonSeg|val", label="Split", max_length=100, elem_id="layers-split")
                with gr.Row():
                    index = gr.Number(0, label="Picture", precision=0, minimum=0, min_width=90)
                    expression = gr.Number(0, label="Expression", precision=0, minimum=0, min_width=90)
                take = gr.Button("Take it", elem_id="layers-take")
                taken = gr.HTML()
        with gr.Column(scale=7, min_width=320):
            grid = gr.HTML(
                markup.hint("Every layer's similarity map and mask appear here."), elem_id="layers-grid", min_height=120
            )
    with gr.Accordion("Over a split", open=True):
        with gr.Row(elem_classes="actions"):
            whole = gr.Textbox("ReasonSeg|val", label="Split", max_length=100, scale=3, elem_id="layers-whole")
            limit = gr.Number(50, label="Pictures", precision=0, minimum=1, maximum=MOST_IMAGES, scale=1, min_width=90)
            measure = gr.Button("Measure", interactive=False, scale=1, min_width=110, elem_id="layers-measure")
        said = gr.HTML(markup.hint("The mean IoU of every layer's masks appears here."), elem_id="layers-said")
        with gr.Row():
            iou_plot = gr.LinePlot(x="layer", y="IoU", title="Mean IoU of each layer's masks", height=260)
            chance_plot = gr.BarPlot(x="layer", y="probability", title="What the policy prefers", height=260)
        table = gr.DownloadButton("Table (CSV)", interactive=False, size="sm", elem_id="layers-csv")
    WaitingBar(context).when_ready([show, measure], lambda: [gr.update(interactive=True)] * 2)

    def session():
        return context.model.get()

    def on_show(image, mask, words, given, request: gr.Request):
        def work(_):
            chat = session()
            question = read_question(image, mask, words, given, context.limits)
            return show_layers(chat.model, chat.processor, question)

        return _last(context, request, work, markup.problem)

    def on_take(name, number, which):
        try:
            question = question_of(open_item(name, int(number or 0), context.dataset_dir), int(which or 0))
        except UserError as error:
            return [gr.skip()] * 4 + [markup.problem(str(error))]
        one = question.truth is not None and len(question.truth) == 1
        drawn = np.repeat(question.truth[0][..., None] * 255, 3, axis=2).astype(np.uint8) if one else None
        return [question.image, drawn, question.prompt, question.answer, ""]

    def on_measure(name, pictures, request: gr.Request):
        steps: queue.SimpleQueue = queue.SimpleQueue()

        def work(on_text):
            def progress(done: int, total: int) -> None:
                on_text("")  # ends the work if the visitor has gone
                steps.put(f"{done} of {total} pictures …")

            chat = session()
            number = min(max(int(pictures or 1), 1), MOST_IMAGES)
            return measure_split(
                chat.model,
                chat.processor,
                name,
                context.dataset_dir,
                limit=number,
                progress=progress,
            )

        def run():
            steps.put(_last(context, request, work, lambda sentence: UserError(sentence)))

        threading.Thread(target=run, name="layers", daemon=True).start()
        while isinstance(step := steps.get(), str):
            yield [markup.hint(step), gr.skip(), gr.skip(), gr.skip()]
        if isinstance(step, UserError):
            yield [markup.problem(str(step)), gr.skip(), gr.skip(), gr.skip()]
            return
        frame = pandas.DataFrame(step.rows())
        path = step.write_csv(_private_file(context, "layers.csv"))
        yield [summary(step), frame, frame, gr.update(value=str(path), interactive=True)]

    quiet = {"api_visibility": "private", "trigger_mode": "once"}
    show.click(on_show, [picture, truth, prompt, answer], grid, show_progress="minimal", **quiet)
    take.click(on_take, [split, index, expression], [picture, truth, prompt, answer, taken], **quiet)
    measure.click(on_measure, [whole, limit], [said, iou_plot, chance_plot, table], show_progress="hidden", **quiet)


def _upload(label: str, name: str) -> gr.Image:
    """A picture that arrives as a file; our own limits decide whether it is read."""
    component = gr.Image(
        label=label, type="filepath", sources=["upload"], height=220, buttons=[], image_mode=None, elem_id=name
    )
    component.preprocess = lambda upload: upload.path if upload else None
    return component


def _private_file(context: Context, name: str) -> Path:
    """A place for a visitor's file, in a folder whose name nobody else knows."""
    folder = context.folder / secrets.token_hex(16)
    folder.mkdir(mode=0o700)
    return folder / name


def _last(context: Context, request: gr.Request, work, problem):
    """What `work` returns, run where the model is free; a mistake as `problem(sentence)`."""
    try:
        *_, result = context.answers.run(request.session_hash, work)
        return result
    except Stopped:
        return problem("This was stopped, since something else was asked.")
    except UserError as error:
        return problem(str(error))
    except Exception:
        log.exception("layers")
        return problem(UNEXPECTED)
