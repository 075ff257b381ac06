"""Which code a process runs: a controller and its workers must run the same, to the line.

Ranks wait for each other in the order that the code says, and two states of a checkout often have one version.
"""

import hashlib
from pathlib import Path

PACK = Path(__file__).parents[1]


def digest(pack: Path) -> str:
    """What tells the Python files below a folder from any others, however their lines end."""
    found = hashlib.sha256()
    for name in sorted(file.relative_to(pack).as_posix() for file in pack.rglob("*.py")):
        code = (pack / name).read_bytes().replace(b"\r\n", b"\n")
        found.update(name.encode() + b"\0" + hashlib.sha256(code).digest())
    return found.hexdigest()[:16]


CODE = digest(PACK)
"""Of this process, as it began: an update since then is what workers would start from."""
