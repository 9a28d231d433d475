#include "controller/agent/plan/fault.h"

#include <string.h>

const char *fault_name(enum fault f)
{
    static const char *const name[] = {
        "none",
#define X(name, retryable, text) #name,
        FAULT_LIST(X)
#undef X
    };
    return (unsigned)f < FAULT_N ? name[f] : "?";
}

enum fault fault_by_name(const char *name)
{
    for (int f = FAULT_none + 1; f < FAULT_N; f++)
        if (strcmp(fault_name((enum fault)f), name) == 0)
            return (enum fault)f;
    return FAULT_N;
}

bool fault_is_retryable(enum fault f)
{
    static const bool retryable[] = {
        false,
#define X(name, retryable, text) retryable,
        FAULT_LIST(X)
#undef X
    };
    return (unsigned)f < FAULT_N && retryable[f];
}
