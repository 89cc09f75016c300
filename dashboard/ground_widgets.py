"""The widgets of the Ground tab, the question on the left and its answer on the right."""

from dataclasses import dataclass

import gradio as gr

from dashboard import markup
from dashboard.context import Context
from dashboard.pictures import example_pictures, fill_from, picture_upload

POLICY, ONE_LAYER, AS_STARTED = "Policy's choice", "This layer", "As started: "
NOTHING_YET = markup.hint("The answer appears here.")


@dataclass
class QuestionWidgets:
    """The widgets on the left."""

    picture: gr.Image
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
        return [self.answer, self.overlay, self.targets, *self.downloads]


def lay_out_question(context: Context) -> QuestionWidgets:
    picture = picture_upload("Picture", "ground-picture", height=320, sources=("upload", "clipboard"))
    examples = example_pictures("ground-examples")
    prompt = gr.Textbox(
        label="Instruction",
        placeholder="What is the thing you could drink from in this image? Please output segmentation mask.",
        lines=2,
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
        info="The model also sees your earlier questions about this picture.",
        elem_id="ground-follow-up",
    )

    fill_from(examples, picture, prompt)
    return QuestionWidgets(picture, prompt, follow_up, ask, stop, clear)


def lay_out_result() -> ResultWidgets:
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
        names = {"overlay": "Overlay (PNG)", "masks": "Masks (ZIP)", "record": "RLE (JSON)"}
        downloads = [
            gr.DownloadButton(label, size="sm", interactive=False, min_width=90, elem_id=f"ground-download-{name}")
            for name, label in names.items()
        ]
    with gr.Accordion("Your history", open=False, elem_id="ground-history-box"):
        gr.HTML(markup.note("Only you see this. It ends with this page."), elem_classes="bare")
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
