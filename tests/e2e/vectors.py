#!/usr/bin/env python3
"""Proves: `baton tokenize`, `render` and `parse` give what the vectors say, in the --jsonl form (every line of every
file) and in the plain form (a sample), and both forms survive bad input.
How: the real binary, one process a file; expected values compared exactly.

    vectors.py BIN_DIR V4_TOKENIZER_DIR
"""
import base64
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
TINY = os.path.join(TESTS, "tiny_tokenizer")
failures = []


def load(name):
    with open(os.path.join(TESTS, "vectors", name), encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def run(args, data, status=0):
    p = subprocess.run([BATON] + args, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    if p.returncode != status:
        sys.exit(f"baton {' '.join(args)}: exit {p.returncode}, expected {status}: {p.stderr.decode()}")
    return p.stdout, p.stderr.decode()


def jsonl(args, lines):
    data = "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines).encode()
    out = run(args, data)[0].decode().split("\n")[:-1]  # not splitlines: U+2028 is no line end here
    if len(out) != len(lines):
        sys.exit(f"baton {' '.join(args)}: {len(lines)} lines in, {len(out)} out")
    return [json.loads(x) for x in out]


def expect(what, got, want):
    if got != want:
        failures.append(what)
        print(f"FAIL {what}\n  got  {str(got)[:300]}\n  want {str(want)[:300]}")


def raw(line):
    return base64.b64decode(line["bytes_b64"]) if "bytes_b64" in line else line["text"].encode()


def check_tokenize(name, model):
    lines = load(name)
    asked = [{k: x[k] for k in ("text", "bytes_b64") if k in x} for x in lines]
    for line, got in zip(lines, jsonl(["tokenize", "--model", model, "--jsonl"], asked)):
        expect(f"{name} {line['id']}", got, {"tokens": line["ids"]})
    for line in lines[::60]:
        out = run(["tokenize", "--model", model], raw(line))[0]
        expect(f"{name} {line['id']} plain", json.loads(out), line["ids"])
    return len(lines)


def check_decode(name, model):
    lines = load(name)
    got = jsonl(["tokenize", "--decode", "--model", model, "--jsonl"], [{"ids": x["ids"]} for x in lines])
    for line, answer in zip(lines, got):
        expect(f"{name} {line['id']}", answer, {"text": line["text"], "bytes_b64": line["bytes_b64"]})
    for line in lines[::10]:
        out = run(["tokenize", "--decode", "--model", model], json.dumps(line["ids"]).encode())[0]
        expect(f"{name} {line['id']} plain", out, base64.b64decode(line["bytes_b64"]))
    return len(lines)


def check_render():
    lines = load("chat.jsonl")
    hidden = ("prompt", "ids", "ids_guarded", "error", "note")
    asked = [{k: v for k, v in x.items() if k not in hidden} for x in lines]
    for line, got in zip(lines, jsonl(["render", "--model", V4, "--jsonl"], asked)):
        what = f"chat.jsonl {line['id']}"
        if "error" in line:
            expect(what, sorted(got), ["error"])
        else:
            want = {"prompt": line["prompt"], "tokens": line.get("ids_guarded", line["ids"])}
            expect(what, got, want)
    plain = [x for x in lines if x["level"] == "api"]
    for line in plain[::6]:
        args = ["render", "--model", V4, "--profile", line["profile"]]
        body = json.dumps(line["request"], ensure_ascii=False).encode()
        if "error" in line:
            out, said = run(args, body, status=1)
            expect(f"chat.jsonl {line['id']} plain", (out, said.count("\n")), (b"", 1))
        else:
            want = {"prompt": line["prompt"], "tokens": line.get("ids_guarded", line["ids"])}
            expect(f"chat.jsonl {line['id']} plain", json.loads(run(args, body)[0]), want)
    return len(lines)


def check_parse():
    lines = load("parse.jsonl")
    asked = [{k: x[k] for k in ("mode", "end", "text", "tools", "no_tools") if k in x} for x in lines]
    for line, got in zip(lines, jsonl(["parse", "--model", TINY, "--jsonl"], asked)):
        expect(f"parse.jsonl {line['id']}", got, line["expect"])
    for line in lines:
        if "tools" in line:
            continue
        args = ["parse", "--model", TINY, "--mode", line["mode"], "--end", line["end"]]
        if line.get("no_tools"):
            args.append("--no-tools")
        expect(f"parse.jsonl {line['id']} plain", json.loads(run(args, line["text"].encode())[0]), line["expect"])
    out = json.loads(run(["parse", "--model", TINY], "Hm.</think>Yes.".encode())[0])
    expect("parse: mode found in the text", (out["reasoning_content"], out["content"]), ("Hm.", "Yes."))
    return len(lines)


def check_bad_input():
    """Each bad line gives an error object, the good line behind it its answer; plain forms end with one line and 1."""
    bad = [b"", b"{", b"[1]", b"7", b'{"x": 1}', b'{"text": 3}', b'{"bytes_b64": "!"}', b'{"text": "\xff"}',
           b'{"text": "\\ud800"}', b'{"text": "' + b"[" * 5000 + b'"', b"[" * 100000]
    request = b'{"messages": [{"role": "user", "content": "a"}]}'
    for command, good in (("tokenize", b'{"text": "a"}'), ("render", request), ("parse", b'{"text": "a"}')):
        data = b"\n".join(bad + [good])
        out = run([command, "--model", TINY, "--jsonl"], data)[0].splitlines()
        expect(f"{command}: lines out", len(out), len(bad))  # the empty line is skipped, the good one added
        for line in out[:-1]:
            expect(f"{command}: bad line", list(json.loads(line)), ["error"])
        expect(f"{command}: good line", "error" in json.loads(out[-1]), False)
    for args, data in ((["tokenize", "--decode"], b"[1,"), (["tokenize", "--decode"], b"[99999999]"),
                       (["tokenize", "--decode"], b'{"a": 1}'), (["render"], b"nonsense"), (["render"], b"{}"),
                       (["render"], b"[]")):
        out, said = run(args + ["--model", TINY], data, status=1)
        expect(f"{args} {data}", (out, said.count("\n"), said.startswith(f"baton {args[0]}: ")), (b"", 1, True))


BATON = os.path.join(sys.argv[1], "baton")
V4 = sys.argv[2]
n = check_tokenize("tokenizer.jsonl", V4)
n += check_tokenize("tiny_tokenizer.jsonl", TINY)
n += check_decode("detok.jsonl", V4)
n += check_decode("tiny_detok.jsonl", TINY)
n += check_render()
n += check_parse()
check_bad_input()
print(f"{n} lines, {len(failures)} failures")
sys.exit(1 if failures else 0)
