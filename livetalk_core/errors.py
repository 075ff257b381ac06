"""What can go wrong, sorted by what the user can do about it.

Every message says what was found, what is needed and what to do. The command line and the nodes
print it as it stands; anything that is not a `LiveTalkError` is a fault of ours.
"""

LINE_LENGTH = 1000
LINES = 40
"""The most of a message that is shown: names in files from outside may be of any length."""


class LiveTalkError(Exception):
    """Base of all errors that a user can mend."""

    def __str__(self) -> str:
        """The message; of what is too long, the beginning and the end."""
        lines = super().__str__().split("\n")
        return "\n".join(_shortened(line) for line in lines[:LINES])


class InputError(LiveTalkError, ValueError):
    """An image, a sound, a size or a setting cannot be used."""


class CheckpointError(LiveTalkError):
    """A file of weights is missing, damaged, or of another model."""


class ResumeError(LiveTalkError):
    """A partial render cannot be continued: damaged, or made from other inputs."""


class OutputError(LiveTalkError):
    """The result cannot be written: no folder, no permission, a full disk."""


class TakenError(OutputError):
    """What lies where the result is to be written, or who writes there, is left alone; nothing was begun."""


class WorkerError(LiveTalkError):
    """A worker on another device or host died, stopped answering, failed, or cannot take part."""


class NumbersError(LiveTalkError):
    """What the model computed is not finite: NaN or infinity."""


class DeviceMemoryError(LiveTalkError):
    """A device has run out of memory."""


class Cancelled(BaseException):
    """The user stopped the work. Not an `Exception`, so that no handler swallows it."""


def _shortened(line: str) -> str:
    half = LINE_LENGTH // 2
    return line if len(line) <= LINE_LENGTH else f"{line[:half]} ... {line[-half:]}"
