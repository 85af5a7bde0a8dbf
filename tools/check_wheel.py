"""Refuses a wheel with stray files, absolute run paths, paths of the build machine, symbols to strip, or missing licences.

Usage, in the source tree: python tools/check_wheel.py WHEEL... Needs readelf. Prints the size and the contents in brief.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MEBIBYTE = 1 << 20
LIMIT = 18 * 1000 * 1000  # bytes
EXPECTED = re.compile(
    r"pydlx/([a-z_0-9]+/)*_*[A-Za-z_0-9]+\.py"
    r"|pydlx/(_C\.pyi|py\.typed)"
    r"|pydlx/_C\.cpython-3\d+-x86_64-linux-gnu\.so"
    r"|pydlx/lib/(libscipy_openblas\.so|LICENSE-openblas\.txt)"
    r"|pydlx\.libs/lib(gomp|scipy_openblas)-[0-9a-f]{8}\.so[.\d]*"
    r"|pydlx-[^/]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/(LICENSE|NOTICE)|sboms/[\w.-]+\.json)"
)


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def library_problems(path: Path, name: str) -> list[str]:
    problems = []
    dynamic = run("readelf", "-dW", str(path))
    for paths in re.findall(r"R(?:UN)?PATH.*\[(.*)\]", dynamic):
        problems += [f"{name}: absolute run path {p}" for p in paths.split(":") if not p.startswith("$ORIGIN")]
    sections = run("readelf", "-SW", str(path))
    if ".debug_info" in sections or (".symtab" in sections and name.startswith("pydlx/_C")):
        problems.append(f"{name}: symbols to strip")
    if name.startswith("pydlx/_C"):
        text = path.read_bytes()
        places = {str(Path.cwd()), str(Path.home()), tempfile.gettempdir(), sys.prefix}
        problems += [f"{name}: path of the build machine {p}" for p in sorted(places) if p.encode() + b"/" in text]
        exported = [
            line.split()[-1]
            for line in run("readelf", "-W", "--dyn-syms", str(path)).splitlines()
            if re.search(r"\b(GLOBAL|WEAK|UNIQUE)\b", line) and " UND " not in line and " ABS " not in line
        ]
        problems += [f"{name}: exports {symbol}" for symbol in exported if symbol != "PyInit__C"]
    return problems


def problems_of(wheel: Path) -> list[str]:
    problems = []
    size = wheel.stat().st_size
    if size > LIMIT:
        problems.append(f"expected at most {LIMIT} bytes, got {size}")
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        problems += [f"stray file {name}" for name in names if not EXPECTED.fullmatch(name)]
        if any("openblas" in name for name in names) and "pydlx/lib/LICENSE-openblas.txt" not in names:
            problems.append("OpenBLAS without its licence")
        for needed in ("licenses/LICENSE", "licenses/NOTICE", "entry_points.txt"):
            if not any(name.endswith(needed) for name in names):
                problems.append(f"no {needed}")
        for name in names:
            if ".so" in Path(name).name:
                problems += library_problems(Path(archive.extract(name, folder)), name)
        print(f"{wheel.name}: {size / MEBIBYTE:.1f} MiB, {len(names)} files")
        for info in sorted(archive.infolist(), key=lambda i: -i.compress_size)[:4]:
            print(f"  {info.compress_size / MEBIBYTE:6.2f} of {info.file_size / MEBIBYTE:6.2f} MiB  {info.filename}")
    return problems


def main() -> int:
    bad = False
    for wheel in sys.argv[1:]:
        for problem in problems_of(Path(wheel)):
            print(f"  BAD: {problem}")
            bad = True
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
