#include "worker/sample/sample.h"

#include "common/base/check.h"
#include "worker/sample/noise.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* The caller's scratch, cut up: [n_vocab] each. */
struct scratch {
    double *weight; /* exp((logit - max) / T); 0 for what a filter removed */
    float *logit;   /* after bias and penalties */
    int32_t *idx;   /* counts for the penalties, then candidates while a filter selects */
};

size_t wrk_sample_scratch_bytes(int32_t n_vocab)
{
    return (size_t)n_vocab * (sizeof(double) + sizeof(float) + sizeof(int32_t));
}

static struct scratch scratch_cut(void *mem, int32_t n_vocab)
{
    struct scratch s;
    s.weight = mem;
    s.logit = (float *)(s.weight + n_vocab);
    s.idx = (int32_t *)(s.logit + n_vocab);
    return s;
}

/* e^x for x <= 0, within 2 ulp. Our own, because the C library's differs by version and by processor, and a token that
 * depends on its last bit would not survive a move to another host: this is additions and multiplications in a
 * fixed order (built with -ffp-contract=off). */
static double exp_neg(double x)
{
    if (!(x > -708.0)) /* the result would be subnormal: as a weight that is nothing */
        return 0;
    const double shift = 0x1.8p52; /* adding it rounds to an integer, found in the low bits */
    double z = x * 0x1.71547652b82fep0 + shift;
    union {
        double d;
        uint64_t u;
    } bits = {.d = z};
    double n = z - shift;
    double r = x - n * 0x1.62e42feep-1;
    r = r - n * 0x1.a39ef35793c76p-33;
    double p = 1.0 / 6227020800.0;
    static const double coef[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                  1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1.0,
                                  1.0};
    for (size_t i = 0; i < N_ELEM(coef); i++)
        p = p * r + coef[i];
    bits.u = (bits.u + 1023) << 52;
    return p * bits.d;
}

/* Highest logit, lowest id of it. ERR_STATE when the logits are not a distribution: NaN, +Inf, or all -Inf. */
static int find_max(const float *logit, int32_t n, int32_t *id, struct err *err)
{
    int32_t best = 0;
    for (int32_t i = 0; i < n; i++) {
        if (!(logit[i] < INFINITY))
            return err_set(err, ERR_STATE, "the engine's logit of token %d is %s: its state cannot be trusted", i,
                           isnan(logit[i]) ? "not a number" : "infinite");
        if (logit[i] > logit[best])
            best = i;
    }
    if (logit[best] == -INFINITY)
        return err_set(err, ERR_STATE, "the engine gave no token a chance: its state cannot be trusted");
    *id = best;
    return 0;
}

static bool has_penalty(const struct msg_sampling *how)
{
    return how->presence_penalty != 0 || how->frequency_penalty != 0 ||
           (how->repetition_penalty != 1 && how->repetition_penalty != 0);
}

/* Penalties follow from the tokens alone. The repetition penalty looks at prompt and output, the others at output. */
static void apply_penalties(const struct wrk_sample_in *in, struct scratch *s)
{
    const struct msg_sampling *how = in->how;
    const float rep = how->repetition_penalty;
    memset(s->idx, 0, (size_t)in->n_vocab * sizeof *s->idx);
    for (int64_t i = 0; i < in->n_tok; i++) {
        int32_t id = in->tok[i], *count = &s->idx[id];
        ASSERT(id >= 0 && id < in->n_vocab);
        if (*count == 0 && rep != 1 && rep != 0)
            s->logit[id] = s->logit[id] > 0 ? s->logit[id] / rep : s->logit[id] * rep;
        if (*count == 0)
            *count = -1; /* seen in the prompt only */
        if (i >= in->n_prompt)
            *count = *count < 0 ? 1 : *count + 1;
    }
    for (int32_t id = 0; id < in->n_vocab; id++)
        if (s->idx[id] > 0)
            s->logit[id] -= how->frequency_penalty * (float)s->idx[id] + how->presence_penalty;
}

/* The order of all filters: higher weight first, lower id among equals. */
static bool is_before(const double *w, int32_t a, int32_t b)
{
    return w[a] > w[b] || (w[a] == w[b] && a < b);
}

static void swap_idx(int32_t *a, int32_t *b)
{
    int32_t t = *a;
    *a = *b;
    *b = t;
}

/* Put a pivot in its place among idx[lo..hi): everything before it comes earlier in the order. */
static int32_t partition(const double *w, int32_t *idx, int32_t lo, int32_t hi)
{
    int32_t mid = lo + (hi - lo) / 2, last = hi - 1;
    if (is_before(w, idx[mid], idx[lo]))
        swap_idx(&idx[mid], &idx[lo]);
    if (is_before(w, idx[last], idx[lo]))
        swap_idx(&idx[last], &idx[lo]);
    if (is_before(w, idx[mid], idx[last]))
        swap_idx(&idx[mid], &idx[last]); /* the median of three is last */
    int32_t pivot = idx[last], at = lo;
    for (int32_t i = lo; i < last; i++)
        if (is_before(w, idx[i], pivot))
            swap_idx(&idx[i], &idx[at++]);
    swap_idx(&idx[at], &idx[last]);
    return at;
}

/* Of the n candidates, the last one that stays: the k-th (k >= 1), or the one whose weight first brings the sum to
 * `mass` (k == 0). Finding it needs no sorting: each step throws away one side of a pivot. */
static int32_t find_last(const double *w, int32_t *idx, int32_t n, int32_t k, double mass)
{
    int32_t lo = 0, hi = n;
    while (hi - lo > 1) {
        int32_t at = partition(w, idx, lo, hi);
        double sum = 0;
        for (int32_t i = lo; k == 0 && i < at; i++)
            sum += w[idx[i]];
        const bool in_front = k ? k <= at : sum >= mass;
        if (in_front && at > lo) {
            hi = at;
        } else if (k ? k == at + 1 : sum + w[idx[at]] >= mass) {
            return idx[at];
        } else {
            mass -= sum + w[idx[at]];
            lo = at + 1;
        }
    }
    return idx[lo < hi ? lo : hi - 1]; /* lo == hi: the parts of a sum were rounded differently from the whole */
}

/* Zero the weights behind `last`. */
static void cut_behind(double *w, int32_t n, int32_t last)
{
    const double w_last = w[last];
    for (int32_t i = 0; i < n; i++)
        if (w[i] < w_last || (w[i] == w_last && i > last))
            w[i] = 0;
}

static int32_t candidates(const double *w, int32_t n_vocab, int32_t *idx)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_vocab; i++)
        if (w[i] > 0)
            idx[n++] = i;
    return n;
}

static void apply_filters(const struct msg_sampling *how, int32_t n_vocab, struct scratch *s)
{
    double *w = s->weight;
    if (how->top_k > 0 && how->top_k < n_vocab) {
        int32_t n = candidates(w, n_vocab, s->idx);
        if (how->top_k < n)
            cut_behind(w, n_vocab, find_last(w, s->idx, n, how->top_k, 0));
    }
    if (how->min_p > 0) {
        const double least = (double)how->min_p; /* the highest weight is e^0 = 1 */
        for (int32_t i = 0; i < n_vocab; i++)
            if (w[i] < least)
                w[i] = 0;
    }
    if (how->top_p < 1) {
        int32_t n = candidates(w, n_vocab, s->idx);
        double sum = 0;
        for (int32_t i = 0; i < n; i++)
            sum += w[s->idx[i]];
        cut_behind(w, n_vocab, find_last(w, s->idx, n, 0, (double)how->top_p * sum));
    }
}

/* Inverse CDF in the order of ids: the sums are made in one order, so equal weights give equal tokens. */
static int32_t draw(const double *w, int32_t n, double u)
{
    double total = 0, sum = 0;
    int32_t last = 0;
    for (int32_t i = 0; i < n; i++)
        total += w[i];
    const double mark = u * total;
    for (int32_t i = 0; i < n; i++) {
        if (w[i] == 0)
            continue;
        sum += w[i];
        last = i;
        if (sum > mark)
            break;
    }
    return last; /* also when mark was rounded up to the total */
}

static void report_top(const float *logit, int32_t n_vocab, double log_norm, int32_t n_top, struct msg_token *out)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_vocab && n_top > 0; i++) {
        if (n == n_top && !(logit[i] > logit[out->top[n - 1].id]))
            continue;
        int32_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && logit[i] > logit[out->top[at - 1].id]; at--)
            out->top[at] = out->top[at - 1];
        out->top[at].id = i;
    }
    for (int32_t i = 0; i < n; i++)
        out->top[i].logprob = (float)((double)logit[out->top[i].id] - log_norm);
    out->n_top = n;
}

static int32_t choose(const struct wrk_sample_in *in, struct scratch *s, int32_t best)
{
    const struct msg_sampling *how = in->how;
    if (how->temperature == 0 || how->top_k == 1)
        return best;
    const double max = (double)s->logit[best], t = (double)how->temperature;
    for (int32_t i = 0; i < in->n_vocab; i++)
        s->weight[i] = exp_neg(((double)s->logit[i] - max) / t);
    apply_filters(how, in->n_vocab, s);
    return draw(s->weight, in->n_vocab, wrk_noise_uniform(how->seed, (uint64_t)in->n_tok));
}

int wrk_sample(const struct wrk_sample_in *in, void *scratch, struct msg_token *out, struct err *err)
{
    const struct msg_sampling *how = in->how;
    struct scratch s = scratch_cut(scratch, in->n_vocab);
    ASSERT(in->n_vocab > 0 && how->n_top >= 0 && how->n_top <= MSG_TOP_MAX);
    int32_t best_raw, best;
    int rc = find_max(in->logits, in->n_vocab, &best_raw, err);
    if (rc)
        return rc;
    best = best_raw;
    memcpy(s.logit, in->logits, (size_t)in->n_vocab * sizeof *s.logit);
    if (how->n_bias > 0 || has_penalty(how)) {
        for (int32_t i = 0; i < how->n_bias; i++) {
            ASSERT(how->bias[i].id >= 0 && how->bias[i].id < in->n_vocab);
            s.logit[how->bias[i].id] += how->bias[i].bias;
        }
        if (has_penalty(how))
            apply_penalties(in, &s);
        rc = find_max(s.logit, in->n_vocab, &best, err);
        if (rc)
            return rc;
    }
    const double max_raw = (double)in->logits[best_raw];
    double sum = 0;
    for (int32_t i = 0; i < in->n_vocab; i++)
        sum += exp_neg((double)in->logits[i] - max_raw);
    const double log_norm = max_raw + log(sum);

    struct msg_token t;
    memset(&t, 0, sizeof t);
    t.id = choose(in, &s, best);
    t.logprob = (float)((double)in->logits[t.id] - log_norm);
    report_top(in->logits, in->n_vocab, log_norm, how->n_top < in->n_vocab ? how->n_top : in->n_vocab, &t);
    *out = t;
    return 0;
}
