"""Make one self-contained model of a training run: base, LoRA and trained weights merged, saved and read back.

    python merge_lora_weights.py --weight runs/quickstart --save_path runs/quickstart/merged

`--weight` is a run (its best checkpoint, else its latest), a directory of checkpoints, one checkpoint, or a
consolidated training file of the reference (then with `--version`, its base). The merge is done in fp32; `--precision`
is that of the saved weights. `--export reference` writes the reference's names, `--export adapter` what was learned.
"""

import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.arguments import find_system
from utils.errors import UserError, run_main
from utils.flags import FlagParser

OURS, REFERENCE, ADAPTER = "uground", "reference", "adapter"


def build_parser() -> FlagParser:
    parser = FlagParser(
        prog="merge_lora_weights.py", description="Merge a training run into one self-contained model directory."
    )
    parser.add_argument(
        "--weight", required=True, metavar="DIR", help="run, directory of checkpoints, checkpoint, or consolidated file"
    )
    parser.add_argument("--save_path", required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace --save_path if it exists")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="of the saved weights (default: that of training)"
    )
    parser.add_argument(
        "--export", choices=(OURS, REFERENCE, ADAPTER), default=OURS, help="names and layout of the saved directory"
    )
    parser.add_argument("--push_to_hub", metavar="ID", help="also upload the merged model to the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="as a private repository")
    group = parser.add_argument_group("base, where it is no longer at the place that the run recorded")
    group.add_argument("--version", metavar="DIR", help="base LLaVA, or the merged model that training started from")
    group.add_argument("--vision_tower", metavar="DIR", help="CLIP")
    group.add_argument("--vision_pretrained", metavar="FILE", help="SAM")
    group = parser.add_argument_group("for a consolidated file of the reference")
    group.add_argument("--model_key", metavar="SYSTEM", help="its system")
    group.add_argument(
        "--lora_alpha", type=float, default=16, metavar="X", help="LoRA scale times rank in its training"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str]) -> None:
    flags = build_parser().parse(argv)
    target = Path(flags.save_path)
    if target.exists() and not flags.overwrite:
        raise UserError(f"--save_path {target} exists already; choose another place, or pass --overwrite")
    if flags.push_to_hub and flags.export != OURS:
        raise UserError(f"--push_to_hub uploads a merged model; leave --export {flags.export} out")

    import torch

    from model.checkpoints import export_reference, load_model, reference_state_dict, save_adapter, save_model
    from model.checkpoints.files import open_tensors
    from model.checkpoints.loading import PRECISIONS
    from model.checkpoints.sources import HUB_CLIP

    print(f"merging {flags.weight} …", file=sys.stderr)
    model, processor, settings = read_trained(flags)
    base, scores = settings["base"], settings.get("scores")
    precision = flags.precision or settings["precision"]
    # Parameters only: buffers such as the running reward stay exact.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(PRECISIONS[precision])

    with torch.no_grad():
        if flags.export == REFERENCE:
            tower = flags.vision_tower or base.get("vision_tower") or HUB_CLIP
            export_reference(model, processor, target, vision_tower=tower, overwrite=flags.overwrite)
            expected = checksums(reference_state_dict(model))
            expected = {name: value for name, value in expected.items() if "vision_tower" not in name}
            found = checksums(open_tensors(target))
        elif flags.export == ADAPTER:
            save_adapter(model, processor, target, base=base, overwrite=flags.overwrite, scores=scores)
            print(f"{target}: what was learned on {base['version']}, in {precision}")
            return
        else:
            card = {"base": base.get("version"), "scores": scores, "name": flags.push_to_hub}
            save_model(model, processor, target, overwrite=flags.overwrite, **card)
            expected = checksums(model.state_dict())
            del model  # one model at a time in memory
            found = checksums(load_model(target, precision=precision)[0].state_dict())
    wrong = sorted(name for name, value in expected.items() if found.get(name) != value)
    if wrong:
        raise UserError(
            f"{target} was written, but {len(wrong)} of {len(expected)} tensors read back differently ({wrong[0]}, …); "
            "is the disk sound?"
        )
    print(f"{target}: {len(expected)} tensors in {precision}, read back and equal bit for bit")
    if flags.push_to_hub:
        from model.checkpoints.publishing import upload

        print(f"uploaded: {upload(target, flags.push_to_hub, private=flags.private or None)}")


def read_trained(flags) -> tuple:
    """(model, processor, settings) of what `--weight` names, LoRA merged unless an adapter shall be written."""
    given = {name: getattr(flags, name) for name in ("version", "vision_tower", "vision_pretrained")}
    given = {name: path for name, path in given.items() if path}
    if not Path(flags.weight).is_file():
        from utils.training.restoring import load_trained

        model, processor, settings = load_trained(
            flags.weight, precision="fp32", base=given, merge=flags.export != ADAPTER
        )
        return model, processor, settings | {"base": {**settings["base"], **given}}
    if flags.export == ADAPTER:
        raise UserError("--export adapter: a consolidated file is merged; only a training run has an adapter to save")
    if not flags.version:
        raise UserError(f"--weight {flags.weight} is a file: pass --version, the base that it was trained from")
    from model.checkpoints import load_model

    system = find_system(flags.model_key) if flags.model_key else None
    base = given | {"path": given["version"], "system": system}
    del base["version"]
    model, processor, report = load_model(**base, weight=flags.weight, lora_alpha=flags.lora_alpha)
    print(report, file=sys.stderr)
    return model.eval(), processor, {"precision": "bf16", "base": given}


def checksums(tensors: Mapping) -> dict[str, int]:
    """A checksum of the bytes of every tensor, read one at a time."""
    import torch

    return {
        name: zlib.crc32(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        for name in tensors
    }


if __name__ == "__main__":
    run_main(main)
