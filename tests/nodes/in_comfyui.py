"""Run by ComfyUI's interpreter: `in_comfyui.py CHECKOUT RESULTS [CHECK ...]`. Holds `nodes/host` against ComfyUI.

Each function named `check_...` in `checks/` is one check. RESULTS becomes a JSON object: check -> error, or null if it
passed.
"""

import importlib
import importlib.util
import json
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def import_pack(name):
    """The pack under a made-up name, as ComfyUI's loader does it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def run(check):
    """The traceback of a check, or None."""
    import torch

    try:
        with torch.inference_mode():
            check()
    except BaseException:
        return traceback.format_exc()
    return None


def main(checkout, results, *only):
    """Start ComfyUI as far as the checks need it, and run them."""
    sys.path.insert(0, str(Path(checkout).resolve()))
    sys.argv = ["main.py", "--cpu", "--fp32-text-enc"]  # fp16 text and vision encoders round by 0.003
    import comfy.options

    comfy.options.enable_args_parsing()
    import_pack("livetalk_in_comfyui")
    modules = [importlib.import_module(f"checks.{path.stem}") for path in sorted((HERE / "checks").glob("*.py"))]
    checks = {name: check for module in modules for name, check in vars(module).items() if name.startswith("check_")}
    found = {name: run(checks[name]) for name in only or checks}
    figures = importlib.import_module("checks.common").FIGURES
    Path(results).write_text(json.dumps(found | {"figures": figures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
