/* Proves: every kind of message between a native client and the controller survives the wire at its smallest and its
 * largest; each limit holds on both sides, one step outside is refused with the field's name; no truncation and no
 * noise is taken for something else or read outside; another wire version is named.
 * How: each outside message is also put together by hand, as a peer without checks would send it. */
#include "proto/codec/native.h"
#include "common/base/check.h"
#include "common/mem/mem.h"
#include "proto/wire/client.pb-c.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>

static char long_name[NAT_NAME_MAX + 1], long_value[NAT_VALUE_MAX + 1], long_method[NAT_METHOD_MAX + 1];
static char long_path[NAT_PATH_MAX + 1], long_text[NAT_TEXT_MAX + 1];
static struct nat_field many[NAT_FIELDS_MAX + 1];

static void fill(char *to, size_t n, char c)
{
    memset(to, c, n);
    to[n] = 0;
}

/* Texts of the largest legal length; the arrays have room for one more. */
static int set_up(void **state)
{
    (void)state;
    fill(long_name, NAT_NAME_MAX - 1, 'n');
    fill(long_value, NAT_VALUE_MAX - 1, 'v');
    fill(long_method, NAT_METHOD_MAX - 1, 'M');
    fill(long_path, NAT_PATH_MAX - 1, 'p');
    long_path[0] = '/';
    fill(long_text, NAT_TEXT_MAX - 1, 't');
    for (int i = 0; i <= NAT_FIELDS_MAX; i++)
        many[i] = (struct nat_field){i % 2 ? long_name : "a", i % 2 ? long_value : ""};
    return 0;
}

static struct nat_msg smallest(enum nat_kind kind)
{
    struct nat_msg m = {.kind = kind};
    if (kind == NAT_call)
        m.call = (struct nat_call){.method = "G", .path = "/", .body = ""};
    if (kind == NAT_head)
        m.head.status = 100;
    if (kind == NAT_data)
        m.data.data = "";
    if (kind == NAT_refused)
        m.refused.text = "";
    return m;
}

static struct nat_msg largest(enum nat_kind kind)
{
    static char bytes[1 << 20];
    struct nat_msg m = {.kind = kind};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)i; /* NUL too */
    switch (kind) {
    case NAT_call:
        m.call = (struct nat_call){UINT64_MAX, long_method, long_path, many, NAT_FIELDS_MAX, bytes, sizeof bytes};
        break;
    case NAT_drop: m.drop.tag = UINT64_MAX; break;
    case NAT_ping: m.ping.seq = UINT64_MAX; break;
    case NAT_head: m.head = (struct nat_head){UINT64_MAX, 599, many, NAT_FIELDS_MAX}; break;
    case NAT_data: m.data = (struct nat_data){UINT64_MAX, UINT64_MAX, bytes, sizeof bytes}; break;
    case NAT_end: m.end = (struct nat_end){UINT64_MAX, UINT64_MAX, true}; break;
    case NAT_pong: m.pong = (struct nat_pong){UINT64_MAX, UINT64_MAX}; break;
    case NAT_refused: m.refused = (struct nat_refused){UINT64_MAX, long_text}; break;
    case NAT_KIND_N: break;
    }
    return m;
}

static struct buf encoded(const struct nat_msg *m)
{
    struct buf b = {0};
    struct err err = {0};
    if (nat_encode(m, &b, &err))
        fail_msg("%s", err.text);
    return b;
}

static void same_fields(const struct nat_field *a, size_t n_a, const struct nat_field *b, size_t n_b)
{
    assert_int_equal(n_a, n_b);
    for (size_t i = 0; i < n_a; i++) {
        assert_string_equal(a[i].name, b[i].name);
        assert_string_equal(a[i].value, b[i].value);
    }
}

static void same(const struct nat_msg *a, const struct nat_msg *b)
{
    assert_int_equal(a->kind, b->kind);
    switch (a->kind) {
    case NAT_call:
        assert_true(a->call.tag == b->call.tag);
        assert_string_equal(a->call.method, b->call.method);
        assert_string_equal(a->call.path, b->call.path);
        same_fields(a->call.field, a->call.n_field, b->call.field, b->call.n_field);
        assert_int_equal(a->call.n_body, b->call.n_body);
        assert_memory_equal(a->call.body, b->call.body, a->call.n_body);
        break;
    case NAT_drop: assert_true(a->drop.tag == b->drop.tag); break;
    case NAT_ping: assert_true(a->ping.seq == b->ping.seq); break;
    case NAT_head:
        assert_true(a->head.tag == b->head.tag && a->head.status == b->head.status);
        same_fields(a->head.field, a->head.n_field, b->head.field, b->head.n_field);
        break;
    case NAT_data:
        assert_true(a->data.tag == b->data.tag && a->data.seq == b->data.seq);
        assert_int_equal(a->data.n, b->data.n);
        assert_memory_equal(a->data.data, b->data.data, a->data.n);
        break;
    case NAT_end:
        assert_true(a->end.tag == b->end.tag && a->end.n_data == b->end.n_data && a->end.complete == b->end.complete);
        break;
    case NAT_pong: assert_true(a->pong.seq == b->pong.seq && a->pong.boot == b->pong.boot); break;
    case NAT_refused:
        assert_true(a->refused.tag == b->refused.tag);
        assert_string_equal(a->refused.text, b->refused.text);
        break;
    case NAT_KIND_N: fail();
    }
}

static void test_round_trip(void **state)
{
    struct arena arena = {0};
    struct nat_msg back;
    struct err err = {0};
    (void)state;
    for (int k = 0; k < 2 * NAT_KIND_N; k++) {
        struct nat_msg m = k % 2 ? largest(k / 2) : smallest(k / 2);
        struct buf b = encoded(&m);
        assert_int_equal(nat_decode(b.data, b.len, &arena, &back, &err), 0);
        same(&m, &back);
        buf_release(&b);
        arena_reset(&arena);
    }
    arena_release(&arena);
}

/* The bytes of an envelope, from whoever checks nothing. */
static struct buf raw(Baton__Client__V1__Envelope *env)
{
    struct buf b = {0};
    size_t n = baton__client__v1__envelope__get_packed_size(env);
    b.len = baton__client__v1__envelope__pack(env, (uint8_t *)buf_room(&b, n));
    return b;
}

static void not_decoded(struct buf *b, int code, const char *says)
{
    struct arena arena = {0};
    struct nat_msg m = {.kind = NAT_KIND_N};
    struct err err = {0};
    assert_int_equal(nat_decode(b->data, b->len, &arena, &m, &err), code);
    if (!strstr(err.text, says))
        fail_msg("'%s' does not say '%s'", err.text, says);
    assert_int_equal(m.kind, NAT_KIND_N); /* untouched on error */
    buf_release(b);
    arena_release(&arena);
}

/* Refused by our encoder, which writes nothing then. */
static void not_encoded(const struct nat_msg *m, const char *says)
{
    struct buf b = {0};
    struct err err = {0};
    assert_int_equal(nat_encode(m, &b, &err), ERR_RANGE);
    if (!strstr(err.text, says) || !strstr(err.text, nat_kind_name(m->kind)))
        fail_msg("'%s' does not say '%s'", err.text, says);
    assert_int_equal(b.len, 0);
}

static void call_refused(const char *method, const char *path, const struct nat_field *field, size_t n_field,
                         const char *says)
{
    Baton__Client__V1__Envelope env = BATON__CLIENT__V1__ENVELOPE__INIT;
    Baton__Client__V1__Call call = BATON__CLIENT__V1__CALL__INIT;
    Baton__Client__V1__Field *list[NAT_FIELDS_MAX + 1], one[NAT_FIELDS_MAX + 1];
    struct nat_msg m = {.kind = NAT_call,
                        .call = {.method = method, .path = path, .field = field, .n_field = n_field, .body = ""}};
    not_encoded(&m, says);
    env.version = NAT_WIRE_VERSION;
    env.body_case = BATON__CLIENT__V1__ENVELOPE__BODY_CALL;
    env.call = &call;
    call.method = (char *)(uintptr_t)method;
    call.path = (char *)(uintptr_t)path;
    call.n_field = n_field;
    call.field = list;
    for (size_t i = 0; i < n_field; i++) {
        list[i] = &one[i];
        baton__client__v1__field__init(&one[i]);
        one[i].name = (char *)(uintptr_t)field[i].name;
        one[i].value = (char *)(uintptr_t)field[i].value;
    }
    struct buf b = raw(&env);
    not_decoded(&b, ERR_RANGE, says);
}

static void test_call_limits(void **state)
{
    static const struct {
        const char *method, *path, *says;
    } row[] = {
        {"", "/", "method"},        {"get", "/", "method"},     {"GET ", "/", "method"},   {"G\nT", "/", "method"},
        {"GET", "", "path"},        {"GET", "x", "path"},       {"GET", "/a b", "path"},   {"GET", "/a#b", "path"},
        {"GET", "/a\r\nb", "path"}, {"GET", "/\xff", "path"},   {"GET", "/\x7f", "path"},  {"GET", "/\t", "path"},
    };
    static const struct {
        struct nat_field field;
        const char *says;
    } bad[] = {{{"", "v"}, "name"},      {{"a b", "v"}, "field name"}, {{"a:", "v"}, "field name"},
               {{"\xc3\xa4", "v"}, "field name"}, {{"a", "1\r\nb: 2"}, "field a"}, {{"a", "\xc3("}, "field a"}};
    (void)state;
    for (size_t i = 0; i < N_ELEM(row); i++)
        call_refused(row[i].method, row[i].path, NULL, 0, row[i].says);
    for (size_t i = 0; i < N_ELEM(bad); i++)
        call_refused("GET", "/", &bad[i].field, 1, bad[i].says);
    call_refused("GET", "/", many, NAT_FIELDS_MAX + 1, "header fields");
    fill(long_method, NAT_METHOD_MAX, 'M');
    call_refused(long_method, "/", NULL, 0, "method");
    fill(long_path + 1, NAT_PATH_MAX - 1, 'p');
    call_refused("GET", long_path, NULL, 0, "path");
    fill(long_name, NAT_NAME_MAX, 'n');
    call_refused("GET", "/", &(struct nat_field){long_name, ""}, 1, "name");
    fill(long_value, NAT_VALUE_MAX, 'v');
    call_refused("GET", "/", &(struct nat_field){"a", long_value}, 1, "field a");
    set_up(NULL);
}

static void test_answer_limits(void **state)
{
    Baton__Client__V1__Envelope env = BATON__CLIENT__V1__ENVELOPE__INIT;
    Baton__Client__V1__Head head = BATON__CLIENT__V1__HEAD__INIT;
    Baton__Client__V1__Refused no = BATON__CLIENT__V1__REFUSED__INIT;
    static const int32_t status[] = {INT32_MIN, -1, 0, 99, 600, INT32_MAX};
    (void)state;
    env.version = NAT_WIRE_VERSION;
    env.body_case = BATON__CLIENT__V1__ENVELOPE__BODY_HEAD;
    env.head = &head;
    for (size_t i = 0; i < N_ELEM(status); i++) {
        not_encoded(&(struct nat_msg){.kind = NAT_head, .head = {.status = status[i]}}, "status");
        head.status = status[i];
        struct buf b = raw(&env);
        not_decoded(&b, ERR_RANGE, "status");
    }
    not_encoded(&(struct nat_msg){.kind = NAT_head, .head = {0, 200, many, NAT_FIELDS_MAX + 1}}, "header fields");
    fill(long_text, NAT_TEXT_MAX, 't');
    not_encoded(&(struct nat_msg){.kind = NAT_refused, .refused = {0, long_text}}, "text");
    env.body_case = BATON__CLIENT__V1__ENVELOPE__BODY_REFUSED;
    env.refused = &no;
    no.text = long_text;
    struct buf b = raw(&env);
    not_decoded(&b, ERR_RANGE, "text");
    set_up(NULL);
}

/* A message as a whole; 64 MiB of it are copied, so this is done once. */
static void test_size(void **state)
{
    char *body = mem_zalloc(NAT_BYTES_MAX + 1);
    struct nat_msg m = {.kind = NAT_call, .call = {.method = "POST", .path = "/", .body = body}};
    struct arena arena = {0};
    struct err err = {0};
    struct buf b;
    (void)state;
    m.call.n_body = NAT_BYTES_MAX - 64;
    b = encoded(&m);
    assert_int_equal(nat_decode(b.data, b.len, &arena, &m, &err), 0);
    assert_int_equal(m.call.n_body, NAT_BYTES_MAX - 64);
    buf_release(&b);
    arena_release(&arena);
    m = (struct nat_msg){.kind = NAT_call, .call = {.method = "POST", .path = "/", .body = body}};
    m.call.n_body = NAT_BYTES_MAX;
    not_encoded(&m, "limit is");
    assert_int_equal(nat_decode(body, NAT_BYTES_MAX + 1, &arena, &m, &err), ERR_RANGE);
    mem_free(body);
    arena_release(&arena);
}

static void test_versions(void **state)
{
    Baton__Client__V1__Envelope env = BATON__CLIENT__V1__ENVELOPE__INIT;
    Baton__Client__V1__Ping ping = BATON__CLIENT__V1__PING__INIT;
    struct buf b = {0};
    (void)state;
    not_decoded(&b, ERR_FORMAT, "empty");
    env.body_case = BATON__CLIENT__V1__ENVELOPE__BODY_PING;
    env.ping = &ping;
    b = raw(&env);
    not_decoded(&b, ERR_FORMAT, "no message of this protocol"); /* no version at all */
    env.version = 7;
    b = raw(&env);
    not_decoded(&b, ERR_VERSION, "version 7, this program speaks 1");
    env.version = NAT_WIRE_VERSION;
    env.body_case = BATON__CLIENT__V1__ENVELOPE__BODY__NOT_SET;
    b = raw(&env);
    not_decoded(&b, ERR_FORMAT, "does not know");
}

/* Cut short, one byte changed, nothing but noise: refused or some legal message, and never read outside (sanitizers).
 */
static void test_hostile(void **state)
{
    struct arena arena = {0};
    struct nat_msg m;
    struct err err = {0};
    (void)state;
    srand(7);
    for (int k = 0; k < NAT_KIND_N; k++) {
        struct nat_msg good = largest(k);
        if (k == NAT_call)
            good.call.n_body = 9, good.call.n_field = 2;
        if (k == NAT_data)
            good.data.n = 9;
        if (k == NAT_head)
            good.head.n_field = 2;
        struct buf b = encoded(&good), again = {0};
        for (size_t n = 0; n < b.len; n++) {
            char *part = mem_dup(b.data, n); /* so that a sanitizer sees its end */
            int rc = nat_decode(part, n, &arena, &m, &err);
            /* The version alone, cut before the body, is the only thing that protobuf takes for whole. */
            assert_int_not_equal(rc, 0);
            mem_free(part);
            arena_reset(&arena);
        }
        for (int i = 0; i < 4000; i++) {
            char *bad = mem_dup(b.data, b.len);
            bad[(size_t)rand() % b.len] = (char)rand();
            if (i % 2)
                bad[(size_t)rand() % b.len] = (char)rand();
            if (nat_decode(bad, b.len, &arena, &m, &err) == 0)
                assert_int_equal(nat_encode(&m, &again, &err), 0); /* whatever it is, it is within the limits */
            buf_clear(&again);
            mem_free(bad);
            arena_reset(&arena);
        }
        buf_release(&again);
        buf_release(&b);
    }
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_call_limits), cmocka_unit_test(test_answer_limits),
        cmocka_unit_test(test_size),       cmocka_unit_test(test_versions),    cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
