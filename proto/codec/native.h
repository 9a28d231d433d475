/* proto/codec/native.h - the messages between a native client and the controller as plain structs.
 * Owns:     nothing; variable parts of a decoded message lie in the arena given to nat_decode.
 * Lifetime: of that arena.
 * Thread:   any.
 * Limits:   the NAT_*_MAX below, checked on both sides.
 *
 * A call is an HTTP request in other clothes (docs/adr/0004). The client chooses its tag; tags of calls that are open
 * at once differ. Data messages of an answer are numbered from 0, so that one that was lost with a connection is
 * noticed; End tells how many there were. The rules of version are those of msg.h.
 */
#ifndef PROTO_CODEC_NATIVE_H
#define PROTO_CODEC_NATIVE_H

#include "common/base/err.h"
#include "common/mem/arena.h"
#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NAT_WIRE_VERSION = 1,
    NAT_BYTES_MAX = 64 << 20, /* a message */
    NAT_FIELDS_MAX = 64,
    NAT_NAME_MAX = 128,       /* bytes of a field's name, with NUL; letters, digits, '-', '_' */
    NAT_VALUE_MAX = 4096,     /* bytes of its value, with NUL; no control characters */
    NAT_METHOD_MAX = 16,
    NAT_PATH_MAX = 2048,      /* with its query */
    NAT_TEXT_MAX = 512,
};

#define NAT_KIND_LIST(X) X(call) X(drop) X(ping) X(head) X(data) X(end) X(pong) X(refused)

enum nat_kind {
#define X(name) NAT_##name,
    NAT_KIND_LIST(X)
#undef X
        NAT_KIND_N
};

struct nat_field {
    const char *name, *value;
};

struct nat_call {
    uint64_t tag;
    const char *method, *path;
    const struct nat_field *field; /* [n_field] */
    size_t n_field;
    const void *body; /* [n_body] */
    size_t n_body;
};

struct nat_drop {
    uint64_t tag;
};

struct nat_ping {
    uint64_t seq;
};

struct nat_head {
    uint64_t tag;
    int32_t status; /* 100..599 */
    const struct nat_field *field;
    size_t n_field;
};

struct nat_data {
    uint64_t tag, seq;
    const void *data;
    size_t n;
};

struct nat_end {
    uint64_t tag, n_data;
    bool complete; /* false: the answer was cut off, as a closed connection does */
};

struct nat_pong {
    uint64_t seq, boot;
};

/* tag 0: about the client as a whole. */
struct nat_refused {
    uint64_t tag;
    const char *text;
};

struct nat_msg {
    enum nat_kind kind;
    union {
        struct nat_call call;
        struct nat_drop drop;
        struct nat_ping ping;
        struct nat_head head;
        struct nat_data data;
        struct nat_end end;
        struct nat_pong pong;
        struct nat_refused refused;
    };
};

const char *nat_kind_name(enum nat_kind kind);

/* Append the encoded message to out. ERR_RANGE: a field outside its limit, named. */
int nat_encode(const struct nat_msg *m, struct buf *out, struct err *err);

/* Decode n bytes from a peer. 0 and *m; ERR_VERSION (both versions are named), ERR_FORMAT, ERR_RANGE. */
int nat_decode(const void *data, size_t n, struct arena *arena, struct nat_msg *m, struct err *err);

#endif
