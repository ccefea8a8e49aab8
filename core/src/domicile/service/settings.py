"""Process-local settings: paths, the address to bind, log level. Never topology, which is only signed.

Each is an environment variable ``DOMICILE_<NAME>``; nothing else sets them, so there is no order of
precedence to remember.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from domicile.client import DirectoryClient, Topology
from domicile.identity import Credentials
from domicile.model.errors import DomicileError, InvalidInput
from domicile.model.ids import Name, Peppers
from domicile.model.manifest import Address, AddressField

TOPOLOGY_FILE: Final = "topology.json"


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _refused(name: str, path: Path, error: OSError | UnicodeDecodeError) -> InvalidInput:
    reason = (error.strerror if isinstance(error, OSError) else None) or "not text"
    return InvalidInput(f"cannot be read: {reason.lower()}", where=str(path), remedy=f"see DOMICILE_{name}")


def operator_keys_in(folder: Path) -> list[bytes]:
    """The public keys (PEM) of the operators whose topologies are believed. Raises InvalidInput for none."""
    try:
        keys = [path.read_bytes() for path in sorted(folder.glob("*.pem"))]
    except OSError as error:
        raise _refused("OPERATORS", folder, error) from None
    if not keys:
        raise InvalidInput("holds no key (*.pem)", where=str(folder), remedy="see DOMICILE_OPERATORS")
    return keys


Addresses = Annotated[list[AddressField], NoDecode, BeforeValidator(_split)]
"""Of a setting that names several, comma-separated."""


class ProcessSettings(BaseSettings):
    """What every process is told when it starts."""

    model_config = SettingsConfigDict(env_prefix="DOMICILE_", extra="ignore", frozen=True)

    deployment: Name = Field(description="the manifest's deployment; certificates must name it")
    process: str = Field(max_length=64, description="this process's name in logs and in world.json")
    bind: AddressField = Field(description="host:port to listen on")
    certificate: Path = Field(description="this process's certificate (PEM)")
    key: Path = Field(description="its private key (PEM)")
    authorities: Path = Field(description="folder of <jurisdiction>.pem, one authority each")
    directory: Addresses = Field(default_factory=list, description="directory addresses, comma-separated")
    operators: Path | None = Field(default=None, description="folder of operators' public keys (*.pem)")
    state: Path = Field(description="private folder of this process, for caches and keys of its own")
    pepper: Path | None = Field(
        default=None, description="file of VERSION:HEX lines, the one in force first; cells and routers only"
    )
    storage: Addresses = Field(
        default_factory=list, description="this process's own database: host:port of each of its zones, comma-separated"
    )
    storage_pooler: bool = Field(
        default=False, description="whether a pooler in transaction mode (PgBouncer) stands before that database"
    )
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    drain_seconds: float = Field(
        default=10.0, ge=0, le=300, description="how long requests in flight may take after SIGTERM"
    )

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.certificate, self.key, self.authorities)

    def address(self) -> Address:
        return Address(self.bind)

    def load_peppers(self) -> Peppers:
        if self.pepper is None:
            raise InvalidInput("no pepper", where="DOMICILE_PEPPER", remedy="name the pepper file")
        try:
            return Peppers.parse(self.pepper.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise _refused("PEPPER", self.pepper, error) from None
        except InvalidInput as error:
            raise InvalidInput(error.what, where=str(self.pepper), remedy="see DOMICILE_PEPPER") from None

    def operator_keys(self) -> list[bytes]:
        if self.operators is None:
            raise InvalidInput("no operators' keys", where="DOMICILE_OPERATORS", remedy="name their folder")
        return operator_keys_in(self.operators)

    def topology(self, directory: DirectoryClient) -> Topology:
        """The manifest as this process takes it, kept in its own folder. Raises InvalidInput for no operators' keys."""
        return Topology(directory, self.deployment, self.operator_keys(), self.state / TOPOLOGY_FILE)


Settings = TypeVar("Settings", bound=ProcessSettings)


def load_settings(kind: type[Settings]) -> Settings:
    """From the environment. Raises InvalidInput that names the first variable at fault.

    A process that loads its settings ends on any uncaught refusal with one line and exit status 1, as ``run`` does.
    """
    sys.excepthook = partial(_one_line, sys.excepthook)
    try:
        return kind()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = f"DOMICILE_{first['loc'][0]}".upper() if first["loc"] else "DOMICILE_*"
        if first["type"] == "missing":
            raise InvalidInput("is not set", where=name, remedy="set it") from None
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(reason[0].lower() + reason[1:], where=name, remedy="mend it") from None
    except SettingsError as error:
        raise InvalidInput(str(error), where="DOMICILE_*", remedy="mend it") from None


ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


def _one_line(others: ExceptHook, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, DomicileError):
        print(error, file=sys.stderr)
    else:
        others(kind, error, trace)
