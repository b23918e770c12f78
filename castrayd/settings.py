"""Settings: typed, from TOML, environment and arguments; every fault of a source told at once.

Read by `cli` and `daemon` alone, which hand each part its own policy. Arguments win over
`CASTRAYD_<SECTION>__<KEY>`, that over the file, that over the defaults; defaults that the core
knows are taken from there, never written twice.
"""

import tomllib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from castrayd.core.candidates import AUTO, parse_address
from castrayd.core.policy import BackoffPolicy, Checks, Deadlines, FailbackPolicy, Policy
from castrayd.errors import AttachError, SettingsError, SettingsProblem
from castrayd.sections import (
    DAY_S,
    BackoffSettings,
    CastingSettings,
    CheckSettings,
    ControlSettings,
    DaemonSettings,
    DeadlineSettings,
    FailbackSettings,
    LogSettings,
    MetricsSettings,
    RaySettings,
    SessionSettings,
)

__all__ = ("PREFIX", "Settings", "SettingsField", "changed", "fields", "load", "shown", "table")

PREFIX: Final = "CASTRAYD_"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings, by section."""

    ray: RaySettings = RaySettings()
    session: SessionSettings = SessionSettings()
    control: ControlSettings = ControlSettings()
    daemon: DaemonSettings = DaemonSettings()
    checks: CheckSettings = CheckSettings()
    backoff: BackoffSettings = BackoffSettings()
    failback: FailbackSettings = FailbackSettings()
    deadlines: DeadlineSettings = DeadlineSettings()
    casting: CastingSettings = CastingSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()

    def policy(self) -> Policy:
        """Return what the core needs of them."""
        return Policy(
            backoff=msgspec.convert(msgspec.structs.asdict(self.backoff), BackoffPolicy),
            checks=msgspec.convert(msgspec.structs.asdict(self.checks), Checks),
            failback=msgspec.convert(msgspec.structs.asdict(self.failback), FailbackPolicy),
            fallback_after_s=(self.ray.fallback_after_s if self.ray.allow_local_fallback else None),
            min_nodes=self.ray.min_nodes,
            settle_s=self.casting.settle_s,
        )

    def deadlines_policy(self) -> Deadlines:
        """Return the deadlines of an attempt's phases."""
        return msgspec.convert(msgspec.structs.asdict(self.deadlines), Deadlines)


_RESTART: Final = frozenset(
    {"control.socket", "control.write_groups", "control.read_groups", "control.own_uid_writes",
     "daemon.state_dir", "log.format", "metrics.listen"}
)  # fmt: skip
"""Keys that a reload reads and does not apply."""


class SettingsField(Struct, frozen=True):
    """One setting, as the README's table and the environment name it."""

    key: str
    type: Any
    default: object
    description: str
    reload: bool

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return PREFIX + self.key.replace(".", "__").upper()

    @property
    def unit(self) -> str:
        """What a number of it counts: names of durations end in `_s`, for seconds."""
        return "s" if self.key.endswith("_s") else ""


def fields() -> Iterator[SettingsField]:
    """Yield every setting, in order."""
    for section in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(section.type):
            key = f"{section.name}.{field.name}"
            default = _default(field)
            yield SettingsField(
                key, field.type, default, _description(field.type), key not in _RESTART
            )


def _default(field: Any) -> object:  # noqa: ANN401  msgspec's FieldInfo is not exported
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return field.default_factory()


def _description(annotated: Any) -> str:  # noqa: ANN401
    metas = getattr(annotated, "__metadata__", ())
    return next((meta.description for meta in metas if meta.description), "")


def load(
    path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]
) -> tuple[Settings, tuple[str, ...]]:
    """Load settings; returns them with warnings about variables that are none of ours.

    `overrides` holds arguments by dotted key. Raises `SettingsError` with every problem found.
    """
    problems: list[SettingsProblem] = []
    tree = _read(path)
    _validated(tree, problems)  # a fault of the file is told also where an argument hides it
    variables, warnings = _variables(environ)
    for key, value in (*variables.items(), *overrides.items()):
        section, _, name = key.partition(".")
        inner = tree.setdefault(section, {})
        if isinstance(inner, dict):
            inner[name] = value
    merged: list[SettingsProblem] = []
    values = _validated(tree, merged)
    merged += _together(values, {problem.path for problem in (*problems, *merged)})
    problems += _with_origin(merged, variables, overrides)
    if problems:
        unique = tuple(dict.fromkeys(problems))
        raise SettingsError(str(path) if path else "settings", unique)
    return values, warnings


def _with_origin(
    problems: list[SettingsProblem],
    variables: Mapping[str, object],
    overrides: Mapping[str, object],
) -> Iterator[SettingsProblem]:
    """Name the variable or argument at fault, for nobody finds it in the file."""
    names = {field.key: field.variable for field in fields()} if problems else {}
    for problem in problems:
        key = problem.path
        if key in overrides:
            yield SettingsProblem(key, f"{problem.message} (an argument)")
        elif key in variables:
            yield SettingsProblem(key, f"{problem.message} ({names[key]})")
        else:
            yield problem


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(str(path), (SettingsProblem("file", str(error)),)) from error


def _variables(environ: Mapping[str, str]) -> tuple[dict[str, object], tuple[str, ...]]:
    """Take `CASTRAYD_SECTION__KEY`; other names of that prefix are only worth a warning."""
    known = {field.variable: field for field in fields()}
    taken: dict[str, object] = {}
    strangers = []
    for name, text in environ.items():
        if name in known:
            taken[known[name].key] = _parsed(known[name], text)
        elif name.startswith(PREFIX) and name not in _OTHERS:
            # names with `__` are slips of the pen; Kubernetes injects others at every start
            meant = _near(name, known) if "__" in name else ""
            strangers.append(f"{name} is no setting and is ignored{meant}")
    return taken, tuple(sorted(strangers))


_OTHERS: Final = frozenset({"CASTRAYD_SOCKET", "CASTRAYD_CONFIG"})
"""Read by the commands, not settings."""


def _takes_text(field: SettingsField) -> bool:
    try:
        msgspec.convert("text", field.type)
    except msgspec.ValidationError:
        return False
    return True


def _parsed(field: SettingsField, text: str) -> object:
    """Read a variable as TOML where that fits the type; plain text is a string."""
    if isinstance(field.default, str) or (field.default is None and _takes_text(field)):
        return text
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # text of several lines may hold further keys, which nobody would ever read
    return document["value"] if len(document) == 1 else text


def _validated(tree: dict[str, Any], problems: list[SettingsProblem]) -> Settings:
    """Convert value by value, since a whole conversion would stop at the first problem."""
    sections: dict[str, Any] = {}
    known = {section.name: section.type for section in msgspec.structs.fields(Settings)}
    for name, body in tree.items():
        if name not in known:
            problems.append(_unknown(name, name, known))
        elif not isinstance(body, dict):
            problems.append(SettingsProblem(name, f"a table is expected: [{name}]"))
        else:
            sections[name] = _section(name, known[name], body, problems)
    return Settings(**sections)


def _section(
    name: str,
    kind: Any,  # noqa: ANN401  one of the Structs above
    body: dict[str, Any],
    problems: list[SettingsProblem],
) -> Any:  # noqa: ANN401
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    values = {}
    for key, value in body.items():
        path = f"{name}.{key}"
        if key not in known:
            problems.append(_unknown(path, key, known))
            continue
        try:
            str(value).encode()  # bytes of the environment need be no text
            values[key] = msgspec.convert(value, known[key])
        except UnicodeEncodeError:
            problems.append(SettingsProblem(path, "is not UTF-8 text"))
        except msgspec.ValidationError as error:
            problems.append(SettingsProblem(path, f"{error}{_choice(known[key])}"))
    return kind(**values)


def _choice(annotated: Any) -> str:  # noqa: ANN401
    """Name what can be chosen where the type is a choice, for msgspec names only what cannot."""
    choices = msgspec.json.schema(annotated).get("enum")
    return f"; one of {', '.join(choices)}" if choices else ""


def _unknown(path: str, name: str, known: Mapping[str, object]) -> SettingsProblem:
    return SettingsProblem(path, f"no such setting{_near(name, known)}")


def _near(name: str, known: Mapping[str, object]) -> str:
    import difflib  # noqa: PLC0415  a good file never needs it, and every start would pay for it

    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _together(values: Settings, faulty: AbstractSet[str]) -> Iterator[SettingsProblem]:
    """Check what only several settings together can get wrong.

    `faulty` are the keys that have no value of their own; nothing is said of what they stand in.
    """
    named = [("ray.address", text) for text in values.ray.addresses if text != AUTO]
    if values.ray.dns_name is not None:
        named.append(("ray.dns_name", values.ray.dns_name))
    for key, text in named:
        try:
            parse_address(text)
        except AttachError as error:
            yield SettingsProblem(key, error.fault.message)
    master = values.ray.allow_local_start or "ray.allow_local_start" in faulty
    if values.ray.allow_local_fallback and not master:
        yield SettingsProblem("ray.allow_local_fallback", "needs ray.allow_local_start")
    for less, more in _ORDERED:
        if _value(values, less) > _value(values, more) and not faulty & {less, more}:
            yield SettingsProblem(less, f"is larger than {more}")


_ORDERED: Final = (
    ("failback.good_s", "failback.max_s"),
    ("backoff.initial_s", "backoff.max_s"),
    ("checks.timeout_s", "checks.interval_s"),
)
"""Pairs of which the first must not be larger than the second."""


def changed(old: Settings, new: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the keys that differ, and those of them that need a restart."""
    keys = tuple(f.key for f in fields() if _value(old, f.key) != _value(new, f.key))
    return keys, tuple(key for key in keys if key in _RESTART)


def _value(settings: Settings, key: str) -> Any:  # noqa: ANN401  as the setting's type says
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


def shown(settings: Settings) -> dict[str, Any]:
    """Return them for a report; of `ray.env_vars`, which may hold secrets, the names alone."""
    tree: dict[str, Any] = msgspec.to_builtins(settings)
    tree["ray"]["env_vars"] = dict.fromkeys(settings.ray.env_vars, "(not shown)")
    return tree


def table() -> str:
    """Render the README's table of all settings."""
    rows = ["| key | type | unit | default | reload | what it is |", "|---|---|---|---|---|---|"]
    for field in fields():
        default = f"`{msgspec.json.encode(field.default).decode()}`"
        reload = "yes" if field.reload else "restart"
        cells = (f"`{field.key}`", _type(field.type), field.unit, default, reload)
        rows.append(f"| {' | '.join(cells)} | {field.description} |")
    return "\n".join(rows)


def _type(annotated: Any) -> str:  # noqa: ANN401
    schema = msgspec.json.schema(annotated)
    kinds = schema.get("anyOf") or [schema]
    names = [_type_of(kind) for kind in kinds]
    bounds = {k: v for k, v in schema.items() if k in _LIMITS and v != DAY_S}
    limits = " ".join(f"{_LIMITS[k]} {v:g}" for k, v in bounds.items())
    return " or ".join(name for name in names if name != "null") + (f" {limits}" if limits else "")


def _type_of(schema: Mapping[str, Any]) -> str:
    if schema.get("type") == "array":
        return f"list of {_type_of(schema['items'])}"
    return schema.get("type") or " ".join(map(str, schema.get("enum", ())))


_LIMITS: Final = {
    "exclusiveMinimum": ">",
    "minimum": ">=",
    "exclusiveMaximum": "<",
    "maximum": "<=",
}
