#include "tests/ops/compare.h"

#include "kernels/include/num.h"

#include <math.h>

struct sums {
    struct compare c;
    double diff2, want2;
};

static bool is_same_kind(float got, float want)
{
    if (isnan(want))
        return isnan(got);
    if (isinf(want))
        return isinf(got) && signbit(got) == signbit(want);
    return isfinite(got);
}

static void add(struct sums *s, size_t i, float got, float want)
{
    struct compare *c = &s->c;

    if (!is_same_kind(got, want)) {
        if (c->n_mask++ == 0)
            c->worst = i;
        return;
    }
    if (!isfinite(want)) {
        c->n_equal++;
        return;
    }
    double diff = fabs((double)got - (double)want);
    c->n_equal += diff == 0;
    s->diff2 += diff * diff;
    s->want2 += (double)want * (double)want;
    c->mean_abs += diff;
    if (diff > c->max_abs) {
        c->max_abs = diff;
        if (c->n_mask == 0)
            c->worst = i;
    }
}

static struct compare result(struct sums *s, size_t n)
{
    s->c.n = n;
    s->c.mean_abs = n ? s->c.mean_abs / (double)n : 0;
    s->c.rel = s->diff2 > 0 ? sqrt(s->diff2 / s->want2) : 0; /* want 0: infinity */
    return s->c;
}

struct compare compare_f32(const float *got, const float *want, size_t n)
{
    struct sums s = {0};
    for (size_t i = 0; i < n; i++)
        add(&s, i, got[i], want[i]);
    return result(&s, n);
}

struct compare compare_bf16(const uint16_t *got, const uint16_t *want, size_t n)
{
    struct sums s = {0};
    for (size_t i = 0; i < n; i++)
        add(&s, i, kn_bf16_f32(got[i]), kn_bf16_f32(want[i]));
    return result(&s, n);
}

static bool is_ok(const struct compare *c, double value, double tol)
{
    return c->n_mask == 0 && tol >= 0 && isfinite(tol) && value <= tol;
}

bool compare_rel_ok(const struct compare *c, double tol)
{
    return is_ok(c, c->rel, tol);
}

bool compare_abs_ok(const struct compare *c, double tol)
{
    return is_ok(c, c->max_abs, tol);
}

size_t compare_bits(const void *got, const void *want, size_t n_bytes)
{
    const unsigned char *a = got, *b = want;
    size_t i = 0;
    while (i < n_bytes && a[i] == b[i])
        i++;
    return i;
}
