#!/usr/bin/env python3
"""Proves: a worker loss changes nothing that a client gets. Real controller, real workers, the small checkpoint.

  every_token   SIGKILL the worker after every token index of a 64-token stream, greedy and seeded at temperature 1:
                each token once, text, token bytes and logprobs equal to the undisturbed run
  sigstop       a worker that is stopped (half-open connection) is noticed within 3 s, the stream goes on elsewhere;
                woken, its old epoch is fenced and it comes back ready with a higher one
  many_streams  64 streams on 3 workers, two of them killed: 64 results equal
  no_worker     without a worker a stream waits, with keep-alive comments, until one joins; or ends at its deadline with
                a clear error; the same for a request that is not streamed
  disconnect    a client that goes away frees its worker at once, also when its request still waits
"""
import signal
import threading
import time

from harness import (SCALE, Service, Stream, check, compare, in_parallel, main, request, status, wait_for)

GREEDY = {"temperature": 0}
SEEDED = {"temperature": 1, "seed": 20260801}
LOST_S = 3


def counters(s):
    return status(s.url)["counters"]


def kill_after(s, k, sampling):
    """One stream; its worker is killed as soon as k tokens have reached the client. Returns the stream."""
    victim, killed = [], []

    def on_token(n):
        if not victim:
            victim.append(s.busy())
        if n >= k and not killed:
            s.kill(victim[0])
            killed.append(n)
    with Stream(s.url, 64, **sampling) as stream:
        stream.read(on_token)
    check(killed, f"no kill at {k}")
    s.workers[victim[0]].wait()
    s.start_worker(victim[0])
    return stream.check_whole(64)


def every_token():
    step = 1 if SCALE == 1 else 9  # sanitizer builds: every ninth index
    moved = runs = 0
    with Service(2) as s:
        for name, sampling in (("greedy", GREEDY), ("seeded", SEEDED)):
            want = Stream(s.url, 64, **sampling).read().check_whole(64).result()
            for k in range(0, 64, step):
                stream = kill_after(s, k, sampling)
                compare(stream.result(), want, f"{name}, killed after {k} tokens")
                moved += stream.usage["baton"]["redispatched"]
                check(stream.usage["baton"]["exact"], "not marked exact")
                runs += 1
        # Near the end the worker may be done before the kill; everywhere else the stream has to have moved.
        check(moved >= runs * 3 // 4, f"only {moved} of {runs} kills met a running stream")
        check(counters(s)["violations"] == 0, "protocol violations")
        s.check_clean()
    return f"{runs} kills, {moved} streams moved"


def sigstop():
    n = 900 if SCALE == 1 else 400
    with Service(2) as s:
        want = Stream(s.url, n, **SEEDED).read().check_whole(n).result()
        frozen = {}

        def on_token(k):
            if k >= 20 and not frozen:
                frozen["name"] = s.busy()
                frozen["epoch"] = s.epoch(frozen["name"])
                frozen["at"] = time.monotonic()
                s.kill(frozen["name"], signal.SIGSTOP)
            elif frozen and "back" not in frozen and s.state(frozen["name"]) == "lost":
                frozen["back"] = time.monotonic()
        with Stream(s.url, n, **SEEDED) as stream:
            stream.read(on_token)
        stream.check_whole(n)
        compare(stream.result(), want, "worker stopped")
        check(stream.usage["baton"]["redispatched"] == 1, f"usage {stream.usage}")
        check(stream.longest_pause < LOST_S * SCALE, f"the stream paused {stream.longest_pause:.1f} s")
        check(any("redispatch" in text for _, text in stream.comments), f"comments {stream.comments[:3]}")
        name = frozen["name"]
        check(s.state(name) == "lost", f"{name} is {s.state(name)} while stopped")
        fenced = counters(s)["fenced"]
        s.kill(name, signal.SIGCONT)
        wait_for(f"{name} back with a higher epoch",
                 lambda: s.state(name) == "ready" and s.epoch(name) > frozen["epoch"], 10)
        with Stream(s.url, n, **SEEDED) as again:
            compare(again.read().check_whole(n).result(), want, "after it came back")
        fenced = counters(s)["fenced"] - fenced
        s.check_clean()
    return f"pause {stream.longest_pause:.2f} s, {fenced} messages of the old epoch fenced"


def many_streams():
    n_stream, n_token = (64, 48) if SCALE == 1 else (24, 32)
    with Service(3, worker_args=["--max-seqs", "16"]) as s:
        def one(i):
            sampling = {"temperature": 1, "seed": 1000 + i} if i % 2 else GREEDY
            with Stream(s.url, n_token, prompt=f"Stream number {i}, please.", seconds=180, **sampling) as stream:
                return stream.read().check_whole(n_token)
        want = [x.result() for x in in_parallel(n_stream, one)]
        killer = threading.Thread(target=kill_two, args=(s, counters(s)["tokens"], n_stream * n_token))
        killer.start()
        got = in_parallel(n_stream, one)
        killer.join()
        for i, x in enumerate(got):
            compare(x.result(), want[i], f"stream {i}")
        moved = sum(x.usage["baton"]["redispatched"] for x in got)
        check(counters(s)["lost"] == 2, f"{counters(s)['lost']} workers lost")
        check(moved > 0, "no stream was moved")
    return f"{n_stream} equal, {moved} moves, longest pause {max(x.longest_pause for x in got):.2f} s"


def kill_two(s, before, n_all):
    """At a quarter and at a half of all tokens, a worker that is at work."""
    for part in (4, 2):
        wait_for("tokens", lambda: counters(s)["tokens"] - before >= n_all // part, 120, 0.002)
        s.kill(s.busy())


def no_worker():
    with Service(1, controller_args=["--limit", "keepalive_ms=200"]) as s:
        want = Stream(s.url, 200, **SEEDED).read().check_whole(200).result()
        killed_at = comments_before = restarted = None
        with Stream(s.url, 200, **SEEDED) as stream:
            # The worker comes back when the stream has shown that it waits: three comments.
            for _ in stream.events():
                if killed_at is None and len(stream.tokens) >= 10:
                    s.kill("w0")
                    killed_at, comments_before = len(stream.tokens), len(stream.comments)
                waiting = [t for _, t in stream.comments[comments_before or 0:] if t.startswith("keep-alive")]
                if killed_at and not restarted and len(waiting) >= 3:
                    restarted = True
                    s.start_worker("w0", wait=False)
        stream.check_whole(200)
        check(restarted, "the stream ended before its worker came back")
        compare(stream.result(), want, "waited for a worker")
        s.kill("w0")
        wait_for("loss noticed", lambda: s.state("w0") == "lost", 5)
        began = time.monotonic()
        with Stream(s.url, 10, deadline_ms=int(1500 * SCALE)) as late:
            late.read()
        took = time.monotonic() - began
        check(late.error is not None and not late.tokens, "a stream without a worker ended well")
        check(1.4 * SCALE < took < 4 * SCALE, f"deadline of {1.5 * SCALE} s met after {took:.1f} s")
        body = {"model": "e2e_model", "messages": [{"role": "user", "content": "x"}], "deadline_ms": int(800 * SCALE)}
        code, answer = request(s.url, "POST", "/v1/chat/completions", body)
        check(b"error" in answer and b"message" in answer, f"{code}: {answer[:200]}")
        check(request(s.url, "GET", "/health")[0] == 503, "healthy without a worker")
        check(request(s.url, "GET", "/live")[0] == 200, "not alive without a worker")
    return f"error of the stream: {late.error['message']}"


def disconnect():
    with Service(1, worker_args=["--max-seqs", "1"]) as s:
        running = Stream(s.url, 4000, **GREEDY)
        for kind, _ in running.events():
            if len(running.tokens) >= 5:
                break
        waiting = []
        t = threading.Thread(target=lambda: waiting.append(Stream(s.url, 4000, **GREEDY)), daemon=True)
        t.start()
        wait_for("second request queued", lambda: status(s.url)["streams"]["queued"] == 1, 10)
        began = time.monotonic()
        running.close()
        wait_for("the second one runs", lambda: status(s.url)["streams"] == {"running": 1, "queued": 0}, 2)
        first = time.monotonic() - began
        t.join(10)
        check(waiting, "the waiting stream was not answered")
        waiting[0].close()
        wait_for("nothing assigned", lambda: s.row("w0")["assigned"] == 0, 2)
        wait_for("nothing running on the worker", lambda: s.row("w0")["running"] == 0, 2)
        time.sleep(0.6)  # heartbeats tell the count, four a second
        total = s.row("w0")["tokens_total"]
        time.sleep(0.6)
        check(s.row("w0")["tokens_total"] == total, "the worker goes on generating")
        Stream(s.url, 8, **GREEDY).read().check_whole(8)
        s.check_clean()
    return f"freed after {first * 1000:.0f} ms"


if __name__ == "__main__":
    main(every_token, sigstop, many_streams, no_worker, disconnect)
