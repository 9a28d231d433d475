#include "kernels/include/ops.h"

#include <string.h>

extern const struct kn_backend kn_backend_ref;
#ifdef KN_HAVE_CPU
extern const struct kn_backend kn_backend_cpu;
#endif
#ifdef KN_HAVE_CUDA
extern const struct kn_backend kn_backend_cuda;
#endif

static const struct kn_backend *const backends[] = {
    &kn_backend_ref,
#ifdef KN_HAVE_CPU
    &kn_backend_cpu,
#endif
#ifdef KN_HAVE_CUDA
    &kn_backend_cuda,
#endif
};

const struct kn_backend *kn_backend_find(const char *name)
{
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

const char *kn_backend_names(void)
{
    return "ref"
#ifdef KN_HAVE_CPU
           ", cpu"
#endif
#ifdef KN_HAVE_CUDA
           ", cuda"
#endif
        ;
}

const char *kn_op_name(enum kn_op op)
{
    static const char *const names[] = {
#define X(name) #name,
        KN_OP_LIST(X)
#undef X
    };
    return op >= 0 && op < KN_OP_N ? names[op] : "?";
}

enum kn_op kn_ops_missing(const struct kn_ops *ops)
{
    _Static_assert(sizeof(struct kn_ops) == KN_OP_N * sizeof(int (*)(void)), "the list and the table agree");
#define X(name)                                                                                     \
    if (!ops->name)                                                                                 \
        return KN_OP_##name;
    KN_OP_LIST(X)
#undef X
    return KN_OP_N;
}
