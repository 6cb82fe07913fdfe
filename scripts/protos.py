"""Generate the Python code of the protos beside them, or check that what is committed is current."""

import argparse
import importlib.resources
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent.parent / "protos"
PACKAGE = PROTOS / "vitrail" / "v1"


def generate(out: Path) -> None:
    """Run protoc over every .proto, with type stubs, into `out`."""
    includes = importlib.resources.files("grpc_tools") / "_proto"
    sources = sorted(str(path.relative_to(PROTOS)) for path in PACKAGE.glob("*.proto"))
    plugins = [f"--{plugin}_out={out}" for plugin in ("python", "grpc_python", "mypy", "mypy_grpc")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{includes}"]
    # The mypy plugins are found beside this interpreter, whether or not its environment is activated.
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    subprocess.run([*protoc, *plugins, *sources], check=True, env=path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the committed files")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        fresh = {path.name: path for path in (Path(directory) / "vitrail" / "v1").iterdir()}
        committed = {path.name: path for path in PACKAGE.glob("*_pb2*")}
        if write:
            for path in committed.values():
                path.unlink()
            for path in fresh.values():
                shutil.copy(path, PACKAGE)
            return 0
        stale = sorted(
            name
            for name in fresh.keys() | committed.keys()
            if name not in fresh or name not in committed or fresh[name].read_bytes() != committed[name].read_bytes()
        )
    for name in stale:
        print(f"not current: {PACKAGE / name} (run `make protos`)", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
