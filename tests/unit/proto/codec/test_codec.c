/* Proves: every kind of message survives the wire at its smallest and its largest; each limit holds on both sides, one
 * step outside is refused with the field's name; no truncation of a message is taken for a message; another wire
 * version is named; unknown fields do no harm.
 * How: codec.c is included, because encode_checked() makes the messages that a peer without checks would send. */
#include "proto/codec/codec.c"

#include "common/mem/mem.h"
#include "tests/unit/test.h"

#include <float.h>
#include <limits.h>

static struct msg_token token_many[MSG_BATCH_TOKENS_MAX + 1];
static struct msg_bias bias_many[MSG_BIAS_MAX + 1];
static int32_t tok_few[] = {0, 1, MSG_VOCAB_MAX - 1};

static void set_name(char *to, char c)
{
    memset(to, c, MSG_NAME_MAX - 1);
    to[MSG_NAME_MAX - 1] = 0;
}

static void set_text(char *to, char c)
{
    memset(to, c, MSG_TEXT_MAX - 1);
    to[MSG_TEXT_MAX - 1] = 0;
}

/* The smallest and the largest legal message, made from the codec's own list of fields. */
#define MIN_U(f)         m->f = 0;
#define MIN_I(f, lo, hi) m->f = lo;
#define MIN_F(f, lo, hi) m->f = lo;
#define MIN_N(f, n)      memcpy(m->f, "xxx", n), m->f[n] = 0;
#define MIN_T(f)         m->f[0] = 0;
#define MIN_B(f)         m->f = false;
#define MIN_E(f, n)      m->f = 0;
#define MAX_U(f)         m->f = (typeof_u)UINT64_MAX;
#define MAX_I(f, lo, hi) m->f = hi;
#define MAX_F(f, lo, hi) m->f = hi;
#define MAX_N(f, n)      set_name(m->f, 'z');
#define MAX_T(f)         set_text(m->f, 't');
#define MAX_B(f)         m->f = true;
#define MAX_E(f, n)      m->f = (n) - 1;
#define typeof_u         uint32_t /* fits both widths; the 64-bit extremes have a test of their own */
#define X(name)                                                                                    \
    static void min_##name(struct msg_##name *m)                                                   \
    {                                                                                              \
        FIELDS_##name(MIN_U, MIN_I, MIN_F, MIN_N, MIN_T, MIN_B, MIN_E)                             \
    }                                                                                              \
    static void max_##name(struct msg_##name *m)                                                   \
    {                                                                                              \
        FIELDS_##name(MAX_U, MAX_I, MAX_F, MAX_N, MAX_T, MAX_B, MAX_E)                             \
    }
MSG_KIND_LIST(X)
X(sampling)
#undef X

static struct msg minimal(enum msg_kind kind)
{
    struct msg m = {.kind = kind};
    switch (kind) {
#define X(name)                                                                                    \
    case MSG_##name: min_##name(&m.name); break;
        MSG_KIND_LIST(X)
#undef X
    case MSG_KIND_N: break;
    }
    if (kind == MSG_tokens) {
        token_many[0] = (struct msg_token){0};
        m.tokens.n = 1;
        m.tokens.token = token_many;
    }
    if (kind == MSG_generate) {
        min_sampling(&m.generate.sampling);
        m.generate.n_tok = 1;
        m.generate.tok = tok_few;
        m.generate.sampling.bias = bias_many;
    }
    return m;
}

static struct msg maximal(enum msg_kind kind)
{
    struct msg m = {.kind = kind};
    switch (kind) {
#define X(name)                                                                                    \
    case MSG_##name: max_##name(&m.name); break;
        MSG_KIND_LIST(X)
#undef X
    case MSG_KIND_N: break;
    }
    if (kind == MSG_tokens) {
        m.tokens.n = MSG_BATCH_TOKENS_MAX;
        m.tokens.token = token_many;
        for (int i = 0; i < MSG_BATCH_TOKENS_MAX; i++) {
            token_many[i] =
                (struct msg_token){.id = MSG_VOCAB_MAX - 1, .logprob = -INFINITY, .n_top = i % (MSG_TOP_MAX + 1)};
            for (int j = 0; j < token_many[i].n_top; j++)
                token_many[i].top[j] = (struct msg_top){.id = i + j, .logprob = -FLT_MAX};
        }
    }
    if (kind == MSG_generate) {
        max_sampling(&m.generate.sampling);
        m.generate.n_tok = 3;
        m.generate.n_committed = 2;
        m.generate.tok = tok_few;
        m.generate.n_stop_id = MSG_STOP_IDS_MAX;
        for (int i = 0; i < MSG_STOP_IDS_MAX; i++)
            m.generate.stop_id[i] = MSG_VOCAB_MAX - 1 - i;
        m.generate.sampling.n_bias = MSG_BIAS_MAX;
        m.generate.sampling.bias = bias_many;
        for (int i = 0; i < MSG_BIAS_MAX; i++)
            bias_many[i] = (struct msg_bias){.id = i, .bias = i % 2 ? MSG_BIAS_ABS_MAX : -MSG_BIAS_ABS_MAX};
    }
    return m;
}

static struct buf encoded(const struct msg *m)
{
    struct buf b = {0};
    struct err err = {0};
    assert_int_equal(msg_encode(m, &b, &err), 0);
    assert_true(b.len > 0);
    return b;
}

/* Encode, decode, encode again: equal bytes, equal kind. */
static void round_trip(const struct msg *m)
{
    struct arena arena = {0};
    struct msg back;
    struct err err = {0};
    struct buf b = encoded(m);
    assert_int_equal(msg_decode(b.data, b.len, &arena, &back, &err), 0);
    assert_int_equal(back.kind, m->kind);
    struct buf again = encoded(&back);
    assert_int_equal(b.len, again.len);
    assert_memory_equal(b.data, again.data, b.len);
    buf_release(&again);
    buf_release(&b);
    arena_release(&arena);
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int k = 0; k < MSG_KIND_N; k++) {
        struct msg lo = minimal(k), hi = maximal(k);
        round_trip(&lo);
        round_trip(&hi);
    }
}

/* Equal bytes alone could hide a field that is never written: look at values. */
static void test_values(void **state)
{
    struct arena arena = {0};
    struct msg back, m = maximal(MSG_generate);
    struct err err = {0};
    (void)state;
    m.generate.sampling.seed = UINT64_MAX;
    m.generate.epoch = UINT64_MAX;
    m.generate.attempt = UINT32_MAX;
    m.generate.priority = INT32_MIN;
    m.generate.deadline_ms = INT64_MIN;
    m.generate.sampling.temperature = 0.7f;
    m.generate.sampling.top_p = 0.9f;
    struct buf b = encoded(&m);
    assert_int_equal(msg_decode(b.data, b.len, &arena, &back, &err), 0);
    const struct msg_generate *g = &back.generate, *w = &m.generate;
    assert_true(g->epoch == UINT64_MAX && g->attempt == UINT32_MAX && g->sampling.seed == UINT64_MAX);
    assert_true(g->priority == INT32_MIN && g->deadline_ms == INT64_MIN);
    assert_string_equal(g->request, w->request);
    assert_int_equal(g->n_tok, 3);
    assert_int_equal(g->n_committed, 2);
    assert_memory_equal(g->tok, tok_few, sizeof tok_few);
    assert_true(g->sampling.temperature == 0.7f && g->sampling.top_p == 0.9f && g->sampling.min_p == 1);
    assert_int_equal(g->sampling.n_top, MSG_TOP_MAX);
    assert_int_equal(g->sampling.n_bias, MSG_BIAS_MAX);
    assert_int_equal(g->sampling.bias[7].id, 7);
    assert_true(g->sampling.bias[7].bias == 100 && g->sampling.bias[8].bias == -100);
    assert_int_equal(g->n_stop_id, MSG_STOP_IDS_MAX);
    assert_int_equal(g->stop_id[15], MSG_VOCAB_MAX - 16);
    assert_true(g->ignore_eos);
    buf_release(&b);

    m = maximal(MSG_tokens);
    b = encoded(&m);
    assert_int_equal(msg_decode(b.data, b.len, &arena, &back, &err), 0);
    assert_int_equal(back.tokens.n, MSG_BATCH_TOKENS_MAX);
    for (int i = 0; i < MSG_BATCH_TOKENS_MAX; i++) {
        const struct msg_token *t = &back.tokens.token[i];
        assert_int_equal(t->n_top, i % (MSG_TOP_MAX + 1));
        assert_true(t->logprob == -INFINITY);
        for (int j = 0; j < t->n_top; j++)
            assert_true(t->top[j].id == i + j && t->top[j].logprob == -FLT_MAX);
    }
    buf_release(&b);

    m = maximal(MSG_hello);
    m.hello.boot = m.hello.fingerprint = UINT64_MAX;
    b = encoded(&m);
    assert_int_equal(msg_decode(b.data, b.len, &arena, &back, &err), 0);
    assert_memory_equal(&back.hello, &m.hello, sizeof m.hello);
    buf_release(&b);

    m = minimal(MSG_finished);
    m.finished.reason = MSG_FINISH_length;
    b = encoded(&m);
    assert_int_equal(msg_decode(b.data, b.len, &arena, &back, &err), 0);
    assert_int_equal(back.finished.stop_id, -1);
    assert_int_equal(back.finished.reason, MSG_FINISH_length);
    buf_release(&b);
    arena_release(&arena);
}

/* m is outside a limit: refused by our encoder, and by the decoder when a peer without checks sends it. */
static void refused(const struct msg *m, const char *field)
{
    struct arena arena = {0};
    struct buf b = {0};
    struct err err = {0};
    struct msg back = {.kind = MSG_KIND_N};
    assert_int_equal(msg_encode(m, &b, &err), ERR_RANGE);
    assert_non_null(strstr(err.text, field));
    assert_non_null(strstr(err.text, msg_kind_name(m->kind)));
    assert_int_equal(b.len, 0);

    assert_int_equal(encode_checked(m, &b, &err), 0);
    err = (struct err){0};
    assert_int_equal(msg_decode(b.data, b.len, &arena, &back, &err), ERR_RANGE);
    assert_non_null(strstr(err.text, field));
    assert_int_equal(back.kind, MSG_KIND_N); /* untouched on error */
    buf_release(&b);
    arena_release(&arena);
}

/* One step below and above, from the codec's list; the extremes of a type have no step outside. */
#define OUT_NOTHING(f)
#define OUT_I(f, lo, hi)                                                                           \
    if ((int64_t)(lo) > (sizeof m.OUT.f == 4 ? INT32_MIN : INT64_MIN)) {                           \
        struct msg bad = m;                                                                        \
        bad.OUT.f = (lo);                                                                          \
        bad.OUT.f--;                                                                               \
        refused(&bad, #f);                                                                         \
        n_tried++;                                                                                 \
    }                                                                                              \
    if ((int64_t)(hi) < (sizeof m.OUT.f == 4 ? INT32_MAX : INT64_MAX)) {                           \
        struct msg bad = m;                                                                        \
        bad.OUT.f = (hi);                                                                          \
        bad.OUT.f++;                                                                               \
        refused(&bad, #f);                                                                         \
        n_tried++;                                                                                 \
    }
#define OUT_F(f, lo, hi)                                                                           \
    for (int i_ = 0; i_ < 4; i_++) {                                                               \
        const float out_[] = {nextafterf(lo, -INFINITY), nextafterf(hi, INFINITY), NAN, INFINITY}; \
        struct msg bad = m;                                                                        \
        bad.OUT.f = out_[i_];                                                                      \
        refused(&bad, #f);                                                                         \
        n_tried++;                                                                                 \
    }
#define OUT_N(f, n)                                                                                \
    for (int i_ = (n) ? 0 : 1; i_ < 4; i_++) {                                                     \
        const char *const out_[] = {"", "a\nb", "\xff", "\x7f"};                                   \
        struct msg bad = m;                                                                        \
        memcpy(bad.OUT.f, out_[i_], strlen(out_[i_]) + 1);                                         \
        refused(&bad, #f);                                                                         \
        n_tried++;                                                                                 \
    }
#define OUT_T(f)                                                                                   \
    {                                                                                              \
        struct msg bad = m;                                                                        \
        memcpy(bad.OUT.f, "\xc3(", 3);                                                             \
        refused(&bad, #f);                                                                         \
        n_tried++;                                                                                 \
    }
#define OUT_E(f, n)                                                                                \
    for (int i_ = 0; i_ < 2; i_++) {                                                               \
        struct msg bad = m;                                                                        \
        *(int *)(void *)&bad.OUT.f = i_ ? (n) : -1;                                                \
        refused(&bad, #f);                                                                         \
        n_tried++;                                                                                 \
    }

/* News of the prefix cache keep their order; more than fit, and arrays of different length, are refused. */
static void test_news(void **state)
{
    static struct prefix_news news[MSG_NEWS_MAX + 1];
    struct msg m = {.kind = MSG_heartbeat, .heartbeat = {.epoch = 3, .news_all = true, .n_news = 3, .news = news}}, got;
    struct arena arena = {0};
    struct buf b = {0};
    struct err err = {0};
    (void)state;
    news[0] = (struct prefix_news){UINT64_MAX, true};
    news[1] = (struct prefix_news){7, false};
    news[2] = (struct prefix_news){7, true};
    assert_int_equal(msg_encode(&m, &b, &err), 0);
    assert_int_equal(msg_decode(b.data, b.len, &arena, &got, &err), 0);
    assert_true(got.heartbeat.news_all);
    assert_int_equal(got.heartbeat.n_news, 3);
    for (int i = 0; i < 3; i++)
        assert_true(got.heartbeat.news[i].key == news[i].key && got.heartbeat.news[i].is_stored == news[i].is_stored);
    b.data[b.len - 4]--; /* the packed length of news_is_stored: one less, and what is over is an unknown field */
    assert_int_not_equal(msg_decode(b.data, b.len, &arena, &got, &err), 0);
    b.len = 0;
    m.heartbeat.n_news = MSG_NEWS_MAX;
    assert_int_equal(msg_encode(&m, &b, &err), 0);
    m.heartbeat.n_news++;
    assert_int_equal(msg_encode(&m, &b, &err), ERR_RANGE);
    assert_non_null(strstr(err.text, "n_news"));
    buf_release(&b);
    arena_release(&arena);
}

static void test_limits(void **state)
{
    int n_tried = 0;
    struct msg m;
    (void)state;
#define FIELDS_OUT(name) FIELDS_##name(OUT_NOTHING, OUT_I, OUT_F, OUT_N, OUT_T, OUT_NOTHING, OUT_E)
    m = minimal(MSG_hello);
#define OUT hello
    FIELDS_OUT(hello)
#undef OUT
    m = minimal(MSG_heartbeat);
#define OUT heartbeat
    FIELDS_OUT(heartbeat)
#undef OUT
    m = minimal(MSG_tokens);
#define OUT tokens
    FIELDS_OUT(tokens)
#undef OUT
    m = minimal(MSG_finished);
#define OUT finished
    FIELDS_OUT(finished)
#undef OUT
    m = minimal(MSG_failed);
#define OUT failed
    FIELDS_OUT(failed)
#undef OUT
    m = minimal(MSG_reclaim);
#define OUT reclaim
    FIELDS_OUT(reclaim)
#undef OUT
    m = minimal(MSG_bye);
#define OUT bye
    FIELDS_OUT(bye)
#undef OUT
    m = minimal(MSG_welcome);
#define OUT welcome
    FIELDS_OUT(welcome)
#undef OUT
    m = minimal(MSG_refused);
#define OUT refused
    FIELDS_OUT(refused)
#undef OUT
    m = minimal(MSG_generate);
#define OUT generate
    FIELDS_OUT(generate)
#undef OUT
#define OUT generate.sampling
    FIELDS_OUT(sampling)
#undef OUT
    m = minimal(MSG_cancel);
#define OUT cancel
    FIELDS_OUT(cancel)
#undef OUT
    assert_true(n_tried > 90);
}

static void test_limits_arrays(void **state)
{
    static int32_t too_many_tok[4];
    struct msg m;
    (void)state;
    m = maximal(MSG_tokens);
    m.tokens.n = MSG_BATCH_TOKENS_MAX + 1;
    refused(&m, "field n ");
    m.tokens.n = 0;
    refused(&m, "field n ");
    m = minimal(MSG_tokens);
    token_many[0].id = -1;
    refused(&m, "id");
    token_many[0].id = MSG_VOCAB_MAX;
    refused(&m, "id");
    token_many[0] = (struct msg_token){.logprob = NAN};
    refused(&m, "logprob");
    token_many[0] = (struct msg_token){.n_top = 1, .top = {{.id = -1}}};
    refused(&m, "top.id");
    token_many[0] = (struct msg_token){.n_top = 1, .top = {{.logprob = NAN}}};
    refused(&m, "top.logprob");

    m = minimal(MSG_generate);
    m.generate.n_tok = 0;
    refused(&m, "n_tok");
    m = minimal(MSG_generate);
    m.generate.n_committed = 1; /* as many as there are tokens: no prompt */
    refused(&m, "n_committed");
    m = minimal(MSG_generate);
    m.generate.n_tok = 3;
    m.generate.n_committed = 2; /* more than max_output */
    refused(&m, "n_committed");
    m.generate.n_committed = 0;
    m.generate.min_output = 2;
    refused(&m, "min_output");
    m = minimal(MSG_generate);
    m.generate.tok = too_many_tok;
    too_many_tok[0] = -1;
    refused(&m, "tok");
    too_many_tok[0] = MSG_VOCAB_MAX;
    refused(&m, "tok");
    m = minimal(MSG_generate);
    m.generate.n_stop_id = 1;
    m.generate.stop_id[0] = -1;
    refused(&m, "stop_id");
    m = maximal(MSG_generate);
    m.generate.sampling.n_bias = MSG_BIAS_MAX + 1;
    refused(&m, "n_bias");
    m.generate.sampling.n_bias = 1;
    bias_many[0] = (struct msg_bias){.id = 0, .bias = nextafterf(100, 200)};
    refused(&m, "bias");
    bias_many[0] = (struct msg_bias){.id = -1, .bias = 0};
    refused(&m, "bias.id");
}

/* What no struct of ours can express: strings and arrays longer than their place, arrays of unequal length. */
static void hostile(const Baton__V1__Envelope *env, int code, const char *part)
{
    struct arena arena = {0};
    struct buf b = {0};
    struct err err = {0};
    struct msg m;
    b.len = baton__v1__envelope__pack(env, (uint8_t *)buf_room(&b, baton__v1__envelope__get_packed_size(env)));
    assert_int_equal(msg_decode(b.data, b.len, &arena, &m, &err), code);
    assert_non_null(strstr(err.text, part));
    buf_release(&b);
    arena_release(&arena);
}

static void test_hostile(void **state)
{
    char name[MSG_NAME_MAX + 1], text[MSG_TEXT_MAX + 1];
    int32_t many[MSG_STOP_IDS_MAX + 1] = {0}, neg = -1, two = 2, big = MSG_TOP_MAX + 1;
    float lp[4] = {0};
    Baton__V1__Envelope env = BATON__V1__ENVELOPE__INIT;
    Baton__V1__Cancel cancel = BATON__V1__CANCEL__INIT;
    Baton__V1__Bye bye = BATON__V1__BYE__INIT;
    Baton__V1__Tokens tokens = BATON__V1__TOKENS__INIT;
    Baton__V1__Generate gen = BATON__V1__GENERATE__INIT;
    Baton__V1__Sampling how = BATON__V1__SAMPLING__INIT;
    (void)state;
    env.version = MSG_WIRE_VERSION;
    hostile(&env, ERR_FORMAT, "kind");

    memset(name, 'n', MSG_NAME_MAX);
    name[MSG_NAME_MAX] = 0;
    env.body_case = BATON__V1__ENVELOPE__BODY_CANCEL;
    env.cancel = &cancel;
    cancel.request = name;
    hostile(&env, ERR_RANGE, "request");

    memset(text, 't', MSG_TEXT_MAX);
    text[MSG_TEXT_MAX] = 0;
    env.body_case = BATON__V1__ENVELOPE__BODY_BYE;
    env.bye = &bye;
    bye.text = text;
    hostile(&env, ERR_RANGE, "text");

    env.body_case = BATON__V1__ENVELOPE__BODY_TOKENS;
    env.tokens = &tokens;
    tokens.request = (char *)(uintptr_t) "r";
    tokens.n_id = 1;
    tokens.id = many;
    hostile(&env, ERR_RANGE, "length");
    tokens.n_logprob = 1;
    tokens.logprob = lp;
    tokens.n_n_top = 1;
    tokens.n_top = &two;
    tokens.n_top_id = tokens.n_top_logprob = 1;
    tokens.top_id = many;
    tokens.top_logprob = lp;
    hostile(&env, ERR_RANGE, "more alternatives");
    tokens.n_top_id = tokens.n_top_logprob = 3;
    hostile(&env, ERR_RANGE, "fewer alternatives");
    tokens.n_top = &neg;
    hostile(&env, ERR_RANGE, "n_top");
    tokens.n_top = &big;
    hostile(&env, ERR_RANGE, "n_top");

    env.body_case = BATON__V1__ENVELOPE__BODY_GENERATE;
    env.generate = &gen;
    gen.request = (char *)(uintptr_t) "r";
    gen.n_tok = 1;
    gen.tok = many;
    gen.max_output = 1;
    hostile(&env, ERR_RANGE, "sampling");
    gen.sampling = &how;
    how.n_bias_id = 1;
    how.bias_id = many;
    hostile(&env, ERR_RANGE, "bias");
    how.n_bias_id = 0;
    gen.n_stop_id = MSG_STOP_IDS_MAX + 1;
    gen.stop_id = many;
    hostile(&env, ERR_RANGE, "n_stop_id");
}

static void test_truncated(void **state)
{
    (void)state;
    for (int k = 0; k < MSG_KIND_N; k++) {
        struct msg m = k == MSG_tokens ? minimal(k) : maximal(k);
        struct buf b = encoded(&m);
        for (size_t n = 0; n < b.len; n++) {
            struct arena arena = {0};
            struct msg back;
            struct err err = {0};
            char *exact = mem_dup(b.data, n); /* of its own, so that a read behind the end is seen */
            int rc = msg_decode(exact, n, &arena, &back, &err);
            assert_true(rc == ERR_FORMAT || rc == ERR_RANGE);
            assert_true(err.text[0] != 0);
            mem_free(exact);
            arena_release(&arena);
        }
        buf_release(&b);
    }
}

static void test_version(void **state)
{
    const unsigned char other_readable[] = {0x08, 2};                       /* version 2, nothing else */
    const unsigned char other_strange[] = {0x08, 0x87, 0x01, 0x12, 1, 0xff}; /* version 135, hello is garbage */
    const unsigned char none[] = {0x10, 1};                                 /* an unknown field, no version */
    const unsigned char ours_broken[] = {0x08, MSG_WIRE_VERSION, 0x12, 1, 0xff};
    struct arena arena = {0};
    struct msg m;
    struct err err = {0};
    (void)state;
    assert_int_equal(msg_decode(other_readable, sizeof other_readable, &arena, &m, &err), ERR_VERSION);
    assert_non_null(strstr(err.text, "version 2"));
    assert_non_null(strstr(err.text, "speaks 1"));
    assert_int_equal(msg_decode(other_strange, sizeof other_strange, &arena, &m, &err), ERR_VERSION);
    assert_non_null(strstr(err.text, "version 135"));
    assert_int_equal(msg_decode(none, sizeof none, &arena, &m, &err), ERR_FORMAT);
    assert_int_equal(msg_decode(ours_broken, sizeof ours_broken, &arena, &m, &err), ERR_FORMAT);
    assert_int_equal(msg_decode("", 0, &arena, &m, &err), ERR_FORMAT);
    assert_int_equal(msg_decode("GET / HTTP/1.1\r\n", 16, &arena, &m, &err), ERR_FORMAT);
    arena_release(&arena);
}

static void test_unknown_fields(void **state)
{
    /* Field 1000 as varint, field 1001 as bytes: appended to the envelope. */
    const unsigned char extra[] = {0xc0, 0x3e, 0x2a, 0xca, 0x3e, 3, 'a', 'b', 'c'};
    (void)state;
    for (int k = 0; k < MSG_KIND_N; k++) {
        struct arena arena = {0};
        struct msg back, m = maximal(k);
        struct err err = {0};
        struct buf plain = encoded(&m), more = encoded(&m);
        buf_add(&more, extra, sizeof extra);
        assert_int_equal(msg_decode(more.data, more.len, &arena, &back, &err), 0);
        struct buf again = encoded(&back);
        assert_int_equal(again.len, plain.len);
        assert_memory_equal(again.data, plain.data, plain.len);
        buf_release(&again);
        buf_release(&plain);
        buf_release(&more);
        arena_release(&arena);
    }
    /* And inside the body: ping{epoch=1, field 1000=42}. */
    const unsigned char inner[] = {0x08, MSG_WIRE_VERSION, 0xaa, 0x01, 5, 0x08, 1, 0xc0, 0x3e, 0x2a};
    struct arena arena = {0};
    struct msg m;
    struct err err = {0};
    assert_int_equal(msg_decode(inner, sizeof inner, &arena, &m, &err), 0);
    assert_int_equal(m.kind, MSG_ping);
    assert_int_equal(m.ping.epoch, 1);
    arena_release(&arena);
}

/* A small message may not cost much memory: one byte fields that are not packed are the worst case. */
static void test_memory_bound(void **state)
{
    struct arena arena = {0};
    struct buf b = {0}, body = {0};
    struct msg m;
    struct err err = {0};
    (void)state;
    for (int i = 0; i < (8 << 20); i++)
        buf_add(&body, "\x20\x00", 2); /* generate.tok = 0, not packed */
    buf_add(&b, "\x08\x01\x92\x01", 4);
    for (size_t v = body.len; v; v >>= 7)
        buf_add_char(&b, (char)((v & 127) | (v > 127 ? 128 : 0)));
    buf_add(&b, body.data, body.len);
    int rc = msg_decode(b.data, b.len, &arena, &m, &err);
    assert_true(rc == ERR_FORMAT || rc == ERR_RANGE);
    assert_true(arena.used_bytes <= 2 * (size_t)MSG_DECODE_BYTES_MAX);
    buf_release(&body);
    buf_release(&b);
    arena_release(&arena);
    assert_int_equal(msg_decode("x", (size_t)MSG_BYTES_MAX + 1, &arena, &m, &err), ERR_RANGE);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(msg_kind_name(MSG_hello), "hello");
    assert_string_equal(msg_kind_name(MSG_ping), "ping");
    assert_string_equal(msg_kind_name(MSG_KIND_N), "?");
    assert_string_equal(msg_refuse_name(MSG_REFUSE_fenced), "fenced");
    assert_string_equal(msg_refuse_name(MSG_REFUSE_N), "?");
    assert_string_equal(msg_fail_name(MSG_FAIL_deadline), "deadline");
    assert_string_equal(msg_fail_name(MSG_FAIL_N), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_values),
        cmocka_unit_test(test_news), cmocka_unit_test(test_limits),         cmocka_unit_test(test_limits_arrays),
        cmocka_unit_test(test_hostile),        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_version),        cmocka_unit_test(test_unknown_fields),
        cmocka_unit_test(test_memory_bound),   cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
