"""Talk with a checkpoint about an image, in a terminal.

    python chat.py --version runs/quickstart/merged                                             # interactive
    python chat.py --version runs/quickstart/merged --image photo.jpg --prompt "Where is the kite?"     # one answer

Every answer's pictures go to `--vis_save_path`: an overlay, a mask per target and a JSON file, never over old ones.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError, run_main
from utils.flags import FlagParser, add_model_flags, layer_choice, load_flagged_model, positive

# What could command a terminal; model text is printed without it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

HELP = """\
Ask anything about the image; each [SEG] of the answer becomes a mask.
  /image PATH               look at another image (starts a new conversation)
  /layer N|greedy|last      hidden state that prompts the masks; alone: the checkpoint's own choice
  /reset                    forget the conversation, keep the image
  /help                     this text
  /quit                     leave (or Ctrl-D); Ctrl-C interrupts an answer"""


def build_parser() -> FlagParser:
    parser = FlagParser(prog="chat.py", description="Talk with a checkpoint about an image.")
    add_model_flags(parser)
    group = parser.add_argument_group("chat")
    group.add_argument("--image", type=Path, metavar="FILE", help="picture to talk about")
    group.add_argument("--prompt", metavar="TEXT", help="ask this one question and leave (needs --image)")
    group.add_argument("--max_new_tokens", type=positive, default=512, metavar="N", help="longest answer")
    group.add_argument("--vis_save_path", type=Path, default="./vis_output", metavar="DIR", help="where pictures go")
    return parser


def main(argv: Sequence[str]) -> None:
    flags = build_parser().parse(argv)
    if flags.prompt is not None and flags.image is None:
        raise UserError("--prompt needs --image: the picture that the question is about")
    if flags.prompt is not None and not flags.prompt.strip():
        raise UserError("--prompt is empty")

    from dataloaders.images import read_image
    from utils.chat_session import ChatSession
    from utils.saving import make_directory

    make_directory(flags.vis_save_path)
    image = read_image(flags.image) if flags.image else None
    print(f"loading {flags.version} …", file=sys.stderr)
    model, processor = load_flagged_model(flags)
    session = ChatSession(model, processor, layer=flags.layer, max_new_tokens=flags.max_new_tokens)
    chat = Chat(session, flags.vis_save_path)
    if image is not None:
        chat.look_at(image, flags.image)
    if flags.prompt is not None:
        chat.ask(flags.prompt.strip())
    else:
        chat.run()


class Chat:
    """The terminal's side of a conversation: one image, its history, and where pictures are kept."""

    def __init__(self, session, save_to: Path):
        self.session, self.save_to = session, save_to
        self.image, self.path, self.history = None, None, []

    def look_at(self, image, path: Path) -> None:
        self.image, self.path, self.history = image, path, []

    def run(self) -> None:
        """Read lines until /quit or the end of input."""
        _enable_line_editing()
        print("Type /help for help." if self.path else "Type /image PATH to begin, /help for help.")
        while True:
            try:
                line = input("> ").strip()
                if line in ("/quit", "/exit"):
                    return
                self.obey(line)
            except UserError as error:
                print(error)
            except OSError as error:
                print(f"{error.filename}: {error.strerror}" if error.filename else error)
            except KeyboardInterrupt:
                print("\n(interrupted; /quit leaves)")
            except EOFError:
                print()
                return

    def obey(self, line: str) -> None:
        """One line of input: a command or a question."""
        command, _, argument = line.partition(" ")
        argument = argument.strip()
        if not line:
            return
        if not line.startswith("/"):
            self.ask(line)
        elif command == "/image":
            self._image_command(argument)
        elif command == "/layer":
            self._layer_command(argument)
        elif command == "/reset":
            self.history = []
            print("The conversation starts anew.")
        elif command == "/help":
            print(HELP)
        else:
            raise UserError(f"{command}: unknown command; /help lists them")

    def ask(self, prompt: str) -> None:
        """Stream the answer, then save and name its pictures."""
        from utils.saving import save_reply

        if self.image is None:
            raise UserError("there is no image yet: /image PATH")
        writer = AnswerWriter(sys.stdout)
        try:
            reply = self.session.ask(self.image, self.history, prompt, on_text=writer.write)
        finally:
            writer.end()
        self.history.append(reply.turn)
        if not reply.complete:
            print(f"(cut off after {reply.tokens} tokens; --max_new_tokens allows more)")
        if reply.remark:
            print(reply.remark)
        saved = save_reply(reply, self.image, self.save_to, self.path)
        print(f"saved: {saved.overlay or saved.record}")

    def _image_command(self, argument: str) -> None:
        from dataloaders.images import read_image

        if not argument:
            raise UserError("/image needs the path of a picture")
        path = Path(argument.strip("'\"")).expanduser()
        self.look_at(read_image(path), path)
        height, width = self.image.shape[:2]
        print(f"{path}: {width} × {height}")

    def _layer_command(self, argument: str) -> None:
        if not argument:
            self.session.layer = None
            print("layer: the checkpoint's own choice")
            return
        try:
            layer = layer_choice(argument)
        except Exception as error:
            raise UserError(str(error)) from None
        self.session.model.layer_rule(layer)
        self.session.layer = layer
        print(f"layer: {layer}")


class AnswerWriter:
    """Prints an answer as it arrives, each `[SEG]` with its number and, on a terminal, in its mask's colour."""

    def __init__(self, stream):
        self.stream, self.targets, self.open = stream, 0, False
        self.coloured = stream.isatty()

    def write(self, text: str) -> None:
        from utils.drawing import ansi, colour_of, split_targets

        self.open = True
        for piece, number in split_targets(_CONTROL.sub("", text)):
            if number is not None:
                piece = f"[SEG {self.targets + 1}]"
                piece = ansi(piece, colour_of(self.targets)) if self.coloured else piece
                self.targets += 1
            self.stream.write(piece)
        self.stream.flush()

    def end(self) -> None:
        if self.open:
            self.stream.write("\n")
            self.open = False


def _enable_line_editing() -> None:
    """Arrow keys and history in `input`, where the platform has them."""
    try:
        import readline  # noqa: F401  (importing it is what enables it)
    except ImportError:
        pass


if __name__ == "__main__":
    run_main(main)
