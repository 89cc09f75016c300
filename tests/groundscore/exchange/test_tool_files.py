"""Files as other tools write them are read, and what a mask cannot carry is told with its place."""

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from groundscore.errors import UserError
from groundscore.exchange.regions import RegionImage, ToolOptions, region
from groundscore.exchange.tools import read_regions, write_regions
from groundscore.rle import encode
from tests.groundscore.exchange.regions import HEIGHT, WIDTH, blob, ring_shape, square

# --- files as the tools write them ------------------------------------------------------------------------------------


def write_json(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def shape(kind: str, points, label: str = "cat", **more) -> dict:
    return {
        "label": label,
        "points": points,
        "shape_type": kind,
        "group_id": None,
        "description": "",
        "flags": {},
        **more,
    }


def test_a_labelme_folder_with_groups_circles_and_an_image_inside(photo, tmp_path):
    folder = tmp_path / "labelme"
    corners = [[10, 20], [49, 20], [49, 39], [10, 39]]
    shapes = [
        shape("polygon", corners, group_id=1, description="the large one"),
        shape("rectangle", [[60, 5], [70, 10]], group_id=1),
        shape("circle", [[30, 50], [35, 50]], label="ball"),
        shape("polygon", corners[:3], label="flag"),
    ]
    data = base64.b64encode(photo.read_bytes()).decode()
    write_json(folder / "deep/one.json", {"shapes": shapes, "imagePath": "..\\one.jpg", "imageData": data})

    (image,) = read_regions(folder)

    expected = square()
    expected[5:11, 60:71] = 1
    assert image.content == photo.read_bytes() and image.name == "deep/one.jpg"
    assert [one.label for one in image.regions] == ["cat", "ball"]
    assert np.array_equal(image.regions[0].pixels, expected)
    assert image.regions[0].texts == ("the large one",)


def test_reason_seg_files_are_one_region_with_their_sentences(photo, tmp_path):
    record = {
        "text": ["What sits?", "the animal"],
        "is_sentence": True,
        "shapes": [shape("polygon", [[10, 20], [49, 20], [49, 39], [10, 39]])],
    }
    write_json(photo.with_suffix(".json"), record)

    (image,) = read_regions(photo.parent)

    assert image.regions[0].texts == ("What sits?", "the animal")
    assert np.array_equal(image.regions[0].pixels, square())


def coco(annotations: list[dict], name: str = "a photo.jpg", **image) -> dict:
    return {
        "images": [{"id": 7, "file_name": name, "height": HEIGHT, "width": WIDTH, **image}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, **one} for one in annotations],
    }


POLYGON = [[10, 20, 50, 20, 50, 40, 10, 40]]


def test_coco_of_cvat_and_of_label_studio_finds_its_images(photo, tmp_path):
    cvat = tmp_path / "cvat"
    (cvat / "images/default").mkdir(parents=True)
    (cvat / "images/default" / photo.name).write_bytes(photo.read_bytes())
    write_json(cvat / "annotations/instances_default.json", coco([{"segmentation": POLYGON, "caption": "the sleeper"}]))
    label_studio = tmp_path / "label_studio"
    (label_studio / "images").mkdir(parents=True)
    (label_studio / "images" / photo.name).write_bytes(photo.read_bytes())
    write_json(label_studio / "result.json", coco([{"segmentation": POLYGON}], name=f"../../label_studio/{photo.name}"))

    (first,), (second,) = read_regions(cvat), read_regions(label_studio)

    assert np.array_equal(first.regions[0].pixels, square()) and first.regions[0].texts == ("the sleeper",)
    assert np.array_equal(second.regions[0].pixels, square())


def brush(mask: np.ndarray) -> list[int]:
    """A mask as Label Studio's brush has it, with single values and with runs."""
    values = np.repeat(mask.ravel() * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{length - 1:04b}" for length in (3, 4, 8, 16))
    edges = np.flatnonzero(np.diff(values)) + 1
    for run in np.split(values, edges):
        if len(run) <= 8:
            bits += f"000{len(run) - 1:03b}" + "".join(f"{value:08b}" for value in run)
        else:
            for start in range(0, len(run), 1 << 16):
                bits += f"111{len(run[start : start + (1 << 16)]) - 1:016b}{run[0]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def test_label_studios_polygons_brushes_and_texts(photo, tmp_path):
    points = [[12.5, 100 / 3], [62.5, 100 / 3], [62.5, 200 / 3], [12.5, 200 / 3]]
    about = {"original_width": WIDTH, "original_height": HEIGHT}
    results = [
        {"id": "p", "type": "polygonlabels", "value": {"points": points, "polygonlabels": ["cat"]}, **about},
        {
            "id": "b",
            "type": "brushlabels",
            "value": {"format": "rle", "rle": brush(ring_shape()), "brushlabels": ["ring"]},
            **about,
        },
        {"id": "b", "type": "textarea", "value": {"text": ["What is round?"]}},
        {"id": "c", "type": "choices", "value": {"choices": ["indoors"]}},
    ]
    task = {
        "data": {"image": "/data/local-files/?d=photos/a%20photo.jpg"},
        "annotations": [{"was_cancelled": True}, {"result": results}],
    }

    (image,) = read_regions(write_json(photo.parent / "export.json", [task]))

    assert [(one.label, one.texts) for one in image.regions] == [("cat", ()), ("ring", ("What is round?",))]
    assert np.array_equal(image.regions[0].pixels, square())
    assert np.array_equal(image.regions[1].pixels, ring_shape())


def test_cvats_xml_has_masks_row_by_row_and_polygons(photo, tmp_path):
    box = ring_shape()[10:51, 10:51]
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(np.concatenate([[0], box.ravel()]))), [box.size]]))
    content = f"""<annotations><image id="0" name="{photo.name}" width="{WIDTH}" height="{HEIGHT}"><tag label="x"/>
      <mask label="ring" rle="{", ".join(map(str, runs))}" left="10" top="10" width="41" height="41"/>
      <polygon label="cat" points="10,20;50,20;50,40;10,40"/></image></annotations>"""
    (photo.parent / "annotations.xml").write_text(content)

    (image,) = read_regions(photo.parent)

    expected = np.zeros_like(ring_shape())
    expected[10:51, 10:51] = box
    assert np.array_equal(image.regions[0].pixels, expected)
    assert np.array_equal(image.regions[1].pixels, square())


def png_of(mask: np.ndarray) -> bytes:
    out = BytesIO()
    Image.fromarray(mask * np.uint8(255)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("as_arrow", [False, True])
def test_tables_as_hugging_face_has_them(as_arrow, photo, tmp_path):
    image = {"bytes": photo.read_bytes(), "path": None}
    rows = [
        {"image": image, "text": text, "mask": mask.astype(bool).tolist(), "image_id": name}
        for text, mask, name in (("What is round?", ring_shape(), "im1"), ("the cat", square(), "im2"))
    ]
    table = pa.Table.from_pylist(rows)
    if as_arrow:
        with (
            pa.OSFile(str(tmp_path / "data-00000-of-00001.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(table)
    else:
        pq.write_table(table, tmp_path / "test-00000-of-00001.parquet")

    found = list(read_regions(tmp_path))

    assert [(image.name, image.regions[0].label) for image in found] == [
        ("im1.jpg", "What is round?"),
        ("im2.jpg", "the cat"),
    ]
    assert np.array_equal(found[0].regions[0].pixels, ring_shape())


def test_columns_of_other_names_are_named(photo, tmp_path):
    table = pa.Table.from_pylist([{"foto": photo.read_bytes(), "maske": png_of(square()), "wort": ["cat"]}])
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(
        UserError, match="no column that is known as image; name one with --columns image=NAME: foto, maske"
    ):
        list(read_regions(tmp_path / "a.parquet"))
    columns = {"image": "foto", "mask": "maske", "text": "wort"}
    (found,) = read_regions(tmp_path / "a.parquet", "", ToolOptions(columns=columns))

    assert np.array_equal(found.regions[0].pixels, square())


def test_masks_by_name_in_every_place(photo, tmp_path):
    masks = tmp_path / "masks"
    (masks / "a photo").mkdir(parents=True)
    for name, mask in (
        ("a photo.png", square()),
        ("a photo_black cat.png", blob(1)),
        ("a photo/ring.2.png", ring_shape()),
    ):
        (masks / name).write_bytes(png_of(mask))

    (image,) = read_regions(tmp_path, "png", ToolOptions(images=photo.parent, label="thing"))

    assert {one.label for one in image.regions} == {"thing", "black cat", "ring"}


# --- what cannot be carried -------------------------------------------------------------------------------------------

BAD = {
    "a box of COCO": ("coco", coco([{"segmentation": [], "bbox": [1, 2, 3, 4]}]), "1 has no segmentation, only"),
    "COCO of another size": ("coco", coco([{"segmentation": POLYGON}], height=99), "is about 99 × 80 pixels"),
    "COCO without its image": ("coco", coco([{"segmentation": POLYGON}], name="b.jpg"), "image b.jpg, which is not in"),
    "COCO outside": ("coco", coco([{"segmentation": [[99, 99, 199, 99, 199, 199]]}]), "encloses no pixel"),
    "a line of LabelMe": ("labelme", {"shapes": [shape("line", [[1, 2], [3, 4]])]}, "shape 0: .*has no area"),
    "LabelMe outside": ("labelme", {"shapes": [shape("polygon", [[99, 9], [199, 9], [199, 9]])]}, "has no pixel"),
    "a box of Label Studio": (
        "label_studio",
        [{"data": {"image": "a photo.jpg"}, "annotations": [{"result": [{"type": "rectanglelabels", "value": {}}]}]}],
        "result 0 is of type 'rectanglelabels', which has no mask",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_a_mask_cannot_carry_is_told_with_its_place(kind, photo):
    form, content, message = BAD[kind]
    path = write_json(photo.with_suffix(".json"), content)

    with pytest.raises(UserError, match=message) as caught:
        list(read_regions(path, form))

    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1 0.1", "line 1 is a box"),
        ("9 0.1 0.1 0.5 0.1 0.5 0.5", "class 9 has no name"),
        ("0 1.5 0.1 0.5 0.1 0.5 0.5", "as fractions of the image"),
        ("0 a b", "has more than numbers"),
    ],
)
def test_lines_of_yolo_that_are_no_polygons(line, message, images, tmp_path):
    write_regions(images, tmp_path / "out", "yolo")
    (tmp_path / "out/labels/a photo.txt").write_text(line)

    with pytest.raises(UserError, match=message):
        list(read_regions(tmp_path / "out"))


def test_pixels_to_ignore_are_refused_where_there_is_no_place_for_them(images, tmp_path):
    ignoring = [RegionImage(image.image, image.name, image.size, image.regions, encode(blob(4))) for image in images]

    for form in ("yolo", "parquet"):
        with pytest.raises(UserError, match="has pixels to ignore.*write coco"):
            write_regions(ignoring, tmp_path / form, form)


def test_nothing_is_overwritten(images, tmp_path):
    write_regions(images, tmp_path / "data/custom/mine.jsonl", "custom")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")

    with pytest.raises(UserError, match="exists; choose another"):
        write_regions(images, tmp_path / "data/custom/mine.jsonl", "custom")
    with pytest.raises(UserError, match="is not empty"):
        write_regions(images, tmp_path / "full", "coco")


@pytest.mark.parametrize("form", ["custom", "coco"])
def test_what_fails_leaves_nothing_behind_and_can_be_repeated(form, images, tmp_path):
    out = tmp_path / "data/custom/mine.jsonl" if form == "custom" else tmp_path / "out"

    def broken():
        yield images[0]
        raise UserError("the second image is bad")

    with pytest.raises(UserError, match="the second image is bad"):
        write_regions(broken(), out, form)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "photos"]
    write_regions(images, out, form)


@pytest.mark.parametrize("form", ["coco", "yolo", "png", "labelme", "parquet", "custom"])
def test_an_image_that_exif_turns_is_written_upright_and_stays_as_it_is_in_own_data(form, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    Image.new("RGB", (HEIGHT, WIDTH), "red").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif)
    mask = np.zeros((WIDTH, HEIGHT), np.uint8)
    mask[:20, :30] = 1
    out = tmp_path / "data/custom/mine.jsonl" if form == "custom" else tmp_path / "out"

    write_regions([RegionImage(tmp_path / "a.jpg", "a.jpg", (WIDTH, HEIGHT), (region("top", mask),))], out, form)
    (found,) = read_regions(out)

    assert np.array_equal(found.regions[0].pixels, mask)
    with Image.open(BytesIO(found.content)) as image:
        assert image.getexif().get(0x0112, 1) == (6 if form == "custom" else 1)
        assert image.size == ((WIDTH, HEIGHT) if form == "custom" else (HEIGHT, WIDTH))


def test_a_folder_of_nothing_that_is_known_is_told(photo):
    with pytest.raises(UserError, match="looks like none of .*labelme"):
        read_regions(photo.parent)
