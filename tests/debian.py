"""Programs that tests need and that no package of Python brings, from Debian's packages, without root."""

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

CACHE = Path(os.environ.get("VITRAIL_TEST_CACHE") or Path.home() / ".cache" / "vitrail-tests")


class NoPackage(Exception):
    """A package of Debian could not be had."""


def unpacked(package: str) -> Path:
    """The directory where a package lies unpacked, as if it were the root; fetched once, then kept in `CACHE`.

    Raises:
        NoPackage: There is no apt here, or it cannot fetch the package.
    """
    home = CACHE / package
    if not home.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=CACHE, prefix=f"{package}-") as beside:
            _unpack(package, Path(beside))
            try:
                (Path(beside) / "root").rename(home)
            except OSError:  # another process of tests was first
                if not home.is_dir():
                    raise
    return home


def _unpack(package: str, directory: Path) -> None:
    # Lists of its own: those of the machine may be missing or old, and are root's.
    for part in ("state/lists/partial", "cache/archives/partial"):
        (directory / part).mkdir(parents=True)
    apt = ["apt-get", f"-oDir::State={directory}/state", f"-oDir::Cache={directory}/cache"]
    apt += ["-oDir::State::status=/var/lib/dpkg/status", "-oAPT::Sandbox::User="]
    failures = [_run([*apt, "update"], directory), _run([*apt, "download", package], directory)]
    archives = list(directory.glob("*.deb"))
    if not archives:
        raise NoPackage(
            f"cannot have Debian's package {package}: {'; '.join(filter(None, failures))}; "
            f"where you can, run `apt-get download {package}` and unpack it by `dpkg -x` to {CACHE / package}"
        )
    subprocess.run(["dpkg", "-x", archives[0], directory / "root"], check=True)


def _run(command: list[str], directory: Path) -> str:
    """Run a command. Returns why it failed, or nothing."""
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return f"there is no {command[0]} here"
    return done.stderr.strip() if done.returncode else ""
