"""Models to disk: our self-contained directory, and the layout of the reference.

A directory is written beside its final place and renamed when it is complete; a failure leaves nothing behind.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dataloaders.processing import GroundingProcessor
from utils.errors import UserError

from ..grounding import GroundingModel
from .architecture import LLAMA_FIELDS
from .files import CONFIG_FILE, SAFETENSORS_FILE, SAFETENSORS_INDEX, TORCH_FILE, TORCH_INDEX
from .loading import reference_state_dict

SHARD_BYTES = 5 * 10**9


def save_model(
    model: GroundingModel,
    processor: GroundingProcessor,
    directory: str | Path,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write weights (safetensors, the CLIP tower included), `config.json`, tokenizer and image settings.

    A directory that exists is refused, or replaced with `overwrite`.
    """
    state = model.state_dict()
    _check_merged(state)
    with _written_beside(Path(directory), overwrite) as beside:
        _write_shards(state, beside, SAFETENSORS_FILE, SAFETENSORS_INDEX, shard_bytes, _save_safetensors)
        _write_json(beside / CONFIG_FILE, _config_values(model))
        processor.save_pretrained(beside)


def export_reference(
    model: GroundingModel,
    processor: GroundingProcessor,
    directory: str | Path,
    *,
    vision_tower: str,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a merged checkpoint as the reference implementation reads it: its names, `.bin` shards, no CLIP tower.

    vision_tower: where the reference shall find CLIP. What the reference keeps outside its checkpoints (the running
    reward) is lost.
    """
    state = {
        name: tensor
        for name, tensor in reference_state_dict(model).items()
        if not name.startswith("model.vision_tower.")
    }
    _check_merged(state)
    state["model.decoder_modules_initialized"] = torch.tensor(True)
    frequencies = model.language_model.rotary_emb.inv_freq
    for layer in range(model.config.text_config.num_hidden_layers):
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = frequencies
    with _written_beside(Path(directory), overwrite) as beside:
        _write_shards(state, beside, TORCH_FILE, TORCH_INDEX, shard_bytes, torch.save)
        _write_json(beside / CONFIG_FILE, _reference_config(model, vision_tower))
        processor.tokenizer.save(beside)


def _check_merged(state: Mapping[str, Tensor]) -> None:
    adapters = [name for name in state if ".lora_" in name or ".base_layer." in name]
    assert not adapters, f"merge LoRA before saving: {adapters[:3]}"


def _config_values(model: GroundingModel) -> dict[str, Any]:
    values = model.config.to_dict()
    dtype = next(model.parameters()).dtype
    return values | {"architectures": [type(model).__name__], "dtype": str(dtype).removeprefix("torch.")}


def _reference_config(model: GroundingModel, vision_tower: str) -> dict[str, Any]:
    """The reference's `config.json`: the LLaMA's fields, LLaVA's, and the flags of its systems."""
    config = model.config
    text = config.text_config.to_dict()
    values = {name: text[name] for name in LLAMA_FIELDS if text.get(name) is not None and name != "rope_parameters"}
    rope = dict(text.get("rope_parameters") or {})
    values["rope_theta"] = rope.pop("rope_theta", 10000.0)
    kind = rope.pop("rope_type", "default")
    values["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    flags = (
        "out_dim",
        "resize_vision_tower",
        "resize_vision_tower_size",
        "pad_train_clip_images",
        "vision_tower_for_mask",
        "separate_mm_projector",
        "mm_projector_hidden_dim",
        "mm_projector_out_dim",
        "image_feature_scale_num",
        "num_layers",
        "mode",
        "baseline_type",
        "critic_hidden_dim",
        "baseline_beta",
        "eval_legacy",
        "mm_projector_type",
        "mm_vision_select_layer",
    )
    return (
        values
        | {name: getattr(config, name) for name in flags}
        | {
            "architectures": [f"{config.system}ForCausalLM"],
            "model_type": "llava",
            "torch_dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "train_mask_decoder": True,
            "strategy": "policy_walker",
            "mm_vision_tower": vision_tower,
            "vision_tower": vision_tower,
            "mm_hidden_size": config.vision_config.hidden_size,
            "mm_vision_select_feature": "patch",
            "mm_use_im_start_end": True,
            "mm_use_im_patch_token": False,
            "mm_patch_merge_type": "flat",
            "image_aspect_ratio": "square",
            "masks_process_with_clip": False,
            "tie_word_embeddings": False,
            "use_cache": False,
        }
    )


# --- files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _written_beside(directory: Path, overwrite: bool) -> Iterator[Path]:
    """A new directory that takes the place of `directory` if the block succeeds, and disappears if it does not."""
    directory = directory.expanduser().resolve()
    if directory.exists() and not overwrite:
        raise UserError(f"{directory} exists already; choose another place, or pass --overwrite")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is not a directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.writing-", dir=directory.parent))
    try:
        yield beside
        _make_readable(beside)
        _sync(beside)
        _replace(directory, beside)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _replace(directory: Path, beside: Path) -> None:
    """Give `beside` its name; what had it before goes only after that."""
    old = None
    if directory.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.replaced-", dir=directory.parent))
        os.rename(directory, old)
    try:
        os.rename(beside, directory)
    except BaseException:
        if old is not None:
            os.rename(old, directory)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _make_readable(directory: Path) -> None:
    """`mkdtemp` makes a directory for its owner alone; give it the mode that `mkdir` would."""
    mask = os.umask(0)
    os.umask(mask)
    directory.chmod(0o777 & ~mask)


def _sync(directory: Path) -> None:
    """Ask the system to write the files to disk before the directory gets its name."""
    for path in [*directory.iterdir(), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_shards(
    state: Mapping[str, Tensor],
    directory: Path,
    single: str,
    index: str,
    shard_bytes: int,
    save: Callable[[dict[str, Tensor], Path], None],
) -> None:
    """One file, or numbered shards of about `shard_bytes` with an index, named as transformers does."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    stem, _, suffix = single.rpartition(".")
    files: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = single if len(shards) == 1 else f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
        # Cloned on the CPU: files must not share or drag along the storage of other tensors.
        save({name: state[name].detach().to("cpu", copy=True).contiguous() for name in names}, directory / file)
        files |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in state.values())
        _write_json(directory / index, {"metadata": {"total_size": total}, "weight_map": files})


def _save_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
