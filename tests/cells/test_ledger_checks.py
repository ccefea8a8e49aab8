"""What is found by who checks an export, and by who holds another's head: each way of changing history."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from domicile_testing import Trust
from domicile_testing.ledgers import NOON, Cell, crossing, lines
from typer.testing import CliRunner

from domicile.cells.ledger.checking import Finding, check
from domicile.cells.ledger.exchange import Exchange
from domicile.cells.ledger.export import Export, KeptHead, read, read_heads, write, write_heads
from domicile.cells.ledger.heads import Verdict
from domicile.cells.ledger.page import page
from domicile.cells.ledger.summary import Summary, Wanted, parse_since
from domicile.cells.ledger.tree import consistency, leaf_hash, node_hash
from domicile.model import Identity, InvalidInput, Role, TokenInvalid, Unavailable
from domicile.model.crossings import Crossing, CrossingKind, LedgerLine, Outcome
from domicile.model.ledger_wire import HeadAnswer, SignedHead, TreeHead
from domicile.ops.main import app


@pytest.fixture(scope="module")
def eu(trust: Trust) -> Cell:
    return Cell(trust, trust.folder)


def found(cell: Cell, texts: list[bytes], signed: list[bytes], held: list[KeptHead] | None = None) -> Finding:
    """What is found in an export of ``texts`` under a head over ``signed``, after a way through its file."""
    stream = io.BytesIO()
    write(cell.export(texts, [cell.kept(signed)]), stream)
    stream.seek(0)
    return check(read(stream, "file"), held or [], cell.verify)


def test_what_was_signed_is_found_to_be_so(eu: Cell) -> None:
    texts = lines(21)
    good = found(eu, texts, texts, [eu.kept(texts[:13], by="us-1")])
    assert (good.ok, good.problems, good.notes, good.size, good.heads) == (True, [], [], 21, 2)
    assert good.witnesses == {"us-1"}


@pytest.mark.parametrize("count", [0, 1])
def test_a_ledger_of_hardly_anything_is_checked_too(eu: Cell, count: int) -> None:
    assert found(eu, lines(count), lines(count)).ok


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "changed": lambda texts: [*texts[:4], crossing(99).line().encode(), *texts[5:]],
    "taken out": lambda texts: [*texts[:4], *texts[5:]],
    "put in": lambda texts: [*texts[:4], crossing(99).line().encode(), *texts[4:]],
    "moved": lambda texts: [*texts[:4], texts[5], texts[4], *texts[6:]],
    "cut off": lambda texts: texts[:-3],
    "emptied": lambda texts: [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_done_to_an_export_is_found_by_the_cells_own_head(eu: Cell, change: str) -> None:
    texts = lines(21)
    assert not found(eu, CHANGES[change](texts), texts).ok


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_cell_signed_anew_is_found_by_the_head_that_another_held(eu: Cell, change: str) -> None:
    """The insider has the gateway's key, too."""
    texts = lines(21)
    other = CHANGES[change](texts)
    assert found(eu, other, other).ok
    assert not found(eu, other, other, [eu.kept(texts, by="us-1")]).ok


def test_lines_that_come_after_a_change_do_not_hide_it(eu: Cell) -> None:
    texts, grown = lines(21), lines(30)
    grown[4] = crossing(99).line().encode()
    verdict = found(eu, grown, grown, [eu.kept(texts, by="us-1")])
    assert [each for each in verdict.problems if "the first 21 lines are not those" in each]


def test_two_heads_of_one_size_are_told_as_what_they_are(eu: Cell) -> None:
    texts, other = lines(8), [*lines(7), crossing(99).line().encode()]
    verdict = found(eu, texts, texts, [eu.kept(other, by="us-1")])
    assert any("two heads of 8 lines with different roots" in each for each in verdict.problems)


def test_another_ledger_of_the_cell_is_told(eu: Cell) -> None:
    texts = lines(8)
    verdict = found(eu, texts, texts, [eu.kept(texts, by="us-1", log=uuid4())])
    assert any("another ledger of eu-1" in each for each in verdict.problems)


def test_a_head_by_nobody_counts_for_nothing(eu: Cell, trust: Trust, tmp_path: Path) -> None:
    """Another cell's gateway, another jurisdiction's, and a key beside a certificate that is not its own."""
    texts = lines(8)
    us = Cell(trust, tmp_path, "us-1", "us")
    us.log = eu.log
    for forged in (
        us.head(texts),
        SignedHead(signed=eu.head(texts).signed, key=us.head(texts).key),
        SignedHead(signed=us.head(texts).signed, key=eu.head(texts).key),
        SignedHead(signed="x.y.z", key=eu.head(texts).key),
    ):
        verdict = found(eu, texts, texts, [KeptHead(by="us-1", head=forged)])
        assert any("not to be believed" in each for each in verdict.problems)
    stream = io.BytesIO()
    write(eu.export(texts, []), stream)
    stream.seek(0)
    assert check(read(stream, "file"), [], eu.verify).problems == ["no signed head covers the last line"]


def test_the_end_of_a_ledger_is_checked_by_itself(eu: Cell) -> None:
    texts = lines(21)
    good = check(eu.export(texts, [eu.kept(texts)], first=13), [eu.kept(texts[:5], by="us-1")], eu.verify)
    assert good.ok
    assert good.notes == ["1 heads are of before the first line here: export the whole ledger for them"]
    other = [*texts[:4], texts[5], texts[4], *texts[6:]]
    assert not check(eu.export(other, [eu.kept(texts)], first=13), [], eu.verify).ok


def test_a_clock_that_was_set_back_is_noted_and_is_no_forgery(eu: Cell) -> None:
    texts = [*lines(8), crossing(0, at=NOON - timedelta(hours=10)).line().encode(), *lines(9)[8:]]
    verdict = found(eu, texts, texts)
    assert verdict.ok
    assert verdict.notes == ["1 lines say that they are earlier than one before them: a clock was set back"]


@pytest.mark.parametrize(
    "text",
    [b"", b"{}\n", b"\x00\n", b'{"ledger":{}}\n', b'{"line":{}}\n', b"x" * 70_000],
    ids=["empty", "no ledger", "no text", "nameless", "no opening", "endless"],
)
def test_a_file_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="file"):
        read(io.BytesIO(text), "file")


def test_a_file_that_was_cut_off_is_refused(eu: Cell) -> None:
    stream = io.BytesIO()
    write(eu.export(lines(3), [eu.kept(lines(3))]), stream)
    export = read(io.BytesIO(stream.getvalue()[:-9]), "file")
    with pytest.raises(InvalidInput, match="cut off"):
        check(export, [], eu.verify)


def test_a_file_of_heads_is_read_back(eu: Cell) -> None:
    stream = io.BytesIO()
    kept = [eu.kept(lines(2), by="us-1")]
    write_heads(kept, stream)
    assert read_heads(io.BytesIO(stream.getvalue()), "file") == kept
    with pytest.raises(InvalidInput, match="no signed head"):
        read_heads(io.BytesIO(b""), "file")


def test_the_command_checks_files_without_a_secret_and_says_what_is_wrong(
    eu: Cell, trust: Trust, tmp_path: Path
) -> None:
    texts = lines(9)
    good, bad, held = tmp_path / "good.jsonl", tmp_path / "bad.jsonl", tmp_path / "us.heads.jsonl"
    with good.open("wb") as stream:
        write(eu.export(texts, [eu.kept(texts)]), stream)
    with bad.open("wb") as stream:
        write(eu.export(texts[:6], [eu.kept(texts[:6])]), stream)
    with held.open("wb") as stream:
        write_heads([eu.kept(texts, by="us-1"), Cell(trust, tmp_path, "eu-2").kept(lines(2), by="us-1")], stream)
    given = ["audit", "verify", "--authorities", str(trust.folder / "authorities"), "--deployment"]
    run = CliRunner().invoke
    done = run(app, [*given, "acme", str(good), "--held", str(held), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["ledgers"][0]["witnesses"]) == (0, ["us-1"])
    assert run(app, [*given, "acme", str(bad)]).exit_code == 0
    done = run(app, [*given, "acme", str(bad), "--held", str(held)])
    assert (done.exit_code, "3 lines are missing" in done.stdout) == (3, True)
    assert run(app, [*given, "other", str(good)]).exit_code == 1
    assert run(app, [*given, "acme", str(tmp_path / "none")]).exit_code == 1
    done = run(app, [*given, "acme", str(held)])
    assert (done.exit_code, "not an export" in done.output) == (1, True)


# -- who holds another's head ------------------------------------------------------------------------


class Memory:
    """What a gateway holds, kept in memory, and its ledger."""

    def __init__(self) -> None:
        self.heads: dict[tuple[str, UUID], SignedHead] = {}
        self.alarms: list[tuple[str, str, SignedHead]] = []
        self.lines: list[Crossing] = []
        self.full = False

    async def held(self, cell: str, log: UUID) -> SignedHead | None:
        return self.heads.get((cell, log))

    async def hold(self, cell: str, log: UUID, size: int, head: SignedHead) -> None:
        self.heads[cell, log] = head

    async def alarm(self, cell: str, verdict: str, held: SignedHead, told: SignedHead) -> bool:
        new = (cell, verdict, held) not in self.alarms
        self.alarms += [(cell, verdict, held)] if new else []
        return new

    async def append(self, crossing: Crossing) -> LedgerLine:
        if self.full:
            raise Unavailable("the ledger cannot be written")
        self.lines.append(crossing)
        return LedgerLine(len(self.lines) - 1, b"", crossing)

    async def append_once(self, crossing: Crossing) -> LedgerLine:
        raise NotImplementedError  # who looks at heads releases nothing


class Watch:
    """A gateway of ``us`` that looks at ``eu-1``, which tells ``texts``."""

    def __init__(self, eu: Cell) -> None:
        self.eu, self.memory, self.texts = eu, Memory(), lines(5)
        self.forged: SignedHead | None = None
        self.log = eu.log
        self.now = NOON.timestamp()
        own = Identity("acme", "us", Role.GATEWAY, "us-1.iad")
        self.exchange = Exchange(own, self.memory, self.memory, self.verify, {}, clock=lambda: self.now)

    def verify(self, head: SignedHead, jurisdiction: str) -> TreeHead:
        assert jurisdiction == "eu"
        return self.eu.verify(head)

    async def ask(self, since: int) -> HeadAnswer:
        leaves = [leaf_hash(text) for text in self.texts]

        def hashes(node: tuple[int, int]) -> bytes:
            level, index = node
            if level == 0:
                return leaves[index]
            return node_hash(hashes((level - 1, 2 * index)), hashes((level - 1, 2 * index + 1)))

        proof = consistency(since, len(leaves), hashes) if since <= len(leaves) else []
        head = self.forged or self.eu.head(self.texts, log=self.log)
        return HeadAnswer(head=head, proof=[each.hex() for each in proof])

    async def look(self) -> str:
        await self.exchange.look({"eu-1": ("eu", self.ask)})
        return self.exchange.told()[0].verdict


@pytest.fixture
def watch(eu: Cell) -> Watch:
    return Watch(eu)


async def test_a_ledger_that_grows_is_held_and_raises_no_alarm(watch: Watch) -> None:
    assert await watch.look() == "first"
    assert await watch.look() == "same"
    watch.texts = lines(300)
    assert await watch.look() == "grown"
    assert (watch.exchange.alarms(), watch.memory.alarms, watch.memory.lines) == ({}, [], [])
    assert watch.eu.verify(watch.memory.heads["eu-1", watch.log]).size == 300


@pytest.mark.parametrize(
    ("texts", "verdict"),
    [
        (lines(4), Verdict.REWOUND),
        ([], Verdict.REWOUND),
        ([*lines(4), crossing(99).line().encode()], Verdict.FORKED),
        ([*lines(4), crossing(99).line().encode(), *lines(9)[5:]], Verdict.REWRITTEN),
        (lines(9)[4:], Verdict.FORKED),
    ],
)
async def test_history_that_is_not_what_was_told_is_alarmed_once_and_stays(
    watch: Watch, texts: list[bytes], verdict: str
) -> None:
    await watch.look()
    watch.texts = texts
    assert await watch.look() == verdict
    watch.texts = [*texts, crossing(100).line().encode()]
    assert await watch.look() in {verdict, "forked", "rewritten"}
    assert watch.exchange.alarms().keys() == {"eu-1"}
    assert watch.memory.alarms[0][1] == verdict
    line = watch.memory.lines[0]
    assert (line.kind, line.outcome, line.source, line.destination) == ("tree-head", "refused", "eu", "us")
    assert line.detail["code"] == verdict
    watch.texts = lines(5)  # the history that was told at first
    assert await watch.look() == "same"


async def test_a_ledger_begun_anew_is_alarmed_and_held_beside_the_old_one(watch: Watch) -> None:
    await watch.look()
    watch.log = uuid4()
    assert await watch.look() == "replaced"
    assert len(watch.memory.heads) == 2
    watch.texts = lines(7)
    await watch.look()
    watch.texts = lines(2)
    assert await watch.look() != "grown"
    assert watch.exchange.alarms()


async def test_a_head_that_nobody_signed_is_told_at_the_ready_check(watch: Watch, trust: Trust, tmp_path: Path) -> None:
    await watch.look()
    watch.forged = Cell(trust, tmp_path, "us-1", "us").head(lines(9))
    assert await watch.look() == "unproved"
    assert watch.exchange.alarms() == {"eu-1": "unproved"}


async def test_a_cell_cannot_tell_another_cells_head(watch: Watch, trust: Trust, tmp_path: Path) -> None:
    watch.forged = Cell(trust, tmp_path, "eu-2").head(lines(9))
    assert await watch.look() == "unproved"


async def test_an_alarm_that_cannot_be_written_is_tried_again(watch: Watch) -> None:
    await watch.look()
    watch.texts, watch.memory.full = lines(2), True
    await watch.look()
    assert watch.memory.alarms == []
    watch.memory.full = False
    assert await watch.look() == "rewound"
    assert len(watch.memory.lines) == len(watch.memory.alarms) == 1


async def test_a_clock_ahead_is_no_alarm(watch: Watch) -> None:
    watch.now = watch.eu.now - 3600
    assert await watch.look() == "first"
    assert watch.exchange.alarms() == {}


def test_a_head_of_a_time_when_the_certificate_did_not_hold_is_refused(trust: Trust, tmp_path: Path) -> None:
    cell = Cell(trust, tmp_path)
    cell.now += 400 * 86_400
    head = cell.head(lines(1))
    with pytest.raises(TokenInvalid, match="did not hold"):
        cell.verify(head)


# -- what an auditor is shown ------------------------------------------------------------------------


def summed(crossings: list[Crossing], wanted: Wanted | None = None) -> Summary:
    summary = Summary(wanted or Wanted())
    for place, each in enumerate(crossings):
        summary.add("eu-1", place, each)
    return summary


def test_an_insider_who_asks_slowly_for_everything_stands_out_by_caller_and_days() -> None:
    """One read an hour for a month, each of them allowed, beside a desk that reads twenty times as fast on one day."""
    slow = [crossing(60 * hour, caller="app/us-1.iad", purpose="support:T-1") for hour in range(24 * 30)]
    desk = [crossing(number, caller="app/us-2.sea", purpose="support:T-2") for number in range(20)]
    rows = summed(slow + desk).rows()
    assert [(row["caller"], row["purpose"], row["lines"], row["rows"]) for row in rows] == [
        ("app/us-1.iad", "support:T-1", 720, 1440),
        ("app/us-2.sea", "support:T-2", 20, 40),
    ]
    assert (rows[0]["days"], rows[1]["days"]) == (31, 1)


def test_only_what_was_asked_for_is_summed() -> None:
    every = [
        crossing(0),
        crossing(1, source="us", destination="eu"),
        crossing(2, outcome=Outcome.REFUSED, counts={}, bytes=0, detail={"code": "not-found"}),
        crossing(3, kind=CrossingKind.RELEASE),
    ]
    assert len(summed(every).rows()) == 4
    assert len(summed(every, Wanted(source="us")).rows()) == 1
    assert len(summed(every, Wanted(destination="us", kind=CrossingKind.ABROAD_READ)).rows()) == 2
    assert len(summed(every, Wanted(since=NOON + timedelta(minutes=2))).rows()) == 2
    refused = next(row for row in summed(every).rows() if row["outcome"] == "refused")
    assert (refused["what"], refused["bytes"], refused["rows"]) == ("not-found", 0, 0)


def test_reports_of_routers_that_are_told_twice_count_once_and_missing_ones_are_counted() -> None:
    run = uuid4()
    told = [
        crossing(
            number, kind=CrossingKind.HAIRPIN, caller="router/fra", decision_id=f"{run}:{number}",
            counts={}, bytes=1000, detail={"carried": "answer"},
        )
        for number in (0, 1, 1, 4)
    ]  # fmt: skip
    summary = summed(told)
    (row,) = summary.rows()
    assert (row["bytes"], row["lines"], summary.repeated, summary.missing) == (3000, 3, 1, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1d", NOON - timedelta(days=1)),
        ("12h", NOON - timedelta(hours=12)),
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T10:00:00+02:00", datetime(2026, 2, 1, 8, tzinfo=UTC)),
        ("999999w", datetime.fromtimestamp(0, UTC)),
    ],
)
def test_since_is_a_span_or_a_time(text: str, expected: datetime) -> None:
    assert parse_since(text, NOON) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "0d", "-1d", "1y", "1d1h"])
def test_since_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--since"):
        parse_since(text, NOON)


def test_the_page_is_self_contained_and_tells_what_is_wrong() -> None:
    document = {
        "ok": False, "deployment": "acme", "jurisdiction": "eu", "made": NOON.isoformat(), "notes": ["n<1>"],
        "asked": {"from": "eu", "to": "us", "since": NOON.isoformat(), "kind": None},
        "rows": summed([crossing(0, purpose="a/b")]).rows(),
        "ledgers": [{"cell": "eu-1", "ok": False, "first": 0, "size": 1, "heads": 1, "witnesses": ["us-1"],
                     "problems": ["<script>"], "notes": []}],
        "missing": [{"cell": "eu-2", "code": "unavailable", "reason": "<gone>"}],
    }  # fmt: skip
    text = page(json.loads(json.dumps(document)))
    assert "<script>" not in text
    assert "n&lt;1&gt;" in text
    assert "NOT the ledger that was signed" in text
    assert "eu-2: its lines are missing here" in text
    document["ledgers"][0]["ok"] = True  # type: ignore[index]
    assert "NOT the whole" in page(document)
    assert "http://" not in text
    assert "https://" not in text
    assert "src=" not in text.replace("default-src=", "")


# -- what a line can hold ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["hans@example.eu", "Hans Müller", "+49 30 123456", "a b", "", "x" * 129, "\N{SNOWMAN}", "a\nb", "<x>"]
)
@pytest.mark.parametrize("field", ["caller", "purpose", "decision_id", "detail"])
def test_free_text_has_no_place_in_a_line(field: str, value: str) -> None:
    if value == "" and field in ("purpose", "decision_id"):
        return
    with pytest.raises(ValueError, match="validation error"):
        crossing(0, **{field: {"table": value} if field == "detail" else value})


def test_a_line_reads_back_as_it_was_and_is_one_line() -> None:
    text = crossing(3, purpose="support:T-1042").line()
    assert Crossing.parse(text) == crossing(3, purpose="support:T-1042")
    assert "\n" not in text
    assert text.isascii()
    with pytest.raises(ValueError, match="without its zone"):
        crossing(at=datetime(2026, 3, 1))
    with pytest.raises(InvalidInput, match="not a line"):
        Crossing.parse('{"kind": "hans@example.eu"}')


def test_an_export_names_whose_it_is(eu: Cell) -> None:
    export: Export = eu.export(lines(1), [])
    assert (export.place.cell, export.place.jurisdiction, export.place.first) == ("eu-1", "eu", 0)
