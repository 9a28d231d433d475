#!/usr/bin/env python3
"""Proves: a run of a pipeline survives anything, and takes each step's effect once. Real controller, real workers, real
SQLite, tools that append their effect token to a file.

  kill       4 runs (tool, map of generations and tools, retry, join) and SIGKILL of the controller at a random moment,
             with the worker in every third trial, BATON_TRIALS times: all runs end, with the outputs and usage of an
             undisturbed run; no tool is run again once its result was committed, whatever runs again does so with the
             same token, so that a tool which looks at its token takes effect once
  graceful   SIGTERM in the middle of a run: the next process goes on with it
  waits      an approval and a timer outlive the controller; a wrong token, no answer in time, a no
  cancel     a running tool and all it has started are gone, a generation is canceled, the run says so
  again      retry takes over what was done, fork what stands before a step; nothing of it is run again
  events     every event of a run, from every event on, byte for byte, while it runs, afterwards and after a restart
  wrong      bad files, inputs, ids, methods, origins: 4xx with the field; Idempotency-Key joins, replays, conflicts
  retention  old runs are forgotten
  openapi    what is served is what docs/openapi.json says
  command    baton run and baton runs, their exit codes, Ctrl-C
"""
import collections
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from harness import ROOT, SCALE, Failure, Process, Service, binary, check, in_parallel, main, wait_for

TRIALS = int(os.environ.get("BATON_TRIALS", "12"))


@contextlib.contextmanager
def service(workers=1, args=()):
    path = tempfile.mkdtemp(prefix="baton-runs-")
    try:
        with Service(workers, ["--store", os.path.join(path, "store.db"), *args]) as s:
            s.path = path
            yield s
    finally:
        shutil.rmtree(path, ignore_errors=True)


def ask(s, method, path, body=None, headers=None, seconds=60):
    """(status, parsed answer, headers). body: an object, or text as it is."""
    c = http.client.HTTPConnection(s.url.removeprefix("http://"), timeout=seconds * SCALE)
    try:
        text = body if isinstance(body, (str, bytes)) or body is None else json.dumps(body)
        c.request(method, path, text, {"Content-Type": "application/json", **(headers or {})})
        r = c.getresponse()
        data = r.read()
        return r.status, json.loads(data) if data else None, r.headers
    finally:
        c.close()


def start(s, pipeline, inputs=None, **more):
    status, run, _ = ask(s, "POST", "/v1/runs", {"pipeline": pipeline, "inputs": inputs or {}, **more})
    check(status == 201, f"POST /v1/runs: {status} {run}")
    return run["id"]


def get(s, run, steps="all"):
    status, answer, _ = ask(s, "GET", f"/v1/runs/{run}?steps={steps}")
    check(status == 200, f"GET {run}: {status} {answer}")
    return answer


def ended(s, run, seconds=60):
    def over():
        try:
            answer = get(s, run, "none")
        except (ConnectionError, http.client.HTTPException, TimeoutError):
            return None
        return answer if answer["state"] != "running" else None
    wait_for(f"the end of {run}", over, seconds, 0.02)
    return get(s, run)


def events_text(s, run, last=None, stop_after=None, seconds=60):
    """The bytes of the event stream without comments; stop_after: so many events."""
    c = http.client.HTTPConnection(s.url.removeprefix("http://"), timeout=seconds * SCALE)
    try:
        c.request("GET", f"/v1/runs/{run}/events", headers={"Last-Event-ID": last} if last else {})
        r = c.getresponse()
        check(r.status == 200, f"events: {r.status}")
        check(r.headers["Content-Type"].startswith("text/event-stream"), "content type of events")
        out, n = [], 0
        for line in r:
            if line.startswith((b":", b"retry:")):
                continue
            out.append(line)
            n += line.startswith(b"data:")
            if stop_after and n == stop_after and line == b"\n":
                break
        return b"".join(out).strip(b"\n") + b"\n\n"
    finally:
        c.close()


def split_events(text):
    """[(id, object)], each event checked for its form."""
    out = []
    for block in text.decode().split("\n\n"):
        if not block.strip():
            continue
        m = re.fullmatch(r"id: (\S+)\ndata: (.*)", block.strip("\n"))
        check(m, f"an event that is none: {block!r}")
        out.append((m[1], json.loads(m[2])))
    return out


# ---- kill ----

def effect(path, ms=0):
    """A command that appends "token milliseconds" to a file, takes its time and answers."""
    sleep = f"/bin/sleep {ms / 1000}; " if ms else ""
    return ["/bin/sh", "-c", f'echo "$BATON_EFFECT_TOKEN $(/bin/date +%s%3N)" >> {path}; {sleep}'
                             'echo "{\\"step\\": \\"$BATON_STEP\\"}"']


def work_pipeline(log):
    return {
        "pipeline": "work", "inputs": {"docs": {"type": "array"}}, "limits": {"max_parallel": 6},
        "steps": [
            {"id": "first", "tool": {"command": effect(log, 10)}},
            {"id": "flaky", "needs": [], "retry": {"max": 3, "base_ms": 5, "max_ms": 20},
             "tool": {"command": ["/bin/sh", "-c", f'echo "$BATON_EFFECT_TOKEN $(/bin/date +%s%3N)" >> {log}; '
                                                   '[ "$BATON_ATTEMPT" -ge 2 ] || exit 75; echo 7']}},
            {"id": "each", "needs": ["first"], "map": {
                "over": "{{ inputs.docs }}", "as": "doc", "max_parallel": 3, "steps": [
                    {"id": "say", "generate": {"prompt": "about {{ doc }}", "max_tokens": 12, "temperature": 1,
                                               "seed": 11, "thinking": False}},
                    {"id": "note", "tool": {"command": effect(log, 5)}}],
                "result": {"doc": "{{ doc }}", "said": "{{ steps.say.output }}", "i": "{{ index }}"}}},
            {"id": "pause", "wait": {"ms": 30}},
            {"id": "last", "needs": ["pause", "flaky"], "tool": {"command": effect(log)}},
        ],
        "result": {"each": "{{ steps.each.output }}", "flaky": "{{ steps.flaky.output }}",
                   "last": "{{ steps.last.output.step }}"},
    }


DOCS = ["rivers", "stones", "birds", "clouds", "roads"]
RUNS = 4


def kill_once(s, rng, log, want, span, with_worker):
    runs = in_parallel(RUNS, lambda _: start(s, work_pipeline(log), {"docs": DOCS}))
    time.sleep(rng.uniform(0, span))
    s.kill_controller()
    if with_worker:
        s.kill("w0")
        s.workers["w0"].wait()
    s.start_controller()
    if with_worker:
        s.start_worker("w0", wait=False)
    again = 0
    executions = collections.defaultdict(list)
    answers = [ended(s, run) for run in runs]
    for line in open(log):
        token, ms = line.split()
        executions[token].append(int(ms))
    for run, answer in zip(runs, answers):
        check(answer["state"] == "done", f"{run}: {answer['state']} {answer['error']}")
        check(answer["output"] == want["output"], f"{run}: output {answer['output']}, undisturbed {want['output']}")
        # What a worker's prefix cache had differs from life to life; what was computed for the client does not.
        got, expected = ({k: v for k, v in u.items() if k != "cached_tokens"} for u in (answer["usage"], want["usage"]))
        check(got == expected, f"{run}: usage {got}, undisturbed {expected}")
        done = {}
        for _, e in split_events(events_text(s, run)):
            if e.get("state") == "done" and e["type"] == "step":
                check(e["path"] not in done, f"{run}: {e['path']} is done twice")
                done[e["path"]] = e["at_ms"]
        tools = ["first", "flaky", "last"] + [f"each[{i}].note" for i in range(len(DOCS))]
        for path in tools:
            times = executions.pop(f"{run}:{path}", [])
            attempts = 2 if path == "flaky" else 1
            check(len(times) >= attempts, f"{run}: {path} was run {len(times)} times")
            check(max(times) <= done[path], f"{run}: {path} was run at {max(times)}, its result is of {done[path]}")
            again += len(times) - attempts
    check(not executions, f"effects of nobody: {list(executions)[:3]}")
    os.unlink(log)
    return again


def kill():
    seed = int(os.environ.get("BATON_SEED", time.time_ns() % 10**9))
    rng = random.Random(seed)
    with service(workers=1) as s:
        log = os.path.join(s.path, "effects")
        began = time.monotonic()
        want = ended(s, start(s, work_pipeline(log), {"docs": DOCS}))
        check(want["state"] == "done", f"undisturbed: {want['error']}")
        span = (time.monotonic() - began) * 1.5
        os.unlink(log)
        again = 0
        for i in range(max(3, int(TRIALS / SCALE))):
            try:
                again += kill_once(s, rng, log, want, span, i % 3 == 2)
            except Failure as e:
                raise Failure(f"trial {i} of seed {seed}: {e}") from None
        return (f"{i + 1} kills, {RUNS * (i + 1)} runs, {again} tools run again for want of a committed result; "
                f"seed {seed}")


def graceful():
    with service(workers=1) as s:
        log = os.path.join(s.path, "effects")
        run = start(s, work_pipeline(log), {"docs": DOCS})
        wait_for("the map", lambda: any(x["path"] == "each" for x in get(s, run)["steps"]), 20, 0.01)
        s.controller.send(signal.SIGTERM)
        code = s.controller.wait(30)
        check(code == 0, f"the controller ended with {code}:\n" + "\n".join(s.controller.err[-10:]))
        s.gone.append(s.controller)
        s.start_controller()
        answer = ended(s, run)
        check(answer["state"] == "done", f"{answer['state']}: {answer['error']}")
        lines = [line.split()[0] for line in open(log)]
        twice = [t for t, n in collections.Counter(lines).items() if n > (2 if t.endswith(":flaky") else 1)]
        check(not twice, f"run twice: {twice}")
        s.check_clean()


# ---- waits ----

def waiting_token(s, run, path="may"):
    def token():
        step = next((x for x in get(s, run)["steps"] if x["path"] == path and x["state"] == "waiting"), None)
        return step and step["result"].get("token")
    return wait_for(f"{run} to wait", token, 20, 0.01)


def waits():
    pipeline = {"pipeline": "p", "steps": [{"id": "may", "wait": {"approval": "go on?", "show": {"n": 3}}},
                                           {"id": "say", "join": "{{ steps.may.output.comment }}"}]}
    with service(workers=0) as s:
        run = start(s, pipeline)
        timer = start(s, {"pipeline": "t", "steps": [{"id": "w", "wait": {"ms": int(1500 * SCALE)}}]})
        token = waiting_token(s, run)
        status, answer, _ = ask(s, "POST", f"/v1/runs/{run}/approve", {"token": "0" * 32})
        check(status == 400 and answer["error"]["param"] == "token", f"a wrong token: {status} {answer}")
        s.kill_controller()
        s.start_controller()
        check(waiting_token(s, run) == token, "another token after the restart")
        status, answer, _ = ask(s, "POST", f"/v1/runs/{run}/approve", {"token": token, "comment": "fine"})
        check(status == 200, f"approve: {status} {answer}")
        check(ended(s, run)["output"] == "fine", "output of the approved run")
        status, answer, _ = ask(s, "POST", f"/v1/runs/{run}/approve", {"token": token})
        check(status == 409, f"a second yes: {status} {answer}")
        answer = ended(s, timer)
        took = answer["ended_ms"] - answer["created_ms"]
        check(answer["state"] == "done" and took >= 1500 * SCALE, f"the timer: {answer['state']} after {took} ms")

        no = start(s, pipeline)
        ask(s, "POST", f"/v1/runs/{no}/approve", {"token": waiting_token(s, no), "approved": False, "comment": "nope"})
        answer = ended(s, no)
        check(answer["state"] == "failed" and "nope" in answer["error"], f"a no: {answer['error']}")
        late = start(s, {"pipeline": "p", "steps": [{"id": "may", "timeout_ms": 200, "wait": {"approval": "?"}}]})
        answer = ended(s, late)
        check(answer["state"] == "failed" and "timeout" in answer["error"], f"nobody: {answer['error']}")
        s.check_clean()


# ---- cancel ----

def processes_with(text):
    out = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if text in open(f"/proc/{pid}/cmdline").read():
                out.append(int(pid))
    return out


def cancel():
    mark = f"86{random.randrange(10**6, 10**7)}"
    with service(workers=1) as s:
        run = start(s, {"pipeline": "p", "steps": [
            {"id": "slow", "tool": {"command": ["/bin/sh", "-c", f"/bin/sleep {mark} & /bin/sleep {mark}"]}},
            {"id": "long", "needs": [], "generate": {"prompt": "x", "max_tokens": 30000, "temperature": 0}}]})
        wait_for("the tool", lambda: len(processes_with(mark)) >= 2, 20, 0.01)
        status, answer, _ = ask(s, "POST", f"/v1/runs/{run}/cancel")
        check(status == 200 and answer["state"] == "canceled", f"cancel: {status} {answer}")
        wait_for("the tool to be gone", lambda: not processes_with(mark), 10, 0.02)
        wait_for("the generation to be gone", lambda: all(w["assigned"] == 0 for w in s.rows()), 10, 0.02)
        states = {x["path"]: x["state"] for x in get(s, run)["steps"]}
        check(states["slow"] == "canceled", f"states {states}")
        status, answer, _ = ask(s, "POST", f"/v1/runs/{run}/cancel")
        check(status == 409, f"a second cancel: {status}")
        s.kill_controller()
        s.start_controller()
        check(get(s, run)["state"] == "canceled", "after a restart")
        time.sleep(0.2)
        check(not processes_with(mark), "the canceled tool runs again")
        s.check_clean()


# ---- again ----

def again():
    with service(workers=0) as s:
        log, gate = os.path.join(s.path, "effects"), os.path.join(s.path, "gate")
        run = start(s, {"pipeline": "p", "inputs": {"l": {"type": "array"}}, "steps": [
            {"id": "a", "tool": {"command": effect(log)}},
            {"id": "m", "map": {"over": "{{ inputs.l }}", "max_parallel": 1, "steps": [
                {"id": "x", "tool": {"command": ["/bin/sh", "-c", f'[ -e {gate} -o "$1" != 2 ] || exit 3; '
                                                 f'echo "$BATON_EFFECT_TOKEN 0" >> {log}; echo $1',
                                                 "x", "{{ item }}"]}}]}},
            {"id": "b", "tool": {"command": effect(log)}}],
            "result": "{{ steps.m.output }}"}, {"l": [1, 2, 3]})
        answer = ended(s, run)
        check(answer["state"] == "failed" and "m[1].x: tool: " in answer["error"], f"{answer['error']}")
        open(gate, "w").close()
        status, new, _ = ask(s, "POST", f"/v1/runs/{run}/retry")
        check(status == 201 and new["parent"] == run, f"retry: {status} {new}")
        answer = ended(s, new["id"])
        check(answer["state"] == "done" and answer["output"] == [1, 2, 3], f"{answer}")
        tokens = [line.split()[0].split(":", 1) for line in open(log)]
        check(tokens == [[run, "a"], [run, "m[0].x"], [new["id"], "m[1].x"], [new["id"], "m[2].x"], [new["id"], "b"]],
              f"effects {tokens}")
        status, error, _ = ask(s, "POST", f"/v1/runs/{new['id']}/retry")
        check(status == 409, f"retry of a run that is done: {status}")
        status, fork, _ = ask(s, "POST", f"/v1/runs/{new['id']}/fork", {"from_step": "b"})
        check(status == 201, f"fork: {status} {fork}")
        check(ended(s, fork["id"])["output"] == [1, 2, 3], "output of the fork")
        tokens = [line.split()[0] for line in open(log)][5:]
        check(tokens == [f"{fork['id']}:b"], f"effects of the fork {tokens}")
        s.kill_controller()
        s.start_controller()
        check(get(s, fork["id"])["output"] == [1, 2, 3], "the fork after a restart")
        status, error, _ = ask(s, "POST", f"/v1/runs/{run}/fork", {"from_step": "x"})
        check(status == 400 and error["error"]["param"] == "from_step", f"an inner step: {status} {error}")
        s.check_clean()


# ---- events ----

def events():
    with service(workers=0) as s:
        log = os.path.join(s.path, "effects")
        pipeline = {"pipeline": "p", "steps": [
            {"id": "m", "map": {"over": [1, 2, 3, 4, 5, 6], "max_parallel": 2, "steps": [
                {"id": "x", "tool": {"command": effect(log, 30)}}]}},
            {"id": "big", "join": "{{ steps.m.output | json }}" + "x" * 3000}]}
        run = start(s, pipeline)
        live = events_text(s, run)  # from its beginning to its end
        parts = split_events(live)
        check([e["seq"] for _, e in parts] == list(range(len(parts))), "numbers of events")
        check(parts[0][1]["type"] == "run" and parts[-1][1]["type"] == "run_end", "first and last event")
        check(parts[-1][1]["state"] == "done", f"{parts[-1]}")
        check(parts[-2][1]["result_bytes"] > 3000 and "result" not in parts[-2][1], "a long result is told by its size")
        check(events_text(s, run) == live, "events of the finished run differ")
        s.kill_controller()
        s.start_controller()
        check(events_text(s, run) == live, "events after a restart differ")
        for i, (event_id, _) in enumerate(parts[:-1]):
            rest = live[live.index(b"id: " + parts[i + 1][0].encode() + b"\n"):]
            check(events_text(s, run, event_id) == rest, f"events behind {event_id}")
        # Cut off while it runs, again and again, over a death of the controller.
        run, got, last, n = start(s, pipeline), b"", None, 0
        while not got or split_events(got)[-1][1]["type"] != "run_end":
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                got += events_text(s, run, last, stop_after=3)
                last = split_events(got)[-1][0]
            n += 1
            if n == 3:
                s.kill_controller()
                s.start_controller()
        check(events_text(s, run) == got, "the pieces are not the whole")
        status, error, _ = ask(s, "GET", f"/v1/runs/{run}/events", headers={"Last-Event-ID": "run_x-1"})
        check(status == 409, f"an id of another run: {status}")
        s.check_clean()


# ---- wrong ----

def wrong():
    good = {"pipeline": "p", "inputs": {"n": {"type": "integer"}}, "steps": [{"id": "a", "join": "{{ inputs.n }}"}]}
    with service(workers=0) as s:
        def refused(status, param, body, method="POST", path="/v1/runs", headers=None, word=""):
            got, answer, _ = ask(s, method, path, body, headers)
            check(got == status, f"{method} {path} {body}: {got} {answer}, expected {status}")
            error = answer["error"]
            check(error["param"] == param and word in error["message"], f"{body}: {error}, expected {param}, '{word}'")

        refused(400, "pipeline", {"pipeline": "pipeline: p\nsteps:\n- id: a\n  joyn: 1\n"}, word="4: ")
        refused(400, "pipeline", {"pipeline": "pipeline: p\nsteps:\n- {id: a, needs: [b], join: 1}\n"
                                              "- {id: b, needs: [a], join: 1}\n"}, word="wait for each other")
        refused(400, "pipeline", {"pipeline": "pipeline: p\nsteps:\n- {id: a, join: '{{ steps.b.output }}'}\n"},
                word="'b'")
        refused(400, "pipeline", {"pipeline": 7})
        refused(400, "pipeline", {})
        refused(400, "inputs", {"pipeline": good}, word="n")
        refused(400, "inputs", {"pipeline": good, "inputs": {"n": "x"}}, word="n")
        refused(400, "inputs", {"pipeline": good, "inputs": {"n": 1, "m": 2}}, word="m")
        refused(400, "inputs", {"pipeline": good, "inputs": [1]})
        refused(400, "wait", {"pipeline": good, "inputs": {"n": 1}, "wait": "yes"})
        refused(400, "dir", {"pipeline": good, "inputs": {"n": 1}, "dir": "here"})
        refused(400, "x", {"pipeline": good, "inputs": {"n": 1}, "x": 1})
        refused(400, None, "{", word="JSON")
        refused(400, None, "[]", word="object")
        refused(400, None, {"pipeline": good, "inputs": {"n": 1}}, headers={"Content-Type": "text/plain"},
                word="Content-Type")
        refused(400, None, {"pipeline": good, "inputs": {"n": 1}}, headers={"Origin": "http://evil.example"},
                word="origin")
        refused(400, None, {"pipeline": good, "inputs": {"n": 1}}, headers={"Idempotency-Key": ""},
                word="Idempotency-Key")
        refused(404, None, None, "GET", "/v1/runs/run_none")
        refused(404, None, None, "GET", "/v1/runs/run_none/events")
        refused(404, None, None, "POST", "/v1/runs/run_none/cancel")
        refused(404, None, None, "POST", "/v1/runs/run_none/retry")
        refused(404, None, None, "POST", "/v1/runs/run_none/frobnicate")
        refused(404, None, None, "GET", "/v1/runs/run_none/what")
        refused(405, None, None, "DELETE", "/v1/runs")
        refused(400, "limit", None, "GET", "/v1/runs?limit=0")
        refused(400, "steps", None, "GET", "/v1/runs/run_none?steps=some")
        refused(400, "token", {}, path="/v1/runs/run_none/approve")
        refused(400, "from_step", {}, path="/v1/runs/run_none/fork")
        keys(s, good)
        s.check_clean()


def keys(s, good):
    body = {"pipeline": good, "inputs": {"n": 1}}
    answers = in_parallel(8, lambda _: ask(s, "POST", "/v1/runs", body, {"Idempotency-Key": "k1"}))
    check(len({a[1]["id"] for a in answers}) == 1, "several runs of one key")
    check(sorted(a[0] for a in answers) == [200] * 7 + [201], f"{[a[0] for a in answers]}")
    run = answers[0][1]["id"]
    ended(s, run)
    for _ in range(2):
        status, answer, headers = ask(s, "POST", "/v1/runs", body, {"Idempotency-Key": "k1"})
        check(status == 200 and answer["id"] == run and answer["output"] == 1, f"replay: {status} {answer}")
        check(headers["Idempotency-Replayed"] == "true", "no Idempotency-Replayed")
        s.kill_controller()
        s.start_controller()
    body["inputs"]["n"] = 2
    status, answer, _ = ask(s, "POST", "/v1/runs", body, {"Idempotency-Key": "k1"})
    check(status == 409, f"another body: {status}")
    status, answer, _ = ask(s, "POST", "/v1/runs", body, {"Idempotency-Key": "k1", "Authorization": "Bearer other"})
    check(status == 201, f"another tenant: {status}")
    check(ask(s, "GET", f"/v1/runs/{answer['id']}")[0] == 404, "a run of another tenant is shown")
    check(all(r["id"] != answer["id"] for r in ask(s, "GET", "/v1/runs")[1]["data"]), "and listed")
    status, answer, _ = ask(s, "POST", "/v1/runs", {**body, "wait": True})
    check(status == 201 and answer["state"] == "done" and answer["output"] == 2, f"wait: {status} {answer}")


# ---- retention ----

def retention():
    with service(workers=0, args=["--limit", "run_keep_max=3"]) as s:
        pipeline = {"pipeline": "p", "steps": [{"id": "a", "join": 1}]}
        ids = [start(s, pipeline) for _ in range(7)]
        listed = [r["id"] for r in ask(s, "GET", "/v1/runs?limit=2")[1]["data"]]
        check(listed == ids[:-3:-1], f"newest first: {listed}")
        page = ask(s, "GET", f"/v1/runs?limit=2&before={listed[-1]}")[1]
        check([r["id"] for r in page["data"]] == ids[-3:-5:-1] and page["has_more"], f"the next page {page}")
        wait_for("old runs to go", lambda: len(ask(s, "GET", "/v1/runs?limit=100")[1]["data"]) == 3, 30, 0.1)
        check(ask(s, "GET", f"/v1/runs/{ids[0]}")[0] == 404, "a forgotten run")
        check(get(s, ids[-1])["state"] == "done", "the newest run")
        s.check_clean()


# ---- openapi ----

def fits(schema, value, where, spec):
    """The part of JSON Schema that docs/openapi.json uses."""
    if "$ref" in schema:
        return fits(spec["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], value, where, spec)
    types = schema.get("type")
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
             "null": type(None)}
    if types:
        types = types if isinstance(types, list) else [types]
        check(any(isinstance(value, kinds[t]) and not (t == "integer" and isinstance(value, bool)) for t in types),
              f"{where}: {value!r} is no {types}")
    check("enum" not in schema or value in schema["enum"], f"{where}: {value!r} is none of {schema.get('enum')}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for name in schema.get("required", []):
            check(name in value, f"{where}: {name} is missing")
        for name, v in value.items():
            if name in known:
                fits(known[name], v, f"{where}.{name}", spec)
            else:
                check(schema.get("additionalProperties", True) is not False, f"{where}: {name} is not described")
    if isinstance(value, list) and "items" in schema:
        for i, v in enumerate(value):
            fits(schema["items"], v, f"{where}[{i}]", spec)


def openapi():
    spec = json.load(open(os.path.join(ROOT, "docs", "openapi.json")))
    seen = set()
    with service(workers=0) as s:
        def call(method, path, template, body=None, headers=None):
            status, answer, got = ask(s, method, path, body, headers)
            operation = spec["paths"][template][method.lower()]
            check(str(status) in operation["responses"], f"{method} {template}: {status} is not described")
            content = operation["responses"][str(status)]["content"]["application/json"]["schema"]
            fits(content, answer, f"{method} {template} {status}", spec)
            if body and status < 300:
                fits(operation["requestBody"]["content"]["application/json"]["schema"], body, f"{template} body", spec)
            seen.add((method.lower(), template))
            return answer

        one = "/v1/runs/{id}"
        waits_for = {"pipeline": "p", "steps": [{"id": "a", "join": {"x": 1}},
                                                {"id": "may", "wait": {"approval": "?"}}]}
        body = {"pipeline": waits_for, "inputs": {}}
        run = call("POST", "/v1/runs", "/v1/runs", body, {"Idempotency-Key": "a"})["id"]
        call("POST", "/v1/runs", "/v1/runs", {"pipeline": waits_for, "inputs": {}}, {"Idempotency-Key": "a"})
        call("POST", "/v1/runs", "/v1/runs", {"pipeline": waits_for, "inputs": {"x": 1}}, {"Idempotency-Key": "a"})
        call("POST", "/v1/runs", "/v1/runs", {"pipeline": 1})
        token = waiting_token(s, run)
        call("GET", "/v1/runs", "/v1/runs")
        call("GET", f"/v1/runs/{run}", one)
        call("GET", f"/v1/runs/{run}?steps=all", one)
        call("GET", "/v1/runs/nobody", one)
        call("POST", f"/v1/runs/{run}/approve", one + "/approve", {"token": "x"})
        call("POST", f"/v1/runs/{run}/approve", one + "/approve", {"token": token, "step": "may", "approved": False})
        ended(s, run)
        call("GET", f"/v1/runs/{run}?steps=all", one)
        call("POST", f"/v1/runs/{run}/retry", one + "/retry")
        other = call("POST", f"/v1/runs/{run}/fork", one + "/fork", {"from_step": "a"})["id"]
        call("POST", f"/v1/runs/{other}/cancel", one + "/cancel")
        call("POST", f"/v1/runs/{other}/cancel", one + "/cancel")
        event = spec["components"]["schemas"]["Event"]
        for _, e in split_events(events_text(s, run)):
            fits(event, e, "event", spec)
        seen.add(("get", one + "/events"))
        described = {(m, p) for p, item in spec["paths"].items() for m in item if m in ("get", "post", "delete", "put")}
        check(described == seen, f"described and not tried: {described - seen}")
        s.check_clean()


# ---- command ----

def command():
    with service(workers=0) as s:
        def baton(*args):
            return subprocess.run([binary("baton"), *args], capture_output=True, text=True, timeout=60 * SCALE,
                                  env=dict(os.environ, BATON_URL=s.url))
        good, bad = os.path.join(s.path, "good.yaml"), os.path.join(s.path, "bad.yaml")
        with open(good, "w") as f:
            f.write("pipeline: good\ninputs:\n  n: {type: integer}\n  t: {type: string, default: x}\n"
                    "  l: {type: array, default: []}\n"
                    "steps:\n- id: may\n  when: inputs.n > 5\n  wait: {approval: 'go on?'}\n"
                    "- id: a\n  join: {n: '{{ inputs.n }}', t: '{{ inputs.t }}', l: '{{ inputs.l }}'}\n")
        with open(bad, "w") as f:
            f.write("pipeline: bad\nsteps:\n- id: a\n  tool: {command: [/bin/sh, -c, 'exit 3']}\n")
        lines = os.path.join(s.path, "l.jsonl")
        with open(lines, "w") as f:
            f.write('{"a": 1}\n\n2\n')
        r = baton("run", good, "--input", "n=3", "--input", "t=7", "--input", f"l=@{lines}")
        check(r.returncode == 0, f"{r}")
        events = [json.loads(line) for line in r.stdout.splitlines()]
        check(events[-1]["type"] == "run_end", f"{r}")
        check(events[-1]["output"] == {"n": 3, "t": "7", "l": [{"a": 1}, 2]}, f"{r}")
        r = baton("run", bad)
        check(r.returncode == 1 and "ended as failed" in r.stderr, f"{r}")
        r = baton("run", good)
        check(r.returncode == 1 and "n" in r.stderr, f"{r}")
        r = baton("run", good, "--check")
        check(r.returncode == 0, f"{r}")
        r = baton("run", os.path.join(s.path, "none.yaml"))
        check(r.returncode == 1 and "none.yaml" in r.stderr, f"{r}")
        r = baton("runs", "list", "--json")
        check(r.returncode == 0 and len(json.loads(r.stdout)["data"]) == 2, f"{r}")

        # Ctrl-C leaves it running and says what to do.
        p = Process("baton run", [binary("baton"), "run", good, "--input", "n=9"], {"BATON_URL": s.url})
        try:
            run = json.loads(p.line('{"seq":0'))["run"]
            token = waiting_token(s, run)
            p.send(signal.SIGINT)
            code = p.wait(10)
            check(code == 1 and any("goes on" in line and run in line for line in p.err), f"{code} {p.err}")
        finally:
            p.end()
        check(get(s, run)["state"] == "running", "Ctrl-C ended the run")
        r = baton("runs", "show", run)
        check(token in r.stdout, f"{r}")
        r = baton("runs", "approve", run, "--token", "0" * 32)
        check(r.returncode == 1, f"{r}")
        tail = Process("baton runs tail", [binary("baton"), "runs", "tail", run], {"BATON_URL": s.url})
        try:
            tail.line('{"seq":0')
            s.kill_controller()
            s.start_controller()  # the tail finds it again
            r = baton("runs", "approve", run, "--token", token)
            check(r.returncode == 0, f"{r}")
            check(tail.wait(30) == 0, f"tail: {tail.err}")
            seqs = [json.loads(line)["seq"] for line in tail.out]
            check(seqs == list(range(len(seqs))), f"numbers {seqs}")
        finally:
            tail.end()
        r = baton("runs", "fork", run, "--from", "a")
        check(r.returncode == 0, f"{r}")
        r = baton("runs", "cancel", run)
        check(r.returncode == 1 and "409" in r.stderr, f"{r}")
        r = baton("runs", "show", "no/such")
        check(r.returncode == 2, f"{r}")
        s.check_clean()


if __name__ == "__main__":
    main(kill, graceful, waits, cancel, again, events, wrong, retention, openapi, command)
