"""``python -m loadtests.people.drive``: the load process. Locust in one process, told what to do on its standard input.

It is a process of its own because gevent patches the whole interpreter, which nobody else here wants. It ends after its
time, at SIGTERM, or with whoever started it. Of each request it writes one line: when it ended (on the machine's own
monotonic clock), whose it was, how long it took and what was wrong; of no request what was in it.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()  # before anything else is imported: TLS contexts that exist already would not be gevent's

import csv
import logging
import signal
import ssl
import sys
import time
from typing import Any, Final

import gevent
from locust.env import Environment

from domicile.model.addresses import Address
from loadtests.people.loopback import confine
from loadtests.people.places import Task
from loadtests.people.samples import COLUMNS, FAULT
from loadtests.people.scenarios import PEOPLE, Person

_FLUSH_SECONDS: Final = 1.0
_END_SECONDS: Final = 10


def _user_classes(task: Task) -> list[type[Person]]:
    found = []
    Person.set_up = task
    Person.contexts = {
        name: ssl.create_default_context(cafile=str(front.authority)) for name, front in task.fronts.items()
    }
    for kind, users in task.plan.mix.users().items():
        PEOPLE[kind].fixed_count = users
        found.append(PEOPLE[kind])
    return found


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    task = Task.model_validate_json(sys.stdin.readline())
    confine({Address(f.public_host).host: Address(f.routers[0]).host for f in task.fronts.values()})
    environment = Environment(user_classes=_user_classes(task))
    environment.stop_timeout = _END_SECONDS
    runner = environment.create_local_runner()
    with task.requests.open("x", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)

        def told(name: str, response_time: float, exception: object, **_more: Any) -> None:
            kind, _sep, action = name.partition(": ")
            writer.writerow([f"{time.monotonic():.3f}", kind, action, f"{response_time:.1f}", str(exception or "")])

        def fault(user_instance: Person, exception: Exception, **_: Any) -> None:
            writer.writerow([f"{time.monotonic():.3f}", user_instance.kind, FAULT, "0", type(exception).__name__])

        def flush() -> None:
            while True:
                gevent.sleep(_FLUSH_SECONDS)
                stream.flush()

        environment.events.request.add_listener(told)
        environment.events.user_error.add_listener(fault)
        gevent.signal_handler(signal.SIGTERM, lambda: gevent.spawn(runner.quit))
        gevent.spawn(flush)
        gevent.spawn_later(task.seconds, runner.quit)
        runner.start(sum(task.plan.mix.users().values()), spawn_rate=task.plan.pace.spawn_per_second)
        runner.greenlet.join()


if __name__ == "__main__":
    main()
