"""Makes docs/settings.md from the settings themselves: `scripts/settings-docs`.

Names, types, defaults and descriptions are the fields' own; the headings are the comments that
stand over the groups of fields in the source.
"""

import inspect
import re
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from tests import ROOT
from twinwire.settings import KIB, MIB, ChannelRule, Selector, Settings

PAGE = ROOT / "docs" / "settings.md"

_BEFORE = """\
<!-- Made by scripts/settings-docs from src/twinwire/settings.py. Change it there. -->

# Settings

Every setting has one name. It is looked for in these places, and the first one that has it counts:

1. the command line: a flag such as `--port 9000`, or `--set NAME=VALUE` for any setting; in an
   application the arguments of `Hub(...)`;
2. the environment: `TWINWIRE_` and the name in capitals;
3. the TOML file that `--config` names.

<!-- test: file twinwire.toml -->
```toml
host = "127.0.0.1"
port = 8000
log_age = 600
allow_subscribe = ["prices.*", "news.>"]

[[channels]]
pattern = "prices.*"
log_events = 1000
```

`--check-config` shows what would be used and where each value comes from. It checks everything and
serves nothing:

```console
$ TWINWIRE_HEARTBEAT=20 twinwire serve --config twinwire.toml --set ping=30 --check-config
log_age = 600.0  # in twinwire.toml
heartbeat = 20.0  # TWINWIRE_HEARTBEAT in the environment
ping = 30.0  # --set ping
```

In the environment and after `--set`, a list is written as JSON:
`TWINWIRE_ALLOW_SUBSCRIBE='["prices.*"]'`. A setting that does not exist or is out of range ends the
program with one line that names it, and exit code 2. With `--app` the hub's settings are the
application's, and only those of the first table can be given.

Sizes are in bytes and times in seconds, unless the name says otherwise.
"""

_RULES = """
## Rules for channels

`channels` is a list of tables. Each holds a pattern, and what differs for the channels that it
matches. The first rule whose pattern matches a channel counts, and no other.
"""


def page() -> str:
    """The whole document."""
    parts = [_BEFORE]
    for title, names in groups():
        parts.append(f"\n## {title}\n")
        parts += _table(Settings, names, environment=True)
    parts.append(_RULES)
    parts += _table(ChannelRule, list(ChannelRule.model_fields), environment=False)
    return "\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


def groups() -> Iterator[tuple[str, list[str]]]:
    """Each group of settings: the comment over it in the source, and the names in it."""
    title = ""
    names: list[str] = []
    for line in inspect.getsource(Settings).splitlines():
        if heading := re.fullmatch(r"    # (.+)", line):
            if names:
                yield title, names
                names = []
            title = heading[1]
        elif (field := re.match(r"    (\w+): ", line)) and field[1] in Settings.model_fields:
            names.append(field[1])
    yield title, names


def _table(model: type[BaseModel], names: list[str], *, environment: bool) -> Iterator[str]:
    heads = ["setting", "type", "default", *(["environment"] if environment else []), "meaning"]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for name in names:
        field = model.model_fields[name]
        cells = [f"`{name}`", _type(field), _default(name, field)]
        if environment:
            cells.append(f"`TWINWIRE_{name.upper()}`")
        cells.append(field.description or "")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


_WORDS: dict[Any, str] = {
    str: "text", int: "whole number", float: "number", bool: "true or false", SecretStr: "text",
    Selector: "channel or pattern", ChannelRule: "table",
}  # fmt: skip


def _type(field: FieldInfo) -> str:
    said = _said(field.annotation)
    bounds = {
        symbol: value
        for kind, symbol in ((Ge, "≥"), (Gt, ">"), (Le, "≤"), (Lt, "<"))
        for bound in field.metadata
        if isinstance(bound, kind)
        if (value := getattr(bound, kind.__name__.lower())) is not None
    }
    return ", ".join([said, *(f"{symbol} {value}" for symbol, value in bounds.items())])


def _said(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Literal:
            return ", ".join(f"`{choice}`" for choice in arguments)
        case origin if origin is tuple:
            return f"list of {_said(arguments[0])}s".replace("channel or patterns", "patterns")
        case origin if origin in (Union, types.UnionType):
            return " or ".join(_said(one) for one in arguments if one is not type(None))
    if isinstance(annotation, type):
        return annotation.__name__.lower()
    raise TypeError(f"no word for {annotation}")


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "none"
    match field.default:
        case None:
            return "not set"
        case bool(value):
            return "`true`" if value else "`false`"
        case int(value) if "bytes" in name or name in ("write_high", "notsent_lowat"):
            for unit, size in (("MiB", MIB), ("KiB", KIB)):
                if value >= size and value % size == 0:
                    return f"`{value}` ({value // size} {unit})"
            return f"`{value}`"
        case float(value):
            return f"`{value:g}`"
        case tuple(value):
            return "`[" + ", ".join(f'"{one}"' for one in value) + "]`"
        case value:
            return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page())
