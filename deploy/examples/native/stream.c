/* A worked example of libbaton: stream a chat completion and print it as it comes.
 *
 *   cc stream.c -o stream $(pkg-config --cflags --libs baton)
 *   ./stream tcp://127.0.0.1:7070 '{"model":"m","messages":[{"role":"user","content":"Hello"}],"stream":true}'
 *
 * Settings come from the environment:
 *   BATON_SERVER_KEY  the controller's public CURVE key, if it wants an encrypted line
 *   BATON_API_KEY     sent as Authorization: Bearer
 *   BATON_KEY         Idempotency-Key. With the same key and body a second start goes on with the first one's request
 *   BATON_LAST        id of the last event that an earlier start printed: only what comes behind it is printed
 *   BATON_METHOD, BATON_PATH  default POST /v1/chat/completions; a pipeline: POST /v1/runs, GET /v1/runs/ID/events
 *   BATON_PAUSE_US    wait so long after each event: a slow reader, which is served all the same
 *   BATON_GIVE_UP_MS  ms without the controller after which to give up
 *
 * Every event is printed as `ID<tab>JSON`. If the controller is killed and started again in the middle, nothing is to
 * be done here: the library asks it for the rest. Only when this program itself is ended does it need BATON_KEY and
 * BATON_LAST to go on.
 */
#include <baton.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long number(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : otherwise;
}

/* 0: the answer is complete and good. */
static int print_answer(struct baton_call *call)
{
    struct baton_event e;
    struct baton_err err;
    useconds_t pause_us = (useconds_t)number("BATON_PAUSE_US", 0);
    int status = 0;

    while (baton_next(call, -1, &e, &err) == 0) {
        switch (e.kind) {
        case BATON_EVENT:
            printf("%s\t%s\n", e.id, e.data);
            fflush(stdout);
            if (pause_us)
                usleep(pause_us);
            break;
        case BATON_REPLY: /* no stream: an error, or what was asked without "stream":true */
            printf("%s\n", e.data);
            status = e.status >= 400;
            break;
        case BATON_END: return status;
        }
    }
    fprintf(stderr, "stream: %s\n", err.text);
    return 1;
}

int main(int argc, char **argv)
{
    struct baton *b = NULL;
    struct baton_call *call = NULL;
    struct baton_err err;

    if (argc < 2) {
        fprintf(stderr, "usage: stream ENDPOINT [JSON]\n");
        return 2;
    }
    struct baton_opts opts = {.endpoint = argv[1],
                              .server_key = getenv("BATON_SERVER_KEY"),
                              .api_key = getenv("BATON_API_KEY"),
                              .give_up_ms = number("BATON_GIVE_UP_MS", 0)};
    const char *path = getenv("BATON_PATH");
    struct baton_request request = {.method = getenv("BATON_METHOD"),
                                    .path = path ? path : "/v1/chat/completions",
                                    .body = argc > 2 ? argv[2] : NULL,
                                    .key = getenv("BATON_KEY"),
                                    .last_event_id = getenv("BATON_LAST")};

    if (baton_open(&opts, &b, &err) || baton_call(b, &request, &call, &err)) {
        fprintf(stderr, "stream: %s\n", err.text);
        baton_close(&b);
        return 1;
    }
    int status = print_answer(call);
    baton_call_close(&call);
    baton_close(&b);
    return status;
}
