"""Process-local settings: paths, the address to bind, log level. Never topology, which is only signed.

Each is an environment variable ``DOMICILE_<NAME>``; nothing else sets them, so there is no order of
precedence to remember.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from domicile.identity import Credentials
from domicile.model.errors import InvalidInput
from domicile.model.ids import Name, Pepper
from domicile.model.manifest import Address, AddressField


def _split(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


class ProcessSettings(BaseSettings):
    """What every process is told when it starts."""

    model_config = SettingsConfigDict(env_prefix="DOMICILE_", extra="ignore", frozen=True)

    deployment: Name = Field(description="the manifest's deployment; certificates must name it")
    process: str = Field(max_length=64, description="this process's name in logs and in world.json")
    bind: AddressField = Field(description="host:port to listen on")
    certificate: Path = Field(description="this process's certificate (PEM)")
    key: Path = Field(description="its private key (PEM)")
    authorities: Path = Field(description="folder of <jurisdiction>.pem, one authority each")
    directory: Annotated[list[AddressField], NoDecode, BeforeValidator(_split)] = Field(
        default_factory=list, description="directory addresses, comma-separated"
    )
    operators: Path | None = Field(default=None, description="folder of operators' public keys (*.pem)")
    state: Path = Field(description="private folder of this process, for caches and keys of its own")
    pepper: Path | None = Field(default=None, description="file VERSION:HEX; cells and routers only")
    storage: AddressField | None = Field(default=None, description="this process's own database, host:port")
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    drain_seconds: float = Field(
        default=10.0, ge=0, le=300, description="how long requests in flight may take after SIGTERM"
    )

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.certificate, self.key, self.authorities)

    def address(self) -> Address:
        return Address(self.bind)

    def load_pepper(self) -> Pepper:
        if self.pepper is None:
            raise InvalidInput("no pepper", where="DOMICILE_PEPPER", remedy="name the pepper file")
        return Pepper.parse(self.pepper.read_text())

    def operator_keys(self) -> list[bytes]:
        if self.operators is None:
            raise InvalidInput("no operators' keys", where="DOMICILE_OPERATORS", remedy="name their folder")
        return [path.read_bytes() for path in sorted(self.operators.glob("*.pem"))]


Settings = TypeVar("Settings", bound=ProcessSettings)


def load_settings(kind: type[Settings]) -> Settings:
    """From the environment. Raises InvalidInput that names the variable."""
    try:
        return kind()
    except ValidationError as error:
        first = error.errors()[0]
        name = "DOMICILE_" + "_".join(str(part) for part in first["loc"]).upper()
        missing = first["type"] == "missing"
        raise InvalidInput("is not set" if missing else first["msg"], where=name, remedy="set it") from None
