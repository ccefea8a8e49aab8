"""``domicile erase`` at a terminal, in a script, on a full disk and at Ctrl-C: what it asks, keeps and tells.

Directory and gateway answer from here; files, keys, signatures and certificates are real.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from domicile_testing import Trust
from domicile_testing.good_manifest import GOOD
from typer.testing import CliRunner, Result

from domicile.identity import Signer, endorse
from domicile.model import Pin, PinState, Role, SubjectKey, TokenType, Unavailable
from domicile.model.key_wire import Deleted, ShredReceipt
from domicile.model.wire import ErasureResponse
from domicile.ops import erase
from domicile.ops.main import app
from domicile.ops.receipts import ReceiptFile, key_beside

KEY = SubjectKey.parse("01" + "a" * 32)


@dataclass
class Elsewhere:
    """What directory and gateway would do. ``failing``: what a gateway raises instead of its answer."""

    answer: ErasureResponse
    asked: list[int | None] = field(default_factory=list)
    failing: BaseException | None = None

    async def resolve(self, _: list[SubjectKey]) -> SimpleNamespace:
        pin = Pin(subject_key=KEY, jurisdiction="eu", cell="eu-1", epoch=7, state=PinState.ACTIVE)
        return SimpleNamespace(pins=[pin])

    async def erase(self, _: SubjectKey, *, epoch: int | None) -> ErasureResponse:
        self.asked.append(epoch)
        if self.failing is not None:
            raise self.failing
        return self.answer

    async def close(self) -> None: ...


@pytest.fixture
def elsewhere(trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    signer, service = Signer.load_or_create(tmp_path / "signer"), trust.credentials("eu", Role.KEYS, "fra")
    operator = trust.credentials("eu", Role.OPERATOR, "fra")
    for name in ("certificate", "key", "authorities"):
        monkeypatch.setenv(f"DOMICILE_{name.upper()}", str(getattr(operator, name)))
    now = int(time.time())
    said = ShredReceipt(
        iss="acme", jur="eu", store=service.identity.uri, cell="eu-1", subject=UUID(int=1), principals=[],
        whole_subject=True, iat=now, caches_until=now + 1, backups_until=now + 2,
        deleted=Deleted(subject_key=KEY, rows={"notes": 2}, aliases=1, tombstone=8),
    )  # fmt: skip
    receipt = signer.sign(said.model_dump(mode="json"), TokenType.SHRED_RECEIPT)
    key = endorse(signer.public_pem(), service).decode()
    there = Elsewhere(ErasureResponse(subject_key=KEY, epoch=8, receipt=receipt, key=key))
    for name in ("DirectoryClient", "GatewayClient"):
        monkeypatch.setattr(erase, name, lambda *_: there)
    return there


@pytest.fixture
def command(elsewhere: Elsewhere, tmp_path: Path) -> Callable[..., Result]:
    (tmp_path / "domicile.yaml").write_text(GOOD)

    def run(*more: str, said: str | None = None) -> Result:
        options = ["--as", "eu", "--manifest", str(tmp_path / "domicile.yaml"), "--receipt", str(tmp_path / "receipt")]
        return CliRunner().invoke(app, ["erase", str(KEY), *options, *more], input=said)

    return run


def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))


def test_a_script_says_yes_or_is_refused(elsewhere: Elsewhere, command: Callable[..., Result], tmp_path: Path) -> None:
    refused = command("--json")
    told = json.loads(refused.stdout)
    assert (refused.exit_code, told["ok"], elsewhere.asked) == (1, False, [])
    assert "--yes" in refused.stdout
    assert not (tmp_path / "receipt").exists()
    done = command("--yes", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["ok"], told["deleted"]["tombstone"], elsewhere.asked) == (0, True, 8, [7])
    assert (tmp_path / "receipt").read_text() == elsewhere.answer.receipt
    assert key_beside(tmp_path / "receipt").read_text() == elsewhere.answer.key
    again = command("--yes", "--json")
    assert (json.loads(again.stdout), elsewhere.asked) == (told, [7, 8]), "the account of the receipt is meant"


def test_a_person_is_asked_and_may_say_no(
    elsewhere: Elsewhere, command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_terminal(monkeypatch)
    for said in ("n\n", "\n", ""):  # the last one is Ctrl-D
        refused = command(said=said)
        assert refused.exit_code == 1
        assert (elsewhere.asked, (tmp_path / "receipt").exists()) == ([], False)
    assert f"Erase subject {KEY} at epoch 7, of cell eu-1, for good?" in refused.stderr
    done = command(said="y\n")
    assert (done.exit_code, elsewhere.asked) == (0, [7])
    assert "rows of notes" in done.stdout


def test_a_receipt_that_cannot_be_written_is_told(
    elsewhere: Elsewhere, command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "receipt"))

    with monkeypatch.context() as patch:
        patch.setattr(ReceiptFile, "keep", full)
        failed = command("--yes", "--json")
    assert (failed.exit_code, json.loads(failed.stdout)["ok"]) == (1, False)
    assert elsewhere.answer.receipt in failed.stderr
    assert elsewhere.answer.key in failed.stderr
    assert (tmp_path / "receipt").read_text() == f"pending {KEY} 7\n"
    assert command("--yes").exit_code == 0
    assert elsewhere.asked == [7, 7]


@pytest.mark.parametrize("when", ["asked", "under way"])
def test_ctrl_c_leaves_no_doubt(
    elsewhere: Elsewhere, command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    if when == "asked":
        at_a_terminal(monkeypatch)

        def interrupted(*_: object, **__: object) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr("typer.confirm", interrupted)
        done = command()
    else:
        elsewhere.failing = KeyboardInterrupt()
        done = command("--yes")
    assert done.exit_code == 130
    assert (tmp_path / "receipt").exists() is (when == "under way")
    assert ("it may go on by itself" in done.stderr) is (when == "under way")
    if when == "under way":
        elsewhere.failing = None
        assert command("--yes").exit_code == 0
        assert elsewhere.asked == [7, 7], "the account that was meant"


def test_what_is_under_way_is_said_and_asked_again(elsewhere: Elsewhere, command: Callable[..., Result]) -> None:
    elsewhere.failing = Unavailable("begun, and not done yet (unavailable)", where="erasure")
    failed = command("--yes")
    assert failed.exit_code == 1
    assert "begun, and not done yet" in failed.stderr
    elsewhere.failing = None
    assert (command("--yes").exit_code, elsewhere.asked) == (0, [7, 7])


def test_a_receipt_is_checked_offline_and_its_key_can_be_compared(
    elsewhere: Elsewhere, command: Callable[..., Result], trust: Trust, tmp_path: Path
) -> None:
    assert command("--yes").exit_code == 0
    receipt, key = tmp_path / "receipt", key_beside(tmp_path / "receipt")
    body = key.read_text().split("-----")[2]  # as a person sees it: what a PEM holds is the DER in base64
    fingerprint = hashlib.sha256(base64.b64decode(body)).hexdigest()
    authority = str(trust.folder / "authorities" / "eu.pem")
    check = ["audit", "receipt", str(receipt), "--deployment", "acme"]
    told = json.loads(CliRunner().invoke(app, [*check, "--authority", authority, "--json"]).stdout)
    assert (told["key"], told["trusted_by"]) == (fingerprint, "the authority")
    shown = CliRunner().invoke(app, [*check, "--key", str(key)], env={"COLUMNS": "160"})
    assert (shown.exit_code, fingerprint in shown.stdout, "the key alone" in shown.stdout) == (0, True, True)
