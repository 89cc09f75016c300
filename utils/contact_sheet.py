"""A contact sheet: one row per sample with image, ground truth, similarity map, prediction, question and answer.

image | ground truth | similarity map (its layer) | prediction | question, answer, IoU

A card has the same of one sample, two images to a line, for pages that show images narrow.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from groundscore.colours import IGNORE_COLOUR, Colour, choose_colours, text_on
from groundscore.drawing import heat_map, overlay, resize_mask, size_within, split_targets
from groundscore.errors import UserError
from groundscore.scoring import percent
from groundscore.writing import written_whole

SOFTWARE = "UGround contact sheet"  # what our PNG files say that they were made by

INK: Colour = (28, 30, 34)
SOFT: Colour = (112, 118, 128)
LINE: Colour = (222, 225, 230)
PAPER: Colour = (255, 255, 255)
FONT_SIZE = 19
SMALL_SIZE = 16
TITLE_SIZE = 20
DIM = 0.45
MAX_LINES = 8  # of a question or an answer


@dataclass
class SheetRow:
    """What one row shows.

    image: uint8 [H, W, 3]. truth: bool [H, W] or None. ignore: bool [H, W] or None.
    masks: bool [n, H, W], one per `[SEG]` of `answer`. similarity: [H, W] in [0, 1] or None; layer: where it is from.
    label: a line above the question, e.g. the split. iou: of the union of the masks with the truth.
    """

    image: np.ndarray
    masks: np.ndarray
    question: str
    answer: str
    truth: np.ndarray | None = None
    ignore: np.ndarray | None = None
    similarity: np.ndarray | None = None
    layer: int | None = None
    label: str = ""
    iou: float | None = None

    @property
    def colours(self) -> list[Colour]:
        """Of the masks on the image and in the answer."""
        return choose_colours(self.image, self.masks)


def sample_card(row: SheetRow, *, cell: int = 320, gap: int = 12) -> Image.Image:
    """Draws one sample: its images two to a line, each with its name above, and question and answer under them."""
    columns, fitted = _columns([row]), _fit(row, cell)
    images = [_image(draw(fitted), cell) for _, draw in columns]
    text = _text_of(row, 2 * cell + gap)
    name_height = SMALL_SIZE + gap // 2
    height = max(image.height for image in images)
    lines = -(-len(images) // 2)
    top = gap + lines * (name_height + height + gap)
    card = Image.new("RGB", (2 * cell + 3 * gap, top + text.height + gap), PAPER)
    pen = ImageDraw.Draw(card)
    for number, ((name, draw), image) in enumerate(zip(columns, images, strict=True)):
        x = gap + number % 2 * (cell + gap) + (cell - image.width) // 2
        y = gap + number // 2 * (name_height + height + gap)
        pen.text((x, y), name, SOFT, _font(SMALL_SIZE))
        card.paste(image, (x, y + name_height))
        if draw is _similarity and row.similarity is not None and row.layer is not None:
            _tag(pen, (x + 8, y + name_height + 8), f"layer {row.layer}")
    card.paste(text.image, (gap, top))
    return card


def contact_sheet(
    rows: Sequence[SheetRow], *, cell: int = 300, text_width: int = 400, gap: int = 16, title: str = ""
) -> Image.Image:
    """Draws the rows. Images are at most `cell` wide and high; columns that no row needs are left out."""
    columns = _columns(rows)
    fitted = [_fit(row, cell) for row in rows]
    images = [[_image(draw(row), cell) for _, draw in columns] for row in fitted]
    texts = [_text_of(row, text_width) for row in fitted]
    heights = [max(*(each.height for each in line), text.height) for line, text in zip(images, texts, strict=True)]
    text_left = gap + len(columns) * (cell + gap) + gap // 2
    top = gap + (TITLE_SIZE + 2 * gap if title else 0)
    header = TITLE_SIZE + gap
    sheet = Image.new("RGB", (text_left + text_width + gap, top + header + sum(h + gap for h in heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((gap, gap), title, INK, _font(TITLE_SIZE + 4))
    for number, (name, _) in enumerate(columns):
        pen.text((gap + number * (cell + gap) + cell // 2, top), name, INK, _font(TITLE_SIZE), anchor="ma")
    pen.text((text_left, top), "Question and answer", INK, _font(TITLE_SIZE))

    y = top + header
    for row, line, text, height in zip(rows, images, texts, heights, strict=True):
        for number, image in enumerate(line):
            corner = gap + number * (cell + gap) + (cell - image.width) // 2, y + (height - image.height) // 2
            sheet.paste(image, corner)
            if columns[number][1] is _similarity and row.similarity is not None and row.layer is not None:
                _tag(pen, (corner[0] + 8, corner[1] + 8), f"layer {row.layer}")
        sheet.paste(text.image, (text_left, y + (height - text.height) // 2))
        y += height + gap
    return sheet


def _columns(rows: Sequence[SheetRow]) -> list[tuple[str, Callable[[SheetRow], np.ndarray | None]]]:
    """Names of the images that any row needs, and what draws each."""
    columns = [("Image", _plain)]
    if any(row.truth is not None for row in rows):
        columns.append(("Ground truth", _truth))
    if any(row.similarity is not None for row in rows):
        columns.append(("Similarity map", _similarity))
    return [*columns, ("Prediction", _prediction)]


def _fit(row: SheetRow, cell: int) -> SheetRow:
    """The row with its arrays scaled so that the longer side is `cell`: outlines are drawn at the final size."""
    size = size_within(row.image, cell)
    similarity = None
    if row.similarity is not None:
        similarity = np.array(
            Image.fromarray(row.similarity.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        )
    return replace(
        row,
        image=np.array(Image.fromarray(row.image).resize(size, Image.Resampling.LANCZOS)),
        masks=np.array([resize_mask(one, size) for one in row.masks]).reshape(len(row.masks), size[1], size[0]),
        truth=None if row.truth is None else resize_mask(row.truth, size),
        ignore=None if row.ignore is None else resize_mask(row.ignore, size),
        similarity=similarity,
    )


def _plain(row: SheetRow) -> np.ndarray | None:
    return row.image


def _truth(row: SheetRow) -> np.ndarray | None:
    if row.truth is None:
        return None
    image = row.image if row.ignore is None else overlay(row.image, [row.ignore], [IGNORE_COLOUR], contour=0)
    return overlay(image, [row.truth], dim=DIM)


def _similarity(row: SheetRow) -> np.ndarray | None:
    return None if row.similarity is None else heat_map(row.image, row.similarity)


def _prediction(row: SheetRow) -> np.ndarray | None:
    numbers = range(1, len(row.masks) + 1) if len(row.masks) > 1 else ()
    return overlay(row.image, row.masks, row.colours, dim=DIM, numbers=numbers)


def _image(drawn: np.ndarray | None, cell: int) -> Image.Image:
    if drawn is not None:
        return Image.fromarray(drawn)
    blank = Image.new("RGB", (cell, cell // 2), PAPER)
    ImageDraw.Draw(blank).text((cell // 2, cell // 4), "none", SOFT, _font(SMALL_SIZE), anchor="mm")
    return blank


def _tag(pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str) -> None:
    x, y = corner
    width = pen.textlength(text, _font(SMALL_SIZE))
    pen.rounded_rectangle((x, y, x + width + 14, y + SMALL_SIZE + 9), 5, (20, 20, 24))
    pen.text((x + 7, y + 3), text, PAPER, _font(SMALL_SIZE))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


# --- text ------------------------------------------------------------------------------------------------------------


@dataclass
class _Text:
    """A column of wrapped text, drawn on an image of its own."""

    width: int
    colours: Sequence[Colour] = ()  # of targets
    image: Image.Image = field(init=False)
    height: int = 0

    def __post_init__(self):
        self.image = Image.new("RGB", (self.width, 16), PAPER)

    def add(self, pieces: list[tuple[str, int | None]], size: int, colour: Colour, *, after: int = 0) -> None:
        """Adds a paragraph; a piece with the index of a target is drawn as a chip in its colour."""
        boxes, lines = self._lay_out(pieces, size)
        top = self.height
        self.height += lines * round(size * 1.45)
        self._grow()
        pen, font = ImageDraw.Draw(self.image), _font(size)
        for x, line, text, target in boxes:
            y = top + line * round(size * 1.45)
            if target is None:
                pen.text((x, y), text, colour, font)
            else:
                chip = self.colours[target] if target < len(self.colours) else SOFT
                pen.rounded_rectangle((x + 1, y, x + pen.textlength(text, font) + 10, y + size + 6), 5, chip)
                pen.text((x + 6, y), text, text_on(chip), font)
        self.height += after

    def _lay_out(
        self, pieces: list[tuple[str, int | None]], size: int
    ) -> tuple[list[tuple[float, int, str, int | None]], int]:
        """Where each word stands: (x, line, text, target); and the number of lines."""
        pen, font = ImageDraw.Draw(self.image), _font(size)
        boxes, x, line = [], 0.0, 0
        for word, target in _words_of(pieces):
            text, margin = (word, 0) if target is None else (f"SEG {target + 1}", 12)
            if x > 0 and x + pen.textlength(text.rstrip(), font) + margin > self.width:
                x, line = 0.0, line + 1
            if line == MAX_LINES:
                boxes[-1] = (*boxes[-1][:2], "…", None)
                return boxes, line
            while pen.textlength(text.rstrip(), font) > self.width:  # a word without spaces is cut where the line ends
                end = next(n for n in range(len(text), 0, -1) if n == 1 or pen.textlength(text[:n], font) <= self.width)
                boxes.append((0.0, line, text[:end], target))
                text, line = text[end:], line + 1
                if line == MAX_LINES:
                    return boxes, line
            boxes.append((x, line, text, target))
            x += pen.textlength(text, font) + margin
        return boxes, line + 1

    def _grow(self) -> None:
        if self.height > self.image.height:
            taller = Image.new("RGB", (self.width, self.height), PAPER)
            taller.paste(self.image)
            self.image = taller


def _words_of(pieces: list[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
    """Text cut after its spaces; targets stay whole."""
    words = []
    for text, target in pieces:
        cut = [text] if target is not None else re.findall(r"\S*\s|\S+", text.replace("\n", " "))
        words += [(word, target) for word in cut]
    return words


def _text_of(row: SheetRow, width: int) -> _Text:
    text = _Text(width, row.colours)
    if row.label:
        text.add([(row.label, None)], SMALL_SIZE, SOFT, after=4)
    text.add([(row.question, None)], FONT_SIZE, INK, after=8)
    text.add(split_targets(row.answer) or [("(no answer)", None)], FONT_SIZE, INK, after=8)
    if row.iou is not None:
        text.add([(f"IoU {percent(row.iou)}", None)], FONT_SIZE, SOFT)
    elif not len(row.masks):
        text.add([("nothing was segmented", None)], FONT_SIZE, SOFT)
    return text


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Writes a PNG that says that it is ours, whole or not at all; see `refuse_foreign_image`."""
    refuse_foreign_image(path)
    note = PngInfo()
    note.add_text("Software", SOFTWARE)
    try:
        with written_whole(path) as beside:
            sheet.save(beside, format="PNG", pnginfo=note)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error


def refuse_foreign_image(path: Path) -> None:
    """Raises `UserError` where there is a file that is not a sheet of ours: only those are replaced."""
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            if SOFTWARE.encode() in file.read(256):  # right behind the header
                return
    raise UserError(f"{path} exists and is not a contact sheet of this program; name another file")
