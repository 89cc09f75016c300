"""The configuration of a grounding model: three transformers configurations and what ties them together."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from model.backbones import backbone_named
from model.decoders import DECODERS, MaskDecoder
from model.settings import ImageSettings, model_settings, settings_of_system
from model.systems import SYSTEMS
from utils.settings import settings_of


class GroundingConfig(PreTrainedConfig):
    """Everything that is needed to build a model and its processor, saved as `config.json` beside the weights.

    text_config, vision_config, sam_config: the LLM, the image encoder and the mask decoder's model (configuration
        objects or dictionaries); which kinds they may be is the backbone's and the mask decoder's to say.
    system: one of `model.systems.SYSTEMS`; plugin: the module that it comes from, if that is a user's own.
    backbone, mask_decoder: one of `model.backbones.BACKBONES` and one of `model.decoders.DECODERS`.
    base_values: what else the backbone keeps of its base (`Backbone.base_values`).
    mm_projector_type: "linear", "mlpNx_gelu" or "identity", between CLIP and LLaMA (LLaVA's names).
    mm_vision_select_layer: index into CLIP's hidden states (embeddings first); -2 is the last but one layer.
    seg_token_ids, rej_token_ids, im_start_id, im_end_id: token ids, set when the tokenizer is known.
    mm_projector_hidden_dim, mm_projector_out_dim: of separate projectors. Their hidden width is the first times the
        LLM's; the second one's output is the LLM's width where the other is 1 and CLIP's where it is 2.
    Every setting of `model.settings.model_settings` is a field, too.
    """

    model_type = "uground"
    sub_configs = {"text_config": LlamaConfig, "vision_config": CLIPVisionConfig, "sam_config": AutoConfig}

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        sam_config: PreTrainedConfig | dict[str, Any] | None = None,
        system: str = "UGround",
        plugin: str | None = None,
        mm_projector_type: str = "mlp2x_gelu",
        mm_vision_select_layer: int = -2,
        seg_token_ids: Sequence[int] = (),
        rej_token_ids: Sequence[int] = (),
        im_start_id: int | None = None,
        im_end_id: int | None = None,
        mm_projector_hidden_dim: int = 1,
        mm_projector_out_dim: int = 1,
        backbone: str = "llava",
        mask_decoder: str = "sam",
        base_values: Mapping[str, Any] | None = None,
        **values: Any,
    ):
        """values: settings, and fields of transformers."""
        member = backbone_named(backbone)
        self.text_config = _of_types(member.text_types, text_config)
        self.vision_config = _of_types(member.vision_types, vision_config)
        self.sam_config = _as_config(DECODERS.get(mask_decoder, MaskDecoder).config_class, sam_config)
        self.system = system
        self.plugin = plugin
        self.mm_projector_type = mm_projector_type
        self.mm_vision_select_layer = mm_vision_select_layer
        self.seg_token_ids = list(seg_token_ids)
        self.rej_token_ids = list(rej_token_ids)
        self.im_start_id = im_start_id
        self.im_end_id = im_end_id
        self.mm_projector_hidden_dim = mm_projector_hidden_dim
        self.mm_projector_out_dim = mm_projector_out_dim
        self.backbone = backbone
        self.mask_decoder = mask_decoder
        self.base_values = {name: value.default for name, value in member.base_values.items()} | dict(base_values or {})
        for name, setting in model_settings().items():
            setattr(self, name, values.pop(name, setting.default))
        super().__init__(**values)

    @classmethod
    def own_fields(cls) -> set[str]:
        """Names of all fields that are not of transformers."""
        return {*inspect.signature(cls).parameters, *model_settings()} - {"values"}

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them, without the settings of other systems and backbones."""
        own = settings_of_system(self.system) if self.system in SYSTEMS else {}
        left_out = set(model_settings()) - set(own)
        left_out |= set(settings_of(ImageSettings)) - set(backbone_named(self.backbone).settings)
        kept = {name: value for name, value in self.base_values.items() if value is not None}
        values = super().to_dict() | {"base_values": kept}
        left_out |= {name for name in ("plugin", "base_values") if not values[name]}
        return {name: value for name, value in values.items() if name not in left_out}

    @property
    def num_layers(self) -> int:
        """Hidden states of the LLM: embeddings and every layer."""
        return self.text_config.num_hidden_layers + 1

    @property
    def tokens_per_target(self) -> int:
        """Tokens that stand for a target in an answer."""
        return self.seg_token_num * self.image_feature_scale_num

    @property
    def clip_feature_width(self) -> int:
        """Width of the CLIP features that the mask decoder reads, after their projector."""
        if self.separate_mm_projector and self.mm_projector_out_dim != 1:
            return self.vision_config.hidden_size
        return self.text_config.hidden_size

    @property
    def clip_image_size(self) -> int:
        """Side in pixels of the square that CLIP sees."""
        return self.resize_vision_tower_size if self.resize_vision_tower else self.vision_config.image_size

    @property
    def image_grid(self) -> int | None:
        """Image tokens of the LLM along one side (resizing the tower does not change it); None where it depends on the
        image."""
        if "llm_image_grid" not in backbone_named(self.backbone).settings:
            return None
        return self.llm_image_grid or self.vision_config.image_size // self.vision_config.patch_size

    @property
    def width(self) -> int:
        """D, width of the LLM's hidden states."""
        return self.text_config.hidden_size

    @property
    def context_length(self) -> int:
        """Tokens that the LLM may read."""
        return self.text_config.max_position_embeddings


def _of_types(types: Sequence[str], value: Any) -> PreTrainedConfig:
    """Returns a configuration object of one of these `model_type`s; the first is that of a dictionary without one."""
    if isinstance(value, PreTrainedConfig):
        return copy.deepcopy(value)
    values = {**(value or {})}
    return AutoConfig.for_model(values.pop("model_type", types[0]), **values)


def _as_config(kind: type, value: Any) -> Any:
    """Returns a configuration object of its own: transformers shares and mutates the ones it is given."""
    if value is None:
        return kind()
    return kind(**value) if isinstance(value, dict) else copy.deepcopy(value)
