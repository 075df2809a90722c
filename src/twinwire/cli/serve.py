"""`twinwire serve`."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from typer import Option

from twinwire.errors import BadSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from twinwire.hub import Hub
    from twinwire.settings import Settings, Source

_OF_THE_SERVER: Final = frozenset(
    {"host", "port", "workers", "insecure", "log_level", "access_log"}
)
"""Settings that are the server's own; a hub that an application brings has all the others."""


def serve(
    config: Annotated[Path | None, Option(help="TOML file with settings.", metavar="FILE")] = None,
    host: Annotated[str | None, Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, Option(help="Port to listen on; 0 takes a free one.")] = None,
    api_key: Annotated[
        str | None,
        Option(help="Key for the HTTP API. Better in TWINWIRE_API_KEY: flags can be seen."),
    ] = None,
    broker: Annotated[str | None, Option(help="Where the log lives.", metavar="URL")] = None,
    workers: Annotated[
        int | None, Option(help="Processes that share the port, and a broker that all can have.")
    ] = None,
    insecure: Annotated[
        bool | None,
        Option("--insecure", help="Listen beyond this machine although there is no API key."),
    ] = None,
    echo: Annotated[
        bool | None, Option("--echo", help="Serve /echo, a WebSocket that returns all it is sent.")
    ] = None,
    access_log: Annotated[
        bool | None, Option("--access-log", help="Log each HTTP request.")
    ] = None,
    log_level: Annotated[
        str | None, Option(help="critical, error, warning, info or debug.", metavar="LEVEL")
    ] = None,
    set: Annotated[
        list[str] | None,
        Option(help="Any setting, any number of times; lists are JSON.", metavar="NAME=VALUE"),
    ] = None,
    app: Annotated[
        str | None,
        Option(help="Serve this Hub, or ASGI application.", metavar="MODULE:ATTRIBUTE"),
    ] = None,
    check_config: Annotated[
        bool, Option("--check-config", help="Say what the settings are, and end.")
    ] = False,
) -> int:
    """Run a server. A setting is taken from a flag, else TWINWIRE_<NAME>, else the file."""
    from twinwire.settings import Settings, sources

    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "api_key": api_key,
        "broker": broker,
        "workers": workers,
        "insecure": insecure,
        "echo": echo,
        "access_log": access_log,
        "log_level": log_level,
    }
    given = {name: value for name, value in given.items() if value is not None}
    flags = {name: "--" + name.replace("_", "-") for name in given}
    for assignment in set or ():
        name, value = _assigned(assignment)
        given[name], flags[name] = value, f"--set {name}"
    found = sources(config, given, flags=flags)
    settings = Settings.of(found)
    served = _load(app) if app else None
    if served is not None:
        settings = _with(served, settings, found)
    if check_config:
        print("\n".join(_listing(settings, found)))
        return 0

    from twinwire.hub import Hub
    from twinwire.server import run

    if served is None or isinstance(served, Hub):
        return run(settings, served or Hub(settings=settings))
    return run(settings, app=served)


def _assigned(text: str) -> tuple[str, Any]:
    """The name and the value in ``name=value``. Raises `BadSettings`."""
    from twinwire.settings import value_of

    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not (name and equals):
        raise BadSettings(f"--set takes NAME=VALUE, as in --set log_events=1000, not {text[:60]!a}")
    return name, value_of(name, value, f"--set {name}")


def _load(place: str) -> Hub | ASGIApp:
    """The hub or application at ``module:attribute``. Raises `BadSettings` if there is none."""
    module_name, colon, attributes = place.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module_name) or not (colon and attributes):
        raise BadSettings(f"--app takes MODULE:ATTRIBUTE, as in bench.app:hub, not {place[:60]!a}")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # What the module itself fails to import is its author's to see in full.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise BadSettings(
            f"--app {place}: there is no module {error.name} here or among those installed"
        ) from None
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise BadSettings(f"--app {place}: {module_name} has no {attributes}") from None
    if not callable(found) and not _is_hub(found):
        raise BadSettings(f"--app {place}: it is neither a Hub nor an ASGI application")
    return found  # type: ignore[no-any-return]


def _is_hub(thing: object) -> bool:
    from twinwire.hub import Hub

    return isinstance(thing, Hub)


def _with(served: Hub | ASGIApp, settings: Settings, found: dict[str, Source]) -> Settings:
    """The settings to serve `served` with: the hub's own, and the server's from `settings`."""
    from twinwire.hub import Hub

    for name, source in found.items():
        if name not in _OF_THE_SERVER and not source.where.endswith("in the environment"):
            raise BadSettings(
                f"{name} ({source.where}) is for the application's hub to set, as in "
                f"Hub({name}=...); with --app only {', '.join(sorted(_OF_THE_SERVER))} can be given"
            )
    if not isinstance(served, Hub):
        return settings
    ours = {name: getattr(settings, name) for name in found if name in _OF_THE_SERVER}
    return served.settings.model_copy(update=ours)


def _listing(settings: Settings, found: dict[str, Source]) -> list[str]:
    """The settings as a TOML file that could be used, with where each comes from."""
    lines = []
    for name in type(settings).model_fields:
        value = _toml(getattr(settings, name))
        line = f"# {name} is not set" if value is None else f"{name} = {value}"
        if name in found:
            line += f"  # {found[name].where}"
        elif name in settings.model_fields_set:
            line += "  # by the application"
        lines.append(line)
    return lines


def _toml(value: Any) -> str | None:
    """`value` as TOML, without its secrets; None if it is None, for which TOML has no word."""
    from pydantic import BaseModel, SecretStr

    match value:
        case None:
            return None
        case SecretStr():
            return '"**********"'
        case str():
            # The passwords of a broker's URL.
            value = re.sub(r"(?<=://)([^/@:]*):.*@", r"\1:***@", value)
            return json.dumps(re.sub(r"(?<=password=)[^&]*", "***", value))
        case tuple():
            return f"[{', '.join(str(_toml(item)) for item in value)}]"
        case BaseModel():
            pairs = ((name, _toml(getattr(value, name))) for name in type(value).model_fields)
            return f"{{ {', '.join(f'{name} = {text}' for name, text in pairs)} }}"
        case _:
            return json.dumps(value)
