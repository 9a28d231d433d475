/* Any bytes as a pipeline file: a plan whose canonical text is read back to the same text, or faults of one line each
 * that name a line, and nothing left behind. */
#include "common/base/check.h"
#include "controller/agent/plan/pipeline.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pipeline *p = NULL, *again = NULL;
    struct buf report = {0};
    struct err err = {0};

    if (pipeline_parse((const char *)data, size, "f", "/d", &p, &report, &err) != 0) {
        ASSERT(!p && strncmp(err.text, "f:", 2) == 0 && err.text[2] >= '1' && err.text[2] <= '9');
        ASSERT(report.len && report.data[report.len - 1] == '\n');
    } else {
        ASSERT(report.len == 0);
        size_t n, n_again;
        const char *text = pipeline_canonical(p, &n);
        int rc = pipeline_parse(text, n, "", "/other", &again, NULL, &err);
        ASSERT(rc == 0);
        const char *text_again = pipeline_canonical(again, &n_again);
        ASSERT(n == n_again && memcmp(text, text_again, n) == 0);
        ASSERT(memcmp(p->hash, again->hash, sizeof p->hash) == 0);
    }
    pipeline_destroy(&again);
    pipeline_destroy(&p);
    buf_release(&report);
    return 0;
}
