"""Mask decoders, one file each: prompts -> masks. `base.py` says what each must have.

`members.py` has them by their names. It is imported when one of its names is asked for: whoever needs another module of
this folder does not wait for torch and transformers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.decoders.base import MaskDecoder
    from model.decoders.members import DECODERS, decoder_of, register

__all__ = ["DECODERS", "MaskDecoder", "decoder_of", "register"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'model.decoders' has no attribute {name!r}")
    from model.decoders import members

    return getattr(members, name)
