#!/usr/bin/env python3
"""`./run demo`: 32 streams over two workers, one of which is killed with SIGKILL in the middle.

The same 32 requests run twice: first undisturbed, as the reference; then with the kill. At the end a table says how
many streams came through whole and whether their tokens (text, bytes, logprobs) equal the undisturbed run. Exit 1 if
not.
"""
import os
import signal
import sys
import threading
import time

from harness import Failure, Stream, Up, check, make_model, status

STREAMS, TOKENS, WORKERS = 32, 160, 2


class Progress:
    """One line, written over on a terminal; now and then a line of its own elsewhere."""

    def __init__(self):
        self.tty, self.last = sys.stdout.isatty(), 0.0

    def show(self, text):
        now = time.monotonic()
        if self.tty:
            print(f"\r\033[K{text}", end="", flush=True)
        elif now - self.last >= 1:
            print(text, flush=True)
            self.last = now

    def say(self, text):
        print(f"\r\033[K{text}" if self.tty else text, flush=True)


class Run:
    """All streams once."""

    def __init__(self, up, name, progress):
        self.up, self.name, self.progress = up, name, progress
        self.streams, self.errors = [None] * STREAMS, [None] * STREAMS
        self.began = self.took = 0.0

    def one(self, i):
        try:
            sampling = {"temperature": 0} if i % 2 == 0 else {"temperature": 1, "seed": 100 + i}
            with Stream(self.up.url, TOKENS, prompt=f"Demo, stream {i}: what is a baton for?", **sampling) as s:
                self.streams[i] = s
                s.read()
                s.check_whole(TOKENS)
        except (Failure, OSError, ValueError) as e:
            self.errors[i] = e

    def n_tokens(self):
        return sum(len(s.tokens) for s in self.streams if s)

    def n_done(self):
        return sum(bool(s and s.done) for s in self.streams)

    def watch(self, on_tick=lambda: None):
        """Start every stream, show how it goes, wait for the last."""
        self.began = time.monotonic()
        threads = [threading.Thread(target=self.one, args=(i,), daemon=True) for i in range(STREAMS)]
        for t in threads:
            t.start()
        while any(t.is_alive() for t in threads):
            time.sleep(0.05)
            on_tick()
            seconds = time.monotonic() - self.began
            n = self.n_tokens()
            self.progress.show(f"{self.name}: {n:5}/{STREAMS * TOKENS} tokens, {self.n_done():2}/{STREAMS} streams "
                               f"done, {n / seconds:5.0f} tokens/s, {workers(self.up)}")
        self.took = time.monotonic() - self.began
        self.progress.say(f"{self.name}: {self.n_tokens()} tokens in {self.took:.1f} s")
        return self


def newest(up):
    """The newest stay of each worker, by name."""
    rows = {}
    for w in status(up.url)["workers"]:
        if w["name"] not in rows or w["epoch"] > rows[w["name"]]["epoch"]:
            rows[w["name"]] = w
    return rows


def workers(up):
    return ", ".join(f"{name} {w['state']} ({w['assigned']} streams)" for name, w in sorted(newest(up).items()))


class Killer:
    """Kills one busy worker when half of all tokens are there, and tells when it is back."""

    def __init__(self, up, progress):
        self.up, self.progress, self.run = up, progress, None
        self.victim, self.at, self.back = None, 0.0, None

    def tick(self):
        if self.victim is None:
            if self.run.n_tokens() < STREAMS * TOKENS // 2:
                return
            self.victim = max(newest(self.up).values(), key=lambda w: w["assigned"])
            os.kill(self.victim["pid"], signal.SIGKILL)
            self.at = time.monotonic()
            self.progress.say(f"SIGKILL to {self.victim['name']} (pid {self.victim['pid']}) with "
                              f"{self.victim['assigned']} streams on it, after {self.run.n_tokens()} tokens")
        elif self.back is None:
            w = newest(self.up).get(self.victim["name"])
            if w and w["state"] == "ready" and w["epoch"] > self.victim["epoch"]:
                self.back = time.monotonic() - self.at
                self.progress.say(f"{w['name']} is back after {self.back:.2f} s as pid {w['pid']}, epoch {w['epoch']}")


def table(calm, rough, killer):
    whole = sum(e is None for e in rough.errors)
    equal = sum(b is not None and e is None and a.result() == b.result()
                for a, b, e in zip(calm.streams, rough.streams, rough.errors))
    told = [(s.usage or {}).get("baton", {}) for s in rough.streams if s]
    rows = [
        ("streams whole", f"{whole} of {STREAMS}"),
        ("tokens equal to the undisturbed run", f"{equal * TOKENS} of {STREAMS * TOKENS} ({equal} streams)"),
        ("streams moved to another worker", str(sum(t.get("redispatched", 0) > 0 for t in told))),
        ("tokens recomputed", str(sum(t.get("recomputed_tokens", 0) for t in told))),
        ("longest pause, undisturbed", f"{max(s.longest_pause for s in calm.streams):.2f} s"),
        ("longest pause, with the kill", f"{max(s.longest_pause for s in rough.streams if s):.2f} s"),
        ("worker back after", f"{killer.back:.2f} s" if killer.back else "not before the end"),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:{width}}  {value}")
    print()
    for i, e in enumerate(rough.errors):
        if e is not None:
            print(f"  stream {i}: {e}")
    check(killer.victim is not None, "no worker was killed")
    check(whole == STREAMS and equal == STREAMS, "not every stream came through whole and equal")


def demo():
    progress = Progress()
    make_model()
    progress.say(f"starting: baton up with {WORKERS} workers on a random checkpoint of the real architecture")
    with Up("--max-seqs", str(STREAMS), workers=WORKERS) as up:
        while sum(w["state"] == "ready" for w in newest(up).values()) < WORKERS:
            time.sleep(0.05)
        up.note_children()
        calm = Run(up, "undisturbed", progress).watch()
        for e in calm.errors:
            check(e is None, f"the undisturbed run failed: {e}")
        killer = Killer(up, progress)
        rough = killer.run = Run(up, "with a kill", progress)
        rough.watch(killer.tick)
        table(calm, rough, killer)
        left = up.end()
        check(not left, f"processes left behind: {left}")


def interrupted(sig, frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    try:
        demo()
    except Failure as failure:
        print(f"demo: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ndemo: stopped, nothing is left running", file=sys.stderr)
        sys.exit(130)
