"""Log records on their way to a handler, with nothing personal left in them.

A logger's filter sees what is logged by that very logger alone, so this one belongs on handlers: there libraries'
records come by, too.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

from domicile.sdk.telemetry.gate import Reason, TelemetryGate

_NAMES: Final = ("name", "threadName", "processName", "taskName")
"""What programs may name after anybody; the other fields of a record are of its code."""
_REMEMBERED: Final = 1_000
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class PersonalFilter(logging.Filter):
    """For ``Handler.addFilter``: each record goes on, without what it must not tell.

    - A message that shows something personal, however it was put together, is replaced by the rule that it met.
    - Of an exception with such a text, its causes included, the class and the lines of code are kept.
    - Of ``extra`` the declared fields are kept, where their values may be told.
    - Names of loggers, threads, processes and tasks are looked at, too.
    """

    def __init__(self, gate: TelemetryGate) -> None:
        super().__init__()
        self._gate = gate
        self._harmless: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Cleans the record itself: handlers that come later get it clean, too."""
        record.msg, record.args = self._message(record), ()
        for field in _NAMES:
            if isinstance(named := getattr(record, field, None), str):
                setattr(record, field, self._named(named))
        given: object = record.exc_info  # whoever makes a record by himself may put the exception there
        error = given[1] if isinstance(given, tuple) else given
        if isinstance(error, BaseException):
            record.exc_info, record.exc_text = None, self._exception(error)
        elif record.exc_text:
            record.exc_text = self._said(record.exc_text)
        if record.stack_info:
            record.stack_info = self._said(record.stack_info)
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        told = self._gate.attributes(extra)
        for name in extra:
            delattr(record, name)
        vars(record).update(told)
        return True

    def _message(self, record: logging.LogRecord) -> str:
        if self._gate.typed((record.msg, record.args)):
            self._gate.drop(Reason.TYPE)
            return f"withheld: {Reason.TYPE}"
        try:
            said = record.getMessage()
        except Exception:  # a value that refuses to be told, or arguments that do not fit
            self._gate.drop(Reason.UNREADABLE)
            return "withheld: a message that could not be put together"
        return self._said(said)

    def _named(self, name: str) -> str:
        if name not in self._harmless and (said := self._said(name)) != name:
            return said
        if len(self._harmless) < _REMEMBERED:
            self._harmless.add(name)
        return name

    def _said(self, text: str) -> str:
        if (rule := self._gate.text(text)) is None:
            return text
        self._gate.drop(rule)
        return f"withheld: {rule}"

    def _exception(self, error: BaseException) -> str:
        reason: str | None = Reason.UNREADABLE
        try:
            told = "".join(traceback.format_exception(error)).rstrip("\n")
            if (reason := self._gate.text(told)) is None:
                return told
        except Exception:  # an exception that cannot be put into words
            told = ""
        assert reason is not None
        self._gate.drop(reason)
        return "\n".join(_bare(error, reason))


def _bare(error: BaseException, reason: str) -> list[str]:
    """Class and lines of an exception and of what caused it, without a word of their texts."""
    lines: list[str] = []
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        lines.append(f"{type(at).__module__}.{type(at).__qualname__} (text withheld: {reason})")
        frames = traceback.extract_tb(at.__traceback__)
        lines += [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}' for frame in frames]
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return lines
