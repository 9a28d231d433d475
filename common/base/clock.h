/* common/base/clock.h - the clocks of the program.
 * Thread: any.
 */
#ifndef COMMON_BASE_CLOCK_H
#define COMMON_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds of the monotonic clock: for waits and durations, meaningless across hosts and restarts. */
int64_t clock_mono_ns(void);

/* Milliseconds since 1970 (UTC): for stamps that leave the process. */
int64_t clock_wall_ms(void);

#endif
