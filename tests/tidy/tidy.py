#!/usr/bin/env python3
"""The rules of docs/STYLE.md that a script can check. Usage: tidy.py [CHECK...]; --list names the checks; --fix breaks
lines that are too long with clang-format (those lines only).

Each check is a function below: its docstring is the reason that a failure prints. A reviewed exception is a line
"CHECK PATH reason" in exceptions.txt; one that excuses nothing is a failure itself.
"""
import concurrent.futures
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
AREAS = ("common", "proto", "kernels", "worker", "controller")
LINE_MAX, FUNCTION_MAX, KERNEL_MAX, FILE_MAX = 120, 70, 150, 1000

# Who may include whom: arrows point down.
ALLOWED = {
    "common": {"common"},
    "proto": {"proto", "common"},
    "kernels": {"kernels", "common"},
    "worker": {"worker", "proto", "kernels", "common"},
    "controller": {"controller", "proto", "common"},
}

checks = []


def check(function):
    checks.append(function)
    return function


class Tree:
    """The files of the tree, as git sees them (new ones too), with their text."""

    def __init__(self):
        self.text = {}
        try:
            out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
            self.paths = sorted(p for p in out.splitlines() if os.path.isfile(os.path.join(ROOT, p)))
        except (OSError, subprocess.CalledProcessError):
            self.paths = sorted(os.path.relpath(os.path.join(d, f), ROOT) for d, _, files in os.walk(ROOT)
                                for f in files if not os.path.relpath(d, ROOT).startswith(("build", ".git")))

    def read(self, path):
        if path not in self.text:
            with open(os.path.join(ROOT, path), encoding="utf-8") as f:
                self.text[path] = f.read()
        return self.text[path]

    def lines(self, path):
        return self.read(path).split("\n")

    def ending(self, *ends):
        return [p for p in self.paths if p.endswith(ends)]

    def c_files(self):
        """Our C: product and tests, not what a script generated."""
        return self.ending(".c", ".h", ".cu", ".cuh")

    def product(self, *ends):
        return [p for p in self.ending(*ends) if p.split("/")[0] in AREAS]

    def written_by_hand(self):
        """Source in any language; data, licences and the specification are not ours to format."""
        names = ("CMakeLists.txt", "run", ".ci/run")
        return [p for p in self.paths if (p.endswith((".c", ".h", ".cu", ".cuh", ".py", ".sh", ".cmake", ".proto"))
                                          or p in names or os.path.basename(p) == "CMakeLists.txt")]


def strip_comments_and_strings(text):
    """C text with comments and literals blanked, line structure kept."""
    def blank(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


@check
def arrows(tree):
    """controller, worker -> proto -> common; worker -> kernels -> common: a part is understood without its users"""
    for path in tree.product(".c", ".h", ".cu", ".cuh"):
        area = path.split("/")[0]
        for i, line in enumerate(tree.lines(path), 1):
            m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if m and m.group(1).split("/")[0] in AREAS and m.group(1).split("/")[0] not in ALLOWED[area]:
                yield path, i, f"{area} includes {m.group(1)}"


@check
def generated(tree):
    """generated protobuf types stay inside proto/codec, so that the wire can change without the rest"""
    for path in tree.c_files():
        if path.startswith(("proto/codec/", "tests/unit/proto/codec/")):
            continue
        for i, line in enumerate(tree.lines(path), 1):
            if re.search(r'#\s*include\s+[<"][^>"]*(\.pb-c\.h|protobuf-c)', line):
                yield path, i, line.strip()


@check
def pairs(tree):
    """one noun = x.h + x.c + test_x.c; a room that has tests has one for every noun"""
    tests = set(tree.paths)
    for path in tree.product(".c"):
        header = path[:-2] + ".h"
        room, name = os.path.dirname(path), os.path.basename(path)
        if header not in tests or f"tests/unit/{room}/CMakeLists.txt" not in tests:
            continue
        if f"tests/unit/{room}/test_{name}" not in tests:
            yield path, 1, f"no tests/unit/{room}/test_{name}"


@check
def header_top(tree):
    """a header opens with its path and purpose and is guarded by its path, so that a reader knows where he is"""
    for path in tree.product(".h") + [p for p in tree.ending(".h") if p.startswith("tests/")]:
        text = tree.read(path)
        if not text.startswith(f"/* {path} - "):
            yield path, 1, f"does not begin with '/* {path} - '"
        guard = re.sub(r"[^A-Z0-9]", "_", path.upper())
        if f"#ifndef {guard}\n#define {guard}\n" not in text:
            yield path, 1, f"no include guard {guard}"


@check
def line_form(tree):
    """lines fit on a screen and in a diff: 120 columns, no tabs, no blanks at the end, one newline last"""
    for path in tree.written_by_hand():
        lines = tree.lines(path)
        for i, line in enumerate(lines, 1):
            if len(line) > LINE_MAX:
                yield path, i, f"{len(line)} columns"
            if "\t" in line:
                yield path, i, "tab"
            if line != line.rstrip():
                yield path, i, "blank at the end of the line"
        if lines[-1] != "" or (len(lines) > 1 and lines[-2] == ""):
            yield path, len(lines), "the file must end with exactly one newline"


@check
def size(tree):
    """what does not fit on a page or two is two things: functions up to 70 lines (kernels 150), files up to 1000"""
    for path in tree.c_files():
        lines, start = tree.lines(path), None
        most = KERNEL_MAX if path.endswith((".cu", ".cuh")) else FUNCTION_MAX
        if len(lines) > FILE_MAX:
            yield path, 1, f"{len(lines)} lines"
        for i, line in enumerate(lines, 1):
            if line == "{":
                start = i
            elif line.startswith("}") and start is not None:
                if i - start - 1 > most:
                    yield path, start, f"function of {i - start - 1} lines"
                start = None


@check
def unfinished(tree):
    """a note to self is an issue or nothing"""
    words = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    for path in tree.written_by_hand():
        for i, line in enumerate(tree.lines(path), 1):
            if words.search(line):
                yield path, i, line.strip()[:80]


@check
def ascii_code(tree):
    """code is read in every terminal: no foreign characters outside literals and quoted model tokens"""
    for path in tree.c_files():
        text = tree.read(path)
        if text.isascii():
            continue
        without = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)
        without = re.sub("[<`\uff5c]*\uff5c[^>`\n]*[\uff5c>`]", "", without)  # <|User|> and its kind, with wide bars
        for i, line in enumerate(without.split("\n"), 1):
            if not line.isascii():
                yield path, i, "".join(c for c in line if ord(c) > 127)[:20]


@check
def names(tree):
    """structs are called struct, and _t belongs to POSIX: a reader sees at once what a name is"""
    for path in tree.c_files():
        for i, line in enumerate(strip_comments_and_strings(tree.read(path)).split("\n"), 1):
            if re.match(r"\s*typedef\s+(struct|enum|union)\b", line):
                yield path, i, "typedef of a struct, enum or union"
            if re.match(r"\s*typedef\b.*\b\w+_t\s*;", line):
                yield path, i, "a type of ours ends in _t"


@check
def no_exit(tree):
    """below main nothing ends the process: an error is a value that the caller sees"""
    for path in tree.product(".c", ".cu"):
        if os.path.basename(path) in ("main.c", "check.c", "mem.c"):
            continue
        for i, line in enumerate(strip_comments_and_strings(tree.read(path)).split("\n"), 1):
            if re.search(r"\b(_?exit|_Exit|abort|quick_exit)\s*\(", line):
                yield path, i, line.strip()


@check
def limits(tree):
    """docs/LIMITS.md has a line for every limit of the controller, and the numbers that the program uses"""
    listed = re.findall(r"X\((\w+),\s*(\d+),\s*\"", tree.read("controller/ctl.h"))
    listed += [("store." + name, value) for name, value in
               re.findall(r"X\((\w+),\s*(\d+),\s*\"", tree.read("controller/store/store.h"))]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \|", tree.read("docs/LIMITS.md"), flags=re.M))
    for name, value in listed:
        if rows.pop(name, None) != value:
            yield "docs/LIMITS.md", 1, f"no line '| `{name}` | {value} | ...'"
    headers = "\n".join(tree.read(p) for p in tree.product(".h"))
    for name, value in rows.items():
        m = re.search(rf"\b{name}\s*=\s*([^,}}/]+)", headers)
        found = m.group(1).strip() if m else "nowhere"
        if found != value:
            yield "docs/LIMITS.md", 1, f"`{name}` is {found} in the source, not {value}"


@check
def references(tree):
    """a document or a decision that is cited exists"""
    known = set(tree.paths)
    for path in tree.ending(".md"):
        if path.startswith(("docs/spec/", "tests/vectors/")) or path == "docs/STYLE.md":
            continue  # written elsewhere, cited as they are
        for i, line in enumerate(tree.lines(path), 1):
            for target in re.findall(r"\]\(([^)#\s]+)", line):
                full = os.path.normpath(os.path.join(os.path.dirname(path), target))
                if "://" not in target and full not in known and not os.path.isdir(os.path.join(ROOT, full)):
                    yield path, i, f"link to {target}, which is not there"
    for path in tree.written_by_hand() + tree.ending(".md"):
        for i, line in enumerate(tree.lines(path), 1):
            for cited in re.findall(r"docs/(?:adr/\d{4}|[A-Z]+\.md|spec/\w+\.md)", line):
                if not any(p.startswith(cited) for p in known):
                    yield path, i, f"{cited} is not there"


@check
def headers_alone(tree):
    """a header compiles alone: whoever includes it needs to know of no other"""
    flags = []
    for package in ("libuv", "libzmq", "libprotobuf-c", "libcurl", "libpq"):
        p = subprocess.run(["pkg-config", "--cflags", package], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        flags += p.stdout.decode().split()

    def compile_one(path):
        p = subprocess.run(["cc", "-std=c11", "-D_GNU_SOURCE", "-I", ROOT, *flags, "-Wall", "-Wextra", "-Werror",
                            "-fsyntax-only", "-x", "c", os.path.join(ROOT, path)],
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return path, p.returncode, p.stderr.decode()
    headers = [p for p in tree.ending(".h") if not p.startswith("kernels/cuda/")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, code, said in pool.map(compile_one, headers):
            if code:
                yield path, 1, next((line for line in said.splitlines() if "error" in line), said[:200])


@check
def scripts(tree):
    """a script that does not parse fails on the day it is needed"""
    for path in ("run", ".ci/run", *tree.ending(".sh")):
        p = subprocess.run(["bash", "-n", os.path.join(ROOT, path)], stderr=subprocess.PIPE)
        if p.returncode:
            yield path, 1, p.stderr.decode().strip()[:120]
    for path in tree.ending(".py"):
        try:
            compile(tree.read(path), path, "exec")
        except SyntaxError as e:
            yield path, e.lineno, e.msg


def fix_long_lines(tree):
    for path in tree.c_files():
        long = [i for i, line in enumerate(tree.lines(path), 1) if len(line) > LINE_MAX]
        if long:
            print(f"{path}: {len(long)} lines")
            subprocess.run(["clang-format", "-i", *[f"--lines={i}:{i}" for i in long], os.path.join(ROOT, path)],
                           check=True)


def load_exceptions():
    found = {}
    with open(os.path.join(HERE, "exceptions.txt"), encoding="utf-8") as f:
        for i, line in enumerate(f, 1):
            if line.strip() and not line.startswith("#"):
                words = line.split(None, 2)
                if len(words) < 3:
                    sys.exit(f"tests/tidy/exceptions.txt:{i}: CHECK PATH reason")
                found[words[0], words[1]] = i
    return found


def main():
    names_known = {c.__name__: c for c in checks}
    if "--list" in sys.argv:
        for c in checks:
            print(f"{c.__name__:14} {c.__doc__}")
        return 0
    if "--fix" in sys.argv:
        fix_long_lines(Tree())
        return 0
    unknown = [a for a in sys.argv[1:] if a not in names_known]
    if unknown:
        print(f"tidy: no check '{unknown[0]}'; --list names them", file=sys.stderr)
        return 2
    chosen = [names_known[a] for a in sys.argv[1:]] or checks
    tree, excused, used, n = Tree(), load_exceptions(), set(), 0
    for c in chosen:
        failures = []
        for path, line, what in c(tree):
            if (c.__name__, path) in excused:
                used.add((c.__name__, path))
            else:
                failures.append(f"{path}:{line}: {what}")
        for f in failures:
            print(f)
        if failures:
            print(f"  {c.__name__}: {c.__doc__}\n")
        n += len(failures)
    for (name, path), line in excused.items():
        if names_known.get(name) in chosen and (name, path) not in used:
            print(f"tests/tidy/exceptions.txt:{line}: excuses nothing")
            n += 1
    print(f"tidy: {len(chosen)} checks, {len(tree.paths)} files, {n} failures")
    return 1 if n else 0


if __name__ == "__main__":
    sys.exit(main())
