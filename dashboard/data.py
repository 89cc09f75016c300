"""The Data tab: what is in the data folder, and samples as training draws them."""

import random

import gradio as gr

from dashboard import markup
from dashboard.context import Context
from dashboard.samples import Draw, Inspection, SampleBrowser, parse_rates, view
from dashboard.widgets import number
from groundscore.errors import UserError

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
            rates = gr.Textbox(
                label="Sampling rates of families",
                placeholder="1 each, or: refer_seg 3, vqa 1",
                max_length=300,
                elem_id="data-rates",
            )
            with gr.Row():
                count = number("Samples", 1000, "data-count", minimum=1, maximum=MOST_SAMPLES)
                per_sample = number("Targets", 3, "data-per-sample", minimum=1, maximum=20)
                seed = number("Seed", 42, "data-seed", minimum=0, maximum=2**31 - 1)
            draw_button = gr.Button("Draw", variant="primary", interactive=False, elem_id="data-draw")
            with gr.Row(elem_classes="actions"):
                previous = gr.Button("Previous", elem_id="data-previous", min_width=80)
                another = gr.Button("Random", elem_id="data-random", min_width=80)
                following = gr.Button("Next", elem_id="data-next", min_width=80)
            search = gr.Textbox(
                label="Find by file name", placeholder="part of a path", max_length=200, elem_id="data-find"
            )
            where = gr.HTML(markup.hint("Choose data sets and press Draw."), elem_id="data-where")
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
                image = gr.Image(
                    label="Image",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    height=360,
                    elem_id="data-picture",
                )
            opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Mask opacity", elem_id="data-opacity")
            conversations = gr.HTML(elem_id="data-conversations")
            targets = gr.Gallery(
                label="Targets",
                columns=4,
                fit_columns=False,
                height="auto",
                object_fit="contain",
                interactive=False,
                visible=False,
                buttons=["fullscreen"],
                elem_id="data-targets",
                elem_classes="tiles",
            )
    with gr.Accordion("What is in the data folder", open=True):
        found = gr.HTML(markup.hint("Checking the data folder."), elem_id="data-found")
        timer = gr.Timer(SECONDS)

    shown = [where, fields, image, overlay, conversations, targets]

    def tick(chosen):
        inspection.start()
        choices = inspection.trainable_sets()
        value = chosen or (choices[:1] if inspection.finished else [])
        return [
            _found(inspection),
            gr.update(choices=choices, value=value),
            gr.update(interactive=bool(choices)),
            gr.Timer(active=not inspection.finished),
        ]

    def look(draw, index, alpha):
        """Everything that shows a sample; a problem is a sentence in its place."""
        try:
            sample = browser.sample(draw, index)
        except UserError as error:
            return [markup.problem(str(error)), "", None, None, "", gr.update(value=[], visible=False)]
        drawn = view(sample, context.dataset_dir, alpha)
        place = markup.hint(f"Sample {index + 1} of {draw.count}")
        tiles = gr.update(value=drawn.targets, visible=bool(drawn.targets))
        return [place, drawn.fields, drawn.image, drawn.overlay, drawn.conversations, tiles]

    def on_draw(chosen, families, samples, each, start, alpha):
        try:
            draw = Draw(
                tuple(chosen),
                parse_rates(families),
                _whole(samples, "Samples", MOST_SAMPLES),
                _whole(each, "Targets", 20),
                _whole(start, "Seed", 2**31 - 1, least=0),
            )
        except UserError as error:
            return [None, 0, markup.problem(str(error)), *[gr.skip()] * 5]
        return [draw, 0, *look(draw, 0, alpha)]

    def on_first_choice(draw, chosen, *settings):
        """The first sets are drawn unasked, so that there is something to look at."""
        return on_draw(chosen, *settings) if chosen and draw is None else [gr.skip()] * (2 + len(shown))

    def move(step):
        def on_move(draw, index, alpha):
            if draw is None:
                return [0, markup.problem("Please press Draw first."), *[gr.skip()] * 5]
            index = random.randrange(draw.count) if step is None else (index + step) % draw.count
            return [index, *look(draw, index, alpha)]

        return on_move

    def on_find(draw, index, text, alpha):
        if draw is None:
            yield [index, markup.problem("Please press Draw first."), *[gr.skip()] * 5]
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
    timer.tick(tick, sets, [found, sets, draw_button, timer], queue=False, **quiet)
    settings = [sets, rates, count, per_sample, seed, opacity]
    sets.change(on_first_choice, [opened, *settings], [opened, position, *shown], **quiet)
    finding = search.submit(
        on_find, [opened, position, search, opacity], [position, *shown], trigger_mode="always_last", **quiet
    )
    # A running search is cancelled first; otherwise the page would drop the updates of the next event.
    draw_button.click(None, cancels=[finding]).then(
        on_draw, settings, [opened, position, *shown], show_progress="minimal", api_visibility="private"
    )
    for button, step in ((previous, -1), (following, 1), (another, None)):
        button.click(None, cancels=[finding]).then(
            move(step), [opened, position, opacity], [position, *shown], trigger_mode="once", **quiet
        )
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
    there, missing = [], []
    for report in inspection.reports:
        counts = ", ".join(f"{split} {count}" for split, count in report.counts.items())
        problems = " ".join(f"{one.text} ({one.remedy})." for one in report.problems[:3])
        if report.state == "missing":
            missing.append([report.family, report.name, report.origin])
        else:
            there.append([report.family, report.name, report.state, counts, problems or "none"])
    shown = markup.table(there, ["family", "data set", "state", "samples", "warnings"]) if there else ""
    if missing:
        rest = markup.table(missing, ["family", "data set", "where to get it"])
        shown += markup.folded(f"{len(missing)} more sets are not in this folder", rest)
    return shown + ("" if inspection.finished else markup.hint("Still checking …"))
