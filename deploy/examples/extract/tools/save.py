#!/usr/bin/env python3
"""save.py FILE: the JSON of stdin becomes FILE, whole or not at all. Doing it twice leaves the same file."""
import json
import os
import sys


def main():
    path = sys.argv[1]
    report = json.load(sys.stdin)
    # The attempt's own name, then a rename: a reader never sees half a file, and two attempts do not mix.
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as f:
        json.dump(report, f, indent=2, ensure_ascii=False)
        f.write("\n")
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
    print(json.dumps({"path": os.path.abspath(path)}))


if __name__ == "__main__":
    main()
