"""What a directory or file holds: our own model, a reference checkpoint, or a base of a backbone, described alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints import architecture, names, sam_configs
from checkpoints.adapting import merge_lora
from checkpoints.config_checks import build_part, dictionary
from checkpoints.consolidated import refuse_deepspeed
from checkpoints.decoders import complete_frequencies, read_decoder
from checkpoints.files import (
    CONFIG_FILE,
    SETTINGS_FILE,
    TensorFiles,
    open_tensors,
    read_config,
    read_json_object,
)
from checkpoints.hub import HubName, find_model
from checkpoints.own_configs import build_grounding, own_config
from checkpoints.runs import is_run
from checkpoints.weights import Weights
from dataloaders.batching.conversation import IM_END, IM_START, target_tokens
from dataloaders.batching.tokenization import GroundingTokenizer
from groundscore.errors import UserError, shown
from groundscore.reading import user_path
from groundscore.targets import REJ, SEG
from model.backbones import BACKBONES, backbone_of, backbone_of_base
from model.config import GroundingConfig
from model.decoders.sam import SamDecoder

OWN, REFERENCE, BASE = "merged directory", "reference checkpoint", "LLaVA base"
PROCESSOR_FILE = "processor_config.json"  # where transformers 5 writes what `preprocessor_config.json` held
HUB_CLIP = "openai/clip-vit-large-patch14-336"
OPENAI_CLIPS = ("clip-vit-large-patch14-336", "clip-vit-large-patch14")


@dataclass
class Source:
    """A model on disk.

    kind: `OWN`, `REFERENCE` or `BASE`. config: as stored; a base's has no system of its own. weights: may lack CLIP
    and SAM. describes_clip: whether the configuration has CLIP's. notes: what a user should know.
    """

    kind: str
    path: Path
    config: GroundingConfig
    tokenizer: GroundingTokenizer
    weights: Weights
    describes_clip: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def what(self) -> str:
        """What it is, for a report."""
        return self.kind if self.kind != BASE or self.config.backbone == "llava" else f"{self.config.backbone} base"


def read_source(path: Path, *, system: str | None, weight: Path | None = None, lora_alpha: float = 16) -> Source:
    """Recognise and describe a directory.

    weight: a consolidated training file of the reference (LoRA not merged yet), whose tensors stand for those of the
        directory, which is then the base that it was trained from.
    """
    _refuse_training_runs(path)
    config = read_config(path)
    if weight is None and config.get("model_type") == GroundingConfig.model_type:
        model_config = own_config(config, path / CONFIG_FILE)
        weights = Weights()
        weights.add(open_tensors(path), lambda name: (name,), str(path))
        complete_frequencies(weights)
        tokenizer = backbone_of(model_config).tokenizer.from_directory(path)
        return Source(OWN, path, model_config, tokenizer, weights, describes_clip=True)
    member = backbone_of_base(config.get("model_type"))
    if weight is None and member is not None and BACKBONES[member].names:
        return _read_named_base(path, config, member, system)
    if weight is None and "model_type" in config and member is None and not architecture.is_reference(config):
        raise _unsupported(path, config)
    tokenizer = GroundingTokenizer.from_directory(path)
    if weight is not None:
        return _read_reference(path, config, open_tensors(weight), tokenizer, system, lora_alpha, consolidated=True)
    if architecture.is_reference(config):
        return _read_reference(path, config, open_tensors(path), tokenizer, system, lora_alpha)
    if system is None:
        raise UserError(f"{path} is a plain LLaVA, which any system can start from: choose one with --model_key")
    return _read_base(path, config, tokenizer, system)


def _unsupported(path: Path, config: Mapping[str, Any]) -> UserError:
    """The error about a directory that holds none of the models that are read here."""
    bases = [f"{', '.join(kind.base_types)} ({name})" for name, kind in BACKBONES.items() if kind.base_types]
    return UserError(
        f"{path} contains a model of type {shown(config.get('model_type'))}; expected a base whose type is "
        f"{'; '.join(bases)}, a merged directory of this program, or a checkpoint of the reference implementation"
    )


def _read_named_base(path: Path, config: dict[str, Any], member: str, system: str | None) -> Source:
    """A base in the layout of transformers, of a backbone that names its tensors."""
    backbone, where = BACKBONES[member], path / CONFIG_FILE
    if system is None:
        raise UserError(f"{path} is a plain {member}, which any system can start from: choose one with --model_key")
    weights = Weights()
    weights.add(open_tensors(path), names.from_base(backbone), str(path))
    text, vision = (
        dictionary(config.get(name) or default, f"{where}: {name}")
        for name, default in (("text_config", config), ("vision_config", {}))
    )
    (words,), (head,) = (tuple(f"{module}.weight" for module in backbone.parts[of]) for of in ("embeddings", "head"))
    stated = [part["tie_word_embeddings"] for part in (config, text) if part.get("tie_word_embeddings") is not None]
    tied = any(stated) if stated else head not in weights  # some classes tie unless told otherwise
    values = backbone.read_base_values(config, _image_settings(path))
    fields = {
        "system": system,
        "backbone": member,
        "conv_type": backbone.conv_types[0],
        "text_config": build_part(
            {**text, "model_type": _known_type(text, backbone.text_types, member), "tie_word_embeddings": tied},
            backbone.text_types,
            f"{where}: text_config",
        ),
        "vision_config": build_part(
            {**vision, "model_type": _known_type(vision, backbone.vision_types, member)},
            backbone.vision_types,
            f"{where}: vision_config",
        ),
        "base_values": values,
    }
    model_config = build_grounding(fields, str(where))
    if tied and head not in weights and words in weights:
        weights.put(head, weights.shape(words), weights.reader(words))
    return Source(BASE, path, model_config, backbone.tokenizer.from_directory(path), weights, describes_clip=True)


def _known_type(part: Mapping[str, Any], types: Sequence[str], member: str) -> Any:
    """The `model_type` of a part of a configuration; older ones do not say, or say the type of the whole."""
    stated = part.get("model_type", types[0])
    return types[0] if stated in BACKBONES[member].base_types else stated


def _image_settings(path: Path) -> Mapping[str, Any]:
    """What a base's directory says of its image processor, in either generation of transformers."""
    if (path / SETTINGS_FILE).is_file():
        return read_json_object(path / SETTINGS_FILE)
    if (path / PROCESSOR_FILE).is_file():
        found = read_json_object(path / PROCESSOR_FILE).get("image_processor") or {}
        return dictionary(found, f"{path / PROCESSOR_FILE}: image_processor")
    return {}


def _refuse_training_runs(path: Path) -> None:
    if not (path / CONFIG_FILE).exists():
        refuse_deepspeed(path, "--version")
    if not path.is_dir():
        raise UserError(f"{path} is a file; give the directory of a model")
    if is_run(path):
        raise UserError(f"{path} is a training run or checkpoint; merge it first: python merge_lora_weights.py --help")


def _read_reference(
    path: Path,
    config: dict[str, Any],
    files: TensorFiles,
    tokenizer: GroundingTokenizer,
    system: str | None,
    lora_alpha: float,
    *,
    consolidated: bool = False,
) -> Source:
    named = architecture.reference_system(config)
    if named is None and system is None:
        raise UserError(f"{path / CONFIG_FILE} does not name its system; set it with --model_key")
    weights = Weights()
    weights.add(files, names.from_reference, str(files.path))
    notes = []
    merged = merge_lora(weights, lora_alpha, str(files.path))
    if merged:
        notes.append(f"LoRA merged into {merged} weights with alpha {lora_alpha:g}")
    fields = architecture.reference_fields(config, weights.shapes(), directory=path, source=files.path)
    if weights.has("sam."):
        shapes = {name.removeprefix("sam."): shape for name, shape in weights.shapes().items()}
        fields["sam_config"] = sam_configs.config_from_shapes(SamDecoder, shapes, files.path)
    if (named or system) == "READ" and not any(name.endswith(names.MARK_OF_THE_PORT) for name in files):
        fields |= architecture.original_read_fields(fields["text_config"].num_hidden_layers)
        notes.append("trained by READ's own code: points as there, on CLIP's centre crop")
    scales = fields["image_feature_scale_num"]
    if consolidated:
        if architecture.is_llava_hf(config):
            tokenizer = GroundingTokenizer(tokenizer.model)  # training started from a LLaVA without llava-hf's tokens
        rows = weights.shapes().get("lm_head.weight", (len(tokenizer),))[0]
        tokenizer = tokenizer_of_training(tokenizer, rows, scales)
    fields["seg_token_num"] = max(1, tokenizer.tokens_per_target // scales)
    if consolidated and "vision_config" in fields and not weights.has("vision_tower."):
        weights.add(open_tensors(path), names.clip_from_llava_hf, str(path))
    model_config = build_grounding({"system": named or system, **fields}, str(path / CONFIG_FILE))
    return Source(REFERENCE, path, model_config, tokenizer, weights, "vision_config" in fields, notes)


def _read_base(path: Path, config: dict[str, Any], tokenizer: GroundingTokenizer, system: str) -> Source:
    weights = Weights()
    files = open_tensors(path)
    if architecture.is_llava_hf(config):
        fields = architecture.llava_hf_fields(config, path)
        weights.add(files, names.from_llava_hf, str(path))
    elif config.get("model_type") in ("llava", "llava_llama"):
        fields = architecture.original_llava_fields(config, path)
        weights.add(files, names.from_reference, str(path))
    else:
        raise _unsupported(path, config)
    model_config = build_grounding({"system": system, **fields}, str(path / CONFIG_FILE))
    return Source(BASE, path, model_config, tokenizer, weights, "vision_config" in fields)


def tokenizer_of_training(base: GroundingTokenizer, rows: int, scales: int) -> GroundingTokenizer:
    """The base's tokenizer with the tokens that the training added, told by how many rows its tables have more.

    With n tokens per target (a multiple of `scales`) the reference and GSVA add n for `[SEG]`, n for `[REJ]` and 2
    for the image; the other systems' own repositories have no `[REJ]`, and so other ids for the two. Where neither
    fits, nothing is added here.
    """
    added = rows - len(base)
    for targets in ((SEG, REJ), (SEG,)):
        count, left = divmod(added - 2, len(targets))
        if count > 0 and not left and count % scales == 0:
            tokens = [token for target in targets for token in target_tokens(target, count)] + [IM_START, IM_END]
            ids = {token: len(base) + index for index, token in enumerate(tokens)}
            return GroundingTokenizer(base.model, {**base.added_tokens, **ids}, tokens_per_target=count)
    return base


# --- CLIP and SAM ----------------------------------------------------------------------------------------------------


def add_line_break(source: Source) -> None:
    """Add the learned token that ends a row of an image in tiles, where a LLaVA 1.6 is to see tiles."""
    if source.config.anyres and source.kind != OWN:
        source.weights.add(open_tensors(source.path), names.line_break_of_llava, str(source.path))


def add_clip(source: Source, vision_tower: str | None) -> None:
    """Take CLIP and its configuration from a directory, where the source has none or a base's user names one.

    The CLIP of a checkpoint, which may have been trained, is kept.
    """
    if source.config.backbone != "llava" and vision_tower:
        raise UserError(f"--vision_tower {vision_tower}: {source.config.backbone} has an image encoder of its own")
    if source.kind == OWN or source.config.backbone != "llava":
        if vision_tower:
            source.notes.append(f"--vision_tower {vision_tower} ignored: the directory has its own CLIP")
        return
    has_weights = source.weights.has("vision_tower.")
    if has_weights and source.describes_clip and vision_tower is None:
        return
    named = vision_tower or _named_tower(source.path)
    if named is None:
        raise UserError(f"{source.path} does not contain CLIP: pass --vision_tower (the directory of {HUB_CLIP})")
    directory = find_model(named, "--vision_tower")
    source.config.vision_config = architecture.clip_config(directory)
    if has_weights and (source.kind == REFERENCE or vision_tower is None):
        source.notes.append(f"CLIP's settings are those of {named}, its weights the checkpoint's own")
        return
    if has_weights:
        source.weights.drop(("vision_tower.",))
        source.notes.append(f"CLIP is that of {named}, not the one in {source.path}")
    source.weights.add(open_tensors(directory), names.from_clip, str(directory))


def _named_tower(path: Path) -> str | None:
    """The CLIP that a configuration names: a hub id, a directory that is here, or, for a path of somebody else's
    machine that ends in the name of one of OpenAI's, that one's hub id."""
    config = read_config(path)
    named = config.get("mm_vision_tower") or config.get("vision_tower")
    if not isinstance(named, str):
        return None
    if user_path(named).is_dir():
        return named
    if Path(named).name in OPENAI_CLIPS:
        return f"openai/{Path(named).name}"
    hub_name = HubName.parse(named)
    return named if hub_name is not None and not hub_name.inside else None


def add_sam(source: Source, vision_pretrained: str | None) -> None:
    """Take SAM, or another mask decoder's model, from its file or directory where the source has none, and which mask
    decoder that is and its configuration with it."""
    if source.weights.has("sam."):
        if vision_pretrained:
            source.notes.append(f"--vision_pretrained {vision_pretrained} ignored: the checkpoint has its own SAM")
        return
    if vision_pretrained is None:
        raise UserError(
            f"{source.path} does not contain SAM: pass --vision_pretrained (a sam_vit_… .pth file, or the file or "
            "directory of another SAM)"
        )
    path = find_model(vision_pretrained, "--vision_pretrained")
    source.config.mask_decoder, source.config.sam_config, tensors = read_decoder(path)
    source.config.out_dim = source.config.sam_config.prompt_encoder_config.hidden_size
    for name in tensors:
        source.weights.put(name, tensors.shape(name), tensors.reader(name))
