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



def body_of(n_tokens, prompt="Tell me about rivers.", **more):
    return {"model": os.path.basename(MODEL), "messages": [{"role": "user", "content": prompt}],
            "max_tokens": n_tokens, "ignore_eos": True, "temperature": 0, **more}


def post(s, body, **headers):
    """Status, headers and body of one call."""
    code, answer, got = request(s.url, "POST", CHAT, body, 60, {k.replace("_", "-"): v for k, v in headers.items()},
                                heads=True)
    return code, answer, got


def generated(s):
    return status(s.url)["counters"]["tokens"]


def by_choice(raw):
    """The events of each choice in order, and those behind all choices. Events of several choices may mix otherwise when
    they are made again, and then their ids say so; with one choice everything has to be the same."""
    out = {}
    one = all("." not in i for i, _ in raw)
    for event_id, data in raw:
        choices = json.loads(data[6:])["choices"] if data != "data: [DONE]" else []
        out.setdefault(choices[0]["index"] if choices else "tail", []).append((event_id, data) if one else data)
    return out


def resume_everywhere(s, what, n_tokens, **more):
    """Every event id of a finished stream, by POST and by GET: exactly the rest, byte for byte."""
    key = f"resume-{what}"
    whole = Stream(s.url, n_tokens, headers={"Idempotency-Key": key}, **more).read()
    check(whole.done, f"{what}: {whole.error}")
    before = generated(s)
    for i in range(len(whole.raw)):
        want = by_choice(whole.raw[i + 1:])
        again = Stream(s.url, n_tokens, headers={"Idempotency-Key": key, "Last-Event-ID": whole.raw[i][0]}, **more)
        again.read()
        check(by_choice(again.raw) == want, f"{what}: after event {i} of {len(whole.raw)} other bytes come")
        if i % 7 == 0:
            again.ids, again.last_id, again.raw, again.done, again.finished = whole.ids, whole.raw[i][0], [], False, set()
            again.resume(s.url, by_id=True).read()
            check(by_choice(again.raw) == want, f"{what}: GET after event {i}: other bytes come")
    check(generated(s) == before, f"{what}: something was generated again")
    return len(whole.raw)


def resume():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    n = 24 if SCALE == 1 else 8
    with folder() as d, Service(1, durable(d)) as s:
        events = resume_everywhere(s, "greedy", n, **GREEDY)
        events += resume_everywhere(s, "tools", n, tools=tools, **SEEDED)
        events += resume_everywhere(s, "top", n, top_logprobs=3, **SEEDED)
        events += resume_everywhere(s, "choices", n // 2, n=3, stop=["zzz"], **SEEDED)
        # While it runs: several readers that join at any time get all of it, and the same.
        first = Stream(s.url, 400, headers={"Idempotency-Key": "live"}, **SEEDED)
        it = first.events()
        while len(first.raw) < 50:
            next(it)
        late = Stream(s.url, 400, headers={"Idempotency-Key": "live"}, **SEEDED)
        later = Stream(s.url, 400, headers={"Idempotency-Key": "live", "Last-Event-ID": first.raw[30][0]}, **SEEDED)
        check(late.http_status == 200 and later.http_status == 200, "could not join")
        for reader in (late, later, first):
            reader.read()
        check(first.done and late.raw == first.raw and later.raw == first.raw[31:], "joined readers got other bytes")
        # A restart in between: it is in the store and nowhere else.
        s.kill_controller()
        s.start_controller()
        again = Stream(s.url, 400, headers={"Idempotency-Key": "live"}, **SEEDED).read()
        check(again.raw == first.raw, "replayed with other bytes after a restart")
        check(again.response.getheader("Idempotency-Replayed") == "true", "not marked as replayed")
        numbers_rise(again)
        s.check_clean()
    return f"{events} events, from each of them the rest"


def keys():
    with folder() as d, Service(1, durable(d)) as s:
        body = body_of(40)
        # One generation for many callers at once, streamed and whole.
        before = generated(s)
        got = in_parallel(8, lambda i: post(s, body, Idempotency_Key="one"))
        check(len({answer for _, answer, _ in got}) == 1 and got[0][0] == 200, f"different answers: {got[0][:2]}")
        check(generated(s) - before == 40, f"{generated(s) - before} tokens generated for one key")
        code, answer, headers = post(s, body, Idempotency_Key="one")
        check((code, answer) == (200, got[0][1]), "a replay differs")
        check(headers.get("Idempotency-Replayed") == "true", f"not marked as replayed: {headers}")
        order = dict(reversed(list(body.items())))
        check(post(s, order, Idempotency_Key="one")[1] == answer, "the order of members matters")
        code, wrong, headers = post(s, body_of(41), Idempotency_Key="one")
        check(code == 409 and json.loads(wrong)["error"]["type"] == "conflict_error", f"{code} {wrong[:200]}")
        check(headers.get("x-should-retry") == "false", "a 409 that may be retried")
        streamed = Stream(s.url, 40, headers={"Idempotency-Key": "two"}, **GREEDY).read().check_whole(40)
        message = json.loads(answer)["choices"][0]["message"]
        check((streamed.text, streamed.reasoning) == (message["content"] or "", message.get("reasoning_content") or ""),
              "streamed and whole differ")
        check(generated(s) - before == 80, "the second key generated something else")
        # Another tenant's key is another key; another tenant sees nothing of ours.
        code, other, _ = post(s, body_of(41), Idempotency_Key="one", Authorization="Bearer b")
        check(code == 200, f"the key of another tenant: {code} {other[:100]}")
        our_id = json.loads(answer)["id"]
        code, found = request(s.url, "GET", f"{CHAT}/{our_id}")
        check((code, found) == (200, answer), f"GET of a finished one: {code}")
        code, found = request(s.url, "GET", f"{CHAT}/{our_id}", headers={"Authorization": "Bearer b"})
        check(code == 404, f"another tenant's GET: {code}")
        check(request(s.url, "GET", f"{CHAT}/chatcmpl-0")[0] == 404, "an unknown id")
        # Ids that do not fit.
        for last in ("chatcmpl-1", "0" * 24 + "-1", "x"):
            code, wrong, _ = post(s, body_of(40, stream=True), Idempotency_Key="one", Last_Event_ID=last)
            check(code == 409, f"Last-Event-ID {last}: {code} {wrong[:100]}")
        check(post(s, body_of(40, stream=True), Last_Event_ID="x")[0] == 409, "Last-Event-ID without a key")
        check(post(s, body, Idempotency_Key="x" * 256)[0] == 400, "a key that is too long")
        # A refused request is not kept.
        bad = dict(body, temperature=9)
        check(post(s, bad, Idempotency_Key="bad")[0] == 400, "temperature 9")
        check(post(s, body, Idempotency_Key="bad")[0] == 200, "a refused request was kept")
        # All of it after a restart, whole and streamed.
        s.kill_controller()
        s.start_controller()
        wait_for("worker back", lambda: request(s.url, "GET", "/health")[0] == 200, 10)
        check(post(s, body, Idempotency_Key="one")[1] == answer, "another answer after a restart")
        check(post(s, body_of(41), Idempotency_Key="one")[0] == 409, "no 409 after a restart")
        again = Stream(s.url, 40, headers={"Idempotency-Key": "two"}, **GREEDY).read()
        check(again.raw == streamed.raw, "other events after a restart")
        check(generated(s) == 0, "something was generated again")
        s.check_clean()
    return "8 callers, 1 generation"


def detached():
    n = 1500 if SCALE == 1 else 400
    with folder() as d, Service(1, durable(d)) as s:
        for how, stays in (("key", True), ("store", True), ("plain", False)):
            more = {"store": True} if how == "store" else {}
            headers = {"Idempotency-Key": "hang-up"} if how == "key" else {}
            before = generated(s)
            stream = Stream(s.url, n, headers=headers, **SEEDED, **more)
            it = stream.events()
            while len(stream.tokens) < 10:
                next(it)
            one = next(iter(stream.ids))
            code, answer = request(s.url, "GET", f"{CHAT}/{one}")
            check(code == 202 and json.loads(answer)["status"] == "in_progress", f"GET of a running one: {code}")
            began = time.monotonic()
            stream.close()
            if stays:
                time.sleep(0.05)
                check(status(s.url)["streams"]["running"] == 1, f"{how}: canceled by a hang-up")
                stream.resume(s.url, by_id=True).read().check_whole(n)
                numbers_rise(stream)
                check(generated(s) - before == n, f"{how}: {generated(s) - before} tokens generated")
            else:
                wait_for("canceled", lambda: status(s.url)["streams"]["running"] == 0, 2, 0.001)
                gone = time.monotonic() - began
        # A stop of the server leaves what has a key for the next one.
        stream = Stream(s.url, n, headers={"Idempotency-Key": "stop"}, **SEEDED)
        it = stream.events()
        while len(stream.tokens) < 10:
            next(it)
        s.controller.send(signal.SIGTERM)
        time.sleep(0.2)
        s.controller.send(signal.SIGTERM)  # at once
        check(s.controller.wait() == 0, "no good end")
        s.gone.append(s.controller)
        stream.read()
        s.start_controller()
        stream.resume(s.url).read().check_whole(n)
        numbers_rise(stream)
        s.check_clean()
    return f"a plain one was canceled after {gone * 1000:.0f} ms"


if __name__ == "__main__":
    main(every_token, resume, keys, detached)
