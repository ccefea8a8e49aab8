"""A receipt's file says who is meant, before anything is asked for, and overwrites nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from domicile.identity import Signer
from domicile.model import Conflict, InvalidInput, SubjectKey, TokenType
from domicile.model.key_wire import Deleted, ShredReceipt
from domicile.ops.receipts import Meant, ReceiptFile, key_beside

KEY, OTHER = (SubjectKey.parse("01" + digit * 32) for digit in "ab")


def receipt_of(folder: Path, key: SubjectKey, tombstone: int) -> str:
    said = ShredReceipt(
        iss="acme", jur="eu", store="s", cell="eu-1", subject=UUID(int=1), principals=[], whole_subject=True,
        iat=1, caches_until=2, backups_until=3,
        deleted=Deleted(subject_key=key, rows={}, aliases=0, tombstone=tombstone),
    )  # fmt: skip
    return Signer.load_or_create(folder / "signer").sign(said.model_dump(mode="json"), TokenType.SHRED_RECEIPT)


def test_a_retry_means_the_account_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    with ReceiptFile.locked(path, [KEY]):
        pass
    assert not path.exists(), "nothing was asked for"
    with ReceiptFile.locked(path, [KEY]) as file:
        file.note(Meant(KEY, 7))
        with pytest.raises(Conflict), ReceiptFile.locked(path, [KEY]):
            pass
    with ReceiptFile.locked(path, [OTHER, KEY]) as file:
        assert file.meant == Meant(KEY, 7)
        file.note(Meant(KEY, 9))
        file.keep(receipt_of(tmp_path, KEY, 8), "key")
    with ReceiptFile.locked(path, [KEY]) as file:
        assert file.meant == Meant(KEY, 8)
        file.keep(receipt_of(tmp_path, KEY, 8), "key")
        with pytest.raises(InvalidInput, match="another receipt"):
            file.keep(receipt_of(tmp_path, KEY, 10), "key")
    assert path.read_text() == receipt_of(tmp_path, KEY, 8)


@pytest.mark.parametrize("content", ["my thesis", "pending", "pending x y", f"pending {OTHER} 7", "receipt"])
def test_what_is_there_stays(tmp_path: Path, content: str) -> None:
    path = tmp_path / "receipt"
    path.write_text(receipt_of(tmp_path, OTHER, 8) if content == "receipt" else content)
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match="no receipt of this subject"), ReceiptFile.locked(path, [KEY]):
        pass
    assert path.read_bytes() == before


def test_a_key_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    key_beside(path).write_text("mine")
    with pytest.raises(InvalidInput, match="is there already"), ReceiptFile.locked(path, [KEY]):
        pass
    assert not path.exists()


def test_ctrl_c_while_the_commands_are_loaded_is_a_status() -> None:
    program = """
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "domicile.ops.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from domicile.ops.entry import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")
