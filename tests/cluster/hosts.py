"""Hosts on one machine: each has an address, processes, a home folder, ssh and a Ray of its own, and can be lost.

A host is a process in network, process, mount and host name namespaces of its own, and its cable leads to a switch, a
bridge in a namespace of its own too. No namespace has a name, and this machine's network isn't touched: any number of
test runs can have hosts of the same addresses at once; all of it goes with the process that made it, kill -9 included.

Files are this machine's, but for what a host has of its own: /tmp/ray, /dev/shm, and its home folder, which starts as a
copy of this machine's without what Ray and MLflow keep there and without what its shells run. They are in memory, and
gone when the host is lost.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.environment import of_a_person

PACKAGES = "openssh-server iproute2 rsync util-linux curl"
_PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "ssh", "ssh-keygen", "rsync", "curl", "/usr/sbin/sshd")
_NAMESPACES = ("--net", "--pid", "--mount", "--uts")
_HOLD = "{ sleep infinity & wait; }"  # bash, the first process of a namespace, also reaps what is orphaned in it
_UP_SECONDS = 30.0


@functools.cache
def why_not() -> str | None:
    """Why this machine can't have hosts, or None if it can."""
    if os.geteuid() != 0:
        return "hosts are network namespaces, which root alone may make: run the tests as root"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"hosts need {', '.join(missing)}: apt-get install {PACKAGES}"
    script = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b /mnt/c && ip link add b0 type bridge && " + _overlay(
        "/mnt"
    )
    done = subprocess.run(["unshare", *_NAMESPACES, "--fork", "bash", "-c", script], capture_output=True, text=True)
    return f"this kernel has no such namespaces: {done.stderr.strip()}" if done.returncode else None


class Host:
    """One machine, switched on, until it is lost."""

    def __init__(self, number: int, network: Network):
        self.number, self.name, self.address = number, f"host{number}", f"10.79.0.{10 + number}"
        self._network = network
        mounts = [
            "mount -t tmpfs tmpfs /tmp/ray",
            "mount -t tmpfs tmpfs /dev/shm",
            "mkdir /dev/shm/a /dev/shm/b",
            _overlay("/dev/shm", str(Path.home())),
            "rm -rf ~/.ray ~/mlflow.db ~/mlflow-artifacts ~/fcn-tuner ~/fcn-tuner-env",
            ": >~/.bashrc",
            f"mount --bind {shlex.quote(str(network.names))} /etc/hosts",
            f"hostname {self.name}",
            "ip link set lo up",
        ]
        self._holder, self._first = _namespace(" && ".join([*mounts, _HOLD]))
        network.plug_in(self.number, self._first)
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "e0")
        self.run("ip", "link", "set", "e0", "up")
        self.run("ip", "route", "add", "default", "via", network.address)
        options = {
            "AuthorizedKeysFile": f"{network.key}.pub",
            "HostKey": network.key,
            "StrictModes": "no",
            "PidFile": "none",
            "UsePAM": "no",
        }
        self.run("/usr/sbin/sshd", *(word for key, value in options.items() for word in ("-o", f"{key}={value}")))

    def command(self, *command: str | Path) -> list[str]:
        """The command that runs a command here, in the folder that the caller is in."""
        inside = ["nsenter", "--target", str(self._first), *_NAMESPACES, "env", "-C", str(Path.cwd())]
        return [*inside, *map(str, command)]

    def run(self, *command: str | Path, check: bool = True, seconds: float = 180) -> str:
        """Run a command here to its end. Returns all that it said."""
        done = subprocess.run(
            self.command(*command),
            env=of_a_person(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, f"{self.name}: {shlex.join(map(str, command))}\n{done.stdout}"
        return done.stdout

    def lose(self) -> None:
        """A power failure: every process ends at once, and no connection is closed."""
        # The cable goes first: for processes that are killed the kernel closes their connections.
        self.cut()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._first, signal.SIGKILL)
        self._holder.wait()

    def cut(self) -> None:
        """Pull the network cable."""
        self._network.switch("ip", "link", "set", f"v{self.number}", "down", check=False)

    def mend(self) -> None:
        """Plug the network cable in again."""
        self._network.switch("ip", "link", "set", f"v{self.number}", "up")

    def processes(self) -> list[psutil.Process]:
        """What runs here, but for what holds the host and serves ssh."""
        found = []
        with contextlib.suppress(OSError):
            space = Path(f"/proc/{self._first}/ns/pid").readlink()
            for process in psutil.process_iter():
                with contextlib.suppress(OSError, psutil.Error):
                    here = Path(f"/proc/{process.pid}/ns/pid").readlink() == space
                    if here and process.name() not in ("bash", "sleep", "sshd"):
                        found.append(process)
        return found


class Network:
    """A switch, and the hosts that are plugged into it."""

    def __init__(self, folder: Path):
        self.address, self.key, self.names = "10.79.0.1", folder / "key", folder / "hosts"
        self._hosts: list[Host] = []
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        known = ["127.0.0.1 localhost", *(f"10.79.0.{10 + number} host{number}" for number in range(1, 20))]
        self.names.write_text("\n".join(known) + "\n")
        for place in (Path("/run/sshd"), Path("/tmp/ray")):
            place.mkdir(parents=True, exist_ok=True)  # one that sshd wants, one to be mounted over
        self._holder, self._first = _namespace(f"ip link add br0 type bridge && ip link set br0 up && {_HOLD}")
        # A router that leads nowhere says so at once to whoever looks for a cloud's services.
        self.switch("ip", "addr", "add", f"{self.address}/24", "dev", "br0")
        self.switch("sysctl", "--quiet", "net.ipv4.ip_forward=1")

    def add(self) -> Host:
        """One more host, switched on."""
        self._hosts.append(Host(len(self._hosts) + 1, self))
        return self._hosts[-1]

    def plug_in(self, number: int, process: int) -> None:
        self.switch("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "e0", "netns", str(process))
        self.switch("ip", "link", "set", f"v{number}", "master", "br0", "up")

    def switch(self, *command: str, check: bool = True) -> None:
        inside = ["nsenter", "--target", str(self._first), "--net", "--"]
        done = subprocess.run([*inside, *command], capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"

    def close(self) -> None:
        for host in self._hosts:
            host.lose()
        self._holder.kill()
        self._holder.wait()


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network without hosts; whatever happens, nothing of it stays."""
    made = Network(folder)
    try:
        yield made
    finally:
        made.close()


def _overlay(own: str, folder: str = "/mnt/c") -> str:
    """The command that lays a host's own changes, in memory, over a folder."""
    lower = shlex.quote(folder)
    return f"mount -t overlay overlay -o lowerdir={lower},upperdir={own}/a,workdir={own}/b {lower}"


def _namespace(script: str) -> tuple[subprocess.Popen[bytes], int]:
    """A process that holds new namespaces, and the first process in them, which runs a bash script there.

    The holder ends with this process, and with it all that is in the namespaces.
    """
    alone = ["setpriv", "--pdeathsig", "KILL", "unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
    holder = subprocess.Popen(
        [*alone, "bash", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # unshare's own, when it is killed
        start_new_session=True,
    )
    until = time.monotonic() + _UP_SECONDS
    while time.monotonic() < until and holder.poll() is None:
        # `sleep` is there when the script has done what comes before it.
        for child in psutil.Process(holder.pid).children():
            with contextlib.suppress(psutil.Error):
                if any(process.name() == "sleep" for process in child.children()):
                    return holder, child.pid
        time.sleep(0.01)
    holder.kill()
    raise RuntimeError(f"no namespace came of: {script}")
