"""The page on other engines names the SQL that is used, all of it, and its commands lead where it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.databases import until
from domicile_testing.directories import directory_settings, forget_marks, serving
from domicile_testing.standbys import name_standbys, running_standby

import domicile.directory
from domicile.directory import DirectorySettings
from domicile.identity import Signer
from domicile.model import GLOBAL, Endpoint, Role
from domicile.ops import postgres

PAGE = (Path(__file__).parents[2] / "docs" / "directory-engines.md").read_text()
ROOM = Path(domicile.directory.__file__).parent
ROW = re.compile(r"\| `([^`|]+)` \| [^|]+ \| ((?:`[a-z_]+\.(?:sql|py)`(?:, )?)+) \|")
ROWS = {feature: re.findall(r"`([^`]+)`", files) for feature, files in map(re.Match.groups, ROW.finditer(PAGE))}
OWN = re.compile(r"\b(?:pg_\w+|xm[ai][xn]|\w+send|hash\w+|get_byte|make_interval|current_setting|set_config)\b")
"""What PostgreSQL names in no other engine's manner."""
ORDINARY = {"pg_lsn", "pg_read_all_stats"}
"""A type and a role: nothing that is called or read."""


def sources() -> dict[str, str]:
    """Every file of SQL without its comments, and the module that copies."""
    found = {path.name: re.sub(r"--[^\n]*", "", path.read_text()) for path in (ROOM / "sql").glob("*.sql")}
    return found | {"bulk.py": (ROOM / "bulk.py").read_text()}


def users_of(feature: str) -> set[str]:
    pattern = re.compile(rf"(?<![\w]){re.escape(feature)}(?!\w)", re.IGNORECASE)
    return {name for name, text in sources().items() if pattern.search(text)}


def test_the_table_is_read() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("feature", ROWS)
def test_a_feature_is_used_where_the_page_says_and_nowhere_else(feature: str) -> None:
    assert users_of(feature) == set(ROWS[feature])


def test_everything_of_postgresqls_own_is_on_the_page() -> None:
    used = {name for text in sources().values() for name in OWN.findall(text)}
    assert used - ORDINARY <= set(ROWS)


def test_each_setting_on_the_page_is_one() -> None:
    named = {name.lower() for name in re.findall(r"DOMICILE_([A-Z_]+)", PAGE)}
    assert named
    assert named <= set(DirectorySettings.model_fields)


def run_by_psql(server: Storage, statements: str) -> None:
    subprocess.run(
        [str(postgres.binary("psql")), "-h", str(server.folder), "-U", postgres.SUPERUSER, "-d", "postgres"],
        input=f"\\set ON_ERROR_STOP on\n{statements}",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


async def test_a_database_made_as_the_page_says_is_ready_with_a_second_zone(
    trust: Trust, operator: Signer, tmp_path: Path
) -> None:
    (statements,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    arguments = (Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", None)
    forget_marks(trust)
    with running_storage(trust, tmp_path / "fra", *arguments) as primary:
        run_by_psql(primary, f"DROP DATABASE {postgres.DATABASE};\n{statements}")
        with running_standby(trust, primary, tmp_path / "par"):
            await name_standbys(primary, "par")
            settings = directory_settings(trust, primary.address, operator, second_zone="required")
            async with serving(settings, trust, operator) as directory:

                async def ready() -> bool:
                    return (
                        await directory.ask("GET", "/readyz", jurisdiction=GLOBAL, role=Role.OPERATOR)
                    ).status == 200

                await until(ready, "ready")
