/* Runs of a pipeline per second over HTTP: c connections, each posting the same run with "wait": true again and
 * again, so that an answer is a run that has ended and whose end is committed. Prints one JSON object.
 *   bench_runs --port P --body FILE [-c 1] [--secs 4] [--warm 0.5]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNS_MAX = 256, ANSWER_MAX = 65536, BODY_MAX = 1 << 20 };

struct conn {
    int fd;
    char in[ANSWER_MAX];
    size_t n;
    int64_t began_ns;
};

static char request[BODY_MAX + 512];
static size_t request_len;
static double *latency_ms;
static size_t n_latency, cap_latency;
static int64_t n_bad;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "bench_runs: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void send_request(struct conn *c)
{
    size_t at = 0;

    c->n = 0;
    c->began_ns = now_ns();
    while (at < request_len) { /* small, and the peer reads: it does not block for long */
        ssize_t n = send(c->fd, request + at, request_len - at, MSG_NOSIGNAL);
        if (n < 0)
            die("send");
        at += (size_t)n;
    }
}

/* The whole answer is there: true. */
static bool take(struct conn *c, bool counts)
{
    c->in[c->n] = '\0';
    char *head_end = strstr(c->in, "\r\n\r\n"), *length = strcasestr(c->in, "content-length:");
    if (!head_end || !length)
        return false;
    size_t need = (size_t)(head_end + 4 - c->in) + (size_t)atol(length + 15);
    if (c->n < need)
        return false;
    bool good = strncmp(c->in, "HTTP/1.1 201", 12) == 0 && strstr(head_end, "\"state\":\"done\"");
    if (!good && n_bad++ == 0)
        fprintf(stderr, "bench_runs: %.400s\n", c->in);
    if (counts && good) {
        if (n_latency == cap_latency) {
            cap_latency = cap_latency ? 2 * cap_latency : 4096;
            latency_ms = realloc(latency_ms, cap_latency * sizeof *latency_ms);
            if (!latency_ms)
                die("memory");
        }
        latency_ms[n_latency++] = (double)(now_ns() - c->began_ns) / 1e6;
    }
    return true;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int dial(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void read_body(const char *path, int port)
{
    static char body[BODY_MAX];
    FILE *f = fopen(path, "rb");
    if (!f)
        die(path);
    size_t n = fread(body, 1, sizeof body - 1, f);
    fclose(f);
    int head = snprintf(request, sizeof request, "POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n", port, n);
    memcpy(request + head, body, n);
    request_len = (size_t)head + n;
}

static void load(struct conn *conn, int n_conn, int64_t begin_ns, int64_t end_ns)
{
    int ep = epoll_create1(0), n_open = n_conn;
    struct epoll_event events[CONNS_MAX];

    for (int i = 0; i < n_conn; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &conn[i]};
        epoll_ctl(ep, EPOLL_CTL_ADD, conn[i].fd, &e);
        send_request(&conn[i]);
    }
    while (n_open) {
        int n = epoll_wait(ep, events, CONNS_MAX, 10000);
        if (n <= 0)
            die("no answer for 10 s");
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            ssize_t got = recv(c->fd, c->in + c->n, ANSWER_MAX - 1 - c->n, 0);
            if (got <= 0)
                die("recv");
            c->n += (size_t)got;
            if (!take(c, c->began_ns >= begin_ns))
                continue;
            if (now_ns() < end_ns)
                send_request(c);
            else
                n_open--;
        }
    }
    close(ep);
}

int main(int argc, char **argv)
{
    int port = 0, n_conn = 1;
    double secs = 4, warm = 0.5;
    const char *body = NULL;

    for (int i = 1; i + 1 < argc; i += 2) {
        const char *v = argv[i + 1];
        if (strcmp(argv[i], "--port") == 0)
            port = atoi(v);
        else if (strcmp(argv[i], "--body") == 0)
            body = v;
        else if (strcmp(argv[i], "-c") == 0)
            n_conn = atoi(v);
        else if (strcmp(argv[i], "--secs") == 0)
            secs = atof(v);
        else if (strcmp(argv[i], "--warm") == 0)
            warm = atof(v);
    }
    if (!port || !body || n_conn < 1 || n_conn > CONNS_MAX) {
        fprintf(stderr, "usage: bench_runs --port P --body FILE [-c 1..%d] [--secs S] [--warm S]\n", CONNS_MAX);
        return 2;
    }
    read_body(body, port);
    struct conn *conn = calloc((size_t)n_conn, sizeof *conn);
    if (!conn)
        die("memory");
    for (int i = 0; i < n_conn; i++)
        conn[i].fd = dial(port);
    int64_t begin = now_ns() + (int64_t)(warm * 1e9), end = begin + (int64_t)(secs * 1e9);
    load(conn, n_conn, begin, end);
    double s = (double)(now_ns() - begin) / 1e9;
    qsort(latency_ms, n_latency, sizeof *latency_ms, by_value);
    printf("{\"c\":%d,\"runs\":%zu,\"runs_per_s\":%.1f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"bad\":%lld}\n", n_conn,
           n_latency, (double)n_latency / s, n_latency ? latency_ms[n_latency / 2] : 0,
           n_latency ? latency_ms[n_latency * 99 / 100] : 0, (long long)n_bad);
    free(latency_ms);
    free(conn);
    return n_bad || !n_latency;
}
