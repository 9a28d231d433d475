#include "tests/unit/controller/store/cluster.h"

#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char bin[256], top[128], data[192];
static pid_t server;
static int n_database;

/* In the child: become the user postgres where we are root, who may not run a server. */
static void become_postgres(void)
{
    struct passwd *pw = getuid() == 0 ? getpwnam("postgres") : NULL;
    if (pw && (setgid(pw->pw_gid) || initgroups(pw->pw_name, pw->pw_gid) || setuid(pw->pw_uid)))
        _exit(8);
    if (chdir("/"))
        _exit(8);
}

static pid_t spawn(char *const argv[], int death_signal)
{
    pid_t parent = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    become_postgres();
    prctl(PR_SET_PDEATHSIG, death_signal); /* after the change of user, which clears it */
    if (getppid() != parent)
        _exit(8);
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    signal(SIGXFSZ, SIG_DFL);
    unsetenv("ASAN_OPTIONS");
    unsetenv("TSAN_OPTIONS");
    execv(argv[0], argv);
    _exit(9);
}

static bool run_to_end(char *const argv[])
{
    int status;
    pid_t pid = spawn(argv, SIGKILL);
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool find_bin(void)
{
    glob_t g;
    bool ok = glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &g) == 0 && g.gl_pathc > 0;
    if (ok) {
        snprintf(bin, sizeof bin, "%s", g.gl_pathv[g.gl_pathc - 1]);
        *strrchr(bin, '/') = 0;
    }
    globfree(&g);
    return ok;
}

static void url_of(char *url, size_t n, const char *database)
{
    snprintf(url, n, "postgresql:///%s?host=%s&user=postgres", database, top);
}

static bool start_server(void)
{
    char exe[300], url[400];
    snprintf(exe, sizeof exe, "%s/postgres", bin);
    char *const argv[] = {exe,
                          (char[]){"-D"},
                          data,
                          (char[]){"-k"},
                          top,
                          (char[]){"-c"},
                          (char[]){"listen_addresses="},
                          (char[]){"-c"},
                          (char[]){"shared_buffers=16MB"},
                          (char[]){"-c"},
                          (char[]){"log_min_messages=fatal"},
                          NULL};
    server = spawn(argv, SIGINT);
    url_of(url, sizeof url, "postgres");
    for (int i = 0; i < 600; i++) {
        if (PQping(url) == PQPING_OK)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        if (waitpid(server, NULL, WNOHANG) == server) /* children of a killed one still held its memory */
            server = spawn(argv, SIGINT);
    }
    return false;
}

const char *cluster_start(void)
{
    char exe[300];

    if (!find_bin())
        return "no PostgreSQL server here (package postgresql)";
    if (getuid() == 0 && !getpwnam("postgres"))
        return "no user postgres here (package postgresql)";
    snprintf(top, sizeof top, "%s/baton-pg-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(top))
        return "no temporary directory";
    struct passwd *pw = getuid() == 0 ? getpwnam("postgres") : NULL;
    if (pw && chown(top, pw->pw_uid, pw->pw_gid))
        return "the temporary directory cannot be given to postgres";
    snprintf(data, sizeof data, "%s/data", top);
    snprintf(exe, sizeof exe, "%s/initdb", bin);
    char *const argv[] = {exe,
                          (char[]){"-D"},
                          data,
                          (char[]){"-U"},
                          (char[]){"postgres"},
                          (char[]){"-A"},
                          (char[]){"trust"},
                          (char[]){"-E"},
                          (char[]){"UTF8"},
                          (char[]){"--locale=C.UTF-8"},
                          (char[]){"-N"},
                          NULL};
    if (!run_to_end(argv))
        return "initdb failed";
    return start_server() ? NULL : "the server did not start";
}

void cluster_stop(void)
{
    if (server > 0) {
        kill(server, SIGINT);
        waitpid(server, NULL, 0);
        server = 0;
    }
    if (top[0]) {
        char *const argv[] = {(char[]){"/bin/rm"}, (char[]){"-rf"}, top, NULL};
        run_to_end(argv);
        rmdir(top);
    }
}

bool cluster_crash_and_restart(void)
{
    kill(server, SIGQUIT); /* immediate shutdown: no checkpoint, recovery at the next start */
    waitpid(server, NULL, 0);
    return start_server();
}

bool cluster_sql(const char *url, const char *sql)
{
    PGconn *c = PQconnectdb(url);
    PGresult *r = PQexec(c, sql);
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK || PQresultStatus(r) == PGRES_TUPLES_OK;
    if (!ok)
        fprintf(stderr, "%s: %s", sql, PQerrorMessage(c));
    PQclear(r);
    PQfinish(c);
    return ok;
}

void cluster_database(char *url, size_t n)
{
    char sql[64], name[32], admin[400];
    snprintf(name, sizeof name, "t%d", n_database++);
    snprintf(sql, sizeof sql, "CREATE DATABASE %s", name);
    url_of(admin, sizeof admin, "postgres");
    if (!cluster_sql(admin, sql))
        abort();
    url_of(url, n, name);
}
