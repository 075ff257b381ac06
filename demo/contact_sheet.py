"""Draws docs/demo.jpg: the portrait beside frames of the demo video, evenly spaced.

make demo && .venv/bin/python demo/contact_sheet.py
"""

from pathlib import Path

import av
from PIL import Image

HERE = Path(__file__).resolve().parent
SIDE, COUNT = 256, 5


def main() -> None:
    with av.open(str(HERE / "out" / "demo.mp4")) as video:
        frames = [frame.to_image() for frame in video.decode(video=0)]
    chosen = [frames[index * (len(frames) - 1) // (COUNT - 1)] for index in range(COUNT)]
    sheet = Image.new("RGB", (SIDE * (COUNT + 1), SIDE))
    for place, image in enumerate([Image.open(HERE / "portrait.png").convert("RGB"), *chosen]):
        sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (place * SIDE, 0))
    sheet.save(HERE.parent / "docs" / "demo.jpg", quality=85)


if __name__ == "__main__":
    main()
