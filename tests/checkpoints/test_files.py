"""Files of tensors: lazily, safely, and with errors that name them."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from checkpoints.files import open_tensors
from checkpoints.names import from_reference
from checkpoints.weights import Weights
from groundscore.errors import UserError

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("whole_directory", [True, False])
def test_a_single_file(tmp_path, name, whole_directory):
    path = tmp_path / name
    save_file(TENSORS, path) if path.suffix == ".safetensors" else torch.save(TENSORS, path)
    tensors = open_tensors(tmp_path if whole_directory else path)
    assert set(tensors) == set(TENSORS)
    assert tensors.shape("a.weight") == (2, 3)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_an_old_pickle_without_an_archive(tmp_path):
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(open_tensors(tmp_path / "old.pth")["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module"])
def test_tensors_below_a_usual_name(tmp_path, wrapper):
    torch.save({wrapper: TENSORS, "epoch": 3}, tmp_path / "checkpoint.pth")
    assert set(open_tensors(tmp_path / "checkpoint.pth")) == set(TENSORS)


def shards(directory, files=("one.bin", "two.bin")):
    for file, name in zip(files, TENSORS, strict=True):
        torch.save({name: TENSORS[name]}, directory / file)
    weight_map = dict(zip(TENSORS, files, strict=True))
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards(tmp_path):
    shards(tmp_path)
    tensors = open_tensors(tmp_path)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_a_missing_shard_is_named(tmp_path):
    shards(tmp_path)
    (tmp_path / "two.bin").unlink()
    with pytest.raises(UserError, match=r"incomplete: 1 of 2 files are missing \(two.bin\)"):
        open_tensors(tmp_path)


def test_an_index_that_does_not_fit_its_shards(tmp_path):
    shards(tmp_path)
    torch.save({"other": torch.ones(1)}, tmp_path / "two.bin")
    with pytest.raises(UserError, match="two.bin lacks b"):
        open_tensors(tmp_path)


def test_an_index_reaches_no_other_directory(tmp_path):
    index = {"weight_map": {"a": "../secret.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"not a file beside it"):
        open_tensors(tmp_path)


class Dangerous:
    def __reduce__(self):
        return (eval, ("1/0",))


def test_a_pickle_with_code_is_refused(tmp_path):
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"a": Dangerous()}, protocol=2))
    with pytest.raises(UserError, match="evil.bin is refused: it asks for .*eval"):
        open_tensors(tmp_path / "evil.bin")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<html>not found</html>", "is a web page"),
        (b"neither of the two", "is not what torch.save writes"),
        (b"PK\x03\x04 and then nothing", "breaks off"),
    ],
)
def test_files_that_are_no_tensors(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=f"w.pth.*{message}"):
        open_tensors(tmp_path / "w.pth")


def test_a_truncated_archive(tmp_path):
    torch.save(TENSORS, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[:-200])
    with pytest.raises(UserError, match="breaks off"):
        open_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("content, key", [({"a": 3}, "'a'"), ({7: torch.ones(1)}, "7")])
def test_values_that_are_no_named_tensors(tmp_path, content, key):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"{key} is not the name of one"):
        open_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["sparse", "meta", "float8"])
def test_tensors_of_other_kinds_are_refused(tmp_path, kind):
    make = {
        "sparse": lambda tensor: tensor.to_sparse(),
        "meta": lambda tensor: tensor.to("meta"),
        "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
    }
    torch.save({"a": make[kind](torch.ones(2, 2))}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth is refused: it asks for"):
        open_tensors(tmp_path / "w.pth")


def safetensors_file(path, header, size=8):
    content = json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(size))
    return path


def described(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "header",
    [
        {"a": described(), "b": described()},  # one lies on the other
        {"a": described(offsets=(0, 4))},
        {"a": described(offsets=(8, 0))},
        {"a": described(shape=(2**40, 2**40))},
        {"a": described(shape=(-2,))},
        {"a": described("Z9")},
        ["a"],
    ],
)
def test_a_safetensors_header_that_lies(tmp_path, header):
    with pytest.raises(UserError, match=r"w.safetensors is not a complete safetensors file"):
        open_tensors(safetensors_file(tmp_path / "w.safetensors", header))


def test_a_type_that_torch_does_not_have(tmp_path):
    path = safetensors_file(tmp_path / "w.safetensors", {"a": described("F6_E3M2", (4,), (0, 3))}, size=3)
    with pytest.raises(UserError, match=r"'a' cannot be read .*F6_E3M2"):
        open_tensors(path)["a"]


def test_a_directory_without_weights(tmp_path):
    with pytest.raises(UserError, match="contains no weights"):
        open_tensors(tmp_path)


def test_two_tensors_of_one_meaning_are_refused():
    weights = Weights()
    twice = {"lm_head.weight": torch.ones(1), "base_model.model.lm_head.weight": torch.zeros(1)}
    with pytest.raises(UserError, match="f.bin: lm_head.weight and base_model.model.lm_head.weight are both our"):
        weights.add(twice, from_reference, "f.bin")
