"""Talk with a checkpoint about an image, in a terminal.

    python chat.py --version miniature/unified                                                     # interactive
    python chat.py --version miniature/unified --image photo.jpg --prompt "Where is the kite?"     # one answer
    python chat.py --version miniature/unified --prompts questions.jsonl > answers.jsonl           # many

Every answer goes to `--vis_save_path`: an overlay, a mask per target and a JSON file; nothing is overwritten.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from groundscore.errors import UserError, run_main
from groundscore.flags import positive
from inference.model_flags import add_model_flags, check_version, load_flagged_model
from model.settings import LONGEST_ANSWER
from utils.flags import FlagParser
from utils.plugins import import_plugins


def build_parser() -> FlagParser:
    """Returns the parser of all flags."""
    parser = FlagParser(prog="chat.py", description="Chat with a checkpoint about an image.")
    add_model_flags(parser)
    group = parser.add_argument_group("chat")
    group.add_argument("--image", type=Path, metavar="FILE", help="image to ask about")
    once = group.add_mutually_exclusive_group()
    once.add_argument("--prompt", metavar="TEXT", help="ask this one question and exit (needs --image)")
    once.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE.jsonl",
        help='ask many questions and exit: a line is {"image": PATH, "prompt": TEXT, "id": TEXT}; answers go to '
        "standard output",
    )
    group.add_argument(
        "--max_new_tokens",
        type=positive,
        default=LONGEST_ANSWER,
        metavar="N",
        help="maximum length of an answer in tokens",
    )
    group.add_argument(
        "--vis_save_path",
        type=Path,
        default="./vis_output",
        metavar="DIR",
        help="directory for overlays, masks and records",
    )
    group.add_argument(
        "--export",
        default="",
        metavar="FORMS",
        help="also write the masks as other tools have them, forms joined by commas: coco_results, labelme, yolo, png, "
        "svg, geojson and the like (docs/own_data_and_other_tools.md)",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Does what the flags say; returns the exit status."""
    import_plugins(argv)
    flags = build_parser().parse(argv)
    if flags.prompt is not None and flags.image is None:
        raise UserError("--prompt needs --image: the image that the question is about")
    if flags.prompt is not None and not flags.prompt.strip():
        raise UserError("--prompt is empty")

    from groundscore.annotations.images import read_image
    from groundscore.exchange.tools import export_forms
    from groundscore.writing import make_directory
    from inference.many_questions import answer_all, read_prompts

    # Everything that can be wrong is found before the model is loaded.
    make_directory(flags.vis_save_path)
    export = export_forms(flags.export) if flags.export else ()
    lines = read_prompts(flags.prompts, flags.image) if flags.prompts else None
    image = read_image(flags.image, missing="--image names the file of an image") if flags.image else None
    check_version(flags.version)
    print(f"loading {flags.version} …", file=sys.stderr)

    from inference.session import ChatSession
    from inference.terminal import Chat

    model, processor = load_flagged_model(flags)
    talks = lines is None and flags.prompt is None
    session = ChatSession(
        model,
        processor,
        layer=flags.layer,
        max_new_tokens=flags.max_new_tokens,
        too_long="Ask more briefly, or begin a new conversation with /reset" if talks else "Ask more briefly",
    )
    if lines is not None:
        return 1 if answer_all(session, lines, flags.vis_save_path, sys.stdout, sys.stderr, export) else 0
    chat = Chat(session, flags.vis_save_path, export)
    if image is not None:
        chat.look_at(image, flags.image)
    if flags.prompt is not None:
        chat.ask(flags.prompt.strip())
    else:
        chat.run()
    return 0


if __name__ == "__main__":
    run_main(main)
