"""The demo's portrait and speech where Load Image and Load Audio find them, so that the quick start runs at once."""

import json
import logging
import shutil
from pathlib import Path

import folder_paths

DEMO = Path(__file__).resolve().parents[2] / "demo"
EXAMPLES = {"portrait.png": "livetalk_portrait.png", "speech.wav": "livetalk_speech.wav"}
SETTING = "LiveTalk.PlaceExamples"
"""The switch in ComfyUI's settings, declared in web/livetalk.js."""


def place_examples() -> None:
    """Copy them to the input folder where they are missing, and say so; never where the user has turned that off."""
    folder = Path(folder_paths.get_input_directory())
    missing = {name: folder / placed for name, placed in EXAMPLES.items() if not (folder / placed).exists()}
    if not missing or not _asked_for():
        return
    try:
        for name, place in missing.items():
            shutil.copyfile(DEMO / name, place)
    except OSError as error:
        logging.warning("LiveTalk: the example portrait and speech cannot be put into %s: %s", folder, error)
    else:
        names = " and ".join(place.name for place in missing.values())
        logging.info("LiveTalk: put %s into %s (ComfyUI's settings, LiveTalk, turn this off)", names, folder)


def _asked_for() -> bool:
    settings = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        return json.loads(settings.read_text(encoding="utf-8")).get(SETTING, True)
    except (OSError, ValueError, AttributeError):
        return True
