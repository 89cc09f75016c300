"""Files of torch.save hold tensors and plain data, and ask for no more memory than they have."""

import io
import os
import pickle
import zipfile

import pytest
import torch

from checkpoints.torch_files import load_plain
from groundscore.errors import UserError
from tests.bounded import run_bounded

GIGABYTES = b"\x8a\x05" + (7 * 10**9).to_bytes(5, "little") + b"\x85R."
LARGE = b"\x80\x02cbuiltins\nbytearray\n" + GIGABYTES
SHARED_KEY = b"\x80\x02}Nq\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Ns."  # hashing it takes 2^60 steps
DEEP_KEY = b"\x80\x02}N" + b"\x85" * 10**6 + b"Ns."  # hashing it overflows the stack


def archive(program: bytes, decoy: str | None = None) -> bytes:
    """A file of torch.save with another pickle in it, and before that a harmless one of the name `decoy`."""
    whole, changed = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(2)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(changed, "w") as target:
        if decoy is not None:
            target.writestr(decoy, b"\x80\x02}.")
        for name in source.namelist():
            target.writestr(name, program if name.endswith("data.pkl") else source.read(name))
    return changed.getvalue()


@pytest.mark.parametrize("old_format", [False, True])
def test_tensors_and_plain_data_are_read(tmp_path, old_format):
    content = {"a": torch.arange(3), "b": [1, "x", {"c": (2.5, None)}]}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old_format)

    read = load_plain(tmp_path / "a.pt")

    assert torch.equal(read["a"], content["a"])
    assert read["b"] == content["b"]


def old_file(program: bytes) -> bytes:
    """A file of the format before torch 1.6, whose machine description is too long to look beyond it."""
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": "x" * (20 << 20)})]
    return b"".join([*head, program])


ATTACKS = {
    "bytearray": (archive(LARGE), "it asks for 'builtins bytearray'"),
    "behind_a_decoy": (archive(LARGE, decoy="archive/other-data.pkl"), "it asks for 'builtins bytearray'"),
    "without_archive": (LARGE, "it asks for 'builtins bytearray'"),
    "old_format": (old_file(LARGE), "more than 16 MB"),
    "tensor_by_size": (archive(b"\x80\x02ctorch\nFloatTensor\n" + GIGABYTES), "it asks for 'torch FloatTensor'"),
    "codec": (
        archive(b"\x80\x02c_codecs\nencode\nU\x04aaaaX\x03\x00\x00\x00hex\x86R."),
        "it asks for '_codecs encode'",
    ),
    "shared_key": (archive(SHARED_KEY), "nested or repeated"),
    "deep_key": (archive(DEEP_KEY), "nested or repeated"),
    "call": (archive(b"cos\nsystem\n(Vtrue\ntR."), "it asks for 'os system'"),
}


def test_files_that_ask_for_memory_time_or_calls_are_refused(tmp_path):
    for name, (content, _) in ATTACKS.items():
        (tmp_path / name).write_bytes(content)

    said = run_bounded(
        """
        from pathlib import Path
        from checkpoints.torch_files import load_plain
        limit()
        for name in sys.argv[2:]:
            print(refused(lambda: load_plain(Path(sys.argv[1]) / name)))
        """,
        tmp_path,
        *ATTACKS,
    )

    for line, (_, message) in zip(said.splitlines(), ATTACKS.values(), strict=True):
        assert message in line


def test_a_fifo_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.bin")

    with pytest.raises(UserError, match="FIFO"):
        load_plain(tmp_path / "a.bin")
