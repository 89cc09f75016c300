"""The page: a heading, the tabs, and how it looks; nothing on it comes from another host."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from dashboard import markup
from dashboard.context import Context
from dashboard.tabs import TABS

TITLE = "UGround"
STYLE = Path(__file__).with_name("style.css")


def build_page(context: Context, names: Sequence[str]) -> gr.Blocks:
    """The page with the tabs of these names; a single one stands without a bar of tabs."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 6 * 3600), fill_width=True) as page:
        line = "Visual grounding with language"
        gr.HTML(markup.header(TITLE, f"{line} · {context.model.name}" if context.model else line))
        if len(names) == 1:
            TABS[names[0]].load()(context)
        else:
            with gr.Tabs():
                for name in names:
                    with gr.Tab(TABS[name].title, id=name):
                        TABS[name].load()(context)

        def leave(request: gr.Request) -> None:
            context.answers.forget(request.session_hash)

        page.unload(leave)  # a reload or a closed page must not keep the model busy for nobody
    return page


def theme() -> gr.themes.Base:
    """Quiet greys and one accent, in the fonts that the visitor's system has."""
    fonts = ("ui-sans-serif", "system-ui", "sans-serif")
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=fonts,
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )
