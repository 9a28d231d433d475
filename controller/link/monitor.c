#include "controller/link/monitor.h"

#include "common/mem/mem.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <zmq.h>

static const char address[] = "inproc://worker-monitor"; /* one link per ZeroMQ context */

int ctl_monitor_open(void *zmq_ctx, void *watched, struct ctl_monitor *m, struct err *err)
{
    int none = 0;

    *m = (struct ctl_monitor){0};
    if (zmq_socket_monitor(watched, address, ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED) != 0)
        return err_set(err, ERR_NET, "cannot watch the worker socket: %s", zmq_strerror(zmq_errno()));
    m->watched = watched;
    m->pair = zmq_socket(zmq_ctx, ZMQ_PAIR);
    if (m->pair && zmq_setsockopt(m->pair, ZMQ_RCVHWM, &none, sizeof none) == 0 &&
        zmq_setsockopt(m->pair, ZMQ_LINGER, &none, sizeof none) == 0 && zmq_connect(m->pair, address) == 0)
        return 0;
    int rc = err_set(err, ERR_NET, "cannot watch the worker socket: %s", zmq_strerror(zmq_errno()));
    ctl_monitor_close(m);
    return rc;
}

void ctl_monitor_close(struct ctl_monitor *m)
{
    if (m->watched)
        zmq_socket_monitor(m->watched, NULL, 0);
    if (m->pair)
        zmq_close(m->pair);
    mem_free(m->open);
    *m = (struct ctl_monitor){0};
}

static void set_open(struct ctl_monitor *m, int fd, bool open)
{
    size_t i = (size_t)fd;
    if (fd < 0 || fd >= MONITOR_FD_MAX)
        return;
    if (i >= m->n_open) {
        size_t n = i + 64;
        m->open = mem_realloc(m->open, n);
        memset(m->open + m->n_open, 0, n - m->n_open);
        m->n_open = n;
    }
    m->open[i] = open;
}

bool ctl_monitor_is_open(const struct ctl_monitor *m, int fd)
{
    return fd >= 0 && (size_t)fd < m->n_open && m->open[fd];
}

/* One event is two frames: u16 event and u32 value, then the address, which we do not need. False: none there. */
static bool read_event(struct ctl_monitor *m, uint16_t *event, int32_t *value)
{
    unsigned char body[64], rest[512];
    int more = 0;
    size_t size = sizeof more;

    int n = zmq_recv(m->pair, body, sizeof body, ZMQ_DONTWAIT);
    if (n < 0)
        return false;
    *event = 0;
    if (n == 6) {
        memcpy(event, body, sizeof *event);
        memcpy(value, body + sizeof *event, sizeof *value);
    }
    while (zmq_getsockopt(m->pair, ZMQ_RCVMORE, &more, &size) == 0 && more)
        if (zmq_recv(m->pair, rest, sizeof rest, ZMQ_DONTWAIT) < 0)
            break;
    return true;
}

bool ctl_monitor_read(struct ctl_monitor *m, ctl_monitor_gone_fn on_gone, void *arg)
{
    uint16_t event;
    int32_t fd = -1;

    while (read_event(m, &event, &fd)) {
        if (event == ZMQ_EVENT_ACCEPTED)
            set_open(m, fd, true);
        if (event == ZMQ_EVENT_DISCONNECTED) {
            set_open(m, fd, false);
            on_gone(arg, fd);
        }
    }
    return zmq_errno() == EAGAIN;
}
