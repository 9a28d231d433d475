#!/usr/bin/env python3
"""The pipeline of durable.py (three no-op steps) in other durable engines; prints one JSON line.

  durable_peers.py dbos|langgraph-sync --dir DIR [-c 1] [--secs 4]
Run it with a Python that has the engine: pip install dbos langgraph langgraph-checkpoint-sqlite. Both keep their
state in SQLite in DIR, with their defaults; langgraph with durability "sync".
"""
import argparse
import json
import sqlite3
import threading
import time
import typing
import uuid

STEPS = 3


def dbos(folder):
    from dbos import DBOS, SetWorkflowID
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.sqlite", "log_level": "ERROR",
                 "run_admin_server": False, "application_version": "1", "executor_id": "bench"})

    @DBOS.step()
    def step(k):
        return k + 1

    @DBOS.workflow()
    def pipeline():
        value = 0
        for k in range(STEPS):
            value = step(k)
        return value
    DBOS.launch()

    def run():
        with SetWorkflowID(str(uuid.uuid4())):
            return pipeline()
    return run, DBOS.destroy


def langgraph(folder):
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import END, START, StateGraph

    class State(typing.TypedDict):
        v: int
    graph = StateGraph(State)
    for k in range(STEPS):
        graph.add_node(f"s{k}", lambda s, k=k: {"v": k + 1})
    graph.add_edge(START, "s0")
    for k in range(STEPS - 1):
        graph.add_edge(f"s{k}", f"s{k + 1}")
    graph.add_edge(f"s{STEPS - 1}", END)
    connection = sqlite3.connect(folder + "/langgraph.sqlite", check_same_thread=False)
    saver = SqliteSaver(connection)
    saver.setup()
    app = graph.compile(checkpointer=saver)

    def run():
        return app.invoke({"v": 0}, {"configurable": {"thread_id": str(uuid.uuid4())}}, durability="sync")
    return run, connection.close


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("engine", choices=["dbos", "langgraph-sync"])
    a.add_argument("--dir", required=True)
    a.add_argument("-c", type=int, default=1)
    a.add_argument("--secs", type=float, default=4)
    opt = a.parse_args()
    run, close = (dbos if opt.engine == "dbos" else langgraph)(opt.dir)
    begin = time.monotonic() + 0.5
    end, lock, took = begin + opt.secs, threading.Lock(), []

    def loop():
        while (t := time.monotonic()) < end:
            run()
            now = time.monotonic()
            if t >= begin:
                with lock:
                    took.append((now, now - t))
    threads = [threading.Thread(target=loop) for _ in range(opt.c)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if not took:
        raise SystemExit("no run ended")
    ms = sorted(x * 1e3 for _, x in took)
    print(json.dumps({"engine": opt.engine, "c": opt.c, "runs": len(ms),
                      "runs_per_s": round(len(ms) / (max(t for t, _ in took) - begin), 1),
                      "p50_ms": round(ms[len(ms) // 2], 2), "p99_ms": round(ms[len(ms) * 99 // 100], 2)}))
    close()


if __name__ == "__main__":
    main()
