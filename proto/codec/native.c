#include "proto/codec/native.h"

#include "common/base/check.h"
#include "common/text/utf8.h"
#include "proto/codec/pb_arena.h"
#include "proto/wire/client.pb-c.h"

#include <inttypes.h>
#include <string.h>

enum { DECODE_BYTES_MAX = 2 * NAT_BYTES_MAX }; /* arena bytes that one decode may take */

/* Kind, and its spelling in the generated types and constants. */
#define PB_LIST(X)                                                                                 \
    X(call, Call, CALL)                                                                            \
    X(drop, Drop, DROP)                                                                            \
    X(ping, Ping, PING)                                                                            \
    X(head, Head, HEAD)                                                                            \
    X(data, Data, DATA)                                                                            \
    X(end, End, END)                                                                               \
    X(pong, Pong, PONG)                                                                            \
    X(refused, Refused, REFUSED)

#define X(name, Name, NAME) +1
_Static_assert(0 PB_LIST(X) == NAT_KIND_N, "PB_LIST and NAT_KIND_LIST have the same kinds");
#undef X

const char *nat_kind_name(enum nat_kind kind)
{
    static const char *const name[] = {
#define X(n) #n,
        NAT_KIND_LIST(X)
#undef X
    };
    return (size_t)kind < N_ELEM(name) ? name[kind] : "?";
}

/* ---- checking: the same on both sides ---- */

/* What goes into a header or a log: UTF-8 without control characters, 1 to cap-1 bytes (0 too if it may be empty). */
static int check_line(const char *what, const char *s, size_t cap, bool may_be_empty, struct err *err)
{
    size_t n = strlen(s);

    if (n >= cap)
        return err_set(err, ERR_RANGE, "field %s is %zu bytes long, limit is %zu", what, n, cap - 1);
    if (n == 0 && !may_be_empty)
        return err_set(err, ERR_RANGE, "field %s is empty", what);
    if (!utf8_is_valid(s, n))
        return err_set(err, ERR_RANGE, "field %s is not UTF-8", what);
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f)
            return err_set(err, ERR_RANGE, "field %s holds a control character", what);
    return 0;
}

static int check_fields(const struct nat_field *field, size_t n, struct err *err)
{
    static const char token[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    if (n > NAT_FIELDS_MAX)
        return err_set(err, ERR_RANGE, "%zu header fields, limit is %d", n, NAT_FIELDS_MAX);
    for (size_t i = 0; i < n; i++) {
        int rc = check_line("name", field[i].name, NAT_NAME_MAX, false, err);
        if (!rc && field[i].name[strspn(field[i].name, token)])
            rc = err_set(err, ERR_RANGE, "field name '%s' is none: letters, digits, '-' and '_'", field[i].name);
        if (!rc)
            rc = check_line(field[i].name, field[i].value, NAT_VALUE_MAX, true, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int check_call(const struct nat_call *m, struct err *err)
{
    int rc = check_line("method", m->method, NAT_METHOD_MAX, false, err);
    if (!rc && m->method[strspn(m->method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")])
        rc = err_set(err, ERR_RANGE, "field method is '%s', not upper-case letters", m->method);
    if (!rc)
        rc = check_line("path", m->path, NAT_PATH_MAX, false, err);
    if (!rc && (m->path[0] != '/' || strpbrk(m->path, " \t#")))
        rc = err_set(err, ERR_RANGE, "field path must begin with '/' and hold no blank and no '#'");
    return rc ? rc : check_fields(m->field, m->n_field, err);
}

static int check_msg(const struct nat_msg *m, struct err *err)
{
    switch (m->kind) {
    case NAT_call:
        return check_call(&m->call, err);
    case NAT_head:
        if (m->head.status < 100 || m->head.status > 599)
            return err_set(err, ERR_RANGE, "field status is %" PRId32 ", allowed is 100 to 599", m->head.status);
        return check_fields(m->head.field, m->head.n_field, err);
    case NAT_refused:
        return check_line("text", m->refused.text, NAT_TEXT_MAX, true, err);
    case NAT_drop:
    case NAT_ping:
    case NAT_data:
    case NAT_end:
    case NAT_pong:
        return 0;
    case NAT_KIND_N:
        break;
    }
    BUG("a message without a kind");
}

/* ---- struct -> protobuf ---- */

static Baton__Client__V1__Field **fill_fields(const struct nat_field *field, size_t n, struct arena *arena)
{
    Baton__Client__V1__Field **list = arena_array(arena, n, sizeof *list);
    for (size_t i = 0; i < n; i++) {
        list[i] = arena_alloc(arena, sizeof *list[i]);
        baton__client__v1__field__init(list[i]);
        list[i]->name = (char *)(uintptr_t)field[i].name;
        list[i]->value = (char *)(uintptr_t)field[i].value;
    }
    return list;
}

static void fill_call(const struct nat_call *m, Baton__Client__V1__Call *p, struct arena *arena)
{
    p->tag = m->tag;
    p->method = (char *)(uintptr_t)m->method;
    p->path = (char *)(uintptr_t)m->path;
    p->n_field = m->n_field;
    p->field = fill_fields(m->field, m->n_field, arena);
    p->body = (ProtobufCBinaryData){.len = m->n_body, .data = (uint8_t *)(uintptr_t)m->body};
}

static void fill_drop(const struct nat_drop *m, Baton__Client__V1__Drop *p, struct arena *arena)
{
    (void)arena;
    p->tag = m->tag;
}

static void fill_ping(const struct nat_ping *m, Baton__Client__V1__Ping *p, struct arena *arena)
{
    (void)arena;
    p->seq = m->seq;
}

static void fill_head(const struct nat_head *m, Baton__Client__V1__Head *p, struct arena *arena)
{
    p->tag = m->tag;
    p->status = m->status;
    p->n_field = m->n_field;
    p->field = fill_fields(m->field, m->n_field, arena);
}

static void fill_data(const struct nat_data *m, Baton__Client__V1__Data *p, struct arena *arena)
{
    (void)arena;
    p->tag = m->tag;
    p->seq = m->seq;
    p->data = (ProtobufCBinaryData){.len = m->n, .data = (uint8_t *)(uintptr_t)m->data};
}

static void fill_end(const struct nat_end *m, Baton__Client__V1__End *p, struct arena *arena)
{
    (void)arena;
    p->tag = m->tag;
    p->n_data = m->n_data;
    p->complete = m->complete;
}

static void fill_pong(const struct nat_pong *m, Baton__Client__V1__Pong *p, struct arena *arena)
{
    (void)arena;
    p->seq = m->seq;
    p->boot = m->boot;
}

static void fill_refused(const struct nat_refused *m, Baton__Client__V1__Refused *p, struct arena *arena)
{
    (void)arena;
    p->tag = m->tag;
    p->text = (char *)(uintptr_t)m->text;
}

int nat_encode(const struct nat_msg *m, struct buf *out, struct err *err)
{
    struct arena arena = {0};
    Baton__Client__V1__Envelope env = BATON__CLIENT__V1__ENVELOPE__INIT;

    int rc = check_msg(m, err);
    if (rc)
        return err_wrap(err, "message %s", nat_kind_name(m->kind));
    env.version = NAT_WIRE_VERSION;
    switch (m->kind) {
#define X(name, Name, NAME)                                                                        \
    case NAT_##name:                                                                               \
        env.body_case = BATON__CLIENT__V1__ENVELOPE__BODY_##NAME;                                  \
        env.name = arena_alloc(&arena, sizeof *env.name);                                          \
        baton__client__v1__##name##__init(env.name);                                               \
        fill_##name(&m->name, env.name, &arena);                                                   \
        break;
        PB_LIST(X)
#undef X
    case NAT_KIND_N: BUG("a message without a kind");
    }
    size_t n = baton__client__v1__envelope__get_packed_size(&env);
    if (n > NAT_BYTES_MAX)
        rc = err_set(err, ERR_RANGE, "message %s of %zu bytes, limit is %d", nat_kind_name(m->kind), n, NAT_BYTES_MAX);
    else
        out->len += baton__client__v1__envelope__pack(&env, (uint8_t *)buf_room(out, n));
    arena_release(&arena);
    return rc;
}

/* ---- protobuf -> struct; strings and bytes stay where protobuf-c has put them: in the arena ---- */

static const struct nat_field *take_fields(Baton__Client__V1__Field **list, size_t n, struct arena *arena)
{
    struct nat_field *field = arena_array(arena, n, sizeof *field);
    for (size_t i = 0; i < n; i++)
        field[i] = (struct nat_field){list[i]->name, list[i]->value};
    return field;
}

/* ERR_FORMAT: no body that we know. */
static int take_body(const Baton__Client__V1__Envelope *env, struct arena *arena, struct nat_msg *m)
{
    switch (env->body_case) {
    case BATON__CLIENT__V1__ENVELOPE__BODY_CALL:
        if (env->call->n_field > NAT_FIELDS_MAX)
            env->call->n_field = NAT_FIELDS_MAX + 1; /* check_msg names the limit; no more are copied */
        *m = (struct nat_msg){
            .kind = NAT_call,
            .call = {env->call->tag, env->call->method, env->call->path,
                     take_fields(env->call->field, env->call->n_field, arena), env->call->n_field,
                     env->call->body.data ? (const void *)env->call->body.data : "", env->call->body.len}};
        return 0;
    case BATON__CLIENT__V1__ENVELOPE__BODY_DROP:
        *m = (struct nat_msg){.kind = NAT_drop, .drop = {env->drop->tag}};
        return 0;
    case BATON__CLIENT__V1__ENVELOPE__BODY_PING:
        *m = (struct nat_msg){.kind = NAT_ping, .ping = {env->ping->seq}};
        return 0;
    case BATON__CLIENT__V1__ENVELOPE__BODY_HEAD:
        if (env->head->n_field > NAT_FIELDS_MAX)
            env->head->n_field = NAT_FIELDS_MAX + 1;
        *m = (struct nat_msg){.kind = NAT_head,
                              .head = {env->head->tag, env->head->status,
                                       take_fields(env->head->field, env->head->n_field, arena), env->head->n_field}};
        return 0;
    case BATON__CLIENT__V1__ENVELOPE__BODY_DATA:
        *m = (struct nat_msg){.kind = NAT_data,
                              .data = {env->data->tag, env->data->seq,
                                       env->data->data.data ? (const void *)env->data->data.data : "",
                                       env->data->data.len}};
        return 0;
    case BATON__CLIENT__V1__ENVELOPE__BODY_END:
        *m = (struct nat_msg){.kind = NAT_end,
                              .end = {env->end->tag, env->end->n_data, env->end->complete != 0}};
        return 0;
    case BATON__CLIENT__V1__ENVELOPE__BODY_PONG:
        *m = (struct nat_msg){.kind = NAT_pong, .pong = {env->pong->seq, env->pong->boot}};
        return 0;
    case BATON__CLIENT__V1__ENVELOPE__BODY_REFUSED:
        *m = (struct nat_msg){.kind = NAT_refused, .refused = {env->refused->tag, env->refused->text}};
        return 0;
    case BATON__CLIENT__V1__ENVELOPE__BODY__NOT_SET:
    case _BATON__CLIENT__V1__ENVELOPE__BODY__CASE_IS_INT_SIZE:
        break;
    }
    return ERR_FORMAT;
}

int nat_decode(const void *data, size_t n, struct arena *arena, struct nat_msg *m, struct err *err)
{
    struct pb_arena pa = {.arena = arena, .left = DECODE_BYTES_MAX};
    ProtobufCAllocator alloc = pb_arena_allocator(&pa);
    struct nat_msg got;

    if (n == 0)
        return err_set(err, ERR_FORMAT, "an empty message");
    if (n > NAT_BYTES_MAX)
        return err_set(err, ERR_RANGE, "message of %zu bytes, limit is %d", n, NAT_BYTES_MAX);
    const Baton__Client__V1__Envelope *env = baton__client__v1__envelope__unpack(&alloc, n, data);
    if (!env || !env->version)
        return err_set(err, ERR_FORMAT, "%zu bytes that are no message of this protocol", n);
    if (env->version != NAT_WIRE_VERSION)
        return err_set(err, ERR_VERSION,
                       "the peer speaks client wire version %" PRIu32 ", this program speaks %d: update the older one",
                       env->version, NAT_WIRE_VERSION);
    if (take_body(env, arena, &got))
        return err_set(err, ERR_FORMAT, "a message of a kind that this version does not know");
    int rc = check_msg(&got, err);
    if (rc)
        return err_wrap(err, "message %s", nat_kind_name(got.kind));
    *m = got;
    return 0;
}
