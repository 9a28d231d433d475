/* worker/exit.h - how baton-worker ends, by name. Who starts it again (`baton up`, systemd) decides by these: what
 * an operator must change first is not worth another try.
 */
#ifndef WORKER_EXIT_H
#define WORKER_EXIT_H

/* name, status, meaning */
#define WRK_EXIT_LIST(X)                                                                           \
    X(ok, 0, "ended as asked")                                                                     \
    X(failed, 1, "the command failed")                                                             \
    X(usage, 2, "wrong flag or value")                                                             \
    X(checkpoint, 10, "the model directory cannot be served")                                      \
    X(memory, 11, "not enough memory for these limits")                                            \
    X(device, 12, "the engine or its device cannot be trusted any more")                           \
    X(refused, 13, "the controller refused this worker")                                           \
    X(unsupported, 14, "this build or machine lacks what was asked for")                           \
    X(rank, 15, "a rank did not come to an exchange in time")

enum wrk_exit {
#define X(name, status, meaning) WRK_EXIT_##name = status,
    WRK_EXIT_LIST(X)
#undef X
};

#endif
