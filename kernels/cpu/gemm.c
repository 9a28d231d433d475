#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

static size_t padded(int64_t k)
{
    return (size_t)(k + KN__GROUP - 1) / KN__GROUP * KN__GROUP;
}

/* Room for KN__ROWS rows of up to FULL_WIDTH inputs; wider rows go in smaller blocks. Rows are not a power of two
 * apart: the lines of a panel would fall into few sets of the caches. */
enum { FULL_WIDTH = 16384, ROW_GAP = 64 };

size_t kn__rows_bytes(int64_t k)
{
    size_t width = padded(k) + ROW_GAP, full = (size_t)KN__ROWS * (width < FULL_WIDTH ? width : FULL_WIDTH),
           least = 16 * width;
    return kn_page_align((full > least ? full : least) * sizeof(float));
}

int kn__rows_init(struct kn__rows *rows, struct kn__scratch *s, int64_t k, int64_t n_part)
{
    size_t stride = padded(k) * (size_t)n_part + ROW_GAP, room = (size_t)(s->end - s->at) / (stride * sizeof(float));

    rows->stride = stride;
    rows->n_max = room < KN__ROWS ? (int)room : KN__ROWS;
    rows->x = kn__take(s, (size_t)rows->n_max * stride, sizeof *rows->x);
    return rows->x && rows->n_max >= 1 ? 0 : ERR_ARG;
}

struct load {
    const struct kn__isa *isa;
    const struct kn__rows *rows;
    const struct kn_act *act;
    enum kn_dtype dtype;
    int64_t row0;
    int k;
};

static void load_rows(void *arg, int64_t row, int n, void *scratch)
{
    const struct load *l = arg;

    (void)scratch;
    for (int64_t r = row; r < row + n; r++) {
        float *to = l->rows->x + (size_t)r * l->rows->stride;
        int64_t at = (l->row0 + r) * l->k;
        if (kn__is_quantized(l->dtype))
            l->isa->mat->x_codes(l->dtype, l->act->q + at, l->act->s + (l->row0 + r) * (l->k / KN_ACT_GROUP), l->k, to);
        else
            l->isa->mat->x_bf16(l->dtype, l->act->x + at, l->k, to);
    }
}

void kn__rows_load(const struct kn_ctx *ctx, const struct kn__rows *rows, enum kn_dtype dtype, const struct kn_act *act,
                   int64_t row0, int n, int k)
{
    struct load l = {kn__cpu(ctx)->isa, rows, act, dtype, row0, k};
    kn__rows_run(ctx, n, 4, load_rows, &l);
}

/* One tile of expanded weights at a time against all rows; a block of their inputs is read once per tile from L2. */
static void many_rows(const struct kn__isa *isa, const struct kn_mat *w, int64_t o, int n_col, const float *x,
                      size_t stride, int n_row, struct kn__tile_mem *mem)
{
    struct kn__dot d = {.x_stride = stride, .w = mem->w, .n_row = n_row, .y_stride = KN__COL_GROUP};
    int64_t last = w->n_out - 1;

    for (int k0 = 0; k0 < w->n_in; k0 += KN__K_BLOCK) {
        int n = w->n_in - k0 < KN__K_BLOCK ? w->n_in - k0 : KN__K_BLOCK;
        d.x = x + k0;
        d.k = (int)padded(n);
        d.is_first = k0 == 0;
        for (int c0 = 0; c0 < n_col; c0 += KN__TILE_COLS) {
            int n_tile = n_col - c0 < KN__TILE_COLS ? n_col - c0 : KN__TILE_COLS;
            d.n_col = n_tile <= 4 ? 4 : KN__TILE_COLS;
            d.y = mem->y + c0;
            for (int c = 0; c < d.n_col; c++) { /* columns past the last are read as the last: nobody takes them */
                int64_t row = o + c0 + (c < n_tile ? c : n_tile - 1), ahead = row + KN__TILE_COLS;
                isa->mat->w_row(w, row, k0, n, ahead < last ? ahead : last, mem->w + c * KN__K_BLOCK);
            }
            isa->mat->dot(&d);
        }
    }
}

/* Has one of the rows o..o+n of an FP8 matrix a scale that the kernel for few rows cannot apply? */
static bool has_big_scale(const struct kn_mat *w, int64_t o, int n)
{
    int64_t n_scale = (w->n_in + 127) / 128;

    if (w->dtype != KN_FP8)
        return false;
    for (int64_t i = o / 128 * n_scale; i < ((o + n - 1) / 128 + 1) * n_scale; i++)
        if (w->scale[i] >= KN__E4M3_BIG)
            return true;
    return false;
}

void kn__cols(const struct kn__isa *isa, const struct kn_mat *w, int64_t o, int n_col, const float *x, size_t stride,
              int n_row, struct kn__tile_mem *mem)
{
    if (n_row <= KN__FEW_MAX && !has_big_scale(w, o, n_col))
        isa->mat->few(&(struct kn__few){w, o, n_col, x, stride, n_row, mem->y, KN__COL_GROUP});
    else
        many_rows(isa, w, o, n_col, x, stride, n_row, mem);
}

void kn__cols_bf16(const struct kn__isa *isa, const struct kn_mat *w, int64_t o, int n_col, const float *x,
                   size_t stride, int n_row, struct kn__tile_mem *mem, uint16_t *y, int64_t y_stride)
{
    kn__cols(isa, w, o, n_col, x, stride, n_row, mem);
    for (int64_t r = 0; r < n_row; r++)
        isa->vec->round(mem->y + r * KN__COL_GROUP, n_col, y + r * y_stride);
}

int kn__task_cols(const struct kn_ctx *ctx, int64_t n_out)
{
    int64_t share = n_out / (8 * kn__pool_threads(kn__cpu(ctx)->pool)) / KN__TILE_COLS * KN__TILE_COLS;
    return share < KN__TILE_COLS ? KN__TILE_COLS : share > KN__COL_GROUP ? KN__COL_GROUP : (int)share;
}

/* ---- rows over the threads ---- */

struct row_job {
    int64_t n;
    int run;
    kn__row_task *fn;
    void *arg;
};

static void row_task(void *arg, int64_t task, void *scratch)
{
    const struct row_job *j = arg;
    int64_t row = task * j->run;
    j->fn(j->arg, row, (int)(j->n - row < j->run ? j->n - row : j->run), scratch);
}

void kn__rows_run(const struct kn_ctx *ctx, int64_t n, int least, kn__row_task *fn, void *arg)
{
    struct kn__pool *pool = kn__cpu(ctx)->pool;
    int64_t share = n / (4 * kn__pool_threads(pool));
    struct row_job j = {n, share > least ? (int)share : least, fn, arg};

    kn__pool_run(pool, (n + j.run - 1) / j.run, row_task, &j);
}

void kn__put_act(const struct kn__isa *isa, const struct kn_act *y, int64_t r, int k, const uint16_t *x)
{
    if (y->x)
        memcpy(y->x + r * k, x, (size_t)k * sizeof *x);
    if (y->q)
        isa->vec->quantize(x, k, y->q + r * k, y->s + r * (k / KN_ACT_GROUP));
}

float kn__row_inv_rms(const struct kn__isa *isa, const uint16_t *x, int n, float eps)
{
    return 1.0f / sqrtf(isa->vec->sum_squares(x, n) / (float)n + eps);
}

void kn__norm_row(const struct kn__isa *isa, const uint16_t *x, const float *weight, int n, float eps, uint16_t *y)
{
    isa->vec->scale(x, kn__row_inv_rms(isa, x, n, eps), weight, n, y);
}
