#include "kernels/include/ops.h"

#include <string.h>

extern const struct kn_backend kn_backend_ref;
#ifdef KN_HAVE_CPU
const struct kn_backend *kn_backend_cpu(void); /* that of this machine's instruction set */
#endif
#ifdef KN_HAVE_CUDA
extern const struct kn_backend kn_backend_cuda;
#endif

const struct kn_backend *kn_backend_find(const char *name)
{
    if (strcmp(name, "ref") == 0)
        return &kn_backend_ref;
#ifdef KN_HAVE_CPU
    if (strcmp(name, "cpu") == 0)
        return kn_backend_cpu();
#endif
#ifdef KN_HAVE_CUDA
    if (strcmp(name, "cuda") == 0)
        return &kn_backend_cuda;
#endif
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
