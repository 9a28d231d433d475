#include "worker/tool/tool.h"

#include "common/mem/file.h"
#include "common/mem/mem.h"
#include "common/text/json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int wrk_tool_tokens_load(const char *path, int32_t n_vocab, int32_t **tok, int64_t *n, struct err *err)
{
    struct buf text = {0};
    struct arena arena = {0};
    const struct json *root = NULL;
    int32_t *out = NULL;
    int64_t i = 0;
    int rc = file_read(path, WRK_TOOL_TOKENS_FILE_MAX, &text, err);

    if (rc)
        goto out;
    if ((rc = json_parse(text.data, text.len, 0, &arena, &root, err))) {
        err_wrap(err, "%s", path);
        goto out;
    }
    const struct json *list = json_is(root, JSON_ARRAY) ? root : json_get(root, "tokens");
    if (!json_is(list, JSON_ARRAY) || list->n == 0 || list->n > WRK_TOOL_TOKENS_MAX) {
        rc = err_set(err, ERR_FORMAT, "%s: a list of 1 to %d token ids under \"tokens\" is needed", path,
                     WRK_TOOL_TOKENS_MAX);
        goto out;
    }
    out = mem_array(list->n, sizeof *out);
    for (const struct json *j = list->child; j; j = j->next, i++) {
        int64_t v;
        if (!json_to_i64(j, &v) || v < 0 || v >= n_vocab) {
            rc = err_set(err, ERR_RANGE, "%s: token %" PRId64 " is no id from 0 to %d", path, i, n_vocab - 1);
            goto out;
        }
        out[i] = (int32_t)v;
    }
    *tok = out;
    *n = i;
    out = NULL;
out:
    mem_free(out);
    arena_release(&arena);
    buf_release(&text);
    return rc;
}
