"""The dashboard and the service: ask a checkpoint about images in a browser, or over HTTP.

    python app.py --version miniature/unified                  # the page
    python app.py --version miniature/unified --api            # the service: POST /v1/ground
    python app.py --version miniature/unified --api beside     # both on one port

Every flag can also be given as a variable of the environment: UGROUND_VERSION for --version, and so on.
"""

from collections.abc import Sequence

from dashboard import TABS
from groundscore.errors import run_main
from groundscore.flags import positive
from inference.limits import Limits
from inference.model_flags import add_model_flags
from inference.service.serving import ALONE, add_service_flags
from model.settings import LONGEST_ANSWER
from utils.flags import FlagParser
from utils.plugins import import_plugins


def build_parser() -> FlagParser:
    """Returns the parser of `app.py`."""
    parser = FlagParser(
        prog="app.py", description="Ask a checkpoint about images in a browser, or over HTTP.", environment="UGROUND"
    )
    add_model_flags(parser, version_required=False)
    group = parser.add_argument_group("dashboard")
    group.add_argument("--tab", type=str.lower, choices=tuple(TABS), help="show this tab alone (default: all)")
    group.add_argument(
        "--dataset_dir", default="dataset", metavar="DIR", help="root of all data sets (tabs data and layers)"
    )
    group.add_argument("--runs_dir", default="runs", metavar="DIR", help="directory of the runs (tab runs)")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=positive, metavar="N", help="port (default: the first free one from 7860)")
    group.add_argument(
        "--root_path",
        metavar="PATH",
        help="path under which a proxy serves it, such as /uground; needs --auth (page) and keys (service)",
    )
    group.add_argument(
        "--embed_in", metavar="ORIGIN", help="site that may show the page in a frame, such as https://huggingface.co"
    )
    group.add_argument("--share", action="store_true", help="open a public tunnel; needs --auth")
    group.add_argument("--auth", metavar="USER:PASS", help="require this name and password")
    group.add_argument(
        "--max_new_tokens",
        type=positive,
        default=LONGEST_ANSWER,
        metavar="N",
        help="maximum length of an answer in tokens",
    )
    group.add_argument(
        "--max_upload_mb", type=positive, default=20, metavar="N", help="maximum size of an image file in MB"
    )
    group.add_argument(
        "--max_queue", type=positive, default=32, metavar="N", help="maximum number of waiting questions"
    )
    add_service_flags(parser)
    return parser


def main(argv: Sequence[str]) -> None:
    """Serves the dashboard or the service until it is interrupted."""
    import_plugins(argv)
    flags = build_parser().parse(argv)
    limits = Limits(
        upload_mb=flags.max_upload_mb,
        answer=flags.max_new_tokens,
        waiting=flags.max_queue,
        together=flags.max_batch,
        timeout=flags.timeout,
    )
    if flags.api == ALONE:
        from inference.service.serving import serve
    else:
        from dashboard.serving import serve
    serve(flags, limits)


if __name__ == "__main__":
    run_main(main)
