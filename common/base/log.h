/* common/base/log.h - log lines on stderr: one line, one event, `key=value` fields in the text.
 *   2026-11-24T16:13:39.123Z info  controller link: worker=w1 epoch=3 joined
 * Owns:     nothing but the level and the program name.
 * Thread:   any; a line is written with one write(2), so lines of threads do not mix.
 * Limits:   LOG_LINE_MAX bytes a line, longer ones are cut.
 * Never log prompts, generated text or keys.
 */
#ifndef COMMON_BASE_LOG_H
#define COMMON_BASE_LOG_H

#include <stdbool.h>

#define LOG_LEVEL_LIST(X) X(error) X(warn) X(info) X(debug)

enum log_level {
#define X(name) LOG_##name,
    LOG_LEVEL_LIST(X)
#undef X
};

/* What can log: the rooms of the tree. */
#define LOG_AREA_LIST(X)                                                                           \
    X(main) X(http) X(api) X(prompt) X(sched) X(link) X(ledger) X(store) X(stream) X(cli) X(engine) X(model) \
    X(kv) X(up) X(agent) X(native)

enum log_area {
#define X(name) LOG_AREA_##name,
    LOG_AREA_LIST(X)
#undef X
};

enum { LOG_LINE_MAX = 1024 };

/* Call once at start. program: static string ("controller"). level_name may be NULL (then info). Returns 0 or
 * ERR_ARG for a name that is no level. */
int log_init(const char *program, const char *level_name);

bool log_is_on(enum log_level level);

void log_line(enum log_level level, enum log_area area, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(area, ...) log_line(LOG_error, LOG_AREA_##area, __VA_ARGS__)
#define log_warn(area, ...)  log_line(LOG_warn, LOG_AREA_##area, __VA_ARGS__)
#define log_info(area, ...)  log_line(LOG_info, LOG_AREA_##area, __VA_ARGS__)
#define log_debug(area, ...)                                                                       \
    (log_is_on(LOG_debug) ? log_line(LOG_debug, LOG_AREA_##area, __VA_ARGS__) : (void)0)

#endif
