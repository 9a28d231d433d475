#!/usr/bin/env python3
"""Proves: whatever is killed, streams and pipelines come out as if nothing had been. Real controller, two real workers,
a real SQLite store, tools that append their effect token to a file.

One trial: 16 streams (greedy and seeded, Idempotency-Key, Last-Event-ID) and 4 pipelines (generation, map of a
generation and a tool, join, second generation over the earlier results, tool) at once; SIGKILL of the controller, of a
worker or of both at a random moment, sometimes once more (also while it recovers); restart; clients come back. Then:
streams whole and equal to the undisturbed ones, event by event; runs done, with output, results and usage of the
undisturbed ones, their events in order and each once; of every tool step the effect is there, of nobody else one; once
exactly where its `done` row was committed before the first kill, where no controller was killed, and where the tool
looks at its token (two of the four runs); no other process left, nothing left running. At the end the store's rows are
added up.

  both    BATON_TRIALS trials, taking turns between the small checkpoint on back end cpu and `--engine sim`
"""
import collections
import contextlib
import ctypes
import http.client
import json
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import threading
import time

from durable import folder, one_of_many
from harness import SCALE, Failure, Service, alive, check, descendants, in_parallel, main, status, wait_for
from runs import ask, split_events

N_STREAM, N_RUN, N_TOKEN = 16, 4, 32
DOCS = ["rivers", "stones", "birds", "clouds"]
TOOLS = [f"each[{i}].note" for i in range(len(DOCS))] + ["last"]
ENGINES = {
    "cpu": ([], ["--backend", "cpu", "--threads", "1", "--max-seqs", "12"], {}),
    "sim": (["--engine", "sim", "--model-name", "mock"], ["--engine", "sim", "--sim-itl-us", "6000"],
            {"model": "mock"}),
}
PR_SET_CHILD_SUBREAPER = 36


def effect(log, once):
    """A command that appends its effect token to a file, and answers with what it was given. once: it looks first."""
    append = f'echo "$BATON_EFFECT_TOKEN" >> {log}'
    if once:
        known = f'grep -qxF "$BATON_EFFECT_TOKEN" {log} 2>/dev/null'
        append = f'exec 9>>{log}.lock; flock 9; {known} || {append}; exec 9>&-'
    return ["/bin/sh", "-c", f'{append}; echo "{{\\"step\\": \\"$BATON_STEP\\", \\"sum\\": \\"$(cksum)\\"}}"']


def pipeline(log, once):
    say = {"max_tokens": 10, "thinking": False}
    return {
        "pipeline": "trial", "inputs": {"topic": "string", "docs": {"type": "array"}}, "limits": {"max_parallel": 6},
        "steps": [
            {"id": "plan", "generate": {"prompt": "Plan {{ inputs.topic }}", "temperature": 0, **say}},
            {"id": "each", "map": {"over": "{{ inputs.docs }}", "as": "doc", "max_parallel": 3, "steps": [
                {"id": "say", "generate": {"prompt": "About {{ doc }}: {{ steps.plan.output }}", "temperature": 1,
                                           "seed": 11, **say}},
                {"id": "note", "tool": {"command": effect(log, once), "stdin": {"said": "{{ steps.say.output }}"}}}],
                "result": {"said": "{{ steps.say.output }}", "note": "{{ steps.note.output }}", "i": "{{ index }}"}}},
            {"id": "all", "join": {"said": "{{ steps.each.output | pluck('said') }}"}},
            {"id": "final", "generate": {"prompt": "Sum up {{ steps.all.output | json }}", "temperature": 1, "seed": 12,
                                         **say}},
            {"id": "last", "tool": {"command": effect(log, once), "stdin": "{{ steps.final.output }}"}}],
        "result": {"plan": "{{ steps.plan.output }}", "each": "{{ steps.each.output }}",
                   "final": "{{ steps.final.output }}", "last": "{{ steps.last.output }}"},
    }


# ---- clients ----

class Run:
    """A run and who follows it: both come back until all is there."""

    def __init__(self, s, i, name, log):
        self.s, self.i, self.once = s, i, i >= N_RUN // 2
        self.log = log + (".once" if self.once else "")
        self.key, self.id, self.text, self.last = f"{name}-run{i}", None, b"", None
        self.end = time.monotonic() + 60 * SCALE

    def follow(self):
        """Until the last event has come. Returns itself."""
        while True:
            check(time.monotonic() < self.end, f"run {self.i} ({self.id}): not over after 60 s")
            try:
                if self.id is None:
                    self.start()
                if self.read():
                    return self
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.02)

    def start(self):
        body = {"pipeline": pipeline(self.log, self.once), "inputs": {"topic": f"number {self.i}", "docs": DOCS}}
        code, answer, _ = ask(self.s, "POST", "/v1/runs", body, {"Idempotency-Key": self.key})
        if code == 503:
            raise ConnectionError
        check(code in (200, 201), f"POST /v1/runs: {code} {answer}")
        self.id = answer["id"]

    def read(self):
        c = http.client.HTTPConnection(self.s.url.removeprefix("http://"), timeout=60 * SCALE)
        try:
            c.request("GET", f"/v1/runs/{self.id}/events", headers={"Last-Event-ID": self.last} if self.last else {})
            r = c.getresponse()
            if r.status == 503:
                raise ConnectionError
            check(r.status == 200, f"events of {self.id}: {r.status}")
            part = []
            for line in r:
                if line.startswith((b":", b"retry:")):
                    continue
                part.append(line)
                if line == b"\n" and len(part) > 1:  # an event is there when it is whole
                    self.text += b"".join(part)
                    self.last = part[0].decode().removeprefix("id: ").strip()
                    if b'"type":"run_end"' in part[1]:
                        return True
                if line == b"\n":
                    part = []
            return False
        finally:
            c.close()


def result_of(run):
    """What must be equal between an undisturbed run and any other."""
    code, answer, _ = ask(run.s, "GET", f"/v1/runs/{run.id}?steps=all")
    check(code == 200 and answer["state"] == "done", f"{run.id}: {code} {answer.get('state')} {answer.get('error')}")
    events = split_events(run.text)
    numbers = [e["seq"] for _, e in events]
    check(numbers == list(range(len(numbers))), f"{run.id}: event numbers {numbers}")
    check([i for i, _ in events] == [f"{run.id}-{n}" for n in numbers], f"{run.id}: ids of events")
    rows = collections.Counter((e.get("path"), e.get("attempt"), e["type"], e.get("state")) for _, e in events)
    check(max(rows.values()) == 1, f"{run.id}: told twice: {rows.most_common(2)}")
    # What is cached depends on the worker that was chosen.
    usage = {k: v for k, v in answer["usage"].items() if k != "cached_tokens"}
    steps = {path: (e["state"], json.dumps(e.get("result")))
             for _, e in events if e["type"] == "step" and e["state"] == "done" for path in [e["path"]]}
    return answer["output"], usage, steps, rows


def same_run(got, want, what):
    for a, b, part in zip(got, want, ("output", "usage", "results of steps", "rows")):
        check(a == b, f"{what}: {part} {a}, undisturbed {b}")


# ---- who dies ----

def done_tools(path, name):
    """(run, path) of the trial's tools that are done in the store of a dead controller. A copy is read: who opens the
    file itself does the recovery that is to be tested."""
    with tempfile.TemporaryDirectory(prefix="baton-trials-") as d:
        for end in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(path + end, os.path.join(d, "store.db" + end))
        db = sqlite3.connect(os.path.join(d, "store.db"))
        try:
            return {(run, step) for run, step in db.execute(
                "SELECT r.id, s.path FROM run r JOIN step s ON s.run = r.n WHERE s.state = 'done' AND r.key GLOB ?",
                (f"{name}-run*",)) if step in TOOLS}
        finally:
            db.close()


def effects(log):
    out = collections.Counter()
    for name in (log, log + ".once"):
        with contextlib.suppress(FileNotFoundError):
            out.update(open(name).read().split())
    return out


class Killer:
    """Kills and starts; notes what had been done by then."""

    def __init__(self, s, name, db, log, rng):
        self.s, self.name, self.db, self.log, self.rng = s, name, db, log, rng
        self.n_controller = 0
        self.sealed = {}  # (run, path) that was done at a kill: number of its effects then

    def strike(self, victim):
        """In the thread that lives on: a child dies with the thread that started it."""
        s = self.s
        if victim != "worker":
            s.kill_controller()
        if victim != "controller":
            name = self.rng.choice(sorted(s.workers))
            s.kill(name)
            s.workers[name].wait()
            s.start_worker(name, wait=False)
        if victim == "worker":
            return
        for run, path in done_tools(self.db, self.name):
            n = effects(self.log)[f"{run}:{path}"]
            before = self.sealed.setdefault((run, path), n)
            check(n == before, f"{run}: {path} took effect again after it was done")
            if self.n_controller == 0:
                check(n == 1, f"{run}: {path} was done before the first kill, with {n} effects")
        self.n_controller += 1
        if self.rng.random() < 0.15:  # once more, while it starts
            early = s._controller(s.url.rsplit(":", 1)[1], s.endpoint)
            time.sleep(self.rng.uniform(0, 0.04))
            early.send(signal.SIGKILL)
            early.wait()
            s.gone.append(early)
            self.n_controller += 1
        s.start_controller()


def processes_left(s):
    mine = {s.controller.pid, *(w.pid for w in s.workers.values())}
    left = []
    for pid in descendants(os.getpid()):
        if pid not in mine and pid not in OTHERS:
            if alive(pid):
                left.append(pid)
            else:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
    return left


OTHERS = set()  # of the other engine's service


def trial(s, d, name, want, span, kinds, rng):
    """Returns (results, seconds, effects more than one)."""
    log = os.path.join(d, f"effects-{name}")
    killer = Killer(s, name, os.path.join(d, "store.db"), log, rng)
    streams, runs, errors = [], [], []

    def clients(out, n, work):
        try:
            out.extend(in_parallel(n, work))
        except Exception as e:  # noqa: BLE001 - told below
            errors.append(e)
    began = time.monotonic()
    threads = [
        threading.Thread(target=clients, daemon=True, args=(streams, N_STREAM, lambda i: one_of_many(
            s, i, N_TOKEN, want and want[0], {"trial": name}, **s.more))),
        threading.Thread(target=clients, daemon=True, args=(runs, N_RUN, lambda i: Run(s, i, name, log).follow()))]
    for t in threads:
        t.start()
    for i, kind in enumerate(kinds):
        time.sleep(rng.uniform(0, span if i == 0 else span / 2))
        killer.strike(kind)
    for t in threads:
        t.join()
    took = time.monotonic() - began
    if errors:
        raise errors[0]
    results = [result_of(run) for run in runs]
    again = 0
    found = effects(log)
    expected = {f"{run.id}:{path}": run for run in runs for path in TOOLS}
    check(set(found) == set(expected), f"effects of nobody or none: {set(found) ^ set(expected)}")
    for token, run in expected.items():
        n, seal = found[token], killer.sealed.get(tuple(token.split(":", 1)))
        check(n == 1 or not run.once, f"{token}: {n} effects of a tool that looks first")
        check(seal is None or n == seal, f"{token}: {n} effects, {seal} when it was done")
        check(n <= 1 + killer.n_controller, f"{token}: {n} effects, {killer.n_controller} kills of the controller")
        again += n - 1
    if want:
        for run, got, w in zip(runs, results, want[1]):
            same_run(got, w, f"{run.id} (run {run.i})")
    wait_for("nothing to run", lambda: status(s.url)["streams"] == {"running": 0, "queued": 0}, 10)
    live = [r["id"] for r in ask(s, "GET", "/v1/runs")[1]["data"] if r["state"] == "running"]
    check(not live, f"still running: {live}")
    wait_for("no process left", lambda: not processes_left(s), 10, 0.02)
    for end in ("", ".once", ".once.lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(log + end)
    return (streams, results), took, again


def check_store(s, path):
    """The store's own sums, after a stop in good order."""
    s.check_clean()
    db = sqlite3.connect(path)

    def same(what, a, b):
        got = [db.execute(q).fetchone() for q in (a, b)]
        check(got[0] == got[1], f"{what}: {got[0]} and {got[1]}")
    same("requests and ends", "SELECT count(*) FROM request", "SELECT count(*) FROM ended")
    same("tokens in rows and in ends", "SELECT sum(n) FROM token", "SELECT sum(n_tok) FROM ended")
    same("runs and their ends", "SELECT count(*) FROM run", "SELECT count(*) FROM run_end WHERE state = 'done'")
    same("usage of steps and of runs", "SELECT sum(prompt_tok), sum(output_tok) FROM step",
         "SELECT sum(prompt_tok), sum(output_tok) FROM run_end")
    same("generations and steps that had one", "SELECT count(*) FROM request WHERE id IN (SELECT request FROM step)",
         "SELECT count(DISTINCT request) FROM step WHERE request IS NOT NULL")
    same("steps done twice", "SELECT count(*) FROM (SELECT 1 FROM step WHERE state = 'done' GROUP BY run, path"
         " HAVING count(*) > 1)", "SELECT 0")
    same("what lives", "SELECT (SELECT count(*) FROM live) + (SELECT count(*) FROM live_run)", "SELECT 0")
    db.close()


def both():
    n_trial = int(os.environ.get("BATON_TRIALS", "12" if SCALE == 1 else "3"))
    seed = int(os.environ.get("BATON_SEED", "0")) or random.randrange(1, 1 << 31)
    # Orphans come to this process, so that none can hide.
    check(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0, "no subreaper")
    print(f"     BATON_SEED={seed}", flush=True)
    rng, count, again, began = random.Random(seed), collections.Counter(), 0, time.monotonic()
    with contextlib.ExitStack() as stack:
        services, stores, want, span = {}, {}, {}, {}
        for engine, (controller, worker, more) in ENGINES.items():
            d = stores[engine] = stack.enter_context(folder())
            s = services[engine] = stack.enter_context(
                Service(2, [*controller, "--store", os.path.join(d, "store.db")], worker))
            s.more = more
        OTHERS.update(p.pid for s in services.values() for p in (s.controller, *s.workers.values()))
        for engine, s in services.items():
            want[engine] = trial(s, stores[engine], "want", None, 0, (), rng)[0]
            span[engine] = trial(s, stores[engine], "same", want[engine], 0, (), rng)[1]
        for number in range(n_trial):
            engine = ("cpu", "sim")[number % 2]
            other = services[("sim", "cpu")[number % 2]]
            OTHERS.clear()
            OTHERS.update((other.controller.pid, *(w.pid for w in other.workers.values())))
            s = services[engine]
            kinds = [rng.choice(("controller", "worker", "both"))]
            if rng.random() < 0.3:
                kinds.append(rng.choice(("controller", "worker", "both")))
            try:
                again += trial(s, stores[engine], f"t{number}", want[engine], span[engine], kinds, rng)[2]
            except Failure as e:
                raise Failure(f"trial {number} of seed {seed} ({engine}, {' '.join(kinds)}): {e}") from None
            count[engine, kinds[0] if len(kinds) == 1 else "twice"] += 1
            while len(s.gone) > 4:  # their output is not needed any more
                s.gone.pop(0).end()
            if (number + 1) % 50 == 0:
                print(f"     {number + 1} trials after {time.monotonic() - began:.0f} s", flush=True)
        for engine, s in services.items():
            check_store(s, os.path.join(stores[engine], "store.db"))
    said = ", ".join(f"{e} {k} {n}" for (e, k), n in sorted(count.items()))
    return (f"{n_trial} trials ({said}): {n_trial * N_STREAM} streams and {n_trial * N_RUN} runs whole and equal, "
            f"{again} effects repeated for want of a committed result; seed {seed}")


if __name__ == "__main__":
    main(both)
