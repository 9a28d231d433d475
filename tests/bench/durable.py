#!/usr/bin/env python3
"""./run bench durable: runs of a pipeline of three no-op steps per second, with the store on tmpfs and on disk, and
what a SIGKILL with 16 runs in flight costs.

A no-op step is a `join` of a constant: it has no effect outside, so the three results and the run's end come into one
transaction with the run's acceptance. An answer ("wait": true) comes when that transaction is committed; on disk every
commit is fsynced (SQLite, WAL, synchronous=FULL). The steps of the kill test are commands, each step a transaction of
its own before and after its effect.

  durable.py [--disk DIR] [--secs 3] [--repeat 3] [--json] [--peers PYTHON]
PYTHON: of an environment with dbos and langgraph (pip install dbos langgraph langgraph-checkpoint-sqlite); they are
measured in the same run, see durable_peers.py.
"""
import argparse
import collections
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
from harness import Service, binary, make_model, request, wait_for  # noqa: E402

STEPS = "pipeline: noop\nsteps:\n- {id: a, join: 1}\n- {id: b, join: '{{ steps.a.output }}'}\n- {id: c, join: 3}\n"


def client(s, body, c, secs):
    port = s.url.rsplit(":", 1)[1]
    r = subprocess.run([binary("bench_runs"), "--port", port, "--body", body, "-c", str(c), "--secs", str(secs)],
                       capture_output=True, text=True, timeout=secs + 60)
    if r.returncode:
        sys.exit(f"bench_runs: {r.stderr}")
    return json.loads(r.stdout)


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rates(folder, secs, repeat):
    rows = []
    body = os.path.join(folder, "body.json")
    with open(body, "w") as f:
        json.dump({"pipeline": STEPS, "wait": True}, f)
    for c in (1, 16):
        got = []
        for _ in range(repeat):
            store = os.path.join(folder, "store.db")
            with Service(0, ["--store", store, "--log-level", "warn", "--limit", "run_live_max=4096"]) as s:
                before = cpu_seconds(s.controller.pid)
                row = client(s, body, c, secs)
                row["cpu_us_per_run"] = (cpu_seconds(s.controller.pid) - before) / max(1, row["runs"]) * 1e6
                got.append(row)
            for name in os.listdir(folder):
                if name.startswith("store.db"):
                    os.unlink(os.path.join(folder, name))
        per_s = [r["runs_per_s"] for r in got]
        rows.append({"c": c, "runs_per_s": statistics.median(per_s), "spread": [min(per_s), max(per_s)],
                     "p50_ms": statistics.median(r["p50_ms"] for r in got),
                     "p99_ms": statistics.median(r["p99_ms"] for r in got),
                     "cpu_us_per_run": round(statistics.median(r["cpu_us_per_run"] for r in got), 1)})
    return rows


def crash(folder, n_run=16, step_ms=60, kill_after=24):
    """SIGKILL while 16 runs are in their steps; what was lost, what ran again."""
    log = os.path.join(folder, "steps")
    open(log, "w").close()
    command = ["/bin/sh", "-c", f'/bin/sleep {step_ms / 1000}; echo "$BATON_EFFECT_TOKEN" >> {log}; echo 1']
    pipeline = {"pipeline": "p", "steps": [{"id": f"s{k}", "tool": {"command": command}} for k in range(3)]}
    with Service(0, ["--store", os.path.join(folder, "crash.db")]) as s:
        runs = [json.loads(request(s.url, "POST", "/v1/runs", {"pipeline": pipeline})[1])["id"] for _ in range(n_run)]
        wait_for("steps", lambda: sum(1 for _ in open(log)) >= kill_after, 30, 0.002)
        s.kill_controller()
        before = collections.Counter(open(log).read().split())
        began = time.monotonic()
        s.start_controller()
        up_s = time.monotonic() - began

        def states():
            return [json.loads(request(s.url, "GET", f"/v1/runs/{r}?steps=none")[1]).get("state") for r in runs]
        wait_for("all runs", lambda: all(x != "running" for x in states()), 60, 0.02)
        end_s = time.monotonic() - began
        done = states().count("done")
        after = collections.Counter(open(log).read().split())
        twice = [t for t, n in after.items() if n > 1]
        # A step whose result was committed has a done row from before the kill; its effect must not be there again.
        return {"runs": n_run, "lost": n_run - done, "steps_done_before_kill": sum(before.values()),
                "effects_missing": sum(1 for r in runs for k in range(3) if f"{r}:s{k}" not in after),
                "effects_twice": len(twice), "serving_again_s": round(up_s, 3), "restart_to_end_s": round(end_s, 2)}


def peers(python, folder, secs):
    rows = []
    for engine in ("dbos", "langgraph-sync"):
        for c in (1, 16):
            with tempfile.TemporaryDirectory(dir=folder) as d:
                r = subprocess.run([python, os.path.join(HERE, "durable_peers.py"), engine, "--dir", d, "-c", str(c),
                                    "--secs", str(secs)], capture_output=True, text=True, timeout=60 + secs)
            rows.append(json.loads(r.stdout.splitlines()[-1]) if r.returncode == 0 and r.stdout
                        else {"engine": engine, "c": c, "failed": (r.stderr or "no output").strip()[-200:]})
    return rows


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--disk", default=os.path.dirname(os.path.dirname(HERE)), help="a folder on the disk to measure")
    a.add_argument("--secs", type=float, default=3)
    a.add_argument("--repeat", type=int, default=3)
    a.add_argument("--json", action="store_true")
    a.add_argument("--peers", metavar="PYTHON")
    opt = a.parse_args()
    make_model()
    result = {}
    for name, parent in (("tmpfs", "/dev/shm"), ("disk", opt.disk)):
        folder = tempfile.mkdtemp(prefix="baton-bench-", dir=parent)
        try:
            result[name] = rates(folder, opt.secs, opt.repeat)
            if name == "disk":
                result["crash"] = crash(folder)
            if opt.peers:
                result[name + "_peers"] = peers(opt.peers, folder, opt.secs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if opt.json:
        print(json.dumps(result))
        return
    for name in ("tmpfs", "disk"):
        for row in result[name]:
            print(f"{name:6} c={row['c']:<3} {row['runs_per_s']:9.0f} runs/s "
                  f"({row['spread'][0]:.0f} .. {row['spread'][1]:.0f})"
                  f"  p50 {row['p50_ms']:.3f} ms  p99 {row['p99_ms']:.3f} ms  {row['cpu_us_per_run']:.0f} us CPU a run")
        for row in result.get(name + "_peers", ()):
            said = f"{row['runs_per_s']:9.0f} runs/s" if "runs_per_s" in row else f"failed: {row['failed']}"
            print(f"{name:6} c={row['c']:<3} {said}  {row['engine']}")
    print("SIGKILL with 16 runs in flight:", json.dumps(result["crash"]))


if __name__ == "__main__":
    main()
