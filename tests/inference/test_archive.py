"""The ZIP of an answer: every file has the name and the size of the image, and reads back as the masks were."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundscore.annotations.images import read_image
from groundscore.colours import choose_colours
from groundscore.exchange.tools import read_regions
from groundscore.rle import decode
from inference.archive import write_archive
from inference.reply import Reply


@pytest.fixture
def photo(tmp_path):
    """A JPEG that its EXIF orientation turns: stored 120 wide and 90 high, upright 90 wide and 120 high."""
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "upload" / "my photo.jpg"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return path


def reply_of(masks):
    count = len(masks)
    return Reply("Where?", "Sure, [SEG].", masks, [0.9] * count, [3] * count, None, 5, True, 0.1)


@pytest.fixture
def masks():
    masks = np.zeros((2, 120, 90), bool)
    masks[0, 10:60, 10:50] = masks[1, 40:100, 30:80] = True
    masks[0, 20:30, 20:30] = False
    return masks


def written(folder, photo, reply):
    path = folder / "all.zip"
    write_archive(path, reply, photo, "my photo.jpg", choose_colours(read_image(photo), reply.masks))
    return zipfile.ZipFile(path)


def test_everything_has_the_name_and_the_size_of_the_image(tmp_path, photo, masks):
    archive = written(tmp_path, photo, reply_of(masks))

    names = archive.namelist()
    own = [f"my_photo_{kind}" for kind in ("overlay.png", "rle.json", "mask_1.png", "mask_2.png", "cutout.png")]
    assert names[:5] == own
    assert {name.split("/")[0] for name in names[5:]} == {"coco", "coco_results", "geojson", "labelme", "svg", "yolo"}
    images = {name: Image.open(io.BytesIO(archive.read(name))) for name in own if name.endswith(".png")}
    assert {image.size for image in images.values()} == {(90, 120)}
    assert ((np.asarray(images["my_photo_mask_2.png"]) == 255) == masks[1]).all()
    cut = np.asarray(images["my_photo_cutout.png"])
    assert ((cut[..., 3] == 255) == masks.any(0)).all() and (cut[..., 3][~masks.any(0)] == 0).all()
    assert (cut[masks.any(0)][:, :3] == read_image(photo)[masks.any(0)]).all()


def test_masks_are_read_back_as_they_were(tmp_path, photo, masks):
    archive = written(tmp_path, photo, reply_of(masks))
    archive.extractall(tmp_path / "read")

    record = json.loads(archive.read("my_photo_rle.json"))
    assert (record["image"], record["size"], record["prompt"]) == ("my photo.jpg", [120, 90], "Where?")
    for mask, target in zip(masks, record["targets"], strict=True):
        assert (decode(target["segmentation"]) == mask).all()
        assert (target["pixels"], target["share"]) == (mask.sum(), pytest.approx(mask.mean(), abs=1e-6))
        assert (target["score"], target["layer"], len(target["colour"])) == (0.9, 3, 3)
    for form in ("coco", "labelme", "yolo"):
        (image,) = read_regions(tmp_path / "read" / form, form)
        assert Path(image.name).name == "my photo.jpg" and image.size == (120, 90)
        if form != "yolo":  # whose polygons are fractions of the image
            assert (np.stack([region.pixels for region in image.regions]) == masks).all()


def test_of_an_answer_without_a_mask_there_is_the_record(tmp_path, photo):
    archive = written(tmp_path, photo, reply_of(np.zeros((1, 120, 90), bool)))
    assert archive.namelist() == ["my_photo_overlay.png", "my_photo_rle.json", "my_photo_mask_1.png"]
    archive = written(tmp_path, photo, reply_of(np.zeros((0, 120, 90), bool)))
    assert archive.namelist() == ["my_photo_overlay.png", "my_photo_rle.json"]


def test_an_archive_that_cannot_be_written_leaves_nothing(tmp_path, photo, masks):
    photo_gone = photo.with_name("gone.jpg")
    with pytest.raises(Exception, match="gone.jpg"):
        write_archive(tmp_path / "all.zip", reply_of(masks), photo_gone, "gone.jpg", [(0, 0, 0)] * 2)
    assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.glob(".*"))
