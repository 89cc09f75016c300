"""How wide and deep the miniature's models are."""

from dataclasses import dataclass

BACKBONES = ("llava", "qwen3_vl")  # that a base may have, in a directory of that name
SEGMENTERS = ("sam", "sam_hq", "sam2", "sam3_tracker")  # mask decoders that it may have, as NAME_miniature


@dataclass(frozen=True)
class MiniatureSizes:
    """Widths and depths of the three models; images are squares of `clip_image` and `sam_image` pixels."""

    vocabulary: int = 1200
    llm_width: int = 128
    llm_mlp: int = 352
    llm_layers: int = 8
    llm_heads: int = 4
    clip_image: int = 128
    clip_patch: int = 16
    clip_width: int = 128
    clip_layers: int = 5
    clip_heads: int = 4
    sam_image: int = 128
    sam_patch: int = 16
    sam_width: int = 128
    sam_layers: int = 4
    sam_heads: int = 4
    sam_window: int = 4
    sam_global: tuple[int, ...] = (1, 3)
    decoder_width: int = 64
    decoder_mlp: int = 256
