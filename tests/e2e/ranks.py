#!/usr/bin/env python3
"""Proves: ranks change nothing that a client gets, and a rank that stands still costs only its worker.

  same_bits   through `baton up --workers 2 --ranks 2` come the tokens, token bytes and logprobs of workers with one
              rank; also when a worker is killed on the way, and when a stream goes on from two ranks to one
  stall       one rank's thread of a busy worker is stopped: the worker ends with the status for that, in time, and the
              stream goes on elsewhere, whole and equal
  refused     more ranks than experts, and `layer` on several ranks: one clear line
"""
import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time

from harness import (MODEL, SCALE, Failure, Service, Stream, Up, binary, check, compare, main, status, wait_for)

SAMPLING = ({"temperature": 0}, {"temperature": 1, "seed": 99})
N = 400
PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
EXIT_RANK = 15  # worker/exit.h
DEADLINE_MS = 500


def expected():
    """From one worker with one rank."""
    with Service(1) as s:
        check(s.row("w0")["ranks"] == 1, f"ranks: {s.row('w0')}")
        return [Stream(s.url, N, **x).read().check_whole(N).result() for x in SAMPLING]


def killed_at(url, k, kill, **sampling):
    """A stream during which kill() is called once, as soon as k tokens have come."""
    done = []

    def on_token(n):
        if n >= k and not done:
            done.append(kill())
    with Stream(url, N, **sampling) as stream:
        return stream.read(on_token).check_whole(N)


def busy_worker(url):
    return wait_for("a busy worker", lambda: next((w for w in status(url)["workers"]
                                                   if w["state"] == "ready" and w["assigned"] > 0), None), 10, 0.001)


def same_bits():
    want = expected()
    with Up("--ranks", "2", "--threads", "2", workers=2) as up:
        wait_for("both ready", lambda: sum(w["state"] == "ready" for w in status(up.url)["workers"]) == 2, 20)
        check(all(w["ranks"] == 2 for w in status(up.url)["workers"]), f"{status(up.url)['workers']}")
        for x, w in zip(SAMPLING, want):
            compare(Stream(up.url, N, **x).read().check_whole(N).result(), w, f"two ranks, {x}")
        for k, x, w in ((1, SAMPLING[0], want[0]), (20, SAMPLING[1], want[1])):
            stream = killed_at(up.url, k, lambda: os.kill(busy_worker(up.url)["pid"], signal.SIGKILL), **x)
            compare(stream.result(), w, f"a worker with two ranks killed after {k} tokens")
            check(stream.usage["baton"]["exact"], "not marked exact")
            wait_for("both ready", lambda: sum(w["state"] == "ready" for w in status(up.url)["workers"]) == 2, 20)
    with Service(0, worker_args=["--ranks", "2"]) as s:
        s.start_worker("w0")

        def swap():
            s.worker_args = ["--ranks", "1"]
            s.start_worker("w1")
            s.kill("w0")
        stream = killed_at(s.url, 5, swap, **SAMPLING[1])
        compare(stream.result(), want[1], "from two ranks to one")
        check(stream.usage["baton"]["exact"], "not marked exact")


class Stopped(threading.Thread):
    """One thread of another process, stopped with ptrace until that process ends: no help of the program is needed."""

    def __init__(self, tid):
        super().__init__(daemon=True)
        self.tid, self.error, self.is_stopped = tid, None, threading.Event()
        self.start()
        self.is_stopped.wait(10)

    def run(self):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        libc.ptrace.restype = ctypes.c_long
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            if libc.ptrace(request, self.tid, None, None) != 0:
                self.error = os.strerror(ctypes.get_errno())
                self.is_stopped.set()
                return
        with contextlib.suppress(ChildProcessError):
            while True:
                _, code = os.waitpid(self.tid, WALL)
                self.is_stopped.set()
                if not os.WIFSTOPPED(code):
                    return


def thread_of(pid, name):
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm") as f:
            if f.read().strip() == name:
                return int(tid)
    raise Failure(f"process {pid} has no thread {name}")


def stall():
    deadline_ms = int(DEADLINE_MS * SCALE)
    with Service(2, worker_args=["--ranks", "3", "--threads", "2", "--rank-deadline-ms", str(deadline_ms)]) as s:
        want = Stream(s.url, 600, **SAMPLING[1]).read().check_whole(600).result()
        seen = {}

        def on_token(n):
            if n >= 20 and not seen:
                seen["name"] = s.busy()
                seen["stopped"] = Stopped(thread_of(s.workers[seen["name"]].pid, "rank2"))
                seen["at"] = time.monotonic()
        with Stream(s.url, 600, **SAMPLING[1]) as stream:
            stream.read(on_token)
        if seen["stopped"].error:
            print(f"skip: a thread cannot be stopped here: {seen['stopped'].error}")
            return "skipped"
        stream.check_whole(600)
        compare(stream.result(), want, "a rank stopped")
        victim = s.workers.pop(seen["name"])
        s.gone.append(victim)
        code = victim.wait(10)
        check(code == EXIT_RANK, f"the worker ended with {code}:\n" + "\n".join(victim.err[-10:]))
        # Which of the two depends on where it stood: before another rank's wait, or behind the last of them.
        said = [line for line in victim.err if "rank 2 did not arrive at" in line or "rank 2 is not back" in line]
        check(said and f"within {deadline_ms} ms" in said[0], "no reason said:\n" + "\n".join(victim.err[-10:]))
        check(stream.longest_pause < 2 * deadline_ms / 1000 + 2 * SCALE, f"the stream paused {stream.longest_pause} s")
        check(stream.usage["baton"]["redispatched"] == 1 and stream.usage["baton"]["exact"], f"{stream.usage}")
        s.check_clean()
    return f"pause {stream.longest_pause:.2f} s with a deadline of {deadline_ms} ms"


def one_line(result, code, word):
    check(result.returncode == code, f"exit {result.returncode}: {result.stderr}")
    check(result.stderr.count("\n") == 1 and word in result.stderr, f"no one line with '{word}': {result.stderr}")


def refused():
    def run(*args):
        return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    one_line(run(binary("baton"), "layer", "--model", MODEL, "--layer", "0", "--input", "x", "--out", "y",
                 "--ranks", "2"), 1, "one rank")
    one_line(run(binary("baton-worker"), "--model", MODEL, "--connect", "tcp://127.0.0.1:1", "--ranks", "5",
                 "--log-level", "error"), 10, "4 experts")


if __name__ == "__main__":
    main(same_bits, stall, refused)
