"""Widgets through which a picture comes in: an upload, and the examples that the dashboard ships."""

from collections.abc import Sequence

import gradio as gr

from dashboard.examples import EXAMPLES


def picture_upload(label: str, elem_id: str, *, height: int, sources: Sequence[str] = ("upload",)) -> gr.Image:
    """A picture that arrives as the path of its file.

    Gradio would decode the upload by itself: without our limits, and with a traceback for a bad one.
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


def example_pictures(elem_id: str) -> gr.Dataset:
    """The shipped pictures side by side; `fill_from` says where a choice goes."""
    return gr.Dataset(
        label="Examples",
        components=[gr.Image(visible=False)],
        samples=[[str(path)] for path, _ in EXAMPLES],
        type="index",
        elem_id=elem_id,
    )


def fill_from(examples: gr.Dataset, picture: gr.Image, prompt: gr.Textbox) -> None:
    """Put the example that is chosen into `picture`, and its question into `prompt`."""

    def on_example(index):
        return [str(EXAMPLES[index][0]), EXAMPLES[index][1]] if 0 <= index < len(EXAMPLES) else [gr.skip()] * 2

    examples.click(on_example, examples, [picture, prompt], show_progress="hidden", api_visibility="private")
