"""Faults with workers that have no model (`--engine sim`): many streams, known tokens, real processes.

The checking load client (tests/bench/load_client.c) sees every token of every stream: none lost, none twice, none out
of place, whatever was killed or stopped in between; and the pauses stay within generous bounds.
"""
import json
import signal
import subprocess
import time

from harness import SCALE, Service, binary, check, main, status, wait_for

SIM = dict(controller_args=["--engine", "sim", "--model-name", "mock", "--log-level", "warn"],
           worker_args=["--engine", "sim", "--log-level", "warn"])


class Client:
    """The load client while the test does its worst; result() is its JSON."""

    def __init__(self, s, *args):
        self.p = subprocess.Popen([binary("load_client"), "--base-url", s.url, "--stall-s", str(30 * SCALE),
                                   *map(str, args)], stdout=subprocess.PIPE, text=True)

    def result(self, n):
        d = json.loads(self.p.communicate(timeout=160)[0])
        check(d["whole"] == d["requests"] == n, f"{d['whole']} of {n} streams are whole: {d}")
        return d


def running(s):
    return status(s.url)["streams"]["running"]


def kill_256():
    """256 streams, one of two workers is killed; then 200 new requests at once, and the worker comes back."""
    n = max(32, int(256 / SCALE))
    with Service(2, **SIM) as s:
        client = Client(s, "-c", n, "-n", n, "--stream", "--tokens", 60, "--itl-us", 20000)
        wait_for("all streams run", lambda: running(s) == n, 10)
        s.kill("w0")
        d = client.result(n)
        check(status(s.url)["counters"]["failovers"] == 1, "the kill came too late")
        gap_ms = d["max_gap_us"]["max"] / 1000
        check(gap_ms < 1000 * SCALE, f"a client waited {gap_ms:.0f} ms for a token")
        late = Client(s, "-c", 8, "-n", 200).result(200)
        s.start_worker("w0")
        Client(s, "-c", 8, "-n", 200).result(200)
        check(s.row("w0")["epoch"] > 2, "the worker did not come back")
        s.check_clean_but_killed()
    return f"{n} whole, longest gap {gap_ms:.0f} ms, p99 of new requests {late['latency_us']['p99'] / 1000:.1f} ms"


def freeze():
    """A worker that stops answering without closing: heard of by its missing heartbeats."""
    with Service(2, **SIM) as s:
        client = Client(s, "-c", 16, "-n", 16, "--stream", "--tokens", 100, "--itl-us", 20000)
        wait_for("all streams run", lambda: running(s) == 16, 10)
        time.sleep(0.3)
        s.kill("w0", signal.SIGSTOP)
        d = client.result(16)
        s.kill("w0", signal.SIGCONT)
        wait_for("it comes back", lambda: s.state("w0") == "ready", 10)
        gap_ms = d["max_gap_us"]["max"] / 1000
        check(gap_ms < 3000 * SCALE, f"a client waited {gap_ms:.0f} ms for a token")
        s.check_clean()
    return f"longest gap {gap_ms:.0f} ms"


def all_gone():
    """No worker at all for 3 s: the streams are held, and finished by the one that comes."""
    with Service(2, **SIM) as s:
        client = Client(s, "-c", 16, "-n", 16, "--stream", "--tokens", 80, "--itl-us", 20000)
        wait_for("all streams run", lambda: running(s) == 16, 10)
        s.kill("w0")
        time.sleep(0.3)
        s.kill("w1")
        time.sleep(3)
        check(status(s.url)["streams"] == {"running": 0, "queued": 16}, "the streams are not held")
        s.start_worker("w2")
        d = client.result(16)
        s.check_clean_but_killed()
    return f"16 held for {d['max_gap_us']['max'] / 1e6:.1f} s and finished"


def client_leaves():
    """16 clients leave: their work is off the worker at once, by the worker's own clock."""
    with Service(1, **SIM) as s:
        client = Client(s, "-c", 16, "-n", 16, "--stream", "--tokens", 3000, "--itl-us", 20000)
        wait_for("all streams run", lambda: running(s) == 16, 10)
        client.p.kill()
        client.p.communicate()
        began = time.monotonic()
        wait_for("nothing runs", lambda: running(s) == 0, 2, 0.001)
        freed = time.monotonic() - began
        wait_for("the worker is idle", lambda: s.row("w0")["running"] == 0 and s.row("w0")["waiting"] == 0, 2)
        s.check_clean()
    return f"nothing assigned after {freed * 1000:.0f} ms"


def faults():
    """What a worker can do wrong, by options in the prompt: it fails, breaks the protocol, dies at a token."""
    with Service(2, **SIM) as s:
        for what, failovers in (("cut_at=5", 0), ("bad_at=7", 0), ("die_at=9", 1)):
            Client(s, "-c", 1, "-n", 1, "--stream", "--tokens", 20, "--itl-us", 1000, "--opts",
                   f"{what},fw=w0").result(1)
            Client(s, "-c", 8, "-n", 8, "--stream", "--tokens", 20, "--itl-us", 1000, "--opts",
                   f"{what},fw=w0").result(8)
            if failovers:
                wait_for("w0 has died", lambda: s.state("w0") == "lost", 5)
        s.check_clean_but_killed()
    return "cut, protocol, death: all streams whole"


def bench_serve():
    """`baton bench serve` finds what is right and what is wrong with an endpoint."""
    def bench(url, *args):
        r = subprocess.run([binary("baton"), "bench", "serve", "--url", url, "--json", *args], capture_output=True,
                           text=True, timeout=100)
        return r.returncode, json.loads(r.stdout) if r.stdout else r.stderr

    with Service(1, **SIM) as s:
        for stream in ([], ["--stream"]):
            code, d = bench(s.url, "--concurrency", "8", "--requests", "64", "--max-tokens", "16", "--numbers", *stream)
            check(code == 0 and d["whole"] == 64, f"not all whole: {d}")
            check(d["tokens"] == 64 * 16, f"tokens: {d}")
            check(d["latency_us"]["n"] == 64 and (d["ttft_us"] is not None) == bool(stream), f"figures: {d}")
        code, d = bench(s.url, "--requests", "4", "--stream", "--model", "other")
        check(code == 1 and d["refused"] == 4 and "404" in d["first_error"], f"refused: {d}")
        code, d = bench(s.url, "--requests", "4", "--stream", "--numbers", "--max-tokens", "8", "--prompt",
                        "[[n=4]] fewer than asked for are still whole")
        check(code == 0 and d["tokens"] == 16, f"short ones: {d}")
        s.check_clean()
    with Service(0, **{**SIM, "controller_args": [*SIM["controller_args"], "--limit", "request_ms=300"]}) as s:
        code, d = bench(s.url, "--requests", "2", "--stream")
        check(code == 1 and d["whole"] == 0 and d["refused"] + d["error"] == 2, f"no worker: {d}")
    code, text = bench("http://127.0.0.1:9", "--requests", "1")
    check(code == 1 and "nothing answers" in text, f"nobody there: {text}")
    return "speed, correctness, refusals"


if __name__ == "__main__":
    main(kill_256, freeze, all_gone, client_leaves, faults, bench_serve)
