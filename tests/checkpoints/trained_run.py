"""A training run on disk without the training: a base, and a checkpoint of what would have been learned on it; and
its merge."""

import json
from pathlib import Path
from typing import Any

import torch

import merge_lora_weights
from checkpoints import save_model
from checkpoints.digests import file_record
from checkpoints.runs import LATEST, MARKER, Position, save_checkpoint
from checkpoints.runs.finding import Marker
from training.arguments import parse_arguments
from training.building import add_adapters_and_freeze, build_model
from training.resuming import describe_run
from utils.distributed import World

CPU = torch.device("cpu")


class EngineOfStageZero:
    """Writes what DeepSpeed writes at ZeRO 0: one file with the trained weights and the buffers."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.tensors = tensors

    def save_checkpoint(self, directory: str, *, tag: str, **_: Any) -> None:
        (Path(directory) / tag).mkdir()
        torch.save({"module": self.tensors}, Path(directory) / tag / "mp_rank_00_model_states.pt")


def write_run(root: Path, model, processor, *flags: str, precision: str = "fp32") -> Path:
    """Save `model` as the base and a checkpoint with noise on all trained parameters; the path of the run."""
    base, run = root / "base", root / "run"
    save_model(model, processor, base)
    arguments = [
        "--version",
        str(base),
        "--model_key",
        model.config.system,
        "--lora_r",
        "2",
        "--lora_alpha",
        "8",
        *flags,
    ]
    config = parse_arguments(arguments)
    trained, _, _ = build_model(config, precision=precision)
    add_adapters_and_freeze(trained, config)
    generator = torch.Generator().manual_seed(5)
    state = trained.state_dict()
    learned: dict[torch.nn.Parameter, torch.Tensor] = {}
    for name, parameter in trained.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            del state[name]
            continue
        if parameter not in learned:  # tied ones stay so
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            learned[parameter] = parameter.detach() + 0.02 * noise
        state[name] = learned[parameter]
    world = World(rank=0, size=1, local_rank=0, device=CPU)
    save_checkpoint(
        EngineOfStageZero(state),
        run / LATEST,
        position=Position(step=3, samples=6, world_size=1),
        settings=describe_run(config, trained, precision, world),
        keep=1,
        world=world,
    )
    return run


def rewrite_marker(checkpoint: Path) -> None:
    """Let the marker of a changed checkpoint tell the truth again, as one who means harm would."""
    marker = json.loads((checkpoint / MARKER).read_text())
    files = {name: file_record(checkpoint / name) for name in marker["files"]}
    position = Position(**{name: marker[name] for name in ("step", "samples", "world_size", "skipped")})
    (checkpoint / MARKER).write_text(Marker(marker["save"], position, files).to_text())


def merge(run: Path, *arguments: str) -> Path:
    """Merge beside the run; the new directory."""
    target = run.parent / "merged"
    merge_lora_weights.main(["--weight", str(run), "--save-path", str(target), *arguments])
    return target
