"""Start Python programs whose imports are already done: forks of one process that has imported the large packages.

A program that imports torch and transformers waits seconds for them. Here one process imports the packages of others,
and nothing of this project; each program is a fork of it, with arguments, folder, environment, output and memory of
its own, which imports this project anew and may be killed. All workers of a test run share the process, which ends
when the last of them does. Run as a file, this is that process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_LENGTH = struct.Struct("!Q")


class Program:
    """A running program, which is asked for as `subprocess.Popen` is."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid = self._number()
        self.returncode: int | None = None

    def _number(self) -> int:
        line = b""
        while not line.endswith(b"\n"):  # one by one: `poll` must see what is left
            byte = self._connection.recv(1)
            assert byte, "the process that is forked has ended"
            line += byte
        return int(line)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = self._number()
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


class Programs:
    """Starts programs: `arguments` are those of Python, `-c` or `-m` or a file first."""

    def __init__(self, folder: Path) -> None:
        """Begin the process that is forked, if no other worker has; its socket lies in `folder`."""
        self.address = str(folder / "programs")
        with (folder / "programs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._held = self._connect(begin=True)

    def close(self) -> None:
        self._held.close()

    def _connect(self, begin: bool = False) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        while True:
            try:
                connection.connect(self.address)
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                if not begin:
                    raise
                environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
                listening = socket.socket(socket.AF_UNIX)
                Path(self.address).unlink(missing_ok=True)
                listening.bind(self.address)
                listening.listen(64)
                with listening:
                    os.set_inheritable(listening.fileno(), True)
                    # It outlives this worker, where others need it longer, so that nothing here waits for it.
                    os.posix_spawn(
                        sys.executable,
                        [sys.executable, __file__, str(listening.fileno())],
                        environment,
                        file_actions=[(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)],
                        setsid=True,
                    )

    def start(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int = 1,
        stderr: int = 2,
    ) -> Program:
        """Start a program; `stdout` and `stderr` are open descriptors."""
        order = {
            "arguments": list(arguments),
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
        }
        text = json.dumps(order).encode()
        connection = self._connect()
        socket.send_fds(connection, [_LENGTH.pack(len(text))], [stdout, stderr])
        connection.sendall(text)
        return Program(connection)

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and return what it printed."""
        pipes = [os.pipe() for _ in range(2)]
        program = self.start(arguments, cwd=cwd, env=env, stdout=pipes[0][1], stderr=pipes[1][1])
        for _, writing in pipes:
            os.close(writing)
        with ThreadPoolExecutor(2) as pool, os.fdopen(pipes[0][0]) as stdout, os.fdopen(pipes[1][0]) as stderr:
            texts = [pool.submit(file.read) for file in (stdout, stderr)]
            try:
                code = program.wait(timeout)
            finally:
                program.kill()
            return subprocess.CompletedProcess(list(arguments), code, *(text.result() for text in texts))


# The process that is forked.


def _serve(listening: socket.socket) -> dict[str, Any]:
    """Fork for every order; return in the fork, with its order. End with the last connection."""
    import selectors

    awake, woken = socket.socketpair()
    for end in (awake, woken, listening):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    selector.register(awake, selectors.EVENT_READ)
    running: dict[socket.socket, int] = {}
    connections: set[socket.socket] = set()
    begun = False

    def close(connection: socket.socket) -> None:
        selector.unregister(connection)
        connections.discard(connection)
        connection.close()

    while connections or not begun:
        for key, _ in selector.select():
            if key.fileobj is listening:
                connection = listening.accept()[0]
                connections.add(connection)
                begun = True
                selector.register(connection, selectors.EVENT_READ)
            elif key.fileobj is awake:
                awake.recv(4096)
                for connection, pid in list(running.items()):
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        del running[connection]
                        with contextlib.suppress(OSError):  # who asked may have gone
                            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                        close(connection)
            elif key.fileobj in connections:
                connection = key.fileobj
                head, files, _, _ = socket.recv_fds(connection, _LENGTH.size, 2)
                if not head:  # who asked has gone, and takes its program along
                    if connection in running:
                        os.kill(running[connection], signal.SIGKILL)
                        os.waitpid(running.pop(connection), 0)
                    close(connection)
                    continue
                text = b""
                while len(text) < _LENGTH.unpack(head)[0]:
                    text += connection.recv(1 << 20)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.setsid()
                    for one in (*connections, listening, awake, woken):
                        one.close()
                    selector.close()
                    for number, file in enumerate(files, start=1):
                        os.dup2(file, number)
                        os.close(file)
                    return json.loads(text)
                for file in files:
                    os.close(file)
                running[connection] = pid
                connection.sendall(b"%d\n" % pid)
    os._exit(0)


def _become(order: dict[str, Any], base: list[str]) -> None:
    """Be the program of an order: what Python does before it runs one."""
    import runpy
    import types

    first, *rest = order["arguments"]
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["" if first == "-c" else order["cwd"] if first == "-m" else str(Path(first).parent), *paths, *base]
    sys.path_importer_cache.clear()
    if first == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif first == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = order["arguments"]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        main.__file__ = first
        exec(compile(Path(first).read_bytes(), first, "exec"), main.__dict__)


def _main() -> None:
    import gc
    import warnings

    filters = warnings.filters[:]
    warnings.simplefilter("ignore")
    import lance  # noqa: F401
    import sentence_transformers  # noqa: F401

    gc.collect()
    gc.freeze()
    base = [*sys.path[1:], sys.path[0]]  # tests read this file too
    order = _serve(socket.socket(fileno=int(sys.argv[1])))
    warnings.filters[:] = filters
    warnings._filters_mutated()  # type: ignore[attr-defined]
    _become(order, base)


if __name__ == "__main__":
    _main()
