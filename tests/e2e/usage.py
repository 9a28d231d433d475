#!/usr/bin/env python3
"""Proves: every command explains itself and refuses wrong use in one clear line with the right status, whether it runs
in `baton` or in baton-worker; no input makes one crash or hang.

  help      `baton --help`, `baton help X`, `baton X --help`: status 0, text on stdout only, every command listed
  mistyped  commands and flags: status 2, one line that says what was meant
  missing   directories and files that are not there: status 1, one line that names them
  signals   Ctrl-C while a command reads its input ends it
"""
import json
import os
import signal
import subprocess
import tempfile

from harness import MODEL, binary, check, main, wait_for

COMMANDS = ("up", "ps", "chat", "tokenize", "render", "parse", "generate", "score", "layer", "model info")
NEAR = {"up": "--modle", "ps": "--jsno", "chat": "--modle", "tokenize": "--modle", "render": "--modle",
        "parse": "--modle", "generate": "--modle", "score": "--tokns", "layer": "--inptu", "model info": "--jso"}


def run(program, *args, data=b""):
    p = subprocess.run([binary(program), *args], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def one_line(what, result, code, *words):
    got, out, err = result
    check(got == code, f"{what}: exit {got}, expected {code}: {err}")
    check(out == "", f"{what}: stdout {out[:200]}")
    check(err.count("\n") == 1 and err.endswith("\n"), f"{what}: not one line: {err}")
    for word in words:
        check(word in err, f"{what}: no '{word}' in: {err}")


def help():
    code, out, err = run("baton", "--help")
    check(code == 0 and err == "", f"baton --help: exit {code}: {err}")
    for command in COMMANDS:
        check(f"\n  {command} " in out, f"{command} is not listed")
    check(run("baton", "help")[:2] == (0, out), "baton help differs from baton --help")
    for command in COMMANDS:
        words = command.split()
        code, out, err = run("baton", *words, "--help")
        check(code == 0 and out.startswith("usage: ") and err == "", f"{command} --help: exit {code}: {err}")
        check("--help" in out, f"{command} --help does not list its flags")
        check(run("baton", "help", *words)[:2] == (0, out), f"baton help {command} differs from baton {command} --help")
    for program in ("baton-controller", "baton-worker"):
        code, out, err = run(program, "--help")
        check(code == 0 and out.startswith("usage: ") and err == "", f"{program} --help: exit {code}: {err}")
    code, out, err = run("baton")
    check(code == 2 and out == "" and err.startswith("usage: "), f"baton alone: exit {code}")


def mistyped():
    for given, meant in (("tokenzie", "tokenize"), ("rendre", "render"), ("scroe", "score"), ("hepl", "help"),
                         ("modle", "model"), ("--hlep", "--help")):
        one_line(given, run("baton", given), 2, given, f"did you mean {meant}?")
    one_line("model", run("baton", "model"), 2, "baton model info")
    one_line("model inof", run("baton", "model", "inof"), 2, "inof", "baton model info")
    one_line("help nonsense", run("baton", "help", "nonsense"), 2, "nonsense")
    for command in COMMANDS:
        flag = NEAR[command]
        one_line(f"{command} {flag}", run("baton", *command.split(), flag, "x"), 2, flag, "did you mean --")
    for command in ("tokenize", "render", "generate", "score", "layer", "up"):
        one_line(f"{command} without flags", run("baton", command), 2, "--model")
    one_line("a word too many", run("baton", "ps", "now"), 2, "now")
    one_line("not a number", run("baton", "up", "--model", MODEL, "--port", "http"), 2, "--port", "http")
    one_line("unknown profile", run("baton", "render", "--model", MODEL, "--profile", "v9"), 2, "v9")
    one_line("unknown mode", run("baton", "parse", "--model", MODEL, "--mode", "loud"), 2, "loud")
    one_line("controller", run("baton-controller", "--modle", MODEL), 2, "did you mean --model?")
    one_line("worker", run("baton-worker", "--modle", MODEL), 2, "did you mean --model?")


def missing():
    nowhere = "/nonexistent/model"
    with tempfile.TemporaryDirectory() as tmp:
        tokens = os.path.join(tmp, "tokens.json")
        with open(tokens, "w", encoding="utf-8") as f:
            json.dump({"tokens": [0, 5]}, f)
        out = os.path.join(tmp, "out.safetensors")
        for args in (("tokenize",), ("render",), ("parse",), ("up", "--port", "0"),
                     ("score", "--tokens", tokens, "--out", out),
                     ("layer", "--layer", "0", "--input", tokens, "--out", out),
                     ("generate", "--tokens", tokens, "--max-tokens", "1")):
            one_line(args[0], run("baton", *args, "--model", nowhere), 1, nowhere)
        one_line("model info", run("baton", "model", "info", nowhere), 1, nowhere)
        absent = os.path.join(tmp, "absent.json")
        for args in (("score", "--tokens", absent, "--out", out),
                     ("generate", "--tokens", absent, "--max-tokens", "1"),
                     ("layer", "--layer", "0", "--input", absent, "--out", out)):
            one_line(f"{args[0]} {absent}", run("baton", *args, "--model", MODEL), 1, absent)
        check(not os.path.exists(out), "a failed command left its output behind")
        one_line("controller", run("baton-controller", "--model", nowhere, "--port", "0"), 1, nowhere)


def signals():
    for args in (("tokenize", "--model", MODEL), ("parse", "--model", MODEL, "--jsonl"), ("render", "--model", MODEL)):
        p = subprocess.Popen([binary("baton"), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        try:
            p.stdin.write(b"text without an end")
            p.stdin.flush()
            p.send_signal(signal.SIGINT)
            wait_for(f"{args[0]} ends after Ctrl-C", lambda: p.poll() is not None, 10)
            check(p.returncode != 0, f"{args[0]} ended with 0")
        finally:
            p.kill()
            p.communicate()


if __name__ == "__main__":
    main(help, mistyped, missing, signals)
