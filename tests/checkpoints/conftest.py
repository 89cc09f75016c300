"""A LLaVA in both published layouts, a CLIP and a SAM, on disk as their authors publish them, only tiny."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, LlavaConfig, LlavaForConditionalGeneration

from checkpoints.names import sam_state_dict_to_original
from dataloaders.batching.tokenization import GroundingTokenizer
from tests.checkpoints.trained_run import write_run
from tests.tiny import tiny_model, tokenizer_bytes


@dataclass
class Published:
    """Paths of what others publish, and the tensors that they hold, under our names."""

    original: Path
    hf: Path
    clip: Path
    sam: Path
    tensors: dict[str, torch.Tensor]

    def flags(self, **more) -> dict:
        return {"vision_tower": str(self.clip), "vision_pretrained": str(self.sam), **more}


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Published:
    root = tmp_path_factory.mktemp("published")
    torch.manual_seed(3)
    source, _ = tiny_model("LISA", seed=7)
    tensors = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    rows = len(GroundingTokenizer(tokenizer_bytes()))
    for name in ("language_model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:rows]
    result = Published(root / "llava", root / "llava-hf", root / "clip", root / "sam_vit_t.pth", tensors)
    _write_original(result, source.config)
    _write_hf(result, source.config)
    _write_clip(result, source.config)
    torch.save(sam_state_dict_to_original(source.sam.state_dict()), result.sam)
    return result


def _write_original(published: Published, config) -> None:
    published.original.mkdir()
    text = config.text_config
    values = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "vocab_size": len(published.tensors["lm_head.weight"]),
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_scaling": None,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "/somebody/elses/clip",
    }
    (published.original / "config.json").write_text(json.dumps(values))
    tensors = {"model.image_newline": torch.zeros(text.hidden_size)}
    for name, tensor in published.tensors.items():
        if name.startswith("language_model."):
            tensors[name.replace("language_model.", "model.", 1)] = tensor
        elif name.startswith("mm_projector."):
            tensors[f"model.{name}"] = tensor
    tensors["lm_head.weight"] = published.tensors["lm_head.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for file, held in shards.items():
        torch.save({name: tensors[name].clone() for name in held}, published.original / file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (published.original / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (published.original / "tokenizer.model").write_bytes(tokenizer_bytes())


def _linear_names(name: str) -> str:
    name = name.replace("mm_projector.0", "multi_modal_projector.linear_1")
    return name.replace("mm_projector.2", "multi_modal_projector.linear_2")


def _write_hf(published: Published, config) -> None:
    """As transformers itself writes it, with two tokens more and a vocabulary rounded up."""
    rows, width = published.tensors["lm_head.weight"].shape
    text = config.text_config.to_dict() | {"vocab_size": rows + 10}
    llava = LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=config.vision_config.to_dict(), image_token_index=rows)
    )
    state = {}
    for name, tensor in published.tensors.items():
        if name.startswith(("language_model.", "vision_tower.")):
            state[f"model.{name}"] = tensor
        elif name.startswith("mm_projector."):
            state[f"model.{_linear_names(name)}"] = tensor
    state["lm_head.weight"] = published.tensors["lm_head.weight"]
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], torch.ones(10, width)])
    llava.load_state_dict(state)
    llava.save_pretrained(published.hf)
    tokenizer = GroundingTokenizer(tokenizer_bytes(), {"<image>": rows, "<pad>": rows + 1})
    tokenizer.save(published.hf)


def _write_clip(published: Published, config) -> None:
    """Both sides of CLIP, as OpenAI's directories hold them."""
    clip = CLIPModel(
        CLIPConfig(
            vision_config=config.vision_config.to_dict(),
            text_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "vocab_size": 99,
                "bos_token_id": 0,
                "eos_token_id": 1,
            },
        )
    )
    tower = {
        name.removeprefix("vision_tower."): tensor
        for name, tensor in published.tensors.items()
        if name.startswith("vision_tower.")
    }
    inner = clip.vision_model
    missing, unexpected = inner.load_state_dict(tower, strict=False)
    assert not missing and not unexpected
    clip.save_pretrained(published.clip)


@pytest.fixture
def write_hf_4(published):
    """Rewrites the llava-hf directory with the names of transformers 4.x."""

    def write(directory: Path) -> Path:
        directory.mkdir()
        for file in published.hf.iterdir():
            if file.suffix != ".safetensors":
                (directory / file.name).write_bytes(file.read_bytes())
        tensors = {}
        for name, tensor in published.tensors.items():
            if name.startswith("language_model."):
                tensors[name.replace("language_model.", "language_model.model.", 1)] = tensor
            elif name.startswith("vision_tower."):
                tensors[name.replace("vision_tower.", "vision_tower.vision_model.", 1)] = tensor
            elif name.startswith("mm_projector."):
                tensors[_linear_names(name)] = tensor
        tensors["language_model.lm_head.weight"] = published.tensors["lm_head.weight"]
        save_file(tensors, directory / "model.safetensors")
        return directory

    return write


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished training run of UGround, and its base beside it."""
    return write_run(tmp_path, *tiny_model())
