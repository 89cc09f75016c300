"""Text <-> token ids of the backbones whose tokenizer is a `tokenizer.json` (byte-pair encoding, as Qwen's).

The file is read by the `tokenizers` library and gives the ids that transformers' `AutoTokenizer` gives. Tokens of
grounding are added to it. One swallows the white space before it, so that `is [SEG]` is two tokens and several tokens
of a target follow one another. What is saved is again a directory that `AutoTokenizer` reads with equal ids.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from dataloaders.batching.conversation import target_tokens
from dataloaders.batching.tokenization import CONFIG_FILE, JSON_FILE, GroundingTokenizer
from groundscore.errors import UserError, shown
from groundscore.reading import read_bytes, read_json
from groundscore.targets import REJ, SEG

_MAX_MEGABYTES = 64  # Qwen's has 11


class BpeTokenizer(GroundingTokenizer):
    """Text to ids and back.

    model: the text of a `tokenizer.json`, in UTF-8. settings: what `tokenizer_config.json` says.
    tokens_per_target: how many tokens stand for one target; None reads it off the added tokens.

    There is no token at the beginning of a text. Padding is what the settings name, else the end of an answer.
    """

    def __init__(self, model: bytes, settings: dict[str, Any] | None = None, tokens_per_target: int | None = None):
        self.model = model
        self.settings = dict(settings or {})
        self._load()
        self.tokens_per_target = tokens_per_target or self._count_target_tokens()

    def _load(self) -> None:
        self._tokenizer = Tokenizer.from_str(self.model.decode("utf-8"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.bos_token_id = None
        self.eos_token_id = self._named("eos_token")
        self.pad_token_id = self._named("pad_token", self.eos_token_id)
        self._take_added_tokens()

    def _named(self, key: str, default: int | None = None) -> int:
        """The id of a token that the settings name."""
        token = self.settings.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        index = self._tokenizer.token_to_id(token) if isinstance(token, str) else default
        if index is None:
            raise ValueError(f"{CONFIG_FILE} names {shown(token)} as {key}, which {JSON_FILE} does not have")
        return index

    def _take_added_tokens(self) -> None:
        added = self._tokenizer.get_added_tokens_decoder()
        self.added_tokens = {token.content: index for index, token in added.items()}
        self._length = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def __getstate__(self) -> dict:
        state = {name: self.__dict__[name] for name in ("settings", "tokens_per_target")}
        return state | {"model": self._tokenizer.to_str().encode("utf-8")}

    @classmethod
    def from_directory(cls, directory: str | Path) -> "BpeTokenizer":
        """Read a directory that holds `tokenizer.json` and `tokenizer_config.json`, ours or one of transformers."""
        path, settings_path = Path(directory) / JSON_FILE, Path(directory) / CONFIG_FILE
        if not path.is_file():
            raise UserError(
                f"{directory} has no {JSON_FILE}; load it with transformers' AutoTokenizer and save_pretrained, which "
                "writes one, or copy it from the base model there"
            )
        settings = read_json(settings_path, missing="it belongs to a tokenizer")
        if not isinstance(settings, dict):
            raise UserError(f"{settings_path} must contain a JSON object, but contains a {type(settings).__name__}")
        if settings.get("auto_map"):
            raise UserError(
                f"{settings_path}: auto_map names code of its own, and nothing of a checkpoint is run; remove the key"
            )
        count = settings.get("tokens_per_target")
        if count is not None and (type(count) is not int or not 1 <= count <= 4096):
            raise UserError(f"{settings_path}: tokens_per_target should be from 1 to 4096, it is {shown(count)}")
        model = read_bytes(path, missing="it belongs to a tokenizer", megabytes=_MAX_MEGABYTES)
        try:
            return cls(model, settings, count)
        except Exception as error:  # the library raises nothing more special
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is not a tokenizer of this kind ({reason}); copy it again") from error

    def save(self, directory: str | Path) -> None:
        """Write a directory that `from_directory` and transformers' `AutoTokenizer` read with equal ids."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / JSON_FILE).write_text(self._tokenizer.to_str(), encoding="utf-8")
        settings = {**self.settings, "tokens_per_target": self.tokens_per_target}
        if "added_tokens_decoder" in settings:  # of transformers 4, which has the tokens of the other file again
            settings["added_tokens_decoder"] = {
                str(index): _fields(token)
                for index, token in sorted(self._tokenizer.get_added_tokens_decoder().items())
            }
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (directory / CONFIG_FILE).write_text(text, encoding="utf-8")

    # Tokens of grounding

    def add_grounding_tokens(self, tokens_per_target: int = 1) -> list[str]:
        """Add the tokens of `[SEG]` and `[REJ]` that are missing, and return those that were new."""
        if tokens_per_target < 1:
            raise ValueError(f"tokens_per_target is at least 1, not {tokens_per_target}")
        wanted = [token for target in (SEG, REJ) for token in target_tokens(target, tokens_per_target)]
        new = [token for token in wanted if token not in self.added_tokens]
        self._tokenizer.add_tokens([AddedToken(token, lstrip=True, normalized=False) for token in new])
        self._take_added_tokens()
        self.tokens_per_target = tokens_per_target
        self.check_single_tokens(wanted)
        return new

    def __len__(self) -> int:
        """One more than the largest id."""
        return self._length

    # Text and ids

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of `text`, which holds no image; nothing is put before them."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_turn(self, asked: str, answered: str) -> tuple[list[int], int]:
        """Ids of a question and its answer, and how many of them are the question's.

        Each is encoded by itself, as in generation, where the question stands alone.
        """
        question = self.encode(asked)
        return question + self.encode(answered), len(question)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens and image tokens.

        A space stands before a token of grounding: encoding loses it.
        """
        targets = {
            self.added_tokens[token]: token
            for target in (SEG, REJ)
            for token in target_tokens(target, self.tokens_per_target)
            if token in self.added_tokens
        }
        text, run = "", []
        for index in [*map(int, ids), None]:
            if index is not None and index not in targets:
                run += [index] if 0 <= index < len(self) else []
                continue
            text += self._tokenizer.decode(run, skip_special_tokens=True) if run else ""
            run = []
            if index is not None:
                text += " " * (text != "" and not text[-1].isspace()) + targets[index]
        return text


def _fields(token: AddedToken) -> dict[str, Any]:
    """An added token as `added_tokens_decoder` holds it."""
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}
