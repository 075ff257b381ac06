"""Draws docs/demo.jpg, the portrait beside frames of the demo video, evenly spaced, and docs/demo.webp, all of them.

make demo && .venv/bin/python demo/contact_sheet.py
"""

from pathlib import Path

import av
from PIL import Image

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
SIDE, COUNT = 256, 5
MILLISECONDS = 40


def main() -> None:
    with av.open(str(HERE / "out" / "demo.mp4")) as video:
        frames = [_drawn(frame.to_image()) for frame in video.decode(video=0)]
    frames[0].save(
        DOCS / "demo.webp", save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0, quality=50, method=6
    )
    chosen = [frames[index * (len(frames) - 1) // (COUNT - 1)] for index in range(COUNT)]
    sheet = Image.new("RGB", (SIDE * (COUNT + 1), SIDE))
    for place, image in enumerate([_drawn(Image.open(HERE / "portrait.png").convert("RGB")), *chosen]):
        sheet.paste(image, (place * SIDE, 0))
    sheet.save(DOCS / "demo.jpg", quality=85)


def _drawn(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
