#include "kernels/cpu/cpu.h"

#include <pthread.h>
#include <stdlib.h>

extern const struct kn_ops kn_ops_cpu;
const struct kn_backend *kn_backend_cpu(void);
extern const struct kn_backend kn_backend_ref;

static const struct kn__isa isa_avx2 = {&kn__mat_avx2, &kn__vec_avx2};
static const struct kn__isa isa_avx512 = {&kn__mat_avx512, &kn__vec_avx2};

#ifdef KN_AVX512_HEADER
static const bool is_emulated = true; /* a test's build: AVX-512 wherever it runs */
#else
static const bool is_emulated = false;
#endif

const struct kn__isa *kn__isa_find(const char **missing)
{
    __builtin_cpu_init();
    *missing = !__builtin_cpu_supports("avx2") ? "AVX2" : !__builtin_cpu_supports("fma") ? "FMA" : NULL;
    if (*missing) /* every processor with AVX2 has F16C */
        return NULL;
    bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has_512 || is_emulated ? &isa_avx512 : &isa_avx2;
}

/* window_store and moe_dispatch copy bytes, in an order that makes no difference to them: ref's bodies are theirs. */
int kn__cpu_window_store(struct kn_ctx *ctx, const struct kn_window_store_args *a)
{
    return kn__ref_window_store(ctx, a);
}

int kn__cpu_moe_dispatch(struct kn_ctx *ctx, const struct kn_moe_dispatch_args *a)
{
    return kn__ref_moe_dispatch(ctx, a);
}

const struct kn_ops kn_ops_cpu = {
#define X(name) .name = kn__cpu_##name,
    KN_OP_LIST(X)
#undef X
};

/* The rank's share of n threads, at least one; the first ranks take what is over. */
static int share_of(int n, const struct kn_ctx *ctx)
{
    int share = (n + ctx->n_ranks - 1 - ctx->rank) / ctx->n_ranks;
    return share > 1 ? share : 1;
}

static pthread_once_t tables = PTHREAD_ONCE_INIT; /* of the one instruction set that is used */

static int cpu_open(struct kn_ctx *ctx, struct err *err)
{
    const char *missing;
    int n = ctx->n_threads;

    if (n < 0 || n > KN__POOL_THREADS_MAX)
        return err_set(err, ERR_RANGE, "%d threads were asked for, 1 to %d are possible", n, KN__POOL_THREADS_MAX);
    const struct kn__isa *isa = kn__isa_find(&missing);
    if (!isa)
        return err_set(err, ERR_UNSUPPORTED, "back end cpu: this machine lacks %s; use --backend ref", missing);
    struct kn__cpu *cpu = calloc(1, sizeof *cpu);
    n = share_of(n ? n : kn__pool_cores(), ctx);
    if (!cpu || kn__pool_open(n, KN__SCRATCH_BYTES, &cpu->pool)) {
        free(cpu);
        return err_set(err, ERR_MEM, "back end cpu: the threads could not be started; give it fewer (--threads)");
    }
    cpu->isa = isa;
    pthread_once(&tables, isa->mat->init);
    ctx->stream = cpu;
    return 0;
}

static void cpu_close(struct kn_ctx *ctx)
{
    struct kn__cpu *cpu = ctx->stream;

    if (!cpu)
        return;
    kn__pool_close(&cpu->pool);
    free(cpu);
    ctx->stream = NULL;
}

/* Memory is the host's, as ref's: its functions are used. */
static int cpu_alloc(struct kn_ctx *ctx, size_t bytes, void **p)
{
    return kn_backend_ref.device->alloc(ctx, bytes, p);
}

static void cpu_release(struct kn_ctx *ctx, void *p)
{
    kn_backend_ref.device->release(ctx, p);
}

static int cpu_copy_in(struct kn_ctx *ctx, void *dev, const void *host, size_t bytes)
{
    return kn_backend_ref.device->copy_in(ctx, dev, host, bytes);
}

static int cpu_copy_out(struct kn_ctx *ctx, void *host, const void *dev, size_t bytes)
{
    return kn_backend_ref.device->copy_out(ctx, host, dev, bytes);
}

static int cpu_sync(struct kn_ctx *ctx)
{
    return kn_backend_ref.device->sync(ctx);
}

static int cpu_map_weights(struct kn_ctx *ctx, const struct kn_mat *host, struct kn_mat *dev)
{
    return kn_backend_ref.device->map_weights(ctx, host, dev);
}

static const struct kn_device cpu_device = {
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .copy_in = cpu_copy_in,
    .copy_out = cpu_copy_out,
    .sync = cpu_sync,
    .map_weights = cpu_map_weights,
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The expanded rows of the widest matrix, or the scores of one row; beside them what else an op takes. */
static size_t cpu_workspace_bytes(const struct kn_limits *l)
{
    int64_t heads = (int64_t)l->n_head * l->dim, width = l->n_in > heads ? l->n_in : heads;
    size_t rows = kn__rows_bytes(width > l->d ? width : l->d);
    size_t beside = (size_t)KN__ROWS * (2 + KN_HC_MAX) * KN_HC_MAX * sizeof(float) +
                    ((size_t)l->n_expert + 1) * 4 * sizeof(int64_t);
    size_t scores = kn__topk_bytes(KN_INDEX_CHUNK, l->top_k);
    size_t entries = ((size_t)l->n_tok / 2 + 1) * ((size_t)max_size((size_t)l->dim, (size_t)l->index_dim) * 2 + 8);
    return 16 * KN_PAGE_ALIGN + max_size(rows + beside, max_size(scores, entries));
}

/* One table an instruction set: they differ in what they call themselves. */
static const struct kn_backend backend_avx2 = {
    .name = "cpu",
    .numerics = "cpu/avx2/2",
    .ops = &kn_ops_cpu,
    .device = &cpu_device,
    .workspace_bytes = cpu_workspace_bytes,
};
static const struct kn_backend backend_avx512 = {
    .name = "cpu",
    .numerics = "cpu/avx512/1",
    .ops = &kn_ops_cpu,
    .device = &cpu_device,
    .workspace_bytes = cpu_workspace_bytes,
};

const struct kn_backend *kn_backend_cpu(void)
{
    const char *missing;
    return kn__isa_find(&missing) == &isa_avx512 ? &backend_avx512 : &backend_avx2; /* none: open says so */
}
