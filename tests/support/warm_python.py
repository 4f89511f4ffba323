"""A Python that starts warm: torch, transformers and cream are imported once a session.

`warm_python.executable()` stands for `sys.executable` in a command of the tests. It hands its
arguments, environment, folder and files to a server, which forks: what a new interpreter imports in
ten seconds is there at once, and all else is a process of its own as ever. Signals and endings are
passed on; what SIGKILL would end a moment later only, `kill` ends at once. The server imports
nothing before it is first asked. The workers of pytest-xdist are started by it, too.

Tests of imports, and of settings that are read on import, keep `sys.executable`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psutil

SERVER = "CREAM_TESTS_WARM_PYTHON"  # the folder of the session's server, for xdist's workers too
ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "cream.training.run", "cream.evaluation.__main__", "cream.notebook", "pandas", "scipy.stats",
    "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto",
    "transformers.trainer", "torch.distributed.run", "cream.plots", "ipykernel.kernelapp",
    "ipykernel.ipkernel", "IPython.core.completer", "IPython.core.interactiveshell",
)  # fmt: skip
# accelerate imports DeepSpeed for each Trainer, and a process with a context on a card cannot fork.
WITHOUT_A_CARD = ("deepspeed",)
CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"x"], [0, 1, 2])
session = os.getsid(0) == os.getpid()
asked = {{"args": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "session": session}}
asked["behind"] = {folder!r} + f"/{{os.getpid()}}.behind"
server.sendall(json.dumps(asked).encode() + b"\\n")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
ended = int(server.recv(16) or b"1")
if ended < 0:
    if ended != -signal.SIGKILL:
        signal.signal(-ended, signal.SIG_DFL)
    os.kill(os.getpid(), -ended)
os._exit(ended)
"""


def executable() -> str:
    """Return the path that stands for `sys.executable`, which it is outside of `served`."""
    folder = os.environ.get(SERVER)
    return str(Path(folder) / "python") if folder else sys.executable


def kill(started: subprocess.Popen) -> None:
    """SIGKILL a process, the one behind it and all that they started; return when they are gone."""
    family = _family(started.pid)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    started.wait()
    psutil.wait_procs(family, timeout=10)


def _family(number: int) -> list[psutil.Process]:
    behind = Path(os.environ.get(SERVER, ""), f"{number}.behind")
    children = [int(behind.read_text())] if behind.exists() else []
    process = psutil.Process(number)
    children += [one.pid for one in process.children()]
    return [process, *(each for child in children for each in _family(child))]


@contextlib.contextmanager
def served() -> Iterator[None]:
    """Serve this process and those it starts, until the end."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        client, address = Path(folder) / "python", str(Path(folder) / "socket")
        names = {"python": sys.executable, "address": address, "folder": folder}
        client.write_text(CLIENT.format(**names))
        client.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)
            paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            server = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())], stdin=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
                pass_fds=[listener.fileno()], start_new_session=True,
            )  # fmt: skip
        os.environ[SERVER] = folder
        try:
            yield
        finally:
            del os.environ[SERVER]
            # The pipe's end is not enough: a DataLoader's worker, a fork of this, may hold it.
            os.killpg(server.pid, signal.SIGKILL)
            server.stdin.close()
            server.wait()


def warm_kernels() -> None:
    """Start the kernels of notebooks warm, whoever starts them: papermill, nbclient, nbval.

    A machine without Jupyter has none to start: it can run the tests marked `gpu` all the same.
    """
    if importlib.util.find_spec("jupyter_client") is None:
        return
    from jupyter_client.provisioning import local_provisioner

    launch = local_provisioner.launch_kernel

    def warm(command: list[str], **how: object) -> subprocess.Popen:
        python, *rest = command
        return launch([executable() if python == sys.executable else python, *rest], **how)

    local_provisioner.launch_kernel = warm


def _serve(listener: socket.socket) -> dict | None:
    """Fork at each request; return the request in its process, and None in the server at the end.

    The server's child watches the connection and the process that does what was asked for.
    """
    woken = _woken_by_endings()
    select.select([listener, 0], [], [])
    gc.disable()  # what is imported stays, and to look through it takes a quarter of the time
    for name in MODULES if Path("/dev/nvidiactl").exists() else (*MODULES, *WITHOUT_A_CARD):
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    sys.modules["transformers.conversion_mapping"].get_checkpoint_conversion_mapping("llama")
    warm_kernels()  # of a papermill that is started warm
    gc.freeze()
    gc.enable()
    while True:
        ready, _, _ = select.select([listener, woken, 0], [], [])
        if 0 in ready:
            return None
        if woken in ready:
            os.read(woken, 4096)
            _reap()
        if listener in ready:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return _watch(connection)
            connection.close()


def _woken_by_endings() -> int:
    """Return a file that can be read when a child of this process has ended."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return woken


def _reap() -> int | None:
    """Wait for the children that have ended; return how the last of them did."""
    ended = None
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended = os.waitstatus_to_exitcode(found[1])
    return ended


def _watch(connection: socket.socket) -> dict:
    """Fork again: signals come from the client, the ending goes to it, and it is not outlived."""
    woken = _woken_by_endings()
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb", buffering=0) as stream:
        asked = json.loads(stream.readline())
    if (process := os.fork()) == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return asked
    behind = Path(asked["behind"])
    behind.write_text(str(process))
    while True:
        ready, _, _ = select.select([connection, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            if (ended := _reap()) is not None:
                behind.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    connection.sendall(str(ended).encode())
                os._exit(0)
        if connection in ready:
            with contextlib.suppress(ProcessLookupError, ConnectionResetError):
                for number in connection.recv(16) or [signal.SIGKILL]:
                    os.kill(process, number)
                continue
            os.kill(process, signal.SIGKILL)


def _become(asked: dict) -> NoReturn:
    """Turn this fork into the process that was asked for, run its program and end."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked["session"]:
        os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    if backend := os.environ.get("MPLBACKEND"):
        sys.modules["matplotlib"].use(backend)
    if "ipykernel_launcher" in asked["args"]:
        _as_a_kernel_imports()
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    paths = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[1:1] = [os.path.abspath(part) for part in paths if part not in sys.path]
    ended = None
    try:
        _run(asked["args"])
    except SystemExit as exit_:
        ended = exit_.code
        if ended is not None and not isinstance(ended, int):
            print(ended, file=sys.stderr)
            ended = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        ended = 1
    _end(ended)


def _as_a_kernel_imports() -> None:
    """Set what depends on where a module is imported: in a notebook after `notebook.begin`."""
    sys.modules["pandas"].set_option("display.max_columns", 20)  # its default without a terminal
    sys.modules["transformers.utils.logging"].disable_progress_bar()


def _end(ended: int | None) -> NoReturn:
    """End as Python does, but for taking to pieces what was imported: half a second of copies."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit((ended or 0) & 255)


def _run(arguments: list[str]) -> None:
    """Run `[-u] [-X...] -m module ...`, `-c code ...` or `script ...` as Python does."""
    while arguments[0] == "-u" or arguments[0].startswith("-X"):
        sys.stdout.reconfigure(write_through=arguments[0] == "-u")
        arguments = arguments[1:]
    sys.argv, first = arguments, arguments[0]
    if first == "-m":
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), vars(main))
    else:
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request:
        _become(request)
    else:
        os.killpg(os.getpgrp(), signal.SIGKILL)
