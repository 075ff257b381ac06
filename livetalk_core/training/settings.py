"""A training run's configuration: a TOML file read into frozen dataclasses, every key checked."""

import sys
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from ..errors import InputError
from ..files import check_readable
from .trainer import Schedule
from .vae import Phase

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

T = TypeVar("T")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Data:
    """Where takes come from. `speech`: a folder of recordings, and the `minutes` to make; `seed`: of faces and motion;
    `liveliness` of the motion, 1 or calmer, `phrased` where blinks follow the voice; `pictures`: a folder of pictures
    beside what is drawn, and `covered`, the share of takes that show them; `altered`, the share in other colours and of
    other shapes; `person`: the number of a held-out drawn person whom all takes show; `clips`: a folder of videos with
    sound to prepare in place of drawn takes, and the `filters` that they must pass (`filters.FILTERS`); `pool`: the
    folder of prepared takes, and how it is filled (`latents.Preparation`), `held`: how many of its files are held out
    (see `Schedule.held_every`); `prompts` are encoded beside the default one."""

    speech: Path = Path("training-data/speech")
    pool: Path = Path("training-data/pool")
    minutes: float = 40.0
    seed: int = 1
    liveliness: float = 1.0
    pictures: Path | None = None
    covered: float = 0.0
    altered: float = 0.0
    phrased: bool = False
    person: int | None = None
    clips: Path | None = None
    filters: tuple[str, ...] = ()
    takes: int = 512
    windows: int = 4
    held: int = 0
    sizes: tuple[tuple[int, int], ...] = ((128, 128),)
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """One run. `model` is the name or folder of the parts that it begins with, with `patch` those of Wan 2.1 and
    the audio layers that an InfiniteTalk patch brings; `init` a run's folder whose averaged
    weights replace the trained part's; a `fresh` run begins with `nano`'s weights from before any training. `dtype` is
    what is computed in; weights are float32, but for those that a LoRA is trained on: with `fp8` their blocks' are FP8,
    the others as the file has them. `phases` are the VAE's; `task` has the task's own settings, such as `clips`,
    `guidance` or `chunks`. `blend` is the share of the trained weights in the exported ones; the rest is `init`'s,
    or the model's own where a VAE learns from its trips: between two stages of one training lie weights that have
    something of both (arXiv 2109.01903). `repeats_portrait` is what `TransformerConfig` says of it; without it, as the
    model has it."""

    schedule: Schedule
    model: str = "nano"
    patch: Path | None = None
    init: Path | None = None
    fresh: bool = False
    repeats_portrait: bool | None = None
    dtype: str = "bfloat16"
    checkpointing: bool = False
    fp8: bool = False
    blend: float = 1.0
    data: Data = field(default_factory=Data)
    phases: tuple[Phase, ...] = ()
    task: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}; there are {', '.join(DTYPES)}")
        if not 0 < self.blend <= 1 or (self.blend < 1 and self.init is None and "trips" not in self.task):
            raise InputError(f"blend {self.blend} with init {self.init}; a share above 0, below 1 only beside an init")


def read_settings(path: Path) -> Settings:
    """The settings in a TOML file; `InputError` names what is missing, unknown or of another kind."""
    check_readable(path, "the settings", "a TOML file", InputError)
    try:
        return parse(Settings, tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # damaged, of another kind, or nested without end
        raise InputError(f"{path} cannot be read ({error}); a TOML file of settings is needed") from error


def parse(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass from a table of TOML."""
    every = fields(kind)  # pyright: ignore[reportArgumentType]
    known = {each.name: each.type for each in every}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"{where} has the unknown {', '.join(unknown)}; known are {', '.join(known)}")
    missing = [each.name for each in every if needed(each) and each.name not in values]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}: give it")
    try:
        return kind(**{name: _value(known[name], value, f"{where}: {name}") for name, value in values.items()})
    except InputError as error:
        if str(error).startswith(where):  # of a table within
            raise
        raise InputError(f"{where}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def needed(each: Field[Any]) -> bool:
    """Whether a field of a dataclass has no value of its own."""
    return each.default is MISSING and each.default_factory is MISSING


def _value(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind) and isinstance(value, dict):
        return parse(kind, value, where)  # pyright: ignore[reportArgumentType]
    if get_origin(kind) is tuple and isinstance(value, list):
        (inner, *_) = get_args(kind)
        return tuple(inner(*item) if inner is Phase else _value(inner, item, where) for item in value)
    if kind in (Path, Path | None):
        return Path(value)
    if kind == int | None:
        kind = int
    if kind in (int, float, str, bool) and not isinstance(value, (int, float) if kind is float else kind):
        raise InputError(f"{where} is {value!r}; {kind.__name__} is needed")
    return value
