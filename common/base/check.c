#include "common/base/check.h"

#include <stdio.h>
#include <stdlib.h>

void check_failed(const char *what, const char *file, int line, const char *func)
{
    fprintf(stderr, "bug: %s:%d %s(): %s\n", file, line, func, what);
    abort();
}
