#!/usr/bin/env python3
"""Proves: the death of the controller changes nothing that a client gets, if it comes back. Real controller, real
workers, a real store, the small checkpoint.

  every_token   SIGKILL the controller after every token index of a 64-token stream, greedy and seeded at temperature 1,
                start it again; the client comes back with Last-Event-ID, by the same POST or by GET: every event, its
                id and its bytes as in the undisturbed run; a third of the times the worker is killed as well
  resume        from every event of a finished and of a running stream, with tool calls, stop strings, several choices
  keys          Idempotency-Key: joins, replays whole and streamed, 409 for another body, one generation for all; scoped
                to the API key; Last-Event-ID of another request is 409
  detached      with a key or store: true a hang-up does not cancel, without one it does
  many          16 streams, the controller or the worker or both killed at random moments (BATON_TRIALS times)
  full_disk     the store cannot grow: health says so, nothing new is accepted, streams pause and go on
  retention     ended requests go by number, in small transactions, and their keys with them
  on_postgres   every_token in short on PostgreSQL, and a take-over by a standby
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

from harness import (MODEL, SCALE, Service, Stream, check, compare, in_parallel, main, request, status, wait_for)

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
        event.pop("system_fingerprint", None)  # is not known while no worker is there
        if event.get("usage"):
            event["usage"]["baton"] = None
            event["usage"]["prompt_cache_hit_tokens"] = event["usage"]["prompt_cache_miss_tokens"] = None
            event["usage"]["prompt_tokens_details"] = None
        out.append((event_id.split("-")[1], json.dumps(event)))
    return out


def same_events(got, want, what):
    a, b = events_of(got), events_of(want)
    for x, y in zip(a, b):
        check(x == y, f"{what}: event {x} instead of {y}")
    check(len(a) == len(b), f"{what}: {len(a)} events instead of {len(b)}")


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
            same_events(stream, want, what)
            check(stream.usage["baton"]["exact"], f"{what}: not marked exact")
    return away


def every_token():
    with folder() as d, Service(1, durable(d)) as s:
        away = kill_at_every_token(s, range(0, 64, 1 if SCALE == 1 else 9))
        check(status(s.url)["store"]["refused"] == 0, "the store refused something")
        s.check_clean()
    away.sort()
    half, most = away[len(away) // 2] * 1000, away[-1] * 1000
    return f"{len(away)} kills, ready again after {half:.0f} ms, at most {most:.0f} ms"



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
    """The events of each choice in order, and those behind all choices. Events of several choices may mix otherwise
    when they are made again, and then their ids say so; with one choice everything has to be the same."""
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
            again.ids, again.last_id = whole.ids, whole.raw[i][0]
            again.raw, again.done, again.finished = [], False, set()
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


def one_of_many(s, i, n_token, want, down, **more):
    """A client of the killed: it comes back until it has everything. Returns how often it had to."""
    sampling = {"temperature": 1, "seed": 5000 + i} if i % 2 else GREEDY
    headers = {"Idempotency-Key": f"{down['trial']}-{i}"}
    began, back, stream = time.monotonic(), 0, None
    while stream is None or not stream.done:
        check(time.monotonic() - began < 60 * SCALE, f"stream {i}: not whole after 60 s")
        try:
            if stream is None:
                stream = Stream(s.url, n_token, prompt=f"Stream number {i}, please.", headers=headers,
                                **sampling, **more)
            else:
                back += 1
                stream.resume(s.url)
        except (ConnectionError, OSError, ValueError):
            time.sleep(0.02)
            continue
        except Exception as e:  # the answer's head was cut off
            check("RemoteDisconnected" in repr(e) or "BadStatusLine" in repr(e) or "IncompleteRead" in repr(e), repr(e))
            time.sleep(0.02)
            continue
        if stream.error is not None:
            check(stream.http_status == 503, f"stream {i}: {stream.error}")
            stream.error = None
            time.sleep(0.05)
            continue
        stream.read()
    stream.check_whole(n_token)
    if want is not None:
        compare(stream.result(), want[i].result(), f"stream {i}")
        same_events(stream, want[i], f"stream {i}")
    numbers_rise(stream)
    return stream if want is None else back


def trial(s, number, want, n_stream, n_token, rng):
    """All streams at once; somebody is killed at a random moment and started again."""
    victim = rng.choice(("controller", "worker", "both"))
    moment = rng.uniform(0.0, 0.35) * SCALE
    down = {"trial": f"t{number}"}
    backs, errors = [], []

    def streams():
        try:
            backs.extend(in_parallel(n_stream, lambda i: one_of_many(s, i, n_token, want, down)))
        except Exception as e:  # noqa: BLE001 - told below
            errors.append(e)
    t = threading.Thread(target=streams)
    t.start()
    # Here and not in the thread: a child dies with the thread that started it.
    time.sleep(moment)
    if victim != "worker":
        s.kill_controller()
    if victim != "controller":
        name = rng.choice(sorted(s.workers))
        s.kill(name)
        s.workers[name].wait()
        s.start_worker(name, wait=False)
    if victim != "worker":
        s.start_controller()
    t.join()
    if errors:
        raise errors[0]
    return victim, sum(backs)


def many():
    n_trial = int(os.environ.get("BATON_TRIALS", "8" if SCALE == 1 else "2"))
    seed = int(os.environ.get("BATON_SEED", "0")) or random.randrange(1, 1 << 31)
    rng, n_stream, n_token = random.Random(seed), 16, 24
    count, backs = {"controller": 0, "worker": 0, "both": 0}, 0
    print(f"     BATON_SEED={seed}", flush=True)
    with folder() as d, Service(2, durable(d), ["--max-seqs", "16"]) as s:
        want = in_parallel(n_stream, lambda i: one_of_many(s, i, n_token, None, {"trial": "want"}))
        for number in range(n_trial):
            victim, back = trial(s, number, want, n_stream, n_token, rng)
            count[victim] += 1
            backs += back
            if (number + 1) % 50 == 0:
                print(f"     {number + 1} trials {count}", flush=True)
            while len(s.gone) > 4:  # their output is not needed any more
                s.gone.pop(0).end()
        check_usage(s, d)
    return f"{n_trial} trials ({count}), {n_trial * n_stream} streams whole and equal, {backs} came back"


def check_usage(s, d):
    """The store's own sums: every request has ended once, with as many tokens as its rows hold."""
    s.controller.send(signal.SIGTERM)
    check(s.controller.wait() == 0, "no good end")
    s.gone.append(s.controller)
    import sqlite3
    db = sqlite3.connect(os.path.join(d, "store.db"))
    requests, = db.execute("SELECT count(*) FROM request").fetchone()
    ends, tokens = db.execute("SELECT count(*), sum(n_tok) FROM ended").fetchone()
    check(requests == ends, f"{requests} requests, {ends} ends")
    rows, = db.execute("SELECT sum(n) FROM token").fetchone()
    check(rows == tokens, f"{rows} tokens in rows, {tokens} in ends")
    db.close()
    s.start_controller()


def full_disk():
    n = 900 if SCALE == 1 else 300
    with folder() as d, Service(1, durable(d, "--limit", "keepalive_ms=200")) as s:
        want = Stream(s.url, n, **SEEDED).read().check_whole(n)
        stream = Stream(s.url, n, **SEEDED)
        soft, hard = resource.prlimit(s.controller.pid, resource.RLIMIT_FSIZE)
        seen = []
        reader = threading.Thread(target=lambda: stream.read(lambda k: seen.append(k)))
        reader.start()
        wait_for("tokens", lambda: len(seen) > 50, 20, 0.001)
        resource.prlimit(s.controller.pid, resource.RLIMIT_FSIZE, (1, hard))
        wait_for("the fault shows", lambda: b"disk_full" in request(s.url, "GET", "/health")[1], 5)
        code, answer = request(s.url, "GET", "/health")
        check(code == 503, f"healthy without a store: {code} {answer}")
        code, answer, headers = post(s, body_of(4))
        check(code == 503 and b"disk_full" in answer and "Retry-After" in headers, f"{code} {answer[:200]} {headers}")
        code, answer = request(s.url, "POST", CHAT, body_of(4, deadline_ms=300))
        check(code == 503, f"accepted without a store: {code}")
        paused = len(seen)
        time.sleep(0.7 * SCALE)
        check(len(seen) == paused and reader.is_alive(), "tokens were shown that are in no store")
        resource.prlimit(s.controller.pid, resource.RLIMIT_FSIZE, (soft, hard))
        wait_for("health again", lambda: request(s.url, "GET", "/health")[0] == 200, 5)
        reader.join(60 * SCALE)
        compare(stream.check_whole(n).result(), want.result(), "over a full disk")
        check(any(t.startswith("keep-alive") for _, t in stream.comments), "no keep-alive while it waited")
        check(post(s, body_of(4))[0] == 200, "nothing is accepted afterwards")
        s.check_clean()
    return f"paused at {paused} tokens, whole at {n}"


def retention():
    with folder() as d, Service(1, durable(d, "--limit", "kept_max=5", "--limit", "prune_ms=100", "--limit",
                                           "prune_max=2")) as s:
        ids = [json.loads(post(s, body_of(2), Idempotency_Key=f"k{i}")[1])["id"] for i in range(12)]
        wait_for("old ones gone", lambda: request(s.url, "GET", f"{CHAT}/{ids[6]}")[0] == 404, 10)
        time.sleep(0.3)
        left = [i for i in ids if request(s.url, "GET", f"{CHAT}/{i}")[0] == 200]
        check(left == ids[7:], f"{len(left)} left, not the 5 newest")
        check(post(s, body_of(3), Idempotency_Key="k0")[0] == 200, "a key outlived its request")
        check(post(s, body_of(3), Idempotency_Key="k11")[0] == 409, "a key did not live as long as its request")
        s.check_clean()
    return "the 5 newest of 12 are left"


@contextlib.contextmanager
def postgres():
    """A private PostgreSQL on a Unix socket, or None where there is none."""
    import glob
    import pwd
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        yield None
        return
    bins, user = os.path.dirname(found[-1]), {}
    top = tempfile.mkdtemp(prefix="baton-pg-")
    if os.getuid() == 0:  # who may not run a server
        pw = pwd.getpwnam("postgres")
        os.chown(top, pw.pw_uid, pw.pw_gid)
        user = {"user": pw.pw_uid, "group": pw.pw_gid, "extra_groups": []}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **user}
    data, server = os.path.join(top, "data"), None
    try:
        subprocess.run([os.path.join(bins, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                        "--locale=C.UTF-8", "-N"], check=True, **quiet)
        server = subprocess.Popen([os.path.join(bins, "postgres"), "-D", data, "-k", top, "-c", "listen_addresses=",
                                   "-c", "shared_buffers=16MB"], **quiet)
        wait_for("PostgreSQL", lambda: subprocess.run([os.path.join(bins, "pg_isready"), "-h", top], **quiet)
                 .returncode == 0, 30)
        yield f"postgresql:///postgres?host={top}&user=postgres"
    finally:
        if server:
            server.send_signal(signal.SIGINT)
            server.wait(20)
        shutil.rmtree(top, ignore_errors=True)


def on_postgres():
    with postgres() as url:
        if not url:
            return "skipped: no PostgreSQL server here (package postgresql)"
        with Service(1, ["--store", url]) as s:
            away = kill_at_every_token(s, range(0, 64, 9))
            check(status(s.url)["store"]["kind"] == "postgresql", "another store")
            # A standby waits for the store; when the leader dies it has everything.
            standby = s._controller("0", "tcp://127.0.0.1:*", "--standby")
            s.gone.append(standby)
            whole = Stream(s.url, 40, headers={"Idempotency-Key": "lead"}, **SEEDED).read().check_whole(40)
            check(not any(line.startswith("ready ") for line in standby.out), "two leaders")
            began = time.monotonic()
            s.kill_controller()
            url = standby.line("ready ", 10).split()[1]
            took = time.monotonic() - began
            check(took < 5 * SCALE, f"take-over after {took:.1f} s")
            again = Stream(url, 40, headers={"Idempotency-Key": "lead"}, **SEEDED).read()
            check(again.raw == whole.raw, "the standby replays other bytes")
            standby.send(signal.SIGTERM)
            check(standby.wait() == 0, "the standby did not end well")
            s.start_controller()
            s.check_clean()
    return f"{len(away)} kills, ready after at most {max(away) * 1000:.0f} ms; standby after {took * 1000:.0f} ms"


if __name__ == "__main__":
    main(every_token, resume, keys, detached, many, full_disk, retention, on_postgres)
