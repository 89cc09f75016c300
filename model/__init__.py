"""The network: backbones, mask decoders, systems and the skeleton that joins them. Nothing here knows files or flags.

`grounding.py` is the skeleton; it asks a `Backbone` for hidden states, a `System` for prompts and a `MaskDecoder`
for the masks.
"""
