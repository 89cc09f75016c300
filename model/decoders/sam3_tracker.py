"""The tracker of SAM 3 (Meta, 2025) on single images: SAM 2's prompts and decoder on SAM 3's image encoder.

The detector, which finds objects by words of its own, is not read: here the LLM's prompts say what is meant.
"""

from transformers import PreTrainedConfig, PreTrainedModel, Sam3TrackerConfig, Sam3TrackerModel
from transformers.models.sam3_tracker.modeling_sam3_tracker import Sam3TrackerMaskDecoder

from model.decoders.published import SAM3_TRACKER
from model.decoders.sam import head_depths
from model.decoders.sam2 import FinerTargets, Sam2Decoder, WithoutMemory
from model.decoders.targets import use_mask_decoder


class Sam3TrackerDecoder(Sam2Decoder):
    """SAM 3's image encoder with the tracker's prompt encoder and mask decoder."""

    encoder_name = "SAM 3"
    config_class = Sam3TrackerConfig
    published = SAM3_TRACKER
    pixel_mean = pixel_std = (0.5, 0.5, 0.5)

    @classmethod
    def build(cls, config: PreTrainedConfig) -> PreTrainedModel:
        sam = Sam3Tracker(config)
        use_mask_decoder(sam, Sam3Targets)
        return sam

    @classmethod
    def depths(cls, config: PreTrainedConfig) -> dict[str, int]:
        layers = config.sam_config.vision_config.backbone_config.num_hidden_layers
        return {"sam.vision_encoder.backbone.layers": layers, **head_depths(config)}


class Sam3Tracker(WithoutMemory, Sam3TrackerModel):
    """The parts of a SAM 3 that it tracks with."""


class Sam3Targets(FinerTargets, Sam3TrackerMaskDecoder):
    """SAM 3's."""
