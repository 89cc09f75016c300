"""Models to disk and to the hub: our self-contained directory, and the layouts of the reference and of transformers.

A directory appears whole or not at all (`writing.py`).
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from checkpoints.architecture import LLAMA_FIELDS
from checkpoints.card import CardExample, Scores, model_card
from checkpoints.files import (
    CARD_FILE,
    CONFIG_FILE,
    SAFETENSORS_FILE,
    SAFETENSORS_INDEX,
    SETTINGS_FILE,
    TORCH_FILE,
    TORCH_INDEX,
)
from checkpoints.names import layout_of, to_reference
from checkpoints.processing import GroundingProcessor
from checkpoints.vocabulary import tables_of
from checkpoints.writing import (
    TensorToWrite,
    config_values,
    in_memory,
    write_safetensors,
    write_shards,
    write_torch,
    written_beside,
)
from groundscore.errors import UserError
from groundscore.writing import write_json
from model.backbones.base import ties_embeddings
from model.decoders.published import SAM
from model.grounding import GroundingModel
from model.policy import CONTEXT_GATE

SHARD_BYTES = 5 * 10**9


def save_model(
    model: GroundingModel,
    processor: GroundingProcessor,
    directory: str | Path,
    *,
    tensors: Mapping[str, TensorToWrite] | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    base: str | None = None,
    scores: Scores | None = None,
    report: str | None = None,
    name: str | None = None,
    examples: Callable[[Path], CardExample] | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write weights (safetensors, the CLIP tower included), `config.json`, tokenizer, image settings and model card.

    A directory that exists is refused; with `overwrite` a model that this program wrote is replaced.
    tensors: the weights, where they are not the model's own values (`merging.py`).
    base, scores, report: what the card tells of training and evaluation; name: how the card calls the model, if not by
    its directory. examples: called with the directory when it can be loaded, to write examples into it.
    progress: called with the bytes written and the bytes of all.
    check: called with the finished directory before it gets its name; where it raises, nothing is kept or replaced.
    """
    state = in_memory(model.state_dict()) if tensors is None else tensors
    _check_merged(state)
    with written_beside(Path(directory), overwrite, check) as beside:
        write_shards(
            state,
            beside,
            single=SAFETENSORS_FILE,
            index=SAFETENSORS_INDEX,
            shard_bytes=shard_bytes,
            write=write_safetensors,
            progress=progress,
        )
        write_json(beside / CONFIG_FILE, config_values(model, state["lm_head.weight"].dtype), sort_keys=True)
        processor.save_pretrained(beside)
        shown = examples(beside) if examples else None
        called = name or Path(directory).resolve().name
        card = model_card(model.config, called, base=base, scores=scores, report=report, example=shown)
        (beside / CARD_FILE).write_text(card, encoding="utf-8")


def export_reference(
    model: GroundingModel,
    processor: GroundingProcessor,
    directory: str | Path,
    *,
    vision_tower: str,
    tensors: Mapping[str, TensorToWrite] | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a merged checkpoint as the reference implementation reads it: its names, `.bin` shards, no CLIP tower.

    vision_tower: where the reference shall find CLIP. What the reference keeps outside its checkpoints (the running
    reward) is lost. tensors, progress, check: as in `save_model`.
    """
    if model.config.backbone != "llava":
        raise UserError(f"the reference implementation has no {model.config.backbone}; write another layout")
    if model.system.uses_policy and model.config.gate == CONTEXT_GATE:
        raise UserError(f'the reference has no gate "{CONTEXT_GATE}"; export this checkpoint in our own layout')
    if type(model.decoder).published not in (None, SAM):
        raise UserError(
            f"the reference has SAM alone, this checkpoint {model.decoder.encoder_name}; export it in our own layout"
        )
    if model.config.anyres:
        raise UserError("the reference has no images in tiles (anyres); export this checkpoint in our own layout")
    ours = in_memory(model.state_dict()) if tensors is None else tensors
    _check_merged(ours)
    state = {to_reference(name): tensor for name, tensor in ours.items()}
    state = {name: tensor for name, tensor in state.items() if name and not name.startswith("model.vision_tower.")}
    extra = {"model.decoder_modules_initialized": torch.tensor(True)}
    for layer in range(model.config.text_config.num_hidden_layers):
        extra[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = model.language_model.rotary_emb.inv_freq
    with written_beside(Path(directory), overwrite, check) as beside:
        write_shards(
            state | in_memory(extra),
            beside,
            single=TORCH_FILE,
            index=TORCH_INDEX,
            shard_bytes=shard_bytes,
            write=write_torch,
            progress=progress,
        )
        write_json(
            beside / CONFIG_FILE, _reference_config(model, vision_tower, ours["lm_head.weight"].dtype), sort_keys=True
        )
        processor.tokenizer.save(beside)


def export_base(
    model: GroundingModel,
    processor: GroundingProcessor,
    directory: str | Path,
    *,
    tensors: Mapping[str, TensorToWrite] | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write the multimodal LLM alone, as transformers reads it: for programs that answer without masks.

    Its tensors have the names of the base that training started from, and it is a base again. Text projection, mask
    decoder and what the system adds are left out. tensors, progress, check: as in `save_model`.
    """
    backbone = type(model.backbone)
    if not backbone.names:
        raise UserError(f"{model.config.backbone} has no layout of transformers here; export the reference's names")
    ours = in_memory(model.state_dict()) if tensors is None else tensors
    _check_merged(ours)
    parts = tuple(f"{name}." for name, _ in model.backbone.named_children())
    _, head = tables_of(model.config)
    left_out = {head} if ties_embeddings(model.config) else set()
    layout = layout_of(backbone)
    state = {
        layout.to_theirs(name): each for name, each in ours.items() if name.startswith(parts) and name not in left_out
    }
    dtype = str(ours[head].dtype).removeprefix("torch.")
    config = backbone.config_of_base(model.config).to_dict() | {"dtype": dtype}
    with written_beside(Path(directory), overwrite, check) as beside:
        write_shards(
            state,
            beside,
            single=SAFETENSORS_FILE,
            index=SAFETENSORS_INDEX,
            shard_bytes=shard_bytes,
            write=write_safetensors,
            progress=progress,
        )
        write_json(beside / CONFIG_FILE, config, sort_keys=True)
        processor.tokenizer.save(beside)
        write_json(beside / SETTINGS_FILE, backbone.image_settings_of_base(model.config), sort_keys=True)


def _check_merged(state: Mapping[str, TensorToWrite]) -> None:
    adapters = [name for name in state if ".lora_" in name or ".base_layer." in name]
    assert not adapters, f"merge LoRA before saving: {adapters[:3]}"


def _reference_config(model: GroundingModel, vision_tower: str, dtype: torch.dtype) -> dict[str, Any]:
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
        "llm_image_grid",
        "pad_train_clip_images",
        "vision_tower_for_mask",
        "separate_mm_projector",
        "mm_projector_hidden_dim",
        "mm_projector_out_dim",
        "image_feature_scale_num",
        "num_layers",
        "mode",
        "gate",
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
            "torch_dtype": str(dtype).removeprefix("torch."),
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


def push_to_hub(
    model: GroundingModel,
    processor: GroundingProcessor,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    shard_bytes: int = SHARD_BYTES,
    base: str | None = None,
    scores: Scores | None = None,
) -> str:
    """Create the repository if need be and upload everything in one commit; its address.

    private, token, revision: as in huggingface_hub. base, scores: for the model card.
    """
    with tempfile.TemporaryDirectory(prefix="uground-upload-") as parent:
        directory = Path(parent) / "model"
        save_model(model, processor, directory, shard_bytes=shard_bytes, base=base, scores=scores, name=repo_id)
        return upload(
            directory, repo_id, private=private, token=token, revision=revision, commit_message=commit_message
        )


def upload(
    directory: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
) -> str:
    """Upload a saved directory as it is; the address of the commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=repo_id, folder_path=directory, revision=revision, commit_message=commit_message
        )
    except OfflineModeIsEnabled as error:
        raise UserError(f"{repo_id} was not uploaded: HF_HUB_OFFLINE is set") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(f"{repo_id} was not uploaded: {reason[0] if reason else type(error).__name__}") from error
    return done.commit_url
