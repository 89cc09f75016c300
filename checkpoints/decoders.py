"""What weights of a mask decoder hold: one of its authors' files, or a directory of transformers."""

from pathlib import Path

from transformers import PreTrainedConfig

from checkpoints import names, sam_configs
from checkpoints.files import open_tensors
from checkpoints.weights import Weights
from model.decoders import DECODERS


def read_decoder(path: Path) -> tuple[str, PreTrainedConfig, Weights]:
    """The mask decoder that a file of its authors or a directory of transformers holds: its name in `DECODERS`, its
    configuration, and its tensors."""
    tensors, files = Weights(), open_tensors(path)
    if path.is_dir():
        name, config = sam_configs.decoder_of_directory(path)
        tensors.add(files, names.from_decoder_directory(DECODERS[name].published), str(path))
        complete_frequencies(tensors)
        return name, config, tensors
    name = sam_configs.decoder_of_file(files)
    decoder = DECODERS[name]
    tensors.add(files, names.from_decoder_file(decoder.published), str(path))
    for stacked in decoder.published.stacked:
        tensors.stack(f"sam.{stacked}")
    shapes = {ours.removeprefix("sam."): shape for ours, shape in tensors.shapes().items()}
    return name, sam_configs.config_from_shapes(decoder, shapes, path), tensors


def complete_frequencies(weights: Weights) -> None:
    """`save_pretrained` of transformers writes one of SAM's two equal matrices of frequencies; put the other beside."""
    pair = (names.SAM_FREQUENCIES, names.SAM_FREQUENCIES_COPY)
    held = [name for name in pair if name in weights]
    if len(held) == 1:
        (absent,) = set(pair) - set(held)
        weights.put(absent, weights.shape(held[0]), weights.reader(held[0]))
