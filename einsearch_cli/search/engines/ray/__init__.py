"""The engine of a Ray cluster: every pack is a task, which Ray places on a node with a free core."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from tempfile import TemporaryFile
from typing import Final

from pydantic import field_validator

from einsearch_cli.errors import RuleError, StudyError
from einsearch_cli.search.engine_options import OPTION, EngineOptions
from einsearch_cli.search.engines import Engine, register
from einsearch_cli.search.engines.ray.messages import (
    Answer,
    Connect,
    Connected,
    Ended,
    Happened,
    Refused,
    Train,
)
from einsearch_cli.search.job import Job, Pack, Report, TrialFinished
from einsearch_cli.search.shipping import pack_up
from einsearch_cli.training.proxy.trial import failed_result

_CONNECT_S: Final = 90.0
"""Seconds after which a cluster that has not answered counts as absent; a busy machine takes 20 s to start one."""
_PROBE_S: Final = 5.0
_STOP_S: Final = 10.0
_GOES_ON: Final = "start it again and run the same command: finished runs are kept"


class RayOptions(EngineOptions):
    """Options of the `ray` engine."""

    address: str | None = None
    """`auto` for the cluster that this machine belongs to, or HOST:PORT; by default, Ray is started here."""

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str | None) -> str | None:
        host, _, port = (address or "").rpartition(":")
        if address not in (None, "auto") and not (host and port.isascii() and port.isdecimal()):
            raise RuleError("auto or HOST:PORT is needed", remedy="auto")
        return address


@register
class RayTasks(Engine):
    """Runs every pack as a Ray task with one core, and with a GPU for `--device cuda`.

    A separate process talks to Ray, because Ray ends the process that uses it when the cluster is lost, and prints
    there.
    """

    name = "ray"
    package = "ray"
    saves_runs = True
    options_type = RayOptions

    _bridge: _Bridge | None = None

    @property
    def address(self) -> str | None:
        """The address of the cluster; None if it is started here."""
        assert isinstance(self.options, RayOptions)
        return self.options.address

    def default_workers(self) -> int:
        """All cores, or GPUs, of the cluster, which is asked for them; or the cores of this machine."""
        if self.address is None and not self._gpus:
            return os.cpu_count() or 1
        bridge = _Bridge(Connect(self.address, None, None, self._gpus))
        try:
            return bridge.tasks
        finally:
            bridge.stop()

    @property
    def _gpus(self) -> int:
        """The number of GPUs that a task needs."""
        return int(self.setup.devices[0].startswith("cuda"))

    def start_up_s(self, loading_s: float) -> float:
        """Seconds to start Ray or connect to it, and until each worker has loaded torch."""
        cores = os.cpu_count() or 1
        crowd = max(1.0, self.workers / cores) if self.address is None else 1.0
        return loading_s * (2 + crowd)

    def run(self, next_pack: Callable[[], Pack], on_event: Report) -> None:
        """Run packs until none is left."""
        if self._bridge is None:
            self._bridge = _Bridge(Connect(self.address, self.workers, pack_up(self.setup), self._gpus))
        running: dict[int, dict[int, Job]] = {}
        while True:
            while len(running) < self.workers and (pack := next_pack()):
                running[self._bridge.train(pack)] = {job.number: job for job in pack}
            if not running:
                return
            answer = self._bridge.answer()
            if isinstance(answer, Ended):
                for job in running.pop(answer.number).values():
                    reason = answer.death or "Ray ended its task without a result"
                    on_event(
                        TrialFinished(job.number, failed_result(job.trial, "failed", reason, 0.0), worker_died=True)
                    )
            elif isinstance(answer, Happened):
                if isinstance(answer.event, TrialFinished):
                    del running[answer.number][answer.event.number]
                on_event(answer.event)

    def stop(self) -> None:
        """End all tasks, and Ray if it was started for them."""
        if self._bridge is not None:
            self._bridge.stop()
            self._bridge = None


class _Bridge:
    """This side of the process that talks to Ray.

    Raises:
        StudyError: the cluster cannot be reached.
    """

    def __init__(self, connect: Connect) -> None:
        self._address = connect.address
        if connect.address not in (None, "auto"):
            _refuse_unreachable(str(connect.address))
        self._packs = 0
        self._printed = TemporaryFile()  # noqa: SIM115  # open as long as the process
        self._pipe: Connection
        self._pipe, far_end = Pipe()
        with far_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "einsearch_cli.search.engines.ray.bridge", str(far_end.fileno())],
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                env=_environment(connect.address),
                start_new_session=True,  # Ctrl-C is for this process
            )
        try:
            self._pipe.send(connect)
            if not self._pipe.poll(_CONNECT_S):
                raise self._unreachable("no answer")
            answer = self.answer()
            assert isinstance(answer, Connected)
            self.tasks = answer.tasks
        except BaseException:
            self.stop()
            raise

    def train(self, pack: Pack) -> int:
        """Have a pack trained; returns its number."""
        self._packs += 1
        try:
            self._pipe.send(Train(self._packs, tuple(pack)))
        except BrokenPipeError:
            raise self._lost() from None
        return self._packs

    def answer(self) -> Answer:
        """Wait for the next answer.

        Raises:
            EinsearchError: the cluster is lost, or its nodes cannot run the study.
        """
        try:
            answer: Answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if isinstance(answer, Refused):
            raise answer.error
        return answer

    def stop(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._printed.close()

    def _lost(self) -> StudyError:
        code = self._process.wait()
        return StudyError(
            f"the Ray cluster {self._name()} is lost: its connection ended with exit code {code}{self._last_line()}",
            remedy=_GOES_ON,
        )

    def _unreachable(self, reason: str) -> StudyError:
        return StudyError(f"the Ray cluster {self._name()} cannot be reached: {reason}", remedy=REACHING)

    def _name(self) -> str:
        return "of this machine" if self._address is None else f"at {self._address}"

    def _last_line(self) -> str:
        """The last line that Ray printed."""
        self._printed.seek(0)
        lines = [line for line in self._printed.read().decode(errors="replace").splitlines() if line.strip()]
        return f" ({lines[-1].strip()[:200]})" if lines else ""


REACHING: Final = (
    f"check `ray status` on this machine, {OPTION} address=HOST:PORT, and that RAY_AUTH_TOKEN or ~/.ray/auth_token holds "
    "the token of the cluster (for a cluster without tokens: RAY_AUTH_MODE=disabled)"
)


def _refuse_unreachable(address: str) -> None:
    """Raise an error at once if nothing listens at the address; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except (OSError, OverflowError) as error:
        reason = f"nothing answers at {address} ({error})"
        raise StudyError(f"the Ray cluster cannot be reached: {reason}", remedy=REACHING) from error


def _environment(address: str | None) -> dict[str, str]:
    """Environment of the bridge; a token is required by default, as whoever reaches a port of Ray can run any code."""
    ours = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_NUM_REDIS_GET_RETRIES": "5"}
    found = (
        ours | os.environ
    )  # five retries of a second each; by default there are twenty, all of them waited for if the token is wrong
    if address is None:
        from secrets import token_hex

        found["RAY_AUTH_TOKEN"] = token_hex(32)
        found["RAY_AUTH_MODE"] = "token"
        found["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray then listens only on 127.0.0.1
    return found
