"""Fail when an instruction-set object defines a weak symbol.

The linker keeps one copy of a weak (inline or template) symbol. If it keeps the AVX-512 copy, the portable path dies with SIGILL on an
older processor. Usage: check_isa_symbols.py NM OBJECT...
"""

import subprocess
import sys


def weak_symbols(nm: str, path: str) -> list[str]:
    listing = subprocess.run([nm, "-C", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    found = []
    for line in listing.splitlines():
        fields = line.split(maxsplit=2) if not line.startswith(" ") else ["", *line.split(maxsplit=1)]
        if len(fields) == 3 and fields[1] in "WVu" and "DW.ref." not in fields[2]:
            found.append(f"{path}: {fields[1]} {fields[2]}")
    return found


def main() -> int:
    nm, *objects = sys.argv[1:]
    bad = [symbol for path in objects for symbol in weak_symbols(nm, path)]
    if bad:
        print("weak symbols in instruction-set objects (see csrc/cpu/isa.h):\n  " + "\n  ".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
