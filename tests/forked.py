"""Processes that begin at once: divided from one that has read the large libraries, which takes a command longer than
most of what the tests ask of it. `conftest.py` runs notebooks in them, tests whole commands."""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

LIBRARIES = 'lightning_fabric matplotlib.pyplot nbdev.test pandas seaborn timm torch torchvision'.split()
processes = multiprocessing.get_context('forkserver')
processes.set_forkserver_preload(LIBRARIES)
PATH = ['', *(place for place in sys.path if place not in ('', str(Path(__file__).parent)))]  # before tests change it
begun = []


@atexit.register
def end_what_is_left():  # multiprocessing would wait for it
    for process in begun:
        process.kill()


def exit_code(work, arguments) -> int:
    "Of a program that does this and no more."
    try:
        work(*arguments)
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run_apart(work, arguments, out, err, cwd, env, path):
    "In the new process: as a program that was started with these files, in a session of its own."
    os.setsid()
    for fd, name, flags in (0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY):
        file = os.open(name, flags | os.O_APPEND)
        os.dup2(file, fd)
        os.close(file)
    sys.stdout, sys.stderr = (open(fd, 'w', buffering=1, closefd=False) for fd in (1, 2))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:] = path
    code = exit_code(work, arguments)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_command(command):
    "What `python COMMAND` does: a program given by `-c`, or a file."
    sys.argv = list(command)
    if command[0] == '-c':
        code = sys.argv.pop(1)
        exec(compile(code, '<string>', 'exec'), {'__name__': '__main__'})
    else:
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name='__main__')


def run_notebook(path, skip_flags, force_flags, root):
    "As `nbdev_test` does, in the notebook's folder."
    from nbdev.test import test_nb

    passed, seconds = test_nb(path, skip_flags=skip_flags, force_flags=force_flags, basepath=root)
    sys.exit(not passed)


class Forked:
    "The part of `subprocess.Popen` that tests use; what it says comes as text."

    def __init__(self, work, *arguments, cwd=None, env=None):
        self.folder = tempfile.TemporaryDirectory()
        self.files = [Path(self.folder.name, name) for name in ('stdout', 'stderr')]
        for file in self.files:
            file.touch()
        env = dict(os.environ if env is None else env)
        given = work, arguments, *map(str, self.files), str(cwd or os.getcwd()), env, PATH
        self.process = processes.Process(target=run_apart, args=given)
        self.process.start()
        self.pid = self.process.pid
        begun.append(self)

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired('a process of the tests', timeout)
        return self.returncode

    def said(self) -> tuple:  # (stdout, stderr)
        return tuple(file.read_text(errors='replace') for file in self.files)

    def communicate(self, timeout=None) -> tuple:
        self.wait(timeout)
        return self.said()

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def end_all(self):
        "It, and whatever it has started."
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.join()


def start(command, **how) -> Forked:
    "In place of `subprocess.Popen([sys.executable, ...])`."
    assert command[0] == sys.executable, command
    return Forked(run_command, [str(part) for part in command[1:]], **how)


def run(command, timeout=1200, **how) -> subprocess.CompletedProcess:
    "In place of `subprocess.run([sys.executable, ...], capture_output=True, text=True)`."
    process = start(command, **how)
    try:
        said = process.communicate(timeout)
    finally:
        process.end_all()
    return subprocess.CompletedProcess(command, process.returncode, *said)
