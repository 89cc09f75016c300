"""What a training step costs, counted without computing it: shapes alone go through the model (PyTorch's fake tensors).

    python -m benchmarks.counting                                  the bench model, by part
    python -m benchmarks.counting --size 7b --lora_r 8 --checkpointing
    python -m benchmarks.counting --decoders                       every mask decoder at its published sizes

The FLOPs are the same as those of a real step. The memory is what the step keeps for its backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import benchmark_parser
from groundscore.errors import run_main
from groundscore.names import look_up

if TYPE_CHECKING:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.bench_model import BenchShape
    from dataloaders.batching.batch import Batch


@dataclass(frozen=True)
class StepCount:
    """flops of a step; forward: those of its forward pass by part; kept_bytes: what the backward pass needs, without
    the parameters; total, trainable: numbers of parameters.
    """

    flops: float
    forward: dict[str, float]
    kept_bytes: int
    total: int
    trainable: int

    @property
    def backward(self) -> float:
        """FLOPs of the backward pass."""
        return self.flops - sum(self.forward.values())


def main(argv: Sequence[str]) -> None:
    """Prints what a step costs, its forward pass by part."""
    parser = benchmark_parser("counting", __doc__)
    parser.add_argument("--size", default="bench", metavar="NAME", help="of bench_model.SIZES: tiny, bench, 7b, 13b, …")
    parser.add_argument(
        "--lora_r", type=int, default=0, metavar="N", help="rank of LoRA; 0 trains the whole LLM (default)"
    )
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument("--decoders", action="store_true", help="the mask decoders alone, at their published sizes")
    flags = parser.parse_args(argv)
    if flags.decoders:
        return print_decoders()
    from benchmarks.bench_model import SIZES

    shape = look_up(flags.size, SIZES, "size")
    count = count_step(shape, lora_r=flags.lora_r, checkpointing=flags.checkpointing)
    forward = sum(count.forward.values())
    print("|part|GFLOP|share of the forward pass|\n|---|---|---|")
    for part, flops in count.forward.items():
        print(f"|{part}|{flops / 1e9:.1f}|{flops / forward:.1%}|")
    print(f"|forward|{forward / 1e9:.1f}||\n|backward|{count.backward / 1e9:.1f}||")
    print(f"\nkept for the backward pass: {count.kept_bytes / 1e9:.2f} GB in float32; ", end="")
    print(f"{count.trainable / 1e6:.0f} of {count.total / 1e6:.0f} million parameters are trainable")


def count_step(
    shape: BenchShape,
    system: str = "UGround",
    *,
    dtype: torch.dtype | None = None,
    lora_r: int = 0,
    checkpointing: bool = False,
) -> StepCount:
    """Count a forward and backward pass of the bench model; lora_r, checkpointing: see `bench_model.adapt`."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.bench_model import adapt, bench_batch, bench_model
    from benchmarks.measuring import flop_counter

    batch = bench_batch(shape)
    model = bench_model(shape, system, dtype=dtype or torch.float32, device="meta")
    adapt(model, lora_r=lora_r, checkpointing=checkpointing)
    _fix_grids(model, batch)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        _to_fake_cpu(model)
        batch = _without_values(batch, fake)
        kept = _KeptBytes(model)
        with flop_counter() as counter:
            with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
                loss = model(batch).loss
            whole = float(counter.get_total_flops())
            counts = counter.get_flop_counts()
            forward = {
                part: sum(_flops_below(f"GroundingModel.{name}", counts) for name in names)
                for part, names in _parts(model).items()
            }
            forward["rest"] = whole - sum(forward.values())
            loss.backward()
        parameters = list(model.parameters())
        return StepCount(
            flops=float(counter.get_total_flops()),
            forward=forward,
            kept_bytes=kept.total,
            total=sum(parameter.numel() for parameter in parameters),
            trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        )


# --- mask decoders alone ---------------------------------------------------------------------------------------------

_VIT_H = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "global_attn_indexes": [7, 15, 23, 31],
}
_HIERA_LARGE = {
    "hidden_size": 144,
    "embed_dim_per_stage": [144, 288, 576, 1152],
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "blocks_per_stage": [2, 6, 36, 4],
    "global_attention_blocks": [23, 33, 43],
    "window_size_per_stage": [8, 4, 16, 8],
    "model_type": "sam2_hiera_det_model",
}
# The mask decoder and its configuration where it differs from the class's, by what is published.
DECODER_SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "SAM ViT-B": ("sam", {}),
    "SAM ViT-H": ("sam", {"vision_config": _VIT_H}),
    "SAM-HQ ViT-H": ("sam_hq", {"vision_config": _VIT_H, "mask_decoder_config": {"vit_dim": 1280}}),
    "SAM 2.1 tiny": ("sam2", {}),
    "SAM 2.1 large": (
        "sam2",
        {"vision_config": {"backbone_config": _HIERA_LARGE, "backbone_channel_list": [1152, 576, 288, 144]}},
    ),
    "SAM 3 tracker": ("sam3_tracker", {"vision_config": {"scale_factors": [4.0, 2.0, 1.0]}}),
}


@dataclass(frozen=True)
class DecoderCount:
    """What a mask decoder costs: parameters of its encoder and of the rest; flops of encoding an image, and of decoding
    its targets forward; kept_bytes: what the targets keep for the backward pass in float32; cached_bytes of an image's
    features in bfloat16."""

    encoder: int
    rest: int
    encoding: float
    decoding: float
    kept_bytes: int
    cached_bytes: int


def print_decoders(targets: int = 6) -> None:
    """Prints a line for every published size."""
    print(f"|mask decoder|encoder, M parameters|rest|an image, GFLOP|{targets} targets, GFLOP|kept, GB|cached, MB|")
    print("|---|---|---|---|---|---|---|")
    for size in DECODER_SIZES:
        count = count_decoder(size, targets)
        numbers = (count.encoder / 1e6, count.rest / 1e6, count.encoding / 1e9, count.decoding / 1e9)
        cells = [*(f"{number:.0f}" for number in numbers), f"{count.kept_bytes / 1e9:.2f}"]
        print(f"|{size}|{'|'.join(cells)}|{count.cached_bytes / 1e6:.1f}|")


def count_decoder(size: str, targets: int) -> DecoderCount:
    """Count one image with so many targets, each with a text token and a mask prompt; size: of `DECODER_SIZES`."""
    import numpy as np
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.measuring import flop_counter
    from dataloaders.batching.batch import ImageGroup
    from model.config import GroundingConfig
    from model.decoders import decoder_of

    name, values = DECODER_SIZES[size]
    config = GroundingConfig(sam_config=values, mask_decoder=name)
    with torch.device("meta"):
        decoder = decoder_of(config)(config)
    decoder.encoder.requires_grad_(False)
    pixels, geometry = decoder.preparation(config)(np.zeros((480, 640, 3), dtype=np.uint8))
    width = config.sam_config.prompt_encoder_config.hidden_size
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        _to_fake_cpu(decoder)
        group = ImageGroup([0], fake.from_tensor(pixels[None]), [geometry])
        with flop_counter() as counter:
            features = decoder.encode(group)
            encoding = float(counter.get_total_flops())
        text = torch.empty(targets, 1, width, requires_grad=True)
        dense = torch.empty(targets, 1, decoder.prompt_side, decoder.prompt_side)
        kept = _KeptBytes(decoder)
        with flop_counter() as counter, torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            decoder.decode(features, torch.zeros(targets, dtype=torch.int64), text, dense)
        decoding = float(counter.get_total_flops())
        encoder, whole = (sum(each.numel() for each in part.parameters()) for part in (decoder.encoder, decoder))
        cached = sum(2 * each.numel() for each in features)
        return DecoderCount(encoder, whole - encoder, encoding, decoding, kept.total, cached)


def _parts(model: torch.nn.Module) -> dict[str, tuple[str, ...]]:
    """The names of the modules of each part of the table."""
    backbone, decoder = model.backbone, model.decoder
    parts = {
        backbone.encoder_name: backbone.parts["encoder"],
        "projector": backbone.parts["projector"],
        "LLM": backbone.parts["llm"],
        "LLM's head": backbone.parts["head"],
        f"{decoder.encoder_name} encoder": decoder.parts.get("encoder", ()),
        "mask prompt": decoder.parts.get("prompt", ()),
        "mask decoder": decoder.parts.get("decoder", ()),
    }
    return {part: names for part, names in parts.items() if names}


def _flops_below(name: str, counts: dict) -> float:
    """FLOPs of a module, or of those of its parts that were called where it was not called itself."""
    names = {key for key in counts if key == name or key.startswith(f"{name}.")}
    outermost = [key for key in names if not any(key.startswith(f"{other}.") for other in names)]
    return float(sum(sum(counts[key].values()) for key in outermost))


class _KeptBytes:
    """Adds up the memory of the tensors that a graph keeps, each once, parameters and buffers left out."""

    def __init__(self, model: torch.nn.Module):
        known = [*model.parameters(), *model.buffers()]
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive = []  # a storage that is freed may give its identity to the next
        self.total = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Counts a tensor that is saved for the backward pass, and returns it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(storage)
            self.total += storage.nbytes()
        return tensor


def _to_fake_cpu(model: torch.nn.Module) -> None:
    """Parameters and buffers without values, but with a device, which decides about kernels."""
    import torch

    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype)
                module._parameters[name] = torch.nn.Parameter(fake, requires_grad=value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype)


def _fix_grids(model: torch.nn.Module, batch: Batch) -> None:
    """Give Qwen-VL's image encoder what it computes of the values of its grids, which fake tensors do not have."""
    import torch

    from model.backbones.qwen_vl import QwenVLBackbone

    if not isinstance(model.backbone, QwenVLBackbone):
        return
    from transformers import vision_utils

    encoder, config = model.visual, model.visual.config
    grids = torch.cat([model.backbone.grids(group) for group in batch.backbone_images.groups])
    merge = config.spatial_merge_size
    lengths, longest = vision_utils.get_vision_attention_seqlens(grids, config)
    known: dict[str, Any] = {"cu_seqlens": lengths.numpy(), "max_seqlen": longest}
    known["position_ids"] = vision_utils.get_vision_position_ids(grids, merge)
    if hasattr(config, "window_size"):
        index, windows = vision_utils.get_vision_window_index(grids, merge, config.window_size, config.patch_size)
        known |= {"window_index": index, "cu_window_seqlens": windows.numpy()}
    else:
        found = vision_utils.get_vision_interpolation_indices_and_weights(
            grids, encoder.num_grid_per_side, align_corners=True, spatial_merge_size=merge
        )
        known |= dict(zip(("interp_indices", "interp_weights"), found, strict=True))
    encoder.forward = partial(encoder.forward, **known)


def _without_values(batch, fake: FakeTensorMode):
    return batch.changed(fake.from_tensor)


if __name__ == "__main__":
    run_main(main)
