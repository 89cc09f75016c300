"""Tensor names of published checkpoints <-> names of `GroundingModel`.

A layout is a list of rules, each a pair of name beginnings: theirs, ours. `#` stands for a number, carried over in
order; the first rule that fits decides, in either direction. What no rule fits keeps its name, so that a loader can
list it as unexpected.

    reference      `model.layers…`, `model.visual_model…`, `ppm…`; also original LLaVA, which is its first part
    llava-hf       transformers 4.x (`language_model.model…`) and 5.x (`model.language_model…`)
    a base         of another backbone, in the layout of transformers: the backbone's own `names`
    CLIP           a directory of transformers, with or without `vision_model.`
    SAM            the original `.pth`; its names are also those below `model.visual_model.` of the reference
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from checkpoints.weights import Weights, check_names, fill
from model.backbones.base import Backbone
from model.grounding import GroundingModel

Rule = tuple[str, str]


class Layout:
    """Rules compiled for both directions; see the module's text."""

    def __init__(self, rules: Iterable[Rule]):
        rules = list(rules)
        self._inward = [_compiled(theirs, ours) for theirs, ours in rules]
        self._outward = [_compiled(ours, theirs) for theirs, ours in rules]

    def to_ours(self, name: str) -> str:
        """Our name for one of theirs."""
        return _translated(name, self._inward)

    def to_theirs(self, name: str) -> str:
        """Their name for one of ours."""
        return _translated(name, self._outward)


def _compiled(source: str, target: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(source).replace(r"\#", r"(\d+)")
    end = "" if source.endswith((".", "#")) else r"(?=\.|$)"
    if source.endswith("#"):
        end = r"(?!\d)"
    count = iter(range(1, source.count("#") + 1))
    template = re.sub("#", lambda _: rf"\g<{next(count)}>", target)
    return re.compile(pattern + end), template


def _translated(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in rules:
        match = pattern.match(name)
        if match:
            return match.expand(template) + name[match.end() :]
    return name


# --- rules -----------------------------------------------------------------------------------------------------------

_MLP_RULES = [("layers.0", "proj_in"), ("layers.1", "layers.0"), ("layers.2", "proj_out")]
_SAM_ENCODER_RULES = [
    ("image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection"),
    ("image_encoder.blocks.#.norm#", "vision_encoder.layers.#.layer_norm#"),
    ("image_encoder.blocks.#", "vision_encoder.layers.#"),
    ("image_encoder.neck.0", "vision_encoder.neck.conv1"),
    ("image_encoder.neck.1", "vision_encoder.neck.layer_norm1"),
    ("image_encoder.neck.2", "vision_encoder.neck.conv2"),
    ("image_encoder.neck.3", "vision_encoder.neck.layer_norm2"),
    ("image_encoder", "vision_encoder"),
]
_PROMPT_ENCODER_RULES = [
    (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    ("prompt_encoder.point_embeddings.#", "prompt_encoder.point_embed.#"),
    ("prompt_encoder.mask_downscaling.0", "prompt_encoder.mask_embed.conv1"),
    ("prompt_encoder.mask_downscaling.1", "prompt_encoder.mask_embed.layer_norm1"),
    ("prompt_encoder.mask_downscaling.3", "prompt_encoder.mask_embed.conv2"),
    ("prompt_encoder.mask_downscaling.4", "prompt_encoder.mask_embed.layer_norm2"),
    ("prompt_encoder.mask_downscaling.6", "prompt_encoder.mask_embed.conv3"),
    ("prompt_encoder", "prompt_encoder"),
]
_MASK_DECODER_HEAD_RULES = [
    *(
        (f"mask_decoder.output_hypernetworks_mlps.#.{a}", f"mask_decoder.output_hypernetworks_mlps.#.{b}")
        for a, b in _MLP_RULES
    ),
    *((f"mask_decoder.iou_prediction_head.{a}", f"mask_decoder.iou_prediction_head.{b}") for a, b in _MLP_RULES),
]
_SAM_DECODER_RULES = [
    ("mask_decoder.transformer.layers.#.norm#", "mask_decoder.transformer.layers.#.layer_norm#"),
    ("mask_decoder.transformer.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"),
    ("mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1"),
    ("mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm"),
    ("mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2"),
    *_MASK_DECODER_HEAD_RULES,
    ("mask_decoder", "mask_decoder"),
]
_PIXELLM_DECODER_RULES = [
    ("mask_decoder.transformer.#.layers.#.norm#", "mask_decoder.transformer.#.layers.#.layer_norm#"),
    ("mask_decoder.transformer.#.norm_final_attn", "mask_decoder.transformer.#.layer_norm_final_attn"),
    ("mask_decoder.pe1.positional_encoding_gaussian_matrix", "mask_decoder.pe1.positional_embedding"),
    *_MASK_DECODER_HEAD_RULES,
    ("mask_decoder", "mask_decoder"),
]
_SAM_RULES = [*_SAM_ENCODER_RULES, *_PROMPT_ENCODER_RULES, *_SAM_DECODER_RULES]


def _below(theirs: str, ours: str, rules: Iterable[Rule]) -> list[Rule]:
    return [(theirs + a, ours + b) for a, b in rules]


SAM = Layout(_SAM_RULES)

REFERENCE = Layout(
    [
        ("model.vision_tower.vision_tower.vision_model", "vision_tower"),
        ("model.embed_tokens", "language_model.embed_tokens"),
        ("model.layers", "language_model.layers"),
        ("model.norm", "language_model.norm"),
        ("model.mm_projector", "mm_projector"),
        ("model.out_mm_projector", "out_mm_projector"),
        ("model.text_hidden_fcs.0", "text_hidden_fcs"),
        ("model.image_feature_neck", "image_feature_neck"),
        ("ppm._layer_gate_W_similarity", "policy.gate"),
        ("ppm.critic", "policy.critic"),
        *_below("model.visual_model.", "sam.", _SAM_RULES),
        *_below("model.", "", _PROMPT_ENCODER_RULES),
        *_below("model.", "", _PIXELLM_DECODER_RULES),
    ]
)

LLAVA_HF = Layout(
    [
        ("language_model.model", "language_model"),
        ("language_model.lm_head", "lm_head"),
        ("model.language_model", "language_model"),
        ("multi_modal_projector.linear_1", "mm_projector.0"),
        ("multi_modal_projector.linear_2", "mm_projector.2"),
        ("model.multi_modal_projector.linear_1", "mm_projector.0"),
        ("model.multi_modal_projector.linear_2", "mm_projector.2"),
        ("vision_tower.vision_model", "vision_tower"),
        ("model.vision_tower.vision_model", "vision_tower"),
        ("model.vision_tower", "vision_tower"),
    ]
)


def layout_of(backbone: type[Backbone]) -> Layout:
    """The layout of the bases of a backbone that names it."""
    return Layout(backbone.names)


# --- one name --------------------------------------------------------------------------------------------------------

# The original SAM has one matrix of random frequencies, the transformers port has two that are equal.
SAM_FREQUENCIES = "sam.shared_image_embedding.positional_embedding"
SAM_FREQUENCIES_COPY = "sam.prompt_encoder.shared_embedding.positional_embedding"

# Tensors of published checkpoints that carry nothing: constants, and a parameter of LLaVA 1.6 that is never used.
_CONSTANTS = r".*\.rotary_emb\.inv_freq|.*\bposition_ids"
_CONSTANT = re.compile(f"({_CONSTANTS})$")
_WITHOUT_CONTENT = re.compile(rf"({_CONSTANTS}|(.*\.)?decoder_modules_initialized|(.*\.)?image_newline)$")
MARK_OF_THE_PORT = "decoder_modules_initialized"  # a buffer that the reference adds to the five other systems
PEFT_PREFIX = "base_model.model."  # that peft writes before every name
_TOWER = re.compile(r"model\.vision_tower\.(vision_tower\.)?(vision_model\.)?")

# Tensors of ours that the reference has as constants or as plain numbers.
_WITHOUT_REFERENCE = re.compile(r"policy\.reward_mean$|fusion\.")


def from_reference(name: str) -> tuple[str, ...]:
    """Our names for a tensor of a reference checkpoint or of an original LLaVA: none where it carries nothing, two for
    SAM's matrix of frequencies. Tolerates `base_model.model.` before it and a tower whose name is not doubled."""
    name = name.removeprefix(PEFT_PREFIX)
    if _WITHOUT_CONTENT.match(name):
        return ()
    ours = REFERENCE.to_ours(_TOWER.sub("model.vision_tower.vision_tower.vision_model.", name, count=1))
    return (SAM_FREQUENCIES, ours) if ours == SAM_FREQUENCIES_COPY else (ours,)


def to_reference(name: str) -> str | None:
    """The reference's name for a tensor of ours, None where it has no such tensor."""
    if _WITHOUT_REFERENCE.match(name):
        return None
    return REFERENCE.to_theirs(SAM_FREQUENCIES_COPY if name == SAM_FREQUENCIES else name)


def from_llava_hf(name: str) -> tuple[str, ...]:
    """Our name for a tensor of a llava-hf directory, of either generation of transformers."""
    return () if _WITHOUT_CONTENT.match(name) else (LLAVA_HF.to_ours(name),)


def from_base(backbone: type[Backbone]) -> Callable[[str], tuple[str, ...]]:
    """The function from the name of a tensor of a base of this backbone to ours."""
    layout = layout_of(backbone)
    return lambda name: () if _CONSTANT.match(name) else (layout.to_ours(name),)


def clip_from_llava_hf(name: str) -> tuple[str, ...]:
    """The same for the tensors of CLIP alone."""
    return tuple(ours for ours in from_llava_hf(name) if ours.startswith("vision_tower."))


def from_clip(name: str) -> tuple[str, ...]:
    """Our name for a tensor of a CLIP directory; the text side is left out."""
    if name.startswith(("text_", "visual_projection", "logit_scale")) or _WITHOUT_CONTENT.match(name):
        return ()
    return (f"vision_tower.{name.removeprefix('vision_model.')}",)


def from_sam_original(name: str) -> tuple[str, ...]:
    """Our names for a tensor of an original SAM `.pth`."""
    ours = f"sam.{SAM.to_ours(name)}"
    return (SAM_FREQUENCIES, ours) if ours == SAM_FREQUENCIES_COPY else (ours,)


def from_sam_transformers(name: str) -> tuple[str, ...]:
    """Our names for a tensor of a SAM directory of transformers, which may hold the frequencies once or twice."""
    ours = f"sam.{name}"
    if ours == SAM_FREQUENCIES_COPY:
        return ()
    return (SAM_FREQUENCIES, SAM_FREQUENCIES_COPY) if ours == SAM_FREQUENCIES else (ours,)


# --- whole state dictionaries ----------------------------------------------------------------------------------------


def translated(tensors: Mapping[str, Tensor], translate: Callable[[str], tuple[str, ...]]) -> dict[str, Tensor]:
    """`tensors` under our names."""
    return {ours: tensor for name, tensor in tensors.items() for ours in translate(name)}


def sam_state_dict_to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `SamModel` under the names of an original `.pth`, ready for `torch.save`."""
    skipped = SAM_FREQUENCIES.removeprefix("sam.")
    return {SAM.to_theirs(name): tensor for name, tensor in state.items() if name != skipped}


def sam_state_dict_from_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an original `.pth` as a `SamModel` takes them."""
    return {name.removeprefix("sam."): tensor for name, tensor in translated(tensors, from_sam_original).items()}


def load_reference_state_dict(model: GroundingModel, tensors: Mapping[str, Tensor], *, partial: bool = False) -> None:
    """Copy tensors with the reference's names into `model`; `UserError` for one that is unknown or missing.

    The reference's merged checkpoints leave the CLIP tower out and may lack `out_mm_projector`; these may be missing
    as a whole. With `partial` anything may be.
    """
    source = "the reference state dictionary"
    weights = Weights()
    weights.add(tensors, from_reference, source)
    known = {name for name in model.state_dict() if to_reference(name)}
    optional = tuple(part for part in ("vision_tower.", "out_mm_projector.") if not weights.has(part))
    missing = {name for name in known - set(weights) if not partial and not name.startswith(optional)}
    unexpected = {weights.their_name(name) for name in weights if name not in known}
    check_names({to_reference(name) for name in missing}, unexpected, source)
    fill(model, weights, source)


def reference_state_dict(model: GroundingModel) -> dict[str, Tensor]:
    """The tensors of `model` under the reference's names."""
    state = {to_reference(name): tensor for name, tensor in model.state_dict().items()}
    state.pop(None, None)
    return state


def reference_gradients(model: GroundingModel) -> dict[str, Tensor]:
    """The gradients of all parameters that have one, under the reference's names."""
    gradients: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        theirs = to_reference(name)
        if parameter.grad is not None and theirs is not None:
            gradients[theirs] = gradients[theirs] + parameter.grad if theirs in gradients else parameter.grad
    return gradients
