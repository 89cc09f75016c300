"""Mask decoders, one file each: prompts -> masks. `base.py` says what each must have.

To add one: write its module and put it here, or `register` it in a plugin.
"""

from transformers import PreTrainedConfig

from groundscore.errors import UserError
from model.decoders.base import MaskDecoder
from model.decoders.sam import SamDecoder

DECODERS: dict[str, type[MaskDecoder]] = {"sam": SamDecoder}


def register(decoder: type[MaskDecoder]) -> type[MaskDecoder]:
    """Adds the mask decoder of a plugin under the name of its class; a decorator."""
    if DECODERS.setdefault(decoder.__name__, decoder) is not decoder:
        raise UserError(f"a mask decoder {decoder.__name__} already exists; give the class another name")
    return decoder


def decoder_of(config: PreTrainedConfig) -> type[MaskDecoder]:
    """The class of the mask decoder that a configuration names; `UserError` if there is none of that name."""
    if config.mask_decoder not in DECODERS:
        raise UserError(f'unknown decoder "{config.mask_decoder}"; known: {", ".join(DECODERS)}')
    return DECODERS[config.mask_decoder]
