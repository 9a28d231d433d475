/* tests/unit/controller/store/cluster.h - a private PostgreSQL server for one test program.
 * Owns:     a temporary directory and the server process, which dies with the test (PR_SET_PDEATHSIG).
 * Lifetime: cluster_start .. cluster_stop.
 * Thread:   the test's.
 * It listens on a unix socket in its directory only, so it needs no port; as user postgres where the test is root.
 */
#ifndef TESTS_UNIT_CONTROLLER_STORE_CLUSTER_H
#define TESTS_UNIT_CONTROLLER_STORE_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>

/* NULL, or why there is no server (packages to install). */
const char *cluster_start(void);
void cluster_stop(void);

/* Kill the server the hard way and start it again on the same data. */
bool cluster_crash_and_restart(void);

/* A new, empty database. */
void cluster_database(char *url, size_t n);

/* Run SQL in the database of url; true if it worked. */
bool cluster_sql(const char *url, const char *sql);

#endif
