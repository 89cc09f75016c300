"""The vocabulary on its way into a model: tokens that are added, and rows of the tables for them."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from checkpoints.files import CONFIG_FILE
from checkpoints.sources import BASE, OWN, Source
from checkpoints.weights import check_names
from groundscore.errors import UserError, shown
from model.backbones import backbone_of
from model.backbones.base import ties_embeddings
from model.config import GroundingConfig

SPARE_TOKENS = 1000  # that the tokenizer of a base may have beyond its tables


def tables_of(config: GroundingConfig) -> tuple[str, str]:
    """The names of the two tables with a row for every token: word embeddings and output head."""
    parts = backbone_of(config).parts
    (embeddings,), (head,) = parts["embeddings"], parts["head"]
    return f"{embeddings}.weight", f"{head}.weight"


def complete_vocabulary(source: Source, seed: int) -> int:
    """Complete the vocabulary, write its ids into the configuration, and make the tables fit; rows that are new."""
    config, tokenizer = source.config, source.tokenizer
    _check_tables(source)
    _check_vocabulary(source)
    added = tokenizer.add_grounding_tokens(config.tokens_per_target)
    config.seg_token_ids = list(tokenizer.seg_token_ids)
    config.rej_token_ids = list(tokenizer.rej_token_ids)
    config.im_start_id, config.im_end_id = tokenizer.im_start_id, tokenizer.im_end_id
    text = config.text_config
    text.bos_token_id, text.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    text.pad_token_id = tokenizer.pad_token_id
    stored = _rows(source)
    text.vocab_size, new_ids = max(stored, len(tokenizer)), set()
    if source.kind == BASE:
        # A base may have more rows than tokens (llava-hf rounds up); none of them was trained. LLaVA's are cut off, as
        # the reference does; the others keep the layout of their base.
        text.vocab_size = len(tokenizer) if config.backbone == "llava" else text.vocab_size
        new_ids = {tokenizer.added_tokens[token] for token in added}
    return _resize_tables(source, text.vocab_size, new_ids, std=text.initializer_range, seed=seed)


def _rows(source: Source) -> int:
    """How many rows the stored tables have."""
    return source.weights.shape(tables_of(source.config)[0])[0]


def _check_tables(source: Source) -> None:
    tables = tables_of(source.config)
    check_names([name for name in tables if name not in source.weights], [], str(source.path))
    for name in tables:
        if len(source.weights.shape(name)) != 2:
            theirs, shape = source.weights.their_name(name), source.weights.shape(name)
            raise UserError(f"{source.path}: {theirs} is {shape}, not a table of two dimensions")
    rows = {source.weights.shape(name)[0] for name in tables}
    if len(rows) > 1:
        raise UserError(f"{source.path}: word embeddings and output head have {min(rows)} and {max(rows)} rows")


def _check_vocabulary(source: Source) -> None:
    """Raise `UserError` for a tokenizer whose ids are not those of the weights."""
    tokenizer, rows = source.tokenizer, _rows(source)
    spare = SPARE_TOKENS if source.kind == BASE else 0
    if len(tokenizer) > rows + spare:
        raise UserError(
            f"{source.path}: the tokenizer has ids up to {len(tokenizer) - 1}, the weights have {rows} rows; it is the "
            "tokenizer of another model, copy the right one there"
        )
    stored = [*source.config.seg_token_ids, *source.config.rej_token_ids]
    if source.kind == OWN and stored != [*tokenizer.seg_token_ids, *tokenizer.rej_token_ids]:
        raise UserError(
            f"{source.path / CONFIG_FILE}: ids {shown(stored)} of [SEG] and [REJ] are not those of the tokenizer "
            "beside it; one of the two files is of another model"
        )


def _resize_tables(source: Source, rows: int, new_ids: set[int], *, std: float, seed: int) -> int:
    """Give the word embeddings and the output head `rows` rows; those of `new_ids`, and those beyond the stored ones,
    are drawn from N(0, std²), the same for both where they are tied. Returns how many were drawn."""
    weights, tied = source.weights, ties_embeddings(source.config)
    drawn = sorted(new_ids | set(range(_rows(source), rows)))
    for offset, name in enumerate(tables_of(source.config)):
        stored, width = weights.shape(name)
        if drawn or rows != stored:
            table = partial(_table, weights.reader(name), rows, drawn, std=std, seed=seed if tied else seed + offset)
            weights.put(name, (rows, width), table)
    return len(drawn)


def _table(read: Callable[[], Tensor], rows: int, drawn: list[int], *, std: float, seed: int) -> Tensor:
    old = read()
    table = torch.empty((rows, old.shape[1]), dtype=torch.float32, device="cpu")
    table[: len(old)] = old[:rows]
    generator = torch.Generator("cpu").manual_seed(seed)
    table[drawn] = std * torch.randn((len(drawn), old.shape[1]), generator=generator, dtype=torch.float32, device="cpu")
    return table
