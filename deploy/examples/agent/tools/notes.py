#!/usr/bin/env python3
"""notes.py FOLDER list|read: the arguments of the call come as JSON on stdin, the answer goes as JSON to stdout.

The name comes from a model, so it is taken for what it may be: anything. Only plain names of this folder are read.
"""
import json
import os
import sys

BYTES_MAX = 64 * 1024


def notes(folder):
    return sorted(e.name for e in os.scandir(folder) if e.is_file(follow_symlinks=False) and e.name.endswith(".txt"))


def read(folder, name):
    if name not in notes(folder):
        return {"error": f"there is no note {name!r}; list_notes gives the names"}
    with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as f:
        return {"name": name, "text": f.read(BYTES_MAX)}


def main():
    folder, what = sys.argv[1:]
    arguments = json.load(sys.stdin)
    answer = {"notes": notes(folder)} if what == "list" else read(folder, arguments["name"])
    print(json.dumps(answer, ensure_ascii=False))


if __name__ == "__main__":
    main()
