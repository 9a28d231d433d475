/* Any JSON as a request, at each level: a prompt with sound guards, or a fault of one line and nothing left behind.
 * Byte 0 chooses level and profile. */
#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/text/json.h"
#include "common/text/utf8.h"
#include "controller/prompt/chat.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static int render(int level, const struct json *request, enum chat_profile profile, struct chat_prompt *p,
                  struct chat_fault *fault)
{
    if (level == 0)
        return chat_render_encoder(request, profile, p, fault);
    if (level == 1)
        return chat_render_completion(request, p, fault);
    return chat_render_api(request, profile, p, fault);
}

static void check_prompt(const struct chat_prompt *p)
{
    static const char think[] = "<think>";
    const size_t n = sizeof think - 1;
    size_t at = 0;

    ASSERT(utf8_is_valid(p->text.data, p->text.len));
    for (size_t i = 0; i < p->n_guard; i++) {
        ASSERT(p->guard[i].begin >= at && p->guard[i].begin < p->guard[i].end && p->guard[i].end <= p->text.len);
        at = p->guard[i].end;
    }
    if (p->in_reasoning)
        ASSERT(p->text.len >= n && memcmp(p->text.data + p->text.len - n, think, n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct chat_prompt p;
    struct chat_fault fault = {0};
    const struct json *request;
    struct err err;

    if (size < 1)
        return 0;
    if (json_parse((const char *)data + 1, size - 1, 0, &arena, &request, &err) == 0) {
        int rc = render(data[0] & 7, request, data[0] & 8 ? CHAT_PREVIEW : CHAT_0731, &p, &fault);
        if (rc) {
            ASSERT(rc == ERR_ARG && fault.err.text[0] && !strchr(fault.err.text, '\n'));
            ASSERT(memchr(fault.param, 0, sizeof fault.param));
            ASSERT(!p.text.data && !p.guard);
        } else {
            check_prompt(&p);
        }
        chat_prompt_release(&p);
    }
    arena_release(&arena);
    return 0;
}
