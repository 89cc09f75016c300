"""Features of frozen encoders on disk, so that later epochs skip the encoders.

    <directory>/<encoder>/<first two digits>/<image>.features

`<encoder>` is a hash of the encoder's weights and of how images are prepared for it, `<image>` a hash of the image
(`Batch.image_keys`): whatever changes an encoder's output changes the path. A file is a checksum and bfloat16
tensors in the safetensors format, written under another name and renamed, so that processes and machines may share the
directory. Where it has grown beyond its limit, the files used least recently are removed.

Features are rounded to bfloat16 when they are computed too, not only when they are read: all epochs see the same.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from groundscore.errors import UserError
from groundscore.writing import written_whole

logger = logging.getLogger(__name__)

LAYOUT = 1  # part of every encoder's hash; to be raised when features are computed or stored in another way
SUFFIX, UNFINISHED = ".features", ".writing"
CHECKSUM_BYTES = 16
SCANS_PER_LIMIT = 100
STALE_SECONDS = 3600


def encoder_key(encoder: nn.Module, settings: dict) -> str:
    """The hash of an encoder's weights (their values, types and names) and of `settings`, which JSON can hold."""
    digest = blake2b(json.dumps([LAYOUT, settings], sort_keys=True).encode(), digest_size=16)
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class FeatureCache:
    """A directory of features, at most `limit_bytes` large.

    Every process looks at the whole directory after each hundredth of the limit that it has written, so that the
    limit may be passed by a hundredth of it per process.
    """

    def __init__(self, directory: str | Path, limit_bytes: int):
        self.directory = Path(directory)
        self.limit_bytes = limit_bytes
        self._written = 0
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--cache_features {directory}: {error.strerror or error}") from error

    def of(self, encoder: nn.Module, settings: dict) -> EncoderFeatures:
        """The features of one frozen encoder; `settings` is what else they depend on."""
        return EncoderFeatures(self, self.directory / encoder_key(encoder, settings))

    def added(self, count: int) -> None:
        """Note that so many bytes were written, and make room now and then."""
        self._written += count
        if self._written >= self.limit_bytes // SCANS_PER_LIMIT:
            self._written = 0
            self.make_room()

    def make_room(self) -> None:
        """Remove what was used least recently until the directory is within its limit, and what a killed process
        left unfinished."""
        now, files = time.time(), []
        for path in self.directory.rglob("*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process removed it
                continue
            if path.name.endswith(UNFINISHED) and now - status.st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
            elif path.name.endswith(SUFFIX):
                files.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self.limit_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size


class EncoderFeatures:
    """The features of one encoder; `encoded` and `read` count images."""

    def __init__(self, cache: FeatureCache, directory: Path):
        self.cache = cache
        self.directory = directory
        self.encoded = self.read = 0

    def get(self, keys: Sequence[str], like: Tensor, encode: Callable[[list[int]], list[Tensor]]) -> list[Tensor]:
        """Features of the images with these keys, one or several tensors [I, …], without a graph.

        like: a tensor of their type and on their device.
        encode: called at most once, with the indices of the images that are not there; gives their features.
        """
        found = [self._load(key) for key in keys]
        missing = [index for index, features in enumerate(found) if features is None]
        self.read += len(keys) - len(missing)
        self.encoded += len(missing)
        if missing:
            computed = [each.detach().to(torch.bfloat16).cpu() for each in encode(missing)]
            for index, *features in zip(missing, *computed, strict=True):
                found[index] = features
                self._store(keys[index], features)
        stacked = (torch.stack(each) for each in zip(*found, strict=True))
        return [each.to(like.device, non_blocking=True).to(like.dtype) for each in stacked]

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / (key + SUFFIX)

    def _load(self, key: str) -> list[Tensor] | None:
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        checksum, stored = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
        try:
            if _checksum(key, stored) != checksum:
                raise SafetensorError("its checksum is wrong")
            tensors = load(stored)
            features = [tensors[_name(number)] for number in range(len(tensors))]
            os.utime(path)  # used just now
        except SafetensorError as error:
            logger.warning("%s is damaged (%s); it is computed again", path, error)
            return None
        except FileNotFoundError:  # another process has just removed it; what was read is good
            pass
        return features

    def _store(self, key: str, features: Sequence[Tensor]) -> None:
        path = self._path(key)
        stored = save({_name(number): each.contiguous() for number, each in enumerate(features)})
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with written_whole(path) as beside:
                beside.write_bytes(_checksum(key, stored) + stored)
        except OSError as error:
            raise UserError(f"{path}: the features cannot be saved ({error.strerror or error})") from error
        self.cache.added(CHECKSUM_BYTES + len(stored))


def _name(number: int) -> str:
    """The name in a file of the tensor of this number."""
    return f"features.{number}" if number else "features"


def _checksum(key: str, stored: bytes) -> bytes:
    """Of the content together with its key, so that a file under the wrong name is noticed too."""
    digest = blake2b(key.encode(), digest_size=CHECKSUM_BYTES)
    digest.update(stored)
    return digest.digest()
