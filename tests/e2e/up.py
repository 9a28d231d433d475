#!/usr/bin/env python3
"""Proves: `baton up` as an operator meets it.

  ready_and_stop    one line on stdout when a request can be served; Ctrl-C and SIGTERM end it with 0 and nothing left
  restarts          a killed worker comes back with a higher epoch; a killed controller comes back on the same port
  no_orphans        SIGKILL of `baton up` itself takes controller and workers along
  bad_starts        second instance on the port, missing directory, broken checkpoint, wrong flag: one clear line, right
                    status, nothing left running
  broken_worker     a worker that cannot start is not started for ever: the reason is shown and up ends with 1
  ps_and_chat       `baton ps` and `baton chat` against a running one; Ctrl-C ends an answer, not the program
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from harness import (MODEL, Failure, Process, Stream, Up, alive, binary, check, descendants, main, request, status,
                     wait_for)


def left_over(up):
    time.sleep(0.05)
    return [pid for pid in up.below if alive(pid)]


def ready_and_stop():
    took = []
    for sig in (signal.SIGINT, signal.SIGTERM):
        up = Up(workers=2)
        try:
            check(request(up.url, "GET", "/health")[0] == 200, "said ready, but /health does not")
            Stream(up.url, 5).read().check_whole(5)
            up.note_children()
            check(len(up.below) == 3, f"{len(up.below)} children, 3 expected")
            began = time.monotonic()
            up.p.send(sig)
            code = up.p.wait(20)
            took.append(time.monotonic() - began)
            check(code == 0, f"ended with {code} after signal {sig}:\n" + "\n".join(up.p.err[-10:]))
            check(up.p.out == [f"ready {up.url}"], f"stdout: {up.p.out}")
            check(not left_over(up), f"left running: {left_over(up)}")
        finally:
            up.end()
    return f"stopped in {took[0]:.2f} s and {took[1]:.2f} s"


def worker(up, name):
    rows = [w for w in status(up.url)["workers"] if w["name"] == name]
    return max(rows, key=lambda w: w["epoch"]) if rows else {"state": None, "epoch": 0, "pid": 0}


def restarts():
    with Up(workers=2) as up:
        wait_for("both ready", lambda: all(worker(up, n)["state"] == "ready" for n in ("w0", "w1")), 20)
        for _ in range(2):
            old = worker(up, "w0")
            os.kill(old["pid"], signal.SIGKILL)
            wait_for("w0 back", lambda: worker(up, "w0")["state"] == "ready" and
                     worker(up, "w0")["epoch"] > old["epoch"] and worker(up, "w0")["pid"] != old["pid"], 20)
        up.note_children()
        controller = status(up.url)["controller"]["pid"]
        os.kill(controller, signal.SIGKILL)

        def back():
            try:
                s = status(up.url)
            except (OSError, ValueError):
                return False
            return (s["controller"]["pid"] != controller and
                    sum(w["state"] == "ready" for w in s["workers"]) == 2)
        began = time.monotonic()
        wait_for("controller back on its port, with both workers", back, 30)
        took = time.monotonic() - began
        Stream(up.url, 5).read().check_whole(5)
        up.note_children()
        check(up.p.out == [f"ready {up.url}"], f"stdout: {up.p.out}")
        left = up.end()
        check(not left, f"left running: {left}")
    return f"controller back after {took:.1f} s"


def no_orphans():
    with Up(workers=2) as up:
        check(len(up.note_children()) == 3, f"children: {up.below}")
        up.p.send(signal.SIGKILL)
        up.p.wait()
        wait_for("children gone", lambda: not [pid for pid in up.below if alive(pid)], 5)


def run(*args, data=b"", seconds=60):
    p = subprocess.run([binary("baton"), *args], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=seconds)
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def one_line(what, result, code, *words):
    got, out, err = result
    check(got == code, f"{what}: exit {got}, expected {code}: {err}")
    check(out == "", f"{what}: stdout {out[:200]}")
    check(err.count("\n") == 1 and err.endswith("\n"), f"{what}: not one line: {err}")
    for word in words:
        check(word in err, f"{what}: no '{word}' in: {err}")


def bad_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        one_line("port in use", run("up", "--model", MODEL, "--port", port), 1, port, "in use")
    with Up(workers=1) as up:
        port = up.url.rsplit(":", 1)[1]
        one_line("second instance", run("up", "--model", MODEL, "--port", port), 1, port, "in use")
        check(request(up.url, "GET", "/health")[0] == 200, "the first instance suffered")
    one_line("missing directory", run("up", "--model", "/nonexistent"), 1, "/nonexistent")
    one_line("a file as directory", run("up", "--model", __file__), 1, "no directory")
    with tempfile.TemporaryDirectory() as empty:
        one_line("empty directory", run("up", "--model", empty), 1, "config.json")
    one_line("no model", run("up"), 2, "--model")
    one_line("mistyped flag", run("up", "--modle", MODEL), 2, "--modle", "did you mean --model?")
    one_line("too many workers", run("up", "--model", MODEL, "--workers", "1000"), 2, "--workers")
    one_line("bad host", run("up", "--model", MODEL, "--host", "nowhere", "--port", "0"), 1, "nowhere")


def broken_worker():
    with tempfile.TemporaryDirectory() as tmp:
        broken = os.path.join(tmp, "model")
        shutil.copytree(MODEL, broken)
        shard = sorted(f for f in os.listdir(broken) if f.endswith(".safetensors"))[1]
        with open(os.path.join(broken, shard), "r+b") as f:
            f.truncate(1000)
        code, out, err = run("up", "--model", broken, "--workers", "2", "--port", "0")
    check(code == 1 and out == "", f"exit {code}, stdout {out}")
    check(err.count(shard) >= 2, f"the file is not named: {err}")
    check("not started again" in err and "no worker is left" in err, f"not clear: {err}")
    code, out, err = run("up", "--model", MODEL, "--backend", "nosuch", "--port", "0")
    check(code in (1, 2) and out == "" and "nosuch" in err, f"backend: exit {code}: {err}")


def ps_and_chat():
    with Up(workers=2) as up:
        wait_for("both ready", lambda: all(worker(up, n)["state"] == "ready" for n in ("w0", "w1")), 20)
        code, out, err = run("ps", "--url", up.url, "--json")
        check(code == 0 and err == "", f"ps: exit {code}: {err}")
        s = json.loads(out)
        check(s["controller"]["pid"] in descendants(up.p.pid), "pid of the controller")
        for w in s["workers"]:
            check({"pid", "epoch", "state", "running", "kv_blocks_free"} <= set(w), f"worker row {w}")
        code, out, err = run("ps", "--url", up.url + "/")
        check(code == 0 and "w0" in out and "w1" in out and "ready" in out, f"ps: {out}{err}")
        one_line("ps of nothing", run("ps", "--url", "http://127.0.0.1:1"), 1, "nothing answers at http://127.0.0.1:1")
        one_line("chat with nothing", run("chat", "--url", "http://127.0.0.1:1", data=b"hi\n"), 1, "nothing answers")
        chat = ("chat", "--url", up.url, "--no-thinking", "--temperature", "0", "--max-tokens")
        code, out, err = run(*chat, "8", data=b"one\n\ntwo\n/reset\none\n/quit\nthree\n")
        check(code == 0, f"chat: exit {code}: {err}")
        check(err.count("cut off") == 3 and "a new conversation" in err, f"chat said: {err}")
        code, first, err = run(*chat, "8", data=b"one\n")
        check(out.startswith(first) and out.endswith(first), "after /reset the same question has the same answer")
        code, out, err = run("chat", "--url", up.url, "--model", "nosuch", data=b"hi\n")
        check(code == 1 and "nosuch" in err, f"unknown model: exit {code}: {err}")
        interrupt_chat(up)
        chat_over_a_loss(up)


def chat_over_a_loss(up):
    """The worker dies under an answer: the terminal says so, and the answer is the one it would have been."""
    args = ("chat", "--url", up.url, "--no-thinking", "--temperature", "0", "--max-tokens", "600")
    code, want, err = run(*args, data=b"tell me\n")
    check(code == 0 and len(want) > 600, f"exit {code}, {len(want)} bytes: too short to be disturbed: {err}")
    p = subprocess.Popen([binary("baton"), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    try:
        p.stdin.write(b"tell me\n")
        p.stdin.flush()
        check(p.stdout.read(1), "no answer")
        busy = wait_for("a busy worker", lambda: [w for w in status(up.url)["workers"] if w["assigned"]], 5, 0.001)
        os.kill(busy[0]["pid"], signal.SIGKILL)
        out, err = p.communicate(timeout=60)
        check(p.returncode == 0 and b"a worker was lost" in err, f"exit {p.returncode}: {err}")
        check(want.endswith(out.decode()), "the answer differs from the undisturbed one")
    finally:
        p.kill()
        p.wait()


def interrupt_chat(up):
    p = subprocess.Popen([binary("baton"), "chat", "--url", up.url, "--no-thinking", "--max-tokens", "20000"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        p.stdin.write(b"a long answer, please\n")
        p.stdin.flush()
        check(p.stdout.read(20), "no answer")
        p.send_signal(signal.SIGINT)
        wait_for("the answer is canceled", lambda: status(up.url)["streams"]["running"] == 0, 5)
        check(p.poll() is None, "Ctrl-C ended the program")
        out, err = p.communicate(b"/quit\n", timeout=20)
        check(p.returncode == 0 and b"canceled" in err, f"exit {p.returncode}: {err}")
    finally:
        p.kill()
        p.wait()


if __name__ == "__main__":
    main(ready_and_stop, restarts, no_orphans, bad_starts, broken_worker, ps_and_chat)
