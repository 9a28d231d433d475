/* The endpoints that answer at once: models, health, live, status. */
#include "controller/api/internal.h"

#include "common/text/json.h"

#include <string.h>

static void add_model(struct ctl_front *f, struct buf *out)
{
    int64_t context = ctl_context_max(f->ctl);

    buf_add_str(out, "{\"id\":");
    json_add_str(out, f->rules.model_name, strlen(f->rules.model_name));
    buf_addf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"baton\"", (long long)f->created_s);
    if (context > 0) /* unknown until a worker has told it */
        buf_addf(out, ",\"max_model_len\":%lld", (long long)context);
    buf_add_char(out, '}');
}

static void reply(const struct api_call *call, int status, struct buf *body)
{
    api__reply_json(call->x, status, body);
    buf_release(body);
}

void api__get_models(const struct api_call *call)
{
    struct buf body = {0};

    buf_add_str(&body, "{\"object\":\"list\",\"data\":[");
    add_model(call->front, &body);
    buf_add_str(&body, "]}");
    reply(call, 200, &body);
}

void api__get_model(const struct api_call *call)
{
    struct buf body = {0};
    struct api_error e;

    if (strcmp(call->rest, call->front->rules.model_name) != 0) {
        api_error_set(&e, API_ERROR_unknown_model, "model", "model '%.100s' is not served here; %.100s is", call->rest,
                      call->front->rules.model_name);
        api__reply_error(call->x, &e);
        return;
    }
    add_model(call->front, &body);
    reply(call, 200, &body);
}

void api__get_health(const struct api_call *call)
{
    struct ctl_front *f = call->front;
    struct buf body = {0};
    bool ready = ctl_is_ready(f->ctl) && !f->draining;
    const char *fault = ctl_store_fault(f->ctl);
    const char *word = ready                                         ? "ok"
                       : f->draining || ctl_is_draining(f->ctl) ? "draining"
                       : fault                                       ? "store"
                                                                     : "no worker";

    buf_addf(&body, "{\"status\":\"%s\"", word);
    if (fault)
        buf_addf(&body, ",\"store\":\"%s\"", fault);
    buf_add_char(&body, '}');
    reply(call, ready ? 200 : 503, &body);
}

void api__get_live(const struct api_call *call)
{
    struct buf body = {0};

    buf_add_str(&body, "{\"status\":\"alive\"}");
    reply(call, 200, &body);
}

void api__get_status(const struct api_call *call)
{
    struct buf body = {0};

    ctl_status_json(call->front->ctl, &body);
    reply(call, 200, &body);
}
