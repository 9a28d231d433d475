#include "tests/ops/rig.h"

#include "tests/ops/op.h"
#include "tests/unit/test.h"

struct kn_limits op_limits(void)
{
    return (struct kn_limits){
        .n_tok = 700,
        .n_in = 4096,
        .n_out = 4096,
        .n_head = 9,
        .dim = 512,
        .window = 128,
        .top_k = 512,
        .index_dim = 128,
        .index_n_head = 8,
        .context = 2048,
        .n_expert = 64,
        .inter = 512,
        .d = 1024,
    };
}

void rig_open(struct rig *r, const char *backend, int n_threads)
{
    struct kn_limits limits = op_limits();
    struct err err = {0};

    *r = (struct rig){.backend = kn_backend_find(backend)};
    assert_non_null(r->backend);
    assert_int_equal(kn_ops_missing(r->backend->ops), KN_OP_N);
    r->ctx = (struct kn_ctx){.n_ranks = 1, .n_threads = n_threads};
    if (r->backend->device->open(&r->ctx, &err))
        fail_msg("%s", err.text);
    r->ctx.workspace_bytes = r->backend->workspace_bytes(&limits);
    assert_int_equal(r->backend->device->alloc(&r->ctx, r->ctx.workspace_bytes, &r->ctx.workspace), 0);
}

void rig_close(struct rig *r)
{
    r->backend->device->release(&r->ctx, r->ctx.workspace);
    r->backend->device->close(&r->ctx);
}

const char *const *rig_backends(void)
{
    static const char *const all[] = {"ref", "cpu"};
    static const char *found[3];
    static bool is_known;
    int n = 0;

    if (is_known)
        return found;
    is_known = true;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const struct kn_backend *b = kn_backend_find(all[i]);
        struct kn_ctx ctx = {.n_ranks = 1, .n_threads = 1};
        struct err err = {0};
        if (!b) {
            print_message("back end %s is not built in: not tested\n", all[i]);
        } else if (b->device->open(&ctx, &err)) {
            print_message("back end %s: not tested: %s\n", all[i], err.text);
        } else {
            b->device->close(&ctx);
            print_message("back end %s: %s\n", all[i], b->numerics);
            found[n++] = all[i];
        }
    }
    found[n] = NULL;
    return found;
}
