#include "controller/cli/client.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/json.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

struct transfer {
    struct client_call *call;
    CURL *curl;
    int rc; /* what on_data or the limit said */
};

/* A handle of libcurl keeps its connections. */
struct client_session {
    CURL *curl;
};

struct client_session *client_session_new(void)
{
    struct client_session *s = mem_zalloc(sizeof *s);
    s->curl = curl_easy_init();
    return s;
}

void client_session_destroy(struct client_session **session)
{
    if (!*session)
        return;
    curl_easy_cleanup((*session)->curl);
    mem_free(*session);
    *session = NULL;
}

const char *client_base(const char *flag)
{
    const char *env = getenv("BATON_URL");

    if (flag)
        return flag;
    return env && *env ? env : CLIENT_URL_DEFAULT;
}

static size_t on_write(char *data, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    struct client_call *c = t->call;

    n *= size;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &c->status);
    if (c->on_data && c->status == 200) {
        t->rc = c->on_data(c->arg, data, n);
    } else if (c->out.len + n > CLIENT_BODY_MAX) {
        t->rc = ERR_LIMIT;
    } else {
        buf_add(&c->out, data, n);
    }
    return t->rc ? 0 : n;
}

/* libcurl asks at least once a second, and right after a signal has woken it. */
static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct transfer *t = arg;

    (void)a, (void)b, (void)c, (void)d;
    return t->call->cancel && *t->call->cancel;
}

static int outcome(const struct transfer *t, CURLcode code, const char *url, const char *detail, struct err *err)
{
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_COULDNT_CONNECT:
        return err_set(err, ERR_NET, "nothing answers at %s; is `baton up` running? (--url or BATON_URL tells where)",
                       t->call->base);
    case CURLE_OPERATION_TIMEDOUT:
        return err_set(err, ERR_TIMEOUT, "%s did not answer in time", url);
    case CURLE_ABORTED_BY_CALLBACK:
        return err_set(err, ERR_CANCELED, "canceled");
    case CURLE_WRITE_ERROR:
        if (t->rc == ERR_LIMIT)
            return err_set(err, ERR_LIMIT, "answer of %s is longer than %d bytes", url, CLIENT_BODY_MAX);
        return err_set(err, t->rc, "answer of %s was not taken", url);
    default:
        return err_set(err, ERR_NET, "%s: %s", url, *detail ? detail : curl_easy_strerror(code));
    }
}

static void set_options(struct transfer *t, const char *url, struct curl_slist *headers, char *detail)
{
    struct client_call *c = t->call;

    curl_easy_setopt(t->curl, CURLOPT_URL, url);
#if LIBCURL_VERSION_NUM >= 0x075500 /* 7.85 brought the text form and deprecates the other; Ubuntu 22.04 has 7.81 */
    curl_easy_setopt(t->curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(t->curl, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CLIENT_CONNECT_MS);
    curl_easy_setopt(t->curl, CURLOPT_TIMEOUT_MS, c->timeout_ms);
    curl_easy_setopt(t->curl, CURLOPT_ERRORBUFFER, detail);
    curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_write);
    curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(t->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(t->curl, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, headers);
    if (c->body) {
        curl_easy_setopt(t->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body_len);
        curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, c->body);
    }
}

int client_run(struct client_call *c, struct err *err)
{
    struct transfer t = {.call = c, .curl = c->session ? c->session->curl : curl_easy_init()};
    struct curl_slist *headers = NULL;
    char url[CLIENT_URL_MAX], detail[CURL_ERROR_SIZE] = "";
    size_t base_len = strlen(c->base);
    int rc;

    if (!t.curl)
        return err_set(err, ERR_MEM, "libcurl does not start");
    if (c->session)
        curl_easy_reset(t.curl);
    while (base_len && c->base[base_len - 1] == '/')
        base_len--;
    rc = snprintf(url, sizeof url, "%.*s%s", (int)base_len, c->base, c->path);
    if (rc < 0 || (size_t)rc >= sizeof url) {
        rc = err_set(err, ERR_ARG, "URL is longer than %d bytes", CLIENT_URL_MAX);
        goto out;
    }
    headers = curl_slist_append(headers, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:"); /* no 100-continue round trip */
    for (const char *const *h = c->header; h && *h; h++)
        headers = curl_slist_append(headers, *h);
    set_options(&t, url, headers, detail);
    CURLcode code = curl_easy_perform(t.curl);
    curl_easy_getinfo(t.curl, CURLINFO_RESPONSE_CODE, &c->status);
    rc = outcome(&t, code, url, detail, err);
out:
    curl_slist_free_all(headers);
    if (!c->session)
        curl_easy_cleanup(t.curl);
    return rc;
}

int client_refused(const struct client_call *c, struct err *err)
{
    const struct json *root = NULL, *message = NULL;
    struct arena arena;

    arena_init(&arena);
    if (c->out.len && json_parse(c->out.data, c->out.len, 0, &arena, &root, NULL) == 0)
        message = json_get(json_get(root, "error"), "message");
    err_set(err, ERR_NET, "%s%s answers %ld: %s", c->base, c->path, c->status,
            json_is(message, JSON_STRING) ? message->text : "no reason given");
    arena_release(&arena);
    return ERR_NET;
}

void client_release(struct client_call *c)
{
    buf_release(&c->out);
}
