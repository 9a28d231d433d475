/* tests/unit/controller/store/faultvfs.h - an SQLite VFS over the usual one whose n-th change of a file goes wrong.
 * Owns:     the registered VFS "fault"; one plan for the whole process.
 * Lifetime: process.
 * Thread:   the plan is set while no database is open, or by faultvfs_heal (atomic); the changes are counted by
 * whoever makes them. A change is a write, sync, truncation, deletion, or the creation of a file. It has no shared
 * memory: a store that needed some would not open.
 */
#ifndef TESTS_UNIT_CONTROLLER_STORE_FAULTVFS_H
#define TESTS_UNIT_CONTROLLER_STORE_FAULTVFS_H

#include <stdint.h>

enum fault_mode {
    FAULT_NONE,
    FAULT_ERROR, /* changes n .. n+count-1 fail, of a write only half is done */
    FAULT_KILL,  /* SIGKILL to the own process in the middle of change n */
    FAULT_POWER, /* the same, and FILE.synced keeps what each file was at its last sync: faultvfs_power_cut puts that
                    in place */
};

void faultvfs_register(void);
void faultvfs_plan(enum fault_mode mode, int64_t n, int64_t count);
void faultvfs_heal(void);       /* no more failures, at any time */
int64_t faultvfs_changes(void); /* since the plan was set */

/* What is left of a database after the power went: everything that was not synced is gone. */
void faultvfs_power_cut(const char *path);

#endif
