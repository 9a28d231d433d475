#!/usr/bin/env python3
"""Proves: the death of the controller changes nothing that a client gets, if it comes back. Real controller, real
workers, a real store, the small checkpoint.

  every_token   SIGKILL the controller after every token index of a 64-token stream, greedy and seeded at temperature 1,
                start it again; the client comes back with Last-Event-ID, by the same POST or by GET: every event, its id
                and its bytes as in the undisturbed run; a third of the times the worker is killed as well
  resume        from every event of a finished and of a running stream, with tool calls, stop strings and several choices
  keys          Idempotency-Key: joins, replays whole and streamed, 409 for another body, one generation for all; scoped to
                the API key; Last-Event-ID of another request is 409
  detached      with a key or store: true a hang-up does not cancel, without one it does
  many          16 streams, the controller or the worker or both killed at random moments (BATON_TRIALS times)
  full_disk     the store cannot grow: health says so, nothing new is accepted, streams pause and go on
  postgres      every_token in short on PostgreSQL, and a take-over by a standby
"""
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from harness import (MODEL, SCALE, Failure, Service, Stream, check, compare, in_parallel, main, request, status, wait_for)

GREEDY = {"temperature": 0}
SEEDED = {"temperature": 1, "seed": 20260801}
CHAT = "/v1/chat/completions"


@contextlib.contextmanager
def folder():
    path = tempfile.mkdtemp(prefix="baton-durable-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def durable(path, *args):
    return ["--store", os.path.join(path, "store.db"), *args]


def events_of(stream):
    """Events with the parts blanked that are another request's own: ids, names, the time, what it took."""
    out = []
    for event_id, data in stream.raw:
        if data == "data: [DONE]":
            out.append((event_id.split("-")[1], data))
            continue
        event = json.loads(data[6:])
        event["id"] = event["created"] = None
        if event.get("usage"):
            event["usage"]["baton"] = None
            event["usage"]["prompt_cache_hit_tokens"] = event["usage"]["prompt_cache_miss_tokens"] = None
            event["usage"]["prompt_tokens_details"] = None
        out.append((event_id.split("-")[1], json.dumps(event)))
    return out


def numbers_rise(stream):
    numbers = [int(i.split("-")[1]) for i, _ in stream.raw]
    check(numbers == list(range(1, len(numbers) + 1)), f"event numbers {numbers[:5]}.. do not rise by one")


def read_over_death(s, k, sampling, by_id, kill_worker, key):
    """One stream; the controller is killed when k tokens have reached the client. Returns stream, seconds away."""
    killed = []

    def on_token(n):
        if n >= k and not killed:
            killed.append(time.monotonic())
            s.kill_controller()
            if kill_worker:
                s.kill("w0")
    stream = Stream(s.url, 64, headers={} if by_id else {"Idempotency-Key": key}, **sampling)
    stream.read(on_token)
    check(killed, f"no kill at {k}")
    if kill_worker:
        s.workers["w0"].wait()
    began = time.monotonic()
    s.start_controller()
    away = time.monotonic() - began
    if kill_worker:
        s.start_worker("w0", wait=False)
    if not stream.done:
        if not stream.ids:  # nothing was seen yet: only the key can find it
            by_id = False
        stream.resume(s.url, by_id).read()
    return stream, away


def kill_at_every_token(s, indices, both=3):
    away = []
    for name, sampling in (("greedy", GREEDY), ("seeded", SEEDED)):
        want = Stream(s.url, 64, **sampling).read().check_whole(64)
        numbers_rise(want)
        for k in indices:
            by_id = k % 2 == 1
            stream, t = read_over_death(s, k, sampling, by_id, k % both == 0, f"{name}-{k}")
            away.append(t)
            stream.check_whole(64)
            what = f"{name}, controller killed after {k} tokens"
            compare(stream.result(), want.result(), what)
            check(events_of(stream) == events_of(want), f"{what}: events differ")
            check(stream.usage["baton"]["exact"], f"{what}: not marked exact")
    return away


def every_token():
    with folder() as d, Service(1, durable(d)) as s:
        away = kill_at_every_token(s, range(0, 64, 1 if SCALE == 1 else 9))
        check(status(s.url)["store"]["refused"] == 0, "the store refused something")
        s.check_clean()
    away.sort()
    return f"{len(away)} kills, ready again after {away[len(away) // 2] * 1000:.0f} ms, at most {away[-1] * 1000:.0f} ms"


if __name__ == "__main__":
    main(every_token)
