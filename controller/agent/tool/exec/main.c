/* baton-exec COMMAND [ARGUMENT...]: runs one command of a tool step and sees to it that nothing of it is left behind.
 *
 * Descriptor 3 is a socket to the controller. Its end means that the controller is gone: everything is killed. (The
 * parent-death signal would not do: it comes when the forking THREAD ends, and reaches only one process.) At the end
 * one line is written to it: "exit N", "signal N", or "noexec ERRNO". SIGTERM is passed on to the command's process
 * group.
 *
 * This process is the reaper of all that the command starts, so that processes which leave the group (daemons) come
 * back to it and are killed when the command has ended. Exit 0 when the line was written.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIFE_FD = 3, FD_MAX = 65536, REAP_MS_MAX = 2000, REAP_STEP_MS = 5, BAD_USAGE = 125 };

/* What was inherited by mistake is closed here, whoever forgot close-on-exec. */
static void close_others(void)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, LIFE_FD + 1, ~0U, 0) == 0)
        return;
#endif
    for (int fd = LIFE_FD + 1; fd < FD_MAX; fd++)
        close(fd);
}

static void say(const char *what, int number)
{
    char line[32];
    int n = snprintf(line, sizeof line, "%s %d\n", what, number);

    ssize_t sent = send(LIFE_FD, line, (size_t)n, MSG_NOSIGNAL);
    (void)sent; /* a controller that is gone reads nothing */
}

/* The command's process: never returns. */
static void become(char **argv, int failed_fd, const sigset_t *mask)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* should baton-exec itself be killed */
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvp(argv[0], argv);
    int why = errno;
    ssize_t sent = write(failed_fd, &why, sizeof why);
    (void)sent;
    _exit(127);
}

/* SIGKILL to every child that is left: those of the command that came back to us. */
static void kill_children(void)
{
    char path[64], *p, *end;
    char text[4096];

    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    for (p = text;; p = end) {
        long pid = strtol(p, &end, 10);
        if (end == p || pid <= 0)
            break;
        kill((pid_t)pid, SIGKILL);
    }
}

/* End and reap everything that is left. */
static void clean_up(pid_t group)
{
    kill(-group, SIGKILL);
    for (int ms = 0; ms < REAP_MS_MAX;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0 && errno != EINTR)
            return; /* no children any more */
        if (pid != 0)
            continue;
        kill_children();
        poll(NULL, 0, REAP_STEP_MS);
        ms += REAP_STEP_MS;
    }
}

/* Has the command ended? Its status is left to be reaped: until then its number, and its group's, cannot be
 * another's. */
static int has_ended(pid_t child, siginfo_t *info)
{
    pid_t pid;

    info->si_pid = 0;
    if (waitid(P_PID, (id_t)child, info, WEXITED | WNOWAIT | WNOHANG) == 0 && info->si_pid == child)
        return 1;
    /* Orphans that came to us are reaped while the command runs. */
    siginfo_t other = {0};
    while (waitid(P_ALL, 0, &other, WEXITED | WNOWAIT | WNOHANG) == 0 && (pid = other.si_pid) != 0 && pid != child) {
        waitpid(pid, NULL, WNOHANG);
        other.si_pid = 0;
    }
    return 0;
}

/* Wait for the command. 1: it ended, *info says how; 0: the controller is gone. */
static int wait_for(pid_t child, int signals, siginfo_t *info)
{
    struct pollfd fds[2] = {{.fd = signals, .events = POLLIN}, {.fd = LIFE_FD, .events = POLLIN}};
    struct signalfd_siginfo got;
    char byte;

    for (;;) {
        if (has_ended(child, info))
            return 1;
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return 0;
        if (fds[0].revents && read(signals, &got, sizeof got) == sizeof got && got.ssi_signo != SIGCHLD)
            kill(-child, SIGTERM);
        if (fds[1].revents && read(LIFE_FD, &byte, 1) <= 0 && errno != EINTR)
            return 0;
    }
}

int main(int argc, char **argv)
{
    int failed[2], why = 0;
    sigset_t set, mask;
    siginfo_t info = {0};

    if (argc < 2 || fcntl(LIFE_FD, F_SETFD, FD_CLOEXEC) != 0) {
        fprintf(stderr, "usage: baton-exec COMMAND [ARGUMENT...], with a socket to the controller as descriptor 3\n");
        return BAD_USAGE;
    }
    close_others();
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, &mask);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    int signals = signalfd(-1, &set, SFD_CLOEXEC);
    if (signals < 0 || pipe2(failed, O_CLOEXEC) != 0) {
        say("noexec", errno);
        return 0;
    }
    pid_t child = fork();
    if (child == 0)
        become(argv + 1, failed[1], &mask);
    if (child < 0) {
        say("noexec", errno);
        return 0;
    }
    setpgid(child, child); /* both sides do it: whoever is first */
    close(failed[1]);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3 && null >= 0; fd++)
        dup2(null, fd); /* the command's output ends with the command */
    if (read(failed[0], &why, sizeof why) == sizeof why) {
        waitpid(child, NULL, 0);
        say("noexec", why);
        return 0;
    }
    int ended = wait_for(child, signals, &info);
    clean_up(child);
    if (ended)
        say(info.si_code == CLD_EXITED ? "exit" : "signal", info.si_status);
    return 0;
}
