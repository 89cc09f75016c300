"""The reference's side of `benchmarks.versus`, and what both sides answer.

This file runs in the reference's own Python with its old libraries, so it imports nothing of ours and takes everything
from the exported directory (`versus_ours.export`): sizes and settings as JSON, weights and batches under the
reference's names. The checkout is used as it is, but for what a CPU has not: a GPU that tensors are sent to, and
libraries that it imports for its data sets and its page alone.

    python benchmarks/versus_reference.py CHECKOUT EXPORTED     then one line of JSON a request on standard input
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

# Imported by the checkout for data sets, demos and automatic masks, and not used by the model: need not be installed.
UNUSED = ("cv2", "pycocotools", "pycocotools.mask", "requests", "torchvision", "torchvision.ops",
          "torchvision.ops.boxes", "torchvision.transforms", "torchvision.transforms.functional")  # fmt: skip
CONSTANT = ("inv_freq", "position_ids", "decoder_modules_initialized", "reward_mean")  # of the one side or the other


# --- both sides ------------------------------------------------------------------------------------------------------


def serve(works: dict[str, Callable[[dict[str, Any]], Any]]) -> None:
    """Answers requests on standard input until it ends: {"work": name, …} with what `works[name](request)` returns
    ("value", where JSON can hold it), the CPU seconds of the process and the most memory that it had meanwhile."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed must not be taken for an answer
    for line in sys.stdin:
        request = json.loads(line)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
        start = time.process_time()
        value = works[request["work"]](request)
        seconds = time.process_time() - start
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(each.split()[1]) for each in status if each.startswith("VmHWM:"))
        answer = {"cpu_seconds": seconds, "peak_gb": peak * 1024 / 1e9, "value": value}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


# --- the reference ---------------------------------------------------------------------------------------------------


def main(checkout: str, exported: str) -> None:
    """Builds the reference's model and serves its works."""
    sys.path[0] = checkout  # in place of this file's folder, whose names are others
    torch = _libraries()
    directory = Path(exported)
    settings = json.loads((directory / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    model = build(settings, directory)
    batches = {name: load_batch(directory, name) for name in ("train", "evaluate", "generate")}
    usual_attention = _attention_class().forward

    def use(request: dict[str, Any]) -> None:
        _attention_class().forward = causal_sdpa if request.get("attention") == "sdpa" else usual_attention

    def train(request: dict[str, Any]) -> None:
        use(request)
        model.train()
        model.zero_grad()
        model(**batches["train"])["loss"].backward()

    def losses(request: dict[str, Any]) -> dict[str, float]:
        use(request)
        model.train()
        draw = torch.distributions.Categorical.sample
        torch.distributions.Categorical.sample = lambda self, *_: torch.tensor(request["layers"])
        with torch.no_grad():
            found = model(**batches["train"])
        torch.distributions.Categorical.sample = draw
        return {name: float(value) for name, value in found.items()}

    def evaluate(request: dict[str, Any]) -> None:
        use(request)
        model.eval()
        with torch.no_grad():
            model(**batches["evaluate"], inference=True)

    def generate(request: dict[str, Any]) -> None:
        use(request)
        model.eval()
        (model.base_model.model if settings["lora"] else model).evaluate(
            **batches["generate"], max_new_tokens=request["tokens"]
        )

    serve({"losses": losses, "train": train, "evaluate": evaluate, "generate": generate})


def _libraries() -> Any:
    """Imports torch and the parts of transformers that the checkout needs, and stands in for what is not there."""
    import torch
    import transformers

    # Before any library is stood in for: transformers asks which are installed.
    for name in ("AutoTokenizer", "CLIPImageProcessor", "CLIPVisionModel", "GenerationConfig", "LlamaForCausalLM"):
        getattr(transformers, name)
    sys.modules |= {name: MagicMock() for name in UNUSED}
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self
    return torch


def build(settings: dict[str, Any], directory: Path) -> Any:
    """The checkout's UGround with the exported weights."""
    from safetensors.torch import load_file

    # The checkout's modules, whose folder has the name of one of ours.
    source = import_module("model.UGround")
    llava = import_module("model.llava.model.language_model.llava_llama")
    sam = import_module("model.segment_anything.build_sam")
    source.build_sam_vit_h = lambda checkpoint=None: sam._build_sam(**settings["sam"], checkpoint=checkpoint)
    config = llava.LlavaConfig(**settings["llm"])
    model = source.UGroundForCausalLM(config, vision_tower=str(directory / "clip"), **settings["arguments"])
    model.get_model().initialize_vision_modules(config)
    model.get_model().initialize_decoder_modules(config)
    missing, unknown = model.load_state_dict(load_file(directory / "weights.safetensors"), strict=False)
    differ = [name for name in (*missing, *unknown) if not name.endswith(CONSTANT)]
    if differ:
        raise SystemExit(f"the checkout's model has other tensors than the exported weights: {', '.join(differ[:5])}")
    lora = settings["lora"]
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(**lora, bias="none", task_type="CAUSAL_LM"))
    trained = set(settings["trained"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.removeprefix("base_model.model.") in trained or ".lora_" in name)
    model.generation_config.eos_token_id = None  # every run writes all the tokens
    return model


def load_batch(directory: Path, name: str) -> dict[str, Any]:
    """The keyword arguments of a forward pass, or of `evaluate`."""
    from safetensors.torch import load_file

    tensors = load_file(directory / f"{name}.safetensors")
    sizes = json.loads((directory / f"{name}.json").read_text())
    shared = {
        "images": tensors["images"],
        "images_clip": tensors["images_clip"],
        "input_ids": tensors["input_ids"],
        "sam_mask_shape_list": [(tuple(resized), tuple(size)) for resized, size in sizes["sam"]],
        "clip_resize_list": [tuple(size) for size in sizes["clip"]],
    }
    if name == "generate":
        return shared
    return {
        **shared,
        "labels": tensors["labels"],
        "attention_masks": tensors["attention_masks"],
        "offset": tensors["offset"],
        "masks_list": [tensors[f"masks.{image}"] for image in range(len(sizes["sam"]))],
    }


def _attention_class() -> Any:
    from transformers.models.llama import modeling_llama

    return modeling_llama.LlamaAttention


def causal_sdpa(self, hidden_states, attention_mask=None, position_ids=None, *_, **__):
    """PyTorch's fused attention in LLaMA, for which the reference takes flash-attn on a GPU; nothing is padded here."""
    import torch.nn.functional as F
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    rows, length, _ = hidden_states.shape
    query, key, value = (
        projection(hidden_states).view(rows, length, -1, self.head_dim).transpose(1, 2)
        for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    cos, sin = self.rotary_emb(value, seq_len=length)
    query, key = apply_rotary_pos_emb(query, key, cos, sin, position_ids)
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return self.o_proj(attended.transpose(1, 2).reshape(rows, length, -1)), None, None


if __name__ == "__main__":
    main(*sys.argv[1:])
