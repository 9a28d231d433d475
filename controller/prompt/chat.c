#include "controller/prompt/chat.h"

#include "common/mem/mem.h"
#include "controller/prompt/chat_impl.h"

#include <stdarg.h>
#include <stdio.h>

void chat_prompt_release(struct chat_prompt *p)
{
    buf_release(&p->text);
    mem_free(p->guard);
    *p = (struct chat_prompt){0};
}

struct err *chat__at(struct chat_fault *fault, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(fault->param, sizeof fault->param, fmt, ap);
    va_end(ap);
    return &fault->err;
}

const char *chat__shown(const struct json *j, char out[CHAT_SHOWN_MAX + 4])
{
    size_t n = 0;

    if (!json_is(j, JSON_STRING))
        return json_kind_name(j);
    for (; n < j->len && n < CHAT_SHOWN_MAX; n++)
        out[n] = j->text[n] >= 0x20 && j->text[n] < 0x7f ? j->text[n] : '?';
    snprintf(out + n, 4, "%s", n < j->len ? "..." : "");
    return out;
}

int chat_render_completion(const struct json *request, struct chat_prompt *out, struct chat_fault *fault)
{
    *out = (struct chat_prompt){0};
    if (!json_is(request, JSON_OBJECT))
        return err_set(chat__at(fault, "%s", ""), ERR_ARG, "the request is no JSON object");
    const struct json *prompt = json_get(request, "prompt"), *suffix = json_get(request, "suffix");
    if (!json_is(prompt, JSON_STRING))
        return err_set(chat__at(fault, "prompt"), ERR_ARG, "prompt has to be a string, not %s",
                       json_kind_name(prompt));
    if (!chat__is_absent(suffix) && suffix->kind != JSON_STRING)
        return err_set(chat__at(fault, "suffix"), ERR_ARG, "suffix has to be a string, not %s",
                       json_kind_name(suffix));
    buf_add_str(&out->text, CHAT_BOS);
    if (chat__is_absent(suffix)) {
        buf_add(&out->text, prompt->text, prompt->len);
        return 0;
    }
    buf_add_str(&out->text, "<｜fim▁begin｜>");
    buf_add(&out->text, prompt->text, prompt->len);
    buf_add_str(&out->text, "<｜fim▁hole｜>");
    buf_add(&out->text, suffix->text, suffix->len);
    buf_add_str(&out->text, "<｜fim▁end｜>");
    return 0;
}
