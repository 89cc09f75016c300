"""Tensor names of published checkpoints <-> names of `GroundingModel`.

A layout is a list of rules, each a pair of name beginnings: theirs, ours. `#` stands for a number, carried over in
order; the first rule that fits decides, in either direction. What no rule fits keeps its name, so that a loader can
list it as unexpected.

    reference      `model.layers…`, `model.visual_model…`, `ppm…`; also original LLaVA, which is its first part
    llava-hf       transformers 4.x (`language_model.model…`) and 5.x (`model.language_model…`)
    a base         of another backbone, in the layout of transformers: the backbone's own `names`
    CLIP           a directory of transformers, with or without `vision_model.`
    mask decoders  each declares its own (`model/decoders/published.py`); the names in SAM's original `.pth` are also
                   those below `model.visual_model.` of the reference
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from checkpoints.weights import Weights, check_names, fill
from model.backbones.base import Backbone
from model.decoders.published import SAM, SAM_RULES, Published, Rule, mask_head_rules, prompt_encoder_rules
from model.grounding import GroundingModel


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

_PIXELLM_DECODER_RULES = [
    ("mask_decoder.transformer.#.layers.#.norm#", "mask_decoder.transformer.#.layers.#.layer_norm#"),
    ("mask_decoder.transformer.#.norm_final_attn", "mask_decoder.transformer.#.layer_norm_final_attn"),
    ("mask_decoder.pe1.positional_encoding_gaussian_matrix", "mask_decoder.pe1.positional_embedding"),
    *mask_head_rules("mask_decoder"),
    ("mask_decoder", "mask_decoder"),
]


def _below(theirs: str, ours: str, rules: Iterable[Rule]) -> list[Rule]:
    return [(theirs + a, ours + b) for a, b in rules]


REFERENCE = Layout(
    [
        ("model.vision_tower.vision_tower.vision_model", "vision_tower"),
        ("model.embed_tokens", "language_model.embed_tokens"),
        ("model.layers", "language_model.layers"),
        ("model.norm", "language_model.norm"),
        ("model.mm_projector", "mm_projector"),
        ("model.out_mm_projector", "out_mm_projector"),
        ("model.image_newline", "image_newline.weight"),
        ("model.text_hidden_fcs.0", "text_hidden_fcs"),
        ("model.image_feature_neck", "image_feature_neck"),
        ("ppm._layer_gate_W_similarity", "policy.gate"),
        ("ppm.critic", "policy.critic"),
        *_below("model.visual_model.", "sam.", SAM_RULES),
        *_below("model.", "", prompt_encoder_rules("prompt_encoder")),
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

# Tensors of published checkpoints that carry nothing: constants, and the line break of LLaVA 1.6, which one square of
# an image has no use for (`line_break_of_llava`).
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


def line_break_of_llava(name: str) -> tuple[str, ...]:
    """Our name for the line break of an image in tiles, of a LLaVA 1.6 in any layout; none for all other tensors."""
    return ("image_newline.weight",) if name.rpartition(".")[2] == "image_newline" else ()


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


def from_decoder_file(published: Published) -> Callable[[str], tuple[str, ...]]:
    """What gives our names for a tensor of the file that a mask decoder's authors publish."""
    layout, both = Layout(published.in_file), (SAM_FREQUENCIES, SAM_FREQUENCIES_COPY)

    def translate(name: str) -> tuple[str, ...]:
        ours = layout.to_ours(name)
        if ours.startswith(published.unused):
            return ()
        return both if f"sam.{ours}" == SAM_FREQUENCIES_COPY else (f"sam.{ours}",)

    return translate


def from_decoder_directory(published: Published) -> Callable[[str], tuple[str, ...]]:
    """The same for a directory of transformers, which may hold the frequencies once or twice."""
    layout = Layout(published.in_directories)

    def translate(name: str) -> tuple[str, ...]:
        ours = layout.to_ours(name)
        return () if ours.startswith(published.unused) else (f"sam.{ours}",)

    return translate


# --- whole state dictionaries ----------------------------------------------------------------------------------------


def translated(tensors: Mapping[str, Tensor], translate: Callable[[str], tuple[str, ...]]) -> dict[str, Tensor]:
    """`tensors` under our names."""
    return {ours: tensor for name, tensor in tensors.items() for ours in translate(name)}


def sam_state_dict_to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `SamModel` under the names of an original `.pth`, ready for `torch.save`."""
    layout, skipped = Layout(SAM.in_file), SAM_FREQUENCIES.removeprefix("sam.")
    return {layout.to_theirs(name): tensor for name, tensor in state.items() if name != skipped}


def sam_state_dict_from_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an original `.pth` as a `SamModel` takes them."""
    ours = translated(tensors, from_decoder_file(SAM))
    return {name.removeprefix("sam."): tensor for name, tensor in ours.items()}


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
