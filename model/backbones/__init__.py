"""Multimodal LLMs, one file each: images and text -> hidden states of every layer. `base.py` says what each must have.

`members.py` has them by their names. It is imported when one of its names is asked for: whoever needs another module of
this folder does not wait for torch and transformers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.backbones.members import BACKBONES, backbone_named, backbone_of, backbone_of_base, register

__all__ = ["BACKBONES", "backbone_named", "backbone_of", "backbone_of_base", "register"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'model.backbones' has no attribute {name!r}")
    from model.backbones import members

    return getattr(members, name)
