#include "tests/unit/controller/store/faultvfs.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct file {
    sqlite3_file base;
    char name[512]; /* empty: a temporary file */
    sqlite3_file *real;
};

static _Atomic int mode;
static _Atomic int64_t at, n_fail, n_change;

static sqlite3_vfs *real_vfs(void)
{
    static sqlite3_vfs *vfs;
    if (!vfs)
        vfs = sqlite3_vfs_find("unix");
    return vfs;
}

static sqlite3_file *real(sqlite3_file *f)
{
    return ((struct file *)f)->real;
}

/* Count a change. True: it shall go wrong (in the modes that kill, the caller does half of it and calls die). */
static int goes_wrong(void)
{
    int64_t i = atomic_fetch_add(&n_change, 1);
    return mode != FAULT_NONE && i >= at && i < at + n_fail;
}

/* In the modes that kill this is the end. */
static void die(void)
{
    if (mode == FAULT_KILL || mode == FAULT_POWER)
        kill(getpid(), SIGKILL), pause();
}

static int copy_file(const char *from, const char *to)
{
    char buf[65536];
    ssize_t n;
    int in = open(from, O_RDONLY), out = open(to, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    while (in >= 0 && out >= 0 && (n = read(in, buf, sizeof buf)) > 0)
        if (write(out, buf, (size_t)n) != n)
            abort();
    int ok = in >= 0 && out >= 0;
    if (in >= 0)
        close(in); /* this drops SQLite's locks on the file; there is one process only */
    if (out >= 0)
        close(out);
    return ok;
}

static int f_close(sqlite3_file *f)
{
    return real(f)->pMethods ? real(f)->pMethods->xClose(real(f)) : SQLITE_OK;
}

static int f_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at_byte)
{
    return real(f)->pMethods->xRead(real(f), p, n, at_byte);
}

static int f_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at_byte)
{
    if (goes_wrong()) {
        real(f)->pMethods->xWrite(real(f), p, n / 2, at_byte);
        die();
        return at % 2 ? SQLITE_FULL : SQLITE_IOERR_WRITE;
    }
    return real(f)->pMethods->xWrite(real(f), p, n, at_byte);
}

static int f_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    if (goes_wrong()) {
        die();
        return SQLITE_IOERR_TRUNCATE;
    }
    return real(f)->pMethods->xTruncate(real(f), size);
}

static int f_sync(sqlite3_file *f, int flags)
{
    char to[600];
    if (goes_wrong()) {
        die();
        return SQLITE_IOERR_FSYNC;
    }
    int rc = real(f)->pMethods->xSync(real(f), flags);
    const char *name = ((struct file *)f)->name;
    if (!rc && mode == FAULT_POWER && name[0]) {
        snprintf(to, sizeof to, "%s.synced", name);
        copy_file(name, to);
    }
    return rc;
}

static int f_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return real(f)->pMethods->xFileSize(real(f), size);
}

static int f_lock(sqlite3_file *f, int level)
{
    return real(f)->pMethods->xLock(real(f), level);
}

static int f_unlock(sqlite3_file *f, int level)
{
    return real(f)->pMethods->xUnlock(real(f), level);
}

static int f_reserved(sqlite3_file *f, int *out)
{
    return real(f)->pMethods->xCheckReservedLock(real(f), out);
}

static int f_control(sqlite3_file *f, int op, void *arg)
{
    return real(f)->pMethods->xFileControl(real(f), op, arg);
}

static int f_sector(sqlite3_file *f)
{
    return real(f)->pMethods->xSectorSize(real(f));
}

static int f_device(sqlite3_file *f)
{
    return real(f)->pMethods->xDeviceCharacteristics(real(f));
}

static const sqlite3_io_methods methods = {
    .iVersion = 1,
    .xClose = f_close,
    .xRead = f_read,
    .xWrite = f_write,
    .xTruncate = f_truncate,
    .xSync = f_sync,
    .xFileSize = f_size,
    .xLock = f_lock,
    .xUnlock = f_unlock,
    .xCheckReservedLock = f_reserved,
    .xFileControl = f_control,
    .xSectorSize = f_sector,
    .xDeviceCharacteristics = f_device,
};

static int v_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *f, int flags, int *out)
{
    struct file *file = (struct file *)f;
    (void)vfs;
    file->base.pMethods = NULL;
    if ((flags & SQLITE_OPEN_CREATE) && name && access(name, F_OK) != 0 && goes_wrong()) {
        die();
        return SQLITE_CANTOPEN;
    }
    file->real = (sqlite3_file *)(void *)(file + 1);
    snprintf(file->name, sizeof file->name, "%s", name ? name : "");
    int rc = real_vfs()->xOpen(real_vfs(), name, file->real, flags, out);
    if (!rc)
        file->base.pMethods = &methods;
    return rc;
}

static int v_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
    char synced[600];
    (void)vfs;
    if (goes_wrong()) {
        die();
        return SQLITE_IOERR_DELETE;
    }
    if (mode == FAULT_POWER) {
        snprintf(synced, sizeof synced, "%s.synced", name);
        unlink(synced);
    }
    return real_vfs()->xDelete(real_vfs(), name, sync_dir);
}

void faultvfs_register(void)
{
    static sqlite3_vfs vfs;
    if (vfs.zName)
        return;
    vfs = *real_vfs();
    vfs.zName = "fault";
    vfs.pNext = NULL;
    vfs.szOsFile = (int)sizeof(struct file) + real_vfs()->szOsFile;
    vfs.xOpen = v_open;
    vfs.xDelete = v_delete;
    sqlite3_vfs_register(&vfs, 0);
}

void faultvfs_plan(enum fault_mode m, int64_t n, int64_t count)
{
    at = n;
    n_fail = count;
    n_change = 0;
    mode = m;
}

void faultvfs_heal(void)
{
    mode = FAULT_NONE;
}

int64_t faultvfs_changes(void)
{
    return n_change;
}

void faultvfs_power_cut(const char *path)
{
    static const char *const suffix[] = {"", "-wal", "-journal"};
    char name[560], synced[600];

    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", path, suffix[i]);
        snprintf(synced, sizeof synced, "%s.synced", name);
        if (rename(synced, name) != 0)
            unlink(name); /* never synced: the file, if there is one, lost its name or its content */
    }
}
