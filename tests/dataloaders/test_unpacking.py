"""Unpacking archives that are hostile, damaged or not what they are called."""

import io
import tarfile
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from dataloaders.downloads import TRAIN2014, Source
from dataloaders.prepare import unpacking
from groundscore.errors import UserError
from tests.dataloaders.official_downloads import run, zip_of


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            member.size = 1 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"x"))
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zip_with_link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("train2014/a.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return path


HOSTILE = {
    "a zip that climbs out": ("a.zip", partial(zip_of, files={"train2014/../../../evil.jpg": b"x"})),
    "an absolute zip": ("a.zip", partial(zip_of, files={"/train2014/evil.jpg": b"x"})),
    "a zip with backslashes": ("a.zip", partial(zip_of, files={"..\\train2014\\evil.jpg": b"x"})),
    "a link in a zip": ("a.zip", zip_with_link),
    "a tar that climbs out": ("a.tar", lambda path: tar_of(path, tar_member("../train2014/evil.jpg"))),
    "a link in a tar": ("a.tar", lambda path: tar_of(path, tar_member("train2014/a.jpg", tarfile.SYMTYPE, "b.jpg"))),
    "a hard link": ("a.tar", lambda path: tar_of(path, tar_member("train2014/a.jpg", tarfile.LNKTYPE, "b"))),
    "a device": ("a.tar", lambda path: tar_of(path, tar_member("train2014/a.jpg", tarfile.CHRTYPE))),
    "a damaged zip": ("a.zip", lambda path: path.write_bytes(b"PK\x03\x04 and then nothing")),
    "a damaged tar": ("a.tar", lambda path: path.write_bytes(b"nothing of a tar")),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_and_damaged_archives_write_nothing(kind, tmp_path):
    root, folder = tmp_path / "deep/root", tmp_path / "folder"
    root.mkdir(parents=True)
    folder.mkdir()
    name, make = HOSTILE[kind]
    make(folder / name)
    download = replace(TRAIN2014, file=name)
    source = Source(download, root / "images", "train2014/*.jpg")

    with pytest.raises(UserError, match=r"not official|official archives have none|damaged"):
        unpacking.unpack(download, [source], root, folder)

    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != folder]


def test_an_archive_with_nothing_of_a_set_is_told(tmp_path, capsys):
    (tmp_path / "downloads").mkdir()
    zip_of(tmp_path / "downloads/train2014.zip", {"holiday/a.jpg": b"x"})

    assert run("unpack", "--dataset_dir", tmp_path, "--sets", "refcoco") == 1

    assert "of train2014 of COCO: expected train2014/*.jpg" in capsys.readouterr().out
