"""Which topics and users are present in the cluster, and what has to be reported, as one process sees it. No I/O here.

Theory

Each process announces its topics and users over presence, so all of them know what is present in the cluster, and
notice the end of a process (`topics.presence.view`). One of them, the *reporter*, calls the functions of the program.
It is the process with the smallest number. A process takes a number when it begins, greater than all that it knows, so
the oldest process is the reporter.

A change is reported when the present state differs from the reported one. A subject must stay away for the delay, so
a page that is loaded again reports nothing. The reporter publishes what it has reported, and all of it again when
another process takes a number. The others remember it, and with it the changes that are not reported yet. When the
reporter ends, the next one reports these. So a change is lost neither with a process that is killed, nor in the time
until its end is noticed. It is reported twice if the reporter is killed between the report and the publication, or if
the publication is lost.

While the broker is unavailable a process knows nothing of the others, and reports nothing. After it has connected, it
waits until the others are connected too, and announce what they have. A process that was not connected for a while, or
was suspended, may have missed what others reported. The others may have counted it as ended. So it takes a new number,
with which it is the youngest.

A change whose report is not published can have been reported all the same: the broker may have lost the message. So a
process that is not the reporter forgets it after `FORGET_SECONDS`, which is longer than the end of a reporter can go
unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from pywsapp.topics.occupancy.changes import Change, Subject
from pywsapp.topics.presence.view import LEASE_SECONDS

#: Seconds after the start in which other processes announce what they have.
START_SECONDS = 0.6
#: The same after a connect: the others connect up to 3 s later (`Relay`), and a silent process sends every 5 s.
RETURN_SECONDS = 6.0
#: Seconds after which all processes know the number of a new one.
LEARN_SECONDS = 0.5
#: Seconds without a connection, or of a suspended process, after which a process takes a new number. It is less than
#: the lease after which the others count it as ended.
ABSENT_SECONDS = LEASE_SECONDS - 5.0
#: Seconds after which a change counts as reported by another process.
FORGET_SECONDS = LEASE_SECONDS + 5.0
#: Reported subjects that are not present, of events of other processes.
_MAX_UNKNOWN = 10_000
#: Changes that are forgotten at once.
_FORGET_LIMIT = 1000


class OccupancyView:
    """The present and the reported state of the cluster. The occupancy service creates one for each run.

    Args:
        process: the name of this process.
        delay: seconds that a subject must be gone before that is reported.
        register: announces the number of this process to the others; None withdraws it.
        elsewhere: returns the subjects that are present in other processes.
        now: the time in seconds.
        is_alone: whether there are no other processes.
    """

    def __init__(
        self,
        process: str,
        delay: float,
        register: Callable[[float | None], None],
        elsewhere: Callable[[], Iterable[Subject]],
        now: float,
        *,
        is_alone: bool,
    ) -> None:
        self._process = process
        self._delay = delay
        self._register = register
        self._elsewhere = elsewhere
        self._is_alone = is_alone
        self._present: set[Subject] = set()
        self._reported: set[Subject] = set()
        # Changes that are not reported, with the time at which they are due, the oldest first.
        self._arrived: dict[Subject, float] = {}
        self._gone: dict[Subject, float] = {}
        self._reporters: dict[str, float] = {process: 0} if is_alone else {}
        self._is_registered = is_alone
        self._ready_at = now if is_alone else now + START_SECONDS  # infinite while there is no connection
        self._last_tick = now
        self._has_newcomers = False  # that do not know what was reported before

    # -- what is present, and what others have reported --------------------------------------------------------------

    def note(self, subject: Subject, *, is_present: bool, now: float) -> None:
        """Note that a subject is present in the cluster, or not any more."""
        if is_present:
            self._present.add(subject)
        else:
            self._present.discard(subject)
        self._compare(subject, now)

    def note_reported(self, change: Change, now: float) -> None:
        """Note that another process has reported a change."""
        if not change.is_present:
            self._reported.discard(change.subject)
        elif change.subject in self._present or len(self._reported) < len(self._present) + _MAX_UNKNOWN:
            self._reported.add(change.subject)
        self._compare(change.subject, now)

    def note_reporter(self, process: str, number: float | None) -> None:
        """Note the number of a process, this one too; None if it has ended."""
        if number is None:
            self._reporters.pop(process, None)
        else:
            self._reporters[process] = number
            self._has_newcomers = self._has_newcomers or process != self._process

    def _compare(self, subject: Subject, now: float) -> None:
        is_present = subject in self._present
        if is_present == (subject in self._reported):
            self._arrived.pop(subject, None)
            self._gone.pop(subject, None)
        elif is_present:
            self._arrived.setdefault(subject, now)
        else:
            self._gone.setdefault(subject, now + self._delay)

    # -- time --------------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Handle a new connection to the broker."""
        self._ready_at = math.inf

    def tick(self, now: float, wall_clock: float, *, is_connected: bool) -> bool:
        """Return whether this process is the reporter and knows what the others have; call it every tenth of a second.

        Args:
            now: the time in seconds.
            wall_clock: the time in seconds since 1970, from which numbers come.
            is_connected: whether there is a connection to the broker; without a broker True.
        """
        if not self._is_alone:
            if now - self._last_tick > ABSENT_SECONDS:
                self._withdraw()
            if not is_connected:
                self._ready_at = math.inf
                return False
            if self._ready_at == math.inf:
                self._ready_at = now + RETURN_SECONDS
        self._last_tick = now
        if now < self._ready_at:
            return False
        if not self._is_registered:
            self._take_number(now, wall_clock)
            return False
        if self._reporter == self._process:
            return True
        self._forget(now)
        return False

    @property
    def _reporter(self) -> str | None:
        return min(self._reporters, key=lambda process: (self._reporters[process], process), default=None)

    def _withdraw(self) -> None:
        self._is_registered, self._ready_at = False, math.inf
        self._reporters.pop(self._process, None)
        self._register(None)

    def _take_number(self, now: float, wall_clock: float) -> None:
        if self._reporters:  # they have reported what they have
            self._reported.update(self._elsewhere())
        for subject in [*self._arrived, *self._gone]:  # counted anew from now on
            self._arrived.pop(subject, None)
            self._gone.pop(subject, None)
            self._compare(subject, now)
        self._is_registered, self._ready_at = True, now + LEARN_SECONDS
        self._register(max([wall_clock, *(number + 1 for number in self._reporters.values())]))

    def _forget(self, now: float) -> None:
        self.take(now - FORGET_SECONDS, _FORGET_LIMIT)

    def take_for_newcomers(self) -> list[Change]:
        """Return everything that was reported if another process has taken a number since the last call.

        The reporter publishes it again, since the other process may have missed it.
        """
        if not self._has_newcomers:
            return []
        self._has_newcomers = False
        return [Change(subject, is_present=True) for subject in self._reported]

    def take(self, now: float, limit: int) -> list[Change]:
        """Return the changes that are due, and count them as reported; the reporter reports them now.

        Args:
            now: the time in seconds; infinite for all changes.
            limit: how many changes at most.
        """
        changes: list[Change] = []
        for waiting in self._gone, self._arrived:
            for subject, due in waiting.items():
                if due > now or len(changes) >= limit:
                    break
                changes.append(Change(subject, waiting is self._arrived))
        for change in changes:
            if change.is_present:
                self._reported.add(change.subject)
            else:
                self._reported.discard(change.subject)
            self._compare(change.subject, now)
        return changes

    def is_last(self, now: float) -> bool:
        """Return whether no other process can report what this one does not report when it shuts down."""
        return now >= self._ready_at and self._reporters.keys() == {self._process}
