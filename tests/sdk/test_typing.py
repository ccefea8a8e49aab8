"""What reads promise to a type checker, by mypy itself: a reveal for each, under strict."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from domicile.sample import Note, Profile
from domicile.sdk import Home, Page, Residency

async def main(residency: Residency, home: Home) -> None:
    note = await home.get(Note, home.new(Profile).id)
    reveal_type(note)
    reveal_type(await home.find(Profile, email="x"))
    reveal_type(await home.all(Note))
    reveal_type(await home.page(Profile))
    reveal_type(home.new(Profile).born)
    assert note is not None
    reveal_type(await home.update(note, text="x"))
    abroad = await residency.abroad("x")
    reveal_type(await abroad.get(Profile, note.id))
    reveal_type(await abroad.all(Profile))
    reveal_type(await abroad.find(Profile, plan="x"))
    page = await abroad.page(Profile, {"plan": "x"}, order_by="-plan")
    reveal_type(page)
    reveal_type(page.rows[0].shareable.plan)
    reveal_type(page.rows[0].id)
    async with home.transaction() as tx:
        reveal_type(await tx.find(Note, topic="x"))
        reveal_type(await tx.sql("SELECT 1"))
        reveal_type(await tx.sql("SELECT * FROM notes", into=Note))
"""
EXPECTED = """
    Note | None
    list[Profile]
    list[Note]
    Page[Profile]
    date | None
    Note
    AbroadRow[Profile] | None
    list[AbroadRow[Profile]]
    list[AbroadRow[Profile]]
    AbroadPage[Profile]
    str
    UUID
    list[Note]
    list[dict[str, Any]]
    list[Note]
"""


def run(folder: Path, program: str) -> str:
    file = folder / "program.py"
    file.write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), "--config-file="]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False, timeout=120)
    return done.stdout


def test_the_types_that_a_program_sees(tmp_path: Path) -> None:
    told = run(tmp_path, PROGRAM)
    seen = [re.sub(r"\b[a-z_]+\.", "", text) for text in re.findall(r'Revealed type is "(.*?)"', told)]
    assert seen == [line.strip() for line in EXPECTED.strip().splitlines()], told
    wrong = "from domicile.sdk import Home\nasync def f(home: Home) -> None:\n    await home.get(str, 'x')\n"
    wrong += "from domicile.sdk import AbroadRow\nfrom domicile.sample import Profile\n"
    wrong += "def g(row: AbroadRow[Profile]) -> str:\n    return row.shareable.plam\n"
    told = run(tmp_path, wrong)
    assert 'Value of type variable "R"' in told
    assert '"Profile" has no attribute "plam"' in told
