"""What a download will bring, how much of it is there, and its carrying out."""

import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...checkpoints.convert import convert
from ...errors import OutputError
from .hub import RemoteFile, Repository, fetch, look_up, part_of
from .sources import BUNDLES, Bundle, Source

GENERATE = "python -m livetalk_core generate"


class Item(NamedTuple):
    """One file: where it goes, and what it is converted to, if it is a pickle."""

    file: RemoteFile
    target: Path
    converted: Path | None

    @property
    def result(self) -> Path:
        """What is there in the end."""
        return self.converted or self.target

    @property
    def missing(self) -> int:
        """Bytes still to be downloaded."""
        converted = self.converted is not None and self.converted.exists()
        if converted or (self.target.exists() and self.target.stat().st_size == self.file.size):
            return 0
        part = part_of(self.target, self.file)
        return self.file.size - (part.stat().st_size if part.exists() else 0)


@dataclass(frozen=True)
class Plan:
    """All files of a model, with what the hub says of them."""

    bundle: Bundle
    folder: Path
    repositories: tuple[Repository, ...]
    items: tuple[Item, ...]
    endpoint: str | None

    def described(self) -> Iterator[str]:
        """Line by line: repositories with their licences, files with their sizes, and the sums."""
        for repository in self.repositories:
            yield f"{repository.name}  (licence: {repository.licence})"
            for item in self.items:
                if item.file.repository == repository.name:
                    yield f"  {_size(item.file.size):>9}  {item.result.relative_to(self.folder)}"
        total = sum(item.file.size for item in self.items)
        yield f"  {_size(total):>9}  in all, {_size(self.missing)} of it still to come, to {self.folder}"

    @property
    def missing(self) -> int:
        """Bytes still to be downloaded."""
        return sum(item.missing for item in self.items)

    @property
    def room(self) -> int:
        """Bytes that must be free: a pickle and what it is converted to are there together for a while."""
        pickles = [item.file.size for item in self.items if item.converted and not item.converted.exists()]
        return self.missing + max(pickles, default=0)

    @property
    def next_step(self) -> str:
        """What to do with what is there now."""
        if not self.bundle.generate:
            return f"done; {self.bundle.advice}"
        model = self.bundle.generate.format(shlex.quote(str(self.folder)))
        return f"done; to render:\n  {GENERATE} {model} --image portrait.png --audio speech.wav"


def planned(name: str, folder: Path, endpoint: str | None = None) -> Plan:
    """What it takes to have the model `name` in `folder`; asks the hub for lists, and for no file."""
    bundle = BUNDLES[name]
    names = dict.fromkeys(source.repository for source in bundle.files)
    repositories = {name: look_up(name, endpoint) for name in names}
    items = [
        _item(source, file, folder)
        for source in bundle.files
        for file in repositories[source.repository].matching(source.pattern)
    ]
    return Plan(bundle, folder, tuple(repositories.values()), tuple(items), endpoint)


def _item(source: Source, file: RemoteFile, folder: Path) -> Item:
    target = folder / source.folder / (Path(file.name).name if source.flat else file.name)
    return Item(file, target, target.with_name(source.converted) if source.converted else None)


def carry_out(plan: Plan, report: Callable[[str], None]) -> None:
    """Download what is missing, check all of it, convert the pickles; `report` is given lines for the user.

    `OutputError` before the first byte where there is too little room; see `hub.fetch` for the rest.
    """
    _check_room(plan)
    for item in plan.items:
        if item.converted is not None and item.converted.exists():
            report(f"{item.converted}: there")
            continue
        if not (item.target.exists() and item.file.is_whole(item.target)):
            fetch(item.file, item.target, plan.endpoint)
        report(f"{item.target}: whole, its hash is the hub's")
        if item.converted is not None:
            convert(item.target, item.converted)
            item.target.unlink()
            report(f"{item.converted}: converted from {item.target.name}, which is deleted")


def _check_room(plan: Plan) -> None:
    there = next(path for path in (plan.folder.absolute(), *plan.folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < plan.room:
        raise OutputError(
            f"{free:,} bytes are free in {there}; needed are {plan.room:,}: make room, or choose another --to"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
