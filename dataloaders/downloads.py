"""What the owners of the data sets offer: files with their addresses, sizes, digests and licences.

Each family declares the downloads of its own sets beside these sets; COCO's images, which most share, are here. A fact
has the place where it was read ("seen"); nothing was downloaded to check it. `python -m dataloaders.prepare` works from
these declarations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

NOT_CHECKED = "not checked here"
_CHECKSUMS = "tensorflow/datasets, url_checksums/coco.txt"


@dataclass(frozen=True)
class Fact:
    """Something that others publish. seen: where it was read, "" where it was not. exact: False of a rounded number."""

    value: str | int
    seen: str = ""
    exact: bool = True

    @property
    def source(self) -> str:
        """The mark that stands behind the fact wherever it is shown."""
        return f"seen: {self.seen}" if self.seen else NOT_CHECKED


@dataclass(frozen=True)
class Download:
    """A file that its owners offer.

    file: the name under which it is kept. title: what it holds, as messages name it.
    page: where a person gets it and reads its terms. licence: what these say.
    url: its address, None where somebody has to click; clicks: what to do on `page` then.
    size: in bytes, None where it is not known. digests: "sha256:…", "sha1:…" or "md5:…", one for each edition.
    also: other names under which it is handed on, with wildcards; parts of it may come as files of their own.
    """

    file: str
    title: str
    page: Fact
    licence: Fact
    url: Fact | None = None
    clicks: str = ""
    size: Fact | None = None
    digests: tuple[Fact, ...] = ()
    also: tuple[str, ...] = ()

    def is_named(self, name: str) -> bool:
        """Whether a file of this name is this download, or a part of it."""
        return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in (self.file, *self.also))


@dataclass(frozen=True)
class Source:
    """Where a file or folder of a data set comes from.

    path: where it belongs below the data folder. inside: the end of the paths of its files inside the download, as in
        "images/training/*.jpg"; "saiapr_tc-12/**" is everything below a folder, with its folders. Upper and lower case
        are the same. count: how many files it has. instead: another path that serves as well, or None.
    """

    download: Download
    path: Path
    inside: str
    count: Fact | None = None
    instead: Path | None = None

    @property
    def is_there(self) -> bool:
        """Whether the file or folder exists, under either path."""
        return self.path.exists() or (self.instead is not None and self.instead.exists())

    @property
    def is_file(self) -> bool:
        """Whether `path` is a file, not a folder."""
        return self.path.suffix in (".json", ".p")

    def place(self, parts: Sequence[str]) -> Path | None:
        """Returns where a file of the download belongs, given the parts of its path there; None where it is not of it.

        What is returned is `path` or below it if `parts` has no "..".
        """
        pattern = self.inside.lower().split("/")
        lowered = [part.lower() for part in parts]
        if pattern[-1] == "**":
            folder = pattern[:-1]
            for start in reversed(range(len(parts) - len(folder))):
                if lowered[start : start + len(folder)] == folder:
                    return self.path.joinpath(*parts[start + len(folder) :])
            return None
        end = lowered[-len(pattern) :]
        if len(end) != len(pattern) or not all(map(fnmatchcase, end, pattern)):
            return None
        return self.path if self.is_file else self.path / parts[-1]


def origin_of(sources: Iterable[Source]) -> str:
    """Returns in words where the files of a data set come from."""
    *rest, last = dict.fromkeys(source.download.title for source in sources)
    return f"{', '.join(rest)} and {last}" if rest else last


def _coco(split: str, size: int, sha256: str) -> Download:
    return Download(
        file=f"{split}.zip",
        title=f"{split} of COCO",
        page=Fact("https://cocodataset.org/#download", "nightrome/cocostuff, README.md"),
        licence=Fact("images: Flickr's terms of use; cocodataset.org/#termsofuse"),
        url=Fact(f"http://images.cocodataset.org/zips/{split}.zip", _CHECKSUMS),
        size=Fact(size, _CHECKSUMS),
        digests=(Fact(f"sha256:{sha256}", _CHECKSUMS),),
    )


TRAIN2014 = _coco("train2014", 13510573713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775")
VAL2014 = _coco("val2014", 6645013297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0")
TRAIN2017 = _coco("train2017", 19336861798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929")
VAL2017 = _coco("val2017", 815585330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05")
_IMAGES = {
    TRAIN2014: Fact(82783),
    VAL2014: Fact(40504),
    TRAIN2017: Fact(118287, "number of rows of a copy on huggingface.co, datasets/ymliu0529/coco_train_2017"),
    VAL2017: Fact(5000),
}


def coco_images(download: Download, folder: Path) -> Source:
    """Returns the images of a split of COCO, in `folder`."""
    return Source(download, folder, f"{Path(download.file).stem}/*.jpg", _IMAGES[download])


# What more than one family takes from SESAME: all referring sets, plain, R- and FP-, in one archive.
SESAME = Download(
    file="sesame_refer_seg.zip",
    title="(FP-/R-)refcoco(+/g) annotations of SESAME (UC Berkeley)",
    page=Fact(
        "https://drive.google.com/file/d/1mA3kcY3QiAZz1Zr89MCKYd7e3LBIwUzl/view",
        "see-say-segment/sesame, dataset/README.md",
    ),
    licence=Fact("MIT for the code; of the data nothing is said", "see-say-segment/sesame, README.md"),
    clicks="press Download on the page of Google Drive",
    also=("*refer_seg*.zip", "*fp*refcoco*.zip"),
)
