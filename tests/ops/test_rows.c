/* Proves what op.h promises for every op that works row by row. How: each case of each op is run on every back end
 * that is built in, with poisoned and guarded outputs, as a whole and in pieces, and compared with `ref`. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "tests/ops/compare.h"
#include "tests/ops/guard.h"
#include "tests/ops/op.h"
#include "tests/ops/rig.h"

#include <math.h>
#include <string.h>

static const struct op_def *const defs[] = {
#define X(name) &op_def_##name,
    OP_DEF_LIST(X)
#undef X
};

struct bench {
    const struct op_def *d;
    const struct op_case *c;
    struct op_buf buf[OP_BUFS_MAX];
    int n_buf;
    void *in[OP_BUFS_MAX];   /* filled inputs, as they were */
    void *want[OP_BUFS_MAX]; /* outputs of the run to compare with */
};

static size_t bytes_of(const struct op_buf *b, int32_t n)
{
    return b->row_bytes ? b->row_bytes * (size_t)n + b->page_slack : b->fixed_bytes;
}

/* The output as rows, one behind the other (paged ones are unpacked). */
static uint8_t *rows_of(const struct bench *t, int i, const void *p, int32_t n)
{
    const struct op_buf *b = &t->buf[i];
    size_t bytes = b->row_bytes ? b->row_bytes * (size_t)n : b->fixed_bytes;
    uint8_t *rows = mem_zalloc(bytes + 1);

    if (b->page_slack && t->d->flatten)
        t->d->flatten(t->c, i, p, n, rows);
    else if (bytes)
        memcpy(rows, p, bytes);
    return rows;
}

/* Run the rows row[0..n) (NULL: 0..n) with outputs poisoned with `poison`; p gets new guarded buffers. */
static void run(const struct bench *t, struct rig *r, const int32_t *row, int32_t n, int poison, void *p[OP_BUFS_MAX])
{
    for (int i = 0; i < t->n_buf; i++) {
        const struct op_buf *b = &t->buf[i];
        p[i] = guard_alloc(bytes_of(b, n));
        if (b->role == OP_OUT)
            memset(p[i], poison, bytes_of(b, n));
        else if (!b->row_bytes)
            memcpy(p[i], t->in[i], b->fixed_bytes);
        else
            for (int32_t k = 0; k < n; k++)
                memcpy((char *)p[i] + b->row_bytes * (size_t)k,
                       (const char *)t->in[i] + b->row_bytes * (size_t)(row ? row[k] : k), b->row_bytes);
    }
    int rc = t->d->run(t->c, r->backend->ops, &r->ctx, p, n);
    if (rc)
        fail_msg("%s %s on %s: %s", kn_op_name(t->d->op), t->c->label, r->backend->name, err_name(rc));
    for (int i = 0; i < t->n_buf; i++) {
        const struct op_buf *b = &t->buf[i];
        if (!guard_is_whole(p[i]))
            fail_msg("%s %s on %s wrote outside %s", kn_op_name(t->d->op), t->c->label, r->backend->name, b->name);
        if (b->role != OP_IN)
            continue;
        for (int32_t k = 0; b->row_bytes && k < n; k++)
            assert_memory_equal((char *)p[i] + b->row_bytes * (size_t)k,
                                (const char *)t->in[i] + b->row_bytes * (size_t)(row ? row[k] : k), b->row_bytes);
        if (!b->row_bytes && b->fixed_bytes)
            assert_memory_equal(p[i], t->in[i], b->fixed_bytes);
    }
}

static void drop(const struct bench *t, void *p[OP_BUFS_MAX])
{
    for (int i = 0; i < t->n_buf; i++) {
        guard_free(p[i]);
        p[i] = NULL;
    }
}

/* Same bits as whole[] (a run of all rows), row for row. */
static void check_bits(const struct bench *t, const struct rig *r, const char *how, void *const whole[],
                       void *const p[], const int32_t *row, int32_t n)
{
    for (int i = 0; i < t->n_buf; i++) {
        const struct op_buf *b = &t->buf[i];
        if (b->role == OP_IN || (!b->row_bytes && n != t->c->n))
            continue;
        uint8_t *a = rows_of(t, i, whole[i], t->c->n), *g = rows_of(t, i, p[i], n);
        size_t len = b->row_bytes ? b->row_bytes : b->fixed_bytes;
        for (int32_t k = 0; k < (b->row_bytes ? n : 1); k++)
            if (memcmp(g + len * (size_t)k, a + len * (size_t)(row ? row[k] : k), len) != 0)
                fail_msg("%s %s on %s, %s: row %d of %s has other bits", kn_op_name(t->d->op), t->c->label,
                         r->backend->name, how, row ? row[k] : k, b->name);
        mem_free(a);
        mem_free(g);
    }
}

/* Against ref. */
static void check_values(const struct bench *t, const struct rig *r, void *const p[])
{
    int32_t n = t->c->n;

    for (int i = 0; i < t->n_buf; i++) {
        const struct op_buf *b = &t->buf[i];
        if (b->role == OP_IN)
            continue;
        uint8_t *want = rows_of(t, i, t->want[i], n), *got = rows_of(t, i, p[i], n);
        size_t bytes = b->row_bytes ? b->row_bytes * (size_t)n : b->fixed_bytes;
        if (b->kind == OP_F32 || b->kind == OP_BF16) {
            struct compare c = b->kind == OP_F32 ? compare_f32((void *)got, (void *)want, bytes / 4)
                                                 : compare_bf16((void *)got, (void *)want, bytes / 2);
            if (!compare_rel_ok(&c, t->c->tol))
                fail_msg("%s %s on %s: %s rel %g > %g (%s), %zu mask faults, worst at %zu", kn_op_name(t->d->op),
                         t->c->label, r->backend->name, b->name, c.rel, t->c->tol, t->c->why, c.n_mask, c.worst);
        } else if (t->c->tol == 0 || b->kind == OP_I32) {
            size_t at = compare_bits(got, want, bytes);
            if (at < bytes)
                fail_msg("%s %s on %s: %s differs from ref at byte %zu", kn_op_name(t->d->op), t->c->label,
                         r->backend->name, b->name, at);
        } else { /* codes of quantized values: a flipped rounding before them moves some by one; scales by one */
            size_t n_other = 0;
            for (size_t k = 0; k < bytes; k++)
                n_other += got[k] != want[k];
            if ((double)n_other > 0.02 * (double)bytes + 2)
                fail_msg("%s %s on %s: %zu of %zu codes of %s differ from ref (%s)", kn_op_name(t->d->op), t->c->label,
                         r->backend->name, n_other, bytes, b->name, t->c->why);
        }
        mem_free(want);
        mem_free(got);
    }
}

enum { PREFIX_MAX = 70 }; /* rows of a step of decode tokens, and some */

/* The first 1, 2, 3, .. rows: every way that a back end may cut a step of few rows into kernels. */
static void check_prefixes(const struct bench *t, struct rig *r, void *const whole[])
{
    void *p[OP_BUFS_MAX];

    for (int32_t n = 1; n < t->c->n && t->c->n <= PREFIX_MAX; n++) {
        run(t, r, NULL, n, 0xff, p);
        check_bits(t, r, "the first rows", whole, p, NULL, n);
        drop(t, p);
    }
}

static void check_pieces(const struct bench *t, struct rig *r, void *const whole[])
{
    int32_t n = t->c->n, size = 1, *row = mem_array((size_t)n + 1, sizeof *row);
    void *p[OP_BUFS_MAX];

    for (int32_t at = 0; at < n; at += size, size = size * 2 + 1) { /* 1, 3, 7, 15 ... rows */
        size = size < n - at ? size : n - at;
        for (int32_t k = 0; k < size; k++)
            row[k] = at + k;
        run(t, r, row, size, 0xff, p);
        check_bits(t, r, "in pieces", whole, p, row, size);
        drop(t, p);
    }
    for (int32_t mod = 0; mod < 3; mod++) {
        int32_t m = 0;
        for (int32_t k = mod; k < n; k += 3)
            row[m++] = k;
        run(t, r, row, m, 0xff, p);
        check_bits(t, r, "every third row", whole, p, row, m);
        drop(t, p);
    }
    if (!t->d->keeps_order) {
        for (int32_t k = 0; k < n; k++)
            row[k] = n - 1 - k;
        run(t, r, row, n, 0xff, p);
        check_bits(t, r, "backwards", whole, p, row, n);
        drop(t, p);
    }
    mem_free(row);
}

static void one_backend(const struct bench *t, const char *name, int n_threads)
{
    struct rig r;
    void *whole[OP_BUFS_MAX] = {0}, *p[OP_BUFS_MAX];

    rig_open(&r, name, n_threads);
    run(t, &r, NULL, t->c->n, 0xff, whole);
    check_values(t, &r, whole);
    run(t, &r, NULL, t->c->n, 0x00, p); /* a byte that is not written keeps the other poison */
    check_bits(t, &r, "other poison", whole, p, NULL, t->c->n);
    drop(t, p);
    if (!t->d->no_rows) {
        check_pieces(t, &r, whole);
        check_prefixes(t, &r, whole);
    }
    for (int n = 2; n <= 3 && n_threads == 1 && strcmp(name, "cpu") == 0; n++) {
        struct rig more;
        rig_open(&more, name, n);
        run(t, &more, NULL, t->c->n, 0xff, p);
        check_bits(t, &more, "more threads", whole, p, NULL, t->c->n);
        drop(t, p);
        rig_close(&more);
    }
    drop(t, whole);
    rig_close(&r);
}

static void one_case(const struct op_def *d, const struct op_case *c)
{
    struct bench t = {.d = d, .c = c};
    struct rig ref;
    uint64_t rng = 1 + (uint64_t)d->op * 1000 + (uint64_t)(c - d->cases);

    t.n_buf = d->bufs(c, t.buf);
    for (int i = 0; i < t.n_buf; i++)
        t.in[i] = mem_zalloc(bytes_of(&t.buf[i], c->n) + 64);
    d->fill(c, t.in, &rng);
    rig_open(&ref, "ref", 1);
    run(&t, &ref, NULL, c->n, 0xff, t.want);
    if (d->formula && c->n > 0) {
        void *p[OP_BUFS_MAX];
        for (int i = 0; i < t.n_buf; i++)
            p[i] = t.buf[i].role == OP_OUT ? t.want[i] : t.in[i];
        double rel = d->formula(c, p, c->n);
        if (!(rel <= d->formula_tol))
            fail_msg("%s %s: ref is %g from the formula, bound %g", kn_op_name(d->op), c->label, rel, d->formula_tol);
    }
    for (const char *const *b = rig_backends(); *b; b++)
        one_backend(&t, *b, 1);
    drop(&t, t.want);
    for (int i = 0; i < t.n_buf; i++)
        mem_free(t.in[i]);
    rig_close(&ref);
}

static void test_op(void **state)
{
    const struct op_def *d = *state;
    for (size_t i = 0; i < d->n_case; i++)
        one_case(d, &d->cases[i]);
}

int main(void)
{
    struct CMUnitTest tests[sizeof defs / sizeof defs[0]];

    for (size_t i = 0; i < sizeof defs / sizeof defs[0]; i++)
        tests[i] = (struct CMUnitTest){kn_op_name(defs[i]->op), test_op, NULL, NULL, (void *)(uintptr_t)defs[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
