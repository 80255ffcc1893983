"""A PostgreSQL server of the tests' own: started on a Unix socket, with a password, and stopped."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

USER: Final = "shopkeeper"
PASSWORD: Final = "open-sesame"
START_TIMEOUT_S: Final = 60.0

_PR_SET_PDEATHSIG: Final = 1
_SETTINGS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "20",
}


def binaries() -> Path | None:
    """The folder with the server's programs; None: there is no server here."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((each for each in folders if (each / "initdb").exists()), None)


@contextmanager
def postgres_server(programs: Path) -> Iterator[str]:
    """A server that ends with the block; gives a URL, with a password in it."""
    # Not below pytest's folders: the server does not run as root, and may not look into root's; and
    # the name of a socket has no room for long ones.
    folder = Path(tempfile.mkdtemp(prefix="millstream-postgres-"))
    try:
        user = _user()
        if user:
            os.chown(folder, user["user"], user["group"])
        data = _new_cluster(programs, folder, user)
        url = f"postgresql://{USER}:{PASSWORD}@/postgres?host={folder}"
        options = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", folder, *options],
                stdout=log,
                stderr=log,
                preexec_fn=_ends_with_the_tests,
                **user,
            )
            try:
                _wait_until_ready(server, url, folder / "log")
                yield url
            finally:
                server.send_signal(signal.SIGINT)  # disconnect everybody, then end
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> dict[str, Any]:
    """Who runs the server, when the tests are run by root, whom it refuses."""
    if os.geteuid():
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise RuntimeError("no user is there to run PostgreSQL: make one named postgres")


def _new_cluster(programs: Path, folder: Path, user: dict[str, Any]) -> Path:
    password, data = folder / "password", folder / "data"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    command = [programs / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--no-sync"]
    subprocess.run(
        [*command, f"--pwfile={password}", "--encoding=UTF8", "--no-locale"],
        check=True,
        capture_output=True,
        cwd="/",
        **user,
    )
    return data


def _ends_with_the_tests() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    import psycopg

    until = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start: {log.read_text()}") from None
            time.sleep(0.05)
