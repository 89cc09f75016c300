"""Archives packed as the official downloads are, of a small data folder; and the command that prepares them."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

from dataloaders.prepare import __main__ as prepare

PHOTOS = "refer_seg/images/mscoco/images"


def zip_of(path: Path, files: dict[str, Path | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else content.read_bytes())
    return path


def below(folder: Path, prefix: str, pattern: str = "*") -> dict[str, Path]:
    return {f"{prefix}/{path.relative_to(folder)}": path for path in sorted(folder.rglob(pattern)) if path.is_file()}


def pack(root: Path, to: Path) -> Path:
    """Every official download of the data folder `root`: flat, in folders, nested, as tar and as plain files."""
    to.mkdir()
    refer, photos = root / "refer_seg", root / PHOTOS
    zip_of(to / "train2014.zip", below(photos / "train2014", "train2014"))
    zip_of(to / "val2014.zip", below(refer / "refzom/val2014", "val2014"))
    zip_of(to / "train2017.zip", below(root / "coco/train2017", "train2017"))
    zip_of(to / "val2017.zip", below(photos / "val2017", "val2017"))
    ade = {**below(root / "ade20k", "ADEChallengeData2016"), "ADEChallengeData2016/objectInfo150.txt": b"1"}
    zip_of(to / "ADEChallengeData2016.zip", ade)
    zip_of(to / "stuffthingmaps_trainval2017.zip", below(root / "cocostuff/train2017", "train2017"))
    zip_of(to / "mapillary-vistas-dataset_public_v2.0.zip", below(root / "mapillary", "mapillary"))
    with tarfile.open(to / "VOCtrainval_03-May-2010.tar", "w") as archive:
        archive.add(root / "vlpart/pascal_part/VOCdevkit", "VOCdevkit")
    with tarfile.open(to / "pascal_part.tar.gz", "w:gz") as archive:
        archive.add(root / "vlpart/pascal_part/train.json", "pascal_part/train.json")
    paco = root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    zip_of(to / "paco_lvis_v1.zip", {"paco_lvis_v1_train.json": paco, "paco_lvis_v1_val.json": b"{}"})
    for name in ("refclef", "refcoco", "refcoco+", "refcocog"):
        zip_of(to / f"{name}.zip", {**below(refer / name, name, "refs(u??).p"), **below(refer / name, name, "*.json"),
                                    f"__MACOSX/{name}/._instances.json": b"x"})  # fmt: skip
    zip_of(to / "saiapr_tc-12.zip", below(refer / "images/saiapr_tc-12", "saiapr_tc-12"))
    zip_of(to / "grefcoco-2023.zip", {path.name: path for path in (refer / "grefcoco").iterdir()})
    inner = {
        "Ref-ZOM/Ref-ZOM(final).p": refer / "refzom/Ref_ZOM.p",
        "Ref-ZOM/instances.json": refer / "refzom/instances.json",
    }
    zip_of(to / "Ref-ZOM-20240101T000000Z-001.zip", inner)
    sesame = {}
    for folder in (path for path in refer.iterdir() if (path / "instances.json").exists() and path.name != "refzom"):
        sesame |= below(folder, f"refer_seg/{folder.name}", "*unified).p") | below(
            folder, f"refer_seg/{folder.name}", "*.json"
        )
    zip_of(to / "sesame_refer_seg.zip", sesame)
    for path in (root / "llava_dataset").iterdir():
        shutil.copy(path, to)
    for path in (root / "reason_seg_plus").iterdir():
        shutil.copy(path, to)
    zip_of(to / "muse.zip", {f"muse/{path.name.lower()}": path for path in sorted(root.glob("multi_reason_seg/*/*"))})
    base = root / "reason_seg/ReasonSeg"
    parts = {}
    for split in ("train", "val"):
        zip_of(to / f"{split}.part", {path.name: path for path in sorted((base / split).iterdir())})
        parts[f"ReasonSeg/{split}.zip"] = (to / f"{split}.part").read_bytes()
        (to / f"{split}.part").unlink()
    parts["ReasonSeg/explanatory/train.json"] = base / "explanatory/train.json"
    zip_of(to / "ReasonSeg-20240101T000000Z-001.zip", parts)
    return to


def run(*words: object) -> int:
    return prepare.main([str(word) for word in words])


def content(root: Path) -> dict[str, bytes]:
    """The files of a data folder by their paths, of linked folders too; not what the steps keep for themselves."""
    found = {}
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if not any(part.startswith(".") or part == "downloads" for part in path.relative_to(root).parts):
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found
