"""The mask decoders by their names. To add one: write its module and put it here, or `register` it in a plugin."""

from transformers import PreTrainedConfig

from groundscore.names import add_new, look_up
from model.decoders.base import MaskDecoder
from model.decoders.sam import SamDecoder
from model.decoders.sam2 import Sam2Decoder
from model.decoders.sam3_tracker import Sam3TrackerDecoder
from model.decoders.sam_hq import SamHqDecoder

DECODERS: dict[str, type[MaskDecoder]] = {
    "sam": SamDecoder,
    "sam_hq": SamHqDecoder,
    "sam2": Sam2Decoder,
    "sam3_tracker": Sam3TrackerDecoder,
}


def register(decoder: type[MaskDecoder]) -> type[MaskDecoder]:
    """Adds the mask decoder of a plugin under the name of its class; a decorator."""
    add_new(DECODERS, decoder.__name__, decoder, "mask decoder")
    return decoder


def decoder_of(config: PreTrainedConfig) -> type[MaskDecoder]:
    """The class of the mask decoder that a configuration names; `UserError` if there is none of that name."""
    return look_up(config.mask_decoder, DECODERS, "mask decoder")
