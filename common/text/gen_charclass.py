#!/usr/bin/env python3
"""Write common/text/charclass.c from tests/vectors/char_classes.json.

    python3 common/text/gen_charclass.py            write the file
    python3 common/text/gen_charclass.py --check    exit 1 if the file in the tree is not what would be written
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests/vectors/char_classes.json"
TARGET = ROOT / "common/text/charclass.c"
N_CODE_POINT = 0x110000
PAGE = 128
BITS = {"L": 1, "M": 2, "N": 4, "P": 8, "S": 16, "space": 32}  # enum charclass
CJK, NL = 64, 128
CJK_RANGES = [(0x4E00, 0x9FA5), (0x3040, 0x309F), (0x30A0, 0x30FF)]  # docs/spec/tokenizer.md section 2, stage 2

HEAD = """/* Written by common/text/gen_charclass.py from tests/vectors/char_classes.json: do not edit. */
#include "common/text/charclass.h"

"""


def table():
    classes = bytearray(N_CODE_POINT)
    for name, ranges in json.loads(SOURCE.read_text()).items():
        for lo, hi in ranges:
            for cp in range(lo, hi + 1):
                classes[cp] |= BITS[name]
    for lo, hi in CJK_RANGES:
        for cp in range(lo, hi + 1):
            if classes[cp] & (BITS["N"] | BITS["space"]):
                sys.exit("U+%04X in the CJK set is a digit or white space: pretok.c relies on there being none" % cp)
            classes[cp] |= CJK
    for cp in b"\r\n":
        classes[cp] |= NL
    return classes


def packed(numbers):
    """Numbers without spaces, in as few lines of 118 columns as they need: the file stays under 1000 lines."""
    lines, line = [], ""
    for n in numbers:
        if len(line) > 113:
            lines.append(line)
            line = ""
        line += "%d," % n
    return lines + [line]


def render():
    classes = table()
    pages, page_of = [], []
    for start in range(0, N_CODE_POINT, PAGE):
        page = bytes(classes[start:start + PAGE])
        if page not in pages:
            pages.append(page)
        page_of.append(pages.index(page))
    if len(pages) > 256:
        sys.exit("%d different pages do not fit a byte" % len(pages))
    out = ["const uint8_t charclass_page_of[CHARCLASS_N_PAGE] = {"]
    out += packed(page_of)
    out += ["};", "", "const uint8_t charclass_page[][CHARCLASS_PAGE] = {"]
    for page in pages:
        lines = packed(page) if any(page) else ["0"]
        lines[0] = "{" + lines[0]
        lines[-1] = lines[-1].rstrip(",") + "},"
        out += lines
    out += ["};", ""]
    return HEAD + "\n".join(out)


def main():
    text = render()
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text() != text:
            sys.exit("%s is not what %s writes: run it" % (TARGET, __file__))
    else:
        TARGET.write_text(text)


main()
