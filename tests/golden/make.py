#!/usr/bin/env python3
"""make.py CASE OUT_DIR: make the checkpoint of a golden case and check every file against CASE/SHA256SUMS.

Nothing is done if OUT_DIR already holds the right files. Needs numpy (Debian: python3-numpy)."""
import hashlib
import importlib.util
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
CASES = {"tiny": ("tiny", 1), "flashlike": ("flashlike", 2),
         "fp8experts": ("tiny-fp8experts", 3), "mtp": ("tiny-mtp", 4)}


def wrong(out, case):
    """Names of the files of SHA256SUMS that out lacks or has differently."""
    bad = []
    for line in (HERE / case / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        path = out / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            bad.append(name)
    return bad


def main(case, out):
    out = pathlib.Path(out)
    if not wrong(out, case):
        return 0
    if importlib.util.find_spec("numpy") is None:
        print("make.py: numpy is missing (Debian and Ubuntu: apt-get install python3-numpy)", file=sys.stderr)
        return 1
    sys.path.insert(0, str(HERE.parent / "tools"))
    import make_checkpoint
    shutil.rmtree(out, ignore_errors=True)
    preset, seed = CASES[case]
    make_checkpoint.main([str(out), "--preset", preset, "--seed", str(seed)])
    bad = wrong(out, case)
    if bad:
        print(f"make.py: {out}: not the files that the golden numbers belong to: {', '.join(bad)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
