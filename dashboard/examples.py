"""The examples that the dashboard ships: drawn pictures (`draw_examples.py`) and a question about each."""

from pathlib import Path

PICTURES = Path(__file__).with_name("example_pictures")

EXAMPLES = (
    (PICTURES / "houses.jpg", "What is the large orange house in this image? Please output segmentation mask."),
    (PICTURES / "clocks.jpg", "Where is the red clock?"),
    (
        PICTURES / "traffic.jpg",
        "What is the object that people drive on a road in this image? Please output segmentation mask.",
    ),
    (PICTURES / "shore.jpg", "What is the large purple ball in this image? Please output segmentation mask."),
)
