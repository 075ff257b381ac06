"""The files that an evaluation leaves: looked at before hours are spent."""

from importlib import import_module
from pathlib import Path

from ...errors import OutputError
from ...files import check_place, make_folder


def check_outputs(figures: Path | None, sheet: Path | None, plots: Path | None) -> None:
    """Raise `OutputError` for what cannot be written at the end, and `ImportError` where charts cannot be drawn."""
    for path in filter(None, (figures, sheet)):
        check_place(path)
    if sheet and sheet.suffix.lower() != ".png":
        raise OutputError(f"sheet {sheet}; a name that ends in .png is needed")
    if plots:
        import_module("matplotlib")
        make_folder(plots)
