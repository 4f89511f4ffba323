"""The warm Python of the tests is told, signalled and ended as a new interpreter is."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
import warm_python


def start(*arguments: str, **how: object) -> subprocess.Popen:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [warm_python.executable(), *arguments]
    return subprocess.Popen(command, text=True, **pipes, **how)


def test_it_is_not_the_interpreter_of_the_tests():
    """Else the tests below would say nothing."""
    assert warm_python.executable() != sys.executable


def test_the_workers_of_a_run_start_warm():
    """What every worker would import by itself is imported once."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("a run without -n has no workers")
    assert any("warm_python.py" in part for part in psutil.Process().parent().cmdline())


@pytest.mark.slow
def test_it_is_told_what_a_python_is_told(tmp_path):
    """Arguments, folder, environment, a module beside it, input, output and errors."""
    (tmp_path / "beside.py").write_text(
        "import os, sys\nassert __name__ == '__main__'\n"
        "print(sys.argv[1:], os.getcwd(), os.environ['X'], sys.stdin.read(), __file__)\n"
        "print('error', file=sys.stderr)\n"
    )
    here = {"cwd": tmp_path, "env": {**os.environ, "X": "given"}}
    for program in (["-u", "-m", "beside"], ["beside.py"]):
        out, errors = start(*program, "a", "b c", **here).communicate("read")
        assert out.startswith(f"['a', 'b c'] {tmp_path} given read ") and "beside.py" in out
        assert errors == "error\n"
    out, _ = start("-c", "import sys; print(sys.argv, 'torch' in sys.modules)", "a").communicate()
    assert out == "['-c', 'a'] True\n"


@pytest.mark.parametrize(
    ("code", "ended"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("raise SystemExit('why')", 1), ("1 / 0", 1),
     ("import os; os._exit(9)", 9),
     *((f"import os; os.kill(os.getpid(), {number})", -number) for number in (9, 11, 15))],
)  # fmt: skip
def test_it_ends_as_its_program_does(code, ended):
    child = start("-c", code)
    _, errors = child.communicate()
    assert child.returncode == ended and ("ZeroDivisionError" in errors) == (code == "1 / 0")


WAITING = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
signal.signal(signal.SIGTERM, lambda *_: (child.kill(), child.wait(), sys.exit(7)))
print(child.pid, flush=True)
time.sleep(100)
"""


def test_a_signal_is_its_programs():
    child = start("-c", WAITING)
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 7


@pytest.mark.slow
def test_nothing_of_it_is_left_when_it_is_killed():
    child = start("-c", WAITING)
    begun = psutil.Process(int(child.stdout.readline()))
    warm_python.kill(child)
    assert child.returncode == -signal.SIGKILL
    assert not begun.is_running() or begun.status() == psutil.STATUS_ZOMBIE


def test_threads_and_exit_functions_end_it():
    """What a program leaves running is waited for, and its last words are heard."""
    code = (
        "import atexit, concurrent.futures, threading, time\n"
        "atexit.register(print, 'last')\n"
        "concurrent.futures.ThreadPoolExecutor().submit(time.sleep, 0.1)\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()"
    )
    assert start("-c", code).communicate(timeout=60) == ("thread\nlast\n", "")
