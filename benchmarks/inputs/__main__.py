"""Every kind of sound and picture, tried on the product: what came of it, as the tables of docs/inputs.md.

    python -m benchmarks.inputs [--write] [--folder FOLDER] [--only sounds pictures lips]

Needs ffmpeg, which makes the files and is what the sound is compared with. `--write` puts the tables between the marks
of docs/inputs.md; `--folder` tries the sounds of another folder, too. Ends with 1 where a result is not right.
"""

import argparse
import re
import sys
from pathlib import Path

import av
import PIL

from .hearing import GROUPS, INPUTS, ROOT, Row, ffmpeg_version, try_folder, try_sounds
from .lips import try_lips
from .pictures import try_crops, try_pictures

DOCUMENT = ROOT / "docs" / "inputs.md"
SECTIONS = ("sounds", "pictures", "lips")


def table(title: str, rows: list[Row]) -> str:
    """A table in Markdown, under its title."""
    lines = [f"### {title}", "", "| kind | result | |", "|---|---|---|"]
    for row in rows:
        cells = (row.kind, row.result, "right" if row.right else f"**wrong**: {row.why}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines)


def tried(section: str, folder: Path | None) -> dict[str, list[Row]]:
    """The tables of a section."""
    if section == "pictures":
        return try_pictures() | {"A figure from head to foot": try_crops()}
    if section == "lips":
        return {"The embedded model's mouth": try_lips()}
    sounds = try_sounds(list(GROUPS))
    sounds["Files of the tests, after public reports"] = try_folder(INPUTS)
    return sounds | ({str(folder): try_folder(folder)} if folder else {})


def summary(section: str, tables: dict[str, list[Row]]) -> str:
    """How many of how many are right, and by what."""
    rows = [row for part in tables.values() for row in part]
    right = sum(row.right for row in rows)
    versions = (
        f"PyAV {av.__version__}, ffmpeg {ffmpeg_version()}" if section == "sounds" else f"Pillow {PIL.__version__}"
    )
    return f"{right} of {len(rows)} are right" + ("" if section == "lips" else f" ({versions})") + "."


def put(section: str, text: str) -> None:
    """Replace what stands between a section's marks."""
    document = DOCUMENT.read_text(encoding="utf-8")
    marks = f"<!-- {section} -->", f"<!-- end of {section} -->"
    between = re.compile(f"{marks[0]}.*?{marks[1]}", re.DOTALL)
    assert between.search(document), f"{DOCUMENT} has no marks for {section}"
    DOCUMENT.write_text(between.sub(lambda _: f"{marks[0]}\n{text}\n{marks[1]}", document), encoding="utf-8")


def main() -> int:
    """Try what is asked for; print it, or write it down."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true", help="into docs/inputs.md")
    options.add_argument("--folder", type=Path, help="sounds to try beside the tests' own")
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    chosen = options.parse_args()
    wrong = 0
    for section in chosen.only:
        tables = tried(section, chosen.folder)
        text = "\n\n".join([summary(section, tables), *(table(*part) for part in tables.items())])
        wrong += sum(not row.right for part in tables.values() for row in part)
        put(section, text) if chosen.write else print(text, flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
