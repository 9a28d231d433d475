/* Proves without a store: one key is one generation for all who ask while it runs, another body is refused, another
 * tenant is somebody else; a hang-up cancels unless a key or `store` keeps it, up to detached_max; a listener can
 * come back by key and by id, behind any event; a request is canceled by its x-request-id, and its listeners told.
 * How: real HTTP against the front on a scripted back. With a store: tests/e2e/durable.py.
 */
#include "common/base/check.h"
#include "tests/unit/controller/api/rig.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BODY(more) "{\"model\":\"org/tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]," more "\"seed\":1}"
#define KEY(k)     "Idempotency-Key: " k "\r\n"

static const char path[] = "/v1/chat/completions";

static void post(struct rig *rig, const char *headers, const char *body, struct answer *a)
{
    int fd = rig_dial(rig);
    rig_send(fd, "POST", path, headers, body);
    rig_read(fd, a);
    close(fd);
}

/* Open a stream and wait until its first words are there. */
static int begin(struct rig *rig, const char *headers, const char *body, struct buf *raw)
{
    int fd = rig_dial(rig);
    rig_send(fd, "POST", path, headers, body);
    assert_true(rig_read_until(fd, raw, "one"));
    return fd;
}

/* A script that gives a few words and then nothing until the test says so. */
static const struct script stuck = {.text = {"</think>one two"}, .n_text = 1, .batch = 1, .end = CTL_END_none};

static void copy_after(const char *text, const char *mark, char *out, size_t size)
{
    const char *p = strstr(text, mark);
    assert_non_null(p);
    p += strlen(mark);
    size_t n = strcspn(p, "\"\n");
    assert_true(n < size);
    memcpy(out, p, n);
    out[n] = 0;
}

static void test_one_key_is_one_generation(void **state)
{
    (void)state;
    struct rig *rig = rig_open(NULL);
    struct script s = {.text = {"</think>answer"}, .n_text = 1, .end = CTL_END_stop, .stall_ms = 300};
    struct answer a, b, other;
    char id[64], again[64];

    rig_script(rig, &s);
    int first = rig_dial(rig), second = rig_dial(rig);
    rig_send(first, "POST", path, KEY("k"), BODY(""));
    rig_send(second, "POST", path, KEY("k"), BODY(" \"n\" : 1 ,"));
    rig_read(second, &other); /* another body: at once */
    assert_int_equal(other.status, 409);
    assert_non_null(strstr(other.body.data, "conflict_error"));
    rig_send(second, "POST", path, KEY("k"), BODY("\"stream\":true,"));
    post(rig, KEY("k") "Authorization: Bearer b\r\n", BODY("\"n\":1,"), &b);
    assert_int_equal(b.status, 200); /* another tenant */
    answer_release(&b);
    rig_read(first, &a);
    rig_read(second, &b);
    assert_true(a.status == 200 && b.status == 200);
    copy_after(a.body.data, "\"id\":\"", id, sizeof id);
    copy_after(b.body.data, "\"id\":\"", again, sizeof again);
    assert_string_equal(id, again);
    assert_int_equal(rig_n_submitted(rig), 2);
    answer_release(&a);
    answer_release(&b);
    answer_release(&other);
    close(first);
    close(second);
    rig_close(&rig);
}

static void few(struct ctl_config *c)
{
    c->limit.detached_max = 1;
}

static void test_hang_up(void **state)
{
    (void)state;
    struct rig *rig = rig_open(few);
    struct buf raw = {0};

    rig_script(rig, &stuck);
    close(begin(rig, NULL, BODY("\"stream\":true,"), &raw));
    while (rig_n_dropped(rig) < 1)
        usleep(1000);
    buf_clear(&raw);
    close(begin(rig, KEY("a"), BODY("\"stream\":true,"), &raw));
    buf_clear(&raw);
    close(begin(rig, NULL, BODY("\"stream\":true,\"store\":true,"), &raw)); /* one too many */
    while (rig_n_dropped(rig) < 2)
        usleep(1000);
    usleep(20000);
    assert_int_equal(rig_n_dropped(rig), 2);
    /* It is still there. */
    buf_clear(&raw);
    int fd = begin(rig, KEY("a"), BODY("\"stream\":true,"), &raw);
    assert_int_equal(rig_n_submitted(rig), 3);
    close(fd);
    buf_release(&raw);
    rig_close(&rig);
}

static void test_back_behind_an_event(void **state)
{
    (void)state;
    struct rig *rig = rig_open(NULL);
    struct buf raw = {0}, again = {0};
    struct answer a;
    char id[64], event[64], head[256], get[128];

    rig_script(rig, &stuck);
    int fd = begin(rig, KEY("k"), BODY("\"stream\":true,"), &raw);
    assert_true(rig_read_until(fd, &raw, "two"));
    copy_after(raw.data, "\"id\":\"", id, sizeof id);
    copy_after(raw.data, "\nid: ", event, sizeof event); /* of the role */
    event[strlen(event) - 1] = '1';
    snprintf(head, sizeof head, KEY("k") "Last-Event-ID: %s\r\n", event);
    int back = rig_dial(rig);
    rig_send(back, "POST", path, head, BODY("\"stream\":true,"));
    assert_true(rig_read_until(back, &again, "two"));
    event[strlen(event) - 1] = '2';
    const char *p = strstr(again.data, "\nid: ");
    assert_memory_equal(p + 5, event, strlen(event)); /* the very next one */
    assert_null(strstr(again.data, "\"role\""));
    close(back);
    /* The same by its id; whole: it runs. */
    snprintf(get, sizeof get, "%s/%s?stream=true", path, id);
    back = rig_dial(rig);
    rig_send(back, "GET", get, NULL, NULL);
    buf_clear(&again);
    assert_true(rig_read_until(back, &again, "two"));
    assert_non_null(strstr(again.data, "\"role\""));
    close(back);
    snprintf(get, sizeof get, "%s/%s", path, id);
    rig_ask(rig, "GET", get, NULL, &a);
    assert_int_equal(a.status, 202);
    assert_non_null(strstr(a.body.data, "in_progress"));
    answer_release(&a);
    rig_ask(rig, "GET", "/v1/chat/completions/nothing", NULL, &a);
    assert_int_equal(a.status, 404);
    answer_release(&a);
    /* Ids that do not fit. */
    post(rig, KEY("k") "Last-Event-ID: 0123456789abcdef01234567-1\r\n", BODY("\"stream\":true,"), &a);
    assert_int_equal(a.status, 409);
    answer_release(&a);
    post(rig, "Last-Event-ID: x-1\r\n", BODY("\"stream\":true,"), &a);
    assert_int_equal(a.status, 409);
    answer_release(&a);
    close(fd);
    buf_release(&raw);
    buf_release(&again);
    rig_close(&rig);
}

/* Ask for the end of what has this x-request-id; the answer's status. */
static int cancel(struct rig *rig, const char *id, const char *headers, const char *then)
{
    char at[160];
    struct answer a;
    int fd = rig_dial(rig);

    snprintf(at, sizeof at, "/v1/requests/%s/%s", id, then);
    rig_send(fd, "POST", at, headers, "");
    rig_read(fd, &a);
    int status = a.status;
    if (status == 200)
        assert_non_null(strstr(a.body.data, "\"status\":\"canceled\",\"generation\":\"chatcmpl-"));
    else
        assert_non_null(strstr(a.body.data, "\"error\""));
    answer_release(&a);
    close(fd);
    return status;
}

static void request_id(const struct buf *raw, char id[64])
{
    copy_after(raw->data, "x-request-id: ", id, 64);
    id[strcspn(id, "\r")] = 0;
    assert_memory_equal(id, "req_", 4);
}

static void test_cancel(void **state)
{
    (void)state;
    struct rig *rig = rig_open(NULL);
    struct buf raw = {0}, second = {0}, rest = {0};
    struct answer a;
    char id[64], id2[64];

    rig_script(rig, &stuck);
    /* Two who listen: both are told. */
    int fd = begin(rig, KEY("k"), BODY("\"stream\":true,"), &raw);
    int joined = begin(rig, KEY("k"), BODY("\"stream\":true,"), &second);
    request_id(&raw, id);
    request_id(&second, id2);
    assert_string_not_equal(id, id2);
    assert_int_equal(cancel(rig, "req_0123456789abcdef01234567", NULL, "cancel"), 404);
    assert_int_equal(cancel(rig, "req_", NULL, "cancel"), 404);
    assert_int_equal(cancel(rig, id, NULL, "cancels"), 404);
    assert_int_equal(cancel(rig, id, "Authorization: Bearer b\r\n", "cancel"), 404); /* somebody else's */
    assert_int_equal(rig_n_dropped(rig), 0);
    assert_int_equal(cancel(rig, id2, NULL, "cancel"), 200);
    rig_read_until(fd, &rest, "\"canceled\"");
    assert_non_null(strstr(rest.data, "the request was canceled by a client"));
    buf_clear(&rest);
    assert_true(rig_read_until(joined, &rest, "\"canceled\""));
    while (rig_n_dropped(rig) < 1)
        usleep(1000);
    assert_int_equal(cancel(rig, id, NULL, "cancel"), 404); /* it does not run any more */
    close(fd);
    close(joined);
    /* Its client is gone; the id without its prefix. */
    buf_clear(&raw);
    close(begin(rig, KEY("gone"), BODY("\"stream\":true,"), &raw));
    request_id(&raw, id);
    usleep(50000);
    assert_int_equal(rig_n_dropped(rig), 1); /* it goes on */
    assert_int_equal(cancel(rig, id + 4, NULL, "cancel"), 200);
    while (rig_n_dropped(rig) < 2)
        usleep(1000);
    /* One who waits for the whole answer gets a status. */
    buf_clear(&raw);
    fd = begin(rig, KEY("w"), BODY("\"stream\":true,"), &raw);
    request_id(&raw, id);
    int whole = rig_dial(rig);
    rig_send(whole, "POST", path, KEY("w"), BODY("\"stream\":false,"));
    usleep(20000);
    assert_int_equal(cancel(rig, id, NULL, "cancel"), 200);
    rig_read(whole, &a);
    assert_int_equal(a.status, 400);
    assert_non_null(strstr(a.head.data, "x-should-retry: false"));
    answer_release(&a);
    close(whole);
    close(fd);
    buf_release(&raw);
    buf_release(&second);
    buf_release(&rest);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_key_is_one_generation), cmocka_unit_test(test_hang_up),
                                       cmocka_unit_test(test_back_behind_an_event), cmocka_unit_test(test_cancel)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
