"""One drill from its beginning to its verdict: steady load, the fault, the way back, the evidence.

Whatever happens in between, every fault is undone before this returns, and it stands on disk before it is injected:
a tool that was killed is followed by ``recover``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from domicile.model.errors import Conflict, DomicileError, InvalidInput, Unavailable
from domicile.ops.drills.faults import Journal
from domicile.ops.drills.history import Op
from domicile.ops.drills.loads import Loads, load_plans
from domicile.ops.drills.measure import Measures, Moments, Scanned, measure
from domicile.ops.drills.port import ClusterState, World
from domicile.ops.drills.scenarios import (
    OTHERS_ABORT_SECONDS,
    Plan,
    Scenario,
    Target,
    Until,
    View,
    too_much,
)
from domicile.ops.drills.verdict import Judgement, Verdict, judge

RECOVER_SECONDS: Final = 240.0
_POLL_SECONDS: Final = 0.5
_FLOWING_SECONDS: Final = 2.0
_SCAN_MARGIN_SECONDS: Final = 5.0
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a drill is run. ``rate``: writes a second that are asked for, of all users together; ``floor``: those that
    have to be acknowledged before anything is broken; ``keep``: cells of a jurisdiction that have to stay;
    ``hold_seconds``: how long the fault lasts at least, in place of the scenario's own time."""

    rate: float = 250.0
    floor: float = 200.0
    users: int = 4
    before_seconds: float = 10.0
    after_seconds: float = 10.0
    keep: int = 1
    hold_seconds: float | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a report is made of. ``marks``: what happened when, in seconds since ``moments.began``."""

    scenario: Scenario
    plan: Plan | None
    conduct: Conduct
    judgement: Judgement
    measures: Measures
    moments: Moments
    started: datetime
    history: list[Op] = field(default_factory=list, repr=False)
    marks: list[tuple[float, str]] = field(default_factory=list)
    method: str = ""
    scanned: Scanned | None = None
    crossings: Mapping[str, float] = field(default_factory=dict)
    interrupted: bool = False


async def view_of(world: World) -> View:
    return View(world.manifest, world.parts(), await world.clusters(), world.arranged())


def not_in_sync(view: View) -> list[str]:
    return [each.name for each in view.clusters if not each.in_sync]


async def prepare(world: World, scenario: Scenario, target: Target, conduct: Conduct) -> tuple[View, Plan, str]:
    """What a drill would do, and by which method. Raises InvalidInput for a target that is none, Conflict where the
    world or the limit forbids it, Unavailable where the world can't arrange it."""
    view = await view_of(world)
    plan = scenario.plan(view, target)
    method = "; ".join(dict.fromkeys(world.method(fault.kind) for fault in plan.faults))
    if excess := too_much(view, plan, conduct.keep):
        raise Conflict(excess, where=scenario.name, remedy="choose another target, or a lower --keep")
    if not conduct.force:
        if late := not_in_sync(view):
            raise Conflict(
                f"no standby in sync: {', '.join(late)}",
                where="world",
                remedy="wait for it, or --force to drill anyway",
            )
        if down := await world.not_serving():
            raise Conflict(f"does not serve: {', '.join(down)}", where="world", remedy="mend it, or --force")
    return view, plan, method


async def recover(world: World, journal: Journal, tell: Tell) -> int:
    """Undo every fault on record, the last one first; how many there were. Raises what the last failure was."""
    faults = journal.faults()
    for fault in reversed(faults):
        tell(f"undoing: {fault}")
        await world.undo(fault)
        journal.remove(fault)
    return len(faults)


async def until_right(world: World, seconds: float, tell: Tell) -> list[str]:
    """Until every cluster is in sync and every part serves; what is missing after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        missing = not_in_sync(await view_of(world)) or list(await world.not_serving())
        if not missing or time.monotonic() > deadline:
            return missing
        tell("")
        await asyncio.sleep(_POLL_SECONDS)


class Drill:
    def __init__(
        self, world: World, journal: Journal, folder: Path, scenario: Scenario, target: Target, conduct: Conduct,
        tell: Tell,
    ) -> None:  # fmt: skip
        self._world = world
        self._journal = journal
        self._folder = folder
        self._scenario = scenario
        self._target = target
        self._conduct = conduct
        self._tell = tell
        self._began = time.monotonic()
        self._marks: list[tuple[float, str]] = []
        self._injected: float | None = None
        self._broken: float | None = None
        self._detected: float | None = None
        self._undoing: float | None = None
        self._undone: float | None = None
        self._recovered: float | None = None
        self._view: View | None = None
        self._plan: Plan | None = None
        self._method = ""

    def _mark(self, what: str) -> float:
        now = time.monotonic()
        self._marks.append((now - self._began, what))
        self._tell(what)
        return now

    async def run(self) -> Result:
        """Never raises for what a drill meets, but for a target that is none and an unfinished drill before it."""
        if self._journal.faults():
            raise Conflict(
                "a drill before this one was not put right", where="drill", remedy="domicile drill --recover"
            )
        started, wall = datetime.now(UTC), time.time()
        aborted, interrupted = "", False
        loads: Loads | None = None
        try:
            self._view, self._plan, self._method = await prepare(
                self._world, self._scenario, self._target, self._conduct
            )
        except InvalidInput:
            raise
        except Unavailable as error:
            return self._nothing(started, f"unavailable: {error}")
        except DomicileError as error:
            return self._nothing(started, str(error))
        before = await self._world.crossings()
        scanned = None
        try:
            plans = load_plans(self._world, self._folder, rate=self._conduct.rate, users=self._conduct.users)
            loads = Loads(plans)
            aborted = await self._drill(loads, self._plan)
        except DomicileError as error:
            aborted = str(error).splitlines()[0]  # without the last lines of a log
        except asyncio.CancelledError:
            aborted, interrupted = "interrupted", True
        try:
            if failed := await self._put_back():
                aborted = aborted or failed
            ended = self._mark("reading everything back") if loads is not None else time.monotonic()
            if loads is not None and not interrupted:
                try:
                    await loads.finish()
                    self._mark("looking for personal bytes abroad")
                    scanned = await self._world.scan(wall - _SCAN_MARGIN_SECONDS, loads.values)
                except DomicileError as error:
                    aborted = aborted or str(error).splitlines()[0]
        except asyncio.CancelledError:
            aborted, interrupted = "interrupted", True
            ended = time.monotonic()
            await self._put_back()
        finally:
            if loads is not None:
                await loads.end()
        history = loads.history() if loads is not None else []
        moments = Moments(
            self._began,
            self._injected,
            self._broken,
            self._detected,
            self._undoing,
            self._undone,
            self._recovered,
            ended,
        )
        measures = measure(
            history, moments, self._plan.touched, scanned, self._world.manifest.cells, self._scenario.rpo_s
        )
        after = await self._world.crossings()
        return Result(
            scenario=self._scenario,
            plan=self._plan,
            conduct=self._conduct,
            judgement=judge(measures, self._scenario.all_objectives, aborted),
            measures=measures,
            moments=moments,
            started=started,
            history=history,
            marks=self._marks,
            method=self._method,
            scanned=scanned,
            # a process that was started again counts from nothing
            crossings={name: more for name, value in after.items() if (more := value - before.get(name, 0)) > 0},
            interrupted=interrupted,
        )

    def _nothing(self, started: datetime, why: str) -> Result:
        moments = Moments(self._began, ended=time.monotonic())
        judgement = Judgement(Verdict.ABORTED, why)
        return Result(
            self._scenario, self._plan, self._conduct, judgement, Measures(), moments, started, method=self._method
        )

    async def _drill(self, loads: Loads, plan: Plan) -> str:
        """Load, fault, recovery; why it ended early, if it did."""
        self._tell("signing users up")
        await loads.start()
        self._began = self._mark("steady load") if not self._marks else time.monotonic()
        self._marks = [(0.0, "steady load")]
        seen = await self._watch(loads, self._conduct.before_seconds)
        rate = sum(op.ok and op.kind in ("add", "write") for op in seen) / self._conduct.before_seconds
        if rate < self._conduct.floor:
            return f"{rate:.0f} acknowledged writes a second, and --floor is {self._conduct.floor:g}"
        for fault in plan.faults:
            self._journal.add(fault)
        self._injected = self._mark(f"fault: {plan.target}, by {self._method}")
        for fault in plan.faults:
            await self._world.inject(fault)
        self._broken = time.monotonic()
        if excess := await self._endure(loads, plan):
            return excess
        await self._undo(plan)
        if late := await self._until_recovered(loads, plan):
            return late
        await self._watch(loads, self._conduct.after_seconds)
        return ""

    async def _watch(self, loads: Loads, seconds: float) -> list[Op]:
        until, seen = time.monotonic() + seconds, []
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(_POLL_SECONDS, left))
            seen += loads.look()
            self._tell("")
        return seen

    async def _endure(self, loads: Loads, plan: Plan) -> str:
        """Until the fault has lasted long enough; why it is over before, if the abort condition was met."""
        assert self._injected is not None
        assert self._view is not None
        scenario, hold = self._scenario, self._conduct.hold_seconds
        least = scenario.seconds if hold is None else hold
        most, led = max(least, scenario.most_seconds), {each.name: each.leader for each in self._view.clusters}
        others = [cell for cell in self._world.manifest.cells if cell not in plan.touched]
        while True:
            lasted = time.monotonic() - self._injected
            states = {each.name: each for each in await self._world.clusters(plan.clusters)} if plan.clusters else {}
            await self._detect(plan, states, led)
            elsewhere = all(s.leader is not None and s.leader != led[s.name] for s in states.values())
            enough = lasted >= least and (scenario.until is Until.TIME or elsewhere)
            if enough or lasted >= most:
                if elsewhere and plan.clusters:
                    self._mark("another node leads: " + ", ".join(f"{s.name} in {s.leader}" for s in states.values()))
                return ""
            await asyncio.sleep(_POLL_SECONDS)
            loads.look()
            self._tell("")
            for cell in others:
                if (silent := loads.silent_seconds(cell)) > OTHERS_ABORT_SECONDS:
                    return f"{cell}, outside the radius, has acknowledged nothing for {silent:.0f} s"

    async def _detect(self, plan: Plan, states: Mapping[str, ClusterState], led: Mapping[str, str | None]) -> None:
        if self._detected is not None:
            return
        changed = any(state.leader != led[name] for name, state in states.items())
        if changed or (plan.watched and await self._world.not_serving(plan.watched)):
            self._detected = self._mark("detected")

    async def _undo(self, plan: Plan) -> None:
        self._undoing = self._mark("undoing")
        await recover(self._world, self._journal, self._tell)
        self._undone = self._mark("undone")

    async def _until_recovered(self, loads: Loads, plan: Plan) -> str:
        """Until the world is whole and every cell acknowledges writes; what is missing after a long time."""
        deadline = time.monotonic() + RECOVER_SECONDS
        while True:
            loads.look()
            silent = [c for c in self._world.manifest.cells if loads.silent_seconds(c) > _FLOWING_SECONDS]
            self._tell("")
            missing = silent
            if not silent:
                missing = await until_right(self._world, 0, self._tell)
            if not missing:
                self._recovered = self._mark("recovered")
                return ""
            if time.monotonic() > deadline:
                return f"not whole {RECOVER_SECONDS:.0f} s after the fault was undone: {', '.join(missing)}"
            await asyncio.sleep(_POLL_SECONDS)

    async def _put_back(self) -> str:
        """Undo what is still on record; why that failed. Ctrl-C does not end it."""
        if not self._journal.faults():
            return ""
        undoing = asyncio.ensure_future(recover(self._world, self._journal, self._tell))
        try:
            await asyncio.shield(undoing)
        except asyncio.CancelledError:
            await undoing
            raise
        except DomicileError as error:
            return f"not put right: {str(error).splitlines()[0]}"
        self._undone = self._undone or self._mark("undone")
        return ""
