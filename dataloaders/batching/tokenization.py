"""The tokenizer: a LLaMA SentencePiece model and the tokens of grounding, with the ids published checkpoints expect.

Those checkpoints were trained with the slow, "legacy" LLaMA tokenizer, whose habits decide the ids:
text is cut at the added tokens; white space beside an added token is lost on both sides, but kept beside `<s>`, `</s>`
and `<unk>`; every piece of text is encoded on its own, so it begins with a word-start mark. `"[SEG]."` thus becomes
`[SEG]`, `▁.`. Later tokenizers do otherwise, so the pieces are given to SentencePiece directly.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import sentencepiece

from dataloaders.batching.conversation import IM_END, IM_START, target_tokens
from groundscore.errors import UserError, shown
from groundscore.reading import read_bytes, read_json
from groundscore.targets import REJ, SEG

IMAGE_TOKEN_INDEX = -200

MODEL_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
SPECIAL_FILE = "special_tokens_map.json"
JSON_FILE = "tokenizer.json"
TOKENIZER_FILES = (MODEL_FILE, JSON_FILE, CONFIG_FILE, ADDED_FILE, SPECIAL_FILE)
LARGEST_ID = 10**7
_MAX_MEGABYTES = 64  # of a SentencePiece model; LLaMA's has half a megabyte
# Names of the LLaMA tokenizer in transformers 4 and 5.
_CLASSES = (
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
    "GroundingTokenizer",
)
_MOST_TOKENS = 10**4  # that are added to a SentencePiece model
_SURROGATES = re.compile("[\ud800-\udfff]")  # which SentencePiece takes for no text
_CLOSING_MARKS = ".,;:!?)]}%'’”"


class GroundingTokenizer:
    """Text to ids and back.

    model: the bytes of a SentencePiece model.
    added_tokens: tokens beyond the model's pieces and their ids.
    tokens_per_target: how many tokens stand for one target; None reads it off the added tokens.

    Ids: bos, eos and unk are the model's; padding is unk, as in training the published checkpoints.
    """

    def __init__(
        self, model: bytes, added_tokens: Mapping[str, int] | None = None, tokens_per_target: int | None = None
    ):
        self.model = model
        self.added_tokens = dict(added_tokens or {})
        self._load()
        self.tokens_per_target = tokens_per_target or self._count_target_tokens()

    def _load(self) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        self.bos_token_id: int = self._pieces.bos_id()
        self.eos_token_id: int = self._pieces.eos_id()
        self.pad_token_id: int = self._pieces.unk_id()
        if min(self.bos_token_id, self.eos_token_id, self.pad_token_id) < 0:
            raise ValueError("it has no <s>, </s> or <unk>")
        self._reserved = {
            self._pieces.id_to_piece(index): index
            for index in (self.bos_token_id, self.eos_token_id, self.pad_token_id)
        }
        self._prepare_splitting()

    def _prepare_splitting(self) -> None:
        self._ids_of_tokens = {**self.added_tokens, **self._reserved}
        self._tokens_of_ids = {index: token for token, index in self._ids_of_tokens.items()}
        longest_first = sorted(self._ids_of_tokens, key=len, reverse=True)
        self._cuts = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def __getstate__(self) -> dict:
        return {name: self.__dict__[name] for name in ("model", "added_tokens", "tokens_per_target")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._load()

    # Reading and writing

    @classmethod
    def from_directory(cls, directory: str | Path) -> "GroundingTokenizer":
        """Read a directory that holds `tokenizer.model`, ours or one written for transformers' LLaMA tokenizer.

        Added tokens come from `added_tokens.json` and the `added_tokens_decoder` of `tokenizer_config.json`.
        """
        directory = Path(directory)
        model_path = directory / MODEL_FILE
        if not model_path.is_file():
            raise UserError(
                f"{directory} has no {MODEL_FILE}. A tokenizer is read from the SentencePiece model of the LLaMA; "
                f"copy {MODEL_FILE} from the base model there (a tokenizer.json alone cannot replace it)."
            )
        config = _read_object(directory / CONFIG_FILE)
        _check_config(config, directory / CONFIG_FILE)
        added = {}
        for index, token in (config.get("added_tokens_decoder") or {}).items():
            content = token.get("content") if isinstance(token, dict) else token
            _add_token(added, content, index, directory / CONFIG_FILE)
        for token, index in _read_object(directory / ADDED_FILE).items():
            if added.get(token, index) != index:
                raise UserError(
                    f"{directory}: token {shown(token)} has id {added[token]} in {CONFIG_FILE} but {shown(index)} in "
                    f"{ADDED_FILE}; delete the file that is out of date."
                )
            _add_token(added, token, index, directory / ADDED_FILE)
        try:
            tokenizer = cls(read_bytes(model_path, missing="it belongs to a tokenizer", megabytes=_MAX_MEGABYTES))
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{model_path} is not a SentencePiece model of LLaMA ({error}); copy it again.") from error
        tokenizer._take_added(added, directory)
        tokenizer.tokens_per_target = config.get("tokens_per_target") or tokenizer._count_target_tokens()
        return tokenizer

    def _take_added(self, added: Mapping[str, int], source: Path) -> None:
        """Accept tokens of a directory; those that name a piece of the model must have its id."""
        if len(added) > _MOST_TOKENS:
            raise UserError(f"{source}: the tokenizer has {len(added)} added tokens; LLaMA's have a few")
        owners: dict[int, str] = {}
        for token, index in added.items():
            if index in owners:
                raise UserError(f"{source}: tokens {owners[index]} and {token} share id {index}")
            owners[index] = token
            if index < self._pieces.get_piece_size() and self._pieces.piece_to_id(token) != index:
                raise UserError(
                    f"{source}: added token {token} has id {index}, which {MODEL_FILE} uses for another piece"
                )
            if token not in self._reserved:
                self.added_tokens[token] = index
        self._prepare_splitting()

    def save(self, directory: str | Path) -> None:
        """Write a directory that `from_directory` and transformers' `AutoTokenizer` read with equal ids."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        bos, eos, unk = (self._tokens_of_ids[i] for i in (self.bos_token_id, self.eos_token_id, self.pad_token_id))
        special = {bos, eos, unk, IM_START, IM_END}
        decoder = {
            str(index): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token in special,
            }
            for index, token in sorted(self._tokens_of_ids.items())
        }
        names = {"bos_token": bos, "eos_token": eos, "unk_token": unk, "pad_token": unk}
        config = {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": True,
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "padding_side": "right",
            "added_tokens_decoder": decoder,
            "tokens_per_target": self.tokens_per_target,
            **names,
        }
        (directory / MODEL_FILE).write_bytes(self.model)
        _write_object(directory / ADDED_FILE, self.added_tokens)
        _write_object(directory / SPECIAL_FILE, names)
        _write_object(directory / CONFIG_FILE, config)

    # Tokens of grounding

    def add_grounding_tokens(self, tokens_per_target: int = 1) -> list[str]:
        """Add what is missing, in the order of the reference, and return the tokens that were new.

        Targets first (`[SEG]`, `[REJ]` or the numbered ones), then `<im_start>` and `<im_end>`.
        """
        if tokens_per_target < 1:
            raise ValueError(f"tokens_per_target is at least 1, not {tokens_per_target}")
        wanted = [token for target in (SEG, REJ) for token in target_tokens(target, tokens_per_target)]
        wanted += [IM_START, IM_END]
        new = []
        for token in wanted:
            if token in self.added_tokens:
                continue
            piece = self._pieces.piece_to_id(token)
            if piece == self._pieces.unk_id():
                piece = len(self)
                new.append(token)
            self.added_tokens[token] = piece
        self._prepare_splitting()
        self.tokens_per_target = tokens_per_target
        self.check_single_tokens(wanted)
        return new

    def check_single_tokens(self, tokens: Iterable[str]) -> None:
        """Complain about a token that does not have an id of its own."""
        for token in tokens:
            ids = self.encode(token, bos=False)
            if len(ids) != 1 or ids[0] == self.pad_token_id:
                raise UserError(
                    f"{token} is {len(ids)} ids in this tokenizer ({ids}), it must be one. The directory lacks "
                    "added_tokens.json, or the checkpoint was not trained for grounding."
                )

    def _count_target_tokens(self) -> int:
        count = 0
        while f"{SEG[:-1]}{count}]" in self.added_tokens:
            count += 1
        return max(count, 1)

    def _ids_of_target(self, target: str) -> tuple[int, ...]:
        tokens = target_tokens(target, self.tokens_per_target)
        missing = [token for token in tokens if token not in self.added_tokens]
        if missing:
            raise UserError(
                f"{missing[0]} is not one id of this tokenizer. Its directory lacks added_tokens.json, or the tokens "
                "of grounding were not added yet."
            )
        return tuple(self.added_tokens[token] for token in tokens)

    @property
    def seg_token_ids(self) -> tuple[int, ...]:
        """Ids of the tokens of one `[SEG]`, in order."""
        return self._ids_of_target(SEG)

    @property
    def rej_token_ids(self) -> tuple[int, ...]:
        """Ids of the tokens of one `[REJ]`, in order."""
        return self._ids_of_target(REJ)

    @property
    def im_start_id(self) -> int | None:
        """Id of `<im_start>`, None where it is not added yet."""
        return self.added_tokens.get(IM_START)

    @property
    def im_end_id(self) -> int | None:
        """Id of `<im_end>`, None where it is not added yet."""
        return self.added_tokens.get(IM_END)

    def __len__(self) -> int:
        """One more than the largest id."""
        return max(self._pieces.get_piece_size(), 1 + max(self.added_tokens.values(), default=-1))

    # Text and ids

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of `text`, which holds no image; `bos` puts `<s>` before them."""
        ids = [self.bos_token_id] if bos else []
        parts = self._cuts.split(text)  # text, token, text, token, …, text
        for index, part in enumerate(parts):
            if index % 2:
                ids.append(self._ids_of_tokens[part])
                continue
            if index > 0 and parts[index - 1] in self.added_tokens:
                part = part.lstrip()
            if index + 1 < len(parts) and parts[index + 1] in self.added_tokens:
                part = part.rstrip()
            if part:
                ids.extend(self._pieces.encode(part))
        return ids

    def encode_turn(self, asked: str, answered: str) -> tuple[list[int], int]:
        """Ids of a question and its answer, without `<s>`, and how many of them are the question's.

        The two are encoded as one text: a word never reaches across the space that an answer of LLaVA begins with.
        """
        return self.encode(asked + answered, bos=False), len(self.encode(asked, bos=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without `<s>`, `</s>`, `<unk>` and image tokens.

        A space stands between an added token and its neighbours, except before punctuation: encoding loses it.
        """
        texts: list[str] = []
        run: list[int] = []

        def close_run() -> None:
            if run:
                texts.append(self._pieces.decode(run))
                run.clear()

        for index in map(int, ids):
            if index in self._tokens_of_ids:
                close_run()
                token = self._tokens_of_ids[index]
                if token not in self._reserved:
                    texts.append(token)
            elif 0 <= index < self._pieces.get_piece_size():
                run.append(index)
        close_run()
        joined = ""
        for text in texts:
            if joined and text and not joined[-1].isspace() and text[0] not in _CLOSING_MARKS:
                joined += " "
            joined += text
        return joined


def _add_token(added: dict[str, int], token: object, index: object, source: Path) -> None:
    """Put a token of a file into `added`, or raise `UserError` for one that is not a text with an id."""
    number = int(index) if isinstance(index, str) and re.fullmatch(r"[0-9]{1,8}", index) else index
    is_text = isinstance(token, str) and token != "" and not _SURROGATES.search(token)
    if not is_text or type(number) is not int or not 0 <= number < LARGEST_ID:
        raise UserError(
            f"{source}: token {shown(token)} has id {shown(index)}; a token is a text, and its id a number below "
            f"{LARGEST_ID}. Copy the file again."
        )
    added[token] = number


def _check_config(config: Mapping, source: Path) -> None:
    """Complain about settings of a tokenizer that are not those of a LLaMA's."""
    if config.get("auto_map"):
        raise UserError(f"{source}: auto_map names code of its own, and nothing of a checkpoint is run; remove the key")
    kind = config.get("tokenizer_class")
    if kind is not None and kind not in _CLASSES:
        raise UserError(f"{source}: tokenizer_class is {shown(kind)}; only the tokenizer of a LLaMA is supported")
    if not isinstance(config.get("added_tokens_decoder") or {}, dict):
        raise UserError(f"{source}: added_tokens_decoder should be a dictionary; copy the file again")
    count = config.get("tokens_per_target")
    if count is not None and (type(count) is not int or not 1 <= count <= 4096):
        raise UserError(f"{source}: tokens_per_target should be a number from 1 to 4096, it is {shown(count)}")


def _read_object(path: Path) -> dict:
    """The object in a JSON file, empty where there is no file."""
    if not path.is_file():
        return {}
    value = read_json(path, missing="it belongs to a tokenizer")
    if not isinstance(value, dict):
        raise UserError(f"{path} must contain a JSON object, but contains a {type(value).__name__}")
    return value


def _write_object(path: Path, value: Mapping) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
