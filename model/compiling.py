"""`torch.compile` for the parts of a model whose shapes never change but for the number of images: the encoders.

The LLM and the mask decoder meet other lengths with every batch and stay as they are.
"""

from torch import nn

from model.grounding import GroundingModel


def compile_encoders(model: GroundingModel) -> list[str]:
    """Compile CLIP's layers and SAM's encoder in place, at their first use; the names of what was compiled.

    Names of parameters stay the same. A new number of images in a batch compiles once more.
    """
    compiled: list[str] = []

    def compile_part(name: str, module: nn.Module) -> None:
        module.compile(dynamic=False)
        compiled.append(name)

    for number, layer in enumerate(model.vision_tower.encoder.layers):
        compile_part(f"vision_tower.encoder.layers.{number}", layer)
    if model.system.uses_sam:
        compile_part("sam.vision_encoder", model.sam.vision_encoder)
    return compiled
