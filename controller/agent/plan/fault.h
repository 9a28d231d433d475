/* controller/agent/plan/fault.h - the classes of error that a step can end with: for `retry.on`, results, logs.
 * Owns:     nothing.
 * Thread:   any.
 */
#ifndef CONTROLLER_AGENT_PLAN_FAULT_H
#define CONTROLLER_AGENT_PLAN_FAULT_H

#include <stdbool.h>
#include <stdint.h>

/* Name in pipeline files, whether a file may name it in `retry.on`, what it means (docs/pipelines.md prints it). */
#define FAULT_LIST(X)                                                                              \
    X(timeout, true, "the attempt took longer than timeout_ms")                                    \
    X(busy, true, "asked to come back later: exit code 75, HTTP 429 or 503, a full queue")         \
    X(network, true, "no answer: name, connection or transfer failed")                             \
    X(server, true, "HTTP 5xx other than 503")                                                     \
    X(client, true, "HTTP 3xx or 4xx other than 408 and 429")                                      \
    X(tool, true, "the command ended with another exit code, by a signal, or could not be started") \
    X(output, true, "the output is no JSON, no UTF-8, or larger than allowed")                     \
    X(schema, true, "the output does not fit its schema, repairs included")                        \
    X(generate, true, "the generation failed or was cut off")                                      \
    X(turns, true, "the agent gave no final answer within max_turns")                              \
    X(items, false, "an item of the map failed")                                                    \
    X(template, false, "a template or condition has no value: it would fail again")                \
    X(rejected, false, "a human said no")                                                          \
    X(budget, false, "the retry budget or the deadline of the run is used up")                     \
    X(canceled, false, "the run was canceled")

enum fault {
    FAULT_none,
#define X(name, retryable, text) FAULT_##name,
    FAULT_LIST(X)
#undef X
        FAULT_N
};

/* "timeout" ...; "none" for FAULT_none, "?" for a number outside. */
const char *fault_name(enum fault f);

/* The fault of that name, or FAULT_N. */
enum fault fault_by_name(const char *name);

/* May stand in `retry.on`. */
bool fault_is_retryable(enum fault f);

/* Sets of faults: bit 1 << fault. */
static inline bool fault_in(uint32_t set, enum fault f)
{
    return f != FAULT_none && (set >> f & 1);
}

/* What `retry.on` is when a file does not say. */
enum {
    FAULT_SET_DEFAULT = 1 << FAULT_timeout | 1 << FAULT_busy | 1 << FAULT_network | 1 << FAULT_server,
};

#endif
