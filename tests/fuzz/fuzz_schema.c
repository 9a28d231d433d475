/* Any JSON list as [schema, value]: read and checked, or refused with a reason and a place. */
#include "common/base/check.h"
#include "common/text/utf8.h"
#include "controller/agent/plan/schema.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct json *pair, *where = NULL;
    struct schema *s = NULL;
    struct arena arena = {0};
    struct buf report = {0};
    struct err err = {0};

    if (json_parse((const char *)data, size, 0, &arena, &pair, NULL) == 0 && json_at(pair, 0) && json_at(pair, 1)) {
        if (schema_parse(json_at(pair, 0), &s, &where, &err) != 0) {
            ASSERT(!s && where && err.text[0] && !strchr(err.text, '\n'));
        } else {
            int n = schema_check(s, json_at(pair, 1), &report);
            ASSERT(n >= 0 && n <= SCHEMA_FAULTS_MAX && (n == 0) == (report.len == 0));
            ASSERT(n == schema_check(s, json_at(pair, 1), NULL));
        }
        schema_destroy(&s);
    }
    buf_release(&report);
    arena_release(&arena);
    return 0;
}
