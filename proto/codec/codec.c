#include "proto/codec/msg.h"

#include "common/base/check.h"
#include "common/text/utf8.h"
#include "proto/codec/pb_arena.h"
#include "proto/wire/baton.pb-c.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

/* Kind, and its spelling in the generated types and constants. */
#define PB_LIST(X)                                                                                 \
    X(hello, Hello, HELLO)                                                                         \
    X(heartbeat, Heartbeat, HEARTBEAT)                                                             \
    X(tokens, Tokens, TOKENS)                                                                      \
    X(finished, Finished, FINISHED)                                                                \
    X(failed, Failed, FAILED)                                                                      \
    X(reclaim, Reclaim, RECLAIM)                                                                   \
    X(bye, Bye, BYE)                                                                               \
    X(welcome, Welcome, WELCOME)                                                                   \
    X(refused, Refused, REFUSED)                                                                   \
    X(generate, Generate, GENERATE)                                                                \
    X(cancel, Cancel, CANCEL)                                                                      \
    X(drain, Drain, DRAIN)                                                                         \
    X(ping, Ping, PING)

/* The plain fields of each message, once: checking, packing and unpacking are made from these lists.
 * U unsigned without a limit, I(field, min, max) integer, F(field, min, max) finite number, N(field, bytes at
 * least) name, T text, B bool, E(field, number of values) enum. Arrays are done by hand below. */
#define FIELDS_hello(U, I, F, N, T, B, E)                                                          \
    N(worker, 1) U(boot) I(pid, 0, INT64_MAX) U(fingerprint) I(n_vocab, 1, MSG_VOCAB_MAX)          \
    I(n_ranks, 1, MSG_RANKS_MAX) I(n_seq_max, 1, MSG_SEQ_MAX) I(kv_blocks, 0, INT64_MAX)           \
    I(context_max, 1, INT64_MAX) N(backend, 0) N(numerics, 0) N(domain, 0)
#define FIELDS_heartbeat(U, I, F, N, T, B, E)                                                      \
    U(epoch) U(seq) I(running, 0, INT32_MAX) I(waiting, 0, INT32_MAX)                              \
    I(kv_blocks_free, 0, INT64_MAX) I(kv_blocks, 0, INT64_MAX) I(step_us, 0, INT64_MAX)            \
    U(tokens_total) U(prefill_total) B(draining) I(kv_block_bytes, 0, INT64_MAX)                  \
    I(seq_bytes, 0, INT64_MAX) U(cached_total) B(news_all)
#define FIELDS_tokens(U, I, F, N, T, B, E)                                                         \
    U(epoch) N(request, 1) U(attempt) I(first_index, 0, MSG_TOKENS_MAX)
#define FIELDS_finished(U, I, F, N, T, B, E)                                                       \
    U(epoch) N(request, 1) U(attempt) E(reason, MSG_FINISH_N)                                      \
    I(stop_id, -1, MSG_VOCAB_MAX - 1) I(n_output, 0, MSG_TOKENS_MAX)                               \
    I(cached_tok, 0, MSG_TOKENS_MAX)
#define FIELDS_failed(U, I, F, N, T, B, E)                                                         \
    U(epoch) N(request, 1) U(attempt) E(cls, MSG_FAIL_N) T(text)
#define FIELDS_reclaim(U, I, F, N, T, B, E)                                                        \
    U(epoch) I(deadline_ms, -1, MSG_DEADLINE_MS_MAX) N(source, 0) B(revocable) B(revoked)
#define FIELDS_bye(U, I, F, N, T, B, E) U(epoch) T(text)
#define FIELDS_welcome(U, I, F, N, T, B, E)                                                        \
    U(epoch) I(heartbeat_ms, 1, MSG_INTERVAL_MS_MAX) I(lost_ms, 1, MSG_INTERVAL_MS_MAX)
#define FIELDS_refused(U, I, F, N, T, B, E) E(reason, MSG_REFUSE_N) T(text)
#define FIELDS_sampling(U, I, F, N, T, B, E)                                                       \
    F(temperature, 0, FLT_MAX_ROUND) F(top_p, 0, 1) F(min_p, 0, 1) I(top_k, 0, INT32_MAX)          \
    F(presence_penalty, -MSG_PENALTY_ABS_MAX, MSG_PENALTY_ABS_MAX)                                 \
    F(frequency_penalty, -MSG_PENALTY_ABS_MAX, MSG_PENALTY_ABS_MAX)                                \
    F(repetition_penalty, 0, FLT_MAX_ROUND) U(seed) I(n_top, 0, MSG_TOP_MAX)
#define FIELDS_generate(U, I, F, N, T, B, E)                                                       \
    U(epoch) N(request, 1) U(attempt) I(n_committed, 0, MSG_TOKENS_MAX)                            \
    I(max_output, 1, MSG_TOKENS_MAX) I(min_output, 0, MSG_TOKENS_MAX) B(ignore_eos)                \
    I(priority, INT32_MIN, INT32_MAX) I(deadline_ms, INT64_MIN, MSG_DEADLINE_MS_MAX)             \
    N(tenant, 0)
#define FIELDS_cancel(U, I, F, N, T, B, E) U(epoch) N(request, 1) U(attempt)
#define FIELDS_drain(U, I, F, N, T, B, E) U(epoch) B(on)
#define FIELDS_ping(U, I, F, N, T, B, E) U(epoch)

enum { ENCODE_SCRATCH = 1024 }; /* bytes on the stack: enough for every message without long arrays */

enum { FLT_MAX_ROUND = 1000000 }; /* a temperature or penalty above it is a mistake, not a wish */

#define X(name, Name, NAME) +1
_Static_assert(0 PB_LIST(X) == MSG_KIND_N, "PB_LIST and MSG_KIND_LIST have the same kinds");
#undef X

const char *msg_kind_name(enum msg_kind kind)
{
    static const char *const name[] = {
#define X(n) #n,
        MSG_KIND_LIST(X)
#undef X
    };
    return (size_t)kind < N_ELEM(name) ? name[kind] : "?";
}

const char *msg_refuse_name(enum msg_refuse reason)
{
    static const char *const name[] = {
#define X(n) #n,
        MSG_REFUSE_LIST(X)
#undef X
    };
    return (size_t)reason < N_ELEM(name) ? name[reason] : "?";
}

const char *msg_fail_name(enum msg_fail cls)
{
    static const char *const name[] = {
#define X(n) #n,
        MSG_FAIL_LIST(X)
#undef X
    };
    return (size_t)cls < N_ELEM(name) ? name[cls] : "?";
}

/* ---- checking ---- */

static int check_int(const char *field, int64_t v, int64_t min, int64_t max, struct err *err)
{
    if (v >= min && v <= max)
        return 0;
    return err_set(err, ERR_RANGE, "field %s is %" PRId64 ", allowed is %" PRId64 " to %" PRId64, field, v, min, max);
}

static int check_num(const char *field, double v, double min, double max, struct err *err)
{
    if (v >= min && v <= max) /* NaN is not */
        return 0;
    return err_set(err, ERR_RANGE, "field %s is %g, allowed is %g to %g", field, v, min, max);
}

/* A name goes into logs and keys: no control characters, valid UTF-8. A text is for people: UTF-8 only. */
static int check_str(const char *field, const char *s, size_t cap, size_t min, bool is_name, struct err *err)
{
    const char *end = memchr(s, 0, cap);
    if (!end)
        return err_set(err, ERR_RANGE, "field %s is not terminated within %zu bytes", field, cap);
    size_t n = (size_t)(end - s);
    if (n < min)
        return err_set(err, ERR_RANGE, "field %s is empty", field);
    if (!utf8_is_valid(s, n))
        return err_set(err, ERR_RANGE, "field %s is not UTF-8", field);
    for (size_t i = 0; is_name && i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return err_set(err, ERR_RANGE, "field %s holds a control character", field);
    return 0;
}

#define CHECK(call)                                                                                \
    do {                                                                                           \
        int rc_ = (call);                                                                          \
        if (rc_)                                                                                   \
            return rc_;                                                                            \
    } while (0);
#define CHECK_U(f)
#define CHECK_B(f)
#define CHECK_I(f, min, max) CHECK(check_int(#f, m->f, min, max, err))
#define CHECK_F(f, min, max) CHECK(check_num(#f, (double)m->f, min, max, err))
#define CHECK_N(f, min)      CHECK(check_str(#f, m->f, sizeof m->f, min, true, err))
#define CHECK_T(f)           CHECK(check_str(#f, m->f, sizeof m->f, 0, false, err))
#define CHECK_E(f, n)        CHECK(check_int(#f, (int64_t)m->f, 0, (n) - 1, err))

#define X(name)                                                                                    \
    static int check_plain_##name(const struct msg_##name *m, struct err *err)                     \
    {                                                                                              \
        (void)m, (void)err;                                                                        \
        FIELDS_##name(CHECK_U, CHECK_I, CHECK_F, CHECK_N, CHECK_T, CHECK_B, CHECK_E) return 0;     \
    }
MSG_KIND_LIST(X)
X(sampling)
#undef X

static int check_token(const struct msg_token *t, struct err *err)
{
    CHECK(check_int("id", t->id, 0, MSG_VOCAB_MAX - 1, err))
    CHECK(check_num("logprob", (double)t->logprob, -HUGE_VAL, HUGE_VAL, err))
    CHECK(check_int("n_top", t->n_top, 0, MSG_TOP_MAX, err))
    for (int i = 0; i < t->n_top; i++) {
        CHECK(check_int("top.id", t->top[i].id, 0, MSG_VOCAB_MAX - 1, err))
        CHECK(check_num("top.logprob", (double)t->top[i].logprob, -HUGE_VAL, HUGE_VAL, err))
    }
    return 0;
}

static int check_tokens(const struct msg_tokens *m, struct err *err)
{
    CHECK(check_int("n", m->n, 1, MSG_BATCH_TOKENS_MAX, err))
    for (int32_t i = 0; i < m->n; i++)
        CHECK(check_token(&m->token[i], err))
    return 0;
}

static int check_generate(const struct msg_generate *m, struct err *err)
{
    CHECK(check_int("n_tok", m->n_tok, 1, MSG_TOKENS_MAX, err))
    /* The prompt has at least one token: there is nothing to continue otherwise. */
    CHECK(check_int("n_committed", m->n_committed, 0, m->n_tok - 1, err))
    CHECK(check_int("n_committed", m->n_committed, 0, m->max_output, err))
    CHECK(check_int("min_output", m->min_output, 0, m->max_output, err))
    for (int64_t i = 0; i < m->n_tok; i++)
        CHECK(check_int("tok", m->tok[i], 0, MSG_VOCAB_MAX - 1, err))
    CHECK(check_int("n_stop_id", m->n_stop_id, 0, MSG_STOP_IDS_MAX, err))
    for (int32_t i = 0; i < m->n_stop_id; i++)
        CHECK(check_int("stop_id", m->stop_id[i], 0, MSG_VOCAB_MAX - 1, err))
    CHECK(check_plain_sampling(&m->sampling, err))
    CHECK(check_int("n_bias", m->sampling.n_bias, 0, MSG_BIAS_MAX, err))
    for (int32_t i = 0; i < m->sampling.n_bias; i++) {
        CHECK(check_int("bias.id", m->sampling.bias[i].id, 0, MSG_VOCAB_MAX - 1, err))
        CHECK(check_num("bias", (double)m->sampling.bias[i].bias, -MSG_BIAS_ABS_MAX, MSG_BIAS_ABS_MAX, err))
    }
    return 0;
}

static int check_msg(const struct msg *m, struct err *err)
{
    int rc = 0;
    switch (m->kind) {
#define X(name)                                                                                    \
    case MSG_##name: rc = check_plain_##name(&m->name, err); break;
        MSG_KIND_LIST(X)
#undef X
    case MSG_KIND_N: BUG("a message without a kind");
    }
    if (!rc && m->kind == MSG_heartbeat)
        rc = check_int("n_news", m->heartbeat.n_news, 0, MSG_NEWS_MAX, err);
    if (!rc && m->kind == MSG_tokens)
        rc = check_tokens(&m->tokens, err);
    if (!rc && m->kind == MSG_generate)
        rc = check_generate(&m->generate, err);
    return rc;
}

/* ---- struct -> protobuf: strings and token ids are lent, other arrays lie in the arena ---- */

#define FILL_U(f)           p->f = m->f;
#define FILL_I(f, min, max) p->f = m->f;
#define FILL_F(f, min, max) p->f = m->f;
#define FILL_B(f)           p->f = m->f;
#define FILL_N(f, min)      p->f = (char *)(uintptr_t)m->f;
#define FILL_T(f)           p->f = (char *)(uintptr_t)m->f;
#define FILL_E(f, n)        p->f = m->f + 1; /* 0 on the wire means that the field is missing */

#define X(name, Name, NAME)                                                                        \
    static void fill_plain_##name(const struct msg_##name *m, Baton__V1__##Name *p)                \
    {                                                                                              \
        FIELDS_##name(FILL_U, FILL_I, FILL_F, FILL_N, FILL_T, FILL_B, FILL_E)                      \
    }
PB_LIST(X)
X(sampling, Sampling, SAMPLING)
#undef X

static void fill_tokens(const struct msg_tokens *m, Baton__V1__Tokens *p, struct arena *arena)
{
    size_t n = (size_t)m->n, n_top = 0;
    for (size_t i = 0; i < n; i++)
        n_top += (size_t)m->token[i].n_top;
    p->n_id = p->n_logprob = n;
    p->id = arena_array(arena, n, sizeof *p->id);
    p->logprob = arena_array(arena, n, sizeof *p->logprob);
    for (size_t i = 0; i < n; i++) {
        p->id[i] = m->token[i].id;
        p->logprob[i] = m->token[i].logprob;
    }
    if (!n_top)
        return;
    p->n_n_top = n;
    p->n_top = arena_array(arena, n, sizeof *p->n_top);
    p->n_top_id = p->n_top_logprob = n_top;
    p->top_id = arena_array(arena, n_top, sizeof *p->top_id);
    p->top_logprob = arena_array(arena, n_top, sizeof *p->top_logprob);
    for (size_t i = 0, k = 0; i < n; i++) {
        p->n_top[i] = m->token[i].n_top;
        for (int j = 0; j < m->token[i].n_top; j++, k++) {
            p->top_id[k] = m->token[i].top[j].id;
            p->top_logprob[k] = m->token[i].top[j].logprob;
        }
    }
}

static void fill_heartbeat(const struct msg_heartbeat *m, Baton__V1__Heartbeat *p, struct arena *arena)
{
    size_t n = (size_t)m->n_news;
    p->n_news_key = p->n_news_is_stored = n;
    p->news_key = arena_array(arena, n, sizeof *p->news_key);
    p->news_is_stored = arena_array(arena, n, sizeof *p->news_is_stored);
    for (size_t i = 0; i < n; i++) {
        p->news_key[i] = m->news[i].key;
        p->news_is_stored[i] = m->news[i].is_stored;
    }
}

static void fill_generate(const struct msg_generate *m, Baton__V1__Generate *p, struct arena *arena)
{
    const struct msg_sampling *s = &m->sampling;
    p->n_tok = (size_t)m->n_tok;
    p->tok = (int32_t *)(uintptr_t)m->tok;
    p->n_stop_id = (size_t)m->n_stop_id;
    p->stop_id = (int32_t *)(uintptr_t)m->stop_id;
    p->sampling = arena_alloc(arena, sizeof *p->sampling);
    baton__v1__sampling__init(p->sampling);
    fill_plain_sampling(s, p->sampling);
    p->sampling->n_bias_id = p->sampling->n_bias = (size_t)s->n_bias;
    p->sampling->bias_id = arena_array(arena, (size_t)s->n_bias, sizeof *p->sampling->bias_id);
    p->sampling->bias = arena_array(arena, (size_t)s->n_bias, sizeof *p->sampling->bias);
    for (int32_t i = 0; i < s->n_bias; i++) {
        p->sampling->bias_id[i] = s->bias[i].id;
        p->sampling->bias[i] = s->bias[i].bias;
    }
}

/* Pack a message that was checked. */
static int encode_checked(const struct msg *m, struct buf *out, struct err *err)
{
    _Alignas(max_align_t) unsigned char scratch[ENCODE_SCRATCH];
    struct arena arena;
    Baton__V1__Envelope env = BATON__V1__ENVELOPE__INIT;
    int rc = 0;
    arena_init_in(&arena, scratch, sizeof scratch);
    env.version = MSG_WIRE_VERSION;
    switch (m->kind) {
#define X(name, Name, NAME)                                                                        \
    case MSG_##name:                                                                               \
        env.body_case = BATON__V1__ENVELOPE__BODY_##NAME;                                          \
        env.name = arena_alloc(&arena, sizeof *env.name);                                          \
        baton__v1__##name##__init(env.name);                                                       \
        fill_plain_##name(&m->name, env.name);                                                     \
        break;
        PB_LIST(X)
#undef X
    case MSG_KIND_N: BUG("a message without a kind");
    }
    if (m->kind == MSG_heartbeat)
        fill_heartbeat(&m->heartbeat, env.heartbeat, &arena);
    if (m->kind == MSG_tokens)
        fill_tokens(&m->tokens, env.tokens, &arena);
    if (m->kind == MSG_generate)
        fill_generate(&m->generate, env.generate, &arena);
    size_t n = baton__v1__envelope__get_packed_size(&env);
    if (n > MSG_BYTES_MAX)
        rc = err_set(err, ERR_RANGE, "message of %zu bytes, limit is %d", n, MSG_BYTES_MAX);
    else
        out->len += baton__v1__envelope__pack(&env, (uint8_t *)buf_room(out, n));
    arena_release(&arena);
    return rc;
}

int msg_encode(const struct msg *m, struct buf *out, struct err *err)
{
    int rc = check_msg(m, err);
    if (!rc)
        rc = encode_checked(m, out, err);
    if (rc)
        err_wrap(err, "message %s", msg_kind_name(m->kind));
    return rc;
}

/* ---- protobuf -> struct ---- */

static int take_str(const char *field, char *dst, size_t cap, const char *src, struct err *err)
{
    size_t n = strlen(src);
    if (n >= cap)
        return err_set(err, ERR_RANGE, "field %s is %zu bytes long, limit is %zu", field, n, cap - 1);
    memcpy(dst, src, n + 1);
    return 0;
}

static int take_enum(const char *field, int64_t wire, int n, struct err *err)
{
    if (wire >= 1 && wire <= n)
        return 0;
    return err_set(err, ERR_RANGE, "field %s has value %" PRId64 " that this version does not know", field, wire);
}

#define TAKE_U(f)           m->f = p->f;
#define TAKE_I(f, min, max) m->f = p->f;
#define TAKE_F(f, min, max) m->f = p->f;
#define TAKE_B(f)           m->f = p->f;
#define TAKE_N(f, min)      CHECK(take_str(#f, m->f, sizeof m->f, p->f, err))
#define TAKE_T(f)           CHECK(take_str(#f, m->f, sizeof m->f, p->f, err))
#define TAKE_E(f, n)                                                                               \
    CHECK(take_enum(#f, (int64_t)p->f, n, err))                                                    \
    m->f = p->f - 1;

#define X(name, Name, NAME)                                                                        \
    static int take_plain_##name(const Baton__V1__##Name *p, struct msg_##name *m, struct err *err) \
    {                                                                                              \
        (void)err;                                                                                 \
        FIELDS_##name(TAKE_U, TAKE_I, TAKE_F, TAKE_N, TAKE_T, TAKE_B, TAKE_E) return 0;            \
    }
PB_LIST(X)
X(sampling, Sampling, SAMPLING)
#undef X

static int take_tokens(const Baton__V1__Tokens *p, struct msg_tokens *m, struct arena *arena, struct err *err)
{
    CHECK(check_int("n", (int64_t)p->n_id, 1, MSG_BATCH_TOKENS_MAX, err))
    if (p->n_logprob != p->n_id || (p->n_n_top && p->n_n_top != p->n_id) || p->n_top_id != p->n_top_logprob)
        return err_set(err, ERR_RANGE, "the arrays of the tokens differ in length");
    struct msg_token *t = arena_array(arena, p->n_id, sizeof *t);
    size_t k = 0;
    for (size_t i = 0; i < p->n_id; i++) {
        t[i].id = p->id[i];
        t[i].logprob = p->logprob[i];
        t[i].n_top = p->n_n_top ? p->n_top[i] : 0;
        CHECK(check_int("n_top", t[i].n_top, 0, MSG_TOP_MAX, err))
        for (int j = 0; j < t[i].n_top; j++, k++) {
            if (k == p->n_top_id)
                return err_set(err, ERR_RANGE, "n_top names more alternatives than there are");
            t[i].top[j] = (struct msg_top){.id = p->top_id[k], .logprob = p->top_logprob[k]};
        }
    }
    if (k != p->n_top_id)
        return err_set(err, ERR_RANGE, "n_top names fewer alternatives than there are");
    m->n = (int32_t)p->n_id;
    m->token = t;
    return 0;
}

static int take_heartbeat(const Baton__V1__Heartbeat *p, struct msg_heartbeat *m, struct arena *arena, struct err *err)
{
    CHECK(check_int("n_news", (int64_t)p->n_news_key, 0, MSG_NEWS_MAX, err))
    if (p->n_news_key != p->n_news_is_stored)
        return err_set(err, ERR_RANGE, "news_key and news_is_stored differ in length");
    struct prefix_news *news = arena_array(arena, p->n_news_key, sizeof *news);
    for (size_t i = 0; i < p->n_news_key; i++)
        news[i] = (struct prefix_news){.key = p->news_key[i], .is_stored = p->news_is_stored[i]};
    m->n_news = (int32_t)p->n_news_key;
    m->news = news;
    return 0;
}

static int take_generate(const Baton__V1__Generate *p, struct msg_generate *m, struct arena *arena, struct err *err)
{
    CHECK(check_int("n_tok", (int64_t)p->n_tok, 1, MSG_TOKENS_MAX, err))
    CHECK(check_int("n_stop_id", (int64_t)p->n_stop_id, 0, MSG_STOP_IDS_MAX, err))
    m->n_tok = (int64_t)p->n_tok;
    m->tok = p->tok; /* lies in the arena already */
    m->n_stop_id = (int32_t)p->n_stop_id;
    if (p->n_stop_id)
        memcpy(m->stop_id, p->stop_id, p->n_stop_id * sizeof *p->stop_id);
    const Baton__V1__Sampling *s = p->sampling;
    if (!s)
        return err_set(err, ERR_RANGE, "field sampling is missing");
    CHECK(take_plain_sampling(s, &m->sampling, err))
    CHECK(check_int("n_bias", (int64_t)s->n_bias, 0, MSG_BIAS_MAX, err))
    if (s->n_bias != s->n_bias_id)
        return err_set(err, ERR_RANGE, "bias and bias_id differ in length");
    struct msg_bias *bias = arena_array(arena, s->n_bias, sizeof *bias);
    for (size_t i = 0; i < s->n_bias; i++)
        bias[i] = (struct msg_bias){.id = s->bias_id[i], .bias = s->bias[i]};
    m->sampling.n_bias = (int32_t)s->n_bias;
    m->sampling.bias = bias;
    return 0;
}

static int take_body(const Baton__V1__Envelope *env, struct msg *m, struct arena *arena, struct err *err)
{
    switch (env->body_case) {
#define X(name, Name, NAME)                                                                        \
    case BATON__V1__ENVELOPE__BODY_##NAME:                                                         \
        m->kind = MSG_##name;                                                                      \
        CHECK(take_plain_##name(env->name, &m->name, err))                                         \
        break;
        PB_LIST(X)
#undef X
    default: return ERR_FORMAT;
    }
    if (m->kind == MSG_heartbeat)
        CHECK(take_heartbeat(env->heartbeat, &m->heartbeat, arena, err))
    if (m->kind == MSG_tokens)
        CHECK(take_tokens(env->tokens, &m->tokens, arena, err))
    if (m->kind == MSG_generate)
        CHECK(take_generate(env->generate, &m->generate, arena, err))
    return check_msg(m, err);
}

static int bad_version(uint32_t theirs, struct err *err)
{
    return err_set(err, ERR_VERSION,
                   "the peer speaks wire version %" PRIu32 ", this program speaks %d: update the older one",
                   theirs, MSG_WIRE_VERSION);
}

int msg_decode(const void *data, size_t n, struct arena *arena, struct msg *m, struct err *err)
{
    struct pb_arena pa = {.arena = arena, .left = MSG_DECODE_BYTES_MAX};
    ProtobufCAllocator alloc = pb_arena_allocator(&pa);
    if (n == 0)
        return err_set(err, ERR_FORMAT, "an empty message");
    if (n > MSG_BYTES_MAX)
        return err_set(err, ERR_RANGE, "message of %zu bytes, limit is %d", n, MSG_BYTES_MAX);

    const Baton__V1__Envelope *env = baton__v1__envelope__unpack(&alloc, n, data);
    if (!env) {
        /* Another version may be unreadable for us further in, and should still be told so. */
        pa.left = MSG_DECODE_BYTES_MAX;
        const Baton__V1__Head *head = baton__v1__head__unpack(&alloc, n, data);
        if (head && head->version && head->version != MSG_WIRE_VERSION)
            return bad_version(head->version, err);
        return err_set(err, ERR_FORMAT, "%zu bytes that are no message of this protocol", n);
    }
    if (!env->version)
        return err_set(err, ERR_FORMAT, "a message without a wire version");
    if (env->version != MSG_WIRE_VERSION)
        return bad_version(env->version, err);

    struct msg got = {0};
    struct err why;
    int rc = take_body(env, &got, arena, &why);
    if (rc == ERR_FORMAT)
        return err_set(err, ERR_FORMAT, "a message of a kind that this version does not know");
    if (rc)
        return err_set(err, rc, "message %s: %s", msg_kind_name(got.kind), why.text);
    *m = got;
    return 0;
}
