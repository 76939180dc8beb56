"""Builds what a GPU machine without network needs, from PyPI, in folders of at most 60 MiB.

    python benchmarks/gpu/bundle.py native FOLDER      # native GRPO, and updates of VERL's actor: no vLLM, no Ray
    python benchmarks/gpu/bundle.py verl FOLDER        # adds Ray and vLLM, slimmed to one architecture

The machine has Python 3.12, and the torch, transformers and numpy that vLLM 0.24 can live with (tried with 2.11, 5.17 and 2.5). There:
`source benchmarks/gpu/setup.sh FOLDER…` unpacks all that is there and sets PYTHONPATH. Needs pip and xz.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GLIBC = ("2_5", "2_12", "2_17", "2_24", "2_26", "2_27", "2_28", "2_31")
PLATFORMS = [f"manylinux_{version}_x86_64" for version in GLIBC] + ["manylinux1_x86_64", "manylinux2014_x86_64"]
TARGET = [
    *(
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.12",
        "--implementation",
        "cp",
        "--abi",
        "cp312",
        "--abi",
        "abi3",
        "--abi",
        "none",
    ),
    *(word for platform in PLATFORMS for word in ("--platform", platform)),
]
SOURCES = ("core", "plugins/langgraph", "algorithms/grpo", "algorithms/verl")
VLLM, RAY = "vllm==0.24.0", "ray==2.60.0"
# What a text model on one GPU never loads, or vLLM does without when it is missing.
DROPPED = (
    "vllm/vllm-rs",
    "vllm/_flashmla*",
    "vllm/_qutlass*",
    "vllm/_moe_C*",
    "vllm/_rust_tool_parser*",
    "vllm/spinloop*",
    "vllm/vllm_flash_attn/_vllm_fa2_C*",
    "vllm/third_party/fmha_sm100",
    "vllm/third_party/deep_gemm",
    "vllm/third_party/flashmla",
    "vllm/entrypoints/serve/instrumentator/static",
)
RAY_DROPPED = ("ray/jars", "ray/rllib", "ray/llm", "ray/dashboard/client/build")
LIBRARIES = ("vllm/_C_stable_libtorch.abi3.so", "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so")
LIMIT = 60


def main() -> None:
    """Build the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["native", "verl"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", type=int, default=90, help="compute capability times ten: 90 for H100 and H200")
    options = parser.parse_args()
    if shutil.which("xz") is None:
        raise SystemExit("`xz` is missing; it packs and unpacks the bundle")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pack(packages(work), options.folder / "a" / "deps.tar.xz")
        shutil.copy(HERE / "setup.sh", options.folder / "a")
        if options.what == "verl":
            pack(vllm(work, options.arch), options.folder / "b" / "vllm.tar.xz")
            pack(unpacked(work, RAY, RAY_DROPPED), options.folder / "c" / "ray.tar.xz")
    for part in sorted(options.folder.iterdir()):
        size = sum(file.stat().st_size for file in part.iterdir()) / 2**20
        print(f"{part}: {size:.1f} MiB" + (f", more than {LIMIT}: the box may refuse it" if size > LIMIT else ""))


def packages(work: Path) -> Path:
    """AGL, its dependencies and VERL's, as an importable folder."""
    wheels, site = work / "wheels", work / "site"
    names = [line for line in (HERE / "requirements.txt").read_text().split("\n") if line and not line.startswith("#")]
    made_here = [name for name in names if name.startswith("antlr4")]  # has no wheel
    pip("download", *TARGET, "-d", str(wheels), *(name for name in names if name not in made_here))
    pip("wheel", "--no-deps", "-w", str(wheels), *made_here, *(str(ROOT / source) for source in SOURCES))
    pip("install", "--no-index", "--no-compile", *TARGET, "--target", str(site), *map(str, wheels.glob("*.whl")))
    return site


def vllm(work: Path, arch: int) -> Path:
    """vLLM without what a text model on that architecture does not need."""
    folder = unpacked(work, VLLM, DROPPED)
    for name in LIBRARIES:
        subprocess.run([sys.executable, str(HERE / "slim.py"), str(folder / name), str(folder / name), "--arch", str(arch)], check=True)
    return folder


def unpacked(work: Path, requirement: str, dropped: tuple[str, ...]) -> Path:
    """A wheel's files, without those that are dropped."""
    name = requirement.partition("==")[0]
    pip("download", *TARGET, "-d", str(work / "big"), requirement)
    [wheel] = (work / "big").glob(f"{name}-*.whl")
    folder = work / name
    shutil.unpack_archive(wheel, folder, "zip")
    wheel.unlink()
    for pattern in dropped:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for program in (*folder.glob("ray/core/src/ray/raylet/raylet"), *folder.glob("ray/core/src/ray/gcs/gcs_server")):
        program.chmod(0o755)  # zip files know no modes
    return folder


def pack(folder: Path, target: Path) -> None:
    """A folder's files as one archive."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        tar = subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(["xz", "-9", "-T0"], stdin=tar.stdout, stdout=file, check=True)
        if tar.wait():
            raise SystemExit(f"tar could not read {folder}")


def pip(*words: str) -> None:
    """Run this Python's pip."""
    if subprocess.run([sys.executable, "-m", "pip", *words, "-q", "--disable-pip-version-check"], check=False).returncode:
        raise SystemExit(f"failed: pip {' '.join(words[:1])} …")


if __name__ == "__main__":
    main()
