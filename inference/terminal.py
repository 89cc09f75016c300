"""A conversation in a terminal: commands, streaming, colours; the answers come from a `ChatSession`."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from dataloaders.sample import Turn
from groundscore.annotations.images import read_image
from groundscore.colours import Colour
from groundscore.drawing import ansi, split_targets
from groundscore.errors import UserError, describe, printable
from groundscore.names import did_you_mean
from groundscore.reading import user_path
from groundscore.scoring import percent
from groundscore.terminal import terminal_width, two_columns, wrapped
from inference.model_flags import layer_choice
from inference.reply import Reply, save_conversation, save_reply
from inference.session import ChatSession
from model.systems.base import LAYER_RULES

_HISTORY_LINES = 1000

COMMANDS = {
    "/image PATH": "look at another image (starts a new conversation)",
    "/layer LAYER": f"hidden state that prompts the masks ({', '.join(LAYER_RULES)} or an index); alone: the "
    "checkpoint's own choice",
    "/save [FILE]": "keep the conversation so far as JSON",
    "/reset": "forget the conversation, keep the image",
    "/help": "this text",
    "/quit": "exit (or Ctrl-D); Ctrl-C interrupts an answer",
}
NAMES = [usage.partition(" ")[0] for usage in COMMANDS]
# What else people type for a command; a word alone is hardly a question about an image.
MEANS = {"help": "/help", "?": "/help", "/?": "/help", "exit": "/quit", "quit": "/quit", "/exit": "/quit"}


def help_text(width: int | None = None) -> str:
    """What can be typed, for a terminal of so many characters."""
    about = "Ask anything about the image; each [SEG] of the answer becomes a mask, saved with an overlay and a record."
    return f"{wrapped(about, width)}\n{two_columns(list(COMMANDS.items()), width)}"


class Chat:
    """One image, the turns about it, and where answers are kept.

    save_to: the directory for masks, overlays and records. export: see `save_reply`.
    """

    def __init__(self, session: ChatSession, save_to: Path, export: Sequence[str] = ()):
        self.session, self.save_to, self.export = session, save_to, export
        self.image: np.ndarray | None = None
        self.path: Path | None = None
        self.history: list[Turn] = []
        self.records: list[Path | None] = []  # of each turn; None where it could not be saved

    def look_at(self, image: np.ndarray, path: Path) -> None:
        """Begins a conversation about `image` (uint8 RGB [H, W, 3])."""
        self.image, self.path = image, path
        self.forget()

    def forget(self) -> None:
        """Forgets the conversation, but not the image."""
        self.history, self.records = [], []

    def run(self) -> None:
        """Reads lines until /quit or the end of input."""
        print("help lists the commands." if self.path else "/image PATH begins; help lists all.")
        with line_editing():
            while True:
                try:
                    if not self.obey(_clean(input("> ")).strip()):
                        return
                except UserError as error:
                    print(printable(str(error)))
                except OSError as error:
                    print(printable(describe(error)))
                except UnicodeDecodeError:
                    print("That line is not UTF-8 text.")
                except KeyboardInterrupt:
                    print("\n(interrupted; /quit exits)")
                except EOFError:
                    print()
                    return

    def obey(self, line: str) -> bool:
        """Executes one line of input, a command in any case or a question; returns whether the chat goes on."""
        command, _, argument = line.partition(" ")
        command = MEANS.get(line.lower(), command.lower())
        if command == "/quit":
            return False
        if not command.startswith("/"):
            if line:
                self.ask(line)
        elif command == "/image":
            self._image_command(argument.strip())
        elif command == "/layer":
            self._layer_command(argument.strip())
        elif command == "/save":
            self._save_command(argument.strip())
        elif command == "/reset":
            self.forget()
            print("New conversation.")
        elif command == "/help":
            print(help_text(terminal_width()))
        else:
            raise UserError(f"{command}: unknown command; /help lists them{did_you_mean(command, NAMES)}")
        return True

    def ask(self, prompt: str) -> None:
        """Streams the answer, then saves its masks and says where."""
        if self.image is None:
            raise UserError("there is no image yet: /image PATH")
        writer = AnswerWriter(sys.stdout)
        try:
            reply = self.session.ask(self.image, self.history, prompt, on_text=writer.write)
        finally:
            writer.end()
        self.history.append(reply.turn)
        self.records.append(None)
        if not reply.complete:
            print(f"(cut off after {reply.tokens} tokens; --max_new_tokens allows more)")
        if reply.remark:
            print(reply.remark)
        saved = save_reply(reply, self.image, self.save_to, self.path, self.export)
        self.records[-1] = saved.record
        for line in legend(reply, saved.colours if writer.coloured else None):
            print(line)
        print(f"saved: {saved.overlay or saved.record}")

    def _image_command(self, argument: str) -> None:
        if not argument:
            raise UserError("/image needs the path of an image")
        path = user_path(argument.strip("'\""))
        self.look_at(read_image(path, missing="/image PATH names the file of an image"), path)
        height, width = self.image.shape[:2]
        print(f"{printable(str(path))}: {width} × {height}")

    def _layer_command(self, argument: str) -> None:
        if not argument:
            self.session.layer = None
            print("layer: the checkpoint's own choice")
            return
        try:
            layer = layer_choice(argument)
        except argparse.ArgumentTypeError as error:
            raise UserError(str(error)) from None
        self.session.model.system.layer_rule(layer)
        self.session.layer = layer
        print(f"layer: {layer}")

    def _save_command(self, argument: str) -> None:
        if not self.history:
            raise UserError("there is nothing to save yet: ask something first")
        target = user_path(argument.strip("'\"")) if argument else None
        path = save_conversation(self.history, self.records, self.path, self.save_to, target)
        print(f"saved: {printable(str(path))}")


class AnswerWriter:
    """Prints an answer as it arrives, each `[SEG]` with its number and, on a terminal, in bold."""

    def __init__(self, stream: TextIO):
        self.stream, self.targets, self.open = stream, 0, False
        self.coloured = stream.isatty() and not os.environ.get("NO_COLOR")

    def write(self, text: str) -> None:
        """Prints the next piece of the answer."""
        self.open = True
        for piece, number in split_targets(printable(text)):
            if number is not None:
                piece = f"[SEG {self.targets + 1}]"
                piece = f"\x1b[1m{piece}\x1b[0m" if self.coloured else piece
                self.targets += 1
            self.stream.write(piece)
        self.stream.flush()

    def end(self) -> None:
        """Ends the line, if anything was written."""
        if self.open:
            self.stream.write("\n")
            self.open = False


def legend(reply: Reply, colours: Sequence[Colour] | None) -> list[str]:
    """Returns a line about each mask: its number, in its colour where there are `colours`, area, score and layer."""
    lines = []
    for index, (area, share) in enumerate(zip(reply.areas, reply.shares, strict=True)):
        name = f"[SEG {index + 1}]"
        found = f"{percent(share)} % of the image, score {percent(reply.scores[index])}" if area else "nothing found"
        layer = reply.layers[index]
        at_layer = "" if layer is None else f", layer {layer}"
        lines.append(f"{ansi(name, colours[index]) if colours else name} {found}{at_layer}")
    return lines


@contextmanager
def line_editing() -> Iterator[None]:
    """Arrow keys in `input`, and the lines of earlier chats, where the platform has readline.

    The lines are kept below $XDG_STATE_HOME (by default ~/.local/state), readable by their owner only.
    """
    try:
        import readline
    except ImportError:
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "uground"
    lines = state / "chat_history"
    readline.set_history_length(_HISTORY_LINES)
    try:
        readline.read_history_file(lines)
    except OSError:
        readline.clear_history()  # none yet, or not ours to read: the chat works without
    try:
        yield
    finally:
        if sys.stdin.isatty():
            try:
                state.mkdir(parents=True, exist_ok=True, mode=0o700)
                lines.touch(mode=0o600)
                readline.write_history_file(lines)
            except OSError as error:
                print(f"the input history could not be saved: {error}", file=sys.stderr)


def _clean(line: str) -> str:
    """Returns text that can be encoded again; a terminal that is not UTF-8 may deliver halves of characters."""
    return line.encode("utf-8", "replace").decode("utf-8")
