"""The supervisor: the process that starts several workers and serves nobody itself.

1. Each worker is this very command run once more, in a process of its own; not forked, since an
   application that is loaded already may have threads and connections. They inherit one listening
   socket: who waits at it when a worker dies is accepted by another.
2. The first worker starts alone. If it ends before it serves, all ends with its exit code: what is
   wrong has been said once. From then on a worker that ends is started again, in growing distances
   while new ones do not last; the others go on.
3. A worker accepts connections when its hub is warm; before that only where no other serves, so
   that somebody says so.
4. SIGTERM lets all drain, a second one and Ctrl-C end all at once. SIGHUP restarts them one after
   the other: an old one leaves when the new one serves.
5. No worker outlives the supervisor; see `twinwire.server.worker`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from types import FrameType
from typing import Final

from twinwire.server.shares import Shares, new_table
from twinwire.server.worker import PATIENCE, READY, SIGNALS, VARIABLE, Order

_log = logging.getLogger("twinwire")

_STEADY: Final = 10.0
"""Seconds after which a worker has lasted: the next one is started at once."""

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0
"""Seconds until a worker is started again whose predecessor has not lasted: the wait doubles."""


class _Worker:
    """A worker, as its supervisor sees it."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket, place: int) -> None:
        self.process = process
        self.line = line
        self.place = place
        self.serves_since: float | None = None
        self.leaves = False

    def tell(self, order: Order) -> None:
        self.leaves = True
        with contextlib.suppress(OSError):  # it has ended, which is noticed in its turn
            self.line.send(order.value)


def supervise(listener: socket.socket, count: int) -> int:
    """Have `count` workers serve on `listener` until a signal; returns the exit code."""
    return _Supervisor(listener, count).run()


class _Supervisor:
    def __init__(self, listener: socket.socket, count: int) -> None:
        self._listener = listener
        self._count = count
        self._workers: list[_Worker] = []
        # While one takes the place of another both are there.
        self._places = set(range(2 * count))
        self._table = new_table(2 * count)
        self._selector = selectors.DefaultSelector()
        self._code = 0
        self._begun = False
        self._ending = False
        self._short_lived = 0
        self._due: list[float] = []
        """When workers are to be started again."""

        self._kill_at: float | None = None
        self._old: deque[_Worker] = deque()
        """Workers that a restart has still to replace; `_new` takes the first one's place."""
        self._new: _Worker | None = None
        self._restarting = False
        self._again = False
        self._terminals = [stream for stream in (0, 1, 2) if os.isatty(stream)]

    def run(self) -> int:
        """See `supervise`."""
        with self._signals() as signals:
            self._start()
            while self._workers or self._due:
                for key, _ in self._selector.select(self._patience()):
                    if key.fileobj is signals:
                        for number in signals.recv(4096):
                            self._signalled(number)
                    else:
                        self._hear(key.data)
                for worker in [w for w in self._workers if w.process.poll() is not None]:
                    self._gone(worker)
                self._on_time()
        return self._code

    # Time

    def _patience(self) -> float | None:
        """Seconds until something is to be done, if nothing happens."""
        times = [*self._due, *([] if self._kill_at is None else [self._kill_at])]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _on_time(self) -> None:
        now = time.monotonic()
        for _ in [at for at in self._due if at <= now]:
            self._start()
        self._due = [at for at in self._due if at > now]
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            for worker in self._workers:
                _log.error("worker %d does not end and is killed", worker.process.pid)
                worker.process.kill()

    # Workers

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        place = self._places.pop()
        early = not any(other.serves_since and not other.leaves for other in self._workers)
        inherited = (self._listener.fileno(), theirs.fileno(), self._table)
        given = " ".join(str(number) for number in (*inherited, place, int(early)))
        with theirs, _blocked():
            process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                pass_fds=inherited,
                env={**os.environ, VARIABLE: given},
            )
        ours.setblocking(False)
        worker = _Worker(process, ours, place)
        self._selector.register(ours, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _hear(self, worker: _Worker) -> None:
        try:
            said = worker.line.recv(1)
        except ConnectionError:
            said = b""
        if said == READY:
            worker.serves_since = time.monotonic()
            self._serves(worker)
        elif not said:
            # It has ended, or is about to.
            self._selector.unregister(worker.line)

    def _serves(self, worker: _Worker) -> None:
        _log.info("worker %d serves", worker.process.pid)
        if self._ending:
            return
        if not self._begun:
            self._begun = True
            for _ in range(1, self._count):
                self._start()
        if worker is self._new:
            self._new = None
            self._old.popleft().tell(Order.LEAVE)

    def _gone(self, worker: _Worker) -> None:
        """It has ended."""
        self._workers.remove(worker)
        with contextlib.suppress(KeyError):
            self._selector.unregister(worker.line)
        worker.line.close()
        Shares(self._table, worker.place).leave()
        self._places.add(worker.place)
        how = _how(worker.process.returncode)
        if self._ending:
            return
        if not self._begun:
            self._code = worker.process.returncode
            if self._code < 0:
                _log.error("the first worker %s", how)
                self._code = 1
        elif worker.leaves:
            _log.info("worker %d has left", worker.process.pid)
            self._replace_next()
        elif worker is self._new:
            _log.error("the new worker %s: the old ones go on", how)
            self._new = None
            self._old.clear()
            self._restarting = self._again = False
        elif self._new is not None and worker is self._old[0]:
            # The one that takes its place is there already.
            self._new = None
            self._old.popleft()
            self._replace_next()
        else:
            with contextlib.suppress(ValueError):
                self._old.remove(worker)
            self._start_again(worker, how)

    def _start_again(self, worker: _Worker, how: str) -> None:
        """Instead of `worker`, which nobody has told to end."""
        since = worker.serves_since
        if since is not None and time.monotonic() - since >= _STEADY:
            self._short_lived = 0
        wait = 0.0
        if self._short_lived:
            wait = min(_FIRST_WAIT * 2.0 ** (self._short_lived - 1), _LONGEST_WAIT)
        self._short_lived += 1
        soon = f"in {wait:g} s" if wait else "now"
        _log.error("worker %d %s: another is started %s", worker.process.pid, how, soon)
        self._due.append(time.monotonic() + wait)

    # Restarting

    def _restart(self) -> None:
        """Replace all workers, one after the other."""
        if self._ending or not self._begun:
            return
        if self._restarting:
            self._again = True
            return
        _log.info("restarting the workers")
        self._restarting = True
        self._old.extend(self._workers)
        self._replace_next()

    def _replace_next(self) -> None:
        if self._old:
            self._new = self._start()
            return
        self._restarting = False
        if self._again:
            self._again = False
            self._restart()

    # The end

    def _signalled(self, number: int) -> None:
        if number == signal.SIGTERM:
            self._end(at_once=self._ending)
        elif number == signal.SIGINT or (number == signal.SIGHUP and self._hung_up()):
            self._end(at_once=True)
        elif number == signal.SIGHUP:
            self._restart()

    def _end(self, *, at_once: bool) -> None:
        self._ending = True
        self._due.clear()
        for worker in self._workers:
            worker.tell(Order.END if at_once else Order.DRAIN)
        if at_once:
            self._kill_at = time.monotonic() + PATIENCE

    def _hung_up(self) -> bool:
        """Whether a SIGHUP is because the terminal has gone, and not to restart the workers."""
        return not all(os.isatty(stream) for stream in self._terminals)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """While this lasts signals come out of the socket, each as the byte of its number."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            self._selector.register(ours, selectors.EVENT_READ)
            signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            for number in (*SIGNALS, signal.SIGCHLD):
                signal.signal(number, _noted)
            try:
                yield ours
            finally:
                signal.set_wakeup_fd(-1)


def _noted(number: int, frame: FrameType | None) -> None:
    """A signal without a handler of Python's is not written to the socket."""


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """What is started meanwhile gets no signals that its supervisor gets."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(code: int) -> str:
    if code >= 0:
        return f"has ended with exit code {code}"
    return f"was ended by signal {-code}"
