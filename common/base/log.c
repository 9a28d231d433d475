#include "common/base/log.h"

#include "common/base/clock.h"
#include "common/base/err.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {
#define X(name) #name,
    LOG_LEVEL_LIST(X)
#undef X
};

static const char *const area_names[] = {
#define X(name) #name,
    LOG_AREA_LIST(X)
#undef X
};

static const char *program_name = "baton";
static atomic_int level_now = LOG_info;

int log_init(const char *program, const char *level_name)
{
    program_name = program;
    if (!level_name)
        return 0;
    for (int i = 0; i < (int)(sizeof level_names / sizeof level_names[0]); i++)
        if (strcmp(level_names[i], level_name) == 0) {
            atomic_store(&level_now, i);
            return 0;
        }
    return ERR_ARG;
}

bool log_is_on(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&level_now, memory_order_relaxed);
}

void log_line(enum log_level level, enum log_area area, const char *fmt, ...)
{
    char line[LOG_LINE_MAX];
    struct tm tm;
    va_list ap;

    if (!log_is_on(level))
        return;
    int64_t ms = clock_wall_ms();
    time_t sec = (time_t)(ms / 1000);
    gmtime_r(&sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03dZ %-5s %s %s: ", (int)(ms % 1000),
                          level_names[level], program_name, area_names[area]);
    va_start(ap, fmt);
    int more = vsnprintf(line + n, sizeof line - n, fmt, ap);
    va_end(ap);
    size_t end = n + (more > 0 ? (size_t)more : 0);
    if (end > sizeof line - 2)
        end = sizeof line - 2;
    for (size_t i = n; i < end; i++)
        if ((unsigned char)line[i] < 0x20)
            line[i] = '?';
    line[end] = '\n';
    /* A log line that cannot be written is lost on purpose: there is nowhere else to say so. */
    ssize_t unused = write(STDERR_FILENO, line, end + 1);
    (void)unused;
}
