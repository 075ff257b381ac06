"""Who may talk: one caller holds the engine, others wait in line, or are refused."""

from ...errors import InputError

MOST_WAITING = 16


class Seats:
    """One seat, and a line of up to `waiting` callers before it (0: whoever comes second is refused)."""

    def __init__(self, waiting: int = MOST_WAITING) -> None:
        self._callers: list[str] = []
        self._most = 1 + waiting

    @property
    def holder(self) -> str | None:
        """Who has the seat."""
        return self._callers[0] if self._callers else None

    def ask(self, caller: str) -> int:
        """The caller's place: 0 is the seat, 1 the first in line. Asking again keeps it. `InputError` if full."""
        if caller not in self._callers:
            if len(self._callers) >= self._most:
                raise InputError(f"busy: {len(self._callers)} callers are here, the most that may be: come again later")
            self._callers.append(caller)
        return self._callers.index(caller)

    def waits(self, caller: str) -> bool:
        """Whether the caller has a place."""
        return caller in self._callers

    def leave(self, caller: str) -> None:
        """The caller goes; those behind move up."""
        if caller in self._callers:
            self._callers.remove(caller)
