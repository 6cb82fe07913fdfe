import json
import subprocess
import sys
import venv
from pathlib import Path

from tests.e2e.running import Running, wait_applied
from vitrail.client import Client, Record

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "faiss",
    "sqlalchemy",
    "sklearn",
    "skimage",
    "pydantic",
    "structlog",
    "pyarrow",
}

SEARCH = """
import json, sys
from vitrail.client import Client
with Client(sys.argv[1]) as client:
    hit = client.search(sys.argv[2], vector=[1.0, 0.0], top_k=1).hits[0]
print(json.dumps({"id": hit.id, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def test_the_base_install_is_light_and_searches(client: Client, name: str, cluster: Running, tmp_path: Path) -> None:
    """`pip install .` alone, in a new environment: the SDK imports and searches, and nothing heavy came along."""
    client.create_collection(name, dimension=2)
    client.upsert(name, [Record("east", vector=[1.0, 0.0])])
    wait_applied(client, name)
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True, timeout=170)
    found = subprocess.run(
        [python, "-c", SEARCH, cluster.address, name], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    answer = json.loads(found.stdout)
    assert answer["id"] == "east"
    assert not HEAVY & set(answer["modules"])
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True)
    installed = {package["name"].lower().replace("-", "_") for package in json.loads(listed.stdout)}
    assert not {"torch", "torchvision", "timm", "faiss_gpu", "faiss_cpu", "sqlalchemy"} & installed
    for words, extra in ((["server", "--store", "x", "--shards", "h:1"], "server"), (["export", "c", "c"], "parquet")):
        command = [str(tmp_path / "env" / "bin" / "vitrail"), *words]
        helped = subprocess.run(command, check=False, capture_output=True, text=True)
        assert helped.returncode == 1
        assert f"vitrail[{extra}]" in helped.stderr


def test_a_coordinator_without_images_never_imports_torch(tmp_path: Path) -> None:
    """Whoever brings vectors pays neither torch's memory nor its start-up time."""
    script = (
        "import sys; import vitrail.server.main, vitrail.cli.main; "
        "from vitrail.server.embedders.efficientnet import EfficientNetLite0; EfficientNetLite0(1).space; "
        "sys.exit(bool({'torch', 'timm', 'faiss'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=tmp_path).returncode == 0
