"""Models from disk: `load_model`, and `open_model` for all but their values.

A directory becomes a `Source` (`sources.py`): a configuration and where its tensors are, under our names. The model is
built without values, the tensors are read into it one at a time, and what no file has is initialised. `LoadReport`
tells what became of every tensor.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers.initialization import no_init_weights

from checkpoints.adapters import Adapter
from checkpoints.adapting import CLIP_POSITIONS, initialise, resize_clip_positions
from checkpoints.consolidated import find_weight
from checkpoints.digests import check_digests
from checkpoints.files import CONFIG_FILE
from checkpoints.hub import find_model
from checkpoints.names import to_reference
from checkpoints.processing import GroundingProcessor
from checkpoints.quantizing import quantize
from checkpoints.sources import BASE, REFERENCE, Source, add_clip, add_line_break, add_sam, read_source
from checkpoints.vocabulary import complete_vocabulary, tables_of
from checkpoints.weights import Weights, check_names, check_shapes, fill
from groundscore.errors import UserError
from model.backbones import BACKBONES, backbone_of
from model.backbones.base import depth_of
from model.config import GroundingConfig
from model.decoders import decoder_of
from model.grounding import GroundingModel
from model.settings import ImageSettings
from model.systems import build_system, plugin_of
from utils.settings import settings_of


@dataclass
class LoadReport:
    """What `load_model` did.

    read: tensors read; renamed: our name -> theirs of those with another name on disk; new: names of newly initialised
    tensors; new_tokens: newly initialised rows of the vocabulary; dropped: names of tensors that this system has no use
    for; notes: what else a user should know, such as flags that were ignored.
    """

    kind: str
    path: Path
    system: str
    read: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    new_tokens: int = 0
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line with what there is to say."""
        parts = [f"{self.system} from {self.kind} {self.path}: {self.read} tensors read, {len(self.renamed)} renamed"]
        if self.new:
            parts.append(f"newly initialised: {_tensors(self.new)}")
        if self.new_tokens:
            parts.append(f"newly initialised: {self.new_tokens} rows of the vocabulary")
        if self.dropped:
            parts.append(f"left out: {_tensors(self.dropped)}")
        return "; ".join([*parts, *self.notes])

    def whole(self) -> str:
        """The line, and below it the name of every tensor that was not read as it lies on disk."""
        lines = [f"  {ours} was {theirs}" for ours, theirs in self.renamed.items()]
        lines += [f"  newly initialised: {name}" for name in self.new]
        lines += [f"  left out: {name}" for name in self.dropped]
        return "\n".join([str(self), *lines])


def _tensors(names: list[str]) -> str:
    """How many tensors of which modules."""
    modules = ", ".join(sorted({name.split(".")[0] for name in names}))
    return f"{len(names)} tensor{'s' * (len(names) > 1)} of {modules}"


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class OpenedModel:
    """A model whose stored values are still on disk.

    model: what no file has is initialised already; the rest is memory that nobody has touched, which costs nothing.
    weights: where its other values are, under our names.
    """

    model: GroundingModel
    processor: GroundingProcessor
    weights: Weights
    report: LoadReport

    def fill(self) -> None:
        """Read the values into the model."""
        fill(self.model, self.weights, str(self.report.path))

    def report_after_training(self, trained: Collection[str], checkpoint: Path) -> LoadReport:
        """The report with the weights of a training run laid over: `trained` names its parameters and buffers."""
        report = self.report
        return replace(
            report,
            new=[name for name in report.new if name not in trained],
            new_tokens=0 if tables_of(self.model.config)[0] in trained else report.new_tokens,
            notes=[*report.notes, f"{len(trained)} tensors of {checkpoint} laid over"],
        )


def load_model(
    path: str | Path, *, device: str | torch.device = "cpu", bits: int | None = None, **source: Any
) -> tuple[GroundingModel, GroundingProcessor, LoadReport]:
    """A model, its processor, and what was done to get them.

    path, source: see `open_model`.
    bits: 8 or 4 for an LLM quantised by bitsandbytes (`quantizing.py`); it can then not be trained or saved.
    """
    opened = open_model(path, **source)
    opened.fill()
    if bits is not None:
        quantize(opened.model, bits)
        opened.report.notes.append(f"the LLM's linear layers quantised to {bits} bit")
    return opened.model.to(device), opened.processor, opened.report


def open_model(
    path: str | Path,
    *,
    system: str | None = None,
    vision_tower: str | None = None,
    vision_pretrained: str | None = None,
    precision: str = "fp32",
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    weight: str | Path | None = None,
    lora_alpha: float = 16,
    verify: bool = False,
) -> OpenedModel:
    """Find a model, settle its configuration and vocabulary, and build it; all but reading its values.

    path: a merged directory of ours, an adapter (its base is found through it), a reference checkpoint, or a LLaVA
        base (original or llava-hf); or its hub id.
    system: needed for a base; another one than a checkpoint's keeps what both share.
    vision_tower, vision_pretrained: CLIP directory and mask decoder (the authors' file or a directory of transformers),
        where `path` has none.
    overrides: fields of `GroundingConfig`.
    seed: of what is newly initialised.
    weight: a consolidated training file of the reference, `path` then being its base; lora_alpha as in that training.
    verify: compare all files of a directory of ours with their digests, not only those below a gigabyte.
    """
    path = find_model(path, "--version")
    checked = [check_digests(path, whole=verify)]
    adapter = Adapter.read(path)
    if adapter is not None:
        system = system or adapter.config.system
        vision_tower = vision_tower or adapter.base["vision_tower"]
        vision_pretrained = vision_pretrained or adapter.base["vision_pretrained"]
        overrides = {**adapter.fields(), **(overrides or {})}
        path = find_model(adapter.base["version"], f"{adapter.path}, whose base.json names the base")
        checked.append(check_digests(path, whole=verify))
    source = read_source(
        path, system=system, weight=None if weight is None else find_weight(weight), lora_alpha=lora_alpha
    )
    config = source.config
    stored = None if source.kind == BASE else deepcopy(config)
    if adapter is not None:  # which has all that its base lacks
        stored = deepcopy(config)
        _override(stored, {**adapter.fields(), "system": adapter.config.system})
    config.system = system or config.system
    built = build_system(config)
    config.plugin = plugin_of(config.system)
    if stored is None or stored.system != config.system:
        _override(config, built.when_new)
    _override(config, overrides or {})
    add_clip(source, vision_tower)
    add_line_break(source)
    _check_backbone(config)
    built.check()
    if built.decoder().published is not None:
        add_sam(source, vision_pretrained)
        _check_prompt_width(config, overrides or {})
    elif vision_pretrained:
        source.notes.append(f"--vision_pretrained {vision_pretrained} ignored: this {config.system} has no SAM")
    if stored is not None:
        stored.vision_config = deepcopy(config.vision_config)
        stored.sam_config = deepcopy(config.sam_config)
        stored.mask_decoder = config.mask_decoder
    report = LoadReport(source.what, source.path, config.system, notes=source.notes)

    report.notes += [note for note in checked if note]
    if source.kind == BASE:
        report.dropped += _drop_other_projector(source)
    if adapter is not None:
        source.tokenizer = adapter.tokenizer
        adapted = adapter.lay_over(source.weights)
        report.notes.append(f"adapter {adapter.path} laid over it, LoRA merged into {adapted} weights")
    report.new_tokens = complete_vocabulary(source, seed)
    if config.resize_vision_tower and CLIP_POSITIONS in source.weights:
        stored_grid, grid = (
            (side // config.vision_config.patch_size,) * 2
            for side in (config.vision_config.image_size, config.clip_image_size)
        )
        if resize_clip_positions(source.weights, stored_grid, grid, as_reference=source.kind == REFERENCE):
            report.notes.append(f"CLIP's position embeddings interpolated to {config.clip_image_size} pixels")

    _check_sizes(source)
    model = _build(source, stored, report, dtype=PRECISIONS[precision], seed=seed)
    report.read = len(source.weights)
    report.renamed = {name: theirs for name in source.weights if (theirs := source.weights.their_name(name)) != name}
    return OpenedModel(model, GroundingProcessor(config, source.tokenizer), source.weights, report)


def _build(
    source: Source, stored: GroundingConfig | None, report: LoadReport, *, dtype: torch.dtype, seed: int
) -> GroundingModel:
    """The model without the values that the source has, and with fresh ones for the rest. The caller's random state
    stays as it is."""
    with torch.random.fork_rng(devices=[]), _default_dtype(dtype):
        torch.default_generator.manual_seed(seed)
        with no_init_weights():
            model = GroundingModel(source.config)
        model.tie_weights()
        report.dropped += _settle_names(model, source, stored, report)
        initialise(model, set(report.new))
    return model


def _override(config: GroundingConfig, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name not in GroundingConfig.own_fields():
            raise ValueError(f"{name} is not a field of GroundingConfig")
        setattr(config, name, value)


def _check_backbone(config: GroundingConfig) -> None:
    """Raise `UserError` for settings that the backbone does not have or does not understand."""
    backbone = backbone_of(config)
    for name, setting in settings_of(ImageSettings).items():
        if name not in backbone.settings and getattr(config, name) != setting.default:
            owners = [other for other, kind in BACKBONES.items() if name in kind.settings]
            raise UserError(
                f"--{name}: {config.backbone} has no such setting, only {', '.join(owners)}; leave the flag out"
            )
    if config.conv_type not in backbone.conv_types:
        raise UserError(
            f"--conv_type {config.conv_type}: {config.backbone} understands {', '.join(backbone.conv_types)}"
        )
    backbone.check(config)


def _check_prompt_width(config: GroundingConfig, overrides: Mapping[str, Any]) -> None:
    """SAM decides how wide its prompts are; a flag can only agree."""
    width = config.sam_config.prompt_encoder_config.hidden_size
    if overrides.get("out_dim", width) != width:
        raise UserError(f"--out_dim {overrides['out_dim']}: the prompts of this SAM are {width} wide; leave it out")


def _check_sizes(source: Source) -> None:
    """Compare the sizes in the configuration with the shapes of all tensors, before any memory is taken for them."""
    _check_depths(source)
    config_file = source.path / CONFIG_FILE
    try:
        with torch.device("meta"), no_init_weights():
            tensors = GroundingModel(source.config).state_dict()
    except (ValueError, TypeError, KeyError, RuntimeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{config_file} describes a model that cannot be built ({reason[:200]})") from error
    check_shapes(source.weights, tensors, str(source.path))


def _check_depths(source: Source) -> None:
    """Raise `UserError` for numbers of layers that are not those of the tensors, before so many layers are built."""
    config = source.config
    stacks = backbone_of(config).stacks
    depths = {
        **{module: depth_of(getattr(config, part)) for module, part in stacks.items()},
        **decoder_of(config).depths(config),
    }
    for module, depth in depths.items():
        names = (name for name in source.weights if name.startswith(f"{module}."))
        held = len({name.removeprefix(f"{module}.").partition(".")[0] for name in names})
        if held not in (0, depth):
            raise UserError(
                f"{source.path} does not fit the model: {module} has {held} layers, where config.json says {depth}"
            )


def _drop_other_projector(source: Source) -> list[str]:
    """Forget a base's projector where the model has one of another form, which is newly initialised."""
    config, weights = source.config, source.weights
    if not config.separate_mm_projector:
        return []
    hidden = config.text_config.hidden_size * config.mm_projector_hidden_dim
    wanted = (hidden, config.vision_config.hidden_size)
    fits = config.mm_projector_type == "mlp2x_gelu" and weights.shapes().get("mm_projector.0.weight") == wanted
    if not fits:
        source.notes.append("the base's projector has another form: its successors must be trained")
    return [] if fits else weights.drop(("mm_projector.",))


def _settle_names(
    model: GroundingModel, source: Source, stored: GroundingConfig | None, report: LoadReport
) -> list[str]:
    """Compare the model's names with the source's: fills `report.new`, returns what was dropped, refuses the rest."""
    expected = set(model.state_dict())
    missing, unexpected = expected - set(source.weights), set(source.weights) - expected
    excused, useless = set(), set()
    if stored is None:
        excused = {name for name in missing if name.startswith(tuple(f"{part}." for part in model.added_modules))}
    elif missing or unexpected:
        # Only what the stored model has not, or has too much, may differ: the user asked for another one.
        with torch.device("meta"):
            held = set(GroundingModel(stored).state_dict())
        excused, useless = missing - held, unexpected & held
    if source.kind == REFERENCE:
        excused |= {name for name in missing if to_reference(name) is None}
    spelled = [to_reference(name) if source.kind == REFERENCE else name for name in missing - excused]
    check_names(spelled, [source.weights.their_name(name) for name in unexpected - useless], str(source.path))
    report.new += sorted(excused)
    return source.weights.drop(tuple(useless)) if useless else []


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
