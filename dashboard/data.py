"""The Data tab: what is in the data folder, and samples as training draws them."""

import random

import gradio as gr

from dashboard import markup
from dashboard.context import Context
from dashboard.inspection import Inspection
from dashboard.samples import Draw, SampleBrowser, parse_rates, view
from utils.errors import UserError

SECONDS = 0.7
MOST_SAMPLES = 100_000


def data_tab(context: Context) -> None:
    """Lay out the tab inside the current `gr.Blocks` and bind its events."""
    inspection = Inspection(context.dataset_dir)
    browser = SampleBrowser(context.dataset_dir)
    opened = gr.State(None)  # the Draw that is looked at
    position = gr.State(0)

    with gr.Row(equal_height=False, elem_classes="columns"):
        with gr.Column(scale=4, min_width=300):
            sets = gr.Dropdown([], label="Data sets", multiselect=True, elem_id="data-sets")
            rates = gr.Textbox(label="Rates of families", placeholder="1 each, or: refer_seg 3, vqa 1", max_length=300)
            with gr.Row():
                count = gr.Number(1000, label="Samples", precision=0, minimum=1, maximum=MOST_SAMPLES, min_width=90)
                per_sample = gr.Number(3, label="Targets each", precision=0, minimum=1, maximum=20, min_width=90)
                seed = gr.Number(42, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, min_width=90)
            draw_button = gr.Button("Draw", variant="primary", interactive=False, elem_id="data-draw")
            with gr.Row(elem_classes="actions"):
                previous = gr.Button("Previous", elem_id="data-previous", min_width=80)
                another = gr.Button("Random", elem_id="data-random", min_width=80)
                following = gr.Button("Next", elem_id="data-next", min_width=80)
            search = gr.Textbox(
                label="Find by file name", placeholder="part of a path", max_length=200, elem_id="data-find"
            )
            where = gr.HTML(markup.hint("Choose data sets and draw."), elem_id="data-where")
            fields = gr.HTML(elem_id="data-fields")
        with gr.Column(scale=7, min_width=320):
            with gr.Row():
                overlay = gr.Image(
                    label="Masks",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    height=360,
                    elem_id="data-overlay",
                )
                image = gr.Image(label="Picture", interactive=False, buttons=["download", "fullscreen"], height=360)
            opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Mask opacity")
            conversations = gr.HTML(elem_id="data-conversations")
            targets = gr.Gallery(
                label="Targets",
                columns=4,
                height="auto",
                object_fit="contain",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="data-targets",
            )
    with gr.Accordion("What is in the data folder", open=True):
        found = gr.HTML(markup.hint("Checking the data folder."), elem_id="data-found")
        timer = gr.Timer(SECONDS)

    shown = [where, fields, image, overlay, conversations, targets]

    def tick():
        inspection.start()
        choices = inspection.trainable_sets()
        finished = inspection.finished
        ready = gr.update(interactive=bool(choices))
        return [
            _found(inspection),
            gr.update(choices=choices),
            ready,
            gr.Timer(active=False) if finished else gr.skip(),
        ]

    def look(draw, index, alpha):
        """Everything that shows a sample; a problem is a sentence in its place."""
        try:
            sample = browser.sample(draw, index)
        except UserError as error:
            return [markup.problem(str(error)), "", None, None, "", []]
        drawn = view(sample, context.dataset_dir, alpha)
        place = markup.hint(f"Sample {index + 1} of {draw.count}")
        return [place, drawn.fields, drawn.image, drawn.overlay, drawn.conversations, drawn.targets]

    def on_draw(chosen, families, number, each, start, alpha):
        try:
            draw = Draw(
                tuple(chosen),
                parse_rates(families),
                _whole(number, "Samples", MOST_SAMPLES),
                _whole(each, "Targets each", 20),
                _whole(start, "Seed", 2**31 - 1, least=0),
            )
        except UserError as error:
            return [None, 0, markup.problem(str(error)), *[gr.skip()] * 5]
        return [draw, 0, *look(draw, 0, alpha)]

    def move(step):
        def on_move(draw, index, alpha):
            if draw is None:
                return [0, markup.problem("Please draw first."), *[gr.skip()] * 5]
            index = random.randrange(draw.count) if step is None else (index + step) % draw.count
            return [index, *look(draw, index, alpha)]

        return on_move

    def on_find(draw, index, text, alpha):
        if draw is None:
            yield [index, markup.problem("Please draw first."), *[gr.skip()] * 5]
            return
        try:
            for at, done in browser.find(draw, text, index + 1):
                if done:
                    yield [at, *look(draw, at, alpha)]
                else:
                    yield [gr.skip(), markup.hint(f"Looking at sample {at + 1} of {draw.count} …"), *[gr.skip()] * 5]
        except UserError as error:
            yield [gr.skip(), markup.problem(str(error)), *[gr.skip()] * 5]

    def on_opacity(draw, index, alpha):
        return gr.skip() if draw is None else look(draw, index, alpha)[3]

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    timer.tick(tick, None, [found, sets, draw_button, timer], queue=False, **quiet)
    draw_button.click(
        on_draw,
        [sets, rates, count, per_sample, seed, opacity],
        [opened, position, *shown],
        show_progress="minimal",
        api_visibility="private",
    )
    for button, step in ((previous, -1), (following, 1), (another, None)):
        button.click(move(step), [opened, position, opacity], [position, *shown], trigger_mode="once", **quiet)
    search.submit(on_find, [opened, position, search, opacity], [position, *shown], trigger_mode="once", **quiet)
    opacity.input(on_opacity, [opened, position, opacity], overlay, trigger_mode="always_last", **quiet)


def _whole(value: float | None, name: str, most: int, least: int = 1) -> int:
    if value is None or not least <= value <= most:
        raise UserError(f"{name} is a whole number from {least} to {most}.")
    return int(value)


def _found(inspection: Inspection) -> str:
    if inspection.problem:
        return markup.problem(inspection.problem)
    if not inspection.reports:
        return markup.hint("Checking the data folder …")
    rows = []
    for report in inspection.reports:
        counts = ", ".join(f"{split} {count}" for split, count in report.counts.items())
        problems = " ".join(f"{problem} ({remedy})." for problem, remedy in report.problems[:3])
        note = f"get it from: {report.origin}" if report.state == "missing" else problems
        rows.append([report.family, report.name, report.state, counts, note])
    foot = "" if inspection.finished else markup.hint("More is being checked …")
    return markup.table(rows, ["family", "data set", "state", "samples", "warnings"]) + foot
