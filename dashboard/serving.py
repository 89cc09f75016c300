"""From flags to a page on a running server, and its clean end.

Gradio is imported where it is first needed: it reads environment variables that `Server.start` sets.
"""

import logging
import os
import re
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashboard import TABS, markup
from dashboard.context import Context
from dashboard.examples import checkpoint_examples
from groundscore.errors import UserError
from inference.background import BackgroundModel
from inference.limits import Limits
from inference.model_flags import check_version
from inference.service.hosts import LOOPBACK, OWN_HOSTS
from inference.service.serving import (
    BESIDE,
    check_address,
    fetch_version,
    load_session,
    no_port,
    service,
    wait_for_the_end,
)

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

    from inference.service.desk import Desk
    from inference.session import ChatSession


_ORIGIN = re.compile(r"https?://(\*\.)?[\w.-]+(:\d+)?", re.ASCII)


def credentials(text: str | None) -> tuple[str, str] | None:
    """`USER:PASS` as a pair; `UserError` where a part is missing."""
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not user or not password:
        raise UserError("--auth must be USER:PASS, neither of them empty")
    return user, password


def choose_tabs(tab: str | None, version: str | None) -> list[str]:
    """Names of the tabs to show: `tab` alone, or all; without a checkpoint those that need none."""
    if tab is not None and version is None and TABS[tab].needs_model:
        raise UserError(f"--tab {tab} needs --version DIR, the checkpoint to use")
    return [tab] if tab else [name for name in TABS if version is not None or not TABS[name].needs_model]


def serve(flags: Namespace, limits: Limits) -> None:
    """Run the dashboard that the flags of `app.py` describe until it is interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    too_long = "Ask a shorter question, or uncheck follow-up to start a new conversation"
    server = Server(flags, limits, lambda tell: load_session(flags, limits, tell, too_long))
    try:
        if server.context.model is not None:
            check_version(flags.version)
            fetch_version(flags.version)
        server.start()
        server.wait()
    finally:
        server.close()


class Server:
    """A dashboard and the folder that it writes to, which is removed at the end.

    flags: those of `app.py`; load: returns the model; called in a thread with a function that reports progress.
    """

    def __init__(self, flags: Namespace, limits: Limits, load: Callable[[Callable[[str], None]], "ChatSession"]):
        self.auth = credentials(flags.auth)
        if flags.embed_in is not None and not _ORIGIN.fullmatch(flags.embed_in):
            raise UserError(f"--embed_in {flags.embed_in} should be a site such as https://huggingface.co")
        if flags.share and self.auth is None:
            raise UserError("--share opens a public address: protect it with --auth USER:PASS")
        self.names = choose_tabs(flags.tab, flags.version)
        self.flags, self.limits = flags, limits
        self.folder = Path(tempfile.mkdtemp(prefix="uground-"))
        model = None
        if any(TABS[name].needs_model for name in self.names):
            model = BackgroundModel(load, "/".join(Path(flags.version).parts[-2:]))
        places = {"dataset_dir": Path(flags.dataset_dir), "runs_dir": Path(flags.runs_dir)}
        self.context = Context(self.folder, limits, model, **places, examples=checkpoint_examples(flags.version))
        self.page: Any = None
        self.service: FastAPI | None = None
        self.desk: Desk | None = None
        if flags.api == BESIDE:
            if model is None:
                raise UserError("--api needs --version DIR, the checkpoint to use, and a tab that uses it")
            self.service, self.desk = service(flags, limits, model)
        self.url = ""

    def start(self) -> None:
        """Open the port and begin to load the model."""
        # Gradio reads these when it is imported or when a component is made.
        os.environ["GRADIO_TEMP_DIR"] = str(self.folder)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ.pop("GRADIO_SHARE", None)
        from starlette.middleware import Middleware
        from starlette.routing import Route

        from dashboard.gate import Beside, Gate

        self.page = build_page(self.context, self.names)
        self.page.queue(max_size=self.limits.waiting, default_concurrency_limit=4, api_open=False)
        check_address(self.flags.host, self.flags.port)
        own = self.flags.host in LOOPBACK and not self.flags.share and self.auth is None
        beside = (
            []
            if self.service is None
            else [Middleware(Beside, service=self.service, root_path=self.flags.root_path or "")]
        )
        gate = Middleware(Gate, hosts=OWN_HOSTS if own else None, frame=self.flags.embed_in)
        try:
            _, self.url, public = self.page.launch(
                server_name=self.flags.host,
                server_port=self.flags.port,
                root_path=self.flags.root_path,
                share=self.flags.share,
                auth=self.auth,
                theme=theme(),
                css_paths=STYLE,
                head=f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
                max_threads=40 + self.limits.waiting,  # a question that waits keeps one
                allowed_paths=sorted({str(example.image.parent) for example in self.context.examples}),
                max_file_size=self.limits.upload_mb * 2**20,
                state_session_capacity=200,
                app_kwargs={"routes": [Route("/readme", show_readme)], "middleware": [*beside, gate]},
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                show_error=False,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError:
            raise no_port(self.flags.host, self.flags.port) from None
        if self.context.model is not None:
            self.context.model.start()
        if self.desk is not None:
            self.desk.start()
        print(f"UGround runs on {self.url}  (Ctrl-C ends it)", flush=True)
        if public:
            print(f"public address: {public}", flush=True)
        if not own and self.auth is None:
            print("WARNING: everyone who can reach this address can use it; --auth USER:PASS requires a login")

    def wait(self) -> None:
        """Until Ctrl-C, or until the process is asked to end."""
        wait_for_the_end()

    def close(self) -> None:
        """Stop, and remove everything that visitors left."""
        if self.desk is not None:
            self.desk.close()
        if self.page is not None:
            self.page.close(verbose=False)
        shutil.rmtree(self.folder, ignore_errors=True)


TITLE = "UGround"
LINE = "Ask about an image in your own words: everything the answer names gets a mask."
LINKS = (("README", "readme"), ("Paper", "https://arxiv.org/abs/2510.03853"))
README = Path(__file__).parents[1] / "README.md"
STYLE = Path(__file__).with_name("style.css")
SCRIPT = Path(__file__).with_name("page.js")


def build_page(context: Context, names: Sequence[str]) -> "gr.Blocks":
    """The page with the tabs of these names; a single one stands without a bar of tabs."""
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 6 * 3600), fill_width=True) as page:
        gr.HTML(markup.header(TITLE, LINE, context.model and f"Model: {context.model.name}", LINKS))
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


def show_readme(request: "Request") -> "Response":
    """The README as a page."""
    from starlette.responses import HTMLResponse

    return HTMLResponse(markup.plain_page(f"{TITLE}: README", README.read_text(encoding="utf-8")))


def theme() -> "gr.themes.Base":
    """The theme: greys, one accent colour, system fonts; every text has a contrast of 4.5 or more."""
    import gradio as gr

    fonts = ("ui-sans-serif", "system-ui", "sans-serif")
    plain = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=fonts,
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )
    quiet, quiet_dark, strong = "*neutral_600", "*neutral_300", "*primary_600"
    return plain.set(
        body_text_color_subdued=quiet,
        body_text_color_subdued_dark=quiet_dark,
        block_info_text_color=quiet,
        block_info_text_color_dark=quiet_dark,
        input_placeholder_color=quiet,
        input_placeholder_color_dark=quiet_dark,
        color_accent=strong,
        button_primary_background_fill=strong,
        button_primary_background_fill_dark=strong,
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
    )
