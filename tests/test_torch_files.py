"""Files of torch.save hold tensors and plain data, and ask for no more memory than they have."""

import io
import os
import pickle
import zipfile

import pytest
import torch

from tests.bounded import run_bounded
from utils.errors import UserError
from utils.torch_files import load_plain

LARGE = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (7 * 10**9).to_bytes(5, "little") + b"\x85R."


def archive(program: bytes) -> bytes:
    """A file of torch.save with another pickle in it."""
    whole, changed = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(2)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(changed, "w") as target:
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


@pytest.mark.parametrize("in_archive", [True, False])
def test_a_file_that_asks_for_gigabytes_is_refused(tmp_path, in_archive):
    (tmp_path / "a.bin").write_bytes(archive(LARGE) if in_archive else LARGE)

    message = run_bounded(
        """
        from pathlib import Path
        from model.checkpoints.files import open_tensors
        limit()
        print(refused(lambda: open_tensors(Path(sys.argv[1]))))
        """,
        tmp_path / "a.bin",
    )

    assert "bytearray" in message


def test_a_file_that_calls_something_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(archive(b"cos\nsystem\n(Vtrue\ntR."))

    with pytest.raises(pickle.UnpicklingError):
        load_plain(tmp_path / "a.bin")


def test_a_fifo_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.bin")

    with pytest.raises(UserError, match="FIFO"):
        load_plain(tmp_path / "a.bin")
